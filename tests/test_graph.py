"""The graph: its properties, and the faults that :meth:`Graph.verify` refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ncnnkit.errors import FormatError
from ncnnkit.model.graph import EncodedWeight, Graph, Layer, Names
from ncnnkit.model.ncnnfile import parse_param


def network(*lines: str) -> Graph:
    blobs = sum(int(line.split()[3]) for line in lines)
    return parse_param("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]))


def branches() -> Graph:
    """An input that is copied twice. One copy goes through a ReLU, and one is an output."""
    return network(
        "Input in0 0 1 in0 0=6 1=5 2=4",
        "Split s1 1 2 in0 a b",
        "Split s2 1 2 b c d",
        "ReLU relu 1 1 c e",
        "BinaryOp add 2 1 a e out0",
    )


def convolution(**weights: Any) -> Layer:
    params = {"num_output": 2, "kernel_w": 1, "bias_term": 1, "weight_data_size": 6}
    whole = {"weight": np.ones((2, 3, 1, 1), np.float32), "bias": np.ones(2, np.float32)}
    return Layer("Convolution", "conv", ["in0"], ["out0"], dict(params), {**whole, **weights})


def around(layer: Layer) -> Graph:
    return Graph([Layer("Input", "in0", [], ["in0"]), layer])


# ------------------------------------------------------------------------------------------------------------ views


def test_inputs_and_outputs_keep_the_order_of_the_file() -> None:
    graph = branches()
    assert graph.inputs == ["in0"]
    assert graph.outputs == ["d", "out0"]
    assert graph.blob_count == 7
    two = network("Input b 0 1 b", "Input a 0 1 a", "ReLU r1 1 1 b y", "ReLU r2 1 1 a x")
    assert (two.inputs, two.outputs) == (["b", "a"], ["y", "x"])


def test_a_blob_that_only_a_noop_reads_is_an_output() -> None:
    # pnnx ends a network in this way if an output is also used inside it.
    sink = network("Input in0 0 1 in0", "ReLU r 1 1 in0 a", "Split s 1 2 a b c", "ReLU q 1 1 b d", "Noop n 2 0 c d")
    assert sink.outputs == ["c", "d"]
    dangling = network("Input in0 0 1 in0", "ReLU r 1 1 in0 a", "Noop n 1 1 a b")
    assert dangling.outputs == ["a"]


def test_a_noop_with_readers_is_a_normal_layer() -> None:
    graph = network("Input in0 0 1 in0", "ReLU r 1 1 in0 a", "Noop n 1 1 a b", "ReLU q 1 1 b out0")
    assert graph.outputs == ["out0"]


def test_uses_look_through_splits() -> None:
    uses = branches().uses()
    assert uses.roots == ("in0", "e", "out0")
    assert {blob: uses.root(blob) for blob in ("in0", "a", "b", "c", "d", "e", "out0")} == {
        "in0": "in0", "a": "in0", "b": "in0", "c": "in0", "d": "in0", "e": "e", "out0": "out0",
    }  # fmt: skip
    assert [uses.producer(blob).name for blob in ("d", "e", "out0")] == ["in0", "relu", "add"]
    assert [layer.name for layer in uses.readers("in0")] == [layer.name for layer in uses.readers("c")]
    assert [layer.name for layer in uses.readers("in0")] == ["relu", "add"]
    assert uses.readers("out0") == []


def test_a_layer_that_reads_a_value_twice_is_two_readers() -> None:
    graph = branches()
    graph.layer("add").inputs = ["e", "e"]
    assert graph.uses().readers("e") == [graph.layer("add")] * 2


def test_a_value_is_an_output_if_a_copy_of_it_is() -> None:
    graph = network("Input in0 0 1 in0", "ReLU r 1 1 in0 a", "Split s 1 2 a b c", "ReLU q 1 1 b d")
    uses = graph.uses()
    assert [uses.is_output(blob) for blob in ("in0", "a", "b", "c", "d")] == [False, True, True, True, True]


def test_a_noop_without_readers_is_not_a_reader() -> None:
    marks = network("Input in0 0 1 in0", "ReLU r 1 1 in0 a", "Noop n 1 0 a").uses()
    assert (marks.readers("a"), marks.is_output("a")) == ([], True)
    between = network("Input in0 0 1 in0", "ReLU r 1 1 in0 a", "Noop n 1 1 a b", "ReLU q 1 1 b out0").uses()
    assert ([layer.name for layer in between.readers("a")], between.is_output("a")) == (["n"], False)


def test_added_names_are_free_and_short() -> None:
    graph = branches()
    graph.layers[1].name = "relu/cast"
    names = Names(graph)
    assert [names.new("relu", "cast") for _ in range(3)] == ["relu/cast2", "relu/cast3", "relu/cast4"]
    long = names.new("ä" * 120, "cast")
    assert len(long.encode()) < 80
    assert long.endswith("/cast")


def test_layers_are_found_by_name() -> None:
    graph = branches()
    assert graph.layer("relu") is graph.layers[3]
    with pytest.raises(KeyError):
        graph.layer("softmax")


def test_parameters_counts_weight_values() -> None:
    assert around(convolution()).parameters == 8
    assert branches().parameters == 0


def test_params_have_their_defaults() -> None:
    layer = convolution()
    assert (layer.p.num_output, layer.p.kernel_h, layer.get("stride_h")) == (2, 1, 1)
    assert [slot.name for slot, _ in layer.slots()] == ["weight", "bias"]
    with pytest.raises(FormatError, match="layer x: unknown layer type 'Conv2d'"):
        _ = Layer("Conv2d", "x", [], []).op


# ----------------------------------------------------------------------------------------------------- input shapes


@pytest.mark.parametrize(
    "shapes", [[(8,)], [(5, 6)], [(4, 5, 6)], [(4, 3, 5, 6)], [()], [(3, 224, 224), (), (10,)]], ids=str
)
def test_input_shapes_are_stored(shapes: list[tuple[int, ...]]) -> None:
    graph = Graph(
        [Layer("Input", f"in{i}", [], [f"in{i}"], {"w": 9, "h": 9, "d": 9, "c": 9}) for i in range(len(shapes))]
    )
    graph.set_input_shapes(shapes)
    assert graph.input_shapes() == shapes
    of_numpy: Any = [tuple(np.int64(side) for side in shape) for shape in shapes]
    graph.set_input_shapes(of_numpy)
    assert graph.input_shapes() == shapes
    assert all(type(value) is int for layer in graph.layers for value in layer.params.values())


def test_input_shapes_must_fit() -> None:
    graph = branches()
    with pytest.raises(FormatError, match="2 input shapes are given, but the network has 1 inputs"):
        graph.set_input_shapes([(1,), (2,)])
    with pytest.raises(FormatError, match="layer Input in0: ncnn has no blobs of 5 axes"):
        graph.set_input_shapes([(1, 2, 3, 4, 5)])
    assert graph.input_shapes() == [(4, 5, 6)]


# ------------------------------------------------------------------------------------------------ copies, equality


def test_a_copy_is_independent_but_shares_the_weights() -> None:
    graph = around(convolution())
    copy = graph.copy()
    assert copy == graph
    layer = copy.layers[1]
    assert layer.weights["weight"] is graph.layers[1].weights["weight"]
    layer.params["stride_w"] = 2
    layer.inputs[0] = "x"
    layer.outputs.append("y")
    layer.weights["bias"] = np.zeros(2, np.float32)
    copy.layers.pop(0)
    assert graph == around(convolution())


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Deconvolution"},
        {"name": "other"},
        {"inputs": ["x"]},
        {"outputs": ["x"]},
        {"params": {}},
        {"weights": {}},
        {"weights": convolution(bias=np.zeros(2, np.float32)).weights},
        {"weights": convolution(bias=np.ones(2, np.float16)).weights},
        {"weights": convolution(bias=EncodedWeight(1, np.zeros(1028, np.uint8), (2,))).weights},
    ],
    ids=lambda change: next(iter(change)),
)
def test_layers_that_differ_are_not_equal(change: dict[str, Any]) -> None:
    layer = convolution()
    for key, value in change.items():
        setattr(layer, key, value)
    assert layer != convolution()
    assert layer == layer.copy()
    assert layer != "conv"


def test_nan_weights_are_equal_to_themselves() -> None:
    assert convolution(bias=np.array([np.nan, 1], np.float32)) == convolution(bias=np.array([np.nan, 1], np.float32))


# ---------------------------------------------------------------------------------------------------------- weights


def test_arrays_are_float32_for_any_storage() -> None:
    table = np.linspace(-1, 1, 256, dtype=np.float32)
    index = np.array([0, 255, 128, 0, 0, 0], np.uint8)
    payload = np.concatenate([table.view(np.uint8), index, np.zeros(2, np.uint8)])
    legacy = np.arange(6, dtype=np.float32)
    stored: dict[str, tuple[Any, Any]] = {
        "fp16": (np.full(6, 0.5, np.float16), np.full(6, 0.5)),
        "int8": (np.arange(-3, 3, dtype=np.int8), np.arange(-3, 3)),
        "table": (EncodedWeight(0x01020304, payload, (6,)), table[index]),
        "raw": (EncodedWeight(EncodedWeight.RAW_FP32, legacy.view(np.uint8), (6,)), legacy),
    }
    for weight, values in stored.values():
        layer = Layer("InnerProduct", "fc", [], [], {}, {"weight": weight})
        assert layer.array("weight").dtype == np.float32
        np.testing.assert_array_equal(layer.array("weight"), values)
    assert EncodedWeight.length(0x01020304, 6) == len(payload)
    assert EncodedWeight.length(EncodedWeight.RAW_FP32, 6) == 24


def test_a_float32_array_is_not_copied() -> None:
    layer = convolution()
    assert layer.array("weight") is layer.weights["weight"]


def test_encoded_weights_are_compared_by_content() -> None:
    def weight(tag: int = 1, byte: int = 0, shape: tuple[int, ...] = (2,)) -> EncodedWeight:
        return EncodedWeight(tag, np.full(1028, byte, np.uint8), shape)

    assert weight() == weight()
    assert weight() not in (weight(tag=2), weight(byte=1), weight(shape=(2, 1)), "weight")


# ----------------------------------------------------------------------------------------------------------- verify


def test_well_formed_graphs_pass() -> None:
    branches().verify()
    around(convolution()).verify()
    Graph().verify()


INPUT = Layer("Input", "in0", [], ["in0"])


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([INPUT, Layer("Conv2d", "c", ["in0"], ["x"])], "layer c: unknown layer type 'Conv2d'"),
        ([INPUT, Layer("ReLU", "in0", ["in0"], ["x"])], "layer ReLU in0: two layers have this name"),
        ([INPUT, Layer("ReLU", "r", ["x"], ["y"])], "layer ReLU r: reads blob 'x' before a layer produces it"),
        (
            [Layer("ReLU", "r", ["in0"], ["y"]), INPUT],
            "layer ReLU r: reads blob 'in0' before a layer produces it",
        ),
        ([INPUT, Layer("ReLU", "r", ["r"], ["r"])], "layer ReLU r: reads blob 'r' before a layer produces it"),
        (
            [INPUT, Layer("ReLU", "r", ["in0"], ["x"]), Layer("ReLU", "q", ["in0"], ["y"])],
            "layer ReLU q: reads blob 'in0', which another layer also reads; a Split is missing",
        ),
        (
            [INPUT, Layer("BinaryOp", "b", ["in0", "in0"], ["x"])],
            "layer BinaryOp b: reads blob 'in0', which another layer also reads; a Split is missing",
        ),
        (
            [INPUT, Layer("ReLU", "r", ["in0"], ["in0"])],
            "layer ReLU r: produces blob 'in0', which another layer also produces",
        ),
        (
            [INPUT, Layer("Split", "s", ["in0"], ["x", "x"])],
            "layer Split s: produces blob 'x', which another layer also produces",
        ),
        ([INPUT, Layer("ReLU", "r", ["in0"], ["x"], {"kernel_w": 3})], "layer ReLU r: has no param 'kernel_w'"),
        (
            [INPUT, Layer("Pooling", "p", ["in0"], ["x"], {"kernel_w": 3.0})],
            "layer Pooling p: needs a whole number for kernel_w, not 3.0",
        ),
    ],
)
def test_wrong_wiring_is_refused(layers: list[Layer], says: str) -> None:
    with pytest.raises(FormatError) as error:
        Graph(layers).verify()
    assert error.value.line() == says


def without(name: str) -> Layer:
    layer = convolution()
    del layer.weights[name]
    return layer


def with_params(**params: int) -> Layer:
    layer = convolution()
    layer.params.update(params)
    return layer


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (without("bias"), "lacks its weight 'bias'"),
        (convolution(bias=np.ones(3, np.float32)), "weight 'bias' has shape (3,), but the params require (2,)"),
        (
            convolution(weight=EncodedWeight(1, np.zeros(1028, np.uint8), (4,))),
            "weight 'weight' has shape (4,), but the params require (2, 3, 1, 1)",
        ),
        (with_params(bias_term=0), "has weight 'bias', which its params do not require"),
        (with_params(int8_scale_term=2), "lacks its weight 'weight_scales'"),
        (with_params(weight_data_size=7), "has weight_data_size=7, but its other params require 6"),
        (with_params(kernel_w=2), "has weight_data_size=6, but its other params require 0"),
        (with_params(num_output=-2), "weight 'weight' cannot have the shape (-2, 6, 1, 1)"),
        (
            with_params(num_output=0, kernel_w=1 << 30),
            "weight 'weight' cannot have the shape (0, 6, 1073741824, 1073741824)",
        ),
    ],
)
def test_wrong_weights_are_refused(layer: Layer, says: str) -> None:
    with pytest.raises(FormatError) as error:
        around(layer).verify()
    assert error.value.line() == f"layer Convolution conv: {says}"


def test_the_structure_alone_passes_without_weights() -> None:
    layer = convolution()
    layer.weights = {}
    around(layer).verify()
    layer.params["weight_data_size"] = 7  # but its params must agree
    with pytest.raises(FormatError, match="has weight_data_size=7"):
        around(layer).verify()


def test_another_shape_of_the_same_size_passes() -> None:
    around(convolution(weight=np.ones((2, 3), np.float32))).verify()
