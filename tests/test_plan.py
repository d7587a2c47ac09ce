"""The mixed model: the forms of its layers, its outputs, and its requirements."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from conftest import BOARD
from hypothesis import given
from hypothesis import strategies as st
from networks import network, samples, small
from numpy.typing import NDArray
from test_schema import as_run, sample_run

from ncnnkit.comparison import accuracy
from ncnnkit.comparison.accuracy import Errors
from ncnnkit.comparison.judge import Judge
from ncnnkit.device import LOCAL, open_device
from ncnnkit.device.looking import look_at
from ncnnkit.device.serving import CheckedChild
from ncnnkit.device.session import Session
from ncnnkit.device.sites import Site
from ncnnkit.errors import RuntimeFailure
from ncnnkit.formatting import plain
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ops import Mask
from ncnnkit.model.precision import INT8, MASKS
from ncnnkit.model.work import Budget
from ncnnkit.plan import search, sensitivity
from ncnnkit.plan.build import Forms, make_forms, mean_windows, mixed_graph
from ncnnkit.plan.costs import Costs, predict, uniform
from ncnnkit.plan.mixed import MixedPlan
from ncnnkit.plan.options import make_edges, make_options
from ncnnkit.plan.requirement import Requirements
from ncnnkit.plan.search import _Bracket, _Tried, allowed_noise, find_plan, float_choices
from ncnnkit.plan.sensitivity import float_errors, int8_errors
from ncnnkit.plan.solve import Assignment, Option, total
from ncnnkit.plan.timing import blob_shapes, measure_costs, time_graphs, without_broken
from ncnnkit.quantization import Quantized, apply_table, make_table
from ncnnkit.quantization.calibration import calibrate
from ncnnkit.quantization.scales import weight_scales
from ncnnkit.quantization.table import Table
from ncnnkit.samples.stream import ArraySamples
from ncnnkit.tasks.classification import Classification

Array = NDArray[Any]


GROUPED = """
    Convolution          c0 1 1 in0 b0 0=16 1=1 5=1 6=64 9=1
    ConvolutionDepthWise g  1 1 b0 b1 0=16 1=3 4=1 5=1 6=1152 7=2 9=1
    Convolution          c1 1 1 b1 out0 0=8 1=1 6=128
"""


def int8_twin(graph: Graph, inputs: Array, method: str = "mse") -> Graph:
    stats = calibrate(graph, [inputs], method=method, threads=1)
    return apply_table(graph, make_table(graph, stats), target="x86", finish=False)


def by_hand(graph: Graph) -> Costs:
    """Costs: 8 ms in fp32, 4 in bf16, 2 in int8, 0.5 less at each end that is int8, and 0.25 for each conversion.

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


def forms_of(exact: Graph, fitted: Graph, inputs: Array) -> Forms:
    return make_forms(exact, fitted, ArraySamples((inputs,)))


def quantized_of(exact: Graph, fitted: Graph, inputs: Array) -> Quantized:
    given = ArraySamples((inputs,))
    return Quantized(exact, fitted, exact, fitted, given, given, given)


def outputs_of(graph: Graph, inputs: Array) -> Array:
    """The first output, at the precision that the graph is made for."""
    with Session(graph, threads=1) as session:
        return np.stack([session.blobs(sample, names=session.outputs[:1])[0] for sample in inputs])


# --------------------------------------------------------------------------------------------------------- explained


def plan_of(options: list[Option], choice: str, whole: float = 1.0) -> MixedPlan:
    return MixedPlan(Graph(), {"c": choice}, {"c": options}, 1.0, whole, Errors(Classification()))


def test_why_a_layer_got_its_precision() -> None:
    fp32, bf16, int8 = Option("fp32", 3.0, 0.0), Option("bf16", 2.0, 0.01), Option("int8", 1.0, 0.2)
    every = [fp32, bf16, int8]
    assert plan_of([fp32], "fp32").why("c") == "fp32 is the only option"
    assert plan_of(every, "int8").why("c") == (
        "int8 is the fastest option (1.00 ms; bf16 2.00) and adds 20.0% of the noise"
    )
    text = plan_of(every, "bf16", 0.5).why("c")
    assert "int8 would save 1.00 ms alone and add 38.0% to the noise" in text
    text = plan_of([replace(bf16, error=1e-5), Option("int8", 1e-4, 1e-3)], "bf16", 1e-5).why("c")
    assert "int8 would save 2.00 ms alone and make 100 times the noise" in text
    text = plan_of([fp32, Option("bf16", 2.0, 0.0)], "fp32").why("c")
    assert "bf16 is 1.00 ms faster alone, but conversions at its neighbours" in text
    for choice in ("fp32", "bf16", "int8"):
        assert "inf" not in plan_of(every, choice, 0.0).why("c"), "an exact plan is explained as well"
    text = plan_of(every, "fp32", 0.0).why("c")
    assert text == "fp32: int8 would save 2.00 ms alone, but the model would no longer be as exact as fp32"
    text = plan_of([fp32, Option("fp16", 1.0, math.inf)], "fp32").why("c")
    assert text == "fp32: with fp16, outputs are not finite"


