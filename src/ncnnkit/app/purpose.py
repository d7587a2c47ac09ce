"""What a program does with the outputs of its network: the facts in its ``decoder.h`` or ``infer.json``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..artifact import Artifact
from ..tasks.boxes import POINT_ORIGINS, Anchors
from ..tasks.classification import Classification
from ..tasks.decoder import Decoder, Layout, Table
from ..tasks.detection import Detection
from ..tasks.embedding import Embedding
from ..tasks.images import Images
from ..tasks.landmarks import Landmarks
from ..tasks.segmentation import Segmentation
from ..tasks.text import Texts


@dataclass(frozen=True)
class Purpose:
    """What a program does with the outputs.

    Attributes:
        name: of the task, as ``--task`` takes it.
        kind: the folder in ``app/cpp_tasks`` and the module in ``app/python_tasks`` that do it.
        decoder: how outputs become a prediction; None for kinds that need none.
        output: index of the output that counts.
        shape: of that output, without the batch axis; () where that is not known.
        low, high: of an image: the values of black and white.
        offset, factor: of landmarks: a point is at offset + factor x number, (x, y) in pixels of the input.
    """

    name: str
    kind: str
    decoder: Decoder | None = None
    output: int = 0
    shape: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    factor: tuple[float, float] = (1.0, 1.0)


def purpose_of(model: Artifact) -> Purpose:
    """What the program of a model does: its task, or, where none is known, classes of a vector and else numbers."""
    task, decoder = model.purpose, model.decoder
    if isinstance(task, Detection):
        return Purpose(task.name, "boxes", replace(task.decoder, score_threshold=task.threshold))
    if isinstance(task, Segmentation):
        # A class where the value of a single map is above the threshold; else as many classes as the axis has.
        made = Decoder(
            "argmax", (Table(task.output),), int(task.axis < 0), axis=task.axis, score_threshold=task.threshold
        )
        return Purpose(task.name, "segmentation", made, task.output, shape_of(model, task.output))
    if isinstance(task, Landmarks):
        return landmarks(task, decoder)
    if isinstance(task, Texts):
        known = decoder if decoder is not None and decoder.kind == "ctc" else Decoder("ctc", (Table(0),))
        made = replace(known, tables=(Table(task.output),), axis=task.axis, blank=task.blank)
        return Purpose(task.name, "text", made, task.output, shape_of(model, task.output))
    if isinstance(task, Images):
        shape = shape_of(model, task.output)
        return Purpose(task.name, "image", None, task.output, shape, task.low, task.high)
    if isinstance(task, Embedding):
        return Purpose(task.name, "embedding", None, task.output)
    if isinstance(task, Classification) or (task is None and not model.task and is_vector(shape_of(model, 0))):
        return Purpose(Classification.name, "classification")
    return Purpose("tensor" if task is None else task.name, "tensor")


def landmarks(task: Landmarks, decoder: Decoder | None) -> Purpose:
    """Points: where the decoder places them, or, without one, in pixels of the network's input."""
    if decoder is None or decoder.kind != "points":
        layout: Layout = "columns" if task.apart else "rows"
        made = Decoder("points", (Table(task.output, ("keypoints",), layout),), keypoints=(0, task.dims))
        return Purpose(task.name, "landmarks", made, task.output)
    offset, factor = (0.0, 0.0), (1.0, 1.0)
    if decoder.anchors and decoder.origin != "image":
        anchors = Anchors.of(decoder.anchors)
        (x, y), (width, height) = anchors.centre[0].tolist(), anchors.size[0].tolist()
        begin = POINT_ORIGINS[decoder.origin]
        offset, factor = (x + begin * width, y + begin * height), (width, height)
    across, down = decoder.scale
    return Purpose(
        task.name, "landmarks", decoder, decoder.tables[0].output,
        offset=(offset[0] * across, offset[1] * down), factor=(factor[0] * across, factor[1] * down),
    )  # fmt: skip


def shape_of(model: Artifact, output: int) -> tuple[int, ...]:
    """The shape of an output, as the card says."""
    return model.outputs[output].shape if output < len(model.outputs) else ()


def is_vector(shape: tuple[int, ...]) -> bool:
    """Whether it has one side that is longer than 1."""
    return sum(side > 1 for side in shape) == 1
