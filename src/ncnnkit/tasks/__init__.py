"""What a network's outputs mean: decoders turn them into predictions. Needs numpy only.

===========  ==========================================================================
module       what is in it
===========  ==========================================================================
predictions  what a decoder returns: :class:`Boxes`, :class:`ClassMap`; how two of them compare
decoder      :class:`Decoder`: everything that decoding needs, as data
boxes        the arithmetic of boxes: formats, anchors, overlap, suppression
yolo         boxes and scores of classes in one output, as Ultralytics writes them
ssd          boxes on anchors: torchvision's SSD, RetinaNet and FCOS
detr         one box for each query
argmax       the best class at each place
===========  ==========================================================================

A new kind is one module with a function ``decode``, one row in ``DECODERS``, and one name in ``Kind``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import argmax, detr, ssd, yolo
from .decoder import Array, Decoder, Grid, Kind
from .predictions import Agreement, Boxes, ClassMap, Prediction, agreement

__all__ = ["DECODERS", "Agreement", "Boxes", "ClassMap", "Decoder", "Grid", "Kind", "Prediction", "agreement", "decode"]

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
