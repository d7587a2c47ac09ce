"""What a program does with the outputs of its network, as facts in its ``decoder.h`` or ``infer.json``."""

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
        kind: name of the folder in ``app/cpp_tasks`` and of the module in ``app/python_tasks`` with its code.
        decoder: how outputs become a prediction; None for kinds that need none.
        output: index of the output that is decoded.
        shape: of that output, without the batch axis; () if unknown.
        low, high: for images: the values of black and white.
        offset, factor: for landmarks: a point is at offset + factor * number, (x, y) in pixels of the input.
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

    @property
    def makes(self) -> str:
        """The kind of image that the program can write, which is its name in JSON: ``mask``, ``image`` or empty."""
        masks = self.decoder is not None and self.decoder.prototypes
        return {"segmentation": "mask", "image": "image"}.get(self.kind, "mask" if masks else "")

    @property
    def draws(self) -> bool:
        """Whether the answer can be drawn onto the image."""
        return self.kind not in ("image", "embedding", "tensor")

    @property
    def joins_tiles(self) -> bool:
        """Whether the answers for the tiles of an image are merged into one."""
        return self.kind in ("boxes", "segmentation", "image")

    @property
    def answer(self) -> str:
        """A description of what the program prints, for its README."""
        return ANSWERS["masks" if self.kind == "boxes" and self.makes else self.kind]


ANSWERS = {
    "boxes": "Boxes, the best first: class, score, and corners in pixels of the image. `--json` has them in `boxes`: "
    "`label`, `index`, `score`, `x1`, `y1`, `x2`, `y2`, and `keypoints` (x, y, visibility) if the network finds "
    "any. `--draw FILE` draws them onto the image. If the image is cut into tiles, the boxes of all tiles are merged.",
    "masks": "Objects, the best first: class, score, and the corners of a box in pixels of the image (`boxes` in "
    "`--json`). Give a `.png` as OUTPUT to write their mask: the value of a pixel is the number of its object in "
    "`boxes`, from 1, or 0 if there is no object. `--draw FILE` draws both.",
    "segmentation": "The share of each class (`classes` in `--json`). Give a `.png` as OUTPUT to write the mask: an "
    "8-bit image as large as the input. The value of a pixel is the index of its class. Pixels that the network did "
    "not see, because the image was cropped, have class 0. `--draw FILE` colours the image.",
    "landmarks": "Points in pixels of the image (`points` in `--json`: x, y, visibility). `--draw FILE` draws them.",
    "image": "An image: give a `.png`, `.jpg` or `.ppm` as OUTPUT to write it. Padding is cut off. An image that is "
    "cut into tiles is joined again; overlapping tiles are blended.",
    "text": "The text and the mean score of its characters (`text`, `score` and the classes `codes` in `--json`).",
    "embedding": "A vector of length 1; `--json` has all of its numbers (`embedding`). The similarity of two inputs is "
    "the scalar product of their vectors.",
    "classification": "The best classes and their scores, as the network outputs them (`top` in `--json`). `--top N` "
    "sets their number.",
    "tensor": "Shape, minimum, maximum and mean of each output (`outputs` in `--json`), because the meaning of the "
    "outputs is unknown. Give a `.npy` or `.txt` as OUTPUT to write the values.",
}
"""Kind, or ``masks`` -> a description of what its program prints."""


def purpose_of(model: Artifact) -> Purpose:
    """The purpose of a model's program: its task. If it is unknown, a vector counts as scores of classes."""
    task, decoder = model.purpose, model.decoder
    if isinstance(task, Detection):
        return Purpose(task.name, "boxes", replace(task.decoder, score_threshold=task.threshold))
    if isinstance(task, Segmentation):
        # A single map has one class, where the value is above the threshold. Otherwise, an axis has the classes.
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
    """The purpose of a program for landmarks. Without a decoder, points are in pixels of the network's input."""
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
    """The shape of an output in the card; () if unknown."""
    return model.outputs[output].shape if output < len(model.outputs) else ()


def is_vector(shape: tuple[int, ...]) -> bool:
    """Whether exactly one axis is longer than 1."""
    return sum(side > 1 for side in shape) == 1
