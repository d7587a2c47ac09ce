"""The task of a network: how its outputs become predictions, and how two predictions are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .decoder import Array
from .figures import Figure

DRAWS = 100
"""The number of bootstrap samples of an interval."""


@dataclass(frozen=True)
class Task(ABC):
    """What a network is for.

    A subclass defines how the outputs for one sample become a prediction (:meth:`predict`), how two predictions of one
    sample are compared (:meth:`compare`), and how the comparisons are summarised (:meth:`summarise`).

    Attributes:
        name: its name in ``--task``.
        figures: name -> figure, for the numbers that :meth:`summarise` returns; the most important first.
        requires: the default requirements. A user sees no loss if they hold.
        labels: the kind of labels that :meth:`compare` takes: ``classes``, ``boxes``, ``texts`` or ``pictures``; empty
            if none.
        shapes: the shapes of the original's outputs, without the batch axis; () if unknown. Outputs with the same
                number of values are reshaped to these, because ncnn drops axes of length 1.

    Example:
        >>> from ncnnkit.tasks import named, share
        >>> class Counts(Task):
        ...     name, requires = "counts", ("same>=0.99",)
        ...     figures = named(share("same", "counts that differ by less than one"))
        ...
        ...     def predict(self, outputs):
        ...         return float(outputs[0].sum())
        ...
        ...     def compare(self, ours, theirs, truth=None):
        ...         return abs(ours - theirs) < 1
        ...
        ...     def summarise(self, rows):
        ...         return {"same": sum(rows) / len(rows) if rows else None}
        >>> task = Counts()
        >>> task.summarise([task.compare(task.predict([np.ones(3)]), 3.4)])
        {'same': 1.0}
    """

    name: ClassVar[str]
    figures: ClassVar[Mapping[str, Figure]]
    requires: ClassVar[tuple[str, ...]]
    labels: ClassVar[str] = ""

    shapes: tuple[tuple[int, ...], ...] = ()

    @abstractmethod
    def predict(self, outputs: Sequence[Array]) -> Any:
        """The prediction for one sample.

        Args:
            outputs: all outputs of the network for this sample, float32, without the batch axis. They may contain NaN.
        """

    @abstractmethod
    def compare(self, ours: Any, theirs: Any, truth: Any = None) -> Any:
        """Compare two predictions of one sample. :meth:`summarise` gets the results for all samples.

        Args:
            ours: the prediction of the judged model.
            theirs: the prediction of the original.
            truth: the label of the sample, if there is one.
        """

    @abstractmethod
    def summarise(self, rows: Sequence[Any]) -> dict[str, float | None]:
        """The value of each figure over some samples; None if it cannot be computed.

        Args:
            rows: the results of :meth:`compare`, in any order. A result may occur several times.
        """

    def counted(self, rows: Sequence[Any]) -> int:
        """The number of things that figures with :attr:`Figure.counts` count; by default the number of samples.

        Args:
            rows: as for :meth:`summarise`.
        """
        return len(rows)

    def severity(self, row: Any) -> float | None:
        """How wrong the model is on one sample, from the result of :meth:`compare`; None if samples are not ranked."""
        return None

    def parts(self, outputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs, divided into parts with values of one kind. The noise of each part has the same weight.

        The quantiser and the plan minimise the noise of the parts. In an undivided output with boxes in pixels and
        scores from 0 to 1, the noise of the scores would be negligible.
        """
        return outputs

    def shaped(self, outputs: Sequence[Array]) -> list[Array]:
        """Outputs in the shapes of the original's, if they have the same number of values."""
        arrays = [np.asarray(output) for output in outputs]
        if len(arrays) != len(self.shapes):
            return arrays
        return [a.reshape(shape) if a.size == np.prod(shape) else a for a, shape in zip(arrays, self.shapes)]


@dataclass(frozen=True)
class Estimate:
    """A figure over some samples.

    Attributes:
        value: the figure over all samples; None if it cannot be computed.
        low, high: the ends of the 95 % interval; None if ``value`` is None.
        near: the ends of the 68 % interval, one standard error from the value; None if ``value`` is None.
        samples: the number of samples.
    """

    value: float | None
    low: float | None
    high: float | None
    near: tuple[float, float] | None
    samples: int


def estimates(task: Task, rows: Sequence[Any], *, draws: int = DRAWS) -> dict[str, Estimate]:
    """Each figure of a task with its 95 % interval.

    The interval is the percentile bootstrap over samples (Efron and Tibshirani, "An Introduction to the Bootstrap",
    chapter 13). It shows how much the figure depends on the choice of samples. It does not apply to samples of another
    kind.

    Args:
        task: the task.
        rows: the results of ``task.compare``, one for each sample.
        draws: number of bootstrap samples.
    """
    whole = task.summarise(rows)
    random = np.random.default_rng(0)
    drawn = [task.summarise([rows[i] for i in random.integers(len(rows), size=len(rows))]) for _ in range(draws)]
    found = {}
    for name, value in whole.items():
        values = [v for each in drawn if (v := each[name]) is not None]
        # Interpolating infinite PSNRs would give NaN, so the nearest sample is taken.
        if not values or value is None:
            found[name] = Estimate(value, None, None, None, len(rows))
            continue
        low, left, right, high = np.percentile(values, [2.5, 16, 84, 97.5], method="nearest").tolist()
        found[name] = Estimate(value, low, high, (left, right), len(rows))
    return found


def ratio(parts: Sequence[tuple[float, float]]) -> float | None:
    """The sum of the first numbers divided by the sum of the second; None if that is zero."""
    total = sum(whole for _, whole in parts)
    return float(sum(part for part, _ in parts) / total) if total else None
