"""Operators of the ONNX front end, compared with ONNX Runtime."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import assert_same, model, one_node
from numpy.typing import NDArray
from onnx import helper

from ncnnkit.source.onnx import reading

Array = NDArray[Any]
noise = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_noise(request: pytest.FixtureRequest) -> None:
    """Give each test the same noise, independent of earlier tests."""
    global noise
    noise = np.random.default_rng(zlib.crc32(request.node.name.encode()))


def f(*shape: int) -> Array:
    """Noise of this shape."""
    return noise.normal(size=shape).astype(np.float32)


CASES: dict[str, Callable[[], Any]] = {
    "lstm bi": lambda: one_node(
        "LSTM",
        [f(5, 1, 4)],
        {1: f(2, 12, 4), 2: f(2, 12, 3), 3: f(2, 24)},
        outputs=3,
        hidden_size=3,
        direction="bidirectional",
    ),
    "lstm rev": lambda: one_node(
        "LSTM", [f(5, 1, 4)], {1: f(1, 12, 4), 2: f(1, 12, 3)}, outputs=3, hidden_size=3, direction="reverse"
    ),
    "lstm batch": lambda: one_node("LSTM", [f(5, 3, 4)], {1: f(1, 12, 4), 2: f(1, 12, 3)}, outputs=3, hidden_size=3),
    "gru": lambda: one_node(
        "GRU",
        [f(5, 1, 4)],
        {1: f(2, 9, 4), 2: f(2, 9, 3), 3: f(2, 18)},
        outputs=2,
        hidden_size=3,
        direction="bidirectional",
        linear_before_reset=1,
    ),
    "rnn": lambda: one_node(
        "RNN", [f(5, 1, 4)], {1: f(1, 3, 4), 2: f(1, 3, 3)}, outputs=2, hidden_size=3, direction="reverse"
    ),
    "lstm state": lambda: one_node(
        "LSTM",
        [f(5, 1, 4), None, None, None, None, f(1, 1, 3), f(1, 1, 3)],
        {1: f(1, 12, 4), 2: f(1, 12, 3)},
        outputs=3,
        hidden_size=3,
    ),
    "conv n": lambda: one_node("Conv", [f(3, 4, 8, 8)], {1: f(6, 4, 3, 3)}, pads=[1, 1, 1, 1]),
    "gconv": lambda: one_node("Conv", [f(1, 4, 8, 8)], {1: f(6, 2, 3, 3), 2: f(6)}, group=2, strides=[2, 1]),
    "conv1d": lambda: one_node("Conv", [f(1, 4, 8)], {1: f(6, 4, 3)}, dilations=[2]),
    "conv3d": lambda: one_node("Conv", [f(1, 4, 5, 8, 6)], {1: f(6, 4, 3, 3, 2)}),
    "deconv": lambda: one_node(
        "ConvTranspose", [f(1, 4, 5, 6)], {1: f(4, 3, 3, 3)}, strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]
    ),
    "deconv g": lambda: one_node("ConvTranspose", [f(1, 4, 5, 6)], {1: f(4, 3, 3, 3)}, group=2, strides=[2, 2]),
    "deconv1": lambda: one_node(
        "ConvTranspose", [f(1, 4, 5)], {1: f(4, 3, 3)}, strides=[2], output_padding=[1], pads=[1, 0]
    ),
    "pad neg": lambda: one_node("Pad", [f(1, 3, 6, 7)], {1: np.array([0, 0, -1, 2, 0, 0, 3, -1])}),
    "pad 1d": lambda: one_node("Pad", [f(1, 3, 6)], {1: np.array([0, 0, 1, 0, 0, 2])}),
    "pad c": lambda: one_node("Pad", [f(1, 3, 6, 7)], {1: np.array([0, 1, 0, 0, 0, 2, 0, 0])}),
    "transpose 6": lambda: one_node("Transpose", [f(1, 2, 3, 4, 5, 6)], perm=[0, 1, 3, 2, 4, 5]),
    "transpose 6b": lambda: one_node("Transpose", [f(2, 3, 2, 4, 3, 2)], perm=[5, 3, 1, 0, 2, 4]),
    "pow": lambda: one_node("Pow", [f(1, 2, 3)], {1: np.array(2.0, np.float32)}),
    "pow3": lambda: one_node("Pow", [f(1, 2, 3)], {1: np.array(3.0, np.float32)}),
    "slice": lambda: one_node(
        "Slice", [f(1, 7, 9)], {1: np.array([1, 8]), 2: np.array([6, 0]), 3: np.array([1, 2]), 4: np.array([2, -3])}
    ),
    "gather": lambda: one_node("Gather", [f(1, 7, 9)], {1: np.array([3, 1, 1, 5])}, axis=2),
    "expand": lambda: one_node("Expand", [f(3, 1, 2)], {1: np.array([4, 3, 5, 2])}),
    "tile": lambda: one_node("Tile", [f(3, 1, 2)], {1: np.array([2, 3, 1])}),
    "matmul": lambda: one_node("MatMul", [f(2, 3, 4, 5), f(2, 1, 5, 6)]),
    "matmulc": lambda: one_node("MatMul", [f(2, 3, 4, 5)], {1: f(5, 6)}),
    "matmulb": lambda: one_node("MatMul", [f(4, 5)], {1: f(3, 5, 6)}),
    "reducemean": lambda: one_node("ReduceMean", [f(1, 3, 4, 5)], {1: np.array([1])}, keepdims=0),
    "fold": lambda: one_node("Col2Im", [f(1, 12, 9)], {1: np.array([4, 4]), 2: np.array([2, 2])}),
    "prelu": lambda: one_node("PRelu", [f(2, 3, 4)], {1: f(4)}),
    "where": lambda: one_node(
        "Where", [np.array([[True, False, True]]), f(2, 3), f(2, 1)], {0: np.array([[True, False, True]])}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ncnn_computes_the_same_as_onnx_runtime(name: str) -> None:
    assert_same(*CASES[name]())


def test_values_may_have_any_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Shape", ["a"], ["a/shape"]),
        helper.make_node("Reshape", ["a", "a/shape"], ["y"]),
    ]
    fed = {"x": f(1, 2, 3)}
    assert_same(model(nodes, fed, ["y"]), fed)


@pytest.mark.parametrize("wide", [False, True])
def test_the_branch_of_a_known_condition_is_taken(wide: bool) -> None:
    """As in torch's export of a squeeze of an axis of unknown size."""

    def branch(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=node.output[0])])

    squeezed = branch("then", helper.make_node("Squeeze", ["a", "one"], ["b"]))
    kept = branch("else", helper.make_node("Neg", ["a"], ["c"]))
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["side"]),
        helper.make_node("Equal", ["side", "one"], ["narrow"]),
        helper.make_node("If", ["narrow"], ["d"], then_branch=squeezed, else_branch=kept),
        helper.make_node("Abs", ["d"], ["y"]),
    ]
    fed = {"x": f(1, 2 if wide else 1, 3)}
    proto = model(nodes, fed, ["y"], {"one": np.array([1])})
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "side"
    assert_same(proto, fed)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode: str, padding: str, aligned: int) -> None:
    proto, fed = one_node("GridSample", [f(1, 2, 5, 6), f(1, 4, 4, 2)], mode=mode, padding_mode=padding,
                          align_corners=aligned, opset=20)  # fmt: skip
    assert_same(proto, fed)


