"""Limits of a plan, why a layer got its precision, and that a mixed network computes what it should."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, samples, small
from numpy.typing import NDArray

from ncnnkit.comparison import accuracy
from ncnnkit.device.session import probe
from ncnnkit.errors import RecipeError
from ncnnkit.model.graph import Graph
from ncnnkit.model.ops import Mask
from ncnnkit.model.precision import INT8, MASKS
from ncnnkit.plan.costs import Costs, blob_shapes, measure_costs, predict, uniform
from ncnnkit.plan.search import (
    Limit,
    MixedPlan,
    chosen_layer,
    explain,
    find_plan,
    float_choices,
    for_winograd,
    make_edges,
    make_options,
    mixed_graph,
    parse_limit,
    run_graphs,
    sensitivity,
)
from ncnnkit.plan.solve import Option, total
from ncnnkit.quantization import apply_table, make_table
from ncnnkit.quantization.calibration import calibrate

Array = NDArray[Any]


GROUPED = """
    Convolution          c0 1 1 in0 b0 0=16 1=1 5=1 6=64 9=1
    ConvolutionDepthWise g  1 1 b0 b1 0=16 1=3 4=1 5=1 6=1152 7=2 9=1
    Convolution          c1 1 1 b1 out0 0=8 1=1 6=128
