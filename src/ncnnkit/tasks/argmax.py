"""The best class at each place of a map, or of a list of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .boxes import activated
from .decoder import Array, Decoder
from .predictions import ClassMap


def decode(decoder: Decoder, outputs: Sequence[Array]) -> ClassMap:
    """Decode one sample.

    Args:
        decoder: uses ``axis`` and ``classes``. If there is only one class, places with a score (after ``scores``) above
                ``score_threshold`` are of class 1, and others of class 0.
        outputs: all outputs of the network; the one that it reads has the classes along ``axis``.
    """
    values = np.asarray(outputs[decoder.tables[0].output])
    if decoder.classes != 1:
        return ClassMap(np.where(np.isnan(values), -np.inf, values).argmax(decoder.axis))
    scores = activated(decoder.scores, values)
    return ClassMap((scores > decoder.score_threshold).astype(np.int64))
