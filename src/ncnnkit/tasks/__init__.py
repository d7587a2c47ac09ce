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
decoding     :data:`DECODERS` and :func:`decode`: one function for each kind
argmax       the best class at each place
===========  ==========================================================================

A new kind is one module with a function ``decode``, one row in ``DECODERS`` in ``decoding``, and one name in ``Kind``.
"""

from __future__ import annotations

from .decoder import Decoder, Grid, Kind
from .decoding import DECODERS, decode
from .predictions import Agreement, Boxes, ClassMap, Prediction, agreement

__all__ = ["DECODERS", "Agreement", "Boxes", "ClassMap", "Decoder", "Grid", "Kind", "Prediction", "agreement", "decode"]
