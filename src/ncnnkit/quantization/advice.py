"""What the calibration images were worth: were they enough, which of them stretch the ranges, do others look like them.

Labels are never needed: everything is read off the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..record.quantisation import Count, Likeness
from .calibration import ActivationStats, merge_all

BATCHES = 4
ENOUGH = 1.05  # of the error with all images: what more of them could still bring
STRETCH = 1.5  # times the second largest: one image alone makes the range
LEAST_SPREAD = 0.05  # of a log range: of a few images some tensors hardly differ
UNLIKE = 95.0  # percentile of the calibration images' own distances that the median evaluation image must stay under


@dataclass(frozen=True)
class Stretch:
    """An image that alone makes the range of some tensors.

    Attributes:
        image: its index among the calibration images.
        tensors: of how many tensors its largest value is more than half above any other image's.
        factor: how many times the second largest, at most.
    """

    image: int
    tensors: int
    factor: float


@dataclass(frozen=True, eq=False)
class Advice:
    """What the calibration images were worth.

    Attributes:
        counts: the error against the number of images; empty where it was not looked at.
        stretching: images that alone stretch ranges, by their index among the samples.
        ranges: float64 (images, tensors), the largest absolute values.
    """

    counts: list[Count] = field(default_factory=list)
    stretching: list[Stretch] = field(default_factory=list)
    ranges: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def error_by_count(
    batches: Sequence[ActivationStats], error: Callable[[ActivationStats], float], whole: float
) -> list[Count]:
    """The error of thresholds from one batch, half of them and all, with its spread over which ones.

    Args:
        batches: statistics of disjoint batches of images.
        error: of the network quantised with some statistics.
        whole: that with all of them, which is known.
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
    """The least number of images whose error, at its worst, is that of all but for a few per cent; None if none."""
    return next((c.images for c in counts[:-1] if c.high <= ENOUGH * counts[-1].relative_error), None)


def stretching(ranges: NDArray[np.float64], most: int = 5) -> list[Stretch]:
    """The images that alone stretch the range of some tensors, the worst first."""
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
    """How far the evaluation images' ranges are from the calibration images'; None where there are too few of these."""
    if len(calibration) < 5 or not len(evaluation):
        return None
    logs, others = np.log(np.maximum(calibration, 1e-12)), np.log(np.maximum(evaluation, 1e-12))

    def distance(rows: NDArray[np.float64], base: NDArray[np.float64]) -> NDArray[np.float64]:
        spread = np.maximum(base.std(axis=0), LEAST_SPREAD)
        return np.asarray(np.sqrt(np.mean(((rows - base.mean(axis=0)) / spread) ** 2, axis=1)))

    own = [distance(logs[i : i + 1], np.delete(logs, i, axis=0))[0] for i in range(len(logs))]
    return Likeness(float(np.percentile(own, UNLIKE)), float(np.median(distance(others, logs))))
