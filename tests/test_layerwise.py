"""Layer by layer: the steps compute the same as the whole network, and fitting reduces the error on other samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import SMALL, network, samples, small, stream
from numpy.typing import NDArray
from processes import descendants

from ncnnkit.comparison import accuracy
from ncnnkit.device.session import Session
from ncnnkit.errors import RuntimeFailure
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.quantization import apply_table, layerwise, make_table
from ncnnkit.quantization import stepper as stepper_module
from ncnnkit.quantization.activations import activation
from ncnnkit.quantization.calibration import calibrate
from ncnnkit.quantization.layerwise import Fit, Kept, _Problem, fit_layers
from ncnnkit.quantization.scales import runs_winograd
from ncnnkit.quantization.stepper import EXACT, ROUNDED, Stepper, most_bytes

Array = NDArray[Any]
ALL = frozenset({"bias", "gain", "rounding"})


def outputs(graph: Graph, inputs: Array) -> Array:
    with Session(graph, threads=1) as net:
        return np.stack([net.run(x) for x in inputs])


def answers(layer: Layer, patches: Array) -> Array:
    """The output of a layer for patches, (positions, channels), computed here."""
    groups = layer.get("group") if layer.type == "ConvolutionDepthWise" else 1
    weight = layer.array("weight").reshape(groups, layer.get("num_output") // groups, -1).astype(np.float64)
    parts = patches.reshape(len(patches), groups, -1).astype(np.float64)
    sums = np.einsum("pgv,grv->pgr", parts, weight).reshape(len(patches), -1)
    return np.asarray(activation(layer).f(sums + (layer.array("bias") if layer.get("bias_term") else 0)))


# --------------------------------------------------------------------------------------------------------- stepper

# Each layer reads the same 4x7x8. Layers for a vector of 9, or for rows of 9, have other inputs.
WINDOWS = {
    "1x1": "Convolution 0=5 1=1 5=1 6=20 9=1",
    "padded": "Convolution 0=5 1=3 4=1 5=1 6=180 9=1",
    "padded with a value": "Convolution 0=5 1=3 4=1 5=1 6=180 18=-1.5",
    "wide, no bias": "Convolution 0=3 1=3 11=2 6=72",
    "strides": "Convolution 0=3 1=3 3=2 13=3 4=1 5=1 6=108 9=4",
    "dilations": "Convolution 0=3 1=3 2=2 12=1 4=2 14=0 5=1 6=108",
    "every side": "Convolution 0=3 1=5 4=1 15=3 14=2 16=0 3=2 5=1 6=300",
    "same upper": "Convolution 0=3 1=4 3=2 4=-233 5=1 6=192",
    "same lower": "Convolution 0=3 1=4 3=2 4=-234 5=1 6=192",
    "same, no stride": "Convolution 0=3 1=2 11=4 4=-234 5=1 6=96",
    "same, dilated": "Convolution 0=3 1=3 2=2 3=2 4=-233 5=1 6=108 18=0.5",
    "same, stride past the kernel": "Convolution 0=3 1=1 3=3 4=-233 5=1 6=12",
    "depthwise": "ConvolutionDepthWise 0=4 1=3 4=1 3=2 5=1 6=36 7=4 9=1",
    "depthwise, two rows a channel": "ConvolutionDepthWise 0=8 1=3 4=1 5=1 6=72 7=4",
    "groups": "ConvolutionDepthWise 0=6 1=3 4=1 5=1 6=108 7=2 9=3 -23310=2,0.0,1.0",
    "inner product of a map": "InnerProduct 0=5 1=1 2=1120 9=1",
}
OTHERS = {
    "inner product of a vector": ("0=9", "InnerProduct 0=5 1=1 2=45"),
    "inner product of a whole matrix": ("0=9 1=6", "InnerProduct 0=5 1=1 2=270 9=1"),
    "inner product of rows": ("0=9 1=6", "InnerProduct 0=5 1=1 2=45 9=1"),
    "convolution of a vector": ("0=9", "Convolution 0=5 1=1 5=1 6=45"),
}


def windows() -> tuple[Graph, list[Array]]:
    """All layers in parallel, and five samples."""
    rows = [f"Split s 1 {len(WINDOWS)} in0 " + " ".join(f"in0/{i}" for i in range(len(WINDOWS)))]
    for i, text in enumerate(WINDOWS.values()):
        kind, params = text.split(" ", 1)
        rows.append(f"{kind} m{i} 1 1 in0/{i} out{i} {params}")
    for i, (shape, text) in enumerate(OTHERS.values(), len(WINDOWS)):
        kind, params = text.split(" ", 1)
        rows += [f"Input in{i} 0 1 in{i} {shape}", f"{kind} m{i} 1 1 in{i} out{i} {params}"]
    graph = network("Input in0 0 1 in0 0=8 1=7 2=4\n" + "\n".join(rows))
    return graph, [samples(5, shape, seed=i) for i, shape in enumerate(graph.input_shapes())]


@pytest.fixture(scope="module", params=[1, 3])
def stepped(request: pytest.FixtureRequest) -> Iterator[Stepper]:
    """The stepper after all layers, in one process or three."""
    graph, inputs = windows()
    with Stepper(graph, stream(*inputs), request.param) as stepper:
        for layer in graph.layers:
            if layer.type not in ("Input", "Split"):
                stepper.step(layer, last=False)
        yield stepper


@pytest.fixture(scope="module")
def expected() -> dict[str, Array]:
    """The outputs of the whole network."""
    graph, inputs = windows()
    with Session(graph, threads=1) as net:
        rows = [net.blobs(*sample, names=graph.outputs) for sample in zip(*inputs)]
    return {name: np.stack(column) for name, column in zip(graph.outputs, zip(*rows))}


@pytest.mark.parametrize("index", range(len(WINDOWS) + len(OTHERS)), ids=[*WINDOWS, *OTHERS])
def test_patches_times_weights_equal_the_layers_output(
    stepped: Stepper, expected: dict[str, Array], index: int
) -> None:
    layer = windows()[0].layer(f"m{index}")
    rows = stepped.gather(layer, 10**6)
    whole = expected[f"out{index}"]
    flat = whole.transpose(0, 2, 3, 1) if whole.ndim == 4 else whole
    flat = flat.reshape(-1, flat.shape[-1])
    assert rows.sample.tolist() == np.repeat(range(5), len(flat) // 5).tolist(), "whatever the number of processes"
    assert np.allclose(rows.outputs, flat, atol=1e-5)
    assert np.allclose(answers(layer, rows.inputs), rows.outputs, atol=1e-5)
    assert np.array_equal(stepped.outputs([f"out{index}"], ROUNDED)[f"out{index}"], whole)


@pytest.mark.parametrize("kind", ["padded", "strides", "depthwise"])
def test_positions_are_drawn_without_repetition(stepped: Stepper, kind: str) -> None:
    layer = windows()[0].layer(f"m{list(WINDOWS).index(kind)}")
    draws = ((10**6, 0), (16, 5), (16, 5), (16, 6))
    every, few, again, other = (stepped.gather(layer, rows, seed=seed) for rows, seed in draws)
    assert few.sample.tolist() == np.repeat(range(5), 3).tolist()
    assert np.array_equal(few.inputs, again.inputs)
    assert not np.array_equal(few.inputs, other.inputs)
    assert np.allclose(answers(layer, few.inputs), few.outputs, atol=1e-5)
    for number in range(5):
        whole = {row.tobytes() for row in every.inputs[every.sample == number]}
        drawn = {row.tobytes() for row in few.inputs[few.sample == number]}
        assert len(drawn) == 3
        assert drawn <= whole


def test_the_number_of_processes_changes_nothing() -> None:
    graph, inputs = windows()
    layer = graph.layer("m1")
    found = []
    for threads in (1, 2):
        with Stepper(graph, stream(*inputs), threads) as stepper:
            stepper.step(layer, last=False)
            found.append(stepper.gather(layer, 40, seed=3))
    for name in ("inputs", "outputs", "sample"):
        assert np.array_equal(getattr(found[0], name), getattr(found[1], name)), name


def test_layer_by_layer_gives_the_outputs_of_the_whole_network() -> None:
    graph = small()
    graph.layers.insert(3, Layer("Split", "s0", ["b2"], ["b2x", "out1"]))
    graph.layer("c2").inputs = ["b2x"]
    inputs = samples(5)
    with Session(graph, threads=1) as net:
        expected = [np.stack(column) for column in zip(*(net.blobs(x, names=["out0", "out1"]) for x in inputs))]
    with Stepper(graph, stream(inputs), 2) as stepper:
        for layer in graph.layers[1:]:
            if layer.type != "Split":
                stepper.step(layer)
        found = stepper.outputs(["out0", "b2"], EXACT)
        rounded = stepper.outputs(["out0"], ROUNDED)["out0"]
    assert np.allclose(found["out0"], expected[0], atol=1e-5)
    assert np.allclose(found["b2"], expected[1], atol=1e-5)
    assert np.array_equal(found["out0"], rounded)


def test_blobs_are_freed_after_their_last_reader() -> None:
    graph = small()
    with Stepper(graph, stream(samples(2)), 1) as stepper:
        for layer in graph.layers[1:]:
            if layer.type != "Split":
                stepper.step(layer)
        for blob in ("in0", "b1", "b2", "b3", "b4", "b5", "b6"):
            with pytest.raises(RuntimeFailure, match=blob):
                stepper.outputs([blob], EXACT)


def test_both_versions_are_kept_apart() -> None:
    graph, inputs = small(), samples(2)
    changed = graph.layer("c1").copy()
    changed.weights["bias"] = changed.array("bias") + 1
    with Stepper(graph, stream(inputs), 1) as stepper:
        stepper.step(graph.layer("c1"), [EXACT], last=False)
        stepper.step(changed, [ROUNDED])
        exact, rounded = (stepper.outputs(["b1"], branch)["b1"] for branch in (EXACT, ROUNDED))
        stepper.step(graph.layer("d1"), last=False)
        rows = stepper.gather(graph.layer("d1"), 10**6)
    with Session(graph, threads=1, keep_blobs=True) as net:
        assert np.allclose(exact, np.stack([net.blobs(x, names=["b1"])[0] for x in inputs]), atol=1e-6)
    assert (rounded >= exact).all()
    assert (rounded > exact).any()
    d1 = graph.layer("d1")
    assert not np.allclose(answers(d1, rows.inputs), rows.outputs, atol=0.1), "inputs are rounded, outputs exact"
    with Stepper(graph, stream(inputs), 1) as stepper:
        for name in ("c1", "d1"):
            stepper.step(graph.layer(name), last=False)
        exact_rows = stepper.gather(d1, 10**6)
    assert np.array_equal(exact_rows.outputs, rows.outputs)


def test_a_crash_is_reported() -> None:
    graph = small()
    with Stepper(graph, stream(samples(2)), 2) as stepper:
        stepper._children[1].kill()
        stepper._children[1]._process.wait()
        with pytest.raises(RuntimeFailure, match="layer by layer: ncnn died"):
            stepper.step(graph.layer("c1"))


# ---------------------------------------------------------------------------------------------------------- memory

LARGE = """
    Input        in0 0 1 in0 0=256 1=256 2=4
    Convolution  c1  1 1 in0 b1 0=16 1=3 4=1 5=1 6=576 9=1
    Split        s1  1 2 b1 b1a b1b
    Convolution  c2  1 1 b1a b2 0=16 1=3 4=1 5=1 6=2304 9=1
    BinaryOp     add 2 1 b2 b1b b3
    Convolution  c3  1 1 b3 b4 0=4 1=1 5=1 6=64
    Pooling      gap 1 1 b4 b5 0=1 4=1
    InnerProduct fc  1 1 b5 out0 0=3 1=1 2=12
