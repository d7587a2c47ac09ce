"""Rewrites quantised operators in floating point: one function for each operator or group of similar operators.

There are three kinds of quantised models:

* **QDQ**: QuantizeLinear and DequantizeLinear around operators in floating point,
* **QOperator**: operators that compute with codes, such as QLinearConv,
* **dynamic**: ConvInteger, MatMulInteger and similar operators. The scales of inputs are computed at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from .codes import CODES, MICROSOFT, Array, Coded, Grid, Rewriter, rewrites


def _inputs(node: ir.Node, count: int) -> list[ir.Value | None]:
    """The first ``count`` inputs of a node; None for inputs that are left out."""
    return [*node.inputs, *[None] * count][:count]


def _kept(node: ir.Node, *left_out: str) -> dict[str, Any]:
    """The attributes of a node, without some."""
    return {name: attribute for name, attribute in node.attributes.items() if name not in left_out}


# ------------------------------------------------------------------------------------------------------------------ QDQ


def _linear_grid(rewriter: Rewriter, node: ir.Node) -> Grid | None:
    """The quantisation parameters of a QuantizeLinear or DequantizeLinear."""
    _, scale, zero = _inputs(node, 3)
    kind = None
    if zero is None and node.op_type == "QuantizeLinear":
        kind = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    elif zero is None and node.inputs[0] is not None:
        kind = node.inputs[0].dtype
    return rewriter.grid(
        scale, zero, node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0), kind
    )


@rewrites("QuantizeLinear", domain=MICROSOFT)  # older files use this domain
def _quantize(rewriter: Rewriter, node: ir.Node) -> bool:
    grid, numbers = _linear_grid(rewriter, node), node.inputs[0]
    if grid is None or numbers is None:
        return False
    array = rewriter.constant(numbers)
    if array is None:
        rewriter.set_numbers(node.outputs[0], numbers, grid, node)
        return True
    made = rewriter.hold_codes(grid.codes(array), grid, str(numbers.name))
    rewriter.coded[node.outputs[0]] = Coded(made, grid)
    return True


@rewrites("DequantizeLinear", domain=MICROSOFT)
def _dequantize(rewriter: Rewriter, node: ir.Node) -> bool:
    grid, codes = _linear_grid(rewriter, node), node.inputs[0]
    if grid is None or codes is None:
        return False
    numbers = rewriter.numbers(codes, grid, node)
    for user, place in list(node.outputs[0].uses()):
        rewriter.read[user, place] = grid
    rewriter.replace_uses(node.outputs[0], numbers)
    return True


# ------------------------------------------------------------------------------------------------------------ QOperator


def _coded(rewriter: Rewriter, node: ir.Node, place: int, axis: int = 0) -> Coded | None:
    """The dequantised form of an input that is given as codes, scale and zero point."""
    codes, scale, zero = (*node.inputs[place : place + 3], None)[:3]
    grid = rewriter.grid(scale, zero, axis)
    return None if grid is None or codes is None else Coded(rewriter.numbers(codes, grid, node), grid)


def _finish(rewriter: Rewriter, node: ir.Node, made: ir.Node, scale: ir.Value | None, zero: ir.Value | None) -> bool:
    """Let ``made`` compute the numbers of a node's output. If no scale is given, the output is in floating point."""
    if scale is None:
        rewriter.replace_uses(node.outputs[0], made.outputs[0])
        return True
    grid = rewriter.grid(scale, zero)
    if grid is None:
        return False
    rewriter.set_numbers(node.outputs[0], made.outputs[0], grid, node)
    return True


def _as_float(
    rewriter: Rewriter, node: ir.Node, op: str, read: Sequence[Coded | None], *more: ir.Value | None,
    attributes: dict[str, Any] | None = None,
) -> ir.Node:  # fmt: skip
    """The operator in floating point, with the same node name."""
    made = rewriter.node(
        node,
        op,
        [*(each.numbers if each else None for each in read), *more],
        attributes,
        name=node.name or "",
    )
    node.name = f"{node.name}/codes"
    for place, each in enumerate(read):
        if each is not None:
            rewriter.read[made, place] = each.grid
    return made


