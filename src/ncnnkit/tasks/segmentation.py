"""Segmentation: a class, or a probability, for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import argmax
from .decoder import Array, Decoder, Table
from .figures import by_labels, named, share
from .predictions import ClassMap
from .task import Task, ratio


class Overlap(NamedTuple):
    """The comparison of a map with the correct one, (classes,) each.

    Attributes:
        same: number of pixels of each class in both maps.
        ours, right: number of pixels of each class in each map.
    """

    same: NDArray[np.int64]
    ours: NDArray[np.int64]
    right: NDArray[np.int64]


class Row(NamedTuple):
    """One sample: the comparison with the original's map, and with the labelled one (None without a label)."""

    exact: Overlap
    right: Overlap | None


_FIGURES = (share("miou", "mean IoU"), share("pixels", "equal pixels"))


@dataclass(frozen=True)
class Segmentation(Task):
    """A network that gives each pixel a class, or one value, such as text or not, or foreground or not.

    Attributes:
        output: index of the output with the map.
        axis: the axis of the classes; -1 if the output is one map of values.
        threshold: for one map of values. Pixels above it belong to the object, class 1. NaN does not.

    Example:
        >>> task = Segmentation(axis=0)
        >>> ours, theirs = ([np.array([[[3.0, 0.0]], [[1.0, 1.0]]])], [np.array([[[3.0, 2.0]], [[1.0, 1.0]]])])
        >>> row = task.compare(task.predict(ours), task.predict(theirs))
        >>> task.summarise([row])
        {'miou': 0.5, 'pixels': 0.5, 'label_miou': None, 'label_pixels': None}
    """

    name = "segmentation"
    figures = named(*_FIGURES, *by_labels(*_FIGURES))
    requires = ("miou>=0.95",)
    labels = "pictures"

    output: int = 0
    axis: int = 0
    threshold: float = 0.5

    def predict(self, outputs: Sequence[Array]) -> ClassMap:
        """The class of each pixel."""
        classes = 1 if self.axis < 0 else 0  # 0: the number of classes is the length of the axis
        decoder = Decoder("argmax", (Table(self.output),), classes, axis=self.axis, score_threshold=self.threshold)
        return argmax.decode(decoder, outputs)

    def compare(self, ours: ClassMap, theirs: ClassMap, truth: ClassMap | None = None) -> Row:
        """The pixels of each class.

        Args:
            ours, theirs: the maps of the model and of the original.
            truth: the correct map, in the size of the network's input; -1 for pixels that do not count.
        """
        right = None
        if truth is not None:
            shape = theirs.classes.shape
            size = shape[:2] if len(shape) == 3 and shape[2] == 1 else shape[-2:]
            right = overlap(ours, ClassMap(_at_size(truth.classes, size)))
        return Row(overlap(ours, theirs), right)

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """The intersection over union of each class of the correct maps, and its mean over the classes.

        The background of a single map, class 0, is not counted, because it is much larger than, for example, a text.
        """
        exact = self._summary([row.exact for row in rows])
        right = self._summary([row.right for row in rows if row.right is not None])
        return {**exact, **{f"label_{name}": value for name, value in right.items()}}

    def _summary(self, overlaps: Sequence[Overlap]) -> dict[str, float | None]:
        classes = max((len(each.same) for each in overlaps), default=0)
        same, ours, right = (
            sum((np.pad(each, (0, classes - len(each))) for each in column), np.zeros(classes, np.int64))
            for column in (zip(*overlaps) if overlaps else ([], [], []))
        )
        counted = (right > 0) & (np.arange(classes) > 0 if self.axis < 0 else True)
        either = (ours + right - same)[counted]
        return {
            "miou": float((same[counted] / either).mean()) if counted.any() else None,
            "pixels": ratio([(int(each.same.sum()), int(each.right.sum())) for each in overlaps]),
        }

    def severity(self, row: Row) -> float:
        """The share of pixels with a wrong class."""
        return 1 - int(row.exact.same.sum()) / max(int(row.exact.right.sum()), 1)


def overlap(ours: ClassMap, right: ClassMap) -> Overlap:
    """The numbers of pixels of each class. Pixels with a correct class below zero do not count."""
    one, other = ours.classes.reshape(-1), right.classes.reshape(-1)
    if one.size != other.size:
        one = np.full_like(other, -1)
    one, other = one[other >= 0], other[other >= 0]
    count = int(max(one.max(initial=0), other.max(initial=0))) + 1
    return Overlap(_count(other[one == other], count), _count(one[one >= 0], count), _count(other, count))


def _at_size(classes: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.int64]:
    """A map at another (height, width). Each position has the class of the pixel at its centre."""
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(size, classes.shape))
    return classes[np.ix_(rows, columns)]


def _count(classes: Array, count: int) -> NDArray[np.int64]:
    return np.bincount(classes, minlength=count).astype(np.int64)