"""
MIB = 1 << 20


def children_bytes() -> int:
    """The resident memory of all child processes."""
    rows = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in descendants()]
    return sum(int(line.split()[1]) for lines in rows for line in lines if line.startswith("VmRSS")) * 1024


def test_memory_of_the_blobs_of_a_sample() -> None:
    """During the sum, its two inputs and its output exist, 4 MiB each, in two versions."""
    assert most_bytes(network(LARGE), (samples(1, (4, 256, 256))[0],)) == 2 * 12 * MIB


def test_an_output_in_the_middle_is_kept_to_the_end_and_an_unknown_shape_counts_as_the_largest() -> None:
    graph = network(LARGE)
    graph.layers += [Layer("Split", "s2", ["b1a"], ["b1c", "out1"])]
    graph.layers.insert(3, graph.layers.pop())
    graph.layer("c2").inputs = ["b1c"]
    assert (
        most_bytes(graph, (samples(1, (4, 256, 256))[0],)) == 2 * 12 * MIB
    )  # the sum needs the most memory, as before
    unknown = network("Input in0 0 1 in0 0=8 1=8 2=4\nDetectionOutput d 1 1 in0 out0")
    assert unknown.infer_shapes()["out0"] is None
    assert most_bytes(unknown, (samples(1, (4, 8, 8))[0],)) == 2 * 2 * 4 * 8 * 8 * 4


def test_a_network_with_large_maps_is_fitted_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 32 samples together would take 768 MiB."""
    monkeypatch.setattr(stepper_module, "KEPT_BYTES", 100 * MIB)
    monkeypatch.setattr(stepper_module, "GATHERED_BYTES", 1 * MIB)
    graph, inputs = network(LARGE), samples(32, (4, 256, 256))
    plain = plain_int8(graph, inputs[:4])
    seen: list[int] = []
    fitted, kept = fit_layers(
        graph, plain, stream(inputs), ALL, threads=1, rows=10**6, progress=lambda *_: seen.append(children_bytes())
    )
    assert_consistent(graph, plain, fitted, kept, ALL)
    assert max(seen) - seen[0] < 300 * MIB  # with ncnn's memory for a layer


