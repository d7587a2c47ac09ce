"""Boxes: what detectors, detectors of faces and poses, and their relatives find.

All heads go the same way: the parts of the outputs become one row for each box, the scores of the classes become
candidates, the candidates become corners and keypoints, and boxes that overlap a better one are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .boxes import Float, anchors_for, best_first, class_scores, corners, gather, placed, suppressed
from .decoder import Array, Decoder
from .predictions import Boxes


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Boxes:
    """Decode one sample.

    Args:
        decoder: all fields but ``axis``, ``alphabet`` and ``blank`` count.
        outputs: all outputs of the network.

    Returns:
        The boxes, the best first. A box whose score or corners are no numbers is none.

    Raises:
        ModelError: an output does not have the shape that the decoder reads.
    """
    found = gather(decoder, outputs)
    anchors, weights = anchors_for(decoder, found)
    rows, labels, scores = _candidates(decoder, class_scores(decoder, found))
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
    finite = np.isfinite(boxes).all(1) & np.isfinite(numbers).all(1)
    return suppressed(decoder, whole.where(np.flatnonzero(finite)))


def _candidates(decoder: Decoder, scores: Float) -> tuple[NDArray[np.intp], Array, Float]:
    """The row, the class and the score of what is considered, each (M,)."""
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
