"""Quantised ONNX models: they convert, and ncnn's int8 uses their codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import Array, assert_same, lowered, model, run_ncnn
from onnx import TensorProto, helper

import ncnnkit
from ncnnkit import pipeline
from ncnnkit.artifact import Artifact
from ncnnkit.errors import RecipeError
from ncnnkit.model.graph import Graph
from ncnnkit.passes import optimize
from ncnnkit.quantization import apply_own, finished, quantize
from ncnnkit.quantization.own import settled_method
from ncnnkit.recipe import Recipe
from ncnnkit.source import open_model
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.onnx import quantized
from ncnnkit.source.onnx.reading import QUANTISED, load

oq = pytest.importorskip("onnxruntime.quantization")
node = helper.make_node

SIDE = 16


def sqnr(ours: Array, exact: Array) -> float:
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (ours, exact))
    return float(10 * np.log10(float(b @ b) / max(float((a - b) @ (a - b)), 1e-30)))


def run(proto: onnx.ModelProto, inputs: Sequence[Array]) -> Array:
    """Run the model without ONNX Runtime's optimiser, which may change the results of int8."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x})[0] for x in inputs])


def ours(graph: Graph, inputs: Sequence[Array]) -> Array:
    return np.concatenate([run_ncnn(graph, [x])[0].reshape(1, -1) for x in inputs])


