"""Gather and Scatter operators, OneHot, ArgMax and ArgMin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .axes import permuted, taken
from .elementwise import finite
from .lowering import Array, Blob, Node, Shape, Unsupported, operator, with_axes_kept
from .matrix import inner_product
from .reduce import reduced_over


@operator("Gather")
def gather(node: Node) -> None:
    shape, index = node.shape(0), node.constant(1)
    axis = int(node.attr("axis", 0)) % len(shape)
    if index is None:
        node.gives(_embedded(node, axis))
        return
    node.gives(_gathered(node, node.blob(0), shape, axis, [int(i) % shape[axis] for i in index.reshape(-1)]))


def _gathered(node: Node, blob: Blob, shape: Shape, axis: int, places: list[int]) -> Blob:
    """Gather constant indices of one axis."""
    if not places:
        raise Unsupported("gathers nothing")
    step = places[1] - places[0] if len(places) > 1 else 1
    if step and places == list(range(places[0], places[0] + step * len(places), step)):
        return taken(node, blob, shape, {axis: range(places[0], places[0] + step * len(places), step)})[0]
    # Any other order: cut out each run of consecutive indices, and join all of them.
    return _assembled(node, [(blob, place) for place in places], shape, axis)


def _assembled(node: Node, sources: list[tuple[Blob, int]], shape: Shape, axis: int) -> Blob:
    """Join parts of blobs along an axis. The blobs have the same shape except for that axis.

    Args:
        node: the node that gives the layers its name.
        sources: (blob, index along the axis) of each part, in order.
        shape: ONNX's shape of the value; its size along ``axis`` does not matter.
        axis: the axis.
    """
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    runs: list[tuple[Blob, int, int]] = []  # blob, first place, and one after the last
    for blob, place in sources:
        if runs and runs[-1][0] is blob and runs[-1][2] == place:
            runs[-1] = (blob, runs[-1][1], place + 1)
        else:
            runs.append((blob, place, place + 1))
    if len(runs) > _MOST_RUNS:
        raise Unsupported(f"gathers {len(sources)} indices without a regular pattern")
    parts = []
    for blob, start, stop in runs:
        x = node.lowering.view(blob, (outer, blob.size // (outer * inner), inner))
        if (start, stop) == (0, x.shape[1]):
            parts.append(x)
        else:
            made = (outer, stop - start, inner)
            parts.append(node.emit("Crop", [x], made, starts=(start,), ends=(stop,), axes=(1,)))
    return parts[0] if len(parts) == 1 else node.emit("Concat", parts, (outer, len(sources), inner), axis=1)


_MOST_RUNS = 256


def _along_axis(index: Array, axis: int, shape: Shape) -> list[int] | None:
    """Indices along an axis, if they are the same for all positions of the other axes; None if they are not."""
    if any(a != b for i, (a, b) in enumerate(zip(index.shape, shape)) if i != axis):
        return None
    rows = np.moveaxis(index % shape[axis], axis, 0).reshape(index.shape[axis], -1)
    return [int(row[0]) for row in rows] if (rows == rows[:, :1]).all() else None


@operator("GatherElements")
def gather_elements(node: Node) -> None:
    shape, index = node.shape(0), node.needed_constant(1, "indices")
    axis = int(node.attr("axis", 0)) % len(shape)
    places = _along_axis(index, axis, shape)
    if places is not None:
        node.gives(_gathered(node, node.blob(0), shape, axis, places))
        return
    node.gives(_gathered(node, node.blob(0), (math.prod(shape),), 0, _elements(index, axis, shape)))


def _elements(index: Array, axis: int, shape: Shape) -> list[int]:
    """The flat indices of the elements that indices along an axis name."""
    grids: list[Array] = list(np.indices(index.shape, sparse=True))
    grids[axis] = index % shape[axis]
    return _flat(np.broadcast_arrays(*grids), shape)


def _flat(columns: Sequence[Array], shape: Shape) -> list[int]:
    """Flat indices from coordinates in a shape."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return [int(i) for i in sum(c.astype(np.int64) * s for c, s in zip(columns, strides)).reshape(-1)]  # type: ignore[union-attr]


def _rows(index: Array, shape: Shape) -> list[int]:
    """The flat indices of rows from tuples of indices, which name positions along the first axes of a shape."""
    count = index.shape[-1]
    return _flat([index[..., i] % shape[i] for i in range(count)], shape[:count])


