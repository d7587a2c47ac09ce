"""The shapes of a layer's outputs, computed from those of its inputs: the rules in the rows of ``ops.py``.

A shape is a tuple with the outermost axis first, as in numpy: (c, d, h, w), (c, h, w), (h, w) or (w,). A side is an
int. If only its origin is known, it is a tuple that names the origin: equal tuples are equal sides; different tuples
may be equal sides, too. A file rarely gives the size of its inputs, but much is certain without it: the output of a
convolution has ``num_output`` channels, the output of a global pooling is a vector, and a ReLU keeps the shape.

A rule gets the layer's params, the shapes of its inputs (None if not even the number of axes is known) and the number
of outputs. It returns the shape of each output. A shape or a side that is not certain is None. It raises
:class:`Misfit` if ncnn would read beyond a blob, or would refuse to run.

Source: ``forward`` of the types in ``src/layer/*.cpp`` of ncnn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np

Side = Union[int, tuple[Any, ...]]
Shape = tuple[Side, ...]
Given = Sequence["Shape | None"]
Made = Union["tuple[Side | None, ...]", None]
"""The shape that a rule gives an output; None for a side that is not certain."""
Rule = Callable[[Any, Given, int], "list[Made]"]
"""(params, shapes of the inputs, number of outputs) -> the shape of each output, as far as it is known."""


MOST_AXES = 4
"""The axes that a blob of ncnn may have."""
MOST_VALUES = 1 << 40
"""The values that a blob may have: more are 4 TB, so the file is corrupt."""


def without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array without its first axis, if that axis has one element."""
    return shape[1:] if shape[:1] == (1,) else shape


