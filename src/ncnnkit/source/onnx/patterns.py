"""Patterns: groups of nodes that are one layer of ncnn.

A pattern is a function of the last node of such a group. It follows the inputs upwards. If everything fits, it writes
the layer and returns True. The layers of the group's other nodes are then removed, unless another node reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .axes import permuted, slices_of, taken
from .groups import ELEMENTWISE, REDUCTIONS, STATISTICS, Group, erf, groups_of, reduced_axes, sigmoid
from .lowering import OPERATORS, Array, Blob, Node, Shape, Unsupported

Function = Callable[[Array], Array]
Pattern = Callable[[Node], bool]
PATTERNS: dict[str, list[Pattern]] = {}
"""Operator of the last node -> its patterns, the larger ones first."""


def ends_in(*operators: str) -> Callable[[Pattern], Pattern]:
    """Register a pattern that ends in one of these operators."""

    def register(pattern: Pattern) -> Pattern:
        for name in operators:
            PATTERNS.setdefault(name, []).append(pattern)
        return pattern

    return register


def write(node: Node) -> None:
    """Write the layers of a node by the first pattern that fits, or by the function of its operator.

    Raises:
        Unsupported: ncnn has no layer for the node.
    """
    function = OPERATORS.get((node.domain, node.op))
    if function is None:
        raise Unsupported("is not in ncnnkit's table of operators")
    if not any(pattern(node) for pattern in (() if node.domain else PATTERNS.get(node.op, ()))):
        function(node)


# --------------------------------------------------------------------------------------------------- looking upwards


def scalar(node: Node, index: int) -> float | None:
    """The number in a constant scalar input; None for other inputs."""
    value = node.constant(index)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def both_ways(node: Node) -> Iterator[tuple[int, int]]:
    """Both orders of the inputs of a node with two inputs."""
    if node.inputs == 2:
        yield from ((0, 1), (1, 0))


@dataclass(frozen=True)
class Product:
    """A nested product: its factors, and the product of all its constant scalars.

    Attributes:
        factors: (name of the value, the node that computes it) of each factor that is not a constant scalar.
        scale: the product of the scalars; NaN if it is not a plain product.
    """

    factors: tuple[tuple[str, Node | None], ...]
    scale: float


def product_of(node: Node) -> Product:
    """Read a tree of Mul and Div nodes, from its last node."""
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


@dataclass(frozen=True)
class Activation:
    """A layer that applies one function to every element.

    Attributes:
        layer: type of ncnn's layer.
        function: what it computes, from x and the layer's params.
        fit: computes the params from a function that is assumed to be this activation. A param of 0 rules it out.
        fixed: params that select the formula.
    """

    layer: str
    function: Callable[..., Array]
    fit: Callable[[Function], Mapping[str, float]] = lambda f: {}
    fixed: Mapping[str, int] = field(default_factory=dict)


_STEP = 2.0**-10


def _at(f: Function, x: float) -> float:
    return float(f(np.array([x]))[0])


ACTIVATIONS = (
    Activation("Swish", lambda x: x * sigmoid(x)),
    Activation("Mish", lambda x: x * np.tanh(np.logaddexp(x, 0))),
    Activation("GELU", lambda x: 0.5 * x * (1 + erf(x * math.sqrt(0.5))), fixed={"fast_gelu": 0}),
    Activation(
        "GELU",
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        fixed={"fast_gelu": 1},
    ),
    Activation("Sigmoid", sigmoid),
    Activation("Softplus", lambda x: np.logaddexp(x, 0)),
    Activation(
        "HardSigmoid",
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        lambda f: {"alpha": (_at(f, _STEP) - _at(f, -_STEP)) / (2 * _STEP), "beta": _at(f, 0)},
    ),
    Activation(
        "HardSwish",
        lambda x, alpha, beta: x * np.clip(alpha * x + beta, 0, 1),
        lambda f: {
            "alpha": (_at(f, _STEP) + _at(f, -_STEP)) / (2 * _STEP**2),
            "beta": (_at(f, _STEP) - _at(f, -_STEP)) / (2 * _STEP),
        },
    ),
)
"""The activations that are tried for a group of nodes, in order."""

_GRID = np.concatenate((np.linspace(-12, 12, 193), np.logspace(-4, 3, 50), -np.logspace(-4, 3, 50)))
_CLOSE = 1e-5  # relative tolerance; constants are often written with five digits


@ends_in(*ELEMENTWISE)
def activation(node: Node) -> bool:
    """An elementwise function of one value that is one of ncnn's activations."""
    found = [
        (group, each, params)
        for group in groups_of(node, ELEMENTWISE)
        if group.same_size and group.of_single_numbers()
        for each, params in _activations(group)
    ]
    if not found:
        return False
    group, each, params = found[-1]  # the group with the most nodes
    blob = node.blob_of(group.x)
    node.gives(node.emit(each.layer, [blob], blob.shape, **each.fixed, **params))
    return True


