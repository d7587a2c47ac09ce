"""Every figure of a network's outputs against the exact ones, summed up sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import Noise, sqnr_db

Array = NDArray[Any]


class Errors(Noise):
    """The errors of a network's outputs over any number of samples; no output is kept.

    Attributes:
        samples: the number of samples added.

    Example:
        >>> errors = Errors()
        >>> errors.add([np.array([0.1, 2.0])], [np.array([0.0, 2.0])])
        >>> round(errors.figures()["mse"], 4)
        0.005
    """

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0
        self._products: list[float] = []  # Σ output · reference of each output
        self._powers: list[float] = []  # Σ output² of each output
        self._largest: list[float] = []  # max |output - reference| of each output
        self._agreed = 0  # samples whose best class is the reference's

    def add(self, outputs: Sequence[Array], reference: Sequence[Array]) -> None:
        """Add one sample: the network's outputs, and the exact ones in the same order; without a batch axis.

        Raises:
            ValueError: there are more of one than of the other, or two differ in their number of values.
        """
        super().add(outputs, reference)
        for index, (output, exact) in enumerate(zip(outputs, reference)):
            if index == len(self._products):
                self._products.append(0.0)
                self._powers.append(0.0)
                self._largest.append(0.0)
            ours, theirs = (values.astype(np.float64).reshape(-1) for values in (output, exact))
            self._products[index] += float(ours @ theirs)
            self._powers[index] += float(ours @ ours)
            largest = float(np.max(np.abs(ours - theirs), initial=0.0))
            self._largest[index] = largest if math.isnan(largest) else max(self._largest[index], largest)
        self.samples += 1
        if len(outputs) == 1:
            self._agreed += int(np.argmax(outputs[0]) == np.argmax(reference[0]))

    def figures(self) -> dict[str, float | None]:
        """Each figure of the worst output, by its name in :data:`ncnnkit.plan.requirement.FIGURES`.

        ``sqnr`` is infinite where there is no noise. ``cosine`` is that of all samples together, so that a sample whose
        output is almost zero does not decide. ``top1_agreement`` is None where the network has more than one output or
        an output of one value. An output with NaN or infinity has the worst value there is.
        """
        rows = range(len(self.noise))
        single = len(self.values) == 1 and self.samples > 0 and self.values[0] > self.samples
        broken = not all(map(math.isfinite, self.noise))
        return {
            "cosine": min((self._cosine(index) for index in rows), default=1.0),
            "sqnr": min((self._sqnr(index) for index in rows), default=math.inf),
            "mse": max((_finite(self.noise[i] / max(self.values[i], 1)) for i in rows), default=0.0),
            "max_error": max(map(_finite, self._largest), default=0.0),
            "top1_agreement": None if not single else 0.0 if broken else self._agreed / self.samples,
        }

    def _cosine(self, index: int) -> float:
        powers = self._powers[index], self.signal[index]
        if not math.isfinite(self.noise[index]):
            return -1.0
        if not all(powers):  # two zero vectors are the same, one alone is not
            return 0.0 if any(powers) else 1.0
        # 1 - cosine from the noise, which keeps the digits that 1 - product / norms would lose.
        norms = math.sqrt(powers[0] * powers[1])
        apart = (self.noise[index] - (math.sqrt(powers[0]) - math.sqrt(powers[1])) ** 2) / (2 * norms)
        return min(1.0, max(-1.0, 1.0 - apart))

    def _sqnr(self, index: int) -> float:
        noise, signal = self.noise[index], self.signal[index]
        found = sqnr_db(noise / signal if signal else math.inf if noise else 0.0) if math.isfinite(noise) else -math.inf
        return math.inf if found is None else found


def _finite(value: float) -> float:
    """NaN is as wrong as can be."""
    return value if math.isfinite(value) else math.inf
