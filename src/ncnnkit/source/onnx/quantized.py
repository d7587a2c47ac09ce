"""Quantised ONNX models as models in floating point, with the scales of their layers kept.

Three kinds of model are read:

* **QDQ**: QuantizeLinear and DequantizeLinear around operators in floating point,
* **QOperator**: operators that compute with codes, such as QLinearConv,
* **dynamic**: ConvInteger, MatMulInteger and the like, whose inputs get their scales while the network runs.

A code stands for ``(code - zero point) * scale``. Every value of codes is replaced by what it stands for, without the
rounding, and each constant by the numbers that its codes stand for. The saturation is left where it is an activation:
exporters drop a ReLU before a QuantizeLinear whose least code stands for 0.

A layer whose input and weights had codes keeps their scales as :class:`~ncnnkit.model.scales.LayerScales`, in the
metadata of its node, so that a file of the model keeps them, too. ncnn's own int8 is made from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...model.scales import STEPS, LayerScales

Array = NDArray[Any]

SCALES = "ncnnkit.scales"
"""The key of a node's metadata that holds its LayerScales."""
MICROSOFT = "com.microsoft"

_PASSING = frozenset(
    ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool", "Slice", "Gather", "Split",
     "Expand", "DepthToSpace", "SpaceToDepth", "Concat", "Tile")
)  # fmt: skip
"""Operators whose outputs hold numbers of their inputs, and no others."""
_MEANS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"))
_BETWEEN = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
_LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_INT8 = ("Conv", "Gemm", "MatMul")  # those of them that ncnn runs in int8 with a scale known beforehand

DYNAMIC = "the scales of their inputs are computed while the original runs; ncnn needs them before"
FLOAT_INPUT = "the original does not quantise their input"
BITS = "their codes do not have 8 bits"
COMPUTED = "their weights are computed"
ALONG_INPUTS = "their weights have scales along the inputs or by blocks; ncnn has one for each output channel"
CHANNELS = "their input has a scale for each channel; ncnn has one"
NO_KERNEL = "ncnn does not run them in int8"
ROUNDED = "their weights have zero points; ncnn has none, so they are rounded again"


