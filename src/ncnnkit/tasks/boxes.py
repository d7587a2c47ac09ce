"""The arithmetic of boxes: tables, formats, anchors, scores, suppression."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .decoder import Activation, Array, BoxFormat, Combination, Decoder, Grid, Layout, Part, PointOrigin
from .predictions import Boxes, overlaps

Float = NDArray[np.float32]

TORCHVISION_GROWTH = math.log(1000 / 16)
"""torchvision's bound for the logarithm of the growth of an anchor, so that exp stays finite."""
_LARGEST_POWER = 80.0  # float32 cannot hold the exponential of larger numbers


def _f32(values: Array) -> Float:
    return np.asarray(values, np.float32)


# ------------------------------------------------------------------------------------------------------------ tables

LAYOUTS: dict[Layout, Callable[[Array, int, int], Array]] = {
    "rows": lambda a, wide, each: a.reshape(-1, wide),
    "columns": lambda a, wide, each: a.reshape(wide, -1).T,
    "maps": lambda a, wide, each: a.reshape(each, wide, -1).transpose(2, 0, 1).reshape(-1, wide),
    "planes": lambda a, wide, each: a.reshape(wide, each, -1).transpose(2, 1, 0).reshape(-1, wide),
    "stacks": lambda a, wide, each: a.reshape(each, -1, wide).transpose(1, 0, 2).reshape(-1, wide),
}
"""Layout -> function that makes a table with one row per box. Cells are row by row; the boxes of a cell are adjacent.

Its arguments are the values, the number of columns and the number of boxes per cell.
"""


def in_rows(values: Array, wide: int, layout: Layout, each: int = 1) -> Array:
    """A table with one row for each box.

    Args:
        values: an output, without the batch axis.
        wide: the number of columns.
        layout: the layout of the output; see :class:`~ncnnkit.tasks.decoder.Table`.
        each: the number of boxes per cell.

    Returns:
        (boxes, wide).

    Raises:
        ModelError: the output does not have this number of columns.
    """
    values = np.asarray(values)
    side, size = (0, wide * each) if layout in ("maps", "planes") else (0, wide) if layout == "columns" else (-1, wide)
    whole = values
    while values.ndim > 2 and len(values) == 1 and values.shape[side] != size:  # a batch axis
        values = values[0]
    fits = values.ndim < 2 or not values.size or values.shape[side] == size  # a vector no longer has its axes
    if not fits or values.size % (wide if layout in ("rows", "columns") else wide * each):
        shape = "x".join(map(str, whole.shape))
        raise ModelError(f"an output of shape {shape} is not a table of {wide} columns in the layout {layout!r}")
    return LAYOUTS[layout](values, wide, each)


def gather(decoder: Decoder, outputs: Sequence[Array]) -> dict[Part, Array]:
    """The parts of the outputs of one sample, with a row for each box.

    Args:
        decoder: its ``tables`` are used.
        outputs: all outputs of the network.

    Returns:
        Part -> (boxes, columns of the part). Priors may have twice as many rows; the second half contains their
        variances. Prototypes have a row for each pixel.

    Raises:
        ModelError: there is no such output, an output has another shape, or the parts have different numbers of rows.

    Example:
        >>> apart = gather(Decoder("boxes", (Table(0, ("boxes", "scores")),), 80), [np.zeros((100, 84))])
        >>> {part: rows.shape for part, rows in apart.items()}
        {'boxes': (100, 4), 'scores': (100, 80)}
    """
    found: dict[Part, list[Array]] = {}
    for table in decoder.tables:
        if table.output >= len(outputs):
            raise ModelError(f"the decoder reads output {table.output}, but there are {len(outputs)}")
        level = len(found.get(table.parts[0], ()))
        on_anchors = level < len(decoder.anchors) and table.parts != ("prototypes",)
        each = len(decoder.anchors[level].sizes) if on_anchors else 1
        widths = [decoder.width(part) for part in table.parts]
        values = np.asarray(outputs[table.output])
        values = values.reshape(-1) if table.parts == ("priors",) else values  # ncnn has all priors in one row
        rows = in_rows(values, sum(widths), table.layout, each)
        for part, columns in zip(table.parts, np.split(rows, np.cumsum(widths)[:-1], axis=1)):
            found.setdefault(part, []).append(columns)
    whole = {part: np.concatenate(parts) if len(parts) > 1 else parts[0] for part, parts in found.items()}
    counts = {part: len(rows) for part, rows in whole.items() if part not in _NOT_OF_BOXES}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{part} has {count}" for part, count in counts.items())
        raise ModelError(f"the outputs have different numbers of boxes: {said}")
    return whole


_NOT_OF_BOXES: tuple[Part, ...] = ("priors", "prototypes")
"""Parts that may have another number of rows than boxes."""


# ----------------------------------------------------------------------------------------------------------- anchors


