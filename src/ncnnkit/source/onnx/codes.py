"""What the codes of a quantised ONNX model stand for, and the model while its codes are replaced by that.

A code stands for ``(code - zero point) * scale``. Every value of codes is replaced by what it stands for, without the
rounding, and each constant by the numbers that its codes stand for. The saturation is left where it is an activation:
exporters drop a ReLU before a QuantizeLinear whose least code stands for 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .weights import hold

Array = NDArray[Any]

MICROSOFT = "com.microsoft"

_PASSING = frozenset(
    ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool", "Slice", "Gather", "Split",
     "Expand", "DepthToSpace", "SpaceToDepth", "Concat", "Tile")
)  # fmt: skip
"""Operators that only copy numbers from their inputs to their outputs."""
_MEANS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"))
_BETWEEN = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Grid:
    """What codes stand for.

    Attributes:
        scale: float64, () or one for each place along ``axis``.
        zero: int64, of the same shape.
        low, high: the least and the largest code.
        axis: the axis that the scales belong to.
        blocked: size of the blocks along ``axis`` that the scales belong to; 0: they belong to places.
    """

    scale: Array
    zero: Array
    low: int
    high: int
    axis: int = 0
    blocked: int = 0

    @property
    def whole(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return self.scale.size == 1

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest number that has a code, of a tensor with one scale."""
        scale, zero = float(self.scale.reshape(-1)[0]), int(self.zero.reshape(-1)[0])
        return (self.low - zero) * scale, (self.high - zero) * scale

    def along(self, shape: Sequence[int]) -> tuple[Array, Array]:
        """Scales and zero points, in a shape that broadcasts to a tensor of ``shape``."""
        if self.whole:
            return self.scale.reshape(()), self.zero.reshape(())
        axis = self.axis % len(shape)
        if self.blocked:
            return tuple(
                np.repeat(a, self.blocked, axis).take(range(shape[axis]), axis) for a in (self.scale, self.zero)
            )  # type: ignore[return-value]
        sides = [1] * len(shape)
        sides[axis] = -1
        return self.scale.reshape(sides), self.zero.reshape(sides)

    def numbers(self, codes: Array) -> NDArray[np.float32]:
        """What codes stand for, as ONNX computes it: in float32."""
        scale, zero = self.along(codes.shape)
        made: NDArray[np.float32] = (codes.astype(np.int64) - zero).astype(np.float32) * scale.astype(np.float32)
        return made

    def codes(self, numbers: Array) -> NDArray[np.int64]:
        """The codes of numbers: rounded half to even, and saturated."""
        scale, zero = self.along(numbers.shape)
        scaled = np.rint(numbers.astype(np.float32) / scale.astype(np.float32)).astype(np.int64) + zero
        return np.clip(scaled, self.low, self.high)

    def same(self, other: Grid) -> bool:
        return (
            (self.low, self.high, self.blocked) == (other.low, other.high, other.blocked)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
            and (self.whole or self.axis == other.axis)
        )


@dataclass(frozen=True, eq=False)
class Coded:
    """What a value of codes stands for.

    Attributes:
        numbers: a value.
        grid: of the codes.
    """

    numbers: ir.Value
    grid: Grid