def natural(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the blob in which an array of this shape is usually stored: no batch axis, and at most 4 axes.

    If more than four axes are left, axes of one element are removed first, then the outermost axes are merged.
    """
    body = without_batch(shape)
    if len(body) > MOST_AXES:
        body = tuple(side for side in body if side != 1)
    if len(body) > MOST_AXES:
        body = (math.prod(body[: len(body) - MOST_AXES + 1]), *body[len(body) - MOST_AXES + 1 :])
    return body or (1,)


class Misfit(ValueError):
    """A layer cannot take its inputs. The text continues a sentence that begins with the layer."""


def check_size(shape: Made) -> None:
    """Raise Misfit if no blob can have a shape."""
    sides = [side for side in shape or () if isinstance(side, int)]
    if any(side < 0 for side in sides) or math.prod(max(side, 1) for side in sides) > MOST_VALUES:
        raise Misfit(f"outputs {written(sides)}, which no blob can have")


# --------------------------------------------------------------------------------------------------- helpers of rules


def every(rule: Callable[[Any, Given], Made]) -> Rule:
    """A rule that gives the same shape to every output."""
    return lambda p, inputs, count: [rule(p, inputs)] * count


def first(rule: Callable[[Any, Shape], Made]) -> Rule:
    """A rule that computes the shape of the first output from the shape of the first input."""

    def whole(p: Any, inputs: Given, count: int) -> list[Made]:
        shape = inputs[0] if inputs else None
        return [None if shape is None else rule(p, shape), *[None] * (count - 1)]

    return whole


def _numbers(*sides: Side | None) -> bool:
    return all(isinstance(side, int) for side in sides)


def _size(shape: Shape) -> Side:
    if len(shape) == 1:
        return shape[0]
    return math.prod(side for side in shape if isinstance(side, int)) if _numbers(*shape) else ("size", *shape)


def _need(fits: bool, wanted: str, shape: Shape) -> None:
    if not fits:
        raise Misfit(f"expects {wanted}, but gets {written(shape)}")


def written(shape: Sequence[Side | None]) -> str:
    """A shape as text, such as 3x224x224, with ? for a side that is not known."""
    return "x".join(str(side) if isinstance(side, int) else "?" for side in shape)


# ---------------------------------------------------------------------------------------------- shapes that are kept


def unknown(p: Any, inputs: Given, count: int) -> list[Made]:
    """Nothing is known of any output."""
    return [None] * count


def same(p: Any, inputs: Given, count: int) -> list[Made]:
    """Every output has the shape of the first input."""
    return [inputs[0]] * count


def pairwise(p: Any, inputs: Given, count: int) -> list[Made]:
    """Each output has the shape of the input in its place."""
    return [inputs[i] if i < len(inputs) else None for i in range(count)]


def per_channel(size: str) -> Rule:
    """The shape is kept. The size of the first axis must be the param ``size``; 1 or less fits any axis."""

    def rule(p: Any, inputs: Given, count: int) -> list[Made]:
        shape, wanted = inputs[0], getattr(p, size)
        if shape is not None and wanted > 1 and _numbers(shape[0]):
            _need(shape[0] == wanted, f"{wanted} channels", shape)
        return same(p, inputs, count)

    return rule


def over_last_axes(p: Any, inputs: Given, count: int) -> list[Made]:
    """The shape is kept. ``affine_size`` must be the size of the last axis, or of the last two axes together."""
    shape = inputs[0]
    if shape is not None and p.affine and _numbers(*shape[-2:]):
        fits = p.affine_size in (shape[-1], math.prod(side for side in shape[-2:] if isinstance(side, int)))
        _need(fits, f"{p.affine_size} values along its last axes", shape)
    return same(p, inputs, count)


def alike(p: Any, inputs: Given, count: int) -> list[Made]:
    """The shape is kept. All inputs must have the same shape."""
    known = [shape for shape in inputs if shape is not None and _numbers(*shape)]
    for shape in known:
        _need(shape == known[0], f"inputs of one shape, {written(known[0])} as the first", shape)
    return same(p, inputs, count)


# ------------------------------------------------------------------------------------------- inputs, sums, constants


def constant(p: Any, inputs: Given, count: int) -> list[Made]:
    """The shape of a MemoryData, from its params."""
    return [tuple(side for side in (p.c, p.d, p.h, p.w) if side > 0) or (1,)] * count


def unfed(p: Any, inputs: Given, count: int) -> list[Made]:
    """The shape of an Input, from its params. Old files write -233 for a missing side."""
    return [tuple(side for side in (p.c, p.d, p.h, p.w) if side > 0) or None] * count


def expand(shape: Shape, to: Shape) -> Shape | None:
    """The shape with its missing axes added as BinaryOp adds them to match ``to``; None if that is not certain."""
    missing = len(to) - len(shape)
    if missing <= 0 or len(shape) > 1:
        return (*shape, *(1,) * missing)
    if shape[0] == to[0]:  # a vector is along the channels if the sizes match, else along the rows
        return (*shape, *(1,) * missing)
    if _numbers(shape[0], to[0]):
        return (*(1,) * missing, *shape)
    return (1,) * len(to) if shape == (1,) else None


def _wider(a: Side, b: Side) -> Side:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ("wider", a, b)


@every
def broadcast(p: Any, inputs: Given) -> Made:
    """The shape of two blobs that are broadcast as in BinaryOp; the shape of the input if there is only one."""
    if len(inputs) == 1:
        return inputs[0]
    one, other = inputs
    if one is None or other is None:
        return None
    wide, broad = expand(one, other), expand(other, one)
    if wide is None or broad is None:
        return None
    for a, b in zip(wide, broad, strict=True):
        if _numbers(a, b) and a != b and 1 not in (a, b):
            raise Misfit(f"expects blobs of the same shape, but gets {written(one)} and {written(other)}")
    return tuple(_wider(a, b) for a, b in zip(wide, broad, strict=True))


# -------------------------------------------------------------------------------------------------------- windows

_PADS = {"w": ("pad_left", "pad_right"), "h": ("pad_top", "pad_bottom"), "d": ("pad_front", "pad_behind")}
_OUTPUT_PADS = {"w": "output_pad_right", "h": "output_pad_bottom", "d": "output_pad_behind"}


def _axes(p: Any) -> str:
    return "".join(axis for axis in "dhw" if hasattr(p, f"kernel_{axis}"))


def _window(side: Side, extent: int, stride: int, before: int, after: int) -> Side:
    """The number of positions of a window on a padded side. Negative paddings are ncnn's SAME_UPPER and SAME_LOWER."""
    if before < 0:
        return side if stride == 1 else -(-side // stride) if isinstance(side, int) else ("same", side, stride)
    grown = before + after - extent
    if isinstance(side, int):
        if side + grown < 0:
            raise Misfit(f"has a window of {extent}, but gets a side of {side} with {before + after} of padding")
        return (side + grown) // stride + 1
    return side if (stride, grown) == (1, -1) else ("window", side, grown, stride)


def _extent(p: Any, axis: str) -> int:
    """How far a window reaches along an axis."""
    dilation = getattr(p, f"dilation_{axis}") if hasattr(p, f"dilation_{axis}") else 1
    kernel, stride = getattr(p, f"kernel_{axis}"), getattr(p, f"stride_{axis}")
    if min(kernel, stride, dilation) < 1:
        raise Misfit(
            f"has a window with kernel {kernel}, stride {stride} and dilation {dilation}; all must be 1 or more"
        )
    return int(dilation * (kernel - 1) + 1)


def _as_image(shape: Shape | None, rank: int) -> Shape | None:
    """The shape as which an image layer reads a blob of another rank: in ncnn's Mat, a missing axis has size 1."""
    if shape is not None and len(shape) == rank - 1 and rank > 2:
        return (1, *shape)
    return shape if shape is not None and len(shape) == rank else None


def _channels_taken(p: Any) -> int:
    area = math.prod(getattr(p, f"kernel_{axis}") for axis in _axes(p))
    return int(p.weight_data_size // max(p.num_output * area, 1) * (p.group if hasattr(p, "group") else 1))


@every
def convolution(p: Any, inputs: Given) -> Made:
    """Convolutions of 1, 2 or 3 dimensions: (num_output, sides). A 1x1 Convolution also takes a vector."""
    axes, shape = _axes(p), inputs[0]
    if hasattr(p, "dynamic_weight") and p.dynamic_weight:
        return None
    pixelwise = axes == "hw" and not hasattr(p, "group") and (p.kernel_w, p.kernel_h) == (1, 1)
    if pixelwise and (shape is None or len(shape) == 1):  # ncnn reads a vector as an image of 1x1 pixels
        if shape is not None and _numbers(shape[0]):
            _need(shape[0] == _channels_taken(p), f"{_channels_taken(p)} channels", shape)
        return None if shape is None else (p.num_output,)
    image = _as_image(shape, len(axes) + 1)
    if image is None:
        return (p.num_output, *(None for _ in axes))
    if _numbers(image[0]):
        _need(image[0] == _channels_taken(p), f"{_channels_taken(p)} channels", shape or ())
    sides = (
        _window(side, _extent(p, axis), getattr(p, f"stride_{axis}"), *(getattr(p, pad) for pad in _PADS[axis]))
        for side, axis in zip(image[1:], axes, strict=True)
    )
    return (p.num_output, *sides)


@every
def deconvolution(p: Any, inputs: Given) -> Made:
    """Deconvolutions of 1, 2 or 3 dimensions: (num_output, sides)."""
    axes = _axes(p)
    if hasattr(p, "dynamic_weight") and p.dynamic_weight:
        return None
    image = _as_image(inputs[0], len(axes) + 1)
    if image is None:
        return (p.num_output, *(None for _ in axes))
    if _numbers(image[0]):
        _need(image[0] == _channels_taken(p), f"{_channels_taken(p)} channels", inputs[0] or ())
    pads = {axis: [getattr(p, pad) for pad in _PADS[axis]] for axis in axes}
    wanted = [getattr(p, f"output_{axis}") for axis in axes]
    cut = any(pad > 0 for pair in pads.values() for pad in pair)
    if not cut and all(side > 0 for side in wanted):
        asked = any(pad in (-233, -234) for pair in pads.values() for pad in pair)
        return (p.num_output, *(side if asked else None for side in wanted))
    sides: list[Any] = []
    for side, axis in zip(image[1:], axes, strict=True):
        if not isinstance(side, int):
            sides.append(None)
            continue
        whole = (side - 1) * getattr(p, f"stride_{axis}") + _extent(p, axis) + getattr(p, _OUTPUT_PADS[axis])
        sides.append(whole - (sum(max(pad, 0) for pad in pads[axis]) if cut else 0))
        if sides[-1] <= 0:
            raise Misfit(f"cuts {sum(pads[axis])} off a side of {whole}")
    return (p.num_output, *sides)


@every
def inner_product(p: Any, inputs: Given) -> Made:
    """A vector of num_output values. The rows of a matrix are mapped one by one: (rows, num_output)."""
    taken, shape = p.weight_data_size // max(p.num_output, 1), inputs[0]
    if shape is None:
        return None
    if len(shape) == 2 and shape[1] == taken:
        return (shape[0], p.num_output)  # row by row
    if len(shape) == 2 and not _numbers(shape[1]):
        return None
    if _numbers(*shape):
        _need(_size(shape) == taken, f"{taken} values", shape)
    return (p.num_output,)


@every
def pooling(p: Any, inputs: Given) -> Made:
    """(c, sides), or a vector (c,) for a global pooling."""
    axes, shape = _axes(p), inputs[0]
    rank = len(axes) + 1
    if p.global_pooling:
        return (None,) if shape is None else shape[:1] if len(shape) == rank else (1,)
    image = _as_image(shape, rank)
    if image is None:
        return None if shape is None else (None,) * rank
    if p.adaptive_pooling:
        wanted = (getattr(p, f"out_{axis}") for axis in axes)
        return (image[0], *(side if out == -233 else out for side, out in zip(image[1:], wanted, strict=True)))
    sides = []
    for side, axis in zip(image[1:], axes, strict=True):
        stride = getattr(p, f"stride_{axis}")
        before, after = (getattr(p, pad) for pad in _PADS[axis])
        if p.pad_mode >= 2:
            before = -1
        elif p.pad_mode == 0:
            after += stride - 1  # ncnn rounds up here
        sides.append(_window(side, _extent(p, axis), stride, before, after))
    return (image[0], *sides)


@first
def unfold(p: Any, shape: Shape) -> Made:
    """The patches of an image (im2col): (c x kernel_h x kernel_w, positions)."""
    image = _as_image(shape, 3)
    if image is None or not _numbers(*image):
        return (None, None)
    sides = [
        _window(side, _extent(p, axis), getattr(p, f"stride_{axis}"), *(getattr(p, pad) for pad in _PADS[axis]))
        for side, axis in zip(image[1:], "hw", strict=True)
    ]
    channels = image[0]
    assert isinstance(channels, int)
    return (channels * p.kernel_w * p.kernel_h, _size(tuple(sides)))


# ------------------------------------------------------------------------------------------------ axes moved and cut


@every
def flatten(p: Any, inputs: Given) -> Made:
    """A vector of all values."""
    return (None,) if inputs[0] is None else (_size(inputs[0]),)


_REFERENCE = re.compile(r"(\d)([whdcn])", re.ASCII)
_BINARY: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": lambda a, b: a // b if b else 0,
    "max": max, "min": min,
}  # fmt: skip


def expression(text: str, inputs: Given) -> list[Side | None] | None:
    """The values of an ncnn expression, in its order. A shape has its innermost side first.

    An expression is a list in prefix notation, such as ``*(0w,2),//(1h,4),-1``. ``0w`` is the width of the first input.

    Returns:
        The values; None for a value that is not certain. None instead of the list if the number of values is not
        certain.
    """
    stack: list[Side | None] = []
    for token in reversed([token for token in re.split("[(),]", text) if token]):
        reference = _REFERENCE.fullmatch(token)
        if reference:
            index, axis = int(reference[1]), reference[2]
            shape = inputs[index] if index < len(inputs) else None
            stack.append(None if shape is None else _mat_side(shape, axis))
        elif token in _BINARY and len(stack) > 1:
            a, b = stack.pop(), stack.pop()
            stack.append(_BINARY[token](a, b) if isinstance(a, int) and isinstance(b, int) else None)
        elif re.fullmatch(r"-?\d{1,10}", token, re.ASCII):
            stack.append(int(token))
        else:
            return None
    return stack[::-1]


def _mat_side(shape: Shape, axis: str) -> Side:
    """A side of ncnn's Mat. It is 1 if the blob has no such axis."""
    names = ("w", "hw", "chw", "cdhw")[len(shape) - 1]
    return shape[names.index(axis)] if axis in names else 1


@every
def reshape(p: Any, inputs: Given) -> Made:
    """The shape in the params or in the expression. 0 keeps a side, and -1 is the rest."""
    shape = inputs[0]
    if (p.input_batch_axis, p.output_batch_axis) != (233, 233):
        return None
    wanted: list[Side | None] = [side for side in (p.c, p.d, p.h, p.w) if side != -233]
    if p.shape_expr:
        found = expression(p.shape_expr, inputs)
        if found is None or len(found) > MOST_AXES:
            return None
        wanted = found[::-1]
    if not wanted:
        return None
    if shape is None:
        return tuple(side if isinstance(side, int) and side > 0 else None for side in wanted)
    names = ("w", "hw", "chw", "cdhw")[len(wanted) - 1]
    sides: list[Side | None] = [
        _mat_side(shape, axis) if side == 0 else side for side, axis in zip(wanted, names, strict=True)
    ]
    size = _size(shape)
    if sides.count(-1) == 1:
        hole = sides.index(-1)
        rest = [side for i, side in enumerate(sides) if i != hole]
        if not rest:
            sides[hole] = size
        elif isinstance(size, int) and _numbers(*rest):
            sides[hole] = size // max(math.prod(side for side in rest if isinstance(side, int)), 1)
        elif all(side == 1 for side in rest):
            sides[hole] = size
        else:
            sides[hole] = None
    if isinstance(size, int) and _numbers(*sides) and math.prod(s for s in sides if isinstance(s, int)) != size:
        raise Misfit(f"outputs {written(sides)}, but gets {written(shape)}: {size} values")
    return tuple(None if side == -1 else side for side in sides)


_ORDERS = {
    2: ("wh", "hw"),
    3: ("whc", "hwc", "wch", "cwh", "hcw", "chw"),
    4: (
        "whdc", "hwdc", "wdhc", "dwhc", "hdwc", "dhwc", "whcd", "hwcd", "wchd", "cwhd", "hcwd", "chwd",
        "wdch", "dwch", "wcdh", "cwdh", "dcwh", "cdwh", "hdcw", "dhcw", "hcdw", "chdw", "dchw", "cdhw",
    ),
}  # fmt: skip
"""Rank -> the old axes in their new order, innermost first, for each order_type of Permute."""


@first
def permute(p: Any, shape: Shape) -> Made:
    """The axes in another order, which ``order_type`` gives."""
    orders = _ORDERS.get(len(shape), ("w",))
    if len(shape) == 1:
        return shape
    if not 0 <= p.order_type < len(orders):
        return None
    return tuple(_mat_side(shape, axis) for axis in reversed(orders[p.order_type]))


@first
def squeeze(p: Any, shape: Shape) -> Made:
    """The shape without the chosen axes of size 1."""
    names = ("w", "hw", "chw", "cdhw")[len(shape) - 1]
    if p.axes:
        chosen = {axis % len(shape) for axis in p.axes}
    else:
        chosen = {i for i, axis in enumerate(names) if getattr(p, f"squeeze_{axis}")}
    if not _numbers(*(shape[i] for i in chosen)):
        return None
    return tuple(side for i, side in enumerate(shape) if i not in chosen or side != 1) or (1,)


@first
def expand_dims(p: Any, shape: Shape) -> Made:
    """The shape with additional axes of size 1."""
    rank = len(shape) + len(p.axes)
    if rank > 4:
        return None
    added, sides = {axis % rank for axis in p.axes}, iter(shape)
    return tuple(1 if i in added else next(sides) for i in range(rank)) if len(added) == len(p.axes) else None


@every
def concat(p: Any, inputs: Given) -> Made:
    """The inputs joined along an axis; their other sides must be equal."""
    known = [shape for shape in inputs if shape is not None]
    if len(known) < len(inputs):
        return None
    sides = list(known[0])
    if len({len(shape) for shape in known}) > 1:
        return None
    axis = p.axis % len(sides)
    for shape in known[1:]:
        for i, (side, other) in enumerate(zip(sides, shape, strict=True)):
            if i != axis and _numbers(side, other) and side != other:
                raise Misfit(f"concatenates blobs along axis {axis}, but gets {written(known[0])} and {written(shape)}")
    joined = [shape[axis] for shape in known]
    counts = [side for side in joined if isinstance(side, int)]
    sides[axis] = sum(counts) if len(counts) == len(joined) else ("concat", *joined)
    return tuple(sides)


def slices(p: Any, inputs: Given, count: int) -> list[Made]:
    """The parts of the input along an axis, one for each output."""
    shape = inputs[0]
    if shape is None:
        return [None] * count
    axis = p.axis % len(shape)
    whole, wanted = shape[axis], p.indices or p.slices
    pieces: list[Side | None] = [None] * count
    if isinstance(whole, int) and len(wanted) >= count - bool(p.indices):
        at = 0
        for i in range(count):
            if p.indices:
                end = whole if i == count - 1 else wanted[i] + (whole if wanted[i] < 0 else 0)
                piece = end - at
            else:
                piece = (whole - at) // (count - i) if wanted[i] == -233 else wanted[i]
            if piece <= 0 or at + piece > whole:
                raise Misfit(f"cuts axis {axis} into {list(wanted)}, but gets {written(shape)}")
            pieces[i], at = piece, at + piece
    return [(*shape[:axis], piece, *shape[axis + 1 :]) for piece in pieces]


@every
def crop(p: Any, inputs: Given) -> Made:
    """A part of the input, given by offsets, by starts and ends, or by expressions."""
    shape = inputs[0]
    if shape is None:
        return None
    sides: list[Side | None] = [None] * len(shape)
    starts, ends, axes = p.starts, p.ends, p.axes
    if p.starts_expr and p.ends_expr:
        starts, ends, axes = (expression(text, inputs) for text in (p.starts_expr, p.ends_expr, p.axes_expr))
        if starts is None or ends is None or axes is None or not _numbers(*axes):
            return tuple(sides)
    elif len(inputs) > 1:
        return tuple(sides)
    names = ("w", "hw", "chw", "cdhw")[len(shape) - 1]
    if starts and ends:
        sides = list(shape)
        chosen = [axis % len(shape) for axis in axes] or list(range(len(shape)))
        for axis, start, end in zip(chosen, starts, ends):
            side = shape[axis]
            if not _numbers(side, start, end):
                sides[axis] = None
                continue
            start, end = 0 if start == -233 else start, side if end == -233 else end
            sides[axis] = min(side, end if end > 0 else side + end) - (start if start >= 0 else side + start)
    else:
        for i, (side, name) in enumerate(zip(shape, names, strict=True)):
            if isinstance(side, int):
                left = side - getattr(p, f"{name}offset") - getattr(p, f"{name}offset2")
                out = getattr(p, f"out{name}")
                sides[i] = left if out == -233 else min(out, left)
    if any(isinstance(side, int) and side <= 0 for side in sides):
        raise Misfit(f"removes all of {written(shape)}")
    return tuple(sides)


_BORDERS = {"w": ("left", "right"), "h": ("top", "bottom"), "d": ("front", "behind")}


@every
def padding(p: Any, inputs: Given) -> Made:
    """The shape with borders added to its sides."""
    shape = inputs[0]
    if shape is None:
        return None
    if len(inputs) > 1:
        return (None,) * len(shape)
    # The padding of the depth of a blob of four axes is the padding of the channels of a blob of three.
    names = ("w", "hw", "dhw", "cdhw")[len(shape) - 1]
    sides: list[Side | None] = []
    for side, name in zip(shape, names, strict=True):
        more = sum(getattr(p, border) for border in _BORDERS.get(name, ()))
        sides.append(side + more if isinstance(side, int) else side if not more else None)
    return tuple(sides)


@first
def tile(p: Any, shape: Shape) -> Made:
    """The shape with sides multiplied by the number of repetitions."""
    rank = len(shape)
    if p.repeats:
        rank = max(rank, len(p.repeats))
        if rank > 4:
            return None
        times = [*(1,) * (rank - len(p.repeats)), *p.repeats]
    else:
        times = [p.tiles if i == p.axis % rank else 1 for i in range(rank)]
    whole = (*(1,) * (rank - len(shape)), *shape)
    return tuple(
        side if n == 1 else side * n if isinstance(side, int) else None for side, n in zip(whole, times, strict=True)
    )


@every
def reduction(p: Any, inputs: Given) -> Made:
    """The shape without the reduced axes, or with 1 in their place."""
    shape = inputs[0]
    if shape is None:
        return None
    reduced = set(range(len(shape))) if p.reduce_all else {axis % len(shape) for axis in p.axes}
    if p.keepdims:
        return tuple(1 if i in reduced else side for i, side in enumerate(shape))
    return tuple(side for i, side in enumerate(shape) if i not in reduced) or (1,)


# ------------------------------------------------------------------------------------------------- sizes multiplied


@every
def interp(p: Any, inputs: Given) -> Made:
    """The resized image or row, from a size, a scale, an expression or a reference blob."""
    shape = inputs[0]
    if shape is None or len(shape) not in (1, 2, 3):
        return None
    if len(inputs) > 1 and not p.size_expr and len(shape) != 2 and inputs[1] is not None:
        return (shape[0], _mat_side(inputs[1], "h"), _mat_side(inputs[1], "w"))
    found = expression(p.size_expr, inputs) if p.size_expr else None
    if found:
        width, height = found[0], found[1] if len(found) > 1 else _mat_side(shape, "h")
        return (shape[0], width) if len(shape) == 2 else (shape[0], height, width)
    if p.size_expr or len(inputs) > 1:
        return (shape[0], *(None,) * 2) if len(shape) != 2 else (shape[0], None)
    height, width = (1, 1) if len(shape) == 1 else shape[-2:]
    sizes: list[Side | None] = [p.output_height, p.output_width]
    if 0 in sizes:
        scales = (np.float32(p.height_scale), np.float32(p.width_scale))  # ncnn computes in fp32
        if not all(0 < scale < MOST_VALUES for scale in scales):
            raise Misfit(f"scales an image {scales[0]} x {scales[1]} times")
        sizes = [
            int(np.float32(side) * scale) if isinstance(side, int) else side if scale == 1 else None
            for side, scale in zip((height, width), scales)
        ]
    return (shape[0], sizes[1]) if len(shape) == 2 else (shape[0], *sizes)


@first
def pixel_shuffle(p: Any, shape: Shape) -> Made:
    """Channels become pixels: (c / f², h x f, w x f)."""
    return _rescaled(shape, lambda c, f: c // (f * f), lambda side, f: side * f, p.upscale_factor)


@first
def reorg(p: Any, shape: Shape) -> Made:
    """Pixels become channels: (c x f², h / f, w / f)."""
    return _rescaled(shape, lambda c, f: c * f * f, lambda side, f: side // f, p.stride)


def _rescaled(shape: Shape, channels: Callable[[int, int], int], side: Callable[[int, int], int], factor: int) -> Made:
    image = _as_image(shape, 3)
    if factor < 1:
        raise Misfit(f"scales an image {factor} times")
    if image is None:
        return (None,) * 3
    return tuple(
        (side if i else channels)(value, factor) if isinstance(value, int) else None for i, value in enumerate(image)
    )


@first
def glu(p: Any, shape: Shape) -> Made:
    """Half of the side along one axis."""
    axis = p.axis % len(shape)
    return tuple(side if i != axis else side // 2 if isinstance(side, int) else None for i, side in enumerate(shape))


@first
def statistics_pooling(p: Any, shape: Shape) -> Made:
    """A vector with the mean, and possibly the deviation, of each channel."""
    channels = shape[0] if len(shape) == 3 else None
    return (channels * (2 if p.include_stddev else 1) if isinstance(channels, int) else None,)


# ------------------------------------------------------------------------------------------- matrices and sequences


@every
def gemm(p: Any, inputs: Given) -> Made:
    """The product of two matrices, each a constant or an input, and each possibly transposed."""
    given = iter(inputs)

    def sides(constant: int, rows: int, columns: int) -> tuple[Side | None, Side | None]:
        if constant:
            return rows, columns
        shape = next(given, None)
        if shape is None or len(shape) > 3:
            return None, None
        if len(shape) == 3 and shape[1] != 1:  # ncnn uses the channels as rows, and ignores the rows
            return None, None
        return (shape[0] if len(shape) > 1 else 1), shape[-1]

    a = sides(p.constantA, *((p.constantK, p.constantM) if p.transA else (p.constantM, p.constantK)))
    b = sides(p.constantB, *((p.constantN, p.constantK) if p.transB else (p.constantK, p.constantN)))
    m, k = a[::-1] if p.transA else a
    n, other = b if p.transB else b[::-1]
    if _numbers(k, other) and k != other:
        raise Misfit(f"multiplies rows of {k} values by columns of {other}")
    rows, columns = (n, m) if p.output_transpose else (m, n)
    return (rows, 1, columns) if p.output_N1M else (rows, columns)


@every
def matmul(p: Any, inputs: Given) -> Made:
    """The product of two stacks of matrices. A vector is a row on the left, and a column on the right."""
    one, other = inputs
    if one is None or other is None:
        return None
    a: Shape = (1, *one) if len(one) == 1 else one
    b: Shape = other if len(other) > 1 else (1, other[0]) if p.transB else (other[0], 1)
    inner = b[-1] if p.transB else b[-2]
    if _numbers(a[-1], inner) and a[-1] != inner:
        raise Misfit(f"multiplies {written(one)} by {written(other)}")
    rank = max(len(a), len(b))
    batches = [(*(1,) * (rank - len(shape)), *shape[:-2]) for shape in (a, b)]
    batch = tuple(_wider(x, y) for x, y in zip(*batches, strict=True))
    columns = b[-2] if p.transB else b[-1]
    made = (*batch, *(() if len(one) == 1 else (a[-2],)), *(() if len(other) == 1 else (columns,)))
    return made or (1,)


def recurrent(gates: int) -> Rule:
    """The rule of a recurrent layer with this number of gates: (steps, directions x num_output), and its states."""

    def rule(p: Any, inputs: Given, count: int) -> list[Made]:
        shape, directions = inputs[0], 2 if p.direction == 2 else 1
        units = p.hidden_size if hasattr(p, "hidden_size") else p.num_output
        taken = p.weight_data_size // max(directions * units * gates, 1)
        if shape is not None and len(shape) == 2 and _numbers(shape[1]):
            _need(shape[1] == taken, f"rows of {taken} values", shape)
        steps = None if shape is None or len(shape) > 2 else shape[0] if len(shape) == 2 else 1
        states: list[Made] = [(directions, p.num_output), (directions, units)]
        return [(steps, p.num_output * directions), *states][:count]

    return rule


def attention(p: Any, inputs: Given, count: int) -> list[Made]:
    """The rule of MultiHeadAttention: (queries, width)."""
    shape = inputs[0]
    if shape is None:
        return [None] * count
    width = p.weight_data_size // max(p.embed_dim, 1)
    if len(shape) == 2 and _numbers(shape[1]):
        _need(shape[1] == width, f"rows of {width} values", shape)
    return [(shape[0] if len(shape) == 2 else None, width), *[None] * (count - 1)]


def scaled_dot_product(p: Any, inputs: Given, count: int) -> list[Made]:
    """The rule of SDPA: (heads, queries, width of the values)."""
    query, value = inputs[0], inputs[2] if len(inputs) > 2 else None
    if query is None or value is None or len(query) != 3 or len(value) != 3:
        return [None] * count
    return [(query[0], query[1], value[2]), *[None] * (count - 1)]


@first
def embed(p: Any, shape: Shape) -> Made:
    """A row of num_output values for each index."""
    return (shape[0] if len(shape) == 1 else None, p.num_output)
