"""Boxes on anchors, with a score of every class for each: torchvision's SSD, RetinaNet and FCOS.

The outputs are the scores, (N, classes) or (classes, N) as ``Decoder.layout`` says, the boxes (N, 4) and, for FCOS, the
centredness (N, 1).

SSD considers the best boxes of each class, RetinaNet and FCOS the best pairs of box and class of each grid of anchors.
Then the boxes of one class suppress each other. The networks are those of Liu et al., "SSD: Single Shot MultiBox
Detector"; Lin et al., "Focal Loss for Dense Object Detection"; Tian et al., "FCOS".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .boxes import activated, best_first, corners, in_rows, of_classes, suppressed
from .decoder import Array, Decoder
from .predictions import Boxes


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Boxes:
    """Decode one sample.

    Args:
        decoder: all fields but ``axis`` and ``multi_label`` count.
        outputs: scores, boxes and, if there is one, the centredness.
    """
    scores = activated(decoder.scores, in_rows(decoder, outputs[0], decoder.classes))
    if len(outputs) > 2:
        scores = np.sqrt(scores * activated(decoder.scores, np.asarray(outputs[2]).reshape(-1, 1)))
    scores = of_classes(decoder, scores)
    boxes = corners(decoder, outputs[1])
    groups = _by_level(decoder, scores) if decoder.group == "level" else np.arange(scores.shape[1])[None]
    groups = np.broadcast_to(groups, scores.shape).reshape(-1)
    flat = scores.reshape(-1)
    passing = np.flatnonzero(flat > decoder.score_threshold)
    if decoder.candidates:
        passing = np.concatenate(
            [part[best_first(flat[part], decoder.candidates)] for part in _parts(passing, groups[passing])]
        )
    rows, labels = np.divmod(passing, scores.shape[1])
    return suppressed(decoder, boxes[rows], flat[passing], labels)


def _by_level(decoder: Decoder, scores: Array) -> Array:
    """The index of the grid of each box, (N, 1)."""
    counts = [grid.count for grid in decoder.anchors]
    return np.repeat(np.arange(len(counts)), counts)[:, None] if counts else np.zeros((len(scores), 1), int)


def _parts(indices: Array, groups: Array) -> list[Array]:
    return [indices[groups == group] for group in np.unique(groups)] or [indices]
