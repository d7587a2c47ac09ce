"""Histograms of the values of blobs that merge exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Tally:
    """A histogram of the absolute values of one blob, zeros left out.

    Bins begin at 0. With ``width`` 0 their width is the smallest power of two with which ``bins`` of them hold the
    largest value seen; it grows by merging bins in pairs. The edges are then the same whatever the order the values
    came in, so counting batches apart and merging gives exactly what counting them together gives.
    """

    CHUNK = 1 << 15  # values at a time: the temporaries stay in the cache

    def __init__(self, bins: int, width: float = 0.0, sample: int = 0) -> None:
        self.histogram = np.zeros(bins, np.int64)
        self.growing = width == 0.0
        self.width = width
        self.sample = sample  # about how many values of an array to count, evenly spread; 0: all
        self.absmax = 0.0
        self.count = 0  # all values, zeros and those left out too

    def add(self, values: np.ndarray[Any, Any]) -> float:
        """Count an array of one axis or more, only its largest value where there are no bins; returns that value."""
        self.count += values.size
        absmax = float(max(values.max(), -values.min()))
        self.absmax = absmax if not absmax <= self.absmax else self.absmax  # a NaN stays
        bins = len(self.histogram)
        if not bins or not np.isfinite(absmax) or absmax == 0.0:
            return absmax
        if self.growing:
            self.widen(width_for(absmax, bins))
        # (channels, positions), a view: ncnn pads between channels, not within. Features come last in rows.
        planes = values.reshape(len(values), -1) if values.ndim != 2 else values.T
        if self.sample:
            planes = planes[:, :: stride(values.size // self.sample, values.shape[-1])]
        rows = max(1, self.CHUNK // planes.shape[1])
        for start in range(0, len(planes), rows):
            scaled = np.abs(planes[start : start + rows]).reshape(-1)
            zeros = scaled.size - np.count_nonzero(scaled.view(np.int32))  # of integers it is several times faster
            if self.growing:
                np.multiply(scaled, np.float32(1.0 / self.width), out=scaled)  # exact: a power of two
            else:
                # ncnn2table's rounding: |x| / absmax * bins in fp32.
                np.divide(scaled, np.float32(self.width * bins), out=scaled)
                np.multiply(scaled, np.float32(bins), out=scaled)
            counts = np.bincount(scaled.astype(np.intp), minlength=bins + 1)
            self.histogram += counts[:bins]
            self.histogram[-1] += counts[bins]  # the largest value itself
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
    """A step of at least ``step`` that meets every column of rows of ``width``, not the same few in each."""
    step = max(1, step)
    while math.gcd(step, width) > 1:
        step += 1
    return step


def width_for(absmax: float, bins: int) -> float:
    """The smallest power of two w with absmax < bins * w, and not below 2^-100: its inverse must fit fp32."""
    return float(2.0 ** max(np.floor(np.log2(absmax / bins)) + 1, -100))
