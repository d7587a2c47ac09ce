"""What exporters spell out in several nodes and ncnn has as one layer.

A pattern is a function of the last node of such a group. It looks upwards from there, and where everything fits it
writes the one layer and returns True. The layers that were written for the other nodes of the group are then read by
nobody, and are left out, unless something else reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .lowering import OPERATORS, Array, Node, Unsupported

Pattern = Callable[[Node], bool]
PATTERNS: dict[str, list[Pattern]] = {}
"""Operator of the last node -> the patterns that end in it, the larger ones first."""


def ends_in(*operators: str) -> Callable[[Pattern], Pattern]:
    """Register a pattern that ends in one of these operators."""

    def register(pattern: Pattern) -> Pattern:
        for name in operators:
            PATTERNS.setdefault(name, []).append(pattern)
        return pattern

    return register


def write(node: Node) -> None:
    """Write the layers of a node: those of the first pattern that fits, else those of its operator.

    Raises:
        Unsupported: ncnn has no layer for what it computes.
    """
    function = OPERATORS.get((node.domain, node.op))
    if function is None:
        raise Unsupported("is not in ncnnkit's table of operators")
    if not any(pattern(node) for pattern in (() if node.domain else PATTERNS.get(node.op, ()))):
        function(node)


# --------------------------------------------------------------------------------------------------- looking upwards


def scalar(node: Node, index: int) -> float | None:
    """An input that is a constant of one number."""
    value = node.constant(index)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def both_ways(node: Node) -> Iterator[tuple[int, int]]:
    """Both ways round of a node of two inputs."""
    if node.inputs == 2:
        yield from ((0, 1), (1, 0))


def _plus(node: Node | None, amount: float) -> str | None:
    """The value x of ``x + amount``."""
    if node is not None and node.op == "Add":
        for x, c in both_ways(node):
            found = scalar(node, c)
            if found is not None and math.isclose(found, amount, rel_tol=1e-4):
                return node.value(x)
    return None


@dataclass(frozen=True)
class Product:
    """A tree of products by its leaves: values by name, and the product of all constants of one number."""

    factors: tuple[tuple[str, Node | None], ...]
    scale: float


def product_of(node: Node) -> Product:
    factors: list[tuple[str, Node | None]] = []
    scale = 1.0
    for index in range(2):
        number, maker = scalar(node, index), node.maker(index)
        if number is not None and (node.op == "Mul" or index == 1):
            scale *= number if node.op == "Mul" else 1 / number if number else math.nan
        elif node.op == "Div" and index == 1:
            return Product((), math.nan)
        elif maker is not None and maker.op in ("Mul", "Div") and maker.alone:
            inner = product_of(maker)
            factors += inner.factors
            scale *= inner.scale
        else:
            factors.append((node.value(index), maker))
    return Product(tuple(factors), scale)


# --------------------------------------------------------------------------------------------------------- activations


@ends_in("Mul", "Div")
def gated(node: Node) -> bool:
    """Swish, HardSwish, Mish and GELU: x times a function of x, and a number."""
    found = product_of(node)
    if len(found.factors) != 2:
        return False
    for (x, _), (_, gate) in (found.factors, found.factors[::-1]):
        kind = _gate(gate, x, found.scale) if gate is not None else None
        if kind is not None:
            blob = node.blob_of(x)
            node.gives(node.emit(kind[0], [blob], blob.shape, **kind[1]))
            return True
    return False


def _gate(gate: Node, x: str, scale: float) -> tuple[str, dict[str, float]] | None:
    """The activation that is x * gate(x) * scale: ncnn's layer and its params."""
    if scale == 1 and gate.op == "Sigmoid" and gate.value(0) == x:
        return "Swish", {}
    if gate.op == "HardSigmoid" and gate.value(0) == x and scale == 1:
        return "HardSwish", {"alpha": float(gate.attr("alpha", 0.2)), "beta": float(gate.attr("beta", 0.5))}
    if scale == 1 and gate.op == "Tanh":
        inner = gate.maker(0)
        return ("Mish", {}) if inner is not None and inner.op == "Softplus" and inner.value(0) == x else None
    if gate.op == "Clip" and math.isclose(scale, 1 / 6, rel_tol=1e-5):
        fits = _bounds(gate) == [0, 6] and _plus(gate.maker(0), 3) == x
        return ("HardSwish", {"alpha": 1 / 6, "beta": 0.5}) if fits else None
    if math.isclose(scale, 0.5, rel_tol=1e-5) and (name := _plus(gate, 1.0)) is not None:
        inner = next(maker for i in (0, 1) if gate.value(i) == name and (maker := gate.maker(i)) is not None)
        if inner.op == "Erf" and _is_scaled(inner, x, math.sqrt(0.5)):
            return "GELU", {"fast_gelu": 0}
        if inner.op == "Tanh" and _is_tanh_gelu(inner, x):
            return "GELU", {"fast_gelu": 1}
    return None