def _biases(rewriter: Rewriter, codes: ir.Value | None, step: Array) -> list[ir.Value] | None:
    """A list with the dequantised bias; empty if there is no bias; None if the bias is not constant."""
    if codes is None:
        return []
    array = rewriter.constant(codes)
    return None if array is None else [rewriter.hold((array * step).astype(np.float32), str(codes.name))]


@rewrites("QLinearConv")
def _qlinear_conv(rewriter: Rewriter, node: ir.Node) -> bool:
    x, w = _coded(rewriter, node, 0), _coded(rewriter, node, 3)
    if x is None or w is None or w.numbers not in rewriter.codes:
        return False
    step = x.grid.scale.reshape(-1) * w.grid.scale.reshape(-1)
    biases = _biases(rewriter, _inputs(node, 9)[8], step)
    if biases is None:
        return False
    made = _as_float(rewriter, node, "Conv", [x, w], *biases, attributes=_kept(node))
    return _finish(rewriter, node, made, node.inputs[6], node.inputs[7])


@rewrites("QLinearMatMul")
def _qlinear_matmul(rewriter: Rewriter, node: ir.Node) -> bool:
    a, b = _coded(rewriter, node, 0), _coded(rewriter, node, 3, axis=-1)
    if a is None or b is None:
        return False
    return _finish(rewriter, node, _as_float(rewriter, node, "MatMul", [a, b]), node.inputs[6], node.inputs[7])


@rewrites("QGemm", domain=MICROSOFT)
def _qgemm(rewriter: Rewriter, node: ir.Node) -> bool:
    turned, alpha = node.attributes.get_int("transB", 0), node.attributes.get_float("alpha", 1.0)
    a, b = _coded(rewriter, node, 0), _coded(rewriter, node, 3, axis=0 if turned else 1)
    if a is None or b is None:
        return False
    *_, c, scale, zero = _inputs(node, 9)
    biases = _biases(rewriter, c, alpha * a.grid.scale.reshape(-1) * b.grid.scale.reshape(-1))
    if biases is None:
        return False
    made = _as_float(rewriter, node, "Gemm", [a, b], *biases, attributes=_kept(node))
    return _finish(rewriter, node, made, scale, zero)


_ELEMENTWISE = {
    "QLinearAdd": ("Add", 2), "QLinearMul": ("Mul", 2),
    "QLinearSigmoid": ("Sigmoid", 1), "QLinearLeakyRelu": ("LeakyRelu", 1), "QLinearSoftmax": ("Softmax", 1),
    "QLinearAveragePool": ("AveragePool", 1), "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
    "QLinearReduceMean": ("ReduceMean", 1),
}  # fmt: skip
"""Quantised operator -> the operator in floating point, and its number of inputs."""


@rewrites(*_ELEMENTWISE, domain=MICROSOFT)
def _qlinear(rewriter: Rewriter, node: ir.Node) -> bool:
    op, count = _ELEMENTWISE[node.op_type]
    read = [_coded(rewriter, node, 3 * index) for index in range(count)]
    if not all(read) or node.attributes.get_int("channels_last", 0) != 0 or node.attributes.get_int("opset", 13) < 13:
        return False
    made = _as_float(rewriter, node, op, read, attributes=_kept(node, "channels_last", "opset"))
    return _finish(rewriter, node, made, *_inputs(node, 3 * count + 2)[3 * count :])


@rewrites("QLinearConcat", domain=MICROSOFT)
def _qlinear_concat(rewriter: Rewriter, node: ir.Node) -> bool:
    parts = [_coded(rewriter, node, place) for place in range(2, len(node.inputs), 3)]
    if not all(parts):
        return False
    made = _as_float(rewriter, node, "Concat", parts, attributes=_kept(node))
    return _finish(rewriter, node, made, node.inputs[0], node.inputs[1])


