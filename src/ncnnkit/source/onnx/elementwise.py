"""Operators that work element by element: activations, and arithmetic with ONNX's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .lowering import MOST_AXES, Array, Blob, Node, Shape, Unsupported, natural, operator

# ------------------------------------------------------------------------------------------------------ of one input

_PLAIN = {
    "Abs": "AbsVal", "Relu": "ReLU", "Sigmoid": "Sigmoid", "Tanh": "TanH", "Softplus": "Softplus", "Mish": "Mish",
    "Erf": "Erf",
}  # fmt: skip
_UNARY = {
    "Neg": 1, "Floor": 2, "Ceil": 3, "Sqrt": 5, "Exp": 7, "Log": 8, "Sin": 9, "Cos": 10, "Tan": 11, "Asin": 12,
    "Acos": 13, "Atan": 14, "Reciprocal": 15, "Round": 18, "Sign": 20, "Sinh": 22, "Asinh": 23, "Cosh": 24,
    "Acosh": 25, "Atanh": 26,
}  # fmt: skip
"""Operator -> UnaryOp's ``op_type``."""


@operator(*_PLAIN)
def plain(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit(_PLAIN[node.op], [x], x.shape))


@operator(*_UNARY)
def unary(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("UnaryOp", [x], x.shape, op_type=_UNARY[node.op]))


@operator("Identity", "Dropout")
def identity(node: Node) -> None:
    node.gives(node.blob(0))


@operator("Cast", "CastLike")
def cast(node: Node) -> None:
    """All types are numbers to ncnn; a cast to whole numbers cuts the fraction off, one to truth values asks for 0."""
    x = node.blob(0)
    if node.input_kind(0) == "f" and node.output_kind() in "iu":
        x = node.emit("UnaryOp", [x], x.shape, op_type=19)
    elif node.output_kind() == "b" and node.input_kind(0) != "b":
        if node.input_kind(0) == "f":
            raise Unsupported("asks whether numbers that are not whole are 0")
        x = node.emit("Clip", [node.emit("AbsVal", [x], x.shape)], x.shape, min=0.0, max=1.0)
    node.gives(x)


@operator("LeakyRelu")
def leaky_relu(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("ReLU", [x], x.shape, slope=float(node.attr("alpha", 0.01))))


@operator("Elu")
def elu(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("ELU", [x], x.shape, alpha=float(node.attr("alpha", 1.0))))


@operator("Celu")
def celu(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("CELU", [x], x.shape, alpha=float(node.attr("alpha", 1.0))))


@operator("Selu")
def selu(node: Node) -> None:
    x = node.blob(0)
    alpha, gamma = node.attr("alpha", 1.6732632423543772), node.attr("gamma", 1.0507009873554805)
    node.gives(node.emit("SELU", [x], x.shape, **{"alpha": float(alpha), "lambda": float(gamma)}))


@operator("HardSigmoid")
def hard_sigmoid(node: Node) -> None:
    x = node.blob(0)
    alpha, beta = float(node.attr("alpha", 0.2)), float(node.attr("beta", 0.5))
    node.gives(node.emit("HardSigmoid", [x], x.shape, alpha=alpha, beta=beta))


@operator("HardSwish")
def hard_swish(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("HardSwish", [x], x.shape, alpha=1 / 6, beta=0.5))


@operator("Gelu")
def gelu(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("GELU", [x], x.shape, fast_gelu=int(node.attr("approximate", "none") == "tanh")))


@operator("Swish")
def swish(node: Node) -> None:
    x, alpha = node.blob(0), float(node.attr("alpha", 1.0))
    if alpha == 1:
        node.gives(node.emit("Swish", [x], x.shape))
        return
    gate = node.emit("Sigmoid", [_scaled(node, x, alpha)], x.shape)
    node.gives(node.emit("BinaryOp", [x, gate], x.shape, op_type=2))


@operator("Softsign")
def softsign(node: Node) -> None:
    x = node.blob(0)
    below = node.emit("BinaryOp", [node.emit("AbsVal", [x], x.shape)], x.shape, op_type=0, with_scalar=1, b=1.0)
    node.gives(node.emit("BinaryOp", [x, below], x.shape, op_type=3))


@operator("ThresholdedRelu")
def thresholded_relu(node: Node) -> None:
    x = node.blob(0)
    above = node.emit("Threshold", [x], x.shape, threshold=float(node.attr("alpha", 1.0)))
    node.gives(node.emit("BinaryOp", [x, above], x.shape, op_type=2))


@operator("Shrink")
def shrink(node: Node) -> None:
    x = node.blob(0)
    bias, limit = float(node.attr("bias", 0.0)), float(node.attr("lambd", 0.5))
    node.gives(node.emit("Shrink", [x], x.shape, **{"bias": bias, "lambd": limit}))


@operator("Clip")
def clip(node: Node) -> None:
    x = node.blob(0)
    bounds = []
    for index, (name, default) in enumerate((("min", -3.402823466e38), ("max", 3.402823466e38)), 1):
        if node.has(index):
            bounds.append(float(node.needed_constant(index, "bounds").reshape(-1)[0]))
        else:
            bounds.append(float(node.attr(name, default)))
    if bounds == [0.0, 3.402823466e38]:
        node.gives(node.emit("ReLU", [x], x.shape))
    else:
        node.gives(node.emit("Clip", [x], x.shape, min=bounds[0], max=bounds[1]))


