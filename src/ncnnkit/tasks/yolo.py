"""Boxes and scores of classes in one output, as Ultralytics writes them.

The output is (N, 4 + classes), or (4 + classes, N): see ``Decoder.layout``.

Networks that suppress (v8, v11) keep the best class of each box, or all of them with ``Decoder.multi_label`` (v5).
Boxes of one class suppress each other. Networks without suppression (v10, v26) keep the ``most`` boxes with the best
scores, and of these the best pairs of box and class. ``Decoder.iou_threshold`` is 1 for them. Source: ``NMSModel`` and
``Detect.postprocess`` of Ultralytics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .boxes import activated, best_first, corners, in_rows, suppressed
from .decoder import Array, Decoder
from .predictions import Boxes


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Boxes:
    """Decode one sample.

    Args:
        decoder: ``classes``, ``layout``, ``boxes``, ``size``, ``scale``, ``scores``, the thresholds, ``candidates``,
            ``multi_label`` and ``most`` count.
        outputs: the one output.
    """
    table = in_rows(decoder, outputs[0], 4 + decoder.classes)
    boxes, scores = corners(decoder, table[:, :4]), activated(decoder.scores, table[:, 4:])
    if decoder.iou_threshold >= 1:
        return _best_pairs(decoder, boxes, scores)
    if decoder.multi_label:
        rows, labels = np.divmod(np.arange(scores.size), decoder.classes)
        boxes, best = boxes[rows], scores.reshape(-1)
    else:
        labels, best = scores.argmax(1), scores.max(1)
    passing = np.flatnonzero(best > decoder.score_threshold)
    if decoder.candidates:
        passing = passing[best_first(best[passing], decoder.candidates)]
    return suppressed(decoder, boxes[passing], best[passing], labels[passing])


def _best_pairs(decoder: Decoder, boxes: Array, scores: Array) -> Boxes:
    rows = best_first(scores.max(1), decoder.most)
    flat = scores[rows].reshape(-1)
    order = best_first(flat, decoder.most)
    order = order[flat[order] > decoder.score_threshold]
    places, labels = np.divmod(order, decoder.classes)
    return Boxes(boxes[rows[places]], flat[order], labels)
