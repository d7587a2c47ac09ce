"""What exporters spell out in several nodes and ncnn has as one layer.

A pattern is a function of the last node of such a group. It looks upwards from there, and where everything fits it
writes the one layer and returns True. The layers that were written for the other nodes of the group are then read by
nobody, and are left out, unless something else reads them.
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


@dataclass(frozen=True)
class Activation:
    """A layer that computes every place alike.

    Attributes:
        layer: ncnn's.
        function: of x and of the layer's params.
        fit: the params that a function must have if it is this one. A param of 0 rules it out.
        fixed: params that choose the formula.
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
"""The layers that a group of nodes may be, in the order in which they are tried."""

_GRID = np.concatenate((np.linspace(-12, 12, 193), np.logspace(-4, 3, 50), -np.logspace(-4, 3, 50)))
_CLOSE = 1e-5  # constants are often written with five digits


@ends_in(*ELEMENTWISE)
def activation(node: Node) -> bool:
    """A function of one value, place by place, that is an activation of ncnn's."""
    found = [
        (group, each, params)
        for group in groups_of(node, ELEMENTWISE)
        if group.same_size and group.of_single_numbers()
        for each, params in _activations(group)
    ]
    if not found:
        return False
    group, each, params = found[-1]  # of the most nodes
    blob = node.blob_of(group.x)
    node.gives(node.emit(each.layer, [blob], blob.shape, **each.fixed, **params))
    return True


def _activations(group: Group) -> Iterator[tuple[Activation, dict[str, float]]]:
    """The activations that a group is, and their params."""

    def function(x: Array) -> Array:
        return np.broadcast_to(np.squeeze(group(x)), x.shape)  # single numbers may have axes

    made = function(_GRID)
    for each in ACTIVATIONS:
        with np.errstate(over="ignore"):  # it becomes infinity, which is no param
            params = {name: float(np.float32(value)) for name, value in each.fit(function).items()}
        if not all(value and math.isfinite(value) for value in params.values()):
            continue
        if _agree(made, each.function(_GRID, **params), _CLOSE * (1 + np.abs(_GRID))):
            yield each, params


def _agree(made: Array, wanted: Array, tolerance: Array | float) -> bool:
    """Whether two arrays are the same wherever the first is finite, which is nearly everywhere."""
    known = np.isfinite(made)
    return bool(known.mean() > 0.9 and (np.abs(made - wanted) <= tolerance)[known].all())


# ------------------------------------------------------------------------------------------------------- normalisation


@dataclass(frozen=True)
class Norm:
    """A way to divide the rows of a matrix by their size.

    Attributes:
        centred: whether the mean is subtracted first.
        floored: whether the deviation is ``max(root of the sum of squares, eps)``, else it is
            ``sqrt(mean of the squares + eps)``.
    """

    centred: bool
    floored: bool = False

    def __call__(self, x: Array, eps: float) -> Array:
        x = x - x.mean(-1, keepdims=True) if self.centred else x
        if self.floored:
            return np.asarray(x / np.maximum(np.sqrt((x**2).sum(-1, keepdims=True)), eps))
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps))

    def eps(self, x: Array, at: int, ratio: Callable[[float], float]) -> float:
        """The eps that a function must have if it is this norm; no number where it cannot be.

        Args:
            x: a row.
            at: a place of the row.
            ratio: of a scale: what the function makes of the scaled row at that place, as a part of what it makes of x.
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
    """norm(x) * gamma + beta, with x as rows that are normalised each.

    Attributes:
        shape: of the view of x whose axes ``axes`` make up a row, the batch axis included.
        eps: of the norm.
        gamma: one number for each place, in rows.
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
        """The axes, those of a row last."""
        return [axis for axis in range(len(self.shape)) if axis not in self.axes] + list(self.axes)

    @property
    def in_place(self) -> bool:
        """Whether rows lie one after the other as they are."""
        alone = [axis for axis in self.order if self.shape[axis] != 1]
        return alone == sorted(alone)


@ends_in("Add", "Sub", "Mul", "Div")
def normalised(node: Node) -> bool:
    """LayerNorm, RMSNorm, GroupNorm, InstanceNorm and the division by a norm, of rows along any axes."""
    fitting = [
        (group, found)
        for group in groups_of(node, STATISTICS)
        if group.same_size and group.has(_DIVIDES) and (over := _reduced(group)) is not None
        for found in _fitted(group, *over)
    ]
    for group, found in reversed(fitting):  # those of the most nodes first
        made = _written(node, group, found)
        if made is not None:
            node.gives(made)
            return True
    return False


_DIVIDES = frozenset(("Div", "Reciprocal", "Pow", "InstanceNormalization"))


def _reduced(group: Group) -> tuple[Shape, tuple[int, ...]] | None:
    """The view of x that the first reduction is of, and its axes."""
    for node in group.nodes:
        if node.op in REDUCTIONS and math.prod(node.shape(0)) == math.prod(group.shape):
            axes = reduced_axes(node)
            return (node.shape(0), axes) if math.prod(node.shape(0)[axis] for axis in axes) > 1 else None
    return None


def _fitted(group: Group, shape: Shape, axes: tuple[int, ...]) -> Iterator[_Normalised]:
    """The norms that a group is: its answers to noise tell eps, gamma and beta, and other noise tells if it is one."""
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
"""Of the noise that a norm is checked with: from where eps does not count to where only eps does."""


def _is_norm(norm: Norm, eps: float, gamma: Array, beta: Array, x: Array, made: Array) -> bool:
    plain = gamma * norm(x, eps)
    return _agree(made, plain + beta, 1e-5 * np.abs(plain).max() + 1e-12 * np.abs(beta).max())


def _written(node: Node, group: Group, found: _Normalised) -> Blob | None:
    """The layer, and the Permutes around it where the rows do not lie one after the other; None if there is none."""
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
    """LayerNorm or RMSNorm."""
    rows, size = found.gamma.shape
    gamma, beta, eps = found.gamma[0], found.beta[0], found.eps
    if found.norm.floored:
        if eps > _NOTHING:
            return None
        # Alike for rows of zeros, and to float32's precision for all whose norm is a thousand times eps.
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


_NOTHING = 1e-10  # no row of a network has so small a norm, unless it is 0


def _write_normalize(node: Node, found: _Normalised) -> Blob:
    """Normalize, over the channels of every pixel."""
    rows, size = found.gamma.shape
    scale, eps = found.gamma[0], found.eps
    if not found.norm.floored:  # the layer sums, and takes no mean
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
    """GroupNorm, where each channel of x has its own gamma and beta; not where channels are the rows of a LayerNorm."""
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
    """Slices of Slices: torch exports one for each axis."""
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