@operator("PRelu")
def prelu(node: Node) -> None:
    slope, shape = node.needed_constant(1, "slope"), node.shape(0)
    if slope.size == 1:
        x = node.blob(0)
        node.gives(node.emit("ReLU", [x], x.shape, slope=float(slope.reshape(-1)[0])))
        return
    full = (1,) * (len(shape) - slope.ndim) + slope.shape
    if len(shape) < 2 or full != (1, shape[1], *(1,) * (len(shape) - 2)):
        x = node.blob(0)
        above = node.emit("ReLU", [x], x.shape)
        below = node.emit("BinaryOp", [x], x.shape, op_type=5, with_scalar=1, b=0.0)
        scaled = combine(node, 2, (shape, below), (slope.shape, slope))
        _, made = combine(node, 0, (shape, above), scaled)
        assert isinstance(made, Blob)
        node.gives(made)
        return
    x = node.blob(0, natural(shape))
    node.gives(node.emit("PReLU", [x], x.shape, {"slope": slope.reshape(-1)}, num_slope=slope.size))


def _scaled(node: Node, x: Blob, factor: float) -> Blob:
    return node.emit("BinaryOp", [x], x.shape, op_type=2, with_scalar=1, b=float(factor))


# ----------------------------------------------------------------------------------------------------- of two inputs

_BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Max": 4, "Min": 5, "Pow": 6}
"""Operator -> BinaryOp's ``op_type``."""
_REVERSED = {1: 7, 3: 8, 6: 9, 12: 13, 17: 18}
"""``op_type`` -> that with the inputs the other way round."""


@operator(*_BINARY, "Sum", "Mean")
def binary(node: Node) -> None:
    kind = _BINARY.get(node.op, 0)
    shape = node.shape(0)
    blob = _operand(node, 0)
    if node.op == "Div" and node.output_kind() in "iu":
        raise Unsupported("divides whole numbers")
    if node.inputs == 1:
        node.gives(node.blob(0))
        return
    for index in range(1, node.inputs):
        shape, blob = combine(node, kind, (shape, blob), (node.shape(index), _operand(node, index)))
    if isinstance(blob, np.ndarray):
        raise Unsupported("combines constants only")
    if node.op == "Mean":
        blob = _scaled(node, blob, 1 / node.inputs)
    node.gives(blob)


Operand = Blob | Array

_POW = 6


def _one_op(op_type: int) -> Callable[[Node, Blob], Blob]:
    return lambda node, x: node.emit("UnaryOp", [x], x.shape, op_type=op_type)


def _cubed(node: Node, x: Blob) -> Blob:
    square = node.emit("UnaryOp", [x], x.shape, op_type=4)
    return node.emit("BinaryOp", [square, x], x.shape, op_type=2)


def _to_the_fourth(node: Node, x: Blob) -> Blob:
    square = node.emit("UnaryOp", [x], x.shape, op_type=4)
    return node.emit("UnaryOp", [square], x.shape, op_type=4)


# ncnn's kernels compute pow(x, y) as exp(y log x), which is wrong for 0 and below (``x86_activation.h``).
_POWERS: dict[float, Callable[[Node, Blob], Blob]] = {
    -1.0: _one_op(15), -0.5: _one_op(6), 0.5: _one_op(5), 1.0: lambda node, x: x, 2.0: _one_op(4), 3.0: _cubed,
    4.0: _to_the_fourth,
}  # fmt: skip
"""Exponent -> what computes the power exactly."""


def _operand(node: Node, index: int) -> Operand:
    value = node.constant(index)
    return node.blob(index) if value is None else value


def combine(node: Node, kind: int, a: tuple[Shape, Operand], b: tuple[Shape, Operand]) -> tuple[Shape, Operand]:
    """Two values through a BinaryOp.

    Args:
        node: whose name the layers get.
        kind: BinaryOp's ``op_type``.
        a: ONNX's shape of the first value, and its blob, or the value where it is a constant.
        b: the second one.

    Returns:
        ONNX's shape of the result, and its blob.
    """
    (shape_a, one), (shape_b, other) = a, b
    shape = tuple(np.broadcast_shapes(shape_a, shape_b))
    if isinstance(one, np.ndarray):
        if isinstance(other, np.ndarray):
            raise Unsupported("combines constants only")
        if kind in _REVERSED or kind in (0, 2, 4, 5):
            return combine(node, _REVERSED.get(kind, kind), b, a)
    assert isinstance(one, Blob)
    if isinstance(other, np.ndarray) and other.size == 1 and math.prod(shape) == one.size:
        number = float(other.reshape(-1)[0])
        if kind == _POW and number in _POWERS:
            return shape, _POWERS[number](node, one)
        return shape, node.emit("BinaryOp", [one], one.shape, op_type=kind, with_scalar=1, b=number)
    if isinstance(other, Blob) and one.shape == other.shape and shape_a == shape_b:
        return shape, node.emit("BinaryOp", [one, other], one.shape, op_type=kind)
    # Of all blobs' shapes that compute the same, those that need the fewest Reshapes.
    views = min(_broadcast_views(shape_a, shape_b), key=lambda v: _reshapes(one, v[0]) + _reshapes(other, v[1]))
    left = node.lowering.view(one, views[0])
    right = (
        node.lowering.view(other, views[1])
        if isinstance(other, Blob)
        else node.lowering.hold(other, views[1], f"{node.name}/constant")
    )
    out = tuple(max(x, y) for x, y in zip(*views, strict=True))
    return shape, node.emit("BinaryOp", [left, right], out, op_type=kind)


