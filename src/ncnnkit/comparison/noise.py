"""Noise over signal: how much a network's outputs differ from the exact ones, summed sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Noise:
    """The noise in each output of a network and the signal of that output, over any number of samples.

    If an output of a sample has another number of values than the reference, such as another number of detections, it
    counts as wrong as a whole; see :func:`matched`.

    Attributes:
        noise: for each output, Σ (output - reference)² over all values of all samples, in the squared unit of the
            output.
        signal: for each output, Σ reference².
        values: for each output, the number of values.
        other_shape: for each output, the number of samples with another number of values than the reference.

    Example:
        >>> noise = Noise()
        >>> noise.add([np.array([1.1, 2.0])], [np.array([1.0, 2.0])])
        >>> round(noise.relative, 4)
        0.002
    """

    def __init__(self) -> None:
        self.noise: list[float] = []
        self.signal: list[float] = []
        self.values: list[int] = []
        self.other_shape: list[int] = []

    def add(self, outputs: Sequence[Array], reference: Sequence[Array]) -> None:
        """Add one sample: the outputs of the network, and the exact outputs in the same order.

        Raises:
            ValueError: the numbers of outputs differ.
        """
        for index, (output, exact) in enumerate(zip(outputs, reference, strict=True)):
            if index == len(self.noise):
                self.noise.append(0.0)
                self.signal.append(0.0)
                self.values.append(0)
                self.other_shape.append(0)
            self.other_shape[index] += output.size != exact.size
            output, exact = matched(output, exact)
            self.noise[index] += float(np.sum((output - exact) ** 2))
            self.signal[index] += float(np.sum(exact**2))
            self.values[index] += exact.size

    @property
    def relative(self) -> float:
        """Noise over signal of each output, then the mean over the outputs.

        So an output with values from 0 to 1 counts as much as one with values from 0 to 320. The noise of an output
        that is zero everywhere is compared with the mean signal of all outputs. The result is infinite if an output
        contains NaN or infinity, or if there is noise but no signal at all.
        """
        power = sum(self.signal) / max(sum(self.values), 1)
        rows = zip(self.noise, self.signal, self.values)
        ratios = [_over(noise, signal or power * values) for noise, signal, values in rows]
        mean = sum(ratios) / max(len(ratios), 1)
        return mean if math.isfinite(mean) else math.inf

    @property
    def mse(self) -> float:
        """Mean squared error over all values of all outputs, in squared units; infinite if one is NaN or infinity."""
        mean = sum(self.noise) / max(sum(self.values), 1)
        return mean if math.isfinite(mean) else math.inf


def matched(output: Array, reference: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An output and the reference as vectors of the same length.

    If their numbers of values differ, the output is replaced by zeros, so that the whole signal is noise. If the
    reference is empty, it is replaced by zeros instead. An output that contains NaN or infinity becomes NaN.
    """
    ours, theirs = (np.asarray(values, np.float64).reshape(-1) for values in (output, reference))
    if ours.size == theirs.size:
        return ours, theirs
    if not theirs.size:
        return ours, np.zeros_like(ours)
    return np.full_like(theirs, 0.0 if np.isfinite(ours).all() else math.nan), theirs


def sqnr_db(relative: float) -> float | None:
    """Noise over signal as an SQNR in dB; None (infinite) if there is no noise."""
    if relative <= 0:
        return None
    return -10 * math.log10(relative) if math.isfinite(relative) else -math.inf


def _over(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    return noise / signal if signal else math.inf
