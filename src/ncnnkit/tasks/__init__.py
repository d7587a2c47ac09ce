"""The tasks of networks. Outputs become predictions, and predictions are compared. Only numpy is needed.

==============  =======================================================================
module          what is in it
==============  =======================================================================
task            :class:`Task`: predict, compare, summarise; intervals of figures
figures         :class:`Figure`: a number that says how accurate a model is
table           :data:`TASKS`: the tasks, and how the user names one
own             tasks and functions that a user wrote
classification  the best class
detection       boxes with scores and labels; ``coco``: their average precision
pose            boxes with keypoints
segmentation    a class for each pixel
instances       boxes with a mask each
landmarks       points on one object
images          images as outputs
text            a text for each image
embedding       vectors; only their direction matters
tensor          outputs of unknown meaning
predictions     what a decoder returns: :class:`Boxes`, :class:`ClassMap`, :class:`Text`,
                :class:`Landmarks`; how two of them compare
decoder         :class:`Decoder`: everything that decoding needs, as data
decoding        :data:`DECODERS` and :func:`decode`: one function for each kind
heads           the kind ``boxes``: all detectors, with keypoints or without
boxes           the arithmetic of boxes: tables, formats, anchors, scores, suppression
argmax          the kind ``argmax``: the best class at each place
ctc             the kind ``ctc``: text
points          the kind ``points``: landmarks of one object
guess           :data:`HEADS`: guesses the task of a network; its rules: ``guess_boxes``, ``guess_others``
known           :class:`Known`: the evidence for a guess
presets         the heads of known detectors
ncnn_heads      ncnn's own layers of detection
==============  =======================================================================

A new task is one module with a subclass of :class:`Task`, and its name in ``TASKS``. A new head of a detector is a
:class:`Decoder` with other fields. A new kind of decoder is one module with a function ``decode``, one row in
``DECODERS``, and one name in ``Kind``.
"""

from __future__ import annotations

from .decoder import Array, Decoder, Grid, Kind, Table
from .decoding import DECODERS, decode
from .figures import OUTPUTS, Figure, fault, named, share
from .predictions import Agreement, Boxes, ClassMap, Landmarks, Prediction, Text, agreement
from .table import TASKS, named_task
from .task import Estimate, Task, estimates

__all__ = [
    "DECODERS", "OUTPUTS", "TASKS", "Agreement", "Array", "Boxes", "ClassMap", "Decoder", "Estimate", "Figure", "Grid",
    "Kind", "Landmarks", "Prediction", "Table", "Task", "Text", "agreement", "decode", "estimates", "fault", "named",
    "named_task", "share",
]  # fmt: skip