@dataclass(frozen=True)
class QuantisedModel:
    """What a model's own quantisation was.

    Attributes:
        layers: names of the nodes that keep their scales.
        lost: reason -> names of the nodes that it holds for.
    """

    layers: tuple[str, ...]
    lost: dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Grid:
    """What codes stand for.

    Attributes:
        scale: float64, () or one for each place along ``axis``.
        zero: int64, of the same shape.
        low, high: the least and the largest code.
        axis: the axis that the scales belong to.
        blocked: whether the scales belong to blocks along ``axis``.
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


@dataclass(eq=False)
class _Rewriter:
    """A model while its codes are replaced.

    Attributes:
        stands: a value of codes -> the value of the numbers it stands for.
        grids: a value of codes -> its grid.
        read: (node, place) -> the grid of the numbers that the node reads there.
        flows: a value of numbers -> their grid, where every reader sees the same.
        codes: a constant of numbers -> its codes.
        dynamic: values whose numbers would get a scale while the network runs.
    """

    graph: ir.Graph
    opset: int
    stands: dict[ir.Value, ir.Value] = field(default_factory=dict)
    grids: dict[ir.Value, Grid] = field(default_factory=dict)
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
        name = f"{stem}/numbers{self.count}"
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        self.graph.register_initializer(value)
        return value

    def node(
        self, at: ir.Node, op: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None,
        name: str = "", domain: str = "", outputs: int = 1,
    ) -> ir.Node:  # fmt: skip
        """A new node before ``at``."""
        self.count += 1
        made = ir.Node(
            domain, op, list(inputs), ir.convenience.convert_attributes(attributes or {}),
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
        """The grid of these inputs; None where they are not constant, or no whole numbers."""
        scales, zeros = self.constant(scale), self.constant(zero)
        if scales is None or (zeros is None and zero is not None):
            return None
        point = _behind_identities(zero)
        kind = dtype or (ir.DataType.UINT8 if point is None or point.const_value is None else point.const_value.dtype)
        if kind not in _CODES:
            return None
        low, high = _CODES[kind]
        points = (
            np.zeros(scales.shape, np.int64) if zeros is None else np.broadcast_to(zeros.astype(np.int64), scales.shape)
        )
        return Grid(scales.astype(np.float64), points, low, high, axis, blocked if scales.ndim > 1 else 0)

    def numbers(self, value: ir.Value, grid: Grid, at: ir.Node) -> ir.Value:
        """What a value of codes stands for; computed from the codes where the network is fed with them."""
        if value in self.stands and self.grids[value].same(grid):
            return self.stands[value]
        codes = self.constant(value)
        if codes is not None:
            made = self.hold(grid.numbers(codes), str(value.name))
            self.codes[made] = codes.astype(np.int64)
            return made
        if value in self.stands:  # other scales than it was made with: as codes
            value = self.as_codes(self.stands[value], self.grids[value], at)
        else:
            value = self.node(at, "Cast", [value], {"to": int(ir.DataType.FLOAT)}).outputs[0]
        scale, zero = grid.along([1] * (1 if value.shape is None else len(value.shape)))
        if np.any(zero):
            value = self.node(at, "Sub", [value, self.hold(zero.astype(np.float32), at.name or "")]).outputs[0]
        return self.node(at, "Mul", [value, self.hold(scale.astype(np.float32), at.name or "")]).outputs[0]

    def as_codes(self, numbers: ir.Value, grid: Grid, at: ir.Node) -> ir.Value:
        """The codes of numbers, as whole numbers in floating point."""
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
        self.stands[codes], self.grids[codes] = self.saturated(numbers, grid, at), grid

    def saturated(self, numbers: ir.Value, grid: Grid, at: ir.Node) -> ir.Value:
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

    def replace(self, node: ir.Node, place: int, numbers: ir.Value, grid: Grid | None) -> None:
        node.replace_input_with(place, numbers)
        if grid is not None:
            self.read[node, place] = grid

    def answer(self, old: ir.Value, new: ir.Value) -> None:
        """All that reads a value of numbers reads another."""
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
                name, made = value.name, self.as_codes(self.stands[value], self.grids[value], maker)
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
        coded = [value for value in values if value is not None and value in self.stands]
        if coded and len(coded) == len(values):
            grid = self.grids[coded[0]]
            if all(grid.same(self.grids[value]) for value in coded):
                for place, value in zip(places, coded):
                    node.replace_input_with(place, self.stands[value])
                for value in node.outputs:
                    value.dtype = ir.DataType.FLOAT
                    self.stands[value], self.grids[value] = value, grid
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
            self.replace(user, place, made, turned)

    def read_codes(self, node: ir.Node) -> None:
        """An operator that computes with the codes themselves gets them in floating point."""
        for place, value in enumerate(node.inputs):
            if value is not None and value in self.stands and self.stands[value] is not value:
                node.replace_input_with(place, self.as_codes(self.stands[value], self.grids[value], node))


def _behind_identities(value: ir.Value | None) -> ir.Value | None:
    """The value that a chain of Identity hands on: torch's exporter writes a constant once, and hands it on so."""
    while value is not None and (maker := value.producer()) is not None and maker.op_type == "Identity":
        value = maker.inputs[0]
    return value


def _between(value: ir.Value, rewriter: _Rewriter) -> tuple[float, float]:
    """Between what the numbers of a value lie, as far as the operators before it say so."""
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


_CODES = {
    ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(1 << 15), (1 << 15) - 1), ir.DataType.UINT16: (0, (1 << 16) - 1),
    ir.DataType.INT32: (-(1 << 31), (1 << 31) - 1),
}  # fmt: skip
"""Type of codes -> the least and the largest."""

Rewrite = Callable[[_Rewriter, ir.Node], bool]
"""Rewrites a node. Says whether it could; if not, the node stays, and ncnn has no layer for it."""
REWRITES: dict[tuple[str, str], Rewrite] = {}


