"""Noise over signal: how much a network's outputs differ from the exact ones, summed sample by sample.

Sums are exact (:class:`ExactSum`), so the figures are the same, bit by bit, in whatever batches the samples come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_UNIT = 1126  # exact sums are whole multiples of 2^-1126: the last bit of the smallest float64 as frexp gives it


class ExactSum:
    """The sum of any number of float64, rounded once, when it is read. So it does not depend on their order.

    It is a whole number of units of 2^-1126, of which every float64 is a multiple. NaN and infinities add up as usual.

    Example:
        >>> total = ExactSum()
        >>> for value in (1e20, 1.0, -1e20):
        ...     total.add(value)
        >>> total.value
        1.0
    """

    __slots__ = ("_others", "_units")

    def __init__(self) -> None:
        self._units, self._others = 0, 0.0

    def add(self, value: float) -> None:
        """Add a number."""
        if not math.isfinite(value):
            self._others += value
            return
        mantissa, exponent = math.frexp(value)
        self._units += int(mantissa * 2**53) << (exponent - 53 + _UNIT)

    def merge(self, other: ExactSum) -> None:
        """Add all numbers of another sum."""
        self._units += other._units
        self._others += other._others

    @property
    def value(self) -> float:
        """The sum, rounded to the nearest float64."""
        if self._others:  # true for NaN
            return self._others
        try:
            return self._units / (1 << _UNIT)
        except OverflowError:
            return math.inf if self._units > 0 else -math.inf


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
        self._noise: list[ExactSum] = []
        self._signal: list[ExactSum] = []
        self.values: list[int] = []
        self.other_shape: list[int] = []

    @property
    def noise(self) -> list[float]:
        return [each.value for each in self._noise]

    @property
    def signal(self) -> list[float]:
        return [each.value for each in self._signal]

    def add(self, outputs: Sequence[Array], reference: Sequence[Array]) -> None:
        """Add one sample: the outputs of the network, and the exact outputs in the same order.

        Raises:
            ValueError: the numbers of outputs differ.
        """
        for index, (output, exact) in enumerate(zip(outputs, reference, strict=True)):
            if index == len(self._noise):
                self._further()
            self.other_shape[index] += output.size != exact.size
            output, exact = matched(output, exact)
            self._noise[index].add(float(np.sum((output - exact) ** 2)))
            self._signal[index].add(float(np.sum(exact**2)))
            self.values[index] += exact.size

    def _further(self) -> None:
        """Begin the sums of a further output."""
        self._noise.append(ExactSum())
        self._signal.append(ExactSum())
        self.values.append(0)
        self.other_shape.append(0)

    def merge(self, other: Noise) -> None:
        """Add the samples of another object. The result equals that of adding them one by one."""
        while len(self._noise) < len(other._noise):
            self._further()
        for index in range(len(other._noise)):
            self._noise[index].merge(other._noise[index])
            self._signal[index].merge(other._signal[index])
            self.values[index] += other.values[index]
            self.other_shape[index] += other.other_shape[index]

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
