"""Histograms of the values of blobs that can be merged exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Tally:
    """A histogram of the absolute values of one blob. Zeros are not counted.

    Bins begin at 0. With ``width`` 0, the width of a bin is the smallest power of two for which ``bins`` bins cover the
    largest value so far. It grows by merging pairs of bins. So the edges do not depend on the order of the values, and
    merging the histograms of batches gives exactly the histogram of all values.
    """

    CHUNK = 1 << 15  # values at a time, so that temporary arrays stay in the cache

    def __init__(self, bins: int, width: float = 0.0, sample: int = 0) -> None:
        self.histogram = np.zeros(bins, np.int64)
        self.growing = width == 0.0
        self.width = width
        self.sample = sample  # about how many values of an array to count, evenly spread; 0: all
        self.absmax = 0.0
        self.count = 0  # the number of all values, including zeros and those that were not sampled

    def add(self, values: np.ndarray[Any, Any]) -> float:
        """Count the values of an array of one axis or more.

        Returns the largest absolute value. Without bins it only finds this value.
        """
        self.count += values.size
        absmax = float(max(values.max(), -values.min()))
        self.absmax = absmax if not absmax <= self.absmax else self.absmax  # keeps NaN
        bins = len(self.histogram)
        if not bins or not np.isfinite(absmax) or absmax == 0.0:
            return absmax
        if self.growing:
            self.widen(width_for(absmax, bins))
        # (channels, positions), a view: ncnn pads between channels, not within. In rows, features are the last axis.
        planes = values.reshape(len(values), -1) if values.ndim != 2 else values.T
        if self.sample:
            planes = planes[:, :: stride(values.size // self.sample, values.shape[-1])]
        rows = max(1, self.CHUNK // planes.shape[1])
        for start in range(0, len(planes), rows):
            scaled = np.abs(planes[start : start + rows]).reshape(-1)
            zeros = scaled.size - np.count_nonzero(scaled.view(np.int32))  # several times faster for integers
            if self.growing:
                np.multiply(scaled, np.float32(1.0 / self.width), out=scaled)  # exact, because it is a power of two
            else:
                # ncnn2table's rounding: |x| / absmax * bins in fp32.
                np.divide(scaled, np.float32(self.width * bins), out=scaled)
                np.multiply(scaled, np.float32(bins), out=scaled)
            counts = np.bincount(scaled.astype(np.intp), minlength=bins + 1)
            self.histogram += counts[:bins]
            self.histogram[-1] += counts[bins]  # values equal to the largest
            self.histogram[0] -= zeros
        return absmax

    def widen(self, width: float) -> None:
        """Merge bins in pairs until they are at least ``width`` wide."""
        if self.width == 0.0:
            self.width = width
        while self.width < width:
            half = len(self.histogram) // 2
            self.histogram[:half] = self.histogram[0::2] + self.histogram[1::2]
            self.histogram[half:] = 0
            self.width *= 2


def stride(step: int, width: int) -> int:
    """A step of at least ``step`` that visits all columns of rows of ``width``, and not the same few in each row."""
    step = max(1, step)
    while math.gcd(step, width) > 1:
        step += 1
    return step


def width_for(absmax: float, bins: int) -> float:
    """The smallest power of two w with absmax < bins * w, at least 2^-100, because fp32 must hold its inverse."""
    return float(2.0 ** max(np.floor(np.log2(absmax / bins)) + 1, -100))