"""


def silent(step: str, done: int, of: int) -> None:
    """Tells nobody."""


def int8_twin(graph: Graph, inputs: Array, method: str = "mse") -> Graph:
    stats = calibrate(graph, [inputs], method=method, threads=1)
    return apply_table(graph, make_table(graph, stats), target="x86", finish=False)


def by_hand(graph: Graph) -> Costs:
    """8 ms in fp32, 4 in bf16, 2 in int8, 0.5 less at each end that is int8; 0.25 for each conversion.

    Depthwise layers read and make fp32 even in bf16, as on x86.
    """
    layers, kinds = {}, {}
    for layer in graph.layers:
        if not layer.op.computes:
            continue
        for choice, ms in (("fp32", 8.0), ("bf16", 4.0)):
            layers[layer.name, choice, False, False] = ms
            bf16 = choice == "bf16" and layer.type != "ConvolutionDepthWise"
            kinds[layer.name, choice] = "bf16" if bf16 else "float"
        if layer.op.int8 is not None:
            sides = (False, True) if layer.type in ("Convolution", "ConvolutionDepthWise") else (False,)
            layers.update({(layer.name, "int8", i, o): 2.0 - 0.5 * i - 0.5 * o for i in sides for o in sides})
            kinds[layer.name, "int8"] = "float"
    ways = (("bf16", "float"), ("float", "bf16"))
    conversions = {(root, *way): 0.25 for root in graph.uses().roots for way in ways}
    free = frozenset(layer.name for layer in graph.layers if not layer.op.computes)
    return Costs(layers, conversions, kinds, kinds, free)


# ---------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("cosine>=0.999", Limit("cosine", 0.999), "cosine ≥ 0.999"),
        (" sqnr >= 30 ", Limit("sqnr", 30), "SQNR ≥ 30 dB"),
        ("sqnr>=-3", Limit("sqnr", -3), "SQNR ≥ -3 dB"),
        ("mse<=1e-4", Limit("mse", 1e-4), "MSE ≤ 0.0001"),
        ("mse<=0", Limit("mse", 0), "MSE ≤ 0"),
        ("top1_drop<=0.5%", Limit("top1_drop", 0.005), "top-1 changes in at most 0.50%"),
        ("top1_drop<=0.01", Limit("top1_drop", 0.01), "top-1 changes in at most 1.00%"),
    ],
)
def test_limits_as_they_are_written(text: str, expected: Limit, said: str) -> None:
    found = parse_limit(text)
    assert found.figure == expected.figure
    assert found.value == pytest.approx(expected.value)
    assert str(found) == said


@pytest.mark.parametrize(
    "text",
    ["", "cosine", "cosine<=0.9", "mse>=1", "sqnr>=", "sqnr>=1.2.3", "sqnr>=30%", "cosine>=0.99%", "psnr>=3", "mse<=-1",
     "cosine>=1", "cosine>=1.5", "mse<=1e999", "sqnr>=e", "mse<=--1", "top1_drop<=-1%", "cosine>=0.9 and more"],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"no limit of an error|cannot be kept to"):
        parse_limit(text)


def test_a_latency_goes_before_an_error() -> None:
    for text in ("20ms", "20", " 20.0 ms ", "20."):
        assert parse_limit("sqnr>=30", text) == Limit("latency", 20.0)
    assert str(parse_limit("", "0.5ms")) == "latency ≤ 0.5 ms"


@pytest.mark.parametrize("text", ["0", "0ms", "-1ms", "ms", ".", "1.2.3ms", "20s", "fast", "1e3ms"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is no latency"):
        parse_limit("sqnr>=30", text)


@given(st.sampled_from(["cosine", "sqnr", "mse"]), st.floats(1e-4, 0.1), st.floats(0.2, 5), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_the_excess_is_the_noise_power_over_the_allowed(figure: str, noise: float, times: float, seed: int) -> None:
    reference = np.random.default_rng(seed).standard_normal((4, 50)).astype(np.float32)
    error = np.random.default_rng(seed + 1).standard_normal((4, 50))
    error -= reference * np.sum(error * reference, axis=1, keepdims=True) / np.sum(reference**2, axis=1, keepdims=True)
    outputs = (reference + noise * error).astype(np.float32)
    found = {
        "cosine": accuracy.cosine(outputs, reference),
        "sqnr": accuracy.sqnr_db(outputs, reference) or 0.0,
        "mse": accuracy.mse(outputs, reference),
    }[figure]
    same = Limit(figure, found)
    assert same.excess([outputs], [reference]) == pytest.approx(1, rel=1e-6)
    louder = (reference + noise * math.sqrt(times) * error).astype(np.float32)
    assert same.excess([louder], [reference]) == pytest.approx(times, rel=0.05)
    if abs(times - 1) > 0.1:
        assert same.holds([louder], [reference]) == (times < 1)


def test_the_worst_output_decides() -> None:
    reference = samples(3, (10,))
    good, bad = reference * np.float32(1.001), reference * np.float32(1.5)
    for limit in (Limit("mse", 0.01), Limit("sqnr", 20)):
        assert limit.holds([good, good], [reference, reference])
        assert not limit.holds([good, bad], [reference, reference])
        worst = limit.excess([bad], [reference])
        assert limit.excess([good, bad], [reference, reference]) == pytest.approx(worst)


def test_equal_outputs_keep_to_everything() -> None:
    reference = [samples(3, (10,)), np.zeros((3, 4), np.float32)]
    for limit in (Limit("cosine", 0.9999999), Limit("sqnr", 200), Limit("mse", 0), Limit("top1_drop", 0)):
        assert limit.excess(reference, reference) == pytest.approx(0, abs=1e-6)
        assert limit.holds(reference, reference)
    off = [reference[0], reference[1] + 1]
    assert Limit("sqnr", 20).excess(off, reference) == math.inf
    assert Limit("mse", 0).excess(off, reference) == math.inf


def test_changed_classes_count() -> None:
    reference = np.eye(10, dtype=np.float32)
    outputs = reference.copy()
    outputs[0] = np.eye(10)[3]  # one in ten
    assert Limit("top1_drop", 0.1).holds([outputs], [reference])
    assert not Limit("top1_drop", 0.05).holds([outputs], [reference])
    # The share grows as the noise's size: twice too many is four times the power.
    assert Limit("top1_drop", 0.05).excess([outputs], [reference]) == pytest.approx(4)


def test_a_latency_is_not_for_outputs_to_tell() -> None:
    assert Limit("latency", 1.0).holds([samples(1, (3,))], [samples(1, (3,), seed=1)])


# --------------------------------------------------------------------------------------------------------- explained


def plan_of(options: list[Option], choice: str, whole: float = 1.0) -> MixedPlan:
    return MixedPlan(Graph(), {"c": choice}, {"c": options}, 1.0, whole, whole, True)


def test_why_a_layer_got_its_precision() -> None:
    fp32, bf16, int8 = Option("fp32", 3.0, 0.0), Option("bf16", 2.0, 0.01), Option("int8", 1.0, 0.2)
    every = [fp32, bf16, int8]
    assert explain("c", plan_of([fp32], "fp32")) == "fp32: there is no other"
    assert explain("c", plan_of(every, "int8")) == (
        "int8 is the fastest here (1.000 ms; bf16 2.000) and adds 20.0% of the error"
    )
    text = explain("c", plan_of(every, "bf16", 0.5))
    assert "int8 would save 1.000 ms alone and add 38.0% to the plan's error" in text
    text = explain("c", plan_of([fp32, Option("bf16", 2.0, 0.0)], "fp32"))
    assert "bf16 is 1.000 ms faster alone, but its neighbours would" in text
    for choice in ("fp32", "bf16", "int8"):
        assert explain("c", plan_of(every, choice, 0.0)), "an exact plan is explained as well"


# --------------------------------------------------------------------------------------------------------- the layers


def test_a_choice_sets_the_mask_and_nothing_else() -> None:
    graph = small()
    twin = int8_twin(graph, samples(4))
    for name in ("c1", "d1", "c3", "add", "fc"):
        original, int8 = graph.layer(name), twin.layer(name)
        for choice in ("fp32", "fp16", "bf16"):
            made = chosen_layer(original, int8, choice)
            assert made.get("featmask") == MASKS[choice]
            assert not made.params.get("int8_scale_term")
            assert made.weights == original.weights
    made = chosen_layer(graph.layer("c2"), twin.layer("c2"), "int8")
    assert made.params["int8_scale_term"] == 2
    assert made.get("featmask") & MASKS["int8"] == MASKS["int8"]
    assert chosen_layer(graph.layers[0], twin.layers[0], "") == graph.layers[0]
    assert graph == small()


WIDE = "Input in0 0 1 in0 0=8 1=8 2={0}\nConvolution c 1 1 in0 out0 0=8 1=3 4=1 5=1 6={1}"


def test_winograd_has_weights_it_can_add_up() -> None:
    """Many channels: 8-bit weights may overflow its kernels, so they get 6 bits, rounded from the original's."""
    graph = network(WIDE.format(128, 128 * 72))
    inputs = samples(4, (128, 8, 8))
    twin = int8_twin(graph, inputs)
    before = {key: np.copy(np.asarray(weight)) for key, weight in twin.layer("c").weights.items()}
    made = chosen_layer(graph.layer("c"), twin.layer("c"), "int8-winograd")
    assert int(np.abs(made.array("weight")).max()) == 31
    assert np.asarray(made.weights["weight"]).dtype == np.int8
    assert not made.get("featmask") & Mask.NO_WINOGRAD
    real = made.array("weight").reshape(8, -1) / made.array("weight_scales")[:, None]
    exact = graph.layer("c").array("weight").reshape(8, -1)
    assert np.abs(real - exact).max() <= 0.51 / made.array("weight_scales").min()
    assert all(np.array_equal(np.asarray(twin.layer("c").weights[key]), weight) for key, weight in before.items())
    plain = chosen_layer(graph.layer("c"), twin.layer("c"), "int8")
    assert int(np.abs(plain.array("weight")).max()) == 127
    assert plain.get("featmask") & Mask.NO_WINOGRAD
    (expected,) = run_graphs([graph], [inputs])[0]
    for layer, least in ((made, 20), (plain, 30)):
        (found,) = run_graphs([Graph([graph.layers[0], layer])], [inputs], "mixed")[0]
        assert (accuracy.sqnr_db(found, expected) or 0) > least