def _of(*operators: str, domain: str = "") -> Callable[[Rewrite], Rewrite]:
    def register(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(((domain, name) for name in operators), function))
        if domain == MICROSOFT:  # older files write Q and DQ there, too, and tools write some without a domain
            REWRITES.update(dict.fromkeys((("", name) for name in operators if ("", name) not in REWRITES), function))
        return function

    return register


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _inputs(node: ir.Node, count: int) -> list[ir.Value | None]:
    """The inputs of a node, None for those that are left out."""
    return [*node.inputs, *[None] * count][:count]


def _kept(node: ir.Node, *left_out: str) -> dict[str, Any]:
    """The attributes of a node, less some."""
    return {name: attribute for name, attribute in node.attributes.items() if name not in left_out}


# ------------------------------------------------------------------------------------------------------------------ QDQ


def _linear_grid(rewriter: _Rewriter, node: ir.Node) -> Grid | None:
    """The grid of a QuantizeLinear or DequantizeLinear."""
    _, scale, zero = _inputs(node, 3)
    kind = None
    if zero is None and node.op_type == "QuantizeLinear":
        kind = ir.DataType(_attribute(node, "output_dtype", 0) or ir.DataType.UINT8)
    elif zero is None and node.inputs[0] is not None:
        kind = node.inputs[0].dtype
    return rewriter.grid(scale, zero, int(_attribute(node, "axis", 1)), int(_attribute(node, "block_size", 0)), kind)


@_of("QuantizeLinear", domain=MICROSOFT)
@_of("QuantizeLinear")
def _quantize(rewriter: _Rewriter, node: ir.Node) -> bool:
    grid, numbers = _linear_grid(rewriter, node), node.inputs[0]
    if grid is None or numbers is None:
        return False
    array = rewriter.constant(numbers)
    if array is None:
        rewriter.becomes(node.outputs[0], numbers, grid, node)
        return True
    codes = grid.codes(array)
    made = rewriter.hold(grid.numbers(codes), str(numbers.name))
    rewriter.codes[made] = codes
    rewriter.stands[node.outputs[0]], rewriter.grids[node.outputs[0]] = made, grid
    return True


@_of("DequantizeLinear", domain=MICROSOFT)
@_of("DequantizeLinear")
def _dequantize(rewriter: _Rewriter, node: ir.Node) -> bool:
    grid, codes = _linear_grid(rewriter, node), node.inputs[0]
    if grid is None or codes is None:
        return False
    numbers = rewriter.numbers(codes, grid, node)
    for user, place in list(node.outputs[0].uses()):
        rewriter.read[user, place] = grid
    rewriter.answer(node.outputs[0], numbers)
    return True


# ------------------------------------------------------------------------------------------------------------ QOperator


def _coded(rewriter: _Rewriter, node: ir.Node, place: int, axis: int = 0) -> tuple[ir.Value, Grid] | None:
    """The numbers of an operator's input that is given as codes, scale and zero point, and their grid."""
    codes, scale, zero = (*node.inputs[place : place + 3], None)[:3]
    grid = rewriter.grid(scale, zero, axis)
    return None if grid is None or codes is None else (rewriter.numbers(codes, grid, node), grid)


def _answers(
    rewriter: _Rewriter, node: ir.Node, made: ir.Node, places: tuple[ir.Value | None, ir.Value | None]
) -> bool:
    """The codes that a node hands out stand for what ``made`` computes; numbers where no scale is given."""
    scale, zero = places
    if scale is None:
        rewriter.answer(node.outputs[0], made.outputs[0])
        return True
    grid = rewriter.grid(scale, zero)
    if grid is None:
        return False
    rewriter.becomes(node.outputs[0], made.outputs[0], grid, node)
    return True


def _as_float(
    rewriter: _Rewriter, node: ir.Node, op: str, read: Sequence[tuple[ir.Value, Grid] | None], *more: ir.Value | None,
    attributes: dict[str, Any] | None = None, domain: str = "",
) -> ir.Node:  # fmt: skip
    """The operator in floating point, of the same name."""
    made = rewriter.node(
        node,
        op,
        [*(each[0] if each else None for each in read), *more],
        attributes,
        name=node.name or "",
        domain=domain,
    )
    node.name = f"{node.name}/codes"
    for place, each in enumerate(read):
        if each is not None:
            rewriter.read[made, place] = each[1]
    return made


