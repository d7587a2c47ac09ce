"""Decodes the outputs of object, face and pose detectors, and of similar networks, to boxes.

All heads are decoded in the same steps: the parts of the outputs become one row per box, high scores give candidates,
candidates get corners and keypoints, and boxes that overlap a better one are dropped. The remaining boxes get masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .boxes import Float, anchors_for, best_first, chosen, class_scores, corners, gather, placed
from .decoder import Array, Decoder, Part
from .predictions import Boxes


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Boxes:
    """Decode one sample.

    Args:
        decoder: uses all fields except ``axis``, ``alphabet`` and ``blank``.
        outputs: all outputs of the network.

    Returns:
        The boxes, the best first. Boxes with a score or corners that are not finite are dropped.

    Raises:
        ModelError: an output does not have the shape that the decoder reads.
    """
    found = gather(decoder, outputs)
    boxes, rows = candidates(decoder, found)
    kept = chosen(decoder, boxes)
    boxes = boxes.where(kept)
    if "prototypes" not in found:
        return boxes
    return replace(boxes, masks=masks(decoder, outputs, found, rows[kept], boxes.xyxy))


def candidates(decoder: Decoder, found: dict[Part, Array]) -> tuple[Boxes, NDArray[np.intp]]:
    """All boxes with a sufficient score, before non-maximum suppression.

    Args:
        decoder: as in :func:`decode`.
        found: what :func:`~ncnnkit.tasks.boxes.gather` returns.

    Returns:
        The boxes, and the row of each in ``found``.
    """
    anchors, weights = anchors_for(decoder, found)
    rows, labels, scores = _considered(decoder, class_scores(decoder, found))
    if "label" in found:
        labels = np.nan_to_num(found["label"].reshape(-1)[rows], posinf=0, neginf=0)
    anchors = None if anchors is None else anchors[rows]
    weights = weights if len(weights) == 1 else weights[rows]
    numbers = found["boxes"][rows]
    boxes = corners(decoder, numbers, anchors, weights)
    points = None
    if "keypoints" in found:
        points = placed(decoder, found["keypoints"][rows].reshape(-1, *decoder.keypoints), anchors, weights)
    whole = Boxes(boxes, scores, labels.astype(np.int64) + decoder.first_label, points)
    finite = np.flatnonzero(np.isfinite(boxes).all(1) & np.isfinite(numbers).all(1))
    return whole.where(finite), rows[finite]


def masks(
    decoder: Decoder, outputs: Sequence[Array], found: dict[Part, Array], rows: Array, corners: Float
) -> NDArray[np.bool_]:
    """The pixels of each box that belong to the object, in the resolution of the prototypes.

    Source: ``process_mask`` of Ultralytics with ``upsample=False``.

    Args:
        decoder: its ``prototype_step`` and the output of its prototypes are used.
        outputs: all outputs of the network.
        found: what :func:`~ncnnkit.tasks.boxes.gather` returns.
        rows: the rows of the boxes in ``found``, (N,).
        corners: the corners of the boxes, (N, 4), pixels of the input.
    """
    output = next(table.output for table in decoder.tables if table.parts == ("prototypes",))
    weights = found["coefficients"][rows]
    maps = np.asarray(found["prototypes"], np.float32).T.reshape(-1, *np.shape(outputs[output])[-2:])
    height, width = maps.shape[1:]
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite belong to no object
        inside = (np.asarray(weights, np.float32) @ maps.reshape(len(maps), -1)).reshape(-1, height, width) > 0
    x1, y1, x2, y2 = (corners / np.float32(decoder.prototype_step)).T
    x, y = np.arange(width), np.arange(height)
    columns = (x >= x1[:, None]) & (x < x2[:, None])
    rows = (y >= y1[:, None]) & (y < y2[:, None])
    return np.asarray(inside & rows[:, :, None] & columns[:, None, :])


def _considered(decoder: Decoder, scores: Float) -> tuple[NDArray[np.intp], Array, Float]:
    """The rows, the classes and the scores of the candidates, each (M,)."""
    if decoder.multi_label:
        flat = scores.reshape(-1)
        rows, labels = np.divmod(np.arange(flat.size), max(decoder.classes, 1))
    else:
        rows, labels = np.arange(len(scores)), scores.argmax(1)
        flat = scores[rows, labels]
    passing = np.flatnonzero(flat > decoder.score_threshold)
    if decoder.candidates:
        groups = _groups(decoder, rows[passing], labels[passing])
        parts = [passing[groups == group] for group in np.unique(groups)]
        best = [part[best_first(flat[part], decoder.candidates)] for part in parts]
        passing = np.concatenate(best) if best else passing
    return rows[passing], labels[passing], flat[passing]


def _groups(decoder: Decoder, rows: Array, labels: Array) -> Array:
    """The index of the group of each candidate."""
    if decoder.group == "class":
        return labels
    if decoder.group == "level":
        return np.searchsorted(np.cumsum([grid.count for grid in decoder.anchors]), rows, side="right")
    return np.zeros(len(rows), int)