@rewrites("QLinearWhere", domain=MICROSOFT)
def _qlinear_where(rewriter: Rewriter, node: ir.Node) -> bool:
    x, y = _coded(rewriter, node, 1), _coded(rewriter, node, 4)
    if x is None or y is None:
        return False
    made = _as_float(rewriter, node, "Where", [None, x, y])
    made.replace_input_with(0, node.inputs[0])
    return _finish(rewriter, node, made, *_inputs(node, 9)[7:])


# -------------------------------------------------------------------------------------------------------------- dynamic


@rewrites("DynamicQuantizeLinear")
def _dynamic(rewriter: Rewriter, node: ir.Node) -> bool:
    """Set its scale to 1 and its zero point to 0. The operators that follow multiply by the scale."""
    numbers = node.inputs[0]
    assert numbers is not None
    codes, scale, zero = node.outputs
    rewriter.replace_uses(scale, rewriter.hold(np.array(1, np.float32), str(scale.name)))
    rewriter.replace_uses(zero, rewriter.hold(np.array(0, np.uint8), str(zero.name)))
    rewriter.coded[codes] = Coded(numbers, Grid(np.array(1.0), np.array(0), 0, 255))
    for user, _ in codes.uses():
        rewriter.dynamic.add(user)
    return True


def _integer_operand(
    rewriter: Rewriter,
    node: ir.Node,
    value: ir.Value | None,
    zero: ir.Value | None,
    axis: int,
    scale: Array | None = None,
) -> ir.Value | None:
    """Codes minus their zero point, in floating point, times the scale if it is known."""
    if value is None:
        return None
    if value in rewriter.coded and node in rewriter.dynamic:
        return rewriter.coded[value].numbers
    zeros = np.array(0) if zero is None else rewriter.constant(zero)
    if zeros is None:
        return None
    zeros = zeros.astype(np.int64)
    size = max(zeros.size, 1 if scale is None else scale.size)
    scales = np.ones(()) if scale is None else scale.astype(np.float64)
    if size > 1:
        zeros, scales = (np.broadcast_to(a.reshape(-1), (size,)) for a in (zeros, scales))
    else:
        zeros, scales = zeros.reshape(()), scales.reshape(())
    kind = ir.DataType.INT8 if value.dtype is None else value.dtype
    return rewriter.numbers(value, Grid(scales, zeros, *CODES.get(kind, (-128, 127)), axis), node)


def _scale_after(rewriter: Rewriter, node: ir.Node) -> tuple[list[ir.Node], Array]:
    """The Cast and the Mul by a constant after an integer product, and the constant. ([], 1) if there are none."""
    casts = [user for user, _ in node.outputs[0].uses()]
    if len(casts) != 1 or casts[0].op_type != "Cast" or node.outputs[0] in rewriter.graph.outputs:
        return [], np.ones(())
    muls = list(casts[0].outputs[0].uses())
    if len(muls) != 1 or muls[0][0].op_type != "Mul":
        return [casts[0]], np.ones(())
    mul, place = muls[0]
    found = _constant_product(rewriter, mul.inputs[1 - place])
    return ([casts[0]], np.ones(())) if found is None else ([casts[0], mul], found)


def _constant_product(rewriter: Rewriter, value: ir.Value | None) -> Array | None:
    """A constant, or the product of two constants: the scale of the input, which is now 1, and that of the weights."""
    found = rewriter.constant(value)
    if found is not None or value is None:
        return found
    maker = value.producer()
    if maker is None or maker.op_type != "Mul":
        return None
    one, other = (rewriter.constant(v) for v in maker.inputs)
    return None if one is None or other is None else np.asarray(one * other)