def _is_scaled(node: Node, x: str, factor: float) -> bool:
    """Whether a node's input is ``factor * x``."""
    inner = node.maker(0)
    if inner is None or inner.op not in ("Mul", "Div"):
        return False
    product = product_of(inner)
    return [name for name, _ in product.factors] == [x] and math.isclose(product.scale, factor, rel_tol=1e-4)


def _is_tanh_gelu(node: Node, x: str) -> bool:
    """Whether a node's input is sqrt(2/pi) * (x + 0.044715 x^3)."""
    inner = node.maker(0)
    if inner is None or inner.op != "Mul":
        return False
    outer = product_of(inner)
    if len(outer.factors) != 1 or not math.isclose(outer.scale, math.sqrt(2 / math.pi), rel_tol=1e-4):
        return False
    total = outer.factors[0][1]
    if total is None or total.op != "Add":
        return False
    for a, b in both_ways(total):
        cubic = total.maker(b)
        if total.value(a) != x or cubic is None or cubic.op != "Mul":
            continue
        product = product_of(cubic)
        if not math.isclose(product.scale, 0.044715, rel_tol=1e-4):
            continue
        names = [name for name, _ in product.factors]
        power = product.factors[0][1] if len(names) == 1 else None
        if names == [x] * 3 or (
            power is not None and power.op == "Pow" and power.value(0) == x and scalar(power, 1) == 3
        ):
            return True
    return False


@ends_in("Mul", "Div")
def hard_sigmoid(node: Node) -> bool:
    """relu6(x + 3) / 6."""
    found = product_of(node)
    if len(found.factors) != 1 or not math.isclose(found.scale, 1 / 6, rel_tol=1e-5):
        return False
    clip = found.factors[0][1]
    x = None if clip is None or clip.op != "Clip" or _bounds(clip) != [0, 6] else _plus(clip.maker(0), 3)
    if x is None:
        return False
    blob = node.blob_of(x)
    node.gives(node.emit("HardSigmoid", [blob], blob.shape, alpha=1 / 6, beta=0.5))
    return True


def _bounds(clip: Node) -> list[float | None]:
    """The limits of a Clip, as inputs or, in older opsets, as attributes."""
    return [scalar(clip, i) if clip.has(i) else clip.attr(name) for i, name in ((1, "min"), (2, "max"))]


# ------------------------------------------------------------------------------------------------------- normalisation


@dataclass(frozen=True)
class _Normalised:
    """x over its own deviation (or root mean square) along the last axes."""

    x: str
    shape: tuple[int, ...]
    axes: int  # how many of the last axes
    eps: float
    centred: bool


def _normalised(node: Node | None) -> _Normalised | None:
    """What a node normalises, if it is the division of a LayerNorm or an RMSNorm."""
    if node is None or node.op not in ("Div", "Mul"):
        return None
    for upper, lower in ((0, 1),) if node.op == "Div" else ((0, 1), (1, 0)):
        root = node.maker(lower)
        if node.op == "Mul":
            root = _inverted(root)
        if root is None or root.op != "Sqrt":
            continue
        total = root.maker(0)
        if total is None or total.op != "Add":
            continue
        for m, e in both_ways(total):
            eps, mean = scalar(total, e), total.maker(m)
            if eps is None or mean is None or mean.op != "ReduceMean":
                continue
            axes = _last_axes(mean)
            square = mean.maker(0)
            if not axes or square is None or not _is_square(square, node.value(upper)):
                continue
            shape = mean.shape(0)
            centred = _centred(node.maker(upper), axes)
            if centred is not None:
                return _Normalised(centred, shape, axes, eps, True)
            return _Normalised(node.value(upper), shape, axes, eps, False)
    return None


