"""Channel scale migration: the network computes the same, ranges become more equal, and fixed blobs stay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, samples, small, stream
from numpy.typing import NDArray

from ncnnkit.device.session import Session
from ncnnkit.errors import ModelError, RecipeError
from ncnnkit.model.graph import Graph
from ncnnkit.quantization.calibration import observe
from ncnnkit.quantization.equalize import Channels, _components, channel_scales, migrate

Array = NDArray[Any]

TAIL = """
    Convolution      last   1 1 {} l0 0=6 1=3 4=1 5=1 6={}
    Pooling          gap    1 1 l0 l1 0=1 4=1
    InnerProduct     fc     1 1 l1 out0 0=5 1=1 2=30
"""
HEAD = "Input in0 0 1 in0 0=6 1=5 2=4\nConvolution head 1 1 in0 x 0=8 1=3 4=1 5=1 6=288 9=1\n"


def chain(middle: str = "", last: str = "x", channels: int = 8) -> str:
    return HEAD + middle + TAIL.format(last, channels * 54)


CHAINS = {
    "convolution": chain(),
    "leaky": chain("Convolution m 1 1 x y 0=8 1=1 5=1 6=64 9=2 -23310=1,0.1\n", "y"),
    "relu": chain("Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nReLU r 1 1 z y\n", "y"),
    "leaky relu layer": chain("Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nReLU r 1 1 z y 0=0.2\n", "y"),
    "without bias": chain("Convolution m 1 1 x y 0=8 1=1 6=64\n", "y"),
    "max pooling": chain("Pooling m 1 1 x y 0=0 1=3 2=2 3=1 5=1\n", "y"),
    "average pooling": chain("Pooling m 1 1 x y 0=1 1=3 2=1 3=1 5=1 6=1\n", "y"),
    "dropout": chain("Dropout m 1 1 x y\n", "y"),
    "residual": chain(
        "Split s 1 2 x a b\nConvolution m 1 1 a c 0=8 1=3 4=1 5=1 6=576\n"
        "BinaryOp add 2 1 c b d 0=0\nReLU r 1 1 d y\n",
        "y",
    ),
    "difference": chain("Split s 1 2 x a b\nConvolution m 1 1 a c 0=8 1=1 6=64\nBinaryOp sub 2 1 b c y 0=1\n", "y"),
    "concat": chain(
        "Split s 1 2 x a b\nConvolution m 1 1 a c 0=4 1=1 5=1 6=32 9=1\n"
        "Convolution n 1 1 b d 0=8 1=3 4=1 5=1 6=576 9=1\nConcat cat 2 1 c d y 0=0\n",
        "y",
        12,
    ),
    "depthwise": chain("ConvolutionDepthWise m 1 1 x y 0=8 1=3 4=1 5=1 6=72 7=8 9=1\n", "y"),
    "depthwise, two rows a channel": chain("ConvolutionDepthWise m 1 1 x y 0=16 1=3 4=1 5=1 6=144 7=8 9=1\n", "y", 16),
    "groups": chain("ConvolutionDepthWise m 1 1 x y 0=8 1=3 4=1 5=1 6=288 7=2 9=1\n", "y"),
    "inner products": HEAD + "Pooling gap 1 1 x v 0=1 4=1\nInnerProduct m 1 1 v w 0=7 1=1 2=56 9=1\n"
    "InnerProduct fc 1 1 w out0 0=5 1=1 2=35\n",
    "inner product of a map": HEAD + "InnerProduct fc 1 1 x out0 0=5 1=1 2=1200\n",
    "flattened pixel": HEAD + "Pooling p 1 1 x v 0=1 1=6 11=5 5=1\nFlatten f 1 1 v w\n"
    "InnerProduct fc 1 1 w out0 0=5 1=1 2=40\n",
}  # fmt: skip

FIXED = {
    "relu6": chain("Convolution m 1 1 x y 0=8 1=1 5=1 6=64 9=3 -23310=2,0.0,6.0\n", "y"),
    "sigmoid": chain("Convolution m 1 1 x y 0=8 1=1 5=1 6=64 9=4\n", "y"),
    "hardswish": chain("Convolution m 1 1 x y 0=8 1=1 5=1 6=64 9=6 -23310=2,0.1666,0.5\n", "y"),
    "clip": chain("Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nClip c 1 1 z y 0=0.0 1=6.0\n", "y"),
    "swish": chain(
        "Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nSplit s 1 2 z a b\n"
        "Sigmoid g 1 1 a c\nBinaryOp mul 2 1 b c y 0=2\n",
        "y",
    ),
    "dropout that scales": chain("Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nDropout d 1 1 z y 0=0.5\n", "y"),
    "concat of rows": chain(
        "Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nSplit s 1 2 z a b\nConcat c 2 1 a b y 0=1\n", "y"
    ),
    "plus a constant": chain("Convolution m 1 1 x z 0=8 1=1 5=1 6=64\nBinaryOp c 1 1 z y 0=0 1=1 2=1.0\n", "y"),
    "padded with ones": chain("Convolution m 1 1 x y 0=8 1=1 5=1 6=64\n", "y").replace("6=432", "6=432 18=1.0"),
    "flattened map": HEAD + "Convolution m 1 1 x y 0=8 1=1 5=1 6=64\nFlatten f 1 1 y w\n"
    "InnerProduct fc 1 1 w out0 0=5 1=1 2=1200\n",
    "map of unknown size": chain().replace(" 0=6 1=5 2=4", "").replace(TAIL.format("x", 432), "")
    + "Convolution m 1 1 x y 0=8 1=1 5=1 6=64\nInnerProduct fc 1 1 y out0 0=5 1=1 2=1200\n",
    "network output": HEAD + "Convolution m 1 1 x y 0=8 1=1 5=1 6=64\n",
}  # fmt: skip


def uneven(text: str, seed: int = 0) -> Graph:
    """A network with channels that differ in size by factors up to two hundred."""
    graph = network(text, seed)
    rng = np.random.default_rng(seed + 1)
    for layer in graph.layers:
        if "weight" in layer.weights:
            weight = layer.array("weight")
            factors = np.exp(rng.uniform(-2.7, 2.7, layer.get("num_output"))).astype(np.float32)
            layer.weights["weight"] = (weight.reshape(len(factors), -1) * factors[:, np.newaxis]).reshape(weight.shape)
            if layer.get("bias_term"):
                layer.weights["bias"] = layer.array("bias") * factors
    return graph


def outputs(graph: Graph, inputs: Array) -> Array:
    with Session(graph) as net:
        return np.stack([net.run(x) for x in inputs])


def assert_equal(graph: Graph, changed: Graph, inputs: Array) -> None:
    expected = outputs(graph, inputs)
    assert np.abs(outputs(changed, inputs) - expected).max() <= 1e-5 * np.abs(expected).max()


def channel_ranges(graph: Graph, inputs: Array) -> Mapping[str, Array]:
    """The ranges over all inputs."""
    return observe(graph, stream(inputs), histograms=False, channels=range(len(inputs)), threads=1).channels


def spread(ranges: Mapping[str, Array], blob: str) -> float:
    live = ranges[blob][ranges[blob] > 1e-6]
    return float(np.log(live).std())


# ------------------------------------------------------------------------------------------------- what stays equal


@pytest.mark.parametrize("kind", CHAINS)
def test_the_network_computes_the_same(kind: str) -> None:
    graph, inputs = uneven(CHAINS[kind]), samples(3, (4, 5, 6))
    changed = migrate(graph, channel_ranges(graph, inputs), 0.5)
    assert changed != graph
    assert_equal(graph, changed, inputs)


@given(
    st.sampled_from(sorted([*CHAINS, "small"])),
    st.floats(0, 1),
    st.lists(st.floats(0, 1e6) | st.just(float("nan")), min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=6)
def test_the_network_computes_the_same_for_any_ranges(kind: str, strength: float, values: list[float]) -> None:
    graph = small() if kind == "small" else uneven(CHAINS[kind])
    inputs = samples(1, (3, 16, 16) if kind == "small" else (4, 5, 6))
    ranges = {blob: np.resize(values, len(numbers)) for blob, numbers in Channels(graph).blobs.items()}
    scales = channel_scales(graph, ranges, strength)
    assert all(np.isfinite(s).all() and s.min() >= 0.99 / 64 and s.max() <= 64.01 for s in scales.values())
    assert_equal(graph, migrate(graph, ranges, strength), inputs)


def test_the_given_graph_is_not_changed() -> None:
    graph = uneven(CHAINS["residual"])
    before = {layer.name: {k: np.copy(layer.array(k)) for k in layer.weights} for layer in graph.layers}
    for layer in graph.layers:
        for name in layer.weights:
            layer.array(name).flags.writeable = False
    migrate(graph, channel_ranges(graph, samples(2, (4, 5, 6))), 0.7)
    assert all(np.array_equal(layer.array(k), w) for layer in graph.layers for k, w in before[layer.name].items())


# -------------------------------------------------------------------------------------------------- what may not move


@pytest.mark.parametrize("kind", FIXED)
def test_layers_that_are_not_homogeneous_keep_their_blobs(kind: str) -> None:
    graph = uneven(FIXED[kind])
    ranges = {blob: np.arange(1.0, len(n) + 1) for blob, n in Channels(graph).blobs.items()}
    scales = channel_scales(graph, ranges, 0.5)
    touched = {blob for layer in graph.layers if layer.name == "m" for blob in layer.outputs}
    assert touched
    assert all((scales[blob] == 1).all() for blob in {*touched, "in0", "out0"} & scales.keys())
    changed = migrate(graph, ranges, 0.5)
    rows = graph.layer("m").get("num_output")  # the columns of m change with its input, but not its rows
    before, after = (g.layer("m").array("weight").reshape(rows, -1) for g in (graph, changed))
    ratio = after / before
    assert np.allclose(ratio, ratio[:1], rtol=1e-5)
    assert not np.allclose(ratio, 1)
    assert_equal(graph, changed, samples(2, (4, 5, 6)))


# ---------------------------------------------------------------------------------------------------- what is chosen


@pytest.mark.parametrize("kind", ["convolution", "relu", "max pooling", "concat", "depthwise", "inner products"])
def test_ranges_become_more_alike_with_the_strength(kind: str) -> None:
    graph, inputs = uneven(CHAINS[kind], seed=3), samples(4, (4, 5, 6))
    ranges = channel_ranges(graph, inputs)
    half, full = (channel_ranges(migrate(graph, ranges, s), inputs) for s in (0.5, 1.0))
    for blob in ranges.keys() - {"in0"}:
        assert spread(full, blob) < min(0.3 * spread(ranges, blob), spread(half, blob) + 0.1), blob


def test_scales_are_powers_of_two_next_to_the_ranges() -> None:
    graph = uneven(CHAINS["convolution"])
    ranges = {"in0": np.ones(4), "x": np.array([1.0, 2, 4, 8, 0, 0.5, 3, 1]), "l1": np.ones(6)}
    scales = channel_scales(graph, ranges, 0.5)["x"]
    live = ranges["x"] > 0
    wanted = np.sqrt(ranges["x"][live])
    wanted /= np.exp(np.log(wanted).mean())
    assert np.array_equal(scales[live], np.exp2(np.rint(np.log2(wanted))))
    assert scales[4] == 1  # dead


def test_a_sum_ties_its_sides_and_a_concat_its_parts() -> None:
    channels = Channels(network(CHAINS["residual"]))
    assert np.array_equal(channels.groups("x"), channels.groups("y"))
    assert np.array_equal(channels.groups("c"), channels.groups("d"))
    channels = Channels(network(CHAINS["concat"]))
    assert np.array_equal(channels.groups("y"), [*channels.groups("c"), *channels.groups("d")])
    assert not np.isin(channels.groups("x"), channels.groups("y")).any()


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_components_equal_those_of_a_plain_search(pairs: list[tuple[int, int]]) -> None:
    expected = list(range(20))
    for _ in expected:
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    ties = [(np.array([a], np.intp), np.array([b], np.intp)) for a, b in pairs]
    assert _components(ties, 20).tolist() == expected


def test_long_chains_of_sums_are_quick() -> None:
    layers = ["Convolution c 1 1 in0 x0 0=1024 1=1 6=4096", "Split s0 1 2 x0 a0 b0"]
    for i in range(30):
        layers += [f"BinaryOp add{i} 2 1 a{i} b{i} x{i + 1} 0=0", f"Split s{i + 1} 1 2 x{i + 1} a{i + 1} b{i + 1}"]
    start = time.process_time()
    Channels(network("\n".join(layers)))
    assert time.process_time() - start < 2


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_strength_is_between_0_and_1() -> None:
    with pytest.raises(RecipeError, match=r"strength is 1\.5"):
        migrate(small(), {}, 1.5)


def test_ranges_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match="no ranges"):
        migrate(small(), {}, 0.5)
    ranges = {blob: np.ones(2) for blob in Channels(small()).blobs}
    with pytest.raises(ModelError, match="2 ranges for 8 channels"):
        migrate(small(), ranges, 0.5)