@_of("QLinearConv")
def _qlinear_conv(rewriter: _Rewriter, node: ir.Node) -> bool:
    x, w = _coded(rewriter, node, 0), _coded(rewriter, node, 3)
    if x is None or w is None or w[0] not in rewriter.codes:
        return False
    bias = _inputs(node, 9)[8]
    if bias is not None:
        codes = rewriter.constant(bias)
        if codes is None:
            return False
        bias = rewriter.hold(
            (codes * (x[1].scale.reshape(-1) * w[1].scale.reshape(-1))).astype(np.float32), str(bias.name)
        )
    made = _as_float(rewriter, node, "Conv", [x, w], *([] if bias is None else [bias]), attributes=_kept(node))
    return _answers(rewriter, node, made, (node.inputs[6], node.inputs[7]))


@_of("QLinearMatMul")
def _qlinear_matmul(rewriter: _Rewriter, node: ir.Node) -> bool:
    a, b = _coded(rewriter, node, 0), _coded(rewriter, node, 3, axis=-1)
    if a is None or b is None:
        return False
    return _answers(rewriter, node, _as_float(rewriter, node, "MatMul", [a, b]), (node.inputs[6], node.inputs[7]))


@_of("QGemm", domain=MICROSOFT)
def _qgemm(rewriter: _Rewriter, node: ir.Node) -> bool:
    turned, alpha = int(_attribute(node, "transB", 0)), float(_attribute(node, "alpha", 1.0))
    a, b = _coded(rewriter, node, 0), _coded(rewriter, node, 3, axis=0 if turned else 1)
    if a is None or b is None:
        return False
    *_, c, scale, zero = _inputs(node, 9)
    if c is not None:
        codes = rewriter.constant(c)
        if codes is None:
            return False
        step = alpha * a[1].scale.reshape(-1) * b[1].scale.reshape(-1)
        c = rewriter.hold((codes * step).astype(np.float32), str(c.name))
    made = _as_float(rewriter, node, "Gemm", [a, b], *([] if c is None else [c]), attributes=_kept(node))
    return _answers(rewriter, node, made, (scale, zero))


_TWO = {"QLinearAdd": "Add", "QLinearMul": "Mul"}


@_of(*_TWO, domain=MICROSOFT)
def _qlinear_two(rewriter: _Rewriter, node: ir.Node) -> bool:
    a, b = _coded(rewriter, node, 0), _coded(rewriter, node, 3)
    if a is None or b is None:
        return False
    made = _as_float(rewriter, node, _TWO[node.op_type], [a, b])
    return _answers(rewriter, node, made, (*_inputs(node, 8)[6:],))  # type: ignore[arg-type]


_ONE = {
    "QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu", "QLinearSoftmax": "Softmax",
    "QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearReduceMean": "ReduceMean",
}  # fmt: skip


@_of(*_ONE, domain=MICROSOFT)
def _qlinear_one(rewriter: _Rewriter, node: ir.Node) -> bool:
    x = _coded(rewriter, node, 0)
    if x is None or _attribute(node, "channels_last", 0) or _attribute(node, "opset", 13) < 13:
        return False
    made = _as_float(rewriter, node, _ONE[node.op_type], [x], attributes=_kept(node, "channels_last", "opset"))
    return _answers(rewriter, node, made, (*_inputs(node, 5)[3:],))  # type: ignore[arg-type]


@_of("QLinearConcat", domain=MICROSOFT)
def _qlinear_concat(rewriter: _Rewriter, node: ir.Node) -> bool:
    parts = [_coded(rewriter, node, place) for place in range(2, len(node.inputs), 3)]
    if not all(parts):
        return False
    made = _as_float(rewriter, node, "Concat", parts, attributes=_kept(node))
    return _answers(rewriter, node, made, (node.inputs[0], node.inputs[1]))


@_of("QLinearWhere", domain=MICROSOFT)
def _qlinear_where(rewriter: _Rewriter, node: ir.Node) -> bool:
    x, y = _coded(rewriter, node, 1), _coded(rewriter, node, 4)
    if x is None or y is None:
        return False
    made = _as_float(rewriter, node, "Where", [None, x, y])
    made.replace_input_with(0, node.inputs[0])
    return _answers(rewriter, node, made, (*_inputs(node, 9)[7:],))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- dynamic


