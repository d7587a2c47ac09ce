"""How far outputs are from the reference: MSE, SQNR, cosine, largest error, top-k; summed up sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..record.run import Accuracy, OutputError
from .classes import Classes
from .noise import Noise

Array = NDArray[Any]


class Errors(Noise):
    """All figures of a network's outputs over any number of samples. Holds sums, no output.

    Every figure is one of the whole set. A mean of figures of samples would judge by the samples whose output is all
    but empty: there, the smallest error is as large as the signal.

    Args:
        classifies: whether the only output holds the scores of classes.

    Attributes:
        samples: the number of samples added.

    Example:
        >>> errors = Errors()
        >>> errors.add([np.array([0.1, 2.0])], [np.array([0.0, 2.0])])
        >>> round(errors.sqnr_db(0), 1), round(errors.mse, 4)
        (26.0, 0.005)
    """

    def __init__(self, classifies: bool = False) -> None:
        super().__init__()
        self.samples = 0
        self._classifies = classifies
        self._powers: list[float] = []  # Σ output² of each output
        self._products: list[float] = []  # Σ output · reference of each output
        self._largest: list[float] = []  # max |output - reference| of each output
        self._preferring = 0  # samples for which the reference prefers some class
        self._labelled = 0
        self._agreed = {1: 0, 5: 0}  # of the former, those whose k best classes hold the reference's best
        self._right = {1: 0, 5: 0}  # of the labelled, those whose k best classes hold the label

    def add(self, outputs: Iterable[Array], reference: Iterable[Array], label: int | None = None) -> None:
        """Add one sample.

        Args:
            outputs: the network's outputs, without a batch axis.
            reference: the exact ones, in the same order.
            label: the right class, where it is known.

        Raises:
            ValueError: there are more of one than of the other, or two differ in their number of values.
        """
        outputs, reference = list(outputs), list(reference)
        super().add(outputs, reference)
        self.samples += 1
        for index, (output, exact) in enumerate(zip(outputs, reference)):
            if index == len(self._powers):
                self._powers.append(0.0)
                self._products.append(0.0)
                self._largest.append(0.0)
            ours, theirs = (np.asarray(values, np.float64).reshape(-1) for values in (output, exact))
            self._powers[index] += float(ours @ ours)
            self._products[index] += float(ours @ theirs)
            largest = float(np.max(np.abs(ours - theirs), initial=0.0))
            self._largest[index] = max(self._largest[index], largest if math.isfinite(largest) else math.inf)
        if self._classifies and len(outputs) == 1 and reference[0].size > 1:
            best = int(np.argmax(reference[0]))
            preferring = float(np.min(reference[0])) < float(np.max(reference[0]))
            self._preferring += preferring
            self._labelled += label is not None
            for k in (1, 5):
                ours_best = top_k(outputs[0], k)
                self._agreed[k] += preferring and best in ours_best
                self._right[k] += label is not None and label in ours_best

    def broken(self) -> int | None:
        """The first output that held NaN or infinity; None where none did."""
        return next((i for i, power in enumerate(self._powers) if not math.isfinite(power)), None)

    def cosine(self, index: int) -> float | None:
        """Σ output · reference / √(Σ output² · Σ reference²) of an output, over all samples.

        None where the reference is zero throughout: there is nothing to compare with.
        """
        ours, theirs = self._powers[index], self.signal[index]
        if theirs == 0:
            return None
        if not math.isfinite(self.noise[index]):
            return -1.0
        if ours == 0:
            return 0.0
        if 0.01 < ours / theirs < 100:
            # 1 - cosine from the noise: this keeps the digits that product / norms loses near 1.
            apart = self.noise[index] - (math.sqrt(ours) - math.sqrt(theirs)) ** 2
            cosine = 1.0 - apart / (2 * math.sqrt(ours * theirs))
        else:
            cosine = self._products[index] / math.sqrt(ours) / math.sqrt(theirs)
        return min(1.0, max(-1.0, cosine))

    def sqnr_db(self, index: int) -> float | None:
        """10·log10(Σ reference² / Σ error²) of an output over all samples, dB; None where one of the two is zero."""
        signal, noise = self.signal[index], self.noise[index]
        if not math.isfinite(noise):
            return -math.inf if signal else None
        return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 and noise > 0 else None

    def max_error(self, index: int) -> float:
        """The largest absolute difference of an output; its unit. Infinite where it held NaN or infinity."""
        return self._largest[index]

    def agreement(self, k: int) -> float | None:
        """Share of samples whose ``k`` best classes (1 or 5) hold the reference's best.

        Samples for which the reference prefers no class do not count. None where no sample counts, and where the
        network does not classify.
        """
        return self._agreed[k] / self._preferring if self._preferring else None

    def accuracy(self, k: int) -> float | None:
        """Share of the labelled samples whose ``k`` best classes (1 or 5) hold the label; None without labels."""
        return self._right[k] / self._labelled if self._labelled else None

    def figures(self) -> dict[str, float | None]:
        """Each figure of the worst output, by its name in :data:`ncnnkit.plan.requirement.FIGURES`.

        An output that should be zero throughout is exact where it is, and as wrong as can be where it is not.
        """
        rows = range(len(self.noise))
        return {
            "cosine": min((self._or_by_noise(self.cosine(i), i, 1.0, 0.0) for i in rows), default=1.0),
            "sqnr": min((self._or_by_noise(self.sqnr_db(i), i, math.inf, -math.inf) for i in rows), default=math.inf),
            "mse": max((_finite(self.noise[i] / max(self.values[i], 1)) for i in rows), default=0.0),
            "max_error": max(self._largest, default=0.0),
            "top1_agreement": self.agreement(1),
        }

    def _or_by_noise(self, figure: float | None, index: int, exact: float, wrong: float) -> float:
        if figure is not None:
            return figure
        return exact if self.noise[index] == 0 else wrong

    def result(self, names: Sequence[str]) -> Accuracy:
        """The figures as run.json holds them.

        Args:
            names: of the outputs.
        """
        outputs = [
            OutputError(
                name=name,
                mse=self.noise[index] / max(self.values[index], 1),
                sqnr_db=self.sqnr_db(index),
                cosine=self.cosine(index),
                max_error=self.max_error(index),
            )
            for index, name in enumerate(names)
        ]
        return Accuracy(
            mse=max(output.mse for output in outputs),
            sqnr_db=min((output.sqnr_db for output in outputs if output.sqnr_db is not None), default=None),
            cosine=min((output.cosine for output in outputs if output.cosine is not None), default=None),
            max_error=max(output.max_error for output in outputs),
            top1_agreement=self.agreement(1),
            top5_agreement=self.agreement(5),
            top1=self.accuracy(1),
            top5=self.accuracy(5),
            images=self.samples,
            outputs=outputs,
        )


def _finite(value: float) -> float:
    """NaN is as wrong as can be."""
    return value if math.isfinite(value) else math.inf


def errors_of(
    outputs: Iterable[Sequence[Array]],
    reference: Iterable[Sequence[Array]],
    classes: Classes | None = None,
    labels: NDArray[np.int64] | None = None,
) -> Errors:
    """The errors of outputs against the reference, as far as there are outputs.

    Args:
        outputs: for each sample an array for each output; :class:`Outputs`, or anything that yields them.
        reference: the same of the original; it may have more samples.
        classes: of the network.
        labels: int64, the right class of each sample.
    """
    errors = Errors(bool(classes))
    for number, (ours, theirs) in enumerate(zip(outputs, reference)):
        errors.add(ours, theirs, None if labels is None else int(labels[number]))
    return errors


def top_k(scores: Array, k: int) -> list[int]:
    """Indices of the k largest scores of one sample, best first, of equal ones the first."""
    return [int(index) for index in np.argsort(-np.asarray(scores, np.float64).reshape(-1), kind="stable")[:k]]


# ------------------------------------------------------------------------------------ arrays (N, …) of one output


def array_errors(outputs: Array, reference: Array) -> Errors:
    """The errors of one output from arrays (N, …)."""
    return errors_of(([row] for row in outputs), ([row] for row in reference), Classes(int(np.size(reference[0]))))


def mse(outputs: Array, reference: Array) -> float:
    """Mean squared error; squared unit of the output."""
    return array_errors(outputs, reference).mse


def sqnr_db(outputs: Array, reference: Array) -> float | None:
    """See :meth:`Errors.sqnr_db`."""
    return array_errors(outputs, reference).sqnr_db(0)


def cosine(outputs: Array, reference: Array) -> float | None:
    """See :meth:`Errors.cosine`."""
    return array_errors(outputs, reference).cosine(0)


def top1_agreement(outputs: Array, reference: Array) -> float | None:
    """See :meth:`Errors.agreement`."""
    return array_errors(outputs, reference).agreement(1)