def test_few_samples_of_large_blobs_give_as_many_places(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = small(), samples(20)
    each = most_bytes(graph, (inputs[0],))
    counts = []
    for fits in (20, 4):
        monkeypatch.setattr(stepper_module, "KEPT_BYTES", fits * each)
        with Stepper(graph, stream(inputs), 2) as stepper:
            stepper.step(graph.layer("c1"), last=False)
            rows = stepper.gather(graph.layer("c1"), 400)
        counts.append((stepper.samples, len(rows.inputs), len(set(rows.sample.tolist()))))
    assert counts == [(20, 400, 20), (4, 400, 4)]


def test_gathered_inputs_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small()
    monkeypatch.setattr(stepper_module, "GATHERED_BYTES", 100 * 27 * 4)  # c1 computes from 3x3x3 values
    with Stepper(graph, stream(samples(4)), 1) as stepper:
        stepper.step(graph.layer("c1"), last=False)
        assert stepper.gather(graph.layer("c1"), 10**6).inputs.shape == (100, 27)


def test_layers_of_very_many_inputs_are_not_rounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The covariance of their inputs would take gigabytes."""
    monkeypatch.setattr(layerwise, "ROUNDED_INPUTS", 27)
    graph, inputs = small(), samples(5)
    _, kept = fit_layers(graph, plain_int8(graph, inputs), stream(inputs), ALL, threads=1, rows=256)
    tried = {each.name: any("rounding" in name for name in each.error) for each in kept}
    assert tried == {"c1": True, "d1": True, "c2": True, "c3": False, "fc": True}


# ----------------------------------------------------------------------------------------------------- activations

ACTIVATIONS = {
    "none": "",
    "relu": "9=1",
    "leaky": "9=2 -23310=1,0.1",
    "clip": "9=3 -23310=2,-1.0,2.5",
    "sigmoid": "9=4",
    "mish": "9=5",
    "hardswish": "9=6 -23310=2,0.16666667,0.5",
    "another hardswish": "9=6 -23310=2,0.25,0.3",
}
Z = np.linspace(-9, 9, 1201)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_equal_ncnns(kind: str) -> None:
    graph = network(
        f"Input in0 0 1 in0 0={len(Z)} 1=1 2=1\nConvolution m 1 1 in0 out0 0=1 1=1 6=1 {ACTIVATIONS[kind]}",
    )
    graph.layer("m").weights["weight"] = np.ones((1, 1, 1, 1), np.float32)
    z = Z.astype(np.float32)
    found = outputs(graph, z.reshape(1, 1, 1, -1)).reshape(-1)
    assert np.allclose(activation(graph.layer("m")).f(z), found, atol=1e-5)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_slopes_are_the_derivatives(kind: str) -> None:
    graph = network(f"Convolution m 1 1 in0 out0 0=1 1=1 6=4 {ACTIVATIONS[kind]}")
    act, h = activation(graph.layer("m")), 1e-4
    numeric = (act.f(Z + h) - act.f(Z - h)) / (2 * h)
    smooth = np.abs(act.f(Z + h) - 2 * act.f(Z) + act.f(Z - h)) < 1e-6  # not across a corner
    assert smooth.mean() > 0.99
    assert np.allclose(act.slope(Z)[smooth], numeric[smooth], atol=1e-4)
    assert np.isfinite(act.f(np.array([-1e4, 1e4], np.float32))).all()
    assert np.isfinite(act.slope(np.array([-1e4, 1e4], np.float32))).all()


# ------------------------------------------------------------------------------------------------------ layer by layer

NETWORKS = {
    "small": SMALL,
    "groups": """
        Input                in0 0 1 in0 0=16 1=16 2=3
        Convolution          c0 1 1 in0 b0 0=16 1=3 4=1 5=1 6=432 9=1
        ConvolutionDepthWise g  1 1 b0 b1 0=16 1=3 4=1 5=1 6=1152 7=2 9=1
        Convolution          c1 1 1 b1 b2 0=8 1=1 6=128 9=6 -23310=2,0.1666,0.5
        ConvolutionDepthWise d2 1 1 b2 b3 0=16 1=3 4=1 5=1 6=144 7=8
        Convolution          c3 1 1 b3 out0 0=1 1=3 5=1 6=144
    """,
    "inner products": """
        Input                in0 0 1 in0 0=16 1=16 2=3
        Pooling              p  1 1 in0 v0 0=1 1=4 2=4
        InnerProduct         f0 1 1 v0 b0 0=20 1=1 2=960 9=1
        InnerProduct         f1 1 1 b0 b1 0=20 1=1 2=400 9=4
        InnerProduct         f2 1 1 b1 out0 0=1 2=20
    """,
}


def smooth_samples(count: int, seed: int = 0) -> Array:
    """Images of 3x16x16 with similar neighbouring pixels."""
    rough = samples(count, (3, 20, 20), seed)
    return np.asarray(sum(rough[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)) / 5, np.float32)


def plain_int8(graph: Graph, inputs: Array, method: str = "mse") -> Graph:
    stats = calibrate(graph, [inputs], method=method, threads=1)
    return apply_table(graph, make_table(graph, stats), target="x86", finish=False)


def assert_consistent(graph: Graph, plain: Graph, fitted: Graph, kept: Sequence[Kept], methods: frozenset[str]) -> None:
    layers = [layer for layer in fitted.layers if layer.params.get("int8_scale_term")]
    assert [each.name for each in kept] == [layer.name for layer in layers]
    for each in kept:
        assert each.error[each.kept] == min(each.error.values())
        assert "" in each.error
        assert all(set(name.split("+")) <= methods for name in each.error if name)
        assert all(error >= 0 for error in each.error.values())
    for ours, before, original in zip(fitted.layers, plain.layers, graph.layers, strict=True):
        if ours not in layers:
            assert ours == before
            continue
        assert {k: v.shape for k, v in ours.weights.items() if k != "bias"} == {
            k: v.shape for k, v in before.weights.items() if k != "bias"
        }
        assert ours.array("bias").shape == (original.get("num_output"),)
        weight = ours.weights["weight"]
        assert isinstance(weight, np.ndarray)
        assert weight.dtype == np.int8
        assert int(np.abs(weight.astype(int)).max()) <= 127
        assert np.array_equal(ours.array("input_scale"), before.array("input_scale"))
        scales = ours.array("weight_scales")
        assert (scales > 0).all()
        assert np.isfinite(scales).all()


@pytest.mark.parametrize("methods", [frozenset({"rounding", "bias"}), ALL], ids=["rounding, bias", "all"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_fitted_networks_have_a_smaller_error_on_other_samples(kind: str, methods: frozenset[str]) -> None:
    count = 60 if kind == "inner products" else 15  # a sample is one row of theirs
    graph, inputs, others = network(NETWORKS[kind]), smooth_samples(count), smooth_samples(count, seed=1)
    plain = plain_int8(graph, inputs)
    before = {layer.name: dict(layer.weights) for layer in plain.layers}
    fitted, kept = fit_layers(graph, plain, stream(inputs), methods, threads=1, rows=1024)
    assert_consistent(graph, plain, fitted, kept, methods)
    assert all(layer.weights[k] is w for layer in plain.layers for k, w in before[layer.name].items())
    exact = outputs(graph, others)
    assert accuracy.mse(outputs(fitted, others), exact) <= accuracy.mse(outputs(plain, others), exact)


def test_six_bits_stay_six_bits() -> None:
    graph, inputs, others = small(), smooth_samples(15), smooth_samples(10, seed=1)
    plain = plain_int8(graph, inputs, "kl")
    fitted, _ = fit_layers(graph, plain, stream(inputs), ALL, threads=1, rows=1024)
    largest = {
        layer.name: int(np.abs(layer.array("weight")).max())
        for layer in fitted.layers if layer.params.get("int8_scale_term")
    }  # fmt: skip
    assert {name for name, most in largest.items() if most <= 31} == {"c1", "c3"}
    assert {la.name for la in graph.layers if runs_winograd(la)} == {"c1", "c3"}
    exact = outputs(graph, others)
    assert accuracy.mse(outputs(fitted, others), exact) < accuracy.mse(outputs(plain, others), exact)


def test_fitting_is_deterministic() -> None:
    graph, inputs = small(), smooth_samples(6)
    plain = plain_int8(graph, inputs)
    runs = [fit_layers(graph, plain, stream(inputs), ALL, threads=threads, rows=512) for threads in (2, 1)]
    for fitted, kept in runs[1:]:
        assert fitted == runs[0][0]
        assert kept == runs[0][1]


@pytest.mark.parametrize(
    ("line", "gains"),
    [
        ("Convolution m 1 1 in0 out0 0=1 1=1 5=1 6=3", True),
        ("Convolution m 1 1 in0 out0 0=4 1=1 6=12", True),
        ("InnerProduct m 1 1 in0 out0 0=1 1=1 2=768", True),
        ("ConvolutionDepthWise m 1 1 in0 out0 0=3 1=3 5=1 6=27 7=3", True),
        ("ConvolutionDepthWise m 1 1 in0 out0 0=6 1=3 5=1 6=54 7=3", False),  # two channels share a scale
    ],
)
def test_gains_are_written_as_they_were_judged(line: str, gains: bool) -> None:
    """If the original is a fifth smaller than the rounded version, only a gain helps."""
    graph = network(f"Input in0 0 1 in0 0=16 1=16 2=3\n{line}")
    inputs = samples(10)
    plain = plain_int8(graph, inputs)
    smaller = graph.copy()
    for name in graph.layer("m").weights:
        smaller.layer("m").weights[name] = graph.layer("m").array(name) * np.float32(0.8)
    fitted, (kept,) = fit_layers(smaller, plain, stream(inputs), frozenset({"gain"}), threads=1, rows=10**6)
    assert ("gain" in kept.error) == gains
    if kept.kept == "gain":
        held, exact = slice(4, None, 5), outputs(smaller, inputs)
        error = accuracy.mse(outputs(fitted, inputs)[held], exact[held]) / np.mean(exact[held] ** 2)
        assert error == pytest.approx(kept.error["gain"], rel=0.01)


def test_methods_that_are_not_requested_are_not_tried() -> None:
    graph, inputs = small(), samples(5)
    plain = plain_int8(graph, inputs)
    fitted, kept = fit_layers(graph, plain, stream(inputs), frozenset({"bias"}), threads=1, rows=256)
    assert {name for each in kept for name in each.error} == {"", "bias"}
    for ours, before in zip(fitted.layers, plain.layers, strict=True):
        if "weight" in ours.weights:
            assert np.array_equal(ours.array("weight"), before.array("weight"))


@pytest.mark.parametrize("method", ["nothing is asked for", "nothing helps"])
def test_a_layer_without_changes_stays_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = small(), samples(6)
    plain = plain_int8(graph, inputs)
    for layer in plain.layers:  # far from the bias that keeps the means, so that any fit is noticed
        if "bias" in layer.weights:
            layer.weights["bias"] = layer.array("bias") + np.float32(0.1)
    methods = frozenset[str]()
    if method == "nothing helps":
        methods = ALL
        for name in ("round", "correct"):
            worse = lambda problem, fit, **_: Fit(fit.steps, fit.bias + 100, fit.gain)  # noqa: E731
            monkeypatch.setattr(_Problem, name, worse)
    fitted, kept = fit_layers(graph, plain, stream(inputs), methods, threads=1, rows=256)
    assert fitted == plain
    assert {each.kept for each in kept} == {""}


def test_progress_ends_and_layers_in_float_are_left() -> None:
    graph, inputs = small(), samples(2)
    stats = calibrate(graph, [inputs], threads=1)
    plain = apply_table(graph, make_table(graph, stats).without({"c2", "c3"}), target="x86", finish=False)
    seen: list[tuple[int, int]] = []
    fitted, kept = fit_layers(
        graph, plain, stream(inputs), ALL, threads=1, rows=64, progress=lambda d, n: seen.append((d, n))
    )
    assert [each.name for each in kept] == ["c1", "d1", "fc"]
    assert fitted.layer("c2") == graph.layer("c2")
    assert seen[0] == (0, len(graph.layers))
    assert seen[-1] == (1, 1)
