"""Guesses what a network is for.

The evidence is shapes, the metadata in the model's file, and the values of the outputs: decoded boxes are near the
cells that they belong to, scores are from 0 to 1, corners are in order, probabilities add up to one. A layout that is
common to two heads is not guessed.

A guess is made twice: when a model is opened, with its outputs for noise, and in a run, with its outputs for images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from . import guess_boxes as boxes
from . import guess_others as others
from . import presets
from .decoder import Decoder
from .guess_others import doubt
from .known import Guess, Known

__all__ = ["DETECTORS", "HEADS", "Head", "doubt", "fitting_heads", "guess"]


@dataclass(frozen=True)
class Head:
    """A known layout of outputs.

    Attributes:
        name: the name in ``--task detection:head=NAME``; several rows may have the same name.
        task: what the network is for.
        find: returns the decoder or the task if the network has this layout.
        told: whether the layout is so general that it is only recognised if the user names the task.
    """

    name: str
    task: str
    find: Callable[[Known], Guess | None]
    told: bool = False


_V5 = boxes.three_maps(("yolov5", "yolov7-tiny", "yolov7_tiny"), presets.YOLOV5_ANCHORS)
_V7 = boxes.three_maps(("yolov7",), presets.YOLOV7_ANCHORS)

HEADS = (
    Head("ultralytics", "detection", boxes.ultralytics),
    Head("instances", "detection", boxes.instances),
    Head("instances", "detection", boxes.raw_instances),
    Head("end2end", "detection", boxes.found_rows),
    Head("ultralytics", "detection", boxes.decoded_columns),
    Head("yolov5", "detection", boxes.three_boxes),
    Head("yolov6", "detection", boxes.one_box),
    Head("yolox", "detection", boxes.one_relative_box),
    Head("ultralytics-raw", "detection", boxes.ultralytics_logits),
    Head("yolov5-raw", "detection", _V5),
    Head("yolov7-raw", "detection", _V7),
    Head("nanodet-plus", "detection", boxes.nanodet_plus),
    Head("nanodet", "detection", boxes.nanodet),
    Head("scrfd", "detection", boxes.scrfd),
    Head("retinaface", "detection", boxes.retinaface),
    Head("mtcnn", "detection", boxes.proposals),
    Head("mtcnn", "detection", boxes.crop),
    Head("ssd", "detection", boxes.corners_and_scores),
    Head("paddleocr", "text", others.text_of_metadata),
    Head("names", "segmentation", others.named_segmentation),
    Head("ctc", "text", others.told_text, told=True),
    Head("points", "landmarks", others.told_landmarks, told=True),
    Head("maps", "segmentation", others.told_segmentation, told=True),
    Head("vector", "classification", others.classifier),
    Head("unit-vector", "embedding", others.unit_vector),
    Head("probabilities", "text", others.rows_of_probabilities),
    Head("image", "image", others.image),
    Head("map", "segmentation", others.one_map),
)
"""The known layouts, in the order in which they are tried."""

DETECTORS = tuple(dict.fromkeys(head.name for head in HEADS if head.task == "detection"))
"""The names of the heads of detectors."""

FAMILY: Mapping[str, str] = MappingProxyType({"pose": "detection", "instances": "detection"})
"""Task -> the task of its heads."""


def guess(known: Known, task: str = "", head: str = "") -> Guess | None:
    """The decoder of a network, or its task if that needs no decoder.

    Args:
        known: the evidence.
        task: the task that the user named; empty for any.
        head: the head that the user named. If it is given, the values of the outputs are not examined.

    Returns:
        The decoder or the task, and the evidence; None if no head is certain.

    Example:
        >>> import numpy as np
        >>> guess(Known([[np.zeros((1, 6))]], (320, 320))) is None
        True
    """
    known = replace(known, sure=True) if head else known
    for row in HEADS:
        asked = row.name == head if head else row.task == FAMILY.get(task, task) if task else not row.told
        found = row.find(known) if asked else None
        if found and not (isinstance(found[0], Decoder) and found[0].fault(len(known.outputs))):
            return found
    return None


def fitting_heads(known: Known) -> Sequence[str]:
    """The names of the detector heads with shapes that fit a network."""
    return [name for name in DETECTORS if guess(known, head=name)]
