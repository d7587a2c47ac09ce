"""How the outputs of a network become a prediction, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Kind = Literal["boxes", "argmax", "ctc", "points"]
Part = Literal[
    "boxes", "scores", "objectness", "label", "keypoints", "coefficients", "prototypes", "priors", "other"
]  # fmt: skip
Layout = Literal["rows", "columns", "maps", "planes", "stacks"]
BoxFormat = Literal["xyxy", "cxcywh", "deltas", "distances", "edges", "yolov3", "yolov5"]
PointOrigin = Literal["image", "centre", "corner"]
Activation = Literal["none", "sigmoid", "softmax"]
Combination = Literal["product", "root", "ncnn"]
Group = Literal["all", "class", "level"]


@dataclass(frozen=True)
class Grid:
    """Anchors on a regular grid: the same boxes around the centre of each cell.

    Attributes:
        rows, columns: number of cells.
        step: distance of neighbouring centres, (vertical, horizontal), pixels.
        first: centre of the first cell, (y, x), pixels.
        sizes: (width, height) of each box of a cell, pixels.
    """

    rows: int
    columns: int
    step: tuple[float, float]
    first: tuple[float, float]
    sizes: tuple[tuple[float, float], ...]

    @property
    def count(self) -> int:
        """The number of anchors."""
        return self.rows * self.columns * len(self.sizes)

    def boxes(self) -> NDArray[np.float32]:
        """All anchors, float32 (count, 4): x1, y1, x2, y2. Cells are row by row; the boxes of a cell are adjacent."""
        y = self.first[0] + self.step[0] * np.arange(self.rows)[:, None, None]
        x = self.first[1] + self.step[1] * np.arange(self.columns)[None, :, None]
        half = np.array(self.sizes) / 2
        x, y, w, h = np.broadcast_arrays(x, y, half[:, 0], half[:, 1])
        return np.stack([x - w, y - h, x + w, y + h], -1).reshape(-1, 4).astype(np.float32)


@dataclass(frozen=True)
class Table:
    """One output that a decoder reads: a table with one row for each box, in one of several layouts.

    In the last three layouts, the grid of the table gives the number of boxes per cell.

    Attributes:
        output: the index of the output of the network.
        parts: the meaning of the columns, in order: the numbers of the box (``boxes``), a score for each class
            (``scores``), a factor of all scores (``objectness``), the index of the class (``label``), points with the
            box (``keypoints``), the weights of the prototypes in the mask of the box (``coefficients``), the anchor
            (``priors``), or numbers that are not read (``other``). ``prototypes`` are not columns of boxes, but maps of
            the whole image, (prototypes, height, width), in a separate output.
        layout: ``rows`` (boxes, columns), where the boxes may be on several axes; ``columns`` (columns, boxes);
            ``maps`` (boxes of a cell x columns, height, width); ``planes`` (columns x boxes of a cell, height, width);
            ``stacks`` (boxes of a cell, height, width, columns).
    """

    output: int
    parts: tuple[Part, ...] = ("scores",)
    layout: Layout = "rows"


@dataclass(frozen=True)
class Decoder:
    """How the outputs of a network become a prediction.

    A kind of decoder reads only the fields that it needs; the docstring of its module names them. The heads of
    detectors differ only in these fields; ``presets`` has the widely used heads.

    Attributes:
        kind: the kind of decoder; see ``DECODERS`` in ``ncnnkit.tasks``.
        tables: the outputs that it reads. Tables with the same parts are levels, and their rows are concatenated.
        classes: number of columns of scores, including a background class; 0 if there are no scores.
        size: (height, width) of the image to which boxes are clipped, pixels; (0, 0) for no clipping.
        boxes: the meaning of the four numbers of a box: corners (``xyxy``); centre and size (``cxcywh``); a shift and
            the logarithm of a growth of an anchor (``deltas``); distances of the sides from an anchor's centre in sizes
            of that anchor (``distances``); shifts of the four sides of an anchor in its sizes (``edges``); or the
            formats of YOLOv3 and YOLOv5: the position in the cell and the growth of an anchor, after a sigmoid.
        bins: 1 if the output has the numbers themselves. Otherwise it has the logits of a distribution over 0, 1, ...,
            ``bins`` - 1 for each number, which is the mean of this distribution.
        scale: the factors, (horizontal, vertical), that convert clipped coordinates to pixels of the network's input.
        scores: the function that turns numbers into scores. If it is not ``none``, objectness goes through a sigmoid.
        combination: how a score and the objectness are combined: their product, its square root (FCOS), or the formula
                of ncnn's Yolov3DetectionOutput.
        background: the index of the background's score; -1 if there is none.
        first_label: the label of the first class.
        anchors: the grids, in the order of the boxes.
        weights: the divisors of the four ``deltas``. The first two are also the divisors of keypoints.
        largest_growth: the upper bound for the logarithm of the growth of an anchor; 0 for no bound.
        keypoints: (number of the keypoints of a box, 2 or 3): each has x, y and possibly a visibility.
        prototypes: number of prototype maps. The mask of a box is a weighted sum of them. 0 if boxes have no masks.
        prototype_step: side of a pixel of these maps, pixels of the network's input.
        origin: the origin of the coordinates of keypoints: the corner of the image, or the anchor's centre or upper
            left corner; coordinates are in sizes of the anchor then.
        score_threshold: a box is dropped if its score is not above this.
        iou_threshold: a box is dropped if its IoU with a better box of its class is larger; 1 for no suppression.
        agnostic: whether boxes of different classes suppress each other, too.
        candidates: the number of best scores of each group that are considered; 0 for all.
        group: what a group of candidates is.
        multi_label: whether one box may be of several classes.
        most: the largest number of boxes that are kept; 0 for all.
        most_per_class: the largest number of boxes of one class that suppression keeps; 0 for all.
        axis: the axis of the classes, counted without the batch axis.
        alphabet: the character of each class of a text; empty if unknown.
        blank: the class that separates characters.

    Example:
        >>> yolov8 = Decoder(
        ...     "boxes", (Table(0, ("boxes", "scores"), "columns"),), classes=80, boxes="cxcywh", score_threshold=0.25,
        ...     iou_threshold=0.7, most=300,
        ... )
    """

    kind: Kind
    tables: tuple[Table, ...]
    classes: int = 0
    size: tuple[int, int] = (0, 0)
    boxes: BoxFormat = "xyxy"
    bins: int = 1
    scale: tuple[float, float] = (1.0, 1.0)
    scores: Activation = "none"
    combination: Combination = "product"
    background: int = -1
    first_label: int = 0
    anchors: tuple[Grid, ...] = ()
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    largest_growth: float = 0.0
    keypoints: tuple[int, int] = (0, 2)
    prototypes: int = 0
    prototype_step: float = 4.0
    origin: PointOrigin = "image"
    score_threshold: float = 0.0
    iou_threshold: float = 1.0
    agnostic: bool = False
    candidates: int = 0
    group: Group = "all"
    multi_label: bool = False
    most: int = 0
    most_per_class: int = 0
    axis: int = 0
    alphabet: tuple[str, ...] = ()
    blank: int = 0

    @property
    def parts(self) -> set[Part]:
        """The parts that its tables contain."""
        return {part for table in self.tables for part in table.parts}

    def width(self, part: Part) -> int:
        """The number of columns of a part."""
        widths: dict[Part, int] = {
            "boxes": 4 * self.bins,
            "scores": self.classes,
            "keypoints": self.keypoints[0] * self.keypoints[1],
            "coefficients": self.prototypes,
            "prototypes": self.prototypes,
            "priors": 4,
        }
        return widths.get(part, 1)

    def fault(self, outputs: int) -> str:
        """What is wrong with it for a network with this number of outputs, as a clause; "" if nothing is."""
        read = [table.output for table in self.tables]
        if not read or not all(0 <= index < outputs for index in read):
            return f"its decoder reads outputs {read}, but the network has {outputs}"
        counts = [
            self.classes, self.candidates, self.most, self.most_per_class, self.keypoints[0], self.prototypes,
            self.blank,
        ]  # fmt: skip
        if min(counts) < 0 or max(counts) > _MOST or not -1 <= self.background < max(self.classes, 1):
            return "its decoder has a count out of range"
        if not 1 <= self.bins <= _MOST_BINS or self.keypoints[1] not in (2, 3):
            return "its decoder has a number of columns out of range"
        if self.kind == "boxes" and not {"boxes", "scores"} <= self.parts:
            return "its decoder reads no boxes or no scores"
        if self.kind == "boxes" and not all(self.width(part) for table in self.tables for part in table.parts):
            return "its decoder reads a part without columns"
        if len({"coefficients", "prototypes"} & self.parts) == 1:
            return "its decoder reads coefficients without prototypes, or prototypes without coefficients"
        if "prototypes" in self.parts and not (self.prototypes and self.prototype_step > 0):
            return "its decoder has prototypes without a number or a step"
        if self.boxes not in ("xyxy", "cxcywh") and not (self.anchors or "priors" in self.parts):
            return "its decoder has no anchors"
        numbers = [
            *self.size, *self.scale, *self.weights, self.largest_growth, self.prototype_step, self.score_threshold,
            self.iou_threshold, self.axis, self.first_label,
            *(number for grid in self.anchors for pair in (grid.step, grid.first, *grid.sizes) for number in pair),
        ]  # fmt: skip
        if not all(abs(number) <= _MOST for number in numbers) or 0 in self.weights:
            return "its decoder has a number out of range"
        if not all(min(grid.rows, grid.columns, grid.count) > 0 for grid in self.anchors):
            return "its decoder has a grid without anchors"
        if sum(grid.count for grid in self.anchors) > _MOST:
            return "its decoder has too many anchors"
        return ""


_MOST = 1 << 24
_MOST_BINS = 1 << 10
