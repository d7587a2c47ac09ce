"""Decodes points that a network outputs as numbers: the landmarks of the only object in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .boxes import Anchors, in_rows, placed
from .decoder import Array, Decoder
from .predictions import Landmarks


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Landmarks:
    """Decode one sample.

    Args:
        decoder: uses ``keypoints`` (number of points, values of each), ``origin``, ``anchors`` (the whole input, if
            any) and ``scale``. The layout ``rows`` is x, y, x, y, ...; ``columns`` is all x, then all y.
        outputs: all outputs of the network.

    Raises:
        ModelError: the output has another number of values.
    """
    count, numbers = decoder.keypoints
    table = decoder.tables[0]
    rows = in_rows(outputs[table.output], numbers, table.layout)
    anchors = Anchors.of(decoder.anchors) if decoder.anchors else None
    return Landmarks(placed(decoder, np.asarray(rows, np.float32).reshape(1, count, numbers), anchors)[0])