# --------------------------------------------------------------------------------------------------------- the layers


def test_a_choice_sets_the_mask_and_nothing_else() -> None:
    graph = small()
    twin = int8_twin(graph, samples(4))
    forms = forms_of(graph, twin, samples(2))
    for name in ("c1", "d1", "c3", "add", "fc"):
        original, int8 = graph.layer(name), twin.layer(name)
        for choice in ("fp32", "fp16", "bf16"):
            made = forms.layer(original, int8, choice)
            assert made.get("featmask") == MASKS[choice]
            assert not made.params.get("int8_scale_term")
            assert made.weights == original.weights
    made = forms.layer(graph.layer("c2"), twin.layer("c2"), "int8")
    assert made.params["int8_scale_term"] == 2
    assert made.get("featmask") & MASKS["int8"] == MASKS["int8"]
    assert forms.layer(graph.layers[0], twin.layers[0], "") == graph.layers[0]
    assert graph == small()


WIDE = "Input in0 0 1 in0 0=8 1=8 2={0}\nConvolution c 1 1 in0 out0 0=8 1=3 4=1 5=1 6={1}"


def test_winograd_weights_cannot_overflow() -> None:
    """With many channels, 8-bit weights may overflow its kernels, so the original's weights are rounded to 6 bits."""
    graph = network(WIDE.format(128, 128 * 72))
    inputs = samples(4, (128, 8, 8))
    twin = int8_twin(graph, inputs)
    forms = forms_of(graph, twin, inputs)
    before = {key: np.copy(np.asarray(weight)) for key, weight in twin.layer("c").weights.items()}
    made = forms.layer(graph.layer("c"), twin.layer("c"), "int8-winograd")
    assert int(np.abs(made.array("weight")).max()) == 31
    assert np.asarray(made.weights["weight"]).dtype == np.int8
    assert not made.get("featmask") & Mask.NO_WINOGRAD
    real = made.array("weight").reshape(8, -1) / made.array("weight_scales")[:, None]
    exact = graph.layer("c").array("weight").reshape(8, -1)
    assert np.abs(real - exact).max() <= 0.51 / made.array("weight_scales").min()
    assert all(np.array_equal(np.asarray(twin.layer("c").weights[key]), weight) for key, weight in before.items())
    plain = forms.layer(graph.layer("c"), twin.layer("c"), "int8")
    assert int(np.abs(plain.array("weight")).max()) == 127
    assert plain.get("featmask") & Mask.NO_WINOGRAD
    expected = outputs_of(graph, inputs)
    for layer, least in ((made, 20), (plain, 30)):
        found = outputs_of(Graph([graph.layers[0], layer]), inputs)
        assert (accuracy.sqnr_db(found, expected) or 0) > least


def test_six_bit_weights_get_their_own_bias() -> None:
    """The bias compensates the change of a channel's mean by 8-bit weights. 6-bit weights change the mean differently.

    The difference is largest if the mean is far from zero, because zero points moved it.
    """
    graph = network(WIDE.format(128, 128 * 72).replace("4=1", "4=0"))
    inputs = np.maximum(samples(6, (128, 8, 8)), 0) - np.float32(2)
    exact = graph.layer("c")
    table = Table({"c_param_0": weight_scales(exact)}, {"c": 127 / 2.0})
    fitted = apply_table(graph, table, target="x86", finish=False)
    layer, expected = fitted.layer("c"), outputs_of(graph, inputs)
    eight_bits = Graph([graph.layers[0], forms_of(graph, fitted, inputs).layer(exact, layer, "int8")])
    lost = (outputs_of(eight_bits, inputs) - expected).mean(axis=(0, 2, 3))
    layer.weights["bias"] = layer.array("bias") - lost if "bias" in layer.weights else -lost
    layer.params["bias_term"] = 1
    made = forms_of(graph, fitted, inputs).layer(exact, layer, "int8-winograd")
    assert int(np.abs(made.array("weight")).max()) == 31
    kept = made.copy()
    kept.weights["bias"] = layer.weights["bias"]

    def error(form: Layer) -> Array:
        return np.asarray(outputs_of(Graph([graph.layers[0], form]), inputs) - expected, np.float64)

    moved, levelled = error(made), error(kept)
    before = float(np.mean(levelled**2))
    levelled -= levelled.mean(axis=(0, 2, 3), keepdims=True)
    assert np.mean(moved**2) < 1.05 * np.mean(levelled**2)
    assert np.mean(moved**2) < before / 5