@operator("GatherND")
def gather_nd(node: Node) -> None:
    shape, index = node.shape(0), node.needed_constant(1, "indices")
    skipped = int(node.attr("batch_dims", 0))
    if skipped and math.prod(shape[:skipped]) != 1:
        raise Unsupported(f"has {skipped} batch axes")
    index, shape = np.asarray(index[(0,) * skipped]), shape[skipped:]
    count = int(index.shape[-1])
    rows = (math.prod(shape[:count]), *shape[count:])
    node.gives(_gathered(node, node.blob(0), rows, 0, _rows(index, shape)))


@operator("ScatterND", "ScatterElements", "Scatter")
def scatter(node: Node) -> None:
    """Replace elements of a value at constant indices by others, or combine both."""
    shape, index = node.shape(0), node.needed_constant(1, "indices")
    data, updates = node.blob(0), node.blob(2)
    kind = _COMBINED[node.attr("reduction", "none")]
    if node.op == "ScatterND":
        box = _box(index, shape) if kind is None else None
        if box is not None:
            node.gives(_filled(node, data, updates, shape, box))
            return
        axis, places, count = 0, _rows(index, shape), int(index.shape[-1])
        shape = (math.prod(shape[:count]), *shape[count:])
    else:
        axis = int(node.attr("axis", 0)) % len(shape)
        found = _along_axis(index, axis, shape)
        if found is None:  # the indices differ between rows: element by element
            axis, found, shape = 0, _elements(index, axis, shape), (math.prod(shape),)
        places = found
    sources = [(data, place) for place in range(shape[axis])]
    if kind is None:
        sources = _overwritten(sources, updates, places)
    else:
        left = list(enumerate(places))
        while left:  # each round combines every index once; indices that occur again are left for the next round
            first = {place: number for number, place in reversed(left)}
            left = [(number, place) for number, place in left if first[place] != number]
            now = _assembled(node, [sources[place] for place in first], shape, axis)
            more = _assembled(node, [(updates, number) for number in first.values()], shape, axis)
            combined = node.emit("BinaryOp", [now, node.lowering.view(more, now.shape)], now.shape, op_type=kind)
            sources = _overwritten(sources, combined, list(first))
    node.gives(_assembled(node, sources, shape, axis))


_COMBINED = {"none": None, "add": 0, "mul": 2, "max": 4, "min": 5}
"""Reduction -> BinaryOp's ``op_type``."""


def _overwritten(sources: list[tuple[Blob, int]], blob: Blob, places: list[int]) -> list[tuple[Blob, int]]:
    """The sources of the parts of a value, after the parts at some indices are replaced by those of a blob."""
    made = list(sources)
    for number, place in enumerate(places):
        made[place] = (blob, number)
    return made


def _box(index: Array, shape: Shape) -> list[range] | None:
    """The ranges of the first axes, if tuples of indices name all positions in them in order; None if they do not."""
    flat = index.reshape(-1, index.shape[-1]) % np.array(shape[: index.shape[-1]])
    ranges = [range(int(column.min()), int(column.max()) + 1) for column in flat.T]
    if math.prod(len(r) for r in ranges) != len(flat):
        return None
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))
    return ranges if np.array_equal(grid, flat) else None


def _filled(node: Node, data: Blob, updates: Blob, shape: Shape, box: list[range]) -> Blob:
    """Replace a box of a value. From the innermost axis outwards, the parts before and after it are joined to it."""
    sides = [len(r) for r in box]
    blob = updates
    for axis in reversed(range(len(box))):
        inner = math.prod(shape[axis + 1 :])
        outer = math.prod(sides[:axis])
        parts = []
        for start, stop in ((0, box[axis].start), (box[axis].stop, shape[axis])):
            if start == stop:
                continue
            outside = {other: box[other] for other in range(axis)} | {axis: range(start, stop)}
            part, _ = taken(node, data, shape, outside)
            parts.append((start, node.lowering.view(part, (outer, stop - start, inner))))
        parts.append((box[axis].start, node.lowering.view(blob, (outer, sides[axis], inner))))
        ordered = [part for _, part in sorted(parts, key=lambda p: p[0])]
        whole = (outer, shape[axis], inner)
        blob = ordered[0] if len(ordered) == 1 else node.emit("Concat", ordered, whole, axis=1)
    return blob


