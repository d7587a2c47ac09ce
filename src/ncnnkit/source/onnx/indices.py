"""Operators that take from, or put at, places that are constant; and the look-up in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .axes import taken
from .lowering import Array, Blob, Node, Shape, Unsupported, operator


@operator("Gather")
def gather(node: Node) -> None:
    shape, index = node.shape(0), node.constant(1)
    axis = int(node.attr("axis", 0)) % len(shape)
    if index is None:
        node.gives(_embedded(node, axis))
        return
    node.gives(_gathered(node, node.blob(0), shape, axis, [int(i) % shape[axis] for i in index.reshape(-1)]))


def _gathered(node: Node, blob: Blob, shape: Shape, axis: int, places: list[int]) -> Blob:
    """Constant places of one axis."""
    if not places:
        raise Unsupported("gathers nothing")
    step = places[1] - places[0] if len(places) > 1 else 1
    if step and places == list(range(places[0], places[0] + step * len(places), step)):
        return taken(node, blob, shape, axis, range(places[0], places[0] + step * len(places), step))[0]
    # Any other order: each run of neighbours is cut out, and all are joined again.
    return _assembled(node, [(blob, place) for place in places], shape, axis)


def _assembled(node: Node, sources: list[tuple[Blob, int]], shape: Shape, axis: int) -> Blob:
    """A value whose parts along an axis are places of blobs, which have the same shape but for that axis."""
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    runs: list[tuple[Blob, int, int]] = []  # blob, first place, and one after the last
    for blob, place in sources:
        if runs and runs[-1][0] is blob and runs[-1][2] == place:
            runs[-1] = (blob, runs[-1][1], place + 1)
        else:
            runs.append((blob, place, place + 1))
    if len(runs) > _MOST_RUNS:
        raise Unsupported(f"gathers {len(sources)} places that are no regular pattern")
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
    """The places along an axis, where they are the same for all others; None where they are not."""
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
    grids: list[Array] = list(np.indices(index.shape, sparse=True))
    grids[axis] = index % shape[axis]
    flat = _flat(np.broadcast_arrays(*grids), shape)
    node.gives(_gathered(node, node.blob(0), (math.prod(shape),), 0, flat))


def _flat(columns: Sequence[Array], shape: Shape) -> list[int]:
    """Places in a shape, given by their coordinates, as places in one axis."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return [int(i) for i in sum(c.astype(np.int64) * s for c, s in zip(columns, strides)).reshape(-1)]  # type: ignore[union-attr]


def _rows(index: Array, shape: Shape) -> list[int]:
    """The rows that tuples of indices name: of the first axes of a shape, as one axis."""
    count = index.shape[-1]
    return _flat([index[..., i] % shape[i] for i in range(count)], shape[:count])


@operator("GatherND")
def gather_nd(node: Node) -> None:
    shape, index = node.shape(0), node.needed_constant(1, "indices")
    skipped = int(node.attr("batch_dims", 0))
    if skipped and math.prod(shape[:skipped]) != 1:
        raise Unsupported(f"has {skipped} axes of a batch")
    index, shape = np.asarray(index[(0,) * skipped]), shape[skipped:]
    count = int(index.shape[-1])
    rows = (math.prod(shape[:count]), *shape[count:])
    node.gives(_gathered(node, node.blob(0), rows, 0, _rows(index, shape)))


@operator("ScatterND", "ScatterElements", "Scatter")
def scatter(node: Node) -> None:
    """Constant places of one value, filled with those of another."""
    if node.attr("reduction", "none") != "none":
        raise Unsupported(f"combines what it scatters by {node.attr('reduction')!r}")
    shape, index = node.shape(0), node.needed_constant(1, "indices")
    data, updates = node.blob(0), node.blob(2)
    if node.op == "ScatterND":
        box = _box(index, shape)
        if box is not None:
            node.gives(_filled(node, data, updates, shape, box))
            return
        axis, places, count = 0, _rows(index, shape), int(index.shape[-1])
        shape = (math.prod(shape[:count]), *shape[count:])
    else:
        axis = int(node.attr("axis", 0)) % len(shape)
        found = _along_axis(index, axis, shape)
        if found is None:
            raise Unsupported("scatters to other places in every row")
        places = found
    sources = [(data, place) for place in range(shape[axis])]
    for number, place in enumerate(places):
        sources[place] = (updates, number)
    node.gives(_assembled(node, sources, shape, axis))


def _box(index: Array, shape: Shape) -> list[range] | None:
    """The ranges of the first axes of which tuples of indices name every place, in order; None where they do not."""
    flat = index.reshape(-1, index.shape[-1]) % np.array(shape[: index.shape[-1]])
    ranges = [range(int(column.min()), int(column.max()) + 1) for column in flat.T]
    if math.prod(len(r) for r in ranges) != len(flat):
        return None
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))
    return ranges if np.array_equal(grid, flat) else None


def _filled(node: Node, data: Blob, updates: Blob, shape: Shape, box: list[range]) -> Blob:
    """A value with a box of it replaced: axis by axis from the innermost, what is before, the box, what is after."""
    sides = [len(r) for r in box]
    blob = updates
    for axis in reversed(range(len(box))):
        inner = math.prod(shape[axis + 1 :])
        outer = math.prod(sides[:axis])
        parts = []
        for start, stop in ((0, box[axis].start), (box[axis].stop, shape[axis])):
            if start == stop:
                continue
            part, now = data, shape
            for other in range(axis):
                part, now = taken(node, part, now, other, box[other])
            part, _ = taken(node, part, now, axis, range(start, stop))
            parts.append((start, node.lowering.view(part, (outer, stop - start, inner))))
        parts.append((box[axis].start, node.lowering.view(blob, (outer, sides[axis], inner))))
        ordered = [part for _, part in sorted(parts, key=lambda p: p[0])]
        whole = (outer, shape[axis], inner)
        blob = ordered[0] if len(ordered) == 1 else node.emit("Concat", ordered, whole, axis=1)
    return blob


def _embedded(node: Node, axis: int) -> Blob:
    """Rows of a constant by an input of whole numbers: ncnn's Embed, which reads int32."""
    table, ids = node.constant(0), node.blob(1)
    if table is None or axis != 0 or table.ndim != 2:
        raise Unsupported("computes its indices while it runs")
    if ids.name not in node.lowering.fed:
        raise Unsupported("looks up what is computed while it runs; ncnn's Embed reads an input of the network alone")
    x = node.lowering.view(ids, (ids.size,))
    params = {"num_output": table.shape[1], "input_dim": table.shape[0], "weight_data_size": table.size}
    return node.emit("Embed", [x], (ids.size, table.shape[1]), {"weight": table}, bias_term=0, **params)