def test_the_mean_input_of_a_convolution() -> None:
    graph = network("Input in0 0 1 in0 0=4 1=3 2=1\nConvolution c 1 1 in0 out0 0=1 1=3 4=1 5=1 6=9 18=2.0")
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    mean = mean_windows(graph, ["c"], ArraySamples((np.stack([image, image + 1]),)))["c"]
    padded = np.pad(image[0] + 0.5, 1, constant_values=2.0)
    expected = [[padded[y : y + 3, x : x + 4].mean() for x in range(3)] for y in range(3)]
    assert np.allclose(mean[0], expected)


def test_weights_that_are_six_bits_already_stay() -> None:
    graph = small()
    twin = int8_twin(graph, samples(4), "kl")
    forms = forms_of(graph, twin, samples(2))
    made = forms.layer(graph.layer("c3"), twin.layer("c3"), "int8-winograd")
    assert np.array_equal(made.array("weight"), twin.layer("c3").array("weight"))
    assert np.array_equal(made.array("weight_scales"), twin.layer("c3").array("weight_scales"))
    assert set(forms.winograd) == {"c1", "c3"}, "c2 is 1x1"


# ------------------------------------------------------------------------------------------------------ mixed networks


class Setting:
    """The small network, its int8 version, measured costs, and the outputs of fp32."""

    def __init__(self) -> None:
        self.exact = small()
        self.inputs = samples(6)
        self.fitted = int8_twin(self.exact, self.inputs)
        self.choices = (*float_choices(look_at()), *INT8)
        shapes = blob_shapes(self.exact)
        self.costs = measure_costs(self.exact, self.fitted, shapes, self.choices, rounds=2, seconds=0.0)
        self.reference = outputs_of(self.exact, self.inputs)
        self.forms = forms_of(self.exact, self.fitted, self.inputs)

    def graph(self, choices: Mapping[str, str]) -> Graph:
        return mixed_graph(self.forms, choices, self.costs)

    def draw(self, seed: int) -> dict[str, str]:
        rng = np.random.default_rng(seed)
        layers = [layer.name for layer in self.exact.layers if self.costs.choices(layer.name)]
        return {name: str(rng.choice(self.costs.choices(name))) for name in layers}


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the front, which is only for the report."""
    monkeypatch.setattr(search, "FRONT_POINTS", 3)


@pytest.fixture(scope="module")
def mixed() -> Setting:
    return Setting()


def test_mixed_networks_compute_the_same_as_fp32(mixed: Setting) -> None:
    plans = [uniform(mixed.exact, mixed.costs, choice) for choice in mixed.choices]
    plans += [mixed.draw(seed) for seed in range(40)]
    with Judge(mixed.exact, ArraySamples((mixed.inputs,))) as judge:
        found = judge.here([mixed.graph(plan) for plan in plans], "mixed")
    for plan, errors in zip(plans, found):
        kinds = set(plan.values())
        least = 22 if kinds & set(INT8) else 35 if kinds != {"fp32"} else 100
        assert (errors.figures()["sqnr"] or 0) > least, plan


def test_the_fp32_plan_is_the_network_but_for_masks(mixed: Setting) -> None:
    made = mixed.graph(uniform(mixed.exact, mixed.costs, "fp32"))
    assert [layer.type for layer in made.layers] == [layer.type for layer in mixed.exact.layers]
    assert all(layer.get("featmask") == MASKS["fp32"] for layer in made.layers if layer.type != "Input")
    assert all(made.layer(la.name).weights == la.weights for la in mixed.exact.layers)


def test_casts_are_added_where_a_reader_may_not_read_the_format() -> None:
    graph, inputs = small(), samples(2)
    fitted = int8_twin(graph, inputs)
    plan = dict.fromkeys(("c1", "c2", "add", "fc"), "bf16") | {"d1": "bf16", "c3": "fp32", "gap": "fp32"}
    made = mixed_graph(forms_of(graph, fitted, inputs), plan, by_hand(graph))
    casts = {la.name: la for la in made.layers if la.type == "Cast"}
    # c1 outputs bf16 to d1, which reads fp32; c2 outputs it through the Split to c3, and to add, which reads bf16; then
    # gap.
    assert set(casts) == {"d1/cast", "c3/cast", "gap/cast"}
    for cast in casts.values():
        assert (cast.get("type_from"), cast.get("type_to")) == (4, 1)
        assert cast.get("featmask") == MASKS["fp32"]
    assert made.layer("c3").inputs == casts["c3/cast"].outputs
    assert casts["c3/cast"].inputs == ["b3a"]
    assert made.layer("add").inputs == ["b4", "b3b"]
    assert graph.layer("c3").inputs == ["b3a"], "the given graph is not changed"


@pytest.mark.parametrize(("maker", "mask"), [("bf16", "bf16"), ("fp32", "fp32"), ("int8", "fp32")])
def test_a_split_is_masked_as_what_it_copies(maker: str, mask: str) -> None:
    graph = small()
    plan = dict.fromkeys(("c1", "d1", "c2", "c3", "add", "gap", "fc"), "fp32") | {"c2": maker}
    made = mixed_graph(forms_of(graph, int8_twin(graph, samples(2)), samples(2)), plan, by_hand(graph))
    assert made.layer("s1").get("featmask") == MASKS[mask]
    assert sum(layer.type == "Cast" for layer in made.layers) == (2 if maker == "bf16" else 0)


def test_int8_is_only_passed_between_int8_layers(mixed: Setting) -> None:
    plan = uniform(mixed.exact, mixed.costs, "int8")
    terms = {la.name: la.params.get("int8_scale_term", 0) for la in mixed.graph(plan).layers}
    assert {name: term for name, term in terms.items() if term} == {"c1": 102, "d1": 101, "c2": 2, "c3": 2, "fc": 2}
    made = mixed.graph(plan | {"d1": "fp32"})
    terms = {la.name: la.params.get("int8_scale_term", 0) for la in made.layers}
    assert {name: term for name, term in terms.items() if term} == {"c1": 2, "c2": 2, "c3": 2, "fc": 2}
    assert "output_scale" not in made.layer("c1").weights


def test_fp16_is_stored_if_fp16_is_computed(mixed: Setting) -> None:
    made = mixed.graph(uniform(mixed.exact, mixed.costs, "fp32") | {"c2": "bf16"})
    storage = {la.name: np.asarray(la.weights["weight"]).dtype for la in made.layers if "weight" in la.weights}
    assert {name for name, dtype in storage.items() if dtype == np.float16} == {"c2"}


def test_options_and_edges_add_up_to_the_prediction() -> None:
    graph = small()
    costs = by_hand(graph)
    names = [la.name for la in graph.layers if costs.choices(la.name)]
    errors = {(name, "int8"): 1.0 for name in ("c1", "d1", "c2", "c3", "fc")}
    errors |= {(name, choice): 0.1 for name in names for choice in ("fp32", "bf16")}
    options = make_options(graph, costs, errors, 10.0)
    edges = make_edges(graph, costs)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        plan = {name: str(rng.choice(costs.choices(name))) for name in names}
        assert total(options, edges, plan).ms == pytest.approx(predict(graph, costs, plan)), plan
    assert total(options, edges, dict.fromkeys(names, "bf16")).error == pytest.approx(0.7)
    # add and gap have no int8
    assert total(options, edges, uniform(graph, costs, "int8")).error == pytest.approx(10.0 + 0.2)


# ------------------------------------------------------------------------------------------------------- the errors


def test_each_layer_alone_has_an_error(mixed: Setting) -> None:
    with Judge(mixed.exact, ArraySamples((mixed.inputs,))) as judge:
        errors = int8_errors(mixed.forms, judge)
    assert {name for name, choice in errors if choice == "int8"} == {"c1", "d1", "c2", "c3", "fc"}
    assert {name for name, choice in errors if choice == "int8-winograd"} == {"c1", "c3"}
    assert all(0 < error < 0.01 for error in errors.values())


def test_neighbours_of_a_heavy_network_are_measured_together(mixed: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured layer by layer, a network of 150 GMAC would take hours."""
    monkeypatch.setattr(sensitivity, "LEAST_GROUPS", 3)
    with Judge(mixed.exact, ArraySamples((mixed.inputs,))) as judge:
        alone = int8_errors(mixed.forms, judge)
        steps: list[int] = []
        together = int8_errors(mixed.forms, judge, lambda done, total: steps.append(total), budget=Budget(0))
    assert set(steps) == {3}  # three and two groups of int8, and both of Winograd
    assert together.keys() == alone.keys()
    first = [together[name, "int8"] for name in ("c1", "d1", "c2")]
    assert len(set(first)) == 1
    assert sum(first) == pytest.approx(sum(alone[name, "int8"] for name in ("c1", "d1", "c2")), rel=0.5)