def _normalised(x: Array, gamma: Array, beta: Array) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """(x - mean) / deviation * gamma + beta over the last axis, as single operators."""
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        onnx.helper.make_node("Sub", ["x", "mean"], ["centred"]),
        onnx.helper.make_node("Mul", ["centred", "centred"], ["square"]),
        onnx.helper.make_node("ReduceMean", ["square"], ["variance"], axes=[-1]),
        onnx.helper.make_node("Add", ["variance", "eps"], ["sum"]),
        onnx.helper.make_node("Sqrt", ["sum"], ["deviation"]),
        onnx.helper.make_node("Div", ["centred", "deviation"], ["norm"]),
        onnx.helper.make_node("Mul", ["norm", "gamma"], ["scaled"]),
        onnx.helper.make_node("Add", ["scaled", "beta"], ["y"]),
    ]
    constants = {"eps": np.array(1e-5, np.float32), "gamma": gamma, "beta": beta}
    return model(nodes, {"x": x}, ["y"], constants, opset=13), {"x": x}


def test_gamma_and_beta_along_the_axis_that_is_normalised_are_the_layers_own() -> None:
    graph = assert_same(*_normalised(f(1, 6, 6), f(6), f(6)))
    assert [layer.type for layer in graph.layers] == ["Input", "LayerNorm"]
    assert graph.layers[1].p.affine


