"""Groups of nodes that compute one value from one other value, as functions.

Exporters and authors write the same formula in many ways. Patterns for all of them would never be complete, so a group
is recognised by its results: :class:`Group` is a function in float64, and a pattern tests whether it equals the
function of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from .axes import slices_of
from .lowering import Array, Node

_MOST_NODES = 48
_MOST_ELEMENTS = 2**22  # 32 MB in float64; several such arrays exist at a time

Evaluate = Callable[[Node, list[Any]], Any]
"""(node, its inputs or None for each that is left out) -> its output, or a list of its outputs."""


def _clip(node: Node, v: list[Any]) -> Array:
    low, high = (v[i] if node.has(i) else node.attr(name) for i, name in ((1, "min"), (2, "max")))
    return np.asarray(np.clip(v[0], -np.inf if low is None else low, np.inf if high is None else high))


def _reduce(function: Callable[..., Array]) -> Evaluate:
    return lambda node, v: function(v[0], axis=reduced_axes(node), keepdims=bool(node.attr("keepdims", 1)))


def reduced_axes(node: Node) -> tuple[int, ...]:
    """The axes over which a reduction or an InstanceNormalization reduces, sorted."""
    rank = len(node.shape(0))
    if node.op == "InstanceNormalization":
        return tuple(range(2, rank))
    axes = node.ints("axes", 1)
    return tuple(sorted(axis % rank for axis in axes)) if axes else tuple(range(rank))


def _instance_norm(node: Node, v: list[Any]) -> Array:
    x, axes = v[0], reduced_axes(node)
    gamma, beta = (np.asarray(each).reshape(-1, *(1,) * len(axes)) for each in v[1:3])
    deviation = np.sqrt(x.var(axis=axes, keepdims=True) + node.attr("epsilon", 1e-5))
    return np.asarray((x - x.mean(axis=axes, keepdims=True)) / deviation * gamma + beta)


def _slice(node: Node, v: list[Any]) -> Array:
    parts = slices_of(node)
    return np.asarray(v[0][tuple(parts.get(axis, slice(None)) for axis in range(v[0].ndim))])


def _split(node: Node, v: list[Any]) -> list[Array]:
    axis = int(node.attr("axis", 0))
    ends = np.cumsum([node.out_shape(i)[axis] for i in range(node.outputs)])
    return np.split(v[0], ends[:-1], axis)


def _view(node: Node, v: list[Any]) -> Array:
    return np.asarray(v[0].reshape(node.out_shape()))


def _same(node: Node, v: list[Any]) -> Array:
    return np.asarray(v[0])


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)))  # this form does not overflow


def erf(x: Array) -> Array:
    """The error function."""
    return np.asarray(_ERF(x))


_ERF = np.vectorize(math.erf, otypes=[float])


ARITHMETIC: dict[str, Evaluate] = {
    "Add": lambda node, v: v[0] + v[1],
    "Sub": lambda node, v: v[0] - v[1],
    "Mul": lambda node, v: v[0] * v[1],
    "Div": lambda node, v: v[0] / v[1],
    "Pow": lambda node, v: v[0] ** v[1],
    "Max": lambda node, v: np.maximum(*v) if len(v) == 2 else v[0],
    "Min": lambda node, v: np.minimum(*v) if len(v) == 2 else v[0],
    "Neg": lambda node, v: -v[0],
    "Abs": lambda node, v: np.abs(v[0]),
    "Sqrt": lambda node, v: np.sqrt(v[0]),
    "Reciprocal": lambda node, v: 1 / v[0],
    "Clip": _clip,
    "Identity": _same,
    "Cast": _same,
}
ELEMENTWISE: dict[str, Evaluate] = ARITHMETIC | {
    "Exp": lambda node, v: np.exp(v[0]),
    "Log": lambda node, v: np.log(v[0]),
    "Tanh": lambda node, v: np.tanh(v[0]),
    "Sigmoid": lambda node, v: sigmoid(v[0]),
    "Erf": lambda node, v: erf(v[0]),
    "Relu": lambda node, v: np.maximum(v[0], 0),
    "Softplus": lambda node, v: np.logaddexp(v[0], 0),
    "HardSigmoid": lambda node, v: np.clip(node.attr("alpha", 0.2) * v[0] + node.attr("beta", 0.5), 0, 1),
    "Where": lambda node, v: np.where(*v),
    "Greater": lambda node, v: v[0] > v[1],
    "GreaterOrEqual": lambda node, v: v[0] >= v[1],
    "Less": lambda node, v: v[0] < v[1],
    "LessOrEqual": lambda node, v: v[0] <= v[1],
}
"""Elementwise operators."""
VIEWS: dict[str, Evaluate] = dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _view)
REDUCTIONS: dict[str, Evaluate] = {
    "ReduceMean": _reduce(np.mean),
    "ReduceSum": _reduce(np.sum),
    "ReduceSumSquare": _reduce(lambda x, **how: np.sum(x**2, **how)),
    "ReduceL2": _reduce(lambda x, **how: np.sqrt(np.sum(x**2, **how))),
    "InstanceNormalization": _instance_norm,
}
STATISTICS = ARITHMETIC | VIEWS | REDUCTIONS | {"Expand": lambda node, v: np.broadcast_to(v[0], node.out_shape())}
"""Operators of normalisations. All values keep the order of their elements."""
MOVES = VIEWS | {
    "Add": ARITHMETIC["Add"],
    "Sub": ARITHMETIC["Sub"],
    "Mul": ARITHMETIC["Mul"],
    "Neg": ARITHMETIC["Neg"],
    "Identity": _same,
    "Cast": _same,
    "Concat": lambda node, v: np.concatenate(v, int(node.attr("axis"))),
    "Transpose": lambda node, v: v[0].transpose(node.attr("perm", None)),
    "Gather": lambda node, v: np.take(v[0], v[1], int(node.attr("axis", 0))),
    "Slice": _slice,
    "Split": _split,
}
"""Operators of linear functions in which each element of the output depends on a few of the input."""


@dataclass(frozen=True)
class Group:
    """Nodes that compute one value from one other value. Calling the group computes it in float64.

    Attributes:
        x: the name of the value that they read.
        nodes: in the order of the model. The last one computes the result; the outputs of the others are not read
            outside the group.
        table: operator -> the function that computes it.
    """

    x: str
    nodes: tuple[Node, ...]
    table: dict[str, Evaluate]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of x, including the batch axis."""
        return self.nodes[0].lowering.reading.shapes[self.x]

    @property
    def same_size(self) -> bool:
        """Whether the result has as many elements as x, and not too many to compute here."""
        return math.prod(self.shape) == math.prod(self.nodes[-1].out_shape()) <= _MOST_ELEMENTS

    def has(self, operators: Set[str]) -> bool:
        """Whether a node has one of these operators."""
        return any(node.op in operators for node in self.nodes)

    def of_single_numbers(self) -> bool:
        """Whether all constants are scalars, so that the same function is applied to every element."""
        found = (node.constant(i) for node in self.nodes for i in range(node.inputs))
        return all(array is None or array.size == 1 for array in found)

    def __call__(self, x: Array) -> Array:
        """Compute the nodes for x, in float64. The result may contain NaN and infinity."""
        values: dict[str, Any] = {self.x: x}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                made = self.table[node.op](node, [self._input(node, i, values) for i in range(node.inputs)])
                parts = made if isinstance(made, list) else [made]
                values.update((node.output(i), part) for i, part in enumerate(parts))
        return np.asarray(values[self.nodes[-1].output(0)])

    @staticmethod
    def _input(node: Node, index: int, values: dict[str, Any]) -> Any:
        array = node.constant(index)
        if array is None:
            return values.get(node.value(index))
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        return array.reshape(()) if array.size == 1 and array.ndim <= 1 and array.dtype.kind == "f" else array