def _inverted(node: Node | None) -> Node | None:
    """The node that makes x in 1 / x."""
    if node is not None and node.op == "Reciprocal":
        return node.maker(0)
    if node is not None and node.op == "Div" and scalar(node, 0) == 1:
        return node.maker(1)
    return None


def _last_axes(mean: Node) -> int:
    """How many of the last axes a ReduceMean is over; 0 where it is over others, or drops them."""
    rank = len(mean.shape(0))
    axes = sorted(axis % rank for axis in mean.ints("axes", 1) or ())
    kept = mean.attr("keepdims", 1)
    return len(axes) if kept and axes == list(range(rank - len(axes), rank)) else 0


def _is_square(node: Node, x: str) -> bool:
    if node.op == "Pow":
        return node.value(0) == x and scalar(node, 1) == 2
    return node.op == "Mul" and node.value(0) == node.value(1) == x


def _centred(node: Node | None, axes: int) -> str | None:
    """The x of ``x - mean(x)``."""
    if node is None or node.op != "Sub":
        return None
    mean = node.maker(1)
    if mean is None or mean.op != "ReduceMean" or mean.value(0) != node.value(0) or _last_axes(mean) != axes:
        return None
    return node.value(0)


def _write_norm(node: Node, found: _Normalised, gamma: Array | None, beta: Array | None) -> None:
    size = math.prod(found.shape[-found.axes :])
    rows = math.prod(found.shape[: -found.axes])
    x = node.lowering.view(node.blob_of(found.x), (rows, size) if rows > 1 else (size,))
    weights: dict[str, Array] = {}
    if gamma is not None or beta is not None:
        weights["gamma"] = np.ones(size, np.float32) if gamma is None else gamma.reshape(-1)
        if found.centred:
            weights["beta"] = np.zeros(size, np.float32) if beta is None else beta.reshape(-1)
    kind = "LayerNorm" if found.centred else "RMSNorm"
    params = {"affine_size": size, "eps": found.eps, "affine": int(bool(weights))}
    node.gives(node.emit(kind, [x], x.shape, weights, **params))


def _scaled_and_shifted(node: Node) -> Iterator[tuple[Node, Array, Array]]:
    """The node x, gamma and beta of ``x * gamma + beta``, both constants, in every order they may be written in."""
    for m, b in both_ways(node):
        beta, product = node.constant(b), node.maker(m)
        if beta is None or product is None or product.op != "Mul":
            continue
        for x, g in both_ways(product):
            gamma, maker = product.constant(g), product.maker(x)
            if gamma is not None and maker is not None:
                yield maker, gamma, beta


def _lies_along(constant: Array, shape: tuple[int, ...], axes: Iterable[int]) -> bool:
    """Whether a constant has one number for each place of these axes of a value, and is the same along the others."""
    full = (1,) * (len(shape) - constant.ndim) + constant.shape
    return full == tuple(side if axis in axes else 1 for axis, side in enumerate(shape))


def _last(found: _Normalised) -> range:
    return range(len(found.shape) - found.axes, len(found.shape))


@ends_in("Add")
def layer_norm_with_bias(node: Node) -> bool:
    """((x - mean) / deviation) * gamma + beta."""
    for maker, gamma, beta in _scaled_and_shifted(node):
        found = _normalised(maker)
        if found is None or not found.centred:
            continue
        if all(_lies_along(constant, found.shape, _last(found)) for constant in (gamma, beta)):
            _write_norm(node, found, gamma, beta)
            return True
    return False


@ends_in("Mul")
def norm_with_scale(node: Node) -> bool:
    """(x / root mean square) * gamma, or a LayerNorm without a bias."""
    for d, g in both_ways(node):
        gamma, found = node.constant(g), _normalised(node.maker(d))
        if gamma is not None and found is not None and _lies_along(gamma, found.shape, _last(found)):
            _write_norm(node, found, gamma, None)
            return True
    return False