def test_the_last_plan_is_fp32_also_where_no_noise_was_measured(mixed: Setting) -> None:
    """A sum has no int8, and so no measured noise. In bf16 it seems as exact as in fp32, but is faster."""
    plan = find_plan(
        quantized_of(mixed.exact, mixed.fitted, mixed.inputs), Requirements.parse(["sqnr>=300"]), look_at(), threads=1,
        timing=Given(by_hand(mixed.exact)),
    )  # fmt: skip
    assert set(plan.choices.values()) == {"fp32"}
    assert plan.holds


def test_a_grouped_layer_alone_does_not_spoil_the_errors() -> None:
    """It outputs int8, which the floating-point layer after it cannot read, so it has no error of its own."""
    graph, inputs = network(GROUPED), samples(4, (4, 5, 6))
    fitted = int8_twin(graph, inputs)
    assert fitted.layer("g").params["int8_scale_term"] == 101
    with Judge(graph, ArraySamples((inputs,))) as judge:
        errors = int8_errors(forms_of(graph, fitted, inputs), judge)
    assert {"c0", "c1"} <= {name for name, _ in errors}
    assert all(error < 0.01 for error in errors.values()), errors


TWO_OUTPUTS = """
    Input       in0   0 1 in0 0=16 1=16 2=3
    Split       s     1 2 in0 a b
    Convolution large 1 1 a out0 0=8 1=3 4=1 5=1 6=216 9=1
    Convolution small 1 1 b out1 0=8 1=3 4=1 5=1 6=216 9=4
"""