def _activations(group: Group) -> Iterator[tuple[Activation, dict[str, float]]]:
    """The activations that a group computes, and their params."""

    def function(x: Array) -> Array:
        return np.broadcast_to(np.squeeze(group(x)), x.shape)  # constant scalars may have axes

    made = function(_GRID)
    for each in ACTIVATIONS:
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is rejected below
            params = {name: float(np.float32(value)) for name, value in each.fit(function).items()}
        if not all(value and math.isfinite(value) for value in params.values()):
            continue
        if _agree(made, each.function(_GRID, **params), _CLOSE * (1 + np.abs(_GRID))):
            yield each, params


def _agree(made: Array, wanted: Array, tolerance: Array | float) -> bool:
    """Whether two arrays agree wherever the first is finite, and that is nearly everywhere."""
    known = np.isfinite(made)
    return bool(known.mean() > 0.9 and (np.abs(made - wanted) <= tolerance)[known].all())


# ------------------------------------------------------------------------------------------------------- normalisation


@dataclass(frozen=True)
class Norm:
    """A normalisation of the rows of a matrix: they are divided by a deviation.

    Attributes:
        centred: whether the mean is subtracted first.
        floored: whether the deviation is ``max(sqrt(sum of squares), eps)``. Otherwise it is
            ``sqrt(mean of squares + eps)``.
    """

    centred: bool
    floored: bool = False

    def __call__(self, x: Array, eps: float) -> Array:
        x = x - x.mean(-1, keepdims=True) if self.centred else x
        if self.floored:
            return np.asarray(x / np.maximum(np.sqrt((x**2).sum(-1, keepdims=True)), eps))
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps))

    def eps(self, x: Array, at: int, ratio: Callable[[float], float]) -> float:
        """The eps of a function that is assumed to be this norm. NaN if the function cannot be this norm.

        Args:
            x: a row.
            at: index of an element of the row.
            ratio: scale -> that element of f(scale * x) divided by that element of f(x).
        """
        if self.floored:
            small = 1e-25  # less than any eps
            part = ratio(small)
            if not part:
                return math.nan
            return 0.0 if math.isclose(part, 1, rel_tol=1e-6) else small * float(np.linalg.norm(x)) / part
        scale = 1e-3
        part = ratio(scale) ** 2
        spread = scale**2 * float(np.mean((x - x.mean() if self.centred else x) ** 2))
        if part <= scale**2 * (1 + 1e-6):
            return math.nan  # it is linear
        eps = spread * (1 - part) / (part - scale**2)
        return 0.0 if abs(eps) < 1e-12 * spread else eps


NORMS = (Norm(centred=True), Norm(centred=False), Norm(centred=False, floored=True))


@dataclass(frozen=True)
class _Normalised:
    """norm(x) * gamma + beta, with a norm of each row of x.

    Attributes:
        x: name of the value.
        shape: of a view of x, including the batch axis.
        axes: the axes of that view that make up a row.
        norm: how rows are normalised.
        eps: of the norm.
        gamma: float64 (rows, size of a row).
        beta: likewise.
    """

    x: str
    shape: Shape
    axes: tuple[int, ...]
    norm: Norm
    eps: float
    gamma: Array
    beta: Array

    @property
    def order(self) -> list[int]:
        """All axes; those of a row come last."""
        return [axis for axis in range(len(self.shape)) if axis not in self.axes] + list(self.axes)

    @property
    def in_place(self) -> bool:
        """Whether rows are contiguous."""
        alone = [axis for axis in self.order if self.shape[axis] != 1]
        return alone == sorted(alone)


@ends_in("Add", "Sub", "Mul", "Div")
def normalised(node: Node) -> bool:
    """LayerNorm, RMSNorm, GroupNorm, InstanceNorm and L2 normalisation, along any axes."""
    fitting = [
        (group, found)
        for group in groups_of(node, STATISTICS)
        if group.same_size and group.has(_DIVIDES) and (over := _reduced(group)) is not None
        for found in _fitted(group, *over)
    ]
    for group, found in reversed(fitting):  # the groups with the most nodes first
        made = _written(node, group, found)
        if made is not None:
            node.gives(made)
            return True
    return False