def _reshapes(operand: Operand, shape: Shape) -> int:
    return operand.size if isinstance(operand, Blob) and operand.shape != shape else 0


def _broadcast_views(a: Shape, b: Shape) -> list[tuple[Shape, Shape]]:
    """Shapes of up to four axes, as many in each, under which two values broadcast as these do."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    pairs = list(zip(a, b))
    found = []
    while pairs and pairs[0] == (1, 1) and len(pairs) > 1:  # the batch axis, and axes in front of it
        pairs = pairs[1:]
        if len(pairs) <= MOST_AXES:
            found.append(pairs)
    if rank <= MOST_AXES:
        found.append(list(zip(a, b)))
    merged: list[tuple[int, int]] = []
    for side in (p for p in zip(a, b) if p != (1, 1)):
        if merged and _kind(merged[-1]) == _kind(side):
            merged[-1] = (merged[-1][0] * side[0], merged[-1][1] * side[1])
        else:
            merged.append(side)
    if len(merged) <= MOST_AXES:
        found.append(merged or [(1, 1)])
    if not found:
        raise Unsupported(f"broadcasts {list(a)} and {list(b)}, more than {MOST_AXES} axes in turns")
    return [(tuple(p[0] for p in sides), tuple(p[1] for p in sides)) for sides in found]


def _kind(pair: tuple[int, int]) -> int:
    return 0 if pair[0] == pair[1] else 1 if pair[1] == 1 else 2


# -------------------------------------------------------------------------------------- truth values, as 0 and 1


@operator("Not")
def negation(node: Node) -> None:
    x = node.blob(0)
    node.gives(node.emit("BinaryOp", [x], x.shape, op_type=7, with_scalar=1, b=1.0))


@operator("And", "Or", "Xor")
def logic(node: Node) -> None:
    kind = {"And": 2, "Or": 4, "Xor": 1}[node.op]
    _, made = combine(node, kind, *((node.shape(i), _operand(node, i)) for i in (0, 1)))
    assert isinstance(made, Blob)
    node.gives(node.emit("AbsVal", [made], made.shape) if node.op == "Xor" else made)


@operator("Where")
def where(node: Node) -> None:
    """A choice by a constant mask: x * mask + y * (1 - mask), with what is chosen from constants put in at once."""
    mask = node.constant(0)
    if mask is None:
        raise Unsupported("chooses by what is computed while it runs")
    shape, keep = node.out_shape(), mask.astype(np.float32)
    parts: list[tuple[Shape, Operand]] = []
    for index, factor in ((1, keep), (2, 1 - keep)):
        value = node.constant(index)
        if value is not None:
            chosen = np.where(np.broadcast_to(factor, shape) > 0, np.broadcast_to(value, shape), 0)
            parts.append((shape, np.maximum(np.nan_to_num(chosen.astype(np.float32)), -1e30)))
        else:
            parts.append(combine(node, 2, (node.shape(index), node.blob(index)), (factor.shape, factor)))
    _, made = combine(node, 0, *parts)
    assert isinstance(made, Blob)
    node.gives(made)


@operator("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: Node) -> None:
    """With whole numbers: 1 where it holds and 0 elsewhere, from the difference cut to [0, 1]."""
    if node.input_kind(0) not in "iub":
        raise Unsupported("compares numbers that are not whole")
    _, difference = combine(node, 1, *((node.shape(i), _operand(node, i)) for i in (0, 1)))
    assert isinstance(difference, Blob)
    if node.op == "Equal":
        distance = node.emit("AbsVal", [difference], difference.shape)
        near = node.emit("Clip", [distance], distance.shape, min=0.0, max=1.0)
        node.gives(node.emit("BinaryOp", [near], near.shape, op_type=7, with_scalar=1, b=1.0))
        return
    sign = 1.0 if node.op.startswith("Greater") else -1.0
    upright = difference if sign > 0 else _scaled(node, difference, sign)
    if node.op.endswith("Equal"):
        upright = node.emit("BinaryOp", [upright], upright.shape, op_type=0, with_scalar=1, b=1.0)
    node.gives(node.emit("Clip", [upright], upright.shape, min=0.0, max=1.0))


@operator("Mod")
def modulo(node: Node) -> None:
    kind = 12 if node.attr("fmod", 0) else 17
    _, made = combine(node, kind, *((node.shape(i), _operand(node, i)) for i in (0, 1)))
    assert isinstance(made, Blob)
    node.gives(made)