def two_outputs() -> Graph:
    """One output of 0 to about 320, and one of 0 to 1 (a sigmoid)."""
    graph = network(TWO_OUTPUTS)
    large = graph.layer("large")
    large.weights = {name: large.array(name) * np.float32(100) for name in large.weights}
    return graph


def test_each_output_counts_relative_to_its_own_signal() -> None:
    """With plain squared errors, only the output of large values would count: its error is a hundred thousand times
    larger.
    """
    graph, inputs = two_outputs(), samples(5)
    assert 100 < outputs_of(graph, inputs).max() < 1000
    with Judge(graph, ArraySamples((inputs,))) as judge:
        forms = forms_of(graph, int8_twin(graph, inputs), inputs)
        errors = int8_errors(forms, judge)
    assert 0.02 < errors["large", "int8"] / errors["small", "int8"] < 50


# ------------------------------------------------------------------------------------------------------ whole plans


def searched(holds_up_to: float, first: float, most: int = 5) -> list[float]:
    """The noises that are tried, if every noise above 1 fails by its ratio to 1."""
    bracket, noise, noises = _Bracket(), first, list[float]()
    while len(noises) <= most and not bracket.settled:
        noises.append(noise)
        found = Assignment({}, ms=1 / noise, error=noise)
        bracket.add(_Tried(found, Graph(), Errors(), noise, noise / holds_up_to), holds=noise <= holds_up_to)
        noise = math.nan if bracket.settled else bracket.next()
    assert not bracket.holds or bracket.best.found.error == max(n for n in noises if n <= holds_up_to)
    return noises


def test_the_noise_is_bracketed_between_success_and_failure() -> None:
    assert searched(1.0, first=0.5) == [0.5], "the first holds"
    noises = searched(1.0, first=100.0)
    assert noises[:2] == [100.0, pytest.approx(0.81)]
    assert noises[2] == pytest.approx(9.0)
    assert noises[3] == pytest.approx(2.7)
    assert noises[4] == pytest.approx(1.479, rel=1e-3)
    assert noises[5] == pytest.approx(1.095, rel=1e-3)
    assert len(noises) == 6