_DIVIDES = frozenset(("Div", "Reciprocal", "Pow", "InstanceNormalization"))


def _reduced(group: Group) -> tuple[Shape, tuple[int, ...]] | None:
    """The shape of x at the first reduction, and the axes that are reduced."""
    for node in group.nodes:
        if node.op in REDUCTIONS and math.prod(node.shape(0)) == math.prod(group.shape):
            axes = reduced_axes(node)
            return (node.shape(0), axes) if math.prod(node.shape(0)[axis] for axis in axes) > 1 else None
    return None


def _fitted(group: Group, shape: Shape, axes: tuple[int, ...]) -> Iterator[_Normalised]:
    """The norms that a group computes. eps, gamma and beta are measured on noise, and verified on other noise."""
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    size = math.prod(shape[axis] for axis in axes)
    order = np.arange(math.prod(shape)).reshape(shape).transpose(*kept, *axes).reshape(-1, size)
    noise = np.random.default_rng(0)
    flat = noise.uniform(0.5, 1.5, order.size) * noise.choice((-1.0, 1.0), order.size)
    x = flat[order]

    def rows(scaled: Array) -> Array:
        return group(scaled.reshape(group.shape)).reshape(-1)[order]

    straight, mirrored = rows(flat), rows(-flat)
    odd, beta = (straight - mirrored) / 2, (straight + mirrored) / 2
    if not np.isfinite(odd).all() or not odd.any():
        return
    row, at = divmod(int(np.abs(odd).argmax()), size)

    def ratio(scale: float) -> float:
        part = (rows(flat * scale) - rows(flat * -scale)) / 2
        return float(part[row, at] / odd[row, at])

    for norm in NORMS:
        with np.errstate(all="ignore"):
            eps = norm.eps(x[row], at, ratio)
            gamma = odd / norm(x, eps)
            if not eps >= 0 or not np.isfinite(gamma).all():
                continue
            other = noise.uniform(-0.5, 1.5, order.size)
            if all(_is_norm(norm, eps, gamma, beta, other[order] * s, rows(other * s)) for s in _SCALES):
                yield _Normalised(group.x, shape, axes, norm, eps, gamma, beta)


_SCALES = (1, 1e-3, 1e-8, 1e-14, 30)
"""Scales of the noise that verifies a norm: from one at which eps has no effect to one at which only eps counts."""


def _is_norm(norm: Norm, eps: float, gamma: Array, beta: Array, x: Array, made: Array) -> bool:
    plain = gamma * norm(x, eps)
    return _agree(made, plain + beta, 1e-5 * np.abs(plain).max() + 1e-12 * np.abs(beta).max())


def _written(node: Node, group: Group, found: _Normalised) -> Blob | None:
    """Write the layer, and Permutes around it if the rows are not contiguous. None if ncnn has no such layer."""
    alike = all(np.allclose(each, each[:1], rtol=1e-6, atol=1e-9) for each in (found.gamma, found.beta))
    if found.norm.centred and found.in_place:
        made = _write_group_norm(node, group.shape, found, rows_are_alike=alike)
        if made is not None:
            return made
    if not alike or (not found.norm.centred and found.beta.any()):
        return None
    if not found.norm.centred and found.axes == (1,) and found.shape[0] == 1 and not found.in_place:
        return _write_normalize(node, found)
    return _write_of_rows(node, found)


def _write_of_rows(node: Node, found: _Normalised) -> Blob | None:
    """Write a LayerNorm or RMSNorm."""
    rows, size = found.gamma.shape
    gamma, beta, eps = found.gamma[0], found.beta[0], found.eps
    if found.norm.floored:
        if eps > _NOTHING:
            return None
        # Equal for rows of zeros. Equal up to float32 rounding for rows whose norm is at least a thousand times eps.
        gamma, eps = gamma / math.sqrt(size), eps**2 / size
    blob = permuted(node, node.blob_of(found.x), found.shape, found.order)
    if blob.shape[-1] != size or len(blob.shape) > 3:
        blob = node.lowering.view(blob, (rows, size) if rows > 1 else (size,))
    weights = {}
    if not _changes_nothing(gamma, beta):
        weights = {"gamma": gamma, "beta": beta} if found.norm.centred else {"gamma": gamma}
    params = {"affine_size": size, "eps": float(np.float32(eps)), "affine": int(bool(weights))}
    kind = "LayerNorm" if found.norm.centred else "RMSNorm"
    blob = node.emit(kind, [blob], blob.shape, _float32(weights), **params)
    turned = tuple(found.shape[axis] for axis in found.order)
    return permuted(node, blob, turned, np.argsort(found.order).tolist())


