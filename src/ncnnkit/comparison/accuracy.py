"""How much outputs differ from the reference: MSE, SQNR, cosine, largest error, and the figures of a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..record.variant import Accuracy, FigureValue, OutputError
from ..tasks import Task, estimates
from ..tasks.classification import Classification
from ..tasks.tensor import Tensors
from .noise import ExactSum, Noise, matched

Array = NDArray[Any]


class Errors(Noise):
    """All figures of a network's outputs over any number of samples. It keeps sums and predictions, but no outputs.

    Every figure is computed over the whole set. A mean over the figures of single samples would be dominated by samples
    with almost empty outputs, for which the smallest error is as large as the signal.

    Args:
        task: what the network is for. It adds figures, and defines which parts of the outputs have the same weight in
            :attr:`relative`. By default the task is unknown.
        figures: whether the task's figures are needed. Otherwise no prediction is decoded.

    Attributes:
        samples: the number of samples added.
        rows: the result of ``task.compare`` for each sample, if figures are needed.
        refused: why the network did not run; empty if it did.

    Example:
        >>> errors = Errors()
        >>> errors.add([np.array([0.1, 2.0])], [np.array([0.0, 2.0])])
        >>> round(errors.sqnr_db(0), 1), round(errors.mse, 4)
        (26.0, 0.005)
    """

    def __init__(self, task: Task | None = None, *, figures: bool = True) -> None:
        super().__init__()
        self.samples = 0
        self.refused = ""
        self._task, self._decoded = task or Tensors(), figures
        self.rows: list[Any] = []
        self._parts = Noise()
        self._powers: list[ExactSum] = []  # Σ output² of each output
        self._products: list[ExactSum] = []  # Σ output · reference of each output
        self._largest: list[float] = []  # max |output - reference| of each output

    def add(self, outputs: Iterable[Array], reference: Iterable[Array], truth: Any = None) -> None:
        """Add one sample.

        Args:
            outputs: the network's outputs, without a batch axis.
            reference: the exact outputs, in the same order.
            truth: the label of the sample, if known.

        Raises:
            ValueError: the numbers of outputs differ.
        """
        outputs, reference = self._task.shaped(list(outputs)), self._task.shaped(list(reference))
        super().add(outputs, reference)
        self._parts.add(self._task.parts(outputs), self._task.parts(reference))
        self.samples += 1
        for index, (output, exact) in enumerate(zip(outputs, reference)):
            ours, theirs = matched(output, exact)
            self._powers[index].add(float(ours @ ours))
            self._products[index].add(float(ours @ theirs))
            largest = float(np.max(np.abs(ours - theirs), initial=0.0))
            self._largest[index] = max(self._largest[index], largest if math.isfinite(largest) else math.inf)
        if self._decoded:
            predict = self._task.predict
            self.rows.append(self._task.compare(predict(outputs), predict(reference), truth))

    def _further(self) -> None:
        super()._further()
        self._powers.append(ExactSum())
        self._products.append(ExactSum())
        self._largest.append(0.0)

    def merge(self, other: Noise) -> None:
        """Add the samples of another object of the same task, which follow those that were added before."""
        assert isinstance(other, Errors)
        super().merge(other)
        self._parts.merge(other._parts)
        self.samples += other.samples
        self.refused = self.refused or other.refused
        self.rows += other.rows
        for index in range(len(other._powers)):
            self._powers[index].merge(other._powers[index])
            self._products[index].merge(other._products[index])
            self._largest[index] = max(self._largest[index], other._largest[index])

    @property
    def relative(self) -> float:
        """Noise over signal: of each part of the outputs (:meth:`Task.parts`), then the mean over the parts."""
        return self._parts.relative

    def broken(self) -> int | None:
        """The index of the first output with NaN or infinity; None if there is none."""
        return next((i for i, power in enumerate(self._powers) if not math.isfinite(power.value)), None)

    def cosine(self, index: int) -> float | None:
        """Σ output · reference / √(Σ output² · Σ reference²) of an output, over all samples.

        None if the reference is zero throughout: there is nothing to compare with.
        """
        ours, theirs = self._powers[index].value, self.signal[index]
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
            cosine = self._products[index].value / math.sqrt(ours) / math.sqrt(theirs)
        return min(1.0, max(-1.0, cosine))

    def sqnr_db(self, index: int) -> float | None:
        """10·log10(Σ reference² / Σ error²) of an output over all samples, dB; None if one of the two is zero."""
        signal, noise = self.signal[index], self.noise[index]
        if not math.isfinite(noise):
            return -math.inf if signal else None
        return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 and noise > 0 else None

    def max_error(self, index: int) -> float:
        """The largest absolute difference of an output, in its unit. Infinite if it contains NaN or infinity."""
        return self._largest[index]

    def figures(self) -> dict[str, float | None]:
        """Every figure that a requirement can name: the figures of the worst output, and the figures of the task.

        An output that should be zero everywhere is exact if it is zero, and otherwise has the worst possible figures.
        """
        rows = range(len(self.noise))
        return {
            "cosine": min((self._or_by_noise(self.cosine(i), i, 1.0, 0.0) for i in rows), default=1.0),
            "sqnr": min((self._or_by_noise(self.sqnr_db(i), i, math.inf, -math.inf) for i in rows), default=math.inf),
            "mse": max((_finite(self.noise[i] / max(self.values[i], 1)) for i in rows), default=0.0),
            "max_error": max(self._largest, default=0.0),
            **self._task.summarise(self.rows),
        }

    def cautious(self) -> dict[str, float | None]:
        """The same figures, but the figures of the task are one standard error worse.

        A requirement that holds on few samples with a margin of one standard error probably holds on others. Source:
        the rule of one standard error in Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3.
        """
        worse = {
            name: found.near[0] if self._task.figures[name].at_least else found.near[1]
            for name, found in estimates(self._task, self.rows).items()
            if found.near is not None
        }
        return self.figures() | worse

    def counts(self) -> dict[str, int]:
        """Figure -> the number of things it counts. Only figures that are shares are included, not means of values."""
        return {name: self._task.counted(self.rows) for name, figure in self._task.figures.items() if figure.counts}

    def _or_by_noise(self, figure: float | None, index: int, exact: float, wrong: float) -> float:
        if figure is not None:
            return figure
        return exact if self.noise[index] == 0 else wrong

    def result(self, names: Sequence[str]) -> Accuracy:
        """The figures in the form of run.json.

        Args:
            names: the names of the outputs.
        """
        outputs = [
            OutputError(
                name=name,
                mse=self.noise[index] / max(self.values[index], 1),
                sqnr_db=self.sqnr_db(index),
                cosine=self.cosine(index),
                max_error=self.max_error(index),
                other_shape=self.other_shape[index],
            )
            for index, name in enumerate(names)
        ]
        counts = self.counts()
        return Accuracy(
            mse=max(output.mse for output in outputs),
            sqnr_db=min((output.sqnr_db for output in outputs if output.sqnr_db is not None), default=None),
            cosine=min((output.cosine for output in outputs if output.cosine is not None), default=None),
            max_error=max(output.max_error for output in outputs),
            images=self.samples,
            task=[
                FigureValue(
                    name=name,
                    title=figure.title,
                    unit=figure.unit,
                    value=found.value,
                    low=found.low,
                    high=found.high,
                    count=counts.get(name),
                )
                for name, found in estimates(self._task, self.rows).items()
                for figure in [self._task.figures[name]]
                if found.value is not None
            ],
            outputs=outputs,
        )


def _finite(value: float) -> float:
    """The value. NaN becomes infinity, the worst value."""
    return value if math.isfinite(value) else math.inf


def errors_of(
    outputs: Iterable[Sequence[Array]],
    reference: Iterable[Sequence[Array]],
    task: Task | None = None,
    labels: Sequence[Any] | NDArray[np.int64] | None = None,
) -> Errors:
    """The errors of outputs against the reference, for the samples that have outputs.

    Args:
        outputs: for each sample, an array for each output: :class:`Outputs`, or another iterable.
        reference: the outputs of the original. It may have more samples.
        task: the task of the network.
        labels: the label of each sample.
    """
    errors = Errors(task)
    for number, (ours, theirs) in enumerate(zip(outputs, reference)):
        errors.add(ours, theirs, None if labels is None else labels[number])
    return errors


# ------------------------------------------------------------------------------------ arrays (N, …) of one output


def array_errors(outputs: Array, reference: Array) -> Errors:
    """The errors of one output from arrays (N, …)."""
    return errors_of(([row] for row in outputs), ([row] for row in reference), Classification())


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
    """The share of samples with the same best class; None if the reference has no best class for any sample."""
    return array_errors(outputs, reference).figures()["top1_agreement"]