class Given:
    """Times that a test gives. Every network takes 1 ms."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    def layers(self, *_: Any) -> Costs:
        return self.costs

    def networks(self, graphs: Mapping[str, Graph], sample: Sequence[Array]) -> dict[str, float]:
        return dict.fromkeys(graphs, 1.0)


@pytest.mark.parametrize(
    ("require", "latency"), [(["sqnr>=30"], ""), (["sqnr>=60", "cosine>=0.9"], ""), ([], "1000ms")]
)
def test_a_plan_satisfies_its_requirements(mixed: Setting, require: list[str], latency: str) -> None:
    requirements = Requirements.parse(require, latency)
    quantized = quantized_of(mixed.exact, mixed.fitted, mixed.inputs)
    plan = find_plan(quantized, requirements, look_at(), threads=1, timing=Given(mixed.costs))
    assert plan.holds
    outputs = outputs_of(plan.graph, mixed.inputs)
    found = accuracy.sqnr_db(outputs, mixed.reference)
    assert plan.errors.figures()["sqnr"] == (math.inf if found is None else pytest.approx(found, rel=1e-4))
    for requirement in requirements.figures:
        assert requirement.holds(plan.errors.figures()[requirement.figure.name])
    for name, choice in plan.choices.items():
        assert choice in [option.choice for option in plan.options[name]]
        assert plan.why(name).startswith(choice)
    assert [p.ms for p in plan.front] == sorted(p.ms for p in plan.front)
    noise = [p.noise for p in plan.front if p.noise is not None]
    assert noise == sorted(noise, reverse=True)
    assert len(noise) == len(plan.front)
    assert not any(p.ms < plan.predicted_ms and noise < plan.predicted_noise for p, noise in zip(plan.front, noise))


def test_a_record_of_a_plan_has_one_speed(mixed: Setting) -> None:
    """If the machine is three times as slow as while planning, every predicted time is three times as long."""
    quantized = quantized_of(mixed.exact, mixed.fitted, mixed.inputs)
    requirements = Requirements.parse(["sqnr>=30"])
    plan = find_plan(quantized, requirements, look_at(), threads=1, timing=Given(mixed.costs))
    fp32 = as_run(sample_run()).variants[0]
    assert (fp32.name, plan.uniform_ms["fp32"]) == ("fp32-cpu", 1.0)
    assert fp32.latency_ms
    slow = replace(fp32, latency_ms=replace(fp32.latency_ms, median=3.0))
    found = plan.record(requirements, Site(LOCAL, look_at(), "x86"), [slow])
    assert found.predicted_ms == pytest.approx(3 * plan.predicted_ms)
    assert [point.ms for point in found.front] == pytest.approx([3 * point.ms for point in plan.front])
    assert not any(p.ms < found.predicted_ms and (p.noise or 0) < plan.predicted_noise for p in found.front)
    for layer in found.layers:
        times = {option.choice: option.ms for option in layer.options}
        assert times == pytest.approx({option.choice: 3 * option.ms for option in plan.options[layer.name]})
        if "is the fastest option" in layer.why:
            assert f"({plain(times[layer.choice])} ms;" in layer.why


def test_a_plan_that_cannot_satisfy_its_requirements_gives_reasons(mixed: Setting) -> None:
    quantized = quantized_of(mixed.exact, mixed.fitted, mixed.inputs)
    slow = Requirements.parse(["sqnr>=300"], "0.000001ms")
    plan = find_plan(quantized, slow, look_at(), threads=1, timing=Given(mixed.costs))
    assert not plan.holds
    *noise, latency = plan.unmet
    assert latency.endswith("above 1e-06 ms")
    # If the fastest plan is the exact one, as with kernels that are wrong below fp32, its SQNR is not reported.
    assert len(noise) == int(plan.errors.relative > 0)
    assert all(reason.startswith("SQNR ") for reason in noise)


def test_a_plan_keeps_every_output_correct() -> None:
    graph, inputs = two_outputs(), samples(5)
    requirements = Requirements.parse(["sqnr>=60"])
    quantized = quantized_of(graph, int8_twin(graph, inputs), inputs)
    plan = find_plan(quantized, requirements, look_at(), threads=1, timing=Given(by_hand(graph)))
    assert plan.holds
    assert plan.choices == {"large": "fp32", "small": "fp32"}, "neither int8 nor bf16 reaches 60 dB"


def test_the_allowed_noise_is_estimated_from_the_model_nearest_to_the_bound() -> None:
    def model(noise: float) -> Errors:
        errors, reference = Errors(Classification()), np.random.default_rng(0).standard_normal(1000)
        errors.add([reference + math.sqrt(noise) * np.random.default_rng(1).standard_normal(1000)], [reference])
        return errors

    models = {"fp32": model(1e-12), "bf16": model(1e-5), "int8": model(1e-2)}
    for bound in (20, 30, 45, 100):
        found = allowed_noise(Requirements.parse([f"sqnr>={bound}"]), models)
        assert found == pytest.approx(10 ** (-bound / 10), rel=1e-6)
    assert allowed_noise(Requirements(), models) == math.inf
    broken = Errors(Classification())
    broken.add([np.array([math.nan])], [np.ones(1)])
    assert allowed_noise(Requirements.parse(["sqnr>=30"]), {"fp16": broken}) == 0


# ----------------------------------------------------------------------------------------- where the model will run


CHAIN = """
    Input       in0 0 1 in0 0=16 1=16 2=16
    Convolution a   1 1 in0 x 0=16 1=1 5=1 6=256
    Convolution b   1 1 x y 0=16 1=1 5=1 6=256
    Convolution c   1 1 y out0 0=16 1=1 5=1 6=256
