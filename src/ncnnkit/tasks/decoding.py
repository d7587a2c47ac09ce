"""The decoder of each kind: outputs of one sample -> its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import argmax, detr, ssd, yolo
from .decoder import Array, Decoder, Kind
from .predictions import Prediction

DECODERS: dict[Kind, Callable[[Decoder, Sequence[Array]], Prediction]] = {
    "yolo": yolo.decode,
    "ssd": ssd.decode,
    "detr": detr.decode,
    "argmax": argmax.decode,
}
"""Kind -> the function that decodes one sample: it gets the outputs that the decoder reads, in its order."""


def decode(decoder: Decoder, outputs: Sequence[Array]) -> Prediction:
    """The prediction of one sample.

    Args:
        decoder: how to decode.
        outputs: all outputs of the network for this sample, in its order, without the batch axis.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[[0.1, 0.9]], [[0.8, 0.2]]])  # two classes, one row, two columns
        >>> decode(Decoder("argmax", (0,)), [scores]).classes
        array([[1, 0]])
    """
    return DECODERS[decoder.kind](decoder, [outputs[index] for index in decoder.outputs])
