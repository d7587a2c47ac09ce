"""Quantisation parameters of ONNX tensors, and a graph while its operators are dequantised.

A *code* is a quantised integer; its *number* is ``(code - zero point) * scale``. Each tensor of codes is replaced by a
tensor of numbers without the rounding, and each constant by the numbers of its codes. Saturation is kept where it acts
as an activation: exporters drop a ReLU before a QuantizeLinear whose lowest code represents 0.
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
"""Operators that only copy values from their inputs to their outputs."""
_MEANS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"))
_BETWEEN = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Grid:
    """Quantisation parameters of a tensor.

    Attributes:
        scale: float64, shape () for one per tensor, or (n,) for one per index along ``axis``.
        zero: zero points, int64, of the same shape.
        low, high: the lowest and the highest code.
        axis: the axis of per-channel scales.
        blocked: block size along ``axis`` if scales are per block; 0 if they are per tensor or per channel.
    """

    scale: Array
    zero: Array
    low: int
    high: int
    axis: int = 0
    blocked: int = 0

    @property
    def whole(self) -> bool:
        """Whether the scale is per tensor."""
        return self.scale.size == 1

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest number that a code can represent. Only for per-tensor scales."""
        scale, zero = float(self.scale.reshape(-1)[0]), int(self.zero.reshape(-1)[0])
        return (self.low - zero) * scale, (self.high - zero) * scale

    def along(self, shape: Sequence[int]) -> tuple[Array, Array]:
        """Scales and zero points in a shape that broadcasts to ``shape``."""
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
        """Dequantise codes in float32, as ONNX does."""
        scale, zero = self.along(codes.shape)
        made: NDArray[np.float32] = (codes.astype(np.int64) - zero).astype(np.float32) * scale.astype(np.float32)
        return made

    def codes(self, numbers: Array) -> NDArray[np.int64]:
        """Quantise numbers: round half to even, and saturate."""
        scale, zero = self.along(numbers.shape)
        scaled = np.rint(numbers.astype(np.float32) / scale.astype(np.float32)).astype(np.int64) + zero
        return np.clip(scaled, self.low, self.high)

    def same(self, other: Grid) -> bool:
        """Whether two sets of parameters are equal."""
        return (
            (self.low, self.high, self.blocked) == (other.low, other.high, other.blocked)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
            and (self.whole or self.axis == other.axis)
        )


@dataclass(frozen=True, eq=False)
class Coded:
    """The dequantised form of a tensor of codes.

    Attributes:
        numbers: the value with the dequantised numbers.
        grid: quantisation parameters of the codes.
    """

    numbers: ir.Value
    grid: Grid


