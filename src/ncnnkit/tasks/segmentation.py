"""Segmentation: a class, or how likely something is, for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import argmax
from .decoder import Array, Decoder, Table
from .figures import named, share
from .predictions import ClassMap
from .task import Task, ratio


class Row(NamedTuple):
    """One sample.

    Attributes:
        same: number of pixels of each class in both maps, (classes,).
        ours, theirs: number of pixels of each class in each map, (classes,).
    """

    same: NDArray[np.int64]
    ours: NDArray[np.int64]
    theirs: NDArray[np.int64]


@dataclass(frozen=True)
class Segmentation(Task):
    """A network that gives each pixel a class, or one value: text or not, foreground or not.

    Attributes:
        output: index of the output that holds the map.
        axis: of the classes; -1 where the output is one map of values.
        threshold: of the values of one map; above it a pixel belongs to what is looked for, class 1. NaN never does.

    Example:
        >>> task = Segmentation(axis=0)
        >>> ours, theirs = ([np.array([[[3.0, 0.0]], [[1.0, 1.0]]])], [np.array([[[3.0, 2.0]], [[1.0, 1.0]]])])
        >>> row = task.compare(task.predict(ours), task.predict(theirs))
        >>> task.summarise([row])
        {'miou': 0.5, 'pixels': 0.5}
    """

    name = "segmentation"
    figures = named(share("miou", "mean IoU"), share("pixels", "equal pixels"))
    requires = ("miou>=0.95",)

    output: int = 0
    axis: int = 0
    threshold: float = 0.5

    def predict(self, outputs: Sequence[Array]) -> ClassMap:
        """The class of each pixel."""
        classes = 1 if self.axis < 0 else 0  # 0: as many as there are along the axis
        decoder = Decoder("argmax", (Table(self.output),), classes, axis=self.axis, score_threshold=self.threshold)
        return argmax.decode(decoder, outputs)

    def compare(self, ours: ClassMap, theirs: ClassMap, truth: ClassMap | None = None) -> Row:
        """The pixels of each class."""
        one, other = ours.classes.reshape(-1), theirs.classes.reshape(-1)
        if one.size != other.size:
            one = np.full_like(other, -1)
        count = int(max(one.max(initial=0), other.max(initial=0))) + 1
        return Row(_count(other[one == other], count), _count(one[one >= 0], count), _count(other, count))

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """The mean over the classes of the original's maps of shared pixels over all pixels of either.

        The background of a single map, class 0, is no class: it would hide how small a text is.
        """
        classes = max((len(row.same) for row in rows), default=0)
        same, ours, theirs = (
            sum((np.pad(each, (0, classes - len(each))) for each in column), np.zeros(classes, np.int64))
            for column in (zip(*rows) if rows else ([], [], []))
        )
        counted = (theirs > 0) & (np.arange(classes) > 0 if self.axis < 0 else True)
        either = (ours + theirs - same)[counted]
        return {
            "miou": float((same[counted] / either).mean()) if counted.any() else None,
            "pixels": ratio([(int(row.same.sum()), int(row.theirs.sum())) for row in rows]),
        }

    def severity(self, row: Row) -> float:
        """The share of pixels of another class."""
        return 1 - int(row.same.sum()) / max(int(row.theirs.sum()), 1)


def _count(classes: Array, count: int) -> NDArray[np.int64]:
    return np.bincount(classes, minlength=count).astype(np.int64)