def network() -> onnx.ModelProto:
    """Convolutions with ReLUs and a product at the end. The last two convolutions pass codes directly."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        spread = np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))) / 2)  # channels with different ranges
        return np.asarray(rng.standard_normal(shape) * spread / np.sqrt(np.prod(shape[1:])), np.float32)

    constants = {"w0": weight(8, 3, 3, 3), "w1": weight(8, 1, 3, 3), "w2": weight(12, 8, 1, 1), "w3": weight(5, 12)}
    constants |= {f"b{i}": weight(len(constants[f"w{i}"])) for i in range(4)}
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], name="first", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], name="depthwise", group=8, pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="pointwise"),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flatten"),
        node("Gemm", ["f", "w3", "b3"], ["y"], name="product", transB=1),
    ]
    made = model(nodes, {"x": samples(1)[0]}, ["y"], constants)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5)))
    return onnx.shape_inference.infer_shapes(made)


def samples(count: int) -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(count)]


class Reader(oq.CalibrationDataReader):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        self.left: Iterator[Array] = iter(samples(8))

    def get_next(self) -> Mapping[str, Array] | None:
        found = next(self.left, None)
        return None if found is None else {"x": found}


U8, S8 = oq.QuantType.QUInt8, oq.QuantType.QInt8
FORMS: dict[str, dict[str, Any]] = {
    "qdq, per channel": {"quant_format": oq.QuantFormat.QDQ, "per_channel": True},
    "qdq, uint8 activations": {"quant_format": oq.QuantFormat.QDQ, "activation_type": U8, "weight_type": S8},
    "qdq, symmetric": {"quant_format": oq.QuantFormat.QDQ, "extra_options": {"ActivationSymmetric": True}},
    "qoperator, per channel": {"quant_format": oq.QuantFormat.QOperator, "per_channel": True},
    "qoperator, uint8 activations": {"quant_format": oq.QuantFormat.QOperator, "activation_type": U8},
}


def made_by_onnxruntime(folder: Path, form: Mapping[str, Any]) -> Path:
    """The network quantised by ONNX Runtime; ``{}`` is dynamic."""
    onnx.save(network(), str(folder / "float.onnx"))
    path = folder / "quantised.onnx"
    if form:
        oq.quantize_static(str(folder / "float.onnx"), str(path), Reader(), **form)
    else:
        oq.quantize_dynamic(str(folder / "float.onnx"), str(path))
    return path


def stored_codes(path: Path) -> dict[str, Array]:
    """The int8 weights of a quantised file, by the operator that reads them."""
    proto = onnx.load(str(path))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    makers = {n.output[0]: n for n in proto.graph.node}
    found = {}
    for each in proto.graph.node:
        if each.op_type in ("Conv", "Gemm"):
            found[each.name] = arrays[makers[each.input[1]].input[0]]
        elif each.op_type in ("QLinearConv", "QGemm"):
            found[each.name] = arrays[each.input[3]]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_int8_has_the_codes_and_the_scales_of_the_original(form: str, tmp_path: Path) -> None:
    path = made_by_onnxruntime(tmp_path, FORMS[form])
    inputs = samples(24)[8:]
    original = run(onnx.load(str(path)), inputs)
    graph = optimize(ncnnkit.convert(path)).graph
    own = apply_own(graph, target="x86")
    assert own.lost == {}
    codes = stored_codes(path)
    assert len(codes) == 4
    for name, stored in codes.items():
        int8 = np.asarray(own.int8.layer(name).weights["weight"]).reshape(stored.shape)
        turned = (
            -1
            if own.whole.layer(name).array("weight").reshape(-1) @ graph.layer(name).array("weight").reshape(-1) < 0
            else 1
        )
        np.testing.assert_array_equal(turned * int8, np.maximum(stored, -127))
    kept = sqnr(ours(finished(own.int8), inputs), original)
    again = sqnr(
        ours(quantize(graph, np.concatenate(samples(8)), method="mse", effort="fast", target="x86"), inputs), original
    )
    # The original also rounds outputs and pooled values, which ncnn does not.
    assert kept > 40, f"{kept:.1f} dB"
    assert kept > again + 1, f"{kept:.1f} dB with the original's scales, {again:.1f} dB with new ones"


@pytest.mark.parametrize("form", [*FORMS, "dynamic"])
def test_it_converts_and_is_compared_in_floating_point(form: str, tmp_path: Path) -> None:
    path = made_by_onnxruntime(tmp_path, FORMS.get(form, {}))
    source = open_model(path)
    made, check = convert_opened(source)
    assert any("the model is quantised" in change for change in source.changes)
    assert check.sqnr_db is not None
    assert check.sqnr_db > 100
    assert check.own is not None
    assert check.own.sqnr_db is not None
    assert 30 < check.own.sqnr_db < 60
    assert check.own.kept == len(made.graph.scales) == (0 if form == "dynamic" else 4)
    assert [loss.reason for loss in check.own.lost] == ([quantized.DYNAMIC] if form == "dynamic" else [])
    # In floating point it is almost the network that was quantised.
    inputs = samples(4)
    assert sqnr(ours(made.graph, inputs), run(onnx.load(str(tmp_path / "float.onnx")), inputs)) > 35


def test_scales_are_kept_in_the_card_and_quantising_needs_no_images(tmp_path: Path) -> None:
    path = made_by_onnxruntime(tmp_path, FORMS["qdq, per channel"])
    converted = ncnnkit.convert(path)
    ncnnkit.save(converted, tmp_path / "m.param")
    loaded = Artifact.load(tmp_path / "m.param")
    assert loaded.graph.scales == converted.graph.scales
    assert len(loaded.graph.scales) == 4
    int8 = quantize(ncnnkit.optimize(loaded), target="x86")
    ncnnkit.save(int8, tmp_path / "i.param")
    assert Artifact.load(tmp_path / "i.param").graph.scales == {}
    assert settled_method(loaded.graph, None) == "own"
    assert settled_method(Graph(), "auto") == "mse"
    assert settled_method(loaded.graph, "kl") == "kl"
    with pytest.raises(RecipeError, match="needs the scales of a quantised original"):
        quantize(Graph(list(loaded.graph.layers)), method="own")
    with pytest.raises(RecipeError, match="nothing to choose scales from"):
        quantize(Graph(list(loaded.graph.layers)))


# ----------------------------------------------------------------------------------------------------- Q and DQ alone


def qdq(x: str, y: str, scale: str, zero: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", [x, scale, zero], [f"{y}/q"], name=f"{y}/Q", **attributes),
        node("DequantizeLinear", [f"{y}/q", scale, zero], [y], name=f"{y}/DQ", **attributes),
    ]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_scales_and_zero_points(data: st.DataObject) -> None:
    """For any scales, fp32 equals the original without rounding, and int8 equals the original within a step."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    signed, per_channel, padded, one_by_one = (data.draw(st.booleans()) for _ in range(4))
    low, kind = (-128, np.int8) if signed else (0, np.uint8)
    zero = data.draw(st.integers(low, low + 255), "zero point")
    out, size = 6, 1 if one_by_one else 3
    codes = rng.integers(-127, 128, (out, 4, size, size)).astype(np.int8)
    codes.reshape(out, -1)[:, 0] = 127
    steps = (np.exp(rng.standard_normal(out if per_channel else 1)) / 500).astype(np.float32)
    scale = np.float32(data.draw(st.floats(0.001, 0.1), "scale"))
    constants = {
        "s": scale, "z": np.array(zero, kind), "w/q": codes,
        "w/s": steps if per_channel else steps[0], "w/z": np.zeros(out, np.int8) if per_channel else np.int8(0),
        "b": rng.standard_normal(out).astype(np.float32),
    }  # fmt: skip
    nodes = [
        *qdq("x", "a", "s", "z"),
        node("DequantizeLinear", ["w/q", "w/s", "w/z"], ["w"], axis=0),
        node("Conv", ["a", "w", "b"], ["y"], name="conv", pads=[int(padded)] * 4),
    ]
    x = ((rng.integers(low, low + 256, (1, 4, 5, 5)) - zero) * scale).astype(np.float32)
    proto = model(nodes, {"x": x}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    graph = assert_same(proto, {"x": x})  # x is a multiple of the step, so nothing is rounded
    assert graph.layer("conv").type == "Convolution"
    assert len(graph.layers) == 2
    own = apply_own(graph, target="x86")
    assert own.lost == {}
    exact = run(proto, [x])
    # ncnn has 255 of the 256 codes, so a value at the end of the range may differ by a step.
    np.testing.assert_allclose(
        ours(finished(own.int8), [x]), exact.reshape(1, -1), atol=float(scale * steps.max() * 127 * 9 + 1e-4)
    )
    assert sqnr(ours(finished(own.int8), [x]), exact) > 40


def test_a_relu_that_the_exporter_dropped_comes_back() -> None:
    """ONNX Runtime drops a ReLU if the least code means 0. Saturation on both sides is not an activation."""
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    weight = np.ones((2, 2, 1, 1), np.float32) * 0.5
    for zero, kind in ((0, "Clip"), (128, "")):
        constants = {"w": weight, "s": np.float32(0.05), "z": np.array(zero, np.uint8)}
        nodes = [
            node("Conv", ["x", "w"], ["c"], name="conv"), *qdq("c", "a", "s", "z"),
            node("Mul", ["a", "s"], ["y"], name="after"),
        ]  # fmt: skip
        proto = model(nodes, {"x": x}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
        graph = lowered(proto, {"x": x})
        assert [layer.type for layer in graph.layers if layer.type == "Clip"] == ([kind] if kind else [])
        np.testing.assert_allclose(ours(graph, [x]), run(proto, [x]).reshape(1, -1), atol=0.05 * 0.026)


def test_codes_as_inputs_and_outputs() -> None:
    """A model with codes as inputs and outputs converts: ncnn's blobs contain the codes as numbers."""
    x = np.arange(32, dtype=np.uint8).reshape(1, 2, 4, 4) * 8
    weight = np.array([[0.5, -0.25], [1, 0.125]], np.float32).reshape(2, 2, 1, 1)
    constants = {
        "w": weight,
        "s": np.float32(0.05),
        "z": np.array(100, np.uint8),
        "t": np.float32(0.1),
        "u": np.array(-3, np.int8),
    }
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], ["a"]), node("Conv", ["a", "w"], ["c"], name="conv"),
        node("QuantizeLinear", ["c", "t", "u"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, {"x": x}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    graph = lowered(proto, {"x": x})
    found = ours(graph, [x])
    assert np.abs(found - run(proto, [x]).reshape(1, -1).astype(np.float32)).max() <= 1


# ------------------------------------------------------------------------------------------------- other operators

W8 = np.random.default_rng(3).integers(-100, 100, (6, 5)).astype(np.int8)
X = np.random.default_rng(4).standard_normal((1, 4, 6)).astype(np.float32)
IMAGE = np.random.default_rng(5).standard_normal((1, 3, 6, 6)).astype(np.float32)
SCALES = {"s": np.float32(0.03), "z": np.array(3, np.int8), "t": np.float32(0.04), "u": np.array(-5, np.int8)}
TWICE = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["r", "t", "u"], ["y"])]


