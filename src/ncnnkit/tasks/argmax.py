"""The best class at each place: of a segmentation's pixels, or of a text recogniser's steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .decoder import Array, Decoder
from .predictions import ClassMap


def decode(decoder: Decoder, outputs: Sequence[Array]) -> ClassMap:
    """Decode one sample.

    Args:
        decoder: ``axis`` counts.
        outputs: one output, with the classes along ``axis``.
    """
    return ClassMap(np.asarray(outputs[0]).argmax(decoder.axis))
