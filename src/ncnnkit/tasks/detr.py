"""One box for each query: DETR and its relatives.

The outputs are the scores (queries, classes) and the boxes (queries, 4). A query has one class: the best but the
background (Carion et al., "End-to-End Object Detection with Transformers"). With ``Decoder.multi_label``, the best
pairs of query and class are taken (Zhu et al., "Deformable DETR"; RT-DETR).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .boxes import activated, best_first, corners, in_rows, of_classes
from .decoder import Array, Decoder
from .predictions import Boxes


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Boxes:
    """Decode one sample.

    Args:
        decoder: ``classes``, ``layout``, ``boxes``, ``size``, ``scale``, ``scores``, ``background``,
            ``score_threshold``, ``multi_label`` and ``most`` count.
        outputs: scores and boxes.
    """
    scores = of_classes(decoder, activated(decoder.scores, in_rows(decoder, outputs[0], decoder.classes)))
    boxes = corners(decoder, outputs[1])
    if not decoder.multi_label:
        rows, labels = np.arange(len(scores)), scores.argmax(1)
        flat = scores[rows, labels]
    else:
        flat = scores.reshape(-1)
        rows, labels = np.divmod(np.arange(flat.size), scores.shape[1])
    order = best_first(flat, decoder.most)
    order = order[flat[order] > decoder.score_threshold]
    return Boxes(boxes[rows[order]], flat[order], labels[order])
