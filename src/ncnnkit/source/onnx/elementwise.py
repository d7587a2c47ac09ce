"""Elementwise operators: activations, and arithmetic with ONNX's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...model.ops import FLOAT_MAX
from ...model.shapes import MOST_AXES
from .lowering import Array, Blob, Node, Operand, Shape, Unsupported, operator

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


@operator("Identity")
def identity(node: Node) -> None:
    node.gives(node.blob(0))


@operator("Dropout")
def dropout(node: Node) -> None:
    if node.has(2) and node.needed_constant(2, "mode").any():
        raise Unsupported("drops at random: it is in training mode")
    node.gives(node.blob(0))


@operator("Cast", "CastLike")
def cast(node: Node) -> None:
    """Write a cast. In ncnn, all types are floats: a cast to integers truncates, a cast to booleans compares with 0."""
    x = node.blob(0)
    if node.input_kind(0) == "f" and node.output_kind() in "iu":
        x = node.emit("UnaryOp", [x], x.shape, op_type=19)
    elif node.output_kind() == "b" and node.input_kind(0) != "b":
        x = _above(node, node.emit("AbsVal", [x], x.shape))
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
    if any(node.has(index) and node.constant(index) is None for index in (1, 2)):
        found: tuple[Shape, Operand] = (node.shape(0), node.blob(0))
        for index, kind in ((1, 4), (2, 5)):
            if node.has(index):
                found = combine(node, kind, found, (node.shape(index), operand(node, index)))
        node.gives(computed(found))
        return
    x = node.blob(0)
    bounds = []
    for index, (name, default) in enumerate((("min", -FLOAT_MAX), ("max", FLOAT_MAX)), 1):
        value = node.constant(index)
        number = float(node.attr(name, default) if value is None else value.reshape(-1)[0])
        bounds.append(min(max(number, -FLOAT_MAX), FLOAT_MAX))
    if bounds == [0.0, FLOAT_MAX]:
        node.gives(node.emit("ReLU", [x], x.shape))
    elif bounds[0] > bounds[1]:  # ONNX defines that every element then becomes the upper bound
        upper = node.emit("BinaryOp", [x], x.shape, op_type=5, with_scalar=1, b=bounds[1])
        node.gives(node.emit("BinaryOp", [upper], x.shape, op_type=4, with_scalar=1, b=bounds[1]))
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
    if len(shape) < 2 or shape[0] != 1 or full != (1, shape[1], *(1,) * (len(shape) - 2)):
        x = node.blob(0)
        above = node.emit("ReLU", [x], x.shape)
        below = node.emit("BinaryOp", [x], x.shape, op_type=5, with_scalar=1, b=0.0)
        scaled = combine(node, 2, (shape, below), (slope.shape, slope))
        node.gives(computed(combine(node, 0, (shape, above), scaled)))
        return
    x = node.blob(0, shape[1:] if len(shape) <= 4 else (shape[1], math.prod(shape[2:])))
    node.gives(node.emit("PReLU", [x], x.shape, {"slope": slope.reshape(-1)}, num_slope=slope.size))


def _scaled(node: Node, x: Blob, factor: float) -> Blob:
    return node.emit("BinaryOp", [x], x.shape, op_type=2, with_scalar=1, b=float(factor))


# ----------------------------------------------------------------------------------------------------- of two inputs

_BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Max": 4, "Min": 5}
"""Operator -> BinaryOp's ``op_type``."""
_REVERSED = {1: 7, 3: 8, 6: 9, 12: 13, 17: 18}
"""``op_type`` -> the ``op_type`` with swapped inputs."""


@operator(*_BINARY, "Sum", "Mean")
def binary(node: Node) -> None:
    kind = _BINARY.get(node.op, 0)
    # Constants first, so that they are combined into one constant.
    order = (
        sorted(range(node.inputs), key=lambda i: node.constant(i) is None) if node.inputs > 2 else range(node.inputs)
    )
    found, *others = [(node.shape(i), operand(node, i)) for i in order]
    if not others:
        node.gives(node.blob(0))
        return
    for other in others:
        found = combine(node, kind, found, other)
    x = computed(found)
    node.gives(_scaled(node, x, 1 / node.inputs) if node.op == "Mean" else x)


@operator("Div")
def division(node: Node) -> None:
    if node.output_kind() not in "iu":
        node.gives(computed(combine(node, 3, *((node.shape(i), operand(node, i)) for i in (0, 1)))))
        return
    # Integer division truncates: the quotient of the absolute values gets the sign of the exact quotient.
    divisor, x = _divisor(node), node.blob(0)
    above = node.emit("AbsVal", [x], x.shape)
    found = _quotient(node, (node.shape(0), above), np.abs(divisor))
    node.gives(_signed(node, x, found, np.sign(divisor)))


