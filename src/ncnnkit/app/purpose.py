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

    @property
    def makes(self) -> str:
        """What OUTPUT may be as an image, and its name in JSON: ``mask`` or ``image``; empty: none."""
        masks = self.decoder is not None and self.decoder.prototypes
        return {"segmentation": "mask", "image": "image"}.get(self.kind, "mask" if masks else "")

    @property
    def draws(self) -> bool:
        """Whether the answer can be drawn onto the image."""
        return self.kind not in ("image", "embedding", "tensor")

    @property
    def joins_tiles(self) -> bool:
        """Whether the answers for the tiles of an image become one."""
        return self.kind in ("boxes", "segmentation", "image")

    @property
    def answer(self) -> str:
        """What the program prints, for people."""
        return ANSWERS["masks" if self.kind == "boxes" and self.makes else self.kind]


ANSWERS = {
    "boxes": "Boxes, the best first: class, score, and corners in pixels of the image. `--json` has them in `boxes`: "
    "`label`, `index`, `score`, `x1`, `y1`, `x2`, `y2`, and `keypoints` (x, y, how visible) where the network finds "
    "some. `--draw FILE` draws them onto the image. An image that is cut into tiles has the boxes of all tiles.",
    "masks": "Objects, the best first: class, score, and the corners of a box in pixels of the image (`boxes` in "
    "`--json`). Give a `.png` as OUTPUT to write their mask: each pixel has the number of its object in `boxes`, from "
    "1, and 0 where there is none. `--draw FILE` draws both.",
    "segmentation": "The share of each class (`classes` in `--json`). Give a `.png` as OUTPUT to write the mask: an "
    "image of 8 bits as large as the input, in which each pixel has the index of its class. What the network did not "
    "see, because the image was cropped, is of class 0. `--draw FILE` colours the image.",
    "landmarks": "Points in pixels of the image (`points` in `--json`: x, y, how visible). `--draw FILE` draws them.",
    "image": "An image: give a `.png`, `.jpg` or `.ppm` as OUTPUT to write it. Padding is cut off. An image that is "
    "cut into tiles is put together again; where tiles overlap, they are blended.",
    "text": "The text and the mean score of its characters (`text`, `score` and the classes `codes` in `--json`).",
    "embedding": "A vector of length 1, whole in `--json` (`embedding`). Two inputs are as alike as the sum of the "
    "products of their vectors.",
    "classification": "The best classes and their scores, as the network puts them out (`top` in `--json`; `--top N` "
    "says how many).",
    "tensor": "Shape, least value, largest value and mean of each output (`outputs` in `--json`): it is not known what "
    "they mean. Give a `.npy` or `.txt` as OUTPUT to write the values.",
}
"""Kind, or ``masks`` -> what its program prints."""


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