_NOTHING = 1e-10  # no row of a network has a norm as small as this, except rows of zeros


def _write_normalize(node: Node, found: _Normalised) -> Blob:
    """Write a Normalize over the channels of every pixel."""
    rows, size = found.gamma.shape
    scale, eps = found.gamma[0], found.eps
    if not found.norm.floored:  # the layer uses the sum of squares, not the mean
        scale, eps = scale * math.sqrt(size), eps * size
    if np.allclose(scale, scale[0], rtol=1e-6):
        scale = scale[:1]
    sides = found.shape[1:] if len(found.shape) in (4, 5) else (size, 1, rows)
    x = node.lowering.view(node.blob_of(found.x), sides)
    params = {"channel_shared": int(len(scale) == 1), "scale_data_size": len(scale), "across_channel": 1}
    weights = _float32({"scale": scale})
    mode = int(found.norm.floored)
    return node.emit("Normalize", [x], sides, weights, eps=float(np.float32(eps)), eps_mode=mode, **params)


def _write_group_norm(node: Node, shape: Shape, found: _Normalised, *, rows_are_alike: bool) -> Blob | None:
    """Write a GroupNorm if gamma and beta are per channel. None if not, or if a LayerNorm of rows fits."""
    groups = found.gamma.shape[0]
    if not 3 <= len(shape) <= 5 or shape[0] != 1 or shape[1] % groups:
        return None
    if rows_are_alike and len(shape) == 3 and groups == shape[1]:
        return None
    by_channel = [each.reshape(shape[1], -1) for each in (found.gamma, found.beta)]
    if not all(np.allclose(each, each[:, :1], rtol=1e-6, atol=1e-9) for each in by_channel):
        return None
    gamma, beta = (each[:, 0] for each in by_channel)
    x = node.lowering.view(node.blob_of(found.x), shape[1:])
    weights = {} if _changes_nothing(gamma, beta) else _float32({"gamma": gamma, "beta": beta})
    params = {"group": groups, "channels": shape[1], "eps": float(np.float32(found.eps)), "affine": int(bool(weights))}
    return node.emit("GroupNorm", [x], x.shape, weights, **params)


def _changes_nothing(gamma: Array, beta: Array) -> bool:
    return bool(np.allclose(gamma, 1, atol=1e-6) and np.allclose(beta, 0, atol=1e-6))


def _float32(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.astype(np.float32) for name, array in weights.items()}


# --------------------------------------------------------------------------------------------------------------- slices


@ends_in("Slice")
def sliced(node: Node) -> bool:
    """A chain of Slices as one. torch exports one Slice for each axis."""
    chain = [node]
    while (before := chain[-1].maker(0)) is not None and before.op == "Slice" and before.alone:
        chain.append(before)
    if len(chain) == 1:
        return False
    first = chain[-1]
    ranges = {axis: range(side) for axis, side in enumerate(first.shape(0))}
    for each in reversed(chain):
        for axis, part in slices_of(each).items():
            ranges[axis] = ranges[axis][part]
    node.gives(taken(node, first.blob(0), first.shape(0), ranges)[0])
    return True


@ends_in("Concat")
def focus(node: Node) -> bool:
    """Space to depth as in YOLOv5's Focus: x[..., ::2, ::2] and the three shifted versions, joined.

    It is written as a convolution with weights of 0 and 1.
    """
    shape = node.out_shape()
    if len(shape) != 4 or shape[0] != 1 or int(node.attr("axis", 1)) % 4 != 1 or node.inputs != 4:
        return False
    found = [_every_second(node.maker(i)) for i in range(4)]
    names, phases = {name for name, _ in found}, [phase for _, phase in found]
    if len(names) != 1 or sorted(phases) != [(0, 0), (0, 1), (1, 0), (1, 1)]:
        return False
    channels = shape[1] // 4
    if channels > 16:  # the convolution would take longer than the Slices
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
    """(the image, (first row, first column)) of Slices that take every second row and column; ("", ()) otherwise."""
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