@operator("Pow")
def power(node: Node) -> None:
    base, exponent = node.constant(0), node.constant(1)
    alike = exponent is not None and len(set(exponent.reshape(-1).tolist())) == 1
    if not alike and (base is None or (base <= 0).any()):
        raise Unsupported("raises values that may be 0 or negative to several powers: ncnn's pow is exp(y log x)")
    node.gives(computed(combine(node, _POW, *((node.shape(i), operand(node, i)) for i in (0, 1)))))


def computed(found: tuple[Shape, Operand]) -> Blob:
    """The blob of a computed value."""
    assert isinstance(found[1], Blob)
    return found[1]


_POW = 6


_LARGEST_POWER = 64


def raised(node: Node, x: Blob, exponent: float) -> Blob:
    """Write x to the power of a number.

    ncnn's kernels compute pow(x, y) as exp(y log x) (``sse_mathfun.h``), which is NaN for x <= 0. So integer exponents
    and multiples of 0.5 become products. Any other power is set to 0 where x is 0.
    """
    if exponent < 0:
        below = x if exponent == -1 else raised(node, x, -exponent)
        return node.emit("UnaryOp", [below], x.shape, op_type=15)
    whole = int(exponent * 2)
    if whole != exponent * 2 or exponent > _LARGEST_POWER:
        if exponent.is_integer():
            raise Unsupported(f"raises to the power {exponent:g}")
        above = node.emit("Clip", [x], x.shape, min=1e-30, max=FLOAT_MAX)
        power = node.emit("BinaryOp", [above], x.shape, op_type=_POW, with_scalar=1, b=exponent)
        return node.emit("BinaryOp", [power, _above(node, x)], x.shape, op_type=2)
    factor = x if exponent.is_integer() else node.emit("UnaryOp", [x], x.shape, op_type=5)
    left = int(exponent) if exponent.is_integer() else whole
    made: Blob | None = None
    while left:
        if left & 1:
            made = factor if made is None else node.emit("BinaryOp", [made, factor], x.shape, op_type=2)
        left >>= 1
        if left:
            factor = node.emit("UnaryOp", [factor], x.shape, op_type=4)
    return made or node.emit("BinaryOp", [_scaled(node, x, 0.0)], x.shape, op_type=0, with_scalar=1, b=1.0)


def _above(node: Node, x: Blob, limit: float = 0.0) -> Blob:
    """Write 1 where x is above a limit, 0 elsewhere."""
    return node.emit("Threshold", [x], x.shape, threshold=limit)


def operand(node: Node, index: int) -> Operand:
    """An input: its array if it is constant, otherwise its blob."""
    value = node.constant(index)
    return node.blob(index) if value is None else value


_OF_CONSTANTS: dict[int, Callable[[Array, Array], Array]] = {
    0: np.add, 1: np.subtract, 2: np.multiply, 3: np.divide, 4: np.maximum, 5: np.minimum,
}  # fmt: skip
"""BinaryOp's ``op_type`` -> numpy's function."""


def combine(node: Node, kind: int, a: tuple[Shape, Operand], b: tuple[Shape, Operand]) -> tuple[Shape, Operand]:
    """Write a BinaryOp of two values, with ONNX's broadcasting.

    Args:
        node: the node that gives the layers its name.
        kind: BinaryOp's ``op_type``.
        a: ONNX's shape of the first value, and its blob, or its array if it is constant.
        b: the second value, likewise.

    Returns:
        ONNX's shape of the result, and its blob.
    """
    (shape_a, one), (shape_b, other) = a, b
    shape = tuple(np.broadcast_shapes(shape_a, shape_b))
    if isinstance(one, np.ndarray):
        if isinstance(other, np.ndarray):
            return shape, _OF_CONSTANTS[kind](one, other)
        if kind in _REVERSED or kind in (0, 2, 4, 5):
            return combine(node, _REVERSED.get(kind, kind), b, a)
    assert isinstance(one, Blob)
    if kind == _POW and isinstance(other, np.ndarray):
        one = raised(node, one, float(other.reshape(-1)[0]))
        kind, other = 0, np.zeros(other.shape, np.float32)
        if math.prod(shape) == one.size:
            return shape, one
    if isinstance(other, np.ndarray) and other.size == 1 and math.prod(shape) == one.size:
        number = min(max(float(other.reshape(-1)[0]), -FLOAT_MAX), FLOAT_MAX)
        return shape, node.emit("BinaryOp", [one], one.shape, op_type=kind, with_scalar=1, b=number)
    if isinstance(other, Blob) and one.shape == other.shape and shape_a == shape_b:
        return shape, node.emit("BinaryOp", [one, other], one.shape, op_type=kind)
    # Of all pairs of shapes with the same result, take the one that reshapes the fewest elements.
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
    """Pairs of shapes with at most four axes, under which two values broadcast in the same way."""
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
    made = computed(combine(node, kind, *((node.shape(i), operand(node, i)) for i in (0, 1))))
    node.gives(node.emit("AbsVal", [made], made.shape) if node.op == "Xor" else made)