def test_weights_that_are_six_bits_already_stay() -> None:
    graph = small()
    twin = int8_twin(graph, samples(4), "kl")
    made = chosen_layer(graph.layer("c3"), twin.layer("c3"), "int8-winograd")
    assert np.array_equal(made.array("weight"), twin.layer("c3").array("weight"))
    assert np.array_equal(made.array("weight_scales"), twin.layer("c3").array("weight_scales"))
    assert for_winograd(graph.layer("c2"), twin.layer("c2")) is None, "1x1"


# ------------------------------------------------------------------------------------------------------ mixed networks


class Setting:
    """The small network, its int8 twin, measured costs, and what fp32 computes."""

    def __init__(self) -> None:
        self.exact = small()
        self.inputs = samples(6)
        self.fitted = int8_twin(self.exact, self.inputs)
        self.choices = (*float_choices(probe()), *INT8)
        shapes = blob_shapes(self.exact)
        self.costs = measure_costs(self.exact, self.fitted, shapes, self.choices, rounds=2, seconds=0.0)
        (self.reference,) = run_graphs([self.exact], [self.inputs])[0]

    def graph(self, choices: Mapping[str, str]) -> Graph:
        return mixed_graph(self.exact, self.fitted, choices, self.costs)

    def draw(self, seed: int) -> dict[str, str]:
        rng = np.random.default_rng(seed)
        layers = [layer.name for layer in self.exact.layers if self.costs.choices(layer.name)]
        return {name: str(rng.choice(self.costs.choices(name))) for name in layers}