@dataclass(eq=False)
class Rewriter:
    """A graph while its quantised operators are replaced.

    Attributes:
        graph: it is changed.
        opset: the version of ONNX's own operators.
        coded: value of codes -> its dequantised form.
        read: (node, index of an input) -> quantisation parameters of the numbers that the node reads there.
        flows: value of numbers -> their quantisation parameters, if these are the same for every reader.
        codes: constant of numbers -> its codes.
        dynamic: nodes with an input whose scale is computed at run time.
        count: number of new values, which makes their names unique.
    """

    graph: ir.Graph
    opset: int
    coded: dict[ir.Value, Coded] = field(default_factory=dict)
    read: dict[tuple[ir.Node, int], Grid] = field(default_factory=dict)
    flows: dict[ir.Value, Grid] = field(default_factory=dict)
    codes: dict[ir.Value, Array] = field(default_factory=dict)
    dynamic: set[ir.Node] = field(default_factory=set)
    count: int = 0

    # ---------------------------------------------------------------------------------------------- reading and writing

    def constant(self, value: ir.Value | None) -> Array | None:
        """The array of a constant; None for other values."""
        value = _behind_identities(value)
        if value is None or value.name not in self.graph.initializers or value.const_value is None:
            return None
        return value.const_value.numpy()

    def hold(self, array: Array, stem: str) -> ir.Value:
        """A new constant."""
        self.count += 1
        return hold(self.graph, np.asarray(array), f"{stem}/numbers{self.count}")

    def hold_codes(self, codes: Array, grid: Grid, stem: str) -> ir.Value:
        """A new constant with the numbers of these codes."""
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
        """The quantisation parameters in these inputs; None if they are not constant, or not of an integer type."""
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
        """The dequantised form of a value of codes. It is computed at run time if the codes are an input."""
        known = self.coded.get(value)
        if known is not None and known.grid.same(grid):
            return known.numbers
        codes = self.constant(value)
        if codes is not None:
            return self.hold_codes(codes, grid, str(value.name))
        if known is not None:  # it was quantised with other parameters, so its codes are needed
            value = self.as_codes(known, at)
        else:
            value = self.node(at, "Cast", [value], {"to": int(ir.DataType.FLOAT)}).outputs[0]
        scale, zero = grid.along([1] * (1 if value.shape is None else len(value.shape)))
        if np.any(zero):
            value = self.node(at, "Sub", [value, self.hold(zero.astype(np.float32), at.name or "")]).outputs[0]
        return self.node(at, "Mul", [value, self.hold(scale.astype(np.float32), at.name or "")]).outputs[0]

    def as_codes(self, coded: Coded, at: ir.Node) -> ir.Value:
        """Quantise numbers to codes, which are integers in floating point."""
        numbers, grid = coded.numbers, coded.grid
        rank = grid.axis + 1 if numbers.shape is None else len(numbers.shape)
        scale, zero = (a.astype(np.float32) for a in grid.along([1] * rank))
        value = self.node(at, "Div", [numbers, self.hold(scale, at.name or "")]).outputs[0]
        value = self.node(at, "Round", [value]).outputs[0]
        value = self.node(at, "Add", [value, self.hold(zero, at.name or "")]).outputs[0]
        return self.clip(value, float(grid.low), float(grid.high), at)

    def clip(self, value: ir.Value, low: float, high: float, at: ir.Node) -> ir.Value:
        """Insert a Clip before ``at``."""
        if self.opset < 11:
            return self.node(at, "Clip", [value], {"min": low, "max": high}).outputs[0]
        ends = [self.hold(np.array(end, np.float32), at.name or "") for end in (low, high)]
        return self.node(at, "Clip", [value, *ends]).outputs[0]

    def set_numbers(self, codes: ir.Value, numbers: ir.Value, grid: Grid, at: ir.Node) -> None:
        """Record the numbers of a value of codes. They are saturated like the codes if that acts as an activation."""
        self.coded[codes] = Coded(self.saturated(numbers, grid, at), grid)

    def saturated(self, numbers: ir.Value, grid: Grid, at: ir.Node) -> ir.Value:
        """Numbers, clipped to the range of their codes if that acts as an activation."""
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
        if not cut and least >= low - half and abs(low) < half:  # the upper bound only comes from calibration
            return numbers
        if cut and len(numbers.uses()) == 1 and numbers not in self.graph.outputs and maker.inputs[0] is not None:
            numbers = maker.inputs[0]
        return self.clip(numbers, max(low, least), min(high, most), at)

    def replace_uses(self, old: ir.Value, new: ir.Value) -> None:
        """Make all readers of one value read another. A graph output keeps its name."""
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
        """Dequantise the whole graph."""
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
            if value in ends and value in self.coded and maker is not None:
                name, made = value.name, self.as_codes(self.coded[value], maker)
                value.name = f"{name}/codes"
                made.name = name
                self.graph.outputs[index] = made

    def pass_on(self, node: ir.Node) -> None:
        """Carry quantisation parameters over a node that only moves values."""
        places = range(len(node.inputs)) if node.op_type == "Concat" else (0,)
        values = [node.inputs[place] for place in places]
        if node.op_type == "Transpose" and values[0] in self.codes:  # constant weights
            self._transpose(node)
            return
        coded = [self.coded[value] for value in values if value is not None and value in self.coded]
        if coded and len(coded) == len(values):
            grid = coded[0].grid
            if all(grid.same(each.grid) for each in coded):
                for place, each in zip(places, coded):
                    node.replace_input_with(place, each.numbers)
                for value in node.outputs:
                    value.dtype = ir.DataType.FLOAT
                    self.coded[value] = Coded(value, grid)
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
        """Give an operator that computes with codes these codes in floating point."""
        for place, value in enumerate(node.inputs):
            coded = None if value is None else self.coded.get(value)
            if coded is not None and coded.numbers is not value:
                node.replace_input_with(place, self.as_codes(coded, node))


def _behind_identities(value: ir.Value | None) -> ir.Value | None:
    """The value at the beginning of a chain of Identity nodes. torch's exporter uses them to share equal constants."""
    while value is not None and (maker := value.producer()) is not None and maker.op_type == "Identity":
        value = maker.inputs[0]
    return value


def _between(value: ir.Value, rewriter: Rewriter) -> tuple[float, float]:
    """The lowest and the highest possible number of a value, as far as the operators before it determine them."""
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
"""Type of codes -> the lowest and the highest code."""

Rewrite = Callable[[Rewriter, ir.Node], bool]
"""A function that rewrites a node. It returns False if it cannot; the node then stays, and the conversion fails."""
REWRITES: dict[tuple[str, str], Rewrite] = {}
"""(domain, operator) -> the function that rewrites it; :mod:`.dequantizing` fills it."""


def rewrites(*operators: str, domain: str = "") -> Callable[[Rewrite], Rewrite]:
    """Register a function for these operators. Operators of Microsoft's domain are also registered without a domain."""

    def register(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(((domain, name) for name in operators), function))
        if domain == MICROSOFT:  # some tools write these operators without a domain
            REWRITES.update(dict.fromkeys((("", name) for name in operators if ("", name) not in REWRITES), function))
        return function

    return register