@dataclass(eq=False)
class Rewriter:
    """A graph while its codes are replaced.

    Attributes:
        graph: is changed.
        opset: the version of ONNX's own operators.
        stands: a value of codes -> what it stands for.
        read: (node, place) -> the grid of the numbers that the node reads there.
        flows: a value of numbers -> their grid, where every reader sees the same.
        codes: a constant of numbers -> its codes.
        dynamic: nodes with an input that gets its scale while the original runs.
        count: of new values, so that each has a name of its own.
    """

    graph: ir.Graph
    opset: int
    stands: dict[ir.Value, Coded] = field(default_factory=dict)
    read: dict[tuple[ir.Node, int], Grid] = field(default_factory=dict)
    flows: dict[ir.Value, Grid] = field(default_factory=dict)
    codes: dict[ir.Value, Array] = field(default_factory=dict)
    dynamic: set[ir.Node] = field(default_factory=set)
    count: int = 0

    # ---------------------------------------------------------------------------------------------- reading and writing

    def constant(self, value: ir.Value | None) -> Array | None:
        """The numbers of a constant, None for another value."""
        value = _behind_identities(value)
        if value is None or value.name not in self.graph.initializers or value.const_value is None:
            return None
        return value.const_value.numpy()

    def hold(self, array: Array, stem: str) -> ir.Value:
        """A new constant."""
        self.count += 1
        return hold(self.graph, np.asarray(array), f"{stem}/numbers{self.count}")

    def hold_codes(self, codes: Array, grid: Grid, stem: str) -> ir.Value:
        """A new constant: the numbers that codes stand for."""
        value = self.hold(grid.numbers(codes), stem)
        self.codes[value] = codes.astype(np.int64)
        return value

    def node(
        self, at: ir.Node, op: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None,
        name: str = "", outputs: int = 1,
    ) -> ir.Node:  # fmt: skip
        """A new node before ``at``."""
        self.count += 1
        made = ir.Node(
            "", op, list(inputs), ir.convenience.convert_attributes(attributes or {}),
            name=name or f"{at.name}/{op}{self.count}", num_outputs=outputs,
        )  # fmt: skip
        for index, value in enumerate(made.outputs):
            value.name = f"{made.name}/numbers{self.count}_{index}"
            value.dtype = ir.DataType.FLOAT
        self.graph.insert_before(at, made)
        return made

    def grid(
        self, scale: ir.Value | None, zero: ir.Value | None, axis: int = 0, blocked: int = 0, dtype: Any = None
    ) -> Grid | None:
        """The grid of these inputs; None if they are not constant, or no whole numbers."""
        scales, zeros = self.constant(scale), self.constant(zero)
        if scales is None or (zeros is None and zero is not None):
            return None
        point = _behind_identities(zero)
        kind = dtype or (ir.DataType.UINT8 if point is None or point.const_value is None else point.const_value.dtype)
        if kind not in CODES:
            return None
        low, high = CODES[kind]
        points = (
            np.zeros(scales.shape, np.int64) if zeros is None else np.broadcast_to(zeros.astype(np.int64), scales.shape)
        )
        return Grid(scales.astype(np.float64), points, low, high, axis, blocked if scales.ndim > 1 else 0)

    def numbers(self, value: ir.Value, grid: Grid, at: ir.Node) -> ir.Value:
        """What a value of codes stands for; computed from the codes where the network is fed with them."""
        known = self.stands.get(value)
        if known is not None and known.grid.same(grid):
            return known.numbers
        codes = self.constant(value)
        if codes is not None:
            return self.hold_codes(codes, grid, str(value.name))
        if known is not None:  # other scales than it was made with: as codes
            value = self.as_codes(known, at)
        else:
            value = self.node(at, "Cast", [value], {"to": int(ir.DataType.FLOAT)}).outputs[0]
        scale, zero = grid.along([1] * (1 if value.shape is None else len(value.shape)))
        if np.any(zero):
            value = self.node(at, "Sub", [value, self.hold(zero.astype(np.float32), at.name or "")]).outputs[0]
        return self.node(at, "Mul", [value, self.hold(scale.astype(np.float32), at.name or "")]).outputs[0]

    def as_codes(self, coded: Coded, at: ir.Node) -> ir.Value:
        """The codes of numbers, as whole numbers in floating point."""
        numbers, grid = coded.numbers, coded.grid
        rank = grid.axis + 1 if numbers.shape is None else len(numbers.shape)
        scale, zero = (a.astype(np.float32) for a in grid.along([1] * rank))
        value = self.node(at, "Div", [numbers, self.hold(scale, at.name or "")]).outputs[0]
        value = self.node(at, "Round", [value]).outputs[0]
        value = self.node(at, "Add", [value, self.hold(zero, at.name or "")]).outputs[0]
        return self.clip(value, float(grid.low), float(grid.high), at)

    def clip(self, value: ir.Value, low: float, high: float, at: ir.Node) -> ir.Value:
        if self.opset < 11:
            return self.node(at, "Clip", [value], {"min": low, "max": high}).outputs[0]
        ends = [self.hold(np.array(end, np.float32), at.name or "") for end in (low, high)]
        return self.node(at, "Clip", [value, *ends]).outputs[0]

    def becomes(self, codes: ir.Value, numbers: ir.Value, grid: Grid, at: ir.Node) -> None:
        """A value of codes stands for numbers, which are saturated as the codes are where that is an activation."""
        self.stands[codes] = Coded(self.saturated(numbers, grid, at), grid)

    def saturated(self, numbers: ir.Value, grid: Grid, at: ir.Node) -> ir.Value:
        """Numbers clipped to the range of their codes, where that is an activation."""
        if not grid.whole or numbers.producer() is None or (numbers in self.flows and self.flows[numbers].same(grid)):
            return numbers
        low, high = grid.range
        half = float(grid.scale.reshape(-1)[0]) / 2
        least, most = _between(numbers, self)
        one_sided = abs(low) < half or abs(high) < half
        maker = numbers.producer()
        assert maker is not None
        cut = maker.op_type in ("Relu", "Clip") and not maker.domain
        if not one_sided or (least >= low - half and most <= high + half):
            return numbers
        if not cut and least >= low - half and abs(low) < half:  # only calibration has cut it off
            return numbers
        if cut and len(numbers.uses()) == 1 and numbers not in self.graph.outputs and maker.inputs[0] is not None:
            numbers = maker.inputs[0]
        return self.clip(numbers, max(low, least), min(high, most), at)

    def answer(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of one value of numbers read another."""
        if old in self.graph.outputs:
            name = old.name
            if new.producer() is None or new in self.graph.outputs or new.name in self.graph.initializers:
                maker = old.producer()
                assert maker is not None
                new = self.node(maker, "Identity", [new]).outputs[0]
            old.name = f"{name}/codes"
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            new.name = name
            return
        ir.convenience.replace_all_uses_with(old, new)

    # ------------------------------------------------------------------------------------------------------- the whole

    def run(self) -> None:
        """Replace all codes of the graph."""
        ends = set(self.graph.outputs)
        for node in list(self.graph):
            function = REWRITES.get((node.domain, node.op_type))
            if function is not None:
                if function(self, node):
                    continue
            elif node.op_type in _PASSING and not node.domain:
                self.pass_on(node)
            self.read_codes(node)
        for node in list(self.graph):
            for place, value in enumerate(node.inputs):
                if value is not None and value in self.flows and (node, place) not in self.read:
                    self.read[node, place] = self.flows[value]
        for index, value in enumerate(self.graph.outputs):
            maker = value.producer()
            if value in ends and value in self.stands and maker is not None:
                name, made = value.name, self.as_codes(self.stands[value], maker)
                value.name = f"{name}/codes"
                made.name = name
                self.graph.outputs[index] = made

    def pass_on(self, node: ir.Node) -> None:
        """A node that only moves numbers, or codes of them."""
        places = range(len(node.inputs)) if node.op_type == "Concat" else (0,)
        values = [node.inputs[place] for place in places]
        if node.op_type == "Transpose" and values[0] in self.codes:  # of constant weights
            self._transpose(node)
            return
        coded = [self.stands[value] for value in values if value is not None and value in self.stands]
        if coded and len(coded) == len(values):
            grid = coded[0].grid
            if all(grid.same(each.grid) for each in coded):
                for place, each in zip(places, coded):
                    node.replace_input_with(place, each.numbers)
                for value in node.outputs:
                    value.dtype = ir.DataType.FLOAT
                    self.stands[value] = Coded(value, grid)
                    if grid.whole:
                        self.flows[value] = grid
            return
        grids = [
            self.read.get((node, place)) or (self.flows.get(v) if v is not None else None)
            for place, v in zip(places, values)
        ]
        first = grids[0]
        if first is not None and first.whole and all(grid is not None and first.same(grid) for grid in grids):
            self.flows.update(dict.fromkeys(node.outputs, first))

    def _transpose(self, node: ir.Node) -> None:
        value = node.inputs[0]
        assert value is not None
        array, grid = self.constant(value), self.read.get((node, 0))
        if array is None or grid is None or grid.blocked:
            return
        attribute = node.attributes.get("perm")
        order = [int(i) for i in attribute.as_ints()] if attribute else list(range(array.ndim))[::-1]
        made = self.hold(np.ascontiguousarray(array.transpose(order)), str(value.name))
        self.codes[made] = self.codes[value].transpose(order)
        turned = grid if grid.whole else replace(grid, axis=order.index(grid.axis % array.ndim))
        for user, place in list(node.outputs[0].uses()):
            user.replace_input_with(place, made)
            self.read[user, place] = turned

    def read_codes(self, node: ir.Node) -> None:
        """An operator that computes with the codes themselves gets them in floating point."""
        for place, value in enumerate(node.inputs):
            coded = None if value is None else self.stands.get(value)
            if coded is not None and coded.numbers is not value:
                node.replace_input_with(place, self.as_codes(coded, node))


def _behind_identities(value: ir.Value | None) -> ir.Value | None:
    """The value that a chain of Identity copies. torch's exporter writes equal constants once, and copies them so."""
    while value is not None and (maker := value.producer()) is not None and maker.op_type == "Identity":
        value = maker.inputs[0]
    return value


def _between(value: ir.Value, rewriter: Rewriter) -> tuple[float, float]:
    """The least and the largest number of a value, as far as the operators before it determine them."""
    node = value.producer()
    if node is None or node.domain:
        return -math.inf, math.inf
    if node.op_type == "Clip":
        if rewriter.opset < 11:
            ends: list[Any] = [node.attributes.get(name) for name in ("min", "max")]
            low, high = (None if end is None else end.as_float() for end in ends)
        else:
            given = [rewriter.constant(v) for v in (*node.inputs[1:], None, None)[:2]]
            low, high = (None if end is None else float(end.reshape(-1)[0]) for end in given)
        return -math.inf if low is None else low, math.inf if high is None else high
    if node.op_type in _BETWEEN:
        return _BETWEEN[node.op_type]
    if node.op_type in _PASSING | _MEANS:
        read = [v for v in (node.inputs if node.op_type == "Concat" else node.inputs[:1]) if v is not None]
        found = [_between(v, rewriter) for v in read]
        return min(low for low, _ in found), max(high for _, high in found)
    return -math.inf, math.inf


CODES = {
    ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(1 << 15), (1 << 15) - 1), ir.DataType.UINT16: (0, (1 << 16) - 1),
    ir.DataType.INT32: (-(1 << 31), (1 << 31) - 1),
}  # fmt: skip
"""Type of codes -> the least and the largest."""

Rewrite = Callable[[Rewriter, ir.Node], bool]
"""Rewrites a node. Says whether it could; if not, the node stays, and ncnn has no layer for it."""
REWRITES: dict[tuple[str, str], Rewrite] = {}
"""(domain, operator) -> the function that rewrites it; :mod:`.dequantizing` fills it."""


def rewrites(*operators: str, domain: str = "") -> Callable[[Rewrite], Rewrite]:
    """Register a function as that of these operators; those of Microsoft's domain also without a domain."""

    def register(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(((domain, name) for name in operators), function))
        if domain == MICROSOFT:  # tools write some of them without a domain
            REWRITES.update(dict.fromkeys((("", name) for name in operators if ("", name) not in REWRITES), function))
        return function

    return register