@rewrites("MatMulInteger", "ConvInteger")
def _integer(rewriter: Rewriter, node: ir.Node) -> bool:
    a, b, a_zero, b_zero = _inputs(node, 4)
    after, scale = _scale_after(rewriter, node)
    axis = -1 if node.op_type == "MatMulInteger" else 0
    weight = rewriter.constant(b)
    # Per-channel scales lie along the output channels of the product: the last axis, or the axis before the image.
    along = () if weight is None else scale.shape[axis if axis else 1 - weight.ndim :][:1]
    folds = weight is not None and (scale.size == 1 or (scale.size,) == along == (weight.shape[axis],))
    one = _integer_operand(rewriter, node, a, a_zero, 0)
    two = _integer_operand(rewriter, node, b, b_zero, axis, scale if folds else None)
    if one is None or two is None:
        return False
    op = node.op_type.removesuffix("Integer")
    made = _as_float(rewriter, node, op, [], one, two, attributes=_kept(node))
    rewriter.dynamic.add(made)
    ends = after if folds else after[:1]
    last = ends[-1].outputs[0] if ends else node.outputs[0]
    rewriter.replace_uses(last, made.outputs[0])
    return True


@rewrites("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_matmul(rewriter: Rewriter, node: ir.Node) -> bool:
    a, b, scale, zero, bias = _inputs(node, 5)
    scales = rewriter.constant(scale)
    weight = None if scales is None else _integer_operand(rewriter, node, b, zero, -1, scales)
    return a is not None and weight is not None and _product(rewriter, node, a, weight, bias)


@rewrites("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_to_float(rewriter: Rewriter, node: ir.Node) -> bool:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _inputs(node, 7)
    one, two = rewriter.constant(a_scale), rewriter.constant(b_scale)
    if one is None or two is None or a is None:
        return False
    grid = rewriter.grid(a_scale, a_zero)
    left = rewriter.coded[a].numbers if a in rewriter.coded and node in rewriter.dynamic else None
    if left is None and grid is not None:
        left = rewriter.numbers(a, grid, node)
    weight = _integer_operand(rewriter, node, b, b_zero, -1, two)
    return left is not None and weight is not None and _product(rewriter, node, left, weight, bias)


def _product(rewriter: Rewriter, node: ir.Node, a: ir.Value, b: ir.Value, bias: ir.Value | None) -> bool:
    made = _as_float(rewriter, node, "MatMul", [], a, b)
    rewriter.dynamic.add(made)
    if bias is not None:
        made = rewriter.node(node, "Add", [made.outputs[0], bias])
    rewriter.replace_uses(node.outputs[0], made.outputs[0])
    return True


@rewrites("DynamicQuantizeLSTM", domain=MICROSOFT)
def _dynamic_lstm(rewriter: Rewriter, node: ir.Node) -> bool:
    """Rewrite it as LSTM. Its weights are (directions, inputs, 4 * hidden), those of LSTM are transposed."""
    x, w, r, bias, lengths, h, c, p, w_scale, w_zero, r_scale, r_zero = _inputs(node, 12)
    weights = []
    for codes, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
        array, scales, zeros = rewriter.constant(codes), rewriter.constant(scale), rewriter.constant(zero)
        if array is None or scales is None or zeros is None or codes is None:
            return False
        steps, points = (a.reshape(array.shape[0], 1, -1) for a in (scales, zeros.astype(np.int64)))
        numbers = ((array.astype(np.int64) - points) * steps).astype(np.float32).transpose(0, 2, 1)
        weights.append(rewriter.hold(np.ascontiguousarray(numbers), str(codes.name)))
    made = rewriter.node(
        node,
        "LSTM",
        [x, *weights, bias, lengths, h, c, p],
        _kept(node),
        name=node.name or "",
        outputs=len(node.outputs),
    )
    node.name = f"{node.name}/codes"
    rewriter.dynamic.add(made)
    for old, new in zip(node.outputs, made.outputs):
        rewriter.replace_uses(old, new)
    return True
