"""Operators that permute, cut, join and repeat axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ...model.shapes import MOST_AXES, natural
from .lowering import Blob, Node, Shape, Unsupported, operator, with_axes_kept


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node) -> None:
    """Write no layer: each reader asks for the value in the shape that it needs."""
    if node.op == "Reshape" and node.constant(1) is None:
        raise Unsupported("computes its shape at run time")
    node.gives(node.blob(0))


# ------------------------------------------------------------------------------------------------------ permutations

_ORDERS = {
    2: ("wh", "hw"),
    3: ("whc", "hwc", "wch", "cwh", "hcw", "chw"),
    4: ("whdc", "hwdc", "wdhc", "dwhc", "hdwc", "dhwc", "whcd", "hwcd", "wchd", "cwhd", "hcwd", "chwd",
        "wdch", "dwch", "wcdh", "cwdh", "dcwh", "cdwh", "hdcw", "dhcw", "hcdw", "chdw", "dchw", "cdhw"),
}  # fmt: skip
"""Number of axes -> Permute's ``order_type``s, innermost axis first (``permute.cpp`` of ncnn)."""


@operator("Transpose")
def transpose(node: Node) -> None:
    shape = node.shape(0)
    order = [int(axis) for axis in node.attr("perm", tuple(reversed(range(len(shape)))))]
    if tuple(order) in _REORGS and shape[0] == 1 and shape[3] == shape[5]:
        x = node.blob(0, (shape[1], shape[2] * shape[3], shape[4] * shape[5]))
        out = (shape[1] * shape[3] * shape[5], shape[2], shape[4])
        node.gives(node.emit("Reorg", [x], out, stride=shape[3], mode=_REORGS[tuple(order)]))
        return
    node.gives(permuted(node, node.blob(0), shape, order))


_REORGS: dict[tuple[int, ...], int] = {(0, 1, 3, 5, 2, 4): 0, (0, 3, 5, 1, 2, 4): 1}
"""Permutation of (batch, channels, rows, block, columns, block) -> Reorg's mode."""


def permuted(node: Node, blob: Blob, shape: Shape, order: Sequence[int]) -> Blob:
    """Permute the axes of a blob's value.

    Args:
        node: the node that gives the layers its name.
        blob: in any view.
        shape: ONNX's shape of the blob.
        order: of ONNX's axes, as in numpy's ``transpose``.

    Returns:
        A blob in the natural shape of the result, or one with merged axes.
    """
    axes = [axis for axis in order if shape[axis] != 1]
    groups: list[list[int]] = []  # axes that stay adjacent are merged
    kept = sorted(axes)
    for axis in axes:
        before = groups[-1][-1] if groups else None
        if before is not None and kept.index(axis) == kept.index(before) + 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) <= 1:
        return blob
    wanted = natural(tuple(shape[axis] for axis in order))
    straight = _straight(blob, shape, order, wanted)
    if straight is not None:
        source, places = straight
        return _permute(node, node.lowering.view(blob, source), places)
    sizes = {tuple(group): math.prod(shape[axis] for axis in group) for group in groups}
    now = sorted(tuple(group) for group in groups)
    while now != (goal := [tuple(group) for group in groups]):
        if len(now) <= MOST_AXES:
            source = tuple(sizes[group] for group in now)
            return _permute(node, node.lowering.view(blob, source), [now.index(group) for group in goal])
        # More than four axes: move the next group forward, past others that are merged into one block.
        place = next(i for i, (a, b) in enumerate(zip(now, goal)) if a != b)
        at = now.index(goal[place])
        stop = at + 1
        while stop < len(now) and goal[place : place + stop - at + 1] == now[at : stop + 1]:
            stop += 1
        parts = (now[:place], now[place:at], now[at:stop], now[stop:])
        source = tuple(math.prod(sizes[group] for group in part) for part in parts)
        blob = _permute(node, node.lowering.view(blob, source), [0, 2, 1, 3])
        now = [*parts[0], *parts[2], *parts[1], *parts[3]]
    return blob


def _straight(blob: Blob, shape: Shape, order: Sequence[int], wanted: Shape) -> tuple[Shape, list[int]] | None:
    """(shape, order) of one Permute between the natural shapes, if there is one that needs no Reshape."""
    skip = 1 if shape[0] == 1 and order[0] == 0 else 0
    source = shape[skip:]
    if len(source) > MOST_AXES or blob.shape != source:
        return None
    places = [axis - skip for axis in order[skip:]]
    return (source, places) if tuple(source[p] for p in places) == wanted else None


def _permute(node: Node, blob: Blob, places: Sequence[int]) -> Blob:
    if list(places) == sorted(places):
        return blob
    names = {2: "hw", 3: "chw", 4: "cdhw"}[len(blob.shape)]
    order = "".join(names[place] for place in reversed(places))
    shape = tuple(blob.shape[place] for place in places)
    return node.emit("Permute", [blob], shape, order_type=_ORDERS[len(names)].index(order))