"""


def with_fp16(graph: Graph) -> Costs:
    """Costs as with fp16 arithmetic: fp16 takes half the time, except for b, and outputs fp16. int8 is slow."""
    layers = [layer for layer in graph.layers if layer.op.computes]
    floats = {(la.name, c, False, False): ms for la in layers for c, ms in (("fp32", 2.0), ("fp16", 1.0))}
    floats["b", "fp32", False, False] = 0.1
    int8 = {(la.name, "int8", i, o): 9.0 for la in layers for i in (False, True) for o in (False, True)}
    kinds = {key[:2]: "fp16" if key[1] == "fp16" else "float" for key in floats | int8}
    ways = (("fp16", "float"), ("float", "fp16"))
    conversions = {(root, *way): 0.01 for root in graph.uses().roots for way in ways}
    free = frozenset(layer.name for layer in graph.layers if not layer.op.computes)
    return Costs(floats | int8, conversions, kinds, kinds, free)


def plan_with_fp16(requirements: Requirements, **where: Any) -> MixedPlan:
    graph, inputs = network(CHAIN), samples(3, (16, 16, 16))
    fitted = int8_twin(graph, inputs)
    machine = boards.machine(cpu_features=["fp16-arithmetic"])
    quantized = quantized_of(graph, fitted, inputs)
    return find_plan(quantized, requirements, machine, threads=1, timing=Given(with_fp16(graph)), **where)


@pytest.mark.skipif("fp16-arithmetic" in look_at().cpu_features, reason="this machine has fp16 arithmetic")
def test_a_precision_whose_outputs_are_not_numbers_is_not_taken() -> None:
    """Without fp16 arithmetic ncnn outputs fp32, which a Cast would read as fp16: it is refused, otherwise outputs are
    garbage.
    """
    plan = plan_with_fp16(Requirements.parse(["cosine>=0.999"]))
    assert plan.holds
    assert math.isfinite(plan.errors.relative)
    assert len(set(plan.choices.values())) == 1, "no Cast is left"
    assert plan.repairs > 0


def test_layers_of_a_broken_uniform_model_are_measured_alone(mixed: Setting) -> None:
    with Judge(mixed.exact, ArraySamples((mixed.inputs,))) as judge:
        int8 = int8_errors(mixed.forms, judge)
        whole = {"fp32": 1e-12, "bf16": math.inf}
        errors = float_errors(mixed.forms, mixed.costs, judge, whole, int8)
    bf16 = {name: error for (name, choice), error in errors.items() if choice == "bf16"}
    assert set(bf16) == {"c1", "d1", "c2", "c3", "add", "gap", "fc"}
    assert all(math.isfinite(error) and error < 1e-3 for error in bf16.values())
    assert sum(bf16.values()) > 1e-7
    assert sum(error for (_, choice), error in errors.items() if choice == "fp32") == pytest.approx(1e-12)


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ncnn crash if c2 of the small network computes in bf16, alone or in any network."""
    honest = CheckedChild.ask

    def crashes(param: str) -> bool:
        lines = [line.split() for line in Path(param).read_text().splitlines()]
        return any(
            line[0] == "Convolution" and {"6=64", f"31={int(MASKS['bf16'])}"} <= set(line) for line in lines if line
        )

    def ask(self: CheckedChild, op: str, arrays: Any = (), timeout: float = 60.0, **fields: Any) -> Any:
        if any(map(crashes, [net["param"] for net in fields.get("nets", [fields] if op == "load" else [])])):
            self._process.send_signal(signal.SIGSEGV)
            self._process.wait()
        return honest(self, op, arrays, timeout, **fields)

    monkeypatch.setattr(CheckedChild, "ask", ask)