@_of("DynamicQuantizeLinear")
def _dynamic(rewriter: _Rewriter, node: ir.Node) -> bool:
    """Its scale becomes 1 and its zero point 0: what follows multiplies by the scale, wherever that stands."""
    numbers = node.inputs[0]
    assert numbers is not None
    codes, scale, zero = node.outputs
    rewriter.answer(scale, rewriter.hold(np.array(1, np.float32), str(scale.name)))
    rewriter.answer(zero, rewriter.hold(np.array(0, np.uint8), str(zero.name)))
    grid = Grid(np.array(1.0), np.array(0), 0, 255)
    rewriter.stands[codes], rewriter.grids[codes] = numbers, grid
    for user, _ in codes.uses():
        rewriter.dynamic.add(user)
    return True


def _integer_operand(
    rewriter: _Rewriter,
    node: ir.Node,
    value: ir.Value | None,
    zero: ir.Value | None,
    axis: int,
    scale: Array | None = None,
) -> ir.Value | None:
    """Codes less their zero point, as numbers; times a scale, where one is known."""
    if value is None:
        return None
    dynamic = value in rewriter.stands and node in rewriter.dynamic
    if dynamic:
        return rewriter.stands[value]
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
    return rewriter.numbers(value, Grid(scales, zeros, *_CODES.get(kind, (-128, 127)), axis), node)


def _scale_after(rewriter: _Rewriter, node: ir.Node) -> tuple[list[ir.Node], Array]:
    """The Cast and the Mul by a constant that follow an integer product, and the constant; nothing and 1 without."""
    casts = [user for user, _ in node.outputs[0].uses()]
    if len(casts) != 1 or casts[0].op_type != "Cast" or node.outputs[0] in rewriter.graph.outputs:
        return [], np.ones(())
    muls = list(casts[0].outputs[0].uses())
    if len(muls) != 1 or muls[0][0].op_type != "Mul":
        return [casts[0]], np.ones(())
    mul, place = muls[0]
    found = _constant_product(rewriter, mul.inputs[1 - place])
    return ([casts[0]], np.ones(())) if found is None else ([casts[0], mul], found)


def _constant_product(rewriter: _Rewriter, value: ir.Value | None) -> Array | None:
    """A constant, or the product of two: the scale of an input, which is now 1, times that of the weights."""
    found = rewriter.constant(value)
    if found is not None or value is None:
        return found
    maker = value.producer()
    if maker is None or maker.op_type != "Mul":
        return None
    one, other = (rewriter.constant(v) for v in maker.inputs)
    return None if one is None or other is None else np.asarray(one * other)


@_of("MatMulInteger", "ConvInteger")
def _integer(rewriter: _Rewriter, node: ir.Node) -> bool:
    a, b, a_zero, b_zero = _inputs(node, 4)
    after, scale = _scale_after(rewriter, node)
    axis = -1 if node.op_type == "MatMulInteger" else 0
    weight = rewriter.constant(b)
    # A scale for each output channel stands where that axis is in the product: last, or before the sides of an image.
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
    rewriter.answer(last, made.outputs[0])
    return True


