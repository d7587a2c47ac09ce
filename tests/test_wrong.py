"""Distinguishing wrong outputs from less exact ones, and references that cannot judge outputs."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from networks import network, samples, small
from test_recommendation import accuracy as accuracy_of
from test_recommendation import output, variant

import ncnnkit as nk
from ncnnkit.artifact import Artifact
from ncnnkit.comparison import layers
from ncnnkit.comparison.layers import first_wrong_layer, layer_errors
from ncnnkit.comparison.noise import Noise, matched, sqnr_db
from ncnnkit.comparison.wrong import Variation, what_is_wrong, worst_sqnr_db
from ncnnkit.device.session import Session
from ncnnkit.device.sites import Site, local_site
from ncnnkit.measure.judging import refuse_wrong_outputs
from ncnnkit.measure.variants import VariantSpec
from ncnnkit.model.graph import Graph
from ncnnkit.model.precision import MASKS, PRECISIONS
from ncnnkit.onboard.protocol import VariantResult
from ncnnkit.record.variant import Variant
from ncnnkit.samples.stream import ArraySamples


@pytest.mark.parametrize(
    ("precision", "found", "others"),
    [
        ("fp16", 32.0, [101.7]),  # a text detector on a GPU
        ("bf16", 24.5, [110.0]),  # a face detector on a GPU
        ("int8", 16.0, [26.5]),  # the same network on a GPU and on the CPU
        ("fp32", math.inf, []),
        ("fp32", 25.0, [27.0]),  # the conversion was forced
        ("fp16", 15.0, [20.5]),  # a network that is sensitive to rounding, also on the CPU
    ],
)
def test_less_exact_outputs_are_not_wrong(precision: str, found: float, others: list[float]) -> None:
    assert what_is_wrong(precision, found, others) == ""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("found", [0.0, -3.0, -438.0, -math.inf])
def test_outputs_that_are_wrong(precision: str, found: float) -> None:
    """Zeros have 0 dB, unrelated outputs have -3 dB, and an overflow has less."""
    said = what_is_wrong(precision, found, [])
    assert said.startswith(f"SQNR {found:.1f} dB against the original; right outputs in {precision} have ")


def sqnr_of(outputs: Any, reference: Any) -> float:
    noise = Noise()
    for ours, theirs in zip(outputs, reference):
        noise.add([ours], [theirs])
    found = sqnr_db(noise.relative)
    return math.inf if found is None else found


def test_zeros_and_noise_have_the_sqnr_behind_the_bounds() -> None:
    rng = np.random.default_rng(0)
    right, other = rng.standard_normal((2, 20, 1000))
    assert sqnr_of(np.zeros_like(right), right) == pytest.approx(0)
    assert sqnr_of(other, right) == pytest.approx(-3, abs=0.1)


def test_maps_that_are_almost_empty_on_some_images_do_not_decide() -> None:
    """Right outputs of a text detector: the mean cosine of the images is 0.5, but the SQNR of the set is 29 dB."""
    rng = np.random.default_rng(0)
    reference = rng.random((10, 1000))
    reference[::2] *= 1e-6
    outputs = reference + rng.standard_normal((10, 1000)) * 0.0145
    norms = np.linalg.norm(outputs, axis=1) * np.linalg.norm(reference, axis=1)
    assert np.mean(np.sum(outputs * reference, axis=1) / norms) == pytest.approx(0.5, abs=0.1)
    assert sqnr_of(outputs, reference) == pytest.approx(29, abs=1)
    assert what_is_wrong("fp16", sqnr_of(outputs, reference)) == ""


def varied(*samples: list[list[float]]) -> Variation:
    variation = Variation()
    for sample in samples:
        variation.add([np.array(output, np.float32) for output in sample])
    return variation


def test_outputs_that_do_not_depend_on_the_sample() -> None:
    assert varied([[0, 0]], [[0, 0]]).why_blind() == "the original's outputs are zero for every sample"
    assert varied([[3, 4]], [[3, 4]]).why_blind() == "the original's outputs are the same for every sample"
    assert varied([[3, 4]], [[3, 4.0000005]]).why_blind() == "the original's outputs are the same for every sample"
    assert varied([[3, 4]], [[3, 4.01]]).why_blind() == ""
    assert varied([[0, 0]]).why_blind() != "", "zeros tell nothing, of one sample too"
    assert varied([[3, 4]]).why_blind() == "", "of one sample nobody knows"
    assert Variation().why_blind() == ""


def test_one_output_that_varies_is_enough() -> None:
    anchors = varied([[1, 2], [5]], [[1, 2], [6]])
    assert (anchors.still, anchors.why_blind()) == ([0], "")


def test_the_variance_is_that_of_all_samples() -> None:
    samples = np.random.default_rng(0).standard_normal((50, 7)) + 1000
    variation = Variation()
    for sample in samples:
        variation.add([sample])
    assert variation._deviations[0] == pytest.approx(np.sum((samples - samples.mean(axis=0)) ** 2), rel=1e-6)


def test_the_worst_output() -> None:
    assert worst_sqnr_db([(0.1, 20.0), (0.0, None)]) == 20
    assert worst_sqnr_db([(0.0, None)]) == math.inf
    assert worst_sqnr_db([(0.1, None), (0.2, 3.0)]) == 3, "an output without a signal says nothing"
    assert worst_sqnr_db([(0.1, None)]) is None


# --------------------------------------------------------------------------------------------------- the wrong layer


def few(count: int, shape: tuple[int, ...] = (3, 16, 16)) -> ArraySamples:
    return ArraySamples((samples(count, shape),))


def at(precision: str, graph: Graph) -> Artifact:
    return Artifact.made(graph, PRECISIONS[precision].file).at(precision)


def changed(graph: Graph, name: str, value: float) -> Graph:
    """A copy in which the weights of a layer are multiplied by a factor."""
    made = graph.copy()
    made.layer(name).weights["weight"] = (made.layer(name).array("weight") * value).astype(np.float32)
    return made


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [("c1", "Convolution", 1000.0), ("c3", "Convolution", math.nan), ("fc", "InnerProduct", -1.0)],
)
def test_the_first_wrong_layer_is_named(name: str, kind: str, value: float) -> None:
    assert first_wrong_layer(small(), at("bf16", changed(small(), name, value)), few(3)) == f"{name} ({kind})"


def test_gradually_growing_noise_is_not_attributed_to_a_layer() -> None:
    graph = rough = network("\n".join(f"Convolution c{i} 1 1 b{i} b{i + 1} 0=8 1=1 6=64" for i in range(8))
                    .replace("b0 ", "in0 ").replace("6=64", "6=32", 1))  # fmt: skip
    for i in range(8):
        rough = changed(rough, f"c{i}", 1.06)
    inputs = few(3, (4, 5, 6))
    assert layer_errors(graph, rough, inputs, int8_only=False)[-1].sqnr_db == pytest.approx(4.5, abs=1)
    assert first_wrong_layer(graph, at("bf16", rough), inputs) == ""


def test_int8_between_layers_of_a_mixed_network_is_compared() -> None:
    """c2 outputs int8 to d1. If bf16 is allowed, ncnn returns this blob as int8."""
    graph = small()
    int8 = nk.quantize(graph, nk.calibrate(graph, samples(8)))
    for layer in int8.layers:
        layer.params["featmask"] = layer.get("featmask") | MASKS["int8"]
    mixed = Artifact.made(int8, "mixed")
    found = {row.name: row.sqnr_db for row in layer_errors(graph, mixed, few(3), int8_only=False)}
    alone = {row.name: row.sqnr_db for row in layer_errors(graph, int8, few(3), int8_only=False)}
    assert any("output_scale" in layer.weights for layer in int8.layers)
    assert found.keys() == alone.keys()
    assert all((found[name] or 99) > (alone[name] or 99) - 6 for name in found)


def test_large_blobs_are_transferred_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small()
    whole = layer_errors(graph, at("bf16", graph), few(2), int8_only=False)
    asked: list[list[str]] = []
    blobs = Session.blobs

    def noted(net: Session, *arrays: Any, names: list[str]) -> Any:
        asked.append(names)
        return blobs(net, *arrays, names=names)

    monkeypatch.setattr(layers, "MOST_BYTES", 20_000)
    monkeypatch.setattr(Session, "blobs", noted)
    assert layer_errors(graph, at("bf16", graph), few(2), int8_only=False) == whole
    assert len(asked) > 4, "more than one part for each of two samples and two networks"
    assert [name for part in asked[: len(asked) // 2 : 2] for name in part] == [
        layer.outputs[0] for layer in graph.layers if layer.type not in ("Input", "Split")
    ]


def test_right_precisions_have_no_wrong_layer() -> None:
    int8 = nk.quantize(small(), nk.calibrate(small(), samples(8)))
    for precision, graph in [("fp32", small()), ("fp16", small()), ("bf16", small()), ("int8", int8)]:
        assert first_wrong_layer(small(), at(precision, graph), few(3)) == "", precision


GROUPED = """
    Input            in0  0 1 in0 0=12 1=12 2=32
    Convolution      c0   1 1 in0 b1 0=32 1=1 6=1024
    ConvolutionDepthWise g 1 1 b1 b2 0=32 1=3 4=1 5=1 6=2304 7=4
    ReLU             r    1 1 b2 out0