def between(op: str, inputs: Sequence[str], **attributes: Any) -> list[onnx.NodeProto]:
    """An operator on codes, between a Q and a DQ."""
    domain = {} if op in ("QLinearMatMul", "QLinearConv") else {"domain": "com.microsoft"}
    return [TWICE[0], node(op, inputs, ["r"], name="op", **domain, **attributes), TWICE[1]]


OPERATORS: dict[str, tuple[Array, list[onnx.NodeProto], dict[str, Any]]] = {
    "MatMulInteger": (X, [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]), node("MatMulInteger", ["q", "w", "qz", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=1), node("Mul", ["qs", "ws"], ["m"]), node("Mul", ["f", "m"], ["y"]),
    ], {"w": W8, "wz": np.int8(2), "ws": np.float32(0.01)}),
    "ConvInteger": (IMAGE, [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("ConvInteger", ["q", "w", "qz", "wz"], ["i"], pads=[1, 1, 1, 1]),
        node("Cast", ["i"], ["f"], to=1), node("Mul", ["qs", "ws"], ["m"]), node("Mul", ["f", "m"], ["y"]),
    ], {"w": W8.reshape(-1)[:24].reshape(2, 3, 2, 2), "wz": np.int8(0), "ws": np.float32(0.01)}),
    "DynamicQuantizeMatMul": (
        X, [node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "b"], ["y"], domain="com.microsoft")],
        {"w": W8, "ws": np.float32(0.01), "wz": np.int8(1), "b": np.ones(5, np.float32)},
    ),
    "MatMulIntegerToFloat": (X, [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("MatMulIntegerToFloat", ["q", "w", "qs", "ws", "qz", "wz"], ["y"], domain="com.microsoft"),
    ], {"w": W8, "ws": np.float32(0.01), "wz": np.int8(1)}),
    "QLinearMatMul": (
        X, between("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "t", "u"]),
        {"w": W8, "ws": np.float32(0.003), "wz": np.int8(0)},
    ),
    "QGemm": (
        X[0], between("QGemm", ["q", "s", "z", "w", "ws", "wz", "c", "t", "u"]),
        {"w": W8, "ws": np.float32(0.003), "wz": np.int8(0), "c": np.arange(5, dtype=np.int32) * 1000},
    ),
    "QLinearAdd": (X, between("QLinearAdd", ["q", "s", "z", "q", "s", "z", "t", "u"]), {}),
    "QLinearMul": (X, between("QLinearMul", ["q", "s", "z", "q", "s", "z", "t", "u"]), {}),
    "QLinearSigmoid": (X, between("QLinearSigmoid", ["q", "s", "z", "v", "u"]), {"v": np.float32(0.04)}),
    "QLinearLeakyRelu": (X, between("QLinearLeakyRelu", ["q", "s", "z", "t", "u"], alpha=0.1), {}),
    "QLinearConcat": (X, between("QLinearConcat", ["t", "u", "q", "s", "z", "q", "s", "z"], axis=1), {}),
    "QLinearGlobalAveragePool": (
        IMAGE, between("QLinearGlobalAveragePool", ["q", "s", "z", "v", "u"]), {"v": np.float32(0.04)},
    ),
    "QLinearAveragePool": (IMAGE, between("QLinearAveragePool", ["q", "s", "z", "t", "u"], kernel_shape=[2, 2]), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_codes(name: str) -> None:
    x, nodes, constants = OPERATORS[name]
    read = {value for each in nodes for value in each.input}
    held = {key: np.asarray(value) for key, value in {**SCALES, **constants}.items() if key in read}
    proto = model(nodes, {"x": x}, ["y"], held)
    graph = lowered(proto, {"x": x})
    assert sqnr(ours(graph, [x]), run(proto, [x])) > 20
    assert all(layer.op for layer in graph.layers)


def test_passing_operators_move_codes() -> None:
    """MaxPool, Reshape and Transpose between Q and DQ also work on the values of the codes."""
    nodes = [
        *qdq("x", "a", "s", "z")[:1], node("MaxPool", ["a/q"], ["m"], kernel_shape=[2, 2]),
        node("Transpose", ["m"], ["n"], perm=[0, 2, 3, 1]), node("DequantizeLinear", ["n", "s", "z"], ["y"]),
    ]  # fmt: skip
    x = (np.random.default_rng(0).integers(-60, 60, (1, 3, 6, 6)) * np.float32(0.03)).astype(np.float32)
    assert_same(model(nodes, {"x": x}, ["y"], {k: np.asarray(SCALES[k]) for k in "sz"}), {"x": x})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"z": np.array(5, np.int16)}, quantized.BITS),
        ({"w/z": np.array(-100, np.int8)}, quantized.ROUNDED),
        ({"w/s": np.full(5, 0.01, np.float32), "w/z": np.zeros(5, np.int8)}, quantized.ALONG_INPUTS),
        ({}, ""),
    ],
)
def test_lost_properties_are_named(changed: dict[str, Array], reason: str, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-128, 127, (6, 5)).astype(np.int8)
    constants = {
        "s": np.float32(0.02),
        "z": np.array(0, np.int8),
        "w/q": codes,
        "w/s": np.float32(0.01),
        "w/z": np.int8(0),
    }
    nodes = [
        *qdq("x", "a", "s", "z"), node("DequantizeLinear", ["w/q", "w/s", "w/z"], ["w"], axis=1),
        node("Gemm", ["a", "w"], ["y"], name="product", transB=1),
    ]  # fmt: skip
    x = np.ones((1, 5), np.float32)
    proto = model(nodes, {"x": x}, ["y"], {k: np.asarray(v) for k, v in {**constants, **changed}.items()}, opset=21)
    onnx.save(proto, str(tmp_path / "m.onnx"))
    found = load(tmp_path / "m.onnx").meta[QUANTISED]
    assert found.lost == ({reason: ("product",)} if reason else {})
    assert found.layers == (() if reason in (quantized.BITS, quantized.ALONG_INPUTS) else ("product",))