def test_a_graph_that_crashes_ncnn_is_infinitely_wrong_and_the_others_are_judged(
    mixed: Setting, crashing: None
) -> None:
    plans = [uniform(mixed.exact, mixed.costs, choice) for choice in ("fp32", "bf16", "bf16", "fp32", "int8")]
    with Judge(mixed.exact, ArraySamples((mixed.inputs,))) as judge:
        found = judge.here([mixed.graph(plan) for plan in plans], "mixed")
    assert [math.isfinite(errors.relative) for errors in found] == [True, False, False, True, True]
    assert [bool(errors.refused) for errors in found] == [False, True, True, False, False]
    (why,) = judge.refused
    assert "SIGSEGV" in why
    assert judge.refused[why] == 2


def test_a_layer_that_crashes_ncnn_cannot_have_that_choice_and_a_plan_is_found(crashing: None) -> None:
    graph, inputs = small(), samples(4)
    fitted = int8_twin(graph, inputs)
    costs = measure_costs(graph, fitted, blob_shapes(graph), ("fp32", "bf16", "int8"), rounds=1, seconds=0.0)
    assert costs.choices("c2") == ["fp32", "int8"]
    assert costs.choices("c1") == ["fp32", "bf16", "int8"]
    quantized = quantized_of(graph, fitted, inputs)
    plan = find_plan(quantized, Requirements.parse(["sqnr>=30"]), look_at(), threads=1)
    assert plan.holds
    assert plan.choices["c2"] != "bf16"
    assert all("SIGSEGV" in why for why in plan.refused)


def test_a_uniform_model_that_crashes_ncnn_does_not_end_the_plan(mixed: Setting, crashing: None) -> None:
    """Its layers are judged alone. The layer that crashes has an infinite error."""

    class Timed(Given):
        def networks(self, graphs: Mapping[str, Graph], sample: Sequence[Array]) -> dict[str, float]:
            found = time_graphs(graphs, sample, 1, rounds=1, seconds=0.0)
            assert found.keys() == graphs.keys() - {"bf16"}
            return found

    assert mixed.costs.has("c2", "bf16")
    quantized = quantized_of(mixed.exact, mixed.fitted, mixed.inputs)
    plan = find_plan(quantized, Requirements.parse(["sqnr>=30"]), look_at(), threads=1, timing=Timed(mixed.costs))
    assert plan.holds
    assert plan.choices["c2"] != "bf16"
    errors = {(name, option.choice): option.error for name, rows in plan.options.items() for option in rows}
    assert errors["c2", "bf16"] == math.inf
    assert math.isfinite(errors["c1", "bf16"])


@given(st.sets(st.integers(0, 40)), st.integers(0, 41))
def test_crashing_items_are_found(broken: set[int], count: int) -> None:
    numbers = list(range(count))
    assert without_broken(numbers, lambda some: not broken & set(some)) == [n for n in numbers if n not in broken]


@pytest.mark.board
@pytest.mark.timeout(600)
def test_a_plan_for_a_board_is_judged_on_the_board() -> None:
    """It has fp16 arithmetic, and this machine does not, so the model does not run here."""
    with open_device(f"ssh://{BOARD}") as board:
        assert "fp16-arithmetic" in look_at(board).cpu_features
        plan = plan_with_fp16(Requirements.parse(["cosine>=0.999"]), device=board)
    assert plan.holds
    assert plan.choices == {"a": "fp16", "b": "fp32", "c": "fp16"}
    assert plan.repairs == 0
    assert 1e-9 < plan.errors.relative < 1e-3
    if "fp16-arithmetic" not in look_at().cpu_features:
        with pytest.raises(RuntimeFailure, match="layer a outputs float, but Cast b/cast reads fp16"):
            outputs_of(plan.graph, samples(1, (16, 16, 16)))
