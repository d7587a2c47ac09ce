"""Zero points: the lowered network computes the same, int8 has a smaller error, and fixed blobs stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, samples
from numpy.typing import NDArray

from ncnnkit.device.session import Session
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.model.ops import FLOAT_MAX
from ncnnkit.quantization import Table, apply_table, finished, make_table
from ncnnkit.quantization.calibration import calibrate
from ncnnkit.quantization.int8 import rounded_weights
from ncnnkit.quantization.scales import weight_scales
from ncnnkit.quantization.zeropoint import Lowering

Array = NDArray[Any]

HEAD = "Convolution c0 1 1 in0 x 0=8 1=1 5=1 6=32 9=1\n"
RELU6 = "Convolution c0 1 1 in0 x 0=8 1=1 5=1 6=32 9=3 -23310=2,0.0,6.0\n"
PADDED = "Convolution last 1 1 {} out0 0=6 1=3 4=1 5=1 6=432\n"
PLAIN = "Convolution last 1 1 {} out0 0=6 1=1 5=1 6=48\n"

LOWERED: dict[str, tuple[str, dict[str, int]]] = {
    "chain of padded": (
        HEAD + "Convolution m 1 1 x y 0=8 1=3 4=1 5=1 6=576 9=1\n" + PADDED.format("y"), {"x": -1, "y": -1},
    ),
    "without padding": (HEAD + "Convolution m 1 1 x y 0=8 1=3 5=1 6=576 9=1\n" + PLAIN.format("y"), {"x": 1, "y": 1}),
    "without bias": (HEAD + "Convolution m 1 1 x y 0=8 1=3 4=1 6=576 9=1\n" + PLAIN.format("y"), {"x": -1, "y": 1}),
    "padded with a value": (HEAD + PADDED.format("x").replace("5=1", "5=1 18=1.5"), {"x": -1}),
    "relu6, depthwise": (
        RELU6 + "ConvolutionDepthWise m 1 1 x y 0=8 1=3 4=1 5=1 6=72 7=8 9=3 -23310=2,0.0,6.0\n" + PLAIN.format("y"),
        {"x": -1, "y": 1},
    ),
    "groups": (
        HEAD + "ConvolutionDepthWise m 1 1 x y 0=8 1=3 4=1 5=1 6=288 7=2 9=1\n" + PADDED.format("y"), {"x": -1, "y": -1}
    ),
    "relu layer": (
        "Convolution c0 1 1 in0 z 0=8 1=1 5=1 6=32\nReLU r 1 1 z x\n" + PADDED.format("x"), {"z": -1, "x": -1}
    ),
    "clip layer": (
        "Convolution c0 1 1 in0 z 0=8 1=1 5=1 6=32\nClip r 1 1 z x 0=0.0 1=0.7\n" + PADDED.format("x"),
        {"z": -1, "x": -1},
    ),
    "residual": (
        HEAD + "Split s 1 2 x a b\nConvolution m 1 1 a c 0=8 1=3 4=1 5=1 6=576\n"
        "BinaryOp add 2 1 c b d 0=0\nReLU r 1 1 d y\n" + PLAIN.format("y"),
        {"x": -1, "a": -1, "b": -1, "d": -1, "y": -1},
    ),
    "residual, the other way round": (
        HEAD + "Split s 1 2 x a b\nConvolution m 1 1 a c 0=8 1=1 5=1 6=64\n"
        "BinaryOp add 2 1 b c d 0=0\nReLU r 1 1 d y\n" + PADDED.format("y"),
        {"x": -1, "a": -1, "b": -1, "d": -1, "y": -1},
    ),
    "convolution shortcut": (
        HEAD + "Split s 1 2 x a b\nConvolution m 1 1 a c 0=8 1=3 4=1 5=1 6=576\nConvolution n 1 1 b e 0=8 1=1 6=64\n"
        "BinaryOp add 2 1 c e d 0=0\nReLU r 1 1 d y\n" + PADDED.format("y"),
        {"x": -1, "a": -1, "b": -1, "d": -1, "e": -1, "y": -1},
    ),
    "max pooling": (HEAD + "Pooling p 1 1 x y 0=0 1=3 2=2 3=1 5=1\n" + PLAIN.format("y"), {"x": 1, "y": 1}),
    "average pooling": (HEAD + "Pooling p 1 1 x y 0=1 1=3 2=2 3=1 5=1\n" + PADDED.format("y"), {"x": -1, "y": -1}),
    "concat": (
        HEAD + "Split s 1 2 x a b\nConvolution m 1 1 a c 0=4 1=1 5=1 6=32 9=1\n"
        "Convolution n 1 1 b d 0=4 1=3 4=1 5=1 6=288 9=1\nConcat cat 2 1 c d y 0=0\n" + PADDED.format("y"),
        {"x": -1, "a": -1, "b": -1, "c": -1, "d": -1, "y": -1},
    ),
    "global pooling": (
        HEAD + "Pooling gap 1 1 x v 0=1 4=1\nInnerProduct fc 1 1 v out0 0=5 1=1 2=40\n", {"x": 1, "v": 1}
    ),
    "inner products": (
        HEAD + "InnerProduct fc 1 1 x w 0=7 1=1 2=1680 9=1\nInnerProduct fd 1 1 w out0 0=5 2=35\n", {"x": 1, "w": 1}
    ),
}  # fmt: skip

FIXED = {
    "network output": HEAD,
    "read and an output": HEAD + "Split s 1 2 x a out1\n" + PLAIN.format("a"),
    "network input": "Convolution c0 1 1 in0 out0 0=8 1=1 5=1 6=32",
    "not one-sided": HEAD.replace("9=1", "") + PLAIN.format("x"),
    "sigmoid": HEAD.replace("9=1", "9=4") + PLAIN.format("x"),
    "swish": "Convolution c0 1 1 in0 z 0=8 1=1 5=1 6=32\nSwish w 1 1 z x\n" + PLAIN.format("x"),
    "leaky": HEAD.replace("9=1", "9=2 -23310=1,0.1") + PLAIN.format("x"),
    "gate": HEAD + "Split s 1 2 x a b\nSigmoid g 1 1 a c\nBinaryOp mul 2 1 b c y 0=2\n" + PLAIN.format("y"),
    "squeeze and excitation": HEAD + "Split s 1 2 x a b\nPooling gap 1 1 a v 0=1 4=1\n"
    "Convolution q 1 1 v u 0=8 1=1 6=64 9=4\nBinaryOp mul 2 1 b u y 0=2\n" + PLAIN.format("y"),
    "max pooling before padding": HEAD + "Pooling p 1 1 x y 0=0 1=2 2=1\n" + PADDED.format("y"),
    "average that counts padding": HEAD + "Pooling p 1 1 x y 0=1 1=3 2=1 3=1 5=1 6=1\n" + PLAIN.format("y"),
    "sum of what nothing linear makes": HEAD + "Split s 1 2 x a b\nBinaryOp add 2 1 a b y 0=0\n" + PLAIN.format("y"),
}  # fmt: skip


def blobs_of(graph: Graph, inputs: Array, names: list[str]) -> dict[str, Array]:
    with Session(graph, keep_blobs=True, threads=1) as net:
        rows = [net.blobs(x, names=names) for x in inputs]
    return {name: np.stack(column) for name, column in zip(names, zip(*rows))}


def outputs(graph: Graph, inputs: Array) -> Array:
    with Session(graph, threads=1) as net:
        return np.stack([net.run(x) for x in inputs])


def pairs(one: Graph, other: Graph) -> Iterator[tuple[Layer, Layer]]:
    return zip(one.layers, other.layers, strict=True)


def near(found: Array, expected: Array) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------- what stays equal


@pytest.mark.parametrize("kind", LOWERED)
def test_the_lowered_network_computes_the_same(kind: str) -> None:
    text, signs = LOWERED[kind]
    graph, inputs = network(text), samples(3, (4, 5, 6))
    lowering = Lowering(graph)
    lowered = {blob for group in lowering.groups for blob in group.blobs}
    assert {blob: lowering.sign(blob) for blob in signs} == signs
    assert lowered <= signs.keys()
    offsets = {group: 0.3 + 0.2 * i for i, group in enumerate(lowering.groups)}
    of = {blob: offset for group, offset in offsets.items() for blob in group.blobs}
    changed = lowering.apply(offsets)
    names = [*signs, "out0"]
    before, after = blobs_of(graph, inputs, names), blobs_of(changed, inputs, names)
    assert near(after["out0"], before["out0"])
    for blob, sign in signs.items():
        assert np.allclose(after[blob], sign * (before[blob] - of.get(blob, 0.0)), atol=2e-5), blob
    assert graph == network(text), "the given graph is not changed"


@given(
    st.sampled_from(sorted(LOWERED)), st.booleans(), st.lists(st.just(0.0) | st.floats(0, 5), min_size=1, max_size=4)
)
@settings(deadline=None, max_examples=5)
def test_the_network_computes_the_same_for_any_offsets(kind: str, pads: bool, values: list[float]) -> None:
    graph, inputs = network(LOWERED[kind][0]), samples(1, (4, 5, 6), seed=4)
    lowering = Lowering(graph, pads=pads)
    offsets = dict(zip(lowering.groups, np.resize(values, len(lowering.groups)).tolist()))
    expected = outputs(graph, inputs)
    error = np.abs(outputs(lowering.apply(offsets), inputs) - expected).max()
    # An offset much larger than the values loses digits of fp32.
    assert error <= 1e-5 * max(np.abs(expected).max(), *values)


@pytest.mark.parametrize("kind", LOWERED)
def test_padded_blobs_are_not_lowered_if_kernels_cannot_pad(kind: str) -> None:
    graph = network(LOWERED[kind][0])
    lowering = Lowering(graph, pads=False)
    assert not any(group.padded for group in lowering.groups)
    changed = lowering.apply(dict.fromkeys(lowering.groups, 0.5))
    assert all(a.params.get("pad_value", 0.0) == b.params.get("pad_value", 0.0) for a, b in pairs(changed, graph))


@pytest.mark.parametrize("kind", FIXED)
def test_fixed_blobs_are_not_lowered(kind: str) -> None:
    graph = network(FIXED[kind])
    lowering = Lowering(graph)
    left = {blob for group in lowering.groups for blob in group.blobs}
    assert not left & {"in0", "out0", "out1", "x", "a", "b", "y"}, left
    assert lowering.apply(dict.fromkeys(lowering.groups, 0.5)) == graph


def test_inputs_and_outputs_are_never_lowered() -> None:
    for text, _ in LOWERED.values():
        for group in Lowering(network(text)).groups:
            assert not group.blobs & {"in0", "out0"}


def test_another_version_of_the_network_can_be_lowered() -> None:
    graph, inputs = network(LOWERED["residual"][0]), samples(2, (4, 5, 6))
    rounded = rounded_weights(graph, make_table(graph, calibrate(graph, [inputs], threads=1)))
    lowering = Lowering(graph)
    changed = lowering.apply(dict.fromkeys(lowering.groups, 0.4), rounded)
    assert near(outputs(changed, inputs), outputs(rounded, inputs))
    assert not near(outputs(changed, inputs), outputs(graph, inputs))


# ------------------------------------------------------------------------------------------------------------- int8

# Readers of one blob, each with its own output. The padded readers negate it.
READERS = {
    "padded": """
        Convolution p3 1 1 {} {} 0=16 1=3 4=1 5=1 6=1152
        Convolution few 1 1 {} {} 0=5 1=3 4=1 5=1 6=360
        Convolution stride 1 1 {} {} 0=16 1=3 3=2 4=1 5=1 6=1152
        Convolution side 1 1 {} {} 0=8 1=5 4=2 15=0 14=0 16=2 5=1 6=1600
        Convolution dilated 1 1 {} {} 0=8 1=3 2=2 4=2 5=1 6=576
        Convolution same 1 1 {} {} 0=8 1=3 3=2 4=-233 5=1 6=576
        ConvolutionDepthWise dw 1 1 {} {} 0=8 1=3 4=1 5=1 6=72 7=8
        ConvolutionDepthWise dwstride 1 1 {} {} 0=8 1=3 3=2 4=1 5=1 6=72 7=8
        ConvolutionDepthWise dw5 1 1 {} {} 0=8 1=5 4=2 5=1 6=200 7=8
    """,
    "not padded": """
        Convolution k3 1 1 {} {} 0=16 1=3 5=1 6=1152
        Convolution k1 1 1 {} {} 0=16 1=1 5=1 6=128
        Convolution stride 1 1 {} {} 0=16 1=3 3=2 5=1 6=1152
        ConvolutionDepthWise dw 1 1 {} {} 0=8 1=3 5=1 6=72 7=8
    """,
    "inner product": "InnerProduct fc 1 1 {} {} 0=7 1=1 2=4536\nInnerProduct fd 1 1 {} {} 0=9 2=5832",
}


def whole_steps() -> Array:
    """Inputs that int8 represents exactly with scale 1."""
    return np.rint(samples(4, (4, 9, 9)) * 40).clip(-127, 127)


def reading(head: str, readers: str) -> tuple[Graph, Table]:
    """A network with weights that int8 represents exactly, and its table."""
    lines = [line.strip() for line in readers.splitlines() if line.strip()]
    copies = [f"x{i}" for i in range(len(lines))]
    text = "".join(line.format(copy, f"out{i}") + "\n" for i, (line, copy) in enumerate(zip(lines, copies)))
    split = f"Split s 1 {len(copies)} x {' '.join(copies)}\n" if len(copies) > 1 else ""
    text = text if split else text.replace("x0", "x")
    graph = network("Input in0 0 1 in0 0=9 1=9 2=4\n" + head + split + text, seed=1)
    table = make_table(graph, calibrate(graph, [whole_steps()], method="minmax", threads=1))
    return rounded_weights(graph, table), replace(table, inputs={**table.inputs, "c0": 1.0})


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
@pytest.mark.parametrize("kind", READERS)
def test_int8_has_a_smaller_error_on_lowered_activations(kind: str, chained: bool) -> None:
    graph, table = reading(RELU6.replace("6.0", "99.0") if chained else HEAD, READERS[kind])
    table = table if chained else table.without({"c0"})
    inputs, names = whole_steps(), graph.outputs
    found = blobs_of(graph, inputs, ["x", *names])
    (group,) = (lowering := Lowering(graph)).groups
    assert lowering.sign("x") == (-1 if kind == "padded" else 1)
    offset = float(found["x"].max()) / 2
    finer = replace(table, inputs={name: s if name == "c0" else 127 / offset for name, s in table.inputs.items()})
    plain, fine = (
        apply_table(g, t, target="x86") for g, t in ((graph, table), (lowering.apply({group: offset}), finer))
    )
    assert ("output_scale" in fine.layer("c0").weights) == (chained and kind != "inner product")
    before, after = (blobs_of(made, inputs, names) for made in (plain, fine))
    for name in names:
        errors = [float(np.mean((made[name] - found[name]) ** 2)) for made in (before, after)]
        assert errors[1] < 0.5 * errors[0], (name, errors)  # half the step, a quarter of the error


@given(st.floats(0.1, 3), st.floats(10, 60))
@settings(deadline=None, max_examples=50)
def test_the_padding_of_an_int8_layer_is_in_steps(offset: float, scale: float) -> None:
    graph = network(HEAD + PADDED.format("x"))
    weights = {f"{name}_param_0": weight_scales(graph.layer(name)) for name in ("c0", "last")}
    (group,) = (lowering := Lowering(graph)).groups
    lowered = lowering.apply({group: offset})
    assert lowered.layer("last").get("pad_value") == pytest.approx(offset)
    made = apply_table(lowered, Table(weights, {"c0": 1.0, "last": scale}), target="x86")
    assert made.layer("last").get("pad_value") == np.clip(np.rint(offset * scale), -127, 127)
    plain = apply_table(graph, Table(weights, {"last": scale}), target="x86")
    assert plain.layer("last").get("pad_value") == 0


# ----------------------------------------------------------------------------------------------------------- finished


@pytest.mark.parametrize("kind", ["padded", "not padded"])
@pytest.mark.parametrize("head", ["relu", "bounded", "narrow"])
def test_an_activation_is_removed_if_saturation_does_the_same(kind: str, head: str) -> None:
    text = {"relu": HEAD, "bounded": RELU6.replace("6.0", "20.0"), "narrow": RELU6.replace("6.0", "9.0")}[head]
    graph, table = reading(text, READERS[kind].strip().splitlines()[0])
    (reader,) = (name for name in table.inputs if name != "c0")
    (group,) = (lowering := Lowering(graph)).groups
    lowered, inputs = lowering.apply({group: 10.0}), whole_steps()

    def made(scale: float, names: str) -> tuple[Graph, Graph]:
        chosen = Table(table.weights, {name: {"c0": 1.0, reader: scale}[name] for name in names.split()})
        whole = apply_table(lowered, chosen, target="x86", finish=False)
        return whole, finished(whole, fp16=False)

    whole, done = made(12.7, f"c0 {reader}")
    assert whole.layer("c0").get("activation_type") == 3
    kept = head == "narrow"  # its upper bound, 9, is below what int8 reaches
    assert done.layer("c0").get("activation_type") == (3 if kept else 0)
    assert ("activation_params" in done.layer("c0").params) == kept
    assert np.array_equal(outputs(whole, inputs), outputs(done, inputs))
    assert (done == whole) == kept

    for other in (
        made(6.0, f"c0 {reader}"),
        made(12.7, "c0"),
        made(12.7, reader),
    ):  # wider range; real numbers; not int8
        assert other[0] == other[1]
    coarse = made(13.0, f"c0 {reader}")  # int8 ends before the bounds do
    assert coarse[1].layer("c0").get("activation_type") == (3 if kept else 0)
    assert np.array_equal(outputs(coarse[0], inputs), outputs(coarse[1], inputs))


def test_bounds_of_a_relu_are_kept_without_limit_above() -> None:
    graph = network(HEAD + PLAIN.format("x"))
    (group,) = (lowering := Lowering(graph)).groups
    low, high = lowering.apply({group: 2.0}).layer("c0").get("activation_params")
    assert (low, high) == (-2.0, pytest.approx(FLOAT_MAX))
    assert finished(graph, fp16=False) == graph
