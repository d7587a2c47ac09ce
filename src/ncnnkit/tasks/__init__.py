"""What a network is for: its outputs become predictions, and predictions are compared. Needs numpy only.

==============  =======================================================================
module          what is in it
==============  =======================================================================
task            :class:`Task`: predict, compare, summarise; intervals of figures
figures         :class:`Figure`: a number that says how right a model is
table           :data:`TASKS`: the tasks, and how the user names one
own             tasks and functions that a user wrote
classification  the best class
detection       boxes with scores and labels; ``coco``: their average precision
segmentation    a class for each pixel
landmarks       points on one object
images          images as outputs
text            a text for each image
embedding       vectors of which the direction counts
tensor          outputs of unknown meaning
predictions     what a decoder returns: :class:`Boxes`, :class:`ClassMap`; how two of them compare
decoder         :class:`Decoder`: everything that decoding needs, as data
decoding        :data:`DECODERS` and :func:`decode`: one function for each kind
boxes           the arithmetic of boxes: formats, anchors, overlap, suppression
yolo            boxes and scores of classes in one output, as Ultralytics writes them
ssd             boxes on anchors: torchvision's SSD, RetinaNet and FCOS
detr            one box for each query
argmax          the best class at each place
==============  =======================================================================

A new task is one module with a subclass of :class:`Task`, and its name in ``TASKS``. A new kind of decoder is one
module with a function ``decode``, one row in ``DECODERS`` in ``decoding``, and one name in ``Kind``.
"""

from __future__ import annotations

from .decoder import Decoder, Grid, Kind
from .decoding import DECODERS, decode
from .figures import OUTPUTS, Figure, fault, named, share
from .predictions import Agreement, Boxes, ClassMap, Prediction, agreement
from .table import TASKS, named_task
from .task import Estimate, Task, estimates

__all__ = [
    "DECODERS", "OUTPUTS", "TASKS", "Agreement", "Boxes", "ClassMap", "Decoder", "Estimate", "Figure", "Grid", "Kind",
    "Prediction", "Task", "agreement", "decode", "estimates", "fault", "named", "named_task", "share",
]  # fmt: skip