@operator("DepthToSpace")
def depth_to_space(node: Node) -> None:
    _, c, h, w = node.shape(0)
    b = int(node.attr("blocksize"))
    if node.shape(0)[0] == 1:
        x = node.blob(0, (c, h, w))
        mode = int(node.attr("mode", "DCR") == "DCR")
        node.gives(node.emit("PixelShuffle", [x], (c // b**2, h * b, w * b), upscale_factor=b, mode=mode))
        return
    n = node.shape(0)[0]
    if node.attr("mode", "DCR") == "DCR":
        node.gives(permuted(node, node.blob(0), (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)))
    else:
        node.gives(permuted(node, node.blob(0), (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)))


@operator("SpaceToDepth")
def space_to_depth(node: Node) -> None:
    n, c, h, w = node.shape(0)
    b = int(node.attr("blocksize"))
    if n == 1:
        x = node.blob(0, (c, h, w))
        mode = int(node.attr("mode", "DCR") == "DCR")
        node.gives(node.emit("Reorg", [x], (c * b * b, h // b, w // b), stride=b, mode=mode))
        return
    order = (0, 1, 3, 5, 2, 4) if node.attr("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    node.gives(permuted(node, node.blob(0), (n, c, h // b, b, w // b, b), order))


# ----------------------------------------------------------------------------------------------- joining and cutting


@operator("Concat")
def concat(node: Node) -> None:
    rank = len(node.out_shape())
    axis = int(node.attr("axis", 1)) % rank
    out = node.out_shape()
    filled = [i for i in range(node.inputs) if math.prod(node.shape(i))]
    if len(filled) == 1:
        node.gives(node.blob(filled[0]))
        return
    views = [with_axes_kept(node.shape(i), [axis]) for i in filled]
    whole, (place,) = with_axes_kept(out, [axis])
    if any(len(view) != len(whole) or at != (place,) for view, at in views):
        # A first axis of 1 was dropped as batch axis in some inputs, but not in others: merge all axes around ``axis``.
        before, after = math.prod(out[:axis]), math.prod(out[axis + 1 :])
        views = [((before, node.shape(i)[axis], after), (1,)) for i in filled]
        whole, place = (before, out[axis], after), 1
    blobs = [node.blob(i, view) for i, (view, _) in zip(filled, views, strict=True)]
    node.gives(node.emit("Concat", blobs, whole, axis=place))


@operator("Split")
def split(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.attr("axis", 0)) % len(shape)
    sizes = [node.out_shape(i)[axis] for i in range(node.outputs)]
    view, (place,) = with_axes_kept(shape, [axis])
    if 0 in sizes:
        raise Unsupported("has an empty part")
    if len(sizes) == 1:
        node.gives(node.blob(0))
        return
    node.gives(*node.split(node.blob(0, view), sizes, place))


@operator("Slice")
def slice_(node: Node) -> None:
    shape = node.shape(0)
    ranges = {axis: range(shape[axis])[part] for axis, part in slices_of(node).items()}
    node.gives(taken(node, node.blob(0), shape, ranges)[0])


def slices_of(node: Node) -> dict[int, slice]:
    """Axis -> the slice that a Slice takes of it."""
    rank = len(node.shape(0))
    starts, ends = node.ints("starts", 1), node.ints("ends", 2)
    assert starts is not None
    assert ends is not None
    axes = [axis % rank for axis in node.ints("axes", 3) or range(len(starts))]
    steps = node.ints("steps", 4) or (1,) * len(starts)
    return {axis: slice(a, _end(b, s), s) for axis, a, b, s in zip(axes, starts, ends, steps)}


def _end(end: int, step: int) -> int | None:
    return None if step < 0 and end <= -(2**31) + 1 else end


def taken(node: Node, blob: Blob, shape: Shape, ranges: Mapping[int, range]) -> tuple[Blob, Shape]:
    """Take regularly spaced indices of some axes, by at most a Flip, a Crop and a Pooling if ncnn's axes allow it.

    Args:
        node: the node that gives the layers its name.
        blob: in any view.
        shape: ONNX's shape of the blob.
        ranges: axis -> its indices; other axes stay as they are.

    Returns:
        The blob, and ONNX's shape of the result.
    """
    if not all(map(len, ranges.values())):
        raise Unsupported("cuts everything away")
    back = [axis for axis, picked in ranges.items() if picked.step < 0 and len(picked) > 1]
    if back:
        view, places = with_axes_kept(shape, back)
        blob = node.emit("Flip", [node.lowering.view(blob, view)], view, axes=places)
    # First index and step of each axis; for a flipped axis, counted from its other end.
    first = {axis: shape[axis] - 1 - r[0] if axis in back else r[0] for axis, r in ranges.items()}
    steps = {axis: abs(r.step) if len(r) > 1 else 1 for axis, r in ranges.items()}
    blob, shape = _cropped(node, blob, shape, {
        axis: range(first[axis], first[axis] + (len(r) - 1) * steps[axis] + 1) for axis, r in ranges.items()
        if first[axis] or -(-shape[axis] // steps[axis]) != len(r)
    })  # fmt: skip
    return _every(node, blob, shape, {axis: step for axis, step in steps.items() if step > 1})


def _cropped(node: Node, blob: Blob, shape: Shape, kept: Mapping[int, range]) -> tuple[Blob, Shape]:
    """Take consecutive indices of some axes, by one Crop if ncnn's axes allow it."""
    kept = {axis: kept[axis] for axis in sorted(kept)}
    if not kept:
        return blob, shape
    try:
        view, places = with_axes_kept(shape, kept)
    except Unsupported:
        if len(kept) == 1:
            raise
        for axis, part in kept.items():
            blob, shape = _cropped(node, blob, shape, {axis: part})
        return blob, shape
    made = list(view)
    for place, part in zip(places, kept.values()):
        made[place] = len(part)
    starts, ends = (tuple(end for end in each) for each in zip(*((r.start, r.stop) for r in kept.values())))
    x = node.lowering.view(blob, view)
    blob = node.emit("Crop", [x], tuple(made), starts=starts, ends=ends, axes=places)
    return blob, tuple(len(kept[axis]) if axis in kept else side for axis, side in enumerate(shape))


def _every(node: Node, blob: Blob, shape: Shape, steps: Mapping[int, int]) -> tuple[Blob, Shape]:
    """Take every n-th index of some axes, by max pooling with a window of 1. Two adjacent axes need one Pooling."""
    left = sorted(steps)
    while left:
        axis = left.pop(0)
        both = [axis, left.pop(0)] if left and left[0] == axis + 1 else [axis]
        before, after = math.prod(shape[:axis]), math.prod(shape[both[-1] + 1 :])
        strides = [steps[each] for each in both]
        sides = [shape[each] for each in both]
        if len(both) == 1 or after > 1:
            sides, strides = [*sides, after], [*strides, 1]
        kept = [-(-side // stride) for side, stride in zip(sides, strides)]
        names = "whd"[: len(sides)][::-1]
        params = {f"kernel_{name}": 1 for name in names} | {f"stride_{n}": s for n, s in zip(names, strides)}
        x = node.lowering.view(blob, (before, *sides))
        blob = node.emit("Pooling3D" if len(sides) == 3 else "Pooling", [x], (before, *kept), **params, pad_mode=1)
        shape = tuple(-(-side // steps[i]) if i in both else side for i, side in enumerate(shape))
    return blob, shape


@operator("Trilu")
def triangle(node: Node) -> None:
    shape = node.shape(0)
    diagonal = int(node.needed_constant(1, "diagonal")) if node.has(1) else 0
    keep = np.ones(shape[-2:], np.float32)
    keep = np.triu(keep, diagonal) if node.attr("upper", 1) else np.tril(keep, diagonal)
    x = node.blob(0, (math.prod(shape[:-2]), *shape[-2:]))
    mask = node.lowering.hold(keep, (1, *keep.shape), f"{node.name}/triangle")
    node.gives(node.emit("BinaryOp", [x, mask], x.shape, op_type=2))


@operator("Expand", "Tile")
def expand(node: Node) -> None:
    shape, out = node.shape(0), node.out_shape()
    shape = (1,) * (len(out) - len(shape)) + shape
    blob, now = node.blob(0), shape
    for axis, (side, wanted) in enumerate(zip(shape, out)):
        if side != wanted:
            view, (place,) = with_axes_kept(now, [axis])
            now = (*now[:axis], wanted, *now[axis + 1 :])
            made = (*view[:place], wanted, *view[place + 1 :])
            blob = node.emit("Tile", [node.lowering.view(blob, view)], made, axis=place, tiles=wanted // side)
    node.gives(blob)


@operator("CumSum")
def cumulative_sum(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.needed_constant(1, "axis").reshape(-1)[0]) % len(shape)
    view, (place,) = with_axes_kept(shape, [axis])
    x = node.blob(0, view)
    if node.attr("reverse", 0):
        x = node.emit("Flip", [x], view, axes=(place,))
    made = node.emit("CumulativeSum", [x], view, axis=place)
    if node.attr("exclusive", 0):
        made = node.emit("BinaryOp", [made, x], view, op_type=1)
    node.gives(node.emit("Flip", [made], view, axes=(place,)) if node.attr("reverse", 0) else made)