@dataclass(frozen=True, eq=False)
class Anchors:
    """Anchors, one row each, float32 (N, 2): x and y in pixels or in units of ``Decoder.scale``.

    Attributes:
        centre: the centre.
        size: width and height.
        step: width and height of the cell.
    """

    centre: Float
    size: Float
    step: Float

    @classmethod
    def of(cls, grids: tuple[Grid, ...]) -> Anchors:
        """The anchors of some grids, in their order."""
        return _anchors(grids)

    @classmethod
    def around(cls, boxes: Array) -> Anchors:
        """Boxes as anchors: (N, 4), x1, y1, x2, y2."""
        low, high = np.asarray(boxes[:, :2], np.float32), np.asarray(boxes[:, 2:], np.float32)
        return cls(_f32((low + high) / 2), high - low, high - low)

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, rows: Array) -> Anchors:
        return Anchors(self.centre[rows], self.size[rows], self.step[rows])


@lru_cache(maxsize=8)
def _anchors(grids: tuple[Grid, ...]) -> Anchors:
    whole = Anchors.around(np.concatenate([grid.boxes() for grid in grids]))
    steps = [np.full((grid.count, 2), grid.step[::-1], np.float32) for grid in grids]
    return Anchors(whole.centre, whole.size, np.concatenate(steps))


def anchors_for(decoder: Decoder, found: dict[Part, Array]) -> tuple[Anchors | None, Float]:
    """(the anchors of the boxes, from the decoder or from its ``priors``; the divisors of deltas, 1 or N rows).

    Raises:
        ModelError: the numbers of anchors and boxes differ.
    """
    weights = np.array([decoder.weights], np.float32)
    anchors = Anchors.of(decoder.anchors) if decoder.anchors else None
    if "priors" in found:
        count, priors = len(found["boxes"]), np.asarray(found["priors"], np.float32)
        anchors = Anchors.around(priors[:count])
        if len(priors) == 2 * count and count:
            with np.errstate(divide="ignore"):
                weights = np.asarray(1 / priors[count:], np.float32)
    if anchors is not None and len(anchors) != len(found["boxes"]):
        raise ModelError(
            f"there are {len(found['boxes'])} boxes, but {len(anchors)} anchors",
            hint="was the network converted for another input size?",
        )
    return anchors, weights


# ----------------------------------------------------------------------------------------------------------- formats


def _centred(centre: Array, size: Array) -> Array:
    return np.concatenate([centre - size / 2, centre + size / 2], 1)


def _powers(numbers: Array, largest: float = 0.0) -> Array:
    """The exponential, clipped to finite values."""
    return np.asarray(np.exp(np.minimum(numbers, largest or _LARGEST_POWER)))


def _deltas(n: Float, a: Anchors, d: Decoder) -> Array:
    return _centred(a.centre + n[:, :2] * a.size, a.size * _powers(n[:, 2:], d.largest_growth))


def _distances(n: Float, a: Anchors, d: Decoder) -> Array:
    return np.concatenate([a.centre - n[:, :2] * a.size, a.centre + n[:, 2:] * a.size], 1)


def _edges(n: Float, a: Anchors, d: Decoder) -> Array:
    return np.concatenate([a.centre + (n[:, :2] - 0.5) * a.size, a.centre + (n[:, 2:] + 0.5) * a.size], 1)


def _yolov3(n: Float, a: Anchors, d: Decoder) -> Array:
    place = activated("sigmoid", n[:, :2]) - 0.5
    return _centred(a.centre + place * a.step, a.size * _powers(n[:, 2:], d.largest_growth))


def _yolov5(n: Float, a: Anchors, d: Decoder) -> Array:
    two = 2 * activated("sigmoid", n)
    return _centred(a.centre + (two[:, :2] - 1) * a.step, a.size * two[:, 2:] ** 2)


ANCHORED: dict[BoxFormat, Callable[[Float, Anchors, Decoder], Array]] = {
    "deltas": _deltas,
    "distances": _distances,
    "edges": _edges,
    "yolov3": _yolov3,
    "yolov5": _yolov5,
}
"""Format of boxes on anchors -> function that computes their corners.

Sources: torchvision's ``BoxCoder`` (deltas) and ``BoxLinearCoder`` (distances), MTCNN's ``bbreg`` (edges), Redmon and
Farhadi, "YOLOv3" (yolov3), ``Detect.forward`` of Ultralytics' YOLOv5 (yolov5).
"""


def corners(decoder: Decoder, numbers: Array, anchors: Anchors | None, weights: Float) -> Float:
    """The corners of boxes in pixels of the network's input.

    Args:
        decoder: its ``boxes``, ``bins``, ``largest_growth``, ``size`` and ``scale`` are used.
        numbers: (N, 4 x bins), in the format ``decoder.boxes``.
        anchors: an anchor for each box; None for formats without anchors.
        weights: the divisors of deltas, (1, 4) or (N, 4).

    Returns:
        float32 (N, 4): x1, y1, x2, y2.
    """
    boxes = np.asarray(numbers, np.float32)
    if decoder.bins > 1:
        shares = activated("softmax", boxes.reshape(-1, 4, decoder.bins))
        boxes = _f32(shares @ np.arange(decoder.bins, dtype=np.float32))
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are dropped afterwards
        if decoder.boxes == "cxcywh":
            boxes = _f32(_centred(boxes[:, :2], boxes[:, 2:]))
        elif anchors is not None and decoder.boxes in ANCHORED:
            numbers = _f32(boxes / weights) if decoder.boxes == "deltas" else boxes
            boxes = _f32(ANCHORED[decoder.boxes](numbers, anchors, decoder))
        height, width = decoder.size
        if height and width:
            boxes = _f32(np.clip(boxes, 0, np.array([width, height, width, height])))
        return _f32(boxes * np.array(decoder.scale * 2, np.float32))