def groups_of(node: Node, table: dict[str, Evaluate]) -> Iterator[Group]:
    """The groups of two nodes or more that end in a node, the smaller ones first.

    A group is extended upwards, until a node's operator is not in ``table`` or its output is read outside the group.

    Args:
        node: its only output is the result.
        table: operator that may be in a group -> the function that computes it.
    """
    reading, place = node.lowering.reading, node.lowering.place_of
    inside: dict[ir.Node, Node] = {}
    edge: dict[str, Node | None] = {}  # what the group reads -> its maker
    at: Node | None = node
    while at is not None and at.op in table and at.reads_and_makes_tensors and len(inside) < _MOST_NODES:
        inside[at.source] = at
        for index in range(at.outputs):
            edge.pop(at.output(index), None)
        for index in range(at.inputs):
            if at.has(index) and at.value(index) not in reading.constants:
                edge[at.value(index)] = at.maker(index)
        if not edge:
            return
        if len(edge) == 1 and len(inside) > 1:
            ordered = sorted(inside.values(), key=lambda each: place(each.source))
            yield Group(next(iter(edge)), tuple(ordered), table)
        makers = [maker for maker in edge.values() if maker is not None]
        at = max(makers, key=lambda maker: place(maker.source), default=None)
        if at is not None and not at.is_read_only_in(inside):
            return
