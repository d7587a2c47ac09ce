"""Judges the calibration images: whether there are enough, which images stretch the ranges, and whether the evaluation
images are similar.

This needs no labels, only activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..record.quantisation import Count, Likeness
from .calibration import ActivationStats, merge_all

BATCHES = 4
ENOUGH = 1.05  # fewer images are enough if their error is at most this factor times the error with all images
STRETCH = 1.5  # an image stretches a range if its largest value is this factor above the second largest
LEAST_SPREAD = 0.05  # least spread of the logarithm of a range; with few images, some tensors hardly differ
UNLIKE = 95.0  # percentile of the calibration images' distances; the median evaluation image must be below it


@dataclass(frozen=True)
class Stretch:
    """An image that determines the range of some tensors by itself.

    Attributes:
        image: its index among the calibration images.
        tensors: the number of tensors in which its largest value is more than 1.5 times that of any other image.
        factor: the largest ratio to the second largest value.
    """

    image: int
    tensors: int
    factor: float


@dataclass(frozen=True, eq=False)
class Advice:
    """The judgement of the calibration images.

    Attributes:
        counts: the error by the number of images; empty if it was not examined.
        stretching: the images that stretch ranges by themselves, by their index among the samples.
        ranges: float64 (images, tensors), the largest absolute values.
    """

    counts: list[Count] = field(default_factory=list)
    stretching: list[Stretch] = field(default_factory=list)
    ranges: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def error_by_count(
    batches: Sequence[ActivationStats], error: Callable[[ActivationStats], float], whole: float
) -> list[Count]:
    """The error of thresholds from one batch, from half of the batches and from all batches, with its spread.

    Args:
        batches: statistics of disjoint batches of images.
        error: computes the error of the network that is quantised with the given statistics.
        whole: the known error with all batches.
    """
    found = []
    for size in sorted({1, len(batches) // 2} - {0, len(batches)}):
        starts = range(0, len(batches) - size + 1, size)  # disjoint choices
        chosen = [[batches[(start + i) % len(batches)] for i in range(size)] for start in starts]
        errors = [error(merge_all(each)) for each in chosen]
        images = round(float(np.mean([sum(part.images for part in each) for each in chosen])))
        found.append(Count(images, float(np.mean(errors)), min(errors), max(errors)))
    return [*found, Count(sum(part.images for part in batches), whole, whole, whole)]


def enough(counts: Sequence[Count]) -> int | None:
    """The least number of images with a worst error within 5 % of the error with all images; None if none."""
    return next((c.images for c in counts[:-1] if c.high <= ENOUGH * counts[-1].relative_error), None)


def stretching(ranges: NDArray[np.float64], most: int = 5) -> list[Stretch]:
    """The images that stretch the range of some tensors by themselves, the worst first."""
    if len(ranges) < 3:
        return []
    order = np.argsort(ranges, axis=0)[::-1]
    largest, second = (np.take_along_axis(ranges, order[i : i + 1], axis=0)[0] for i in (0, 1))
    factors = largest / np.maximum(second, 1e-30)
    found = []
    for image in np.unique(order[0][factors > STRETCH]):
        own = factors[(order[0] == image) & (factors > STRETCH)]
        found.append(Stretch(int(image), len(own), float(own.max())))
    return sorted(found, key=lambda s: (-s.tensors, -s.factor))[:most]


def likeness(calibration: NDArray[np.float64], evaluation: NDArray[np.float64]) -> Likeness | None:
    """How much the ranges of evaluation and calibration images differ; None if there are too few images."""
    if len(calibration) < 5 or not len(evaluation):
        return None
    logs, others = np.log(np.maximum(calibration, 1e-12)), np.log(np.maximum(evaluation, 1e-12))

    def distance(rows: NDArray[np.float64], base: NDArray[np.float64]) -> NDArray[np.float64]:
        spread = np.maximum(base.std(axis=0), LEAST_SPREAD)
        return np.asarray(np.sqrt(np.mean(((rows - base.mean(axis=0)) / spread) ** 2, axis=1)))

    own = [distance(logs[i : i + 1], np.delete(logs, i, axis=0))[0] for i in range(len(logs))]
    return Likeness(float(np.percentile(own, UNLIKE)), float(np.median(distance(others, logs))))