# ----------------------------------------------------------------------------------------------- scales as it goes

STEPS, WIDE, HIDDEN = 10, 8, 12


def sequence_network(kind: str) -> onnx.ModelProto:
    """Two products, or an LSTM in one or both directions followed by a product. The input is (steps, 1, features)."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

    constants: dict[str, Array]
    if kind == "linear":
        nodes = [node("MatMul", ["x", "m0"], ["p0"], name="first"), node("Add", ["p0", "b0"], ["a0"]),
                 node("Relu", ["a0"], ["s"])]  # fmt: skip
        constants, ways = {"m0": weight(WIDE, HIDDEN), "b0": weight(HIDDEN)}, 1
    else:
        ways = 2 if kind == "bidirectional" else 1
        nodes = [
            node("LSTM", ["x", "W", "R", "B"], ["h"], name="lstm", hidden_size=HIDDEN, direction=kind),
            node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
            node("Reshape", ["t", "rows"], ["s"]),
        ]
        constants = {
            "W": weight(ways, 4 * HIDDEN, WIDE), "R": weight(ways, 4 * HIDDEN, HIDDEN), "B": weight(ways, 8 * HIDDEN),
            "rows": np.array([STEPS, 1, ways * HIDDEN]),
        }  # fmt: skip
    nodes += [node("MatMul", ["s", "m"], ["p"], name="last"), node("Add", ["p", "b"], ["y"])]
    constants |= {"m": weight(ways * HIDDEN, 5), "b": weight(5)}
    made = model(nodes, {"x": np.zeros((STEPS, 1, WIDE), np.float32)}, ["y"], constants, opset=14)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (STEPS, 1, 5)))
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["linear", "forward", "bidirectional"])
def test_dynamic_scales(kind: str, fused: bool, tmp_path: Path) -> None:
    """The error of the network against the original is as large as that of the original against itself in floating
    point.
    """
    import onnxruntime

    onnx.save(sequence_network(kind), str(tmp_path / "float.onnx"))
    path = tmp_path / "dynamic.onnx"
    # With 7-bit weights, ONNX Runtime's sums fit into the 16 bits that it uses on a CPU without VNNI.
    oq.quantize_dynamic(str(tmp_path / "float.onnx"), str(path), weight_type=S8, reduce_range=True)
    if fused:  # ONNX Runtime's optimiser writes one operator for a product and the quantisation of its input
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / "fused.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path = tmp_path / "fused.onnx"
    kinds = {each.op_type for each in onnx.load(str(path)).graph.node}
    assert kinds & ({"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} if fused else {"MatMulInteger"})
    assert ("DynamicQuantizeLSTM" in kinds) == (kind != "linear")
    source = open_model(path)
    made, check = convert_opened(source, route="onnx")
    assert check.sqnr_db is not None
    assert check.sqnr_db > 100
    assert check.own is not None
    assert [loss.reason for loss in check.own.lost] == [quantized.DYNAMIC]
    x = np.random.default_rng(0).standard_normal((STEPS, 1, WIDE)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (original,) = session.run(None, {"x": x})
    (found,) = run_ncnn(made.graph, [x])
    assert source.run is not None
    own = sqnr(source.run([x])[0], original)
    assert own > 30
    assert sqnr(found, original) == pytest.approx(own, abs=0.1)


# ------------------------------------------------------------------------------------------------------ a whole run


def test_int8_of_a_run_is_compared_with_the_quantised_original_too(tmp_path: Path) -> None:
    path = made_by_onnxruntime(tmp_path, FORMS["qdq, per channel"])
    np.save(tmp_path / "x.npy", np.concatenate(samples(12)))
    recipe = Recipe(
        str(path), images=str(tmp_path / "x.npy"), precisions=("fp32", "int8"), backends=("cpu",), effort="fast",
        seconds=0.02, rounds=1,
    )  # fmt: skip
    document = pipeline.run(recipe, tmp_path / "out")
    rows = {row.precision: row for row in document.variants}
    fp32, int8, accuracy = rows["fp32"].quantised_sqnr_db, rows["int8"].quantised_sqnr_db, rows["int8"].accuracy
    assert fp32 is not None
    assert int8 is not None
    assert accuracy is not None
    assert accuracy.sqnr_db is not None
    assert int8 > fp32 + 1  # it rounds the same values as the original
    assert abs(int8 - accuracy.sqnr_db) > 1  # another comparison
    assert any("from the quantised original" in warning for warning in document.warnings)
    assert sum("the original is quantised" in warning for warning in document.warnings) == 1