@operator("Where")
def where(node: Node) -> None:
    """Write x * mask + y * (1 - mask). Constants are folded; in them, infinity becomes 1e30."""
    mask, shape = node.constant(0), node.out_shape()
    keep: tuple[Shape, Operand]
    drop: tuple[Shape, Operand]
    if mask is not None:
        keep, drop = (mask.shape, mask.astype(np.float32)), (mask.shape, 1 - mask.astype(np.float32))
    else:
        blob = node.blob(0)
        keep = (node.shape(0), blob)
        drop = (node.shape(0), node.emit("BinaryOp", [blob], blob.shape, op_type=7, with_scalar=1, b=1.0))
    parts: list[tuple[Shape, Operand]] = []
    for index, (shape_of, factor) in ((1, keep), (2, drop)):
        value = node.constant(index)
        if value is None:
            parts.append(combine(node, 2, (node.shape(index), node.blob(index)), (shape_of, factor)))
        elif isinstance(factor, np.ndarray):
            chosen = np.where(np.broadcast_to(factor, shape) > 0, np.broadcast_to(value, shape), 0)
            parts.append((shape, finite(chosen)))
        elif value.any():
            parts.append(combine(node, 2, (shape_of, factor), (value.shape, finite(value))))
    found = parts[0] if len(parts) == 1 else combine(node, 0, *parts)
    if tuple(found[0]) != shape:
        found = combine(node, 0, found, (shape, np.zeros(shape, np.float32)))
    node.gives(computed(found))


def finite(array: Array) -> Array:
    """A constant without infinity and NaN, because their product with 0 is NaN. Infinity becomes 1e30, NaN 0."""
    return np.clip(np.nan_to_num(array.astype(np.float32)), -1e30, 1e30)


@operator("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(node: Node) -> None:
    """Write 1 where the comparison holds, 0 elsewhere, from the sign of the difference."""
    if any(node.input_kind(i) not in "fiub" for i in (0, 1)):
        raise Unsupported("compares values that are not numbers")
    order = (1, 0) if node.op in ("Less", "GreaterOrEqual") else (0, 1)
    difference = computed(combine(node, 1, *((node.shape(i), operand(node, i)) for i in order)))
    if node.op == "Equal":
        difference = node.emit("AbsVal", [difference], difference.shape)
    made = _above(node, difference)
    if node.op.endswith("Equal"):  # these are negations: equal or below means not above
        made = node.emit("BinaryOp", [made], made.shape, op_type=7, with_scalar=1, b=1.0)
    node.gives(made)


# ---------------------------------------------------------------------------------------- division of whole numbers


@operator("Mod")
def modulo(node: Node) -> None:
    """Write x - y * floor(x / y) of integers. With ``fmod``, absolute values are used, and the result gets x's sign."""
    divisor, shape, x = _divisor(node), node.shape(0), node.blob(0)
    if node.attr("fmod", 0):
        above = node.emit("AbsVal", [x], x.shape)
        found = _remainder(node, (shape, above), np.abs(divisor))
        node.gives(_signed(node, x, found, np.ones((), np.float32)))
        return
    # The result has the sign of y: floor(x / y) is floor(-x / -y).
    sign = np.sign(divisor)
    upright = (shape, x) if (sign > 0).all() else combine(node, 2, (shape, x), (sign.shape, sign))
    found = _remainder(node, upright, np.abs(divisor))
    node.gives(computed(found if (sign > 0).all() else combine(node, 2, found, (sign.shape, sign))))


def _divisor(node: Node) -> Array:
    """The second input, which must be constant and not 0. Both inputs must be integers.

    ncnn's division is not always correctly rounded. A quotient that is slightly too small would be rounded down by 1.
    """
    divisor = node.needed_constant(1, "divisor").astype(np.float32)
    if node.input_kind(0) not in "iub":
        raise Unsupported("takes the remainder of numbers that are not integers: ncnn's division is not exact enough")
    if not divisor.all():
        raise Unsupported("divides by 0")
    return divisor


def _quotient(node: Node, x: tuple[Shape, Operand], divisor: Array) -> tuple[Shape, Operand]:
    """Write floor(x / divisor) of integers for a positive divisor. 0.5 is added to x to keep quotients off integers."""
    half = combine(node, 0, x, ((), np.full((), 0.5, np.float32)))
    ratio = combine(node, 2, half, (divisor.shape, 1 / divisor))
    blob = computed(ratio)
    return ratio[0], node.emit("UnaryOp", [blob], blob.shape, op_type=2)


def _remainder(node: Node, x: tuple[Shape, Operand], divisor: Array) -> tuple[Shape, Operand]:
    whole = combine(node, 2, _quotient(node, x, divisor), (divisor.shape, divisor))
    return combine(node, 1, x, whole)


def _signed(node: Node, x: Blob, found: tuple[Shape, Operand], sign: Array) -> Blob:
    """Multiply a result for absolute values by the signs of x and of a constant."""
    of_x = node.emit("UnaryOp", [x], x.shape, op_type=20)
    signs = combine(node, 2, (node.shape(0), of_x), (sign.shape, sign)) if (sign < 0).any() else (node.shape(0), of_x)
    return computed(combine(node, 2, found, signs))
