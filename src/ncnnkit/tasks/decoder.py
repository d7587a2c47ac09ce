"""How the outputs of a network become a prediction, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Kind = Literal["yolo", "ssd", "detr", "argmax"]
Layout = Literal["rows", "columns"]
BoxFormat = Literal["xyxy", "cxcywh", "deltas", "distances"]
Activation = Literal["none", "sigmoid", "softmax"]
Group = Literal["class", "level"]


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
        """All anchors, float32 (count, 4): x1, y1, x2, y2. Cells go row by row, the boxes of a cell are neighbours."""
        y = self.first[0] + self.step[0] * np.arange(self.rows)[:, None, None]
        x = self.first[1] + self.step[1] * np.arange(self.columns)[None, :, None]
        half = np.array(self.sizes) / 2
        x, y, w, h = np.broadcast_arrays(x, y, half[:, 0], half[:, 1])
        return np.stack([x - w, y - h, x + w, y + h], -1).reshape(-1, 4).astype(np.float32)


@dataclass(frozen=True)
class Decoder:
    """How the outputs of a network become a prediction.

    A kind reads only the fields that it needs; its module says which.

    Attributes:
        kind: what decodes; see ``DECODERS`` in ``ncnnkit.tasks``.
        outputs: which outputs of the network it reads, by their index.
        classes: number of columns of scores, a background class included; 0: no scores.
        size: (height, width) of the image that boxes are clipped to, pixels; (0, 0): they are not clipped.
        layout: whether each row or each column of an output is a box with its scores.
        boxes: what four numbers describe a box: corners (``xyxy``), centre and size (``cxcywh``), a shift and a growth
            of an anchor (``deltas``), or distances of the sides from an anchor's centre, in sizes of that anchor
            (``distances``).
        scale: what clipped coordinates are multiplied by, (horizontal, vertical), to be pixels of the network's input.
        scores: the function that turns numbers into scores.
        background: index of the score that is no class; -1: there is none.
        anchors: the grids, in the order of the boxes.
        weights: what the four ``deltas`` are divided by.
        score_threshold: a score must be above it.
        iou_threshold: a box that overlaps a better one of its class by more is dropped; 1: none is.
        candidates: only so many of the best scores of each group are considered; 0: all.
        group: what a group of candidates is.
        multi_label: whether one box may be of several classes.
        most: number of boxes that are kept at most; 0: all.
        most_per_class: number of boxes of one class that are kept at most when they suppress each other; 0: all.
        axis: the axis of the classes, counted without the batch axis.
    """

    kind: Kind
    outputs: tuple[int, ...]
    classes: int = 0
    size: tuple[int, int] = (0, 0)
    layout: Layout = "rows"
    boxes: BoxFormat = "xyxy"
    scale: tuple[float, float] = (1.0, 1.0)
    scores: Activation = "none"
    background: int = -1
    anchors: tuple[Grid, ...] = ()
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    score_threshold: float = 0.0
    iou_threshold: float = 1.0
    candidates: int = 0
    group: Group = "class"
    multi_label: bool = False
    most: int = 0
    most_per_class: int = 0
    axis: int = 0

    def fault(self, outputs: int) -> str:
        """What is wrong with it for a network of so many outputs, as a clause; "" where nothing is."""
        if not self.outputs or not all(0 <= index < outputs for index in self.outputs):
            return f"its decoder reads outputs {list(self.outputs)}, and the network has {outputs}"
        counts = (self.classes, self.candidates, self.most, self.most_per_class)
        if min(counts) < 0 or not -1 <= self.background < max(self.classes, 1):
            return "its decoder has a count out of range"
        if self.boxes in ("deltas", "distances") and not self.anchors:
            return "its decoder has no anchors"
        if sum(max(grid.rows, 0) * max(grid.columns, 0) * len(grid.sizes) for grid in self.anchors) > _MOST_ANCHORS:
            return "its decoder has too many anchors"
        return ""


_MOST_ANCHORS = 1 << 24
