"""Costs of layers: the timed forms, and the sum of costs as the latency of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import network, samples, small, with_weights

import ncnnkit
from ncnnkit.device.looking import look_at
from ncnnkit.device.session import Session
from ncnnkit.errors import RuntimeFailure
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ops import Mask
from ncnnkit.model.precision import INT8, MASKS
from ncnnkit.onboard.answers import NetTime
from ncnnkit.plan import costs as costing
from ncnnkit.plan import timing
from ncnnkit.plan.costs import Costs, calibrated, chains, predict, uniform
from ncnnkit.plan.timing import REPEATS, blob_shapes, measure_costs, settled

CHOICES = ("fp32", "bf16", "int8", "int8-winograd")


def int8_twin(graph: Graph) -> Graph:
    return ncnnkit.quantize(graph, ncnnkit.calibrate(graph, samples(2)), target="x86")


@pytest.fixture(scope="module")
def measured() -> Costs:
    graph = small()
    return measure_costs(graph, int8_twin(graph), blob_shapes(graph), CHOICES, rounds=2, seconds=0.0)


def test_progress_counts_the_turns() -> None:
    """A run of a real network spends minutes in this step, so the log needs a count."""
    told: list[tuple[int, int]] = []
    graph = small()
    measure_costs(
        graph, int8_twin(graph), blob_shapes(graph), ("fp32",), seconds=1.0, rounds=2,
        progress=lambda *counts: told.append(counts),
    )  # fmt: skip
    assert len(told) > 2, "not only its ends"
    assert told == sorted(told)
    ((total,), (done, _)) = {total for _, total in told}, told[-1]
    assert total / 2 <= done < total, "it goes on until the end"


def invented(graph: Graph) -> Costs:
    """Simple costs: 8 ms in fp32, 4 in bf16, 2 in int8, and 0.5 less at each end that is int8."""
    layers = {}
    names = [layer.name for layer in graph.layers if layer.op.computes]
    for layer in graph.layers:
        layers.update({(layer.name, choice, False, False): ms for choice, ms in (("fp32", 8.0), ("bf16", 4.0))})
        if layer.op.int8 is not None:
            sides = (False, True) if layer.op.chains_int8 else (False,)
            layers.update({(layer.name, "int8", i, o): 2.0 - 0.5 * i - 0.5 * o for i in sides for o in sides})
    kinds = {(name, choice): choice if choice == "bf16" else "float" for name in names for choice in CHOICES[:3]}
    kinds = {key: kind for key, kind in kinds.items() if (*key, False, False) in layers}
    conversions = {
        (root, *pair): 0.25 for root in graph.uses().roots for pair in (("bf16", "float"), ("float", "bf16"))
    }
    free = frozenset(layer.name for layer in graph.layers if not layer.op.computes)
    return Costs(layers, conversions, kinds, kinds, free)


# ---------------------------------------------------------------------------------------------------------- plans


def test_every_choice_forbids_the_other_precisions() -> None:
    assert MASKS["fp32"] == 7
    assert MASKS["bf16"] == Mask.NO_FP16_ARITHMETIC | Mask.NO_FP16_STORAGE
    assert all(MASKS[choice] & Mask.NO_BF16 for choice in MASKS if choice != "bf16")
    assert [choice for choice in MASKS if MASKS[choice] & Mask.NO_WINOGRAD] == ["int8"]


def test_a_uniform_plan_costs_the_sum_of_its_layers() -> None:
    graph = small()
    costs = invented(graph)
    assert predict(graph, costs, uniform(graph, costs, "fp32")) == pytest.approx(7 * 8)
    assert predict(graph, costs, uniform(graph, costs, "bf16")) == pytest.approx(7 * 4)


def test_int8_is_passed_on_if_all_readers_take_it() -> None:
    graph = small()
    costs = invented(graph)
    plan = uniform(graph, costs, "int8")
    # An addition also reads the blob of c2, and only the addition reads that of c3.
    assert chains(graph, plan) == {"b1", "b2"}
    assert predict(graph, costs, plan) == pytest.approx(5 * 2 - 4 * 0.5 + 2 * 8)


def test_every_reader_that_takes_another_format_pays_for_it() -> None:
    graph = small()
    costs = invented(graph)
    plan = uniform(graph, costs, "fp32") | {"c2": "bf16"}  # it reads one blob; c3 and add read its output
    assert predict(graph, costs, plan) == pytest.approx(6 * 8 + 4 + 3 * 0.25)
    assert costs.convert_ms("b1", "int8", "float") == 0.0
    twice = Costs({}, {("b", "fp16", "float"): 1.0, ("b", "float", "bf16"): 2.0}, {}, {})
    assert twice.convert_ms("b", "fp16", "bf16") == 3.0


def test_calibrated_costs_predict_uniform_plans_as_measured() -> None:
    graph = small()
    costs = invented(graph)
    measured = {"fp32": 60.0, "bf16": 40.0, "int8": 30.0}
    scaled = calibrated(costs, graph, measured)
    for choice, ms in measured.items():
        assert predict(graph, scaled, uniform(graph, scaled, choice)) == pytest.approx(ms)
    assert scaled.scales["int8-winograd"] == scaled.scales["int8"]
    absurd = calibrated(costs, graph, {"fp32": 1e6})
    assert absurd.scales["fp32"] == 2.0


# ------------------------------------------------------------------------------------------------------- measuring


def test_layers_are_timed_in_every_form_they_can_have(measured: Costs) -> None:
    graph = small()
    assert measured.choices("c3") == list(CHOICES)
    assert measured.choices("c2") == ["fp32", "bf16", "int8"]  # 1x1: no Winograd
    assert measured.choices("add") == ["fp32", "bf16"]
    assert measured.choices("s1") == []
    assert measured.ms("s1", "fp32") == 0.0
    for layer in ("c1", "c2", "d1"):
        assert {key[2:] for key in measured.layers if key[:2] == (layer, "int8")} == {
            (False, False), (False, True), (True, False), (True, True),
        }  # fmt: skip
    assert {key[2:] for key in measured.layers if key[:2] == ("fc", "int8")} == {(False, False)}
    assert all(ms > 0 for ms in measured.layers.values())
    assert set(measured.reads) == set(measured.makes)
    assert predict(graph, measured, uniform(graph, measured, "int8")) > 0


def test_the_format_between_layers_is_measured_not_assumed(measured: Costs) -> None:
    assert {measured.makes[layer, "fp32"] for layer in ("c1", "add")} == {"float"}
    assert {measured.reads[layer, choice] for layer in ("c1", "c2") for choice in INT8[:1]} <= {"float", "fp16"}
    if look_at().machine == "x86_64":
        assert measured.makes["c1", "bf16"] == measured.reads["c1", "bf16"] == "bf16"
        assert measured.reads["d1", "bf16"] == "float"  # ncnn has no depthwise bf16 there
        assert measured.convert_ms("b1", "bf16", "float") > 0


def test_equal_layers_are_timed_once() -> None:
    text = "".join(
        f"Convolution c{i} 1 1 {'in0' if not i else f'b{i}'} b{i + 1} 0=4 1=3 4=1 5=1 6=144\n" for i in range(3)
    )
    graph = network(text)
    costs = measure_costs(graph, graph, blob_shapes(graph), ("fp32",), rounds=2, seconds=0.0)
    assert len(costs.layers) == 3
    assert len(set(costs.layers.values())) == 1


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_cast_is_added_before_a_layer_that_may_not_read_the_format(kind: str) -> None:
    graph = with_weights(network("Input in0 0 1 in0 0=6 1=5 2=16\nReLU a 1 1 in0 b\nReLU c 1 1 b out0"))
    halved, plain = graph.layers[1].copy(), graph.layers[2].copy()
    halved.params["featmask"], plain.params["featmask"] = MASKS[kind], MASKS["fp32"]
    plain.inputs = ["cast"]
    middle = [halved, costing.to_float("cast", kind, "b", "cast"), plain]
    if kind == "fp16" and look_at().machine == "x86_64":
        middle = [halved, Layer("Noop", "cast", ["b"], ["cast"], {"featmask": MASKS["fp32"]}), plain]
    image = samples(1, (16, 5, 6))[0]
    with Session(Graph([graph.layers[0], *middle]), precision="mixed", threads=1) as session:
        found = session.run(image)
    assert np.allclose(found, np.maximum(image, 0), rtol=2**-8)


def test_shapes_equal_ncnns() -> None:
    shapes = blob_shapes(small())
    assert shapes["in0"] == (3, 16, 16)
    assert shapes["b3a"] == (8, 16, 16)
    assert shapes["out0"] == (10,)


def test_layers_that_ncnn_cannot_run_are_named() -> None:
    graph = network("ReLU r 1 1 in0 out0")
    shapes = {"in0": (4, 1, 0), "out0": (4, 1, 0)}  # nothing to read
    with pytest.raises(RuntimeFailure, match="timing layers"):
        measure_costs(graph, graph, shapes, ("fp32",), rounds=1, seconds=0.0)


# ------------------------------------------------------------------------------------------------------------ outliers


def net_time(ms: float) -> NetTime:
    return NetTime(ms, ms, 0.1, [32], [32])


def test_a_form_far_slower_than_its_siblings_is_timed_again() -> None:
    asked: list[Sequence[int]] = []

    def again(places: Sequence[int]) -> list[NetTime]:
        asked.append(places)
        return [net_time(0.12)] * len(places)

    times = [net_time(ms) for ms in (0.1, 0.11, 56.0, 0.09, 30.0, 28.0, 31.0)]
    alike = [("a",)] * 4 + [("b",)] * 3
    found = settled(times, alike, again)
    assert [time.undisturbed for time in found] == [0.1, 0.11, 0.12, 0.09, 30.0, 28.0, 31.0]
    assert asked == [[2]], "only what is suspect, and not again once it is right"


def test_a_form_that_stays_slow_is_slow() -> None:
    asked: list[Sequence[int]] = []

    def again(places: Sequence[int]) -> list[NetTime]:
        asked.append(places)
        return [net_time(58.0 - len(asked))] * len(places)

    found = settled([net_time(ms) for ms in (0.1, 56.5, 0.1)], [("a",)] * 3, again)
    assert [time.undisturbed for time in found] == [0.1, 56.0, 0.1], "the shortest counts"
    assert len(asked) == REPEATS


def test_a_single_form_is_accepted() -> None:
    assert settled([net_time(56.0), net_time(0.1)], [("a",), ("b",)], lambda _: []) == [net_time(56.0), net_time(0.1)]


def test_costs_are_without_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer has one time that another program disturbed."""
    real = timing.settled
    spoiled: list[NetTime] = []

    def disturbed(times: Sequence[NetTime], *rest: Any) -> list[NetTime]:
        spoiled.extend([replace(times[0], undisturbed=5600.0), *times[1:]])
        return real(spoiled, *rest)

    monkeypatch.setattr(timing, "settled", disturbed)
    graph = small()
    costs = measure_costs(graph, int8_twin(graph), blob_shapes(graph), CHOICES, rounds=2, seconds=0.0)
    assert spoiled[0].undisturbed == 5600.0
    assert max(costs.layers.values()) < 1000
