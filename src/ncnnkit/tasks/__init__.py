"""What a network's outputs mean: decoders turn them into predictions. Needs numpy only.

===========  ==========================================================================
module       what is in it
===========  ==========================================================================
predictions  what a decoder returns: :class:`Boxes`, :class:`ClassMap`, :class:`Text`,
             :class:`Landmarks`; how two of them compare
decoder      :class:`Decoder`: everything that decoding needs, as data
decoding     :data:`DECODERS` and :func:`decode`: one function for each kind
heads        the kind ``boxes``: all detectors, with keypoints or without
boxes        the arithmetic of boxes: tables, formats, anchors, scores, suppression
argmax       the kind ``argmax``: the best class at each place
ctc          the kind ``ctc``: text
points       the kind ``points``: landmarks of one object
===========  ==========================================================================

A new head of a detector is a :class:`Decoder` with other fields. A new kind is one module with a function ``decode``,
one row in ``DECODERS``, and one name in ``Kind``.
"""

from __future__ import annotations

from .decoder import Array, Decoder, Grid, Kind, Table
from .decoding import DECODERS, decode
from .predictions import Agreement, Boxes, ClassMap, Landmarks, Prediction, Text, agreement

__all__ = [
    "DECODERS",
    "Agreement",
    "Array",
    "Boxes",
    "ClassMap",
    "Decoder",
    "Grid",
    "Kind",
    "Landmarks",
    "Prediction",
    "Table",
    "Text",
    "agreement",
    "decode",
]