@pytest.mark.parametrize("shape", [(6, 1), (1, 6, 1)])
def test_gamma_and_beta_along_another_axis_stay_separate(shape: tuple[int, ...]) -> None:
    """There are equally many numbers, but they belong to the rows."""
    assert_same(*_normalised(f(1, 6, 6), f(*shape), f(*shape)))


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (4,), (4, 1)])
def test_a_group_norm_has_one_gamma_a_channel(shape: tuple[int, ...]) -> None:
    x = f(1, 4, 4, 4)
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "in"], ["groups"]),
        onnx.helper.make_node("InstanceNormalization", ["groups", "ones", "zeros"], ["norm"]),
        onnx.helper.make_node("Reshape", ["norm", "out"], ["back"]),
        onnx.helper.make_node("Mul", ["back", "gamma"], ["scaled"]),
        onnx.helper.make_node("Add", ["scaled", "beta"], ["y"]),
    ]
    constants = {
        "in": np.array([1, 2, -1]), "out": np.array([1, 4, 4, 4]), "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32), "gamma": f(*shape), "beta": f(*shape),
    }  # fmt: skip
    graph = assert_same(model(nodes, {"x": x}, ["y"], constants, opset=13), {"x": x})
    assert ("GroupNorm" in {layer.type for layer in graph.layers}) == (shape[-2:] == (1, 1))


def test_a_single_operator_is_asked_in_a_valid_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resize at opset 11 must have all inputs. Only some versions of ONNX Runtime accept it without them."""
    asked: list[onnx.ModelProto] = []
    run = reading._run

    def spy(proto: onnx.ModelProto, *rest: Any, **how: Any) -> Any:
        asked.append(proto)
        return run(proto, *rest, **how)

    monkeypatch.setattr(reading, "_run", spy)
    x = f(1, 2, 5, 7)
    constants = {1: np.zeros(0, np.float32), 2: np.array([1, 1, 1.7, 1.3], np.float32)}
    assert_same(*one_node("Resize", [x], constants, mode="linear", opset=11))
    asked = [each for each in asked if each.graph.name == "one operator"]
    assert asked
    for each in asked:
        del each.graph.output[:]  # it has no type, as only ONNX Runtime allows
        onnx.checker.check_model(each)


@pytest.mark.parametrize("nowhere", [False, True])
def test_attention_with_hidden_places_is_one_layer(nowhere: bool) -> None:
    """Scores are replaced by a large negative number. A position without allowed keys attends to all keys equally."""
    hidden = np.triu(np.ones((5, 5), bool), 1)
    hidden[2] |= nowhere
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["product"]),
        helper.make_node("Mul", ["product", "scale"], ["scores"]),
        helper.make_node("Where", ["hidden", "low", "scores"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    constants = {"scale": np.array(0.3, np.float32), "low": np.array(-1e9, np.float32), "hidden": hidden}
    fed = {"q": f(1, 2, 5, 4), "k": f(1, 2, 4, 5), "v": f(1, 2, 5, 3)}
    graph = assert_same(model(nodes, fed, ["y"], constants), fed)
    assert ("SDPA" in {layer.type for layer in graph.layers}) != nowhere