@_of("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_matmul(rewriter: _Rewriter, node: ir.Node) -> bool:
    a, b, scale, zero, bias = _inputs(node, 5)
    scales = rewriter.constant(scale)
    weight = None if scales is None else _integer_operand(rewriter, node, b, zero, -1, scales)
    return a is not None and weight is not None and _product(rewriter, node, a, weight, bias)


@_of("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_to_float(rewriter: _Rewriter, node: ir.Node) -> bool:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _inputs(node, 7)
    one, two = rewriter.constant(a_scale), rewriter.constant(b_scale)
    if one is None or two is None or a is None:
        return False
    grid = rewriter.grid(a_scale, a_zero)
    left = rewriter.stands[a] if a in rewriter.stands and node in rewriter.dynamic else None
    if left is None and grid is not None:
        left = rewriter.numbers(a, grid, node)
    weight = _integer_operand(rewriter, node, b, b_zero, -1, two)
    return left is not None and weight is not None and _product(rewriter, node, left, weight, bias)


def _product(rewriter: _Rewriter, node: ir.Node, a: ir.Value, b: ir.Value, bias: ir.Value | None) -> bool:
    made = _as_float(rewriter, node, "MatMul", [], a, b)
    rewriter.dynamic.add(made)
    if bias is not None:
        made = rewriter.node(node, "Add", [made.outputs[0], bias])
    rewriter.answer(node.outputs[0], made.outputs[0])
    return True


@_of("DynamicQuantizeLSTM", domain=MICROSOFT)
def _dynamic_lstm(rewriter: _Rewriter, node: ir.Node) -> bool:
    """Its weights are (directions, inputs, 4 * hidden): those of an LSTM are turned round."""
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
        rewriter.answer(old, new)
    return True


# ----------------------------------------------------------------------------------------------------------- the result


def dequantize(model: ir.Model) -> QuantisedModel | None:
    """Turn a quantised model into one in floating point, in place.

    Args:
        model: with functions inlined, constants as initializers, and names for all nodes and values.

    Returns:
        What was kept of the quantisation, and what was not; None for a model that is not quantised.
    """
    graph = model.graph
    if not any((node.domain, node.op_type) in REWRITES for node in graph):
        return None
    rewriter = _Rewriter(graph, int(graph.opset_imports.get("", 1)))
    rewriter.run()
    _drop_unread(graph)
    kept, lost = [], dict[str, list[str]]()
    for node in graph:
        if node.domain or (node.op_type not in _LAYERS and node not in rewriter.dynamic):
            continue
        found, reasons = _layer_scales(rewriter, node)
        if found is not None:
            node.metadata_props[SCALES] = json.dumps(asdict(found))
            kept.append(str(node.name))
        for reason in reasons:
            lost.setdefault(reason, []).append(str(node.name))
    return QuantisedModel(tuple(kept), {reason: tuple(names) for reason, names in lost.items()})


def _drop_unread(graph: ir.Graph) -> None:
    """Remove the nodes that nothing reads any more, and the constants."""
    outputs = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs and value not in graph.inputs:
            del graph.initializers[name]


def _layer_scales(rewriter: _Rewriter, node: ir.Node) -> tuple[LayerScales | None, list[str]]:
    """The scales of a node, and what of its quantisation ncnn cannot keep."""
    if node in rewriter.dynamic:
        return None, [DYNAMIC]
    x, w = rewriter.read.get((node, 0)), rewriter.read.get((node, 1))
    if x is None and w is None:
        return None, []
    if node.op_type not in _INT8:
        return None, [NO_KERNEL]
    weight = node.inputs[1]
    if weight is None or rewriter.constant(weight) is None:
        return None, [COMPUTED]
    codes = rewriter.codes.get(weight)
    if x is None or w is None or codes is None:
        return None, [FLOAT_INPUT]
    axis = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1
    if not x.whole:
        return None, [CHANNELS]
    if (x.low, x.high) not in ((-128, 127), (0, 255)) or w.high - w.low > 255:
        return None, [BITS]
    if w.blocked or codes.ndim < 2 or (not w.whole and w.axis % codes.ndim != axis) or (axis and codes.ndim != 2):
        return None, [ALONG_INPUTS]
    _, zeros = w.along(codes.shape)
    steps = np.abs(codes - zeros).max(axis=tuple(i for i in range(codes.ndim) if i != axis))
    fits = steps <= 128  # a code of -128 becomes -127, which is less than rounding the whole channel again
    point = int(x.zero.reshape(-1)[0]) - (128 if x.low == 0 else 0)
    largest = tuple(int(step) for step in np.where(fits, steps, STEPS))
    found = LayerScales(largest, 1.0 / float(x.scale.reshape(-1)[0]), max(point, -STEPS))
    return found, [] if fits.all() else [ROUNDED]


def scales_of(node: ir.Node) -> LayerScales | None:
    """The scales that :func:`dequantize` wrote into a node."""
    text = node.metadata_props.get(SCALES)
    if text is None:
        return None
    given = json.loads(text)
    return LayerScales(tuple(given["weights"]), given["input"], given["zero_point"])
