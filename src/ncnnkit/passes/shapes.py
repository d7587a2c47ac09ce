"""What is known of the blobs' shapes without running the network.

A file rarely says how large its inputs are, and yet much is certain: a convolution's output has ``num_output``
channels, a global pooling's is a vector, a ReLU changes nothing. Passes that are only right for some shapes ask here,
and do nothing where the answer is unknown.

A shape is a tuple with the outermost axis first, as numpy has it: (c, d, h, w), (c, h, w), (h, w) or (w,). A side is an
int, or, where only its origin is known, a tuple naming that origin: equal tuples are equal sides, different tuples may
be equal, too.

Source: ``forward`` of the types in ``src/layer/*.cpp`` of ncnn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Union

from ..model.graph import Graph, Layer
from .wires import LINEAR

Side = Union[int, tuple[Any, ...]]
Shape = tuple[Side, ...]
_Rule = Callable[[Layer, "list[Shape | None]"], "Shape | None"]


def infer(graph: Graph) -> dict[str, Shape | None]:
    """Shape of every blob; None where not even the number of axes is certain."""
    shapes: dict[str, Shape | None] = {}
    for layer in graph.layers:
        inputs = [shapes[blob] for blob in layer.inputs]
        if layer.type in _SAME:
            outputs = [inputs[0]] * len(layer.outputs)
        elif layer.type == "Slice":
            outputs = _slice(layer, inputs[0])
        else:
            rule = _RULES.get(layer.type)
            outputs = [rule(layer, inputs) if rule else None] * len(layer.outputs)
        shapes.update(zip(layer.outputs, outputs, strict=True))
    return shapes


def expand(shape: Shape, to: Shape) -> Shape | None:
    """The shape with its missing axes added as BinaryOp adds them to match ``to``; None where that is not certain."""
    missing = len(to) - len(shape)
    if missing <= 0 or len(shape) > 1:
        return (*shape, *(1,) * missing)
    if shape[0] == to[0]:  # a vector lies along the channels if it has their number, else along the rows
        return (*shape, *(1,) * missing)
    if isinstance(shape[0], int) and isinstance(to[0], int):
        return (*(1,) * missing, *shape)
    return (1,) * len(to) if shape == (1,) else None


def _fresh(layer: Layer, rank: int) -> Shape:
    return tuple((layer.name, axis) for axis in range(rank))


def _input(layer: Layer, _: list[Shape | None]) -> Shape | None:
    p = layer.p
    return tuple(side for side in (p.c, p.d, p.h, p.w) if side) or None


def _constant(layer: Layer, _: list[Shape | None]) -> Shape | None:
    return _input(layer, _) or (1,)


def _binary(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    if len(inputs) == 1:
        return inputs[0]
    one, other = inputs
    if one is None or other is None:
        return None
    wide, broad = expand(one, other), expand(other, one)
    if wide is None or broad is None:
        return None
    return tuple(_wider(a, b) for a, b in zip(wide, broad, strict=True))


def _wider(a: Side, b: Side) -> Side:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ("wider", a, b)


def _window(side: Side, extent: int, stride: int, before: int, after: int) -> Side:
    """Positions of a window of ``extent`` on a padded side; negative paddings are ncnn's SAME_UPPER and SAME_LOWER."""
    if before < 0:
        return side if stride == 1 else -(-side // stride) if isinstance(side, int) else ("same", side, stride)
    grown = before + after - extent
    if isinstance(side, int):
        return (side + grown) // stride + 1
    return side if (stride, grown) == (1, -1) else ("window", side, grown, stride)


_PADS = {"w": ("pad_left", "pad_right"), "h": ("pad_top", "pad_bottom"), "d": ("pad_front", "pad_behind")}


def _axes(layer: Layer) -> str:
    return "".join(s for s in "dhw" if f"kernel_{s}" in layer.op.by_name)


def _linear(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    p, shape = layer.p, inputs[0]
    if layer.params.get("dynamic_weight"):
        return None
    if layer.type == "InnerProduct":
        return _inner_product(p, shape)
    axes = _axes(layer)
    if layer.type == "Convolution" and (p.kernel_w, p.kernel_h) == (1, 1) and (shape is None or len(shape) == 1):
        return None if shape is None else (p.num_output,)  # ncnn takes a vector for 1x1 pixels
    if "Deconvolution" in layer.type or shape is None or len(shape) != len(axes) + 1:
        return (p.num_output, *_fresh(layer, len(axes)))
    sides = (
        _window(
            side,
            getattr(p, f"dilation_{axis}") * (getattr(p, f"kernel_{axis}") - 1) + 1,
            getattr(p, f"stride_{axis}"),
            *(getattr(p, pad) for pad in _PADS[axis]),
        )
        for side, axis in zip(shape[1:], axes, strict=True)
    )
    return (p.num_output, *sides)


def _inner_product(p: Any, shape: Shape | None) -> Shape | None:
    inputs = p.weight_data_size // max(p.num_output, 1)
    if shape is None:
        return None
    if len(shape) == 2 and shape[1] == inputs:
        return (shape[0], p.num_output)  # row by row
    if len(shape) == 2 and not isinstance(shape[1], int):
        return None
    return (p.num_output,)


def _pooling(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    p, shape, axes = layer.p, inputs[0], _axes(layer)
    rank = len(axes) + 1
    if p.global_pooling:
        if shape is None:
            return _fresh(layer, 1)
        return shape[:1] if len(shape) == rank else (1,)
    if shape is None or len(shape) != rank:
        return None if shape is None else _fresh(layer, rank)
    if p.adaptive_pooling:
        wanted = (getattr(p, f"out_{axis}") for axis in axes)
        return (shape[0], *(side if out == -233 else out for side, out in zip(shape[1:], wanted, strict=True)))
    sides = []
    for side, axis in zip(shape[1:], axes, strict=True):
        kernel, stride = getattr(p, f"kernel_{axis}"), getattr(p, f"stride_{axis}")
        before, after = (getattr(p, pad) for pad in _PADS[axis])
        if p.pad_mode >= 2:
            before = -1
        elif p.pad_mode == 0:
            after += stride - 1  # rounds up
        sides.append(_window(side, kernel, stride, before, after))
    return (shape[0], *sides)


def _size(layer: Layer, shape: Shape | None) -> Side:
    if shape is None:
        return (layer.name, "size")
    if len(shape) == 1:
        return shape[0]
    known = [side for side in shape if isinstance(side, int)]
    return math.prod(known) if len(known) == len(shape) else ("size", *shape)


def _flatten(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    return (_size(layer, inputs[0]),)


def _reshape(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    p, shape = layer.p, inputs[0]
    if p.shape_expr or (p.input_batch_axis, p.output_batch_axis) != (233, 233):
        return None
    wanted = [side for side in (p.c, p.d, p.h, p.w) if side != -233]
    if wanted in ([-1], [0]):
        return (_size(layer, shape),)
    sides: list[Side] = [s if s > 0 else f for s, f in zip(wanted, _fresh(layer, len(wanted)), strict=True)]
    size = _size(layer, shape)
    if wanted.count(-1) == 1 and 0 not in wanted:
        hole, rest = wanted.index(-1), -math.prod(wanted)
        if rest == 1:
            sides[hole] = size
        elif isinstance(size, int):
            sides[hole] = size // rest
    return tuple(sides) or None


def _concat(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    known = [shape for shape in inputs if shape is not None]
    if len(known) < len(inputs):
        return None
    sides = list(known[0])
    axis = layer.p.axis % len(sides)
    joined = [shape[axis] for shape in known]
    counts = [side for side in joined if isinstance(side, int)]
    sides[axis] = sum(counts) if len(counts) == len(joined) else ("concat", *joined)
    return tuple(sides)


def _slice(layer: Layer, shape: Shape | None) -> list[Shape | None]:
    n = len(layer.outputs)
    if shape is None:
        return [None] * n
    p, axis = layer.p, layer.p.axis % len(shape)
    whole, slices = shape[axis], p.slices
    pieces: list[Side] = [(layer.name, i) for i in range(n)]
    if isinstance(whole, int) and len(slices) == n and not p.indices:
        left = whole
        for i, wanted in enumerate(slices):
            piece = left // (n - i) if wanted == -233 else wanted
            left -= piece
            pieces[i] = piece
    return [(*shape[:axis], piece, *shape[axis + 1 :]) for piece in pieces]


def _reduction(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    p, shape = layer.p, inputs[0]
    if shape is None:
        return None
    reduced = set(range(len(shape))) if p.reduce_all else {axis % len(shape) for axis in p.axes}
    if p.keepdims:
        return tuple(1 if i in reduced else side for i, side in enumerate(shape))
    return tuple(side for i, side in enumerate(shape) if i not in reduced) or (1,)


def _same_rank(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    return None if inputs[0] is None else _fresh(layer, len(inputs[0]))


def _same_channels(layer: Layer, inputs: list[Shape | None]) -> Shape | None:
    shape = inputs[0]
    return (shape[0], *_fresh(layer, 3)[1:]) if shape is not None and len(shape) == 3 else None


_SAME = frozenset((
    "AbsVal", "BatchNorm", "Bias", "BNLL", "CELU", "Clip", "CumulativeSum", "DeepCopy", "Dropout", "Eltwise", "ELU",
    "Erf", "Exp", "Flip", "GELU", "GroupNorm", "HardSigmoid", "HardSwish", "InstanceNorm", "LayerNorm", "Log", "LRN",
    "Mish", "MVN", "Normalize", "Power", "PReLU", "ReLU", "RMSNorm", "Scale", "SELU", "Shrink", "ShuffleChannel",
    "Sigmoid", "Softmax", "Softplus", "Split", "Swish", "TanH", "Threshold", "UnaryOp",
))  # fmt: skip
"""Types whose every output has the shape of their first input."""

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(LINEAR, _linear),
    "Input": _input,
    "MemoryData": _constant,
    "BinaryOp": _binary,
    "Pooling": _pooling,
    "Pooling1D": _pooling,
    "Pooling3D": _pooling,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Concat": _concat,
    "Reduction": _reduction,
    "Permute": _same_rank,
    "Interp": _same_channels,
}