def _embedded(node: Node, axis: int) -> Blob:
    """Gather indices that are computed at run time.

    Rows of a constant are gathered by ncnn's Embed if the indices are an input of the network, because Embed reads
    them as int32. Anything else becomes a product with a matrix of 0 and 1.
    """
    shape, table, ids = node.shape(0), node.constant(0), node.blob(1)
    outer, side, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if table is not None and outer == 1 and ids.name in node.lowering.fed:
        x = node.lowering.view(ids, (ids.size,))
        params = {"num_output": inner, "input_dim": side, "weight_data_size": table.size}
        weights = {"weight": table.reshape(side, inner)}
        return node.emit("Embed", [x], (ids.size, inner), weights, bias_term=0, **params)
    if ids.size * side > _LARGEST_CHOICE:
        raise Unsupported(f"computes {ids.size} indices of {side} positions at run time")
    chosen = _one_hot(node, ids, side)
    if table is not None and outer == 1:
        return inner_product(node, chosen, finite(table).reshape(side, inner).T, None)
    data = node.blob(0, (side, inner) if outer == 1 else (outer, side, inner))
    left = chosen if outer == 1 else node.lowering.view(chosen, (1, ids.size, side))
    made = node.emit("MatMul", [left, data], (*data.shape[:-2], ids.size, inner), transB=0)
    return made


_LARGEST_CHOICE = 2**20
"""The largest number of elements of the matrix of 0 and 1 that replaces a look-up."""


def _one_hot(node: Node, ids: Blob, count: int) -> Blob:
    """One-hot rows: (number of indices, count). Negative indices count from the end."""
    x = node.lowering.view(ids, (ids.size, 1))
    negative = node.emit("Threshold", [node.emit("UnaryOp", [x], x.shape, op_type=1)], x.shape, threshold=0.5)
    turn = node.emit("BinaryOp", [negative], x.shape, op_type=2, with_scalar=1, b=float(count))
    x = node.emit("BinaryOp", [x, turn], x.shape, op_type=0)
    places = node.lowering.hold(np.arange(count), (1, count), f"{node.name}/places")
    away = node.emit("BinaryOp", [x, places], (ids.size, count), op_type=1)
    other = node.emit("Threshold", [node.emit("AbsVal", [away], away.shape)], away.shape, threshold=0.5)
    return node.emit("BinaryOp", [other], other.shape, op_type=7, with_scalar=1, b=1.0)


@operator("OneHot")
def one_hot(node: Node) -> None:
    shape, count = node.shape(0), int(node.needed_constant(1, "depth").reshape(-1)[0])
    off, on = (float(value) for value in node.needed_constant(2, "values").reshape(-1))
    made = _one_hot(node, node.blob(0), count)
    for kind, number in ((2, on - off), (0, off)):
        if number != (1.0 if kind == 2 else 0.0):
            made = node.emit("BinaryOp", [made], made.shape, op_type=kind, with_scalar=1, b=number)
    axis = int(node.attr("axis", -1)) % (len(shape) + 1)
    node.gives(permuted(node, made, (*shape, count), [*range(axis), len(shape), *range(axis, len(shape))]))


@operator("ArgMax", "ArgMin")
def arg_max(node: Node) -> None:
    """Write ArgMax by a maximum over ranks.

    The ranks fall along the axis, and only elements that equal the maximum keep their rank. So the largest rank belongs
    to the first maximum. With ``select_last_index``, the ranks rise.
    """
    if node.is_final:
        raise Unsupported("is at the end of the network: return the scores instead")
    shape = node.shape(0)
    axis = int(node.attr("axis", 0)) % len(shape)
    view, (place,) = with_axes_kept(shape, [axis])
    x, side = node.blob(0, view), shape[axis]
    if node.op == "ArgMin":
        x = node.emit("UnaryOp", [x], view, op_type=1)
    largest = reduced_over(node, x, 4, (place,))
    away = node.emit("BinaryOp", [x, largest], view, op_type=7)
    smaller = node.emit("Threshold", [away], view, threshold=0.0)
    best = node.emit("BinaryOp", [smaller], view, op_type=7, with_scalar=1, b=1.0)
    last = bool(node.attr("select_last_index", 0))
    ranks = np.arange(1, side + 1) if last else np.arange(side, 0, -1)
    along = tuple(side if i == place else 1 for i in range(len(view)))
    held = node.lowering.hold(ranks, along, f"{node.name}/ranks")
    found = reduced_over(node, node.emit("BinaryOp", [best, held], view, op_type=2), 4, (place,))
    kind, number = (1, 1.0) if last else (7, float(side))
    node.gives(node.emit("BinaryOp", [found], found.shape, op_type=kind, with_scalar=1, b=number))