"""


def test_large_blobs_are_compared_at_some_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """All positions of a full-HD network's blobs would take gigabytes."""
    rough = changed(small(), "c2", 1.1)
    whole = layer_errors(small(), rough, few(3), int8_only=False)
    compared: list[int] = []

    def counted(values: Any, ours: Any) -> Any:
        compared.append(values.size)
        return matched(values, ours)

    monkeypatch.setattr(layers, "matched", counted)
    monkeypatch.setattr(layers, "MOST_VALUES", 256)
    thinned = layer_errors(small(), rough, few(3), int8_only=False)
    assert max(compared) <= 256
    assert [e.name for e in thinned] == [e.name for e in whole]
    for some, every in zip(thinned, whole):
        assert some.sqnr_db == (None if every.sqnr_db is None else pytest.approx(every.sqnr_db, abs=1.5))


def test_nan_in_a_layer_is_not_exact() -> None:
    errors = layer_errors(small(), changed(small(), "c3", math.nan), few(2), int8_only=False)
    assert {e.name: e.sqnr_db for e in errors}["c3"] == -math.inf


def test_a_grouped_convolution_in_bf16_is_right_or_named() -> None:
    """ncnn computes it wrongly on x86, with and without AVX512-BF16, even as a single layer."""
    graph, inputs, noise = network(GROUPED), samples(3, (32, 12, 12)), Noise()
    with nk.Session(graph, precision="fp32") as one, nk.Session(graph, precision="bf16") as other:
        for x in inputs:
            noise.add([np.asarray(other.run(x))], [np.asarray(one.run(x))])
    found = sqnr_db(noise.relative)
    wrong = what_is_wrong("bf16", math.inf if found is None else found) != ""
    assert first_wrong_layer(graph, at("bf16", graph), ArraySamples((inputs,))) == (
        "g (ConvolutionDepthWise)" if wrong else ""
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernel that is wrong is x86's")
def test_a_wrong_kernel_of_ncnn_is_named() -> None:
    """On x86, ncnn writes the outputs of a grouped int8 convolution in blocks of another size than it allocates."""
    graph, inputs = network(GROUPED), samples(3, (32, 12, 12))
    wrong = nk.quantize(graph, nk.calibrate(graph, inputs), target="vulkan")
    assert first_wrong_layer(graph, wrong, ArraySamples((inputs,))) == "g (ConvolutionDepthWise)"


# ------------------------------------------------------------------------------------------------- rows of a run


def judged(
    rows: Sequence[tuple[str, float | None]],
    graph: Graph | None = None,
    conversion_db: float | None = None,
    site: Site | None = None,
) -> Any:
    """(variant's name, SQNR of its outputs; None: NaN) -> the variants, judged."""
    site = site or local_site()
    made: list[tuple[Variant, VariantSpec, VariantResult]] = []
    for name, sqnr in rows:
        precision, _, backend = name.partition("-")
        model = at(precision, graph or small())
        spec = VariantSpec(name, cast(Any, precision), cast(Any, backend), 1, site, model)
        row = variant(name, 1.0, accuracy=accuracy_of(output(0.9, sqnr, mse=1.0, max_error=1.0)))
        if sqnr is None:
            row = replace(row, status="crashed", reason="output 'y' contains NaN or infinity", accuracy=None)
        made.append((row, spec, VariantResult(name, outputs={"y": "y.npy"})))
    variants, specs, results = zip(*made)
    return refuse_wrong_outputs(variants, specs, results, small(), few(2), conversion_db)


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([("fp16-vulkan", 32.0), ("fp16-cpu", 75.0)], ["ok", "ok"]),
        ([("bf16-vulkan", 24.5), ("bf16-cpu", 40.0)], ["ok", "ok"]),
        ([("int8-vulkan", 16.0), ("int8-cpu", 26.0)], ["ok", "ok"]),
        ([("fp16-vulkan", 0.1), ("fp16-cpu", 75.0)], ["crashed", "ok"]),
        ([("bf16-cpu", -0.1), ("fp32-cpu", 100.0)], ["crashed", "ok"]),
        ([("bf16-cpu", -438.0)], ["crashed"]),
        ([("bf16-vulkan", -0.2), ("bf16-cpu", -0.1)], ["crashed", "crashed"]),
        ([("fp16-vulkan", 15.0), ("fp16-cpu", 20.5)], ["ok", "ok"]),
        ([("fp16-vulkan", 15.0)], ["crashed"]),
    ],
    ids=str,
)
def test_any_variant_is_judged_on_any_backend(rows: list[tuple[str, float]], status: list[str]) -> None:
    found = judged(rows)
    assert [v.name for v in found] == [name for name, _ in rows]
    assert [v.status for v in found] == status
    for row in found:
        assert row.reason.startswith("wrong outputs: SQNR ") == (row.status == "crashed")
        assert "driver" not in row.reason


def test_a_conversion_that_was_forced_explains_as_much() -> None:
    assert [v.status for v in judged([("fp32-cpu", 24.0), ("fp16-cpu", 24.0)], conversion_db=25.0)] == ["ok", "ok"]
    assert [v.status for v in judged([("fp32-cpu", 24.0), ("fp16-cpu", 24.0)])] == ["crashed", "ok"]


def test_the_reason_names_the_first_wrong_layer() -> None:
    wrong = changed(small(), "c2", -1.0)
    (row,) = judged([("fp32-cpu", -6.0)], wrong)
    assert row.reason == (
        "wrong outputs: SQNR -6.0 dB against the original; right outputs in fp32 have 40.0 dB or more; "
        "the first wrong layer is c2 (Convolution)"
    )
    (row,) = judged([("fp32-cpu", None)], changed(small(), "c3", math.nan))
    assert row.reason == "output 'y' contains NaN or infinity; the first wrong layer is c3 (Convolution)"
    (row,) = judged([("fp32-cpu", 3.0)])
    assert row.reason.endswith("; no single layer stands out")
