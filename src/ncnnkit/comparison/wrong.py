"""Decides which outputs are wrong and which are only less exact, and which references cannot judge outputs.

Outputs are judged by noise over signal of the whole set of samples. A mean of cosines of single samples would not work:
if the outputs of some samples are almost empty, even correct outputs only reach 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formatting import decibel
from ..model.precision import PRECISIONS

Array = NDArray[Any]

MARGIN_DB = 6.0
"""How many dB outputs may be below another correct result of the same precision. 6 dB is twice the noise amplitude."""

STILL = 1e-10
"""If the variance over the samples divided by the mean square is below this, an output does not depend on the
sample."""


def what_is_wrong(precision: str, found: float, others: Sequence[float] = ()) -> str:
    """Why outputs with this SQNR are wrong, as a clause; empty if they are correct or only less exact.

    Args:
        precision: the precision in which the network ran.
        found: the SQNR of the worst output against the original, dB; infinite if all are equal.
        others: SQNRs of results that explain noise, dB: of the same precision on the CPU of the same device, and of the
            conversion. These results must not be wrong themselves.

    Example:
        >>> what_is_wrong("fp16", 32.0)
        ''
        >>> what_is_wrong("bf16", -0.5)
        'SQNR -0.5 dB against the original; right outputs in bf16 have 10.0 dB or more'
    """
    least = min([PRECISIONS[precision].least_sqnr_db, *(other - MARGIN_DB for other in others)])
    if found >= least:
        return ""
    return (
        f"SQNR {decibel(found)} dB against the original; right outputs in {precision} have {decibel(least)} dB or more"
    )


class Variation:
    """How much a network's outputs depend on the sample.

    It needs memory for the outputs of two samples only.

    Example:
        >>> variation = Variation()
        >>> for value in (1.0, 2.0):
        ...     variation.add([np.array([value]), np.array([3.0]), np.array([0.0])])
        >>> variation.still
        [1, 2]
    """

    def __init__(self) -> None:
        self._samples = 0
        self._means: list[NDArray[np.float64]] = []
        self._deviations: list[float] = []  # Σ (value - mean)² of each output
        self._signals: list[float] = []  # Σ value²

    def add(self, outputs: Sequence[Array]) -> None:
        """Add the outputs of one sample."""
        if not self._means:
            self._means = [np.zeros(output.shape) for output in outputs]
            self._deviations = [0.0] * len(outputs)
            self._signals = [0.0] * len(outputs)
        self._samples += 1
        for i, output in enumerate(outputs):
            values = output.astype(np.float64)
            if values.shape == self._means[i].shape:
                before = values - self._means[i]
                self._means[i] += before / self._samples
                self._deviations[i] += float(np.sum(before * (values - self._means[i])))  # Welford's sum
            else:
                self._deviations[i] = math.inf  # the shape depends on the sample
            self._signals[i] += float(np.sum(values**2))

    @property
    def still(self) -> list[int]:
        """Indices of outputs that are zero, or equal for all of several samples."""
        return [
            i
            for i, (deviation, signal) in enumerate(zip(self._deviations, self._signals))
            if signal == 0 or (self._samples > 1 and deviation <= STILL * signal)
        ]

    def why_blind(self) -> str:
        """Why no output can show whether a network is correct, as a clause; empty if an output can."""
        if not self._means or len(self.still) < len(self._means):
            return ""
        nothing = not any(self._signals)
        return f"the original's outputs are {'zero' if nothing else 'the same'} for every sample"


def why_blind(samples: Iterable[Sequence[Array]]) -> str:
    """:meth:`Variation.why_blind` of a network's outputs for each sample."""
    variation = Variation()
    for outputs in samples:
        variation.add(outputs)
    return variation.why_blind()


def worst_sqnr_db(pairs: Sequence[tuple[float, float | None]]) -> float | None:
    """The SQNR of the worst output, dB; None if no output has a signal.

    Args:
        pairs: (MSE, SQNR) of each output. An SQNR of None means that the MSE or the reference is zero.
    """
    known = [math.inf if sqnr is None else sqnr for mse, sqnr in pairs if sqnr is not None or mse == 0]
    return min(known, default=None)