@pytest.fixture(scope="module")
def mixed() -> Setting:
    return Setting()


def test_mixed_networks_compute_what_fp32_does(mixed: Setting) -> None:
    plans = [uniform(mixed.exact, mixed.costs, choice) for choice in mixed.choices]
    plans += [mixed.draw(seed) for seed in range(40)]
    found = run_graphs([mixed.graph(plan) for plan in plans], [mixed.inputs], "mixed")
    for plan, (outputs,) in zip(plans, found):
        kinds = set(plan.values())
        least = 22 if kinds & set(INT8) else 35 if kinds != {"fp32"} else 100
        error = accuracy.sqnr_db(outputs, mixed.reference)
        assert error is None or error > least, (plan, error)


def test_the_fp32_plan_is_the_network_but_for_masks(mixed: Setting) -> None:
    made = mixed.graph(uniform(mixed.exact, mixed.costs, "fp32"))
    assert [layer.type for layer in made.layers] == [layer.type for layer in mixed.exact.layers]
    assert all(layer.get("featmask") == MASKS["fp32"] for layer in made.layers if layer.type != "Input")
    assert all(made.layer(la.name).weights == la.weights for la in mixed.exact.layers)


def test_casts_stand_where_a_reader_may_not_use_the_format() -> None:
    graph, inputs = small(), samples(2)
    fitted = int8_twin(graph, inputs)
    plan = dict.fromkeys(("c1", "c2", "add", "fc"), "bf16") | {"d1": "bf16", "c3": "fp32", "gap": "fp32"}
    made = mixed_graph(graph, fitted, plan, by_hand(graph))
    casts = {la.name: la for la in made.layers if la.type == "Cast"}
    # c1 hands bf16 to d1, which reads fp32; c2 through the Split to c3, and to add, which takes it; add to gap.
    assert set(casts) == {"d1/cast0", "c3/cast0", "gap/cast0"}
    for cast in casts.values():
        assert (cast.get("type_from"), cast.get("type_to")) == (4, 1)
        assert cast.get("featmask") == MASKS["fp32"]
    assert made.layer("c3").inputs == casts["c3/cast0"].outputs
    assert casts["c3/cast0"].inputs == ["b3a"]
    assert made.layer("add").inputs == ["b4", "b3b"]
    assert graph.layer("c3").inputs == ["b3a"], "the given graph is not changed"


@pytest.mark.parametrize(("maker", "mask"), [("bf16", "bf16"), ("fp32", "fp32"), ("int8", "fp32")])
def test_a_split_is_masked_as_what_it_copies(maker: str, mask: str) -> None:
    graph = small()
    plan = dict.fromkeys(("c1", "d1", "c2", "c3", "add", "gap", "fc"), "fp32") | {"c2": maker}
    made = mixed_graph(graph, int8_twin(graph, samples(2)), plan, by_hand(graph))
    assert made.layer("s1").get("featmask") == MASKS[mask]
    assert sum(layer.type == "Cast" for layer in made.layers) == (2 if maker == "bf16" else 0)


def test_int8_is_handed_on_between_int8_layers_only(mixed: Setting) -> None:
    plan = uniform(mixed.exact, mixed.costs, "int8")
    terms = {la.name: la.params.get("int8_scale_term", 0) for la in mixed.graph(plan).layers}
    assert {name: term for name, term in terms.items() if term} == {"c1": 102, "d1": 101, "c2": 2, "c3": 2, "fc": 2}
    made = mixed.graph(plan | {"d1": "fp32"})
    terms = {la.name: la.params.get("int8_scale_term", 0) for la in made.layers}
    assert {name: term for name, term in terms.items() if term} == {"c1": 2, "c2": 2, "c3": 2, "fc": 2}
    assert "output_scale" not in made.layer("c1").weights