POINT_ORIGINS: dict[PointOrigin, float] = {"centre": 0.0, "corner": -0.5}
"""Origin of keypoints -> its position relative to the anchor's centre, in sizes of the anchor."""


def placed(decoder: Decoder, points: Float, anchors: Anchors | None, weights: Float | None = None) -> Float:
    """Keypoints in pixels of the network's input. Further numbers are not changed.

    Args:
        decoder: its ``origin`` and ``scale`` are used.
        points: (N, keypoints, 2 or 3).
        anchors: an anchor for each of the N boxes; None if ``origin`` is the image.
        weights: as in :func:`corners`.
    """
    made = np.array(points, np.float32)
    if anchors is not None and decoder.origin != "image":
        shift = made[..., :2] / (1 if weights is None else weights[:, None, :2]) + POINT_ORIGINS[decoder.origin]
        made[..., :2] = anchors.centre[:, None] + shift * anchors.size[:, None]
    made[..., :2] *= np.array(decoder.scale, np.float32)
    return made


# ------------------------------------------------------------------------------------------------------------ scores


def activated(kind: Activation, numbers: Array) -> Float:
    """Scores from 0 to 1. A softmax is over the last axis. NaN stays NaN."""
    values = np.asarray(numbers, np.float32)
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -_LARGEST_POWER, _LARGEST_POWER))), np.float32)
    if kind == "softmax" and values.size:
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            powers = np.exp(values - values.max(-1, keepdims=True))
            return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)
    return values


COMBINED: dict[Combination, Callable[[Float, Float], Array]] = {
    "product": lambda score, objectness: score * objectness,
    "root": lambda score, objectness: np.sqrt(score * objectness),
    # 1 / (1 + exp(-o) (1 + exp(-s))). The comment in ncnn's source says a product of two sigmoids, but its code
    # differs.
    "ncnn": lambda score, objectness: score * objectness / (score * objectness + 1 - objectness),
}
"""Name -> function that combines the score of a class and the objectness, both from 0 to 1."""


def class_scores(decoder: Decoder, found: dict[Part, Array]) -> Float:
    """The score of each class for each box, (N, classes); -infinity for the background and for non-finite values."""
    scores = np.array(activated(decoder.scores, found["scores"]), np.float32)
    broken = ~np.isfinite(found["scores"])  # because the sigmoid of infinity is finite
    if "objectness" in found:
        broken = broken | ~np.isfinite(found["objectness"])
        objectness = activated("none" if decoder.scores == "none" else "sigmoid", found["objectness"])
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = np.array(COMBINED[decoder.combination](scores, objectness), np.float32)
    scores[broken | np.isnan(scores)] = -np.inf
    if decoder.background >= 0:
        scores[:, decoder.background] = -np.inf
    return scores


# ------------------------------------------------------------------------------------------------------- suppression


def best_first(scores: Array, most: int = 0) -> NDArray[np.intp]:
    """Indices of the highest scores, the highest first; equal scores stay in their order.

    Args:
        scores: (N,).
        most: the largest number of indices; 0 for all.
    """
    order = np.argsort(-scores, kind="stable")
    return order[:most] if most else order


def chosen(decoder: Decoder, found: Boxes) -> NDArray[np.intp]:
    """Indices of the boxes that remain after non-maximum suppression, the best first.

    A box that overlaps a better one is dropped, as in torchvision's ``batched_nms``.

    Args:
        decoder: its ``iou_threshold``, ``agnostic``, ``most`` and ``most_per_class`` are used.
        found: the boxes.
    """
    order = best_first(found.scores)
    found = found.where(order)
    groups = np.zeros(len(found), np.int64) if decoder.agnostic else found.labels
    rivals = {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
    free = np.ones(len(found), bool)
    kept: list[int] = []
    of_class: Counter[int] = Counter()
    for best in range(len(found)):
        if not free[best]:
            continue
        kept.append(best)
        if len(kept) == decoder.most:
            break
        label = int(found.labels[best])
        of_class[label] += 1
        if of_class[label] == decoder.most_per_class:
            free[found.labels == label] = False
        if decoder.iou_threshold < 1:
            others = rivals[int(groups[best])]
            others = others[(others > best) & free[others]]
            free[others[overlaps(found.xyxy[best], found.xyxy[others]) > decoder.iou_threshold]] = False
    return order[np.array(kept, np.intp)]
