"""Lists of tensors with known lengths, which need no layers, and control flow that could not be resolved."""

from __future__ import annotations

import math

import numpy as np

from .control import MOST_STEPS
from .lowering import Blob, Node, Shape, Unsupported, operator, with_axes_kept


@operator("SequenceConstruct")
def sequence(node: Node) -> None:
    node.lowering.sequences[node.output(0)] = [(node.shape(i), node.blob(i)) for i in range(node.inputs)]


@operator("SequenceEmpty")
def empty(node: Node) -> None:
    node.lowering.sequences[node.output(0)] = []


@operator("SequenceInsert")
def insert(node: Node) -> None:
    parts = list(_parts(node))
    place = int(node.needed_constant(2, "position")) if node.has(2) else len(parts)
    parts.insert(place if place >= 0 else len(parts) + place, (node.shape(1), node.blob(1)))
    node.lowering.sequences[node.output(0)] = parts


def _parts(node: Node) -> list[tuple[Shape, Blob]]:
    """The list that is a node's first input."""
    parts = node.lowering.sequences.get(node.value(0))
    if parts is None:
        raise Unsupported("reads a list that is computed at run time")
    return parts


@operator("If")
def branch(node: Node) -> None:
    raise Unsupported("chooses its branch at run time")


@operator("Loop", "Scan")
def loop(node: Node) -> None:
    raise Unsupported(f"has more than {MOST_STEPS} steps, or a number of them that depends on the inputs")


@operator("SplitToSequence")
def split_to_sequence(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.attr("axis", 0)) % len(shape)
    given = node.needed_constant(1, "sizes") if node.has(1) else np.ones((), np.int64)
    if given.ndim:
        sizes = [int(size) for size in given]
    else:
        each = int(given)
        sizes = [min(each, shape[axis] - start) for start in range(0, shape[axis], each)]
    view, (place,) = with_axes_kept(shape, [axis])
    x = node.blob(0, view)
    parts = node.split(x, sizes, place)
    dropped = not node.has(1) and not node.attr("keepdims", 1)

    def whole(size: int) -> Shape:
        return (*shape[:axis], *(() if dropped else (size,)), *shape[axis + 1 :])

    node.lowering.sequences[node.output(0)] = [(whole(size), part) for size, part in zip(sizes, parts, strict=True)]


@operator("SequenceAt")
def sequence_at(node: Node) -> None:
    parts = _parts(node)
    node.gives(parts[int(node.needed_constant(1, "position"))][1])


@operator("ConcatFromSequence")
def concat_from_sequence(node: Node) -> None:
    parts = _parts(node)
    axis, shape = int(node.attr("axis")), parts[0][0]
    new = bool(node.attr("new_axis", 0))
    axis %= len(shape) + new
    before = math.prod(shape[:axis])
    sides = [1 if new else s[axis] for s, _ in parts]
    after = math.prod(shape[axis if new else axis + 1 :])
    blobs = [node.lowering.view(blob, (before, side, after)) for side, (_, blob) in zip(sides, parts, strict=True)]
    out = (before, sum(sides), after)
    node.gives(blobs[0] if len(blobs) == 1 else node.emit("Concat", blobs, out, axis=1))