def test_halves_are_stored_where_halves_are_computed(mixed: Setting) -> None:
    made = mixed.graph(uniform(mixed.exact, mixed.costs, "fp32") | {"c2": "bf16"})
    storage = {la.name: np.asarray(la.weights["weight"]).dtype for la in made.layers if "weight" in la.weights}
    assert {name for name, dtype in storage.items() if dtype == np.float16} == {"c2"}


def test_options_and_edges_add_up_to_the_prediction() -> None:
    graph = small()
    costs = by_hand(graph)
    names = [la.name for la in graph.layers if costs.choices(la.name)]
    errors = {(name, "int8"): 1.0 for name in ("c1", "d1", "c2", "c3", "fc")}
    options = make_options(graph, costs, errors, {"fp32": 0.0, "bf16": 0.5, "int8": 10.0})
    edges = make_edges(graph, costs)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        plan = {name: str(rng.choice(costs.choices(name))) for name in names}
        assert total(options, edges, plan).ms == pytest.approx(predict(graph, costs, plan)), plan
    for choice, whole in (("fp32", 0.0), ("bf16", 0.5)):
        assert total(options, edges, dict.fromkeys(names, choice)).error == pytest.approx(whole)
    assert total(options, edges, uniform(graph, costs, "int8")).error == pytest.approx(10.0)


def test_each_layer_alone_has_an_error(mixed: Setting) -> None:
    errors = sensitivity(mixed.exact, mixed.fitted, [mixed.inputs], silent)
    assert {name for name, choice in errors if choice == "int8"} == {"c1", "d1", "c2", "c3", "fc"}
    assert {name for name, choice in errors if choice == "int8-winograd"} == {"c1", "c3"}
    signal = float(np.mean(mixed.reference**2))
    assert all(0 < error < 0.01 * signal for error in errors.values())


def test_a_grouped_layer_alone_does_not_spoil_the_errors() -> None:
    """It hands on int8, which the floating-point layer behind it cannot read: it has no error alone."""
    graph, inputs = network(GROUPED), samples(4, (4, 5, 6))
    fitted = int8_twin(graph, inputs)
    assert fitted.layer("g").params["int8_scale_term"] == 101
    signal = float(np.mean(run_graphs([graph], [inputs])[0][0] ** 2))
    errors = sensitivity(graph, fitted, [inputs], silent)
    assert {"c0", "c1"} <= {name for name, _ in errors}
    assert all(error < 0.01 * signal for error in errors.values()), errors


@pytest.mark.parametrize("limit", [Limit("sqnr", 30), Limit("latency", 1000.0)])
def test_a_plan_keeps_to_its_limit(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncnnkit.plan import search

    monkeypatch.setattr(search, "FRONT_POINTS", 4)
    monkeypatch.setattr(search, "time_graphs", lambda graphs, *_, **__: dict.fromkeys(graphs, 1.0))
    monkeypatch.setattr(search, "measure_costs", lambda *args: measure_costs(*args, rounds=1, seconds=0.0))
    graph, inputs = small(), samples(5)
    fitted = int8_twin(graph, inputs)
    plan = find_plan(graph, fitted, [inputs], limit, probe(), threads=1)
    assert plan.holds
    outputs, reference = (run_graphs([g], [inputs], p)[0] for g, p in ((plan.graph, "mixed"), (graph, "fp32")))
    assert limit.holds(outputs, reference)
    assert plan.measured_error == pytest.approx(accuracy.mse(outputs[0], reference[0]), rel=1e-5, abs=1e-12)
    for name, choice in plan.choices.items():
        assert choice in [option.choice for option in plan.options[name]]
        assert explain(name, plan).startswith(choice)
    assert [p.ms for p in plan.front] == sorted(p.ms for p in plan.front)
    assert [p.error for p in plan.front] == sorted((p.error for p in plan.front), reverse=True)