@ends_in("Div", "Mul")
def norm(node: Node) -> bool:
    """(x - mean) / deviation, or x / root mean square."""
    found = _normalised(node)
    if found is None:
        return False
    _write_norm(node, found, None, None)
    return True


@ends_in("Add")
def group_norm(node: Node) -> bool:
    """InstanceNormalization of the groups as channels, times gamma, plus beta: how torch exports GroupNorm."""
    shape = node.out_shape()
    for back, gamma, beta in _scaled_and_shifted(node):
        inner = back.maker(0) if back.op == "Reshape" else None
        into = inner.maker(0) if inner is not None and inner.op == "InstanceNormalization" else None
        if inner is None or into is None or into.op != "Reshape" or into.shape(0) != shape or len(shape) > 5:
            continue
        groups, scale, shift = inner.shape(0)[1], inner.constant(1), inner.constant(2)
        plain = scale is not None and shift is not None and (scale == 1).all() and (shift == 0).all()
        if not plain or shape[0] != 1 or inner.shape(0)[0] != 1 or shape[1] % groups:
            continue
        if not all(_lies_along(constant, shape, (1,)) for constant in (gamma, beta)):
            continue
        x = node.lowering.view(node.blob_of(into.value(0)), shape[1:])
        weights = {"gamma": gamma.reshape(-1), "beta": beta.reshape(-1)}
        params = {"group": groups, "channels": shape[1], "eps": float(inner.attr("epsilon", 1e-5)), "affine": 1}
        node.gives(node.emit("GroupNorm", [x], x.shape, weights, **params))
        return True
    return False


# --------------------------------------------------------------------------------------------------------------- slices


@ends_in("Concat")
def focus(node: Node) -> bool:
    """x[..., ::2, ::2] and the other three of four pixels, joined: a convolution with weights of 0 and 1."""
    shape = node.out_shape()
    if len(shape) != 4 or shape[0] != 1 or int(node.attr("axis", 1)) % 4 != 1 or node.inputs != 4:
        return False
    found = [_every_second(node.maker(i)) for i in range(4)]
    names, phases = {name for name, _ in found}, [phase for _, phase in found]
    if len(names) != 1 or sorted(phases) != [(0, 0), (0, 1), (1, 0), (1, 1)]:
        return False
    channels = shape[1] // 4
    if channels > 16:  # the convolution would take longer than cutting
        return False
    weight = np.zeros((4, channels, channels, 2, 2), np.float32)
    for part, (row, column) in enumerate(phases):
        weight[part, range(channels), range(channels), row, column] = 1
    x = node.lowering.view(node.blob_of(names.pop()), (channels, 2 * shape[2], 2 * shape[3]))
    sides = {"kernel_w": 2, "kernel_h": 2, "stride_w": 2, "stride_h": 2}
    params = {"num_output": shape[1], "bias_term": 0, "weight_data_size": weight.size, **sides}
    node.gives(node.emit("Convolution", [x], shape[1:], {"weight": weight.reshape(shape[1], channels, 2, 2)}, **params))
    return True


def _every_second(node: Node | None) -> tuple[str, tuple[int, ...]]:
    """The image that Slices take every second row and column of, and the first one they take; "" for anything else."""
    starts: dict[int, int] = {}
    name = ""
    while node is not None and node.op == "Slice" and len(node.shape(0)) == 4:
        given = [node.ints(what, i) for i, what in enumerate(("starts", "ends", "axes", "steps"), 1)]
        side = node.shape(0)
        for start, axis, step in zip(given[0] or (), given[2] or range(4), given[3] or (1,) * 4):
            if (axis % 4) in starts or axis % 4 < 2 or step != 2 or start not in (0, 1) or side[axis % 4] % 2:
                return "", ()
            starts[axis % 4] = start
        if any(node.out_shape()[axis] * 2 != side[axis] for axis in (2, 3) if node.out_shape()[axis] != side[axis]):
            return "", ()
        name, node = node.value(0), node.maker(0)
    return (name, (starts[2], starts[3])) if len(starts) == 2 else ("", ())
