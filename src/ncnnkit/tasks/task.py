"""What a network is for: how its outputs become predictions, and how two predictions compare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .decoder import Array
from .figures import Figure

DRAWS = 100
"""Bootstrap samples of an interval."""


@dataclass(frozen=True)
class Task(ABC):
    """What a network is for.

    A subclass says how the outputs for one sample become a prediction (:meth:`predict`), what two predictions of one
    sample have in common (:meth:`compare`), and what that comes to over all samples (:meth:`summarise`).

    Attributes:
        name: as ``--task`` gives it.
        figures: the numbers that :meth:`summarise` returns, by their names, the most telling first.
        requires: the requirements of a user who gives none: what a practitioner calls no visible loss.
        labels: the kind of labels that :meth:`compare` takes as the truth: ``classes``, ``boxes``, ``texts`` or
            ``pictures``; empty: none.
        shapes: of the original's outputs, without the batch axis; () where they are not known. Outputs that have as
            many values are given these shapes: ncnn drops axes of length 1.

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
        """What two predictions of one sample have in common; :meth:`summarise` gets one such value for each sample.

        Args:
            ours: the prediction of the model that is judged.
            theirs: that of the original.
            truth: the label of the sample, where there is one.
        """

    @abstractmethod
    def summarise(self, rows: Sequence[Any]) -> dict[str, float | None]:
        """The value of each figure over some samples; None where it cannot be computed.

        Args:
            rows: what :meth:`compare` returned, in any order; one may occur several times.
        """

    def counted(self, rows: Sequence[Any]) -> int:
        """The number of things that the figures with :attr:`Figure.counts` are shares of; by default the samples.

        Args:
            rows: as of :meth:`summarise`.
        """
        return len(rows)

    def severity(self, row: Any) -> float | None:
        """How wrong the model is on one sample, from what :meth:`compare` returned; None: samples are not ranked."""
        return None

    def parts(self, outputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs, cut so that each part has values of one kind; their noise counts alike.

        The quantiser and the plan keep the noise of the parts small: in an output with boxes in pixels and scores from
        0 to 1 the scores would count for nothing.
        """
        return outputs

    def shaped(self, outputs: Sequence[Array]) -> list[Array]:
        """Outputs in the shapes of the original's, where they have as many values."""
        arrays = [np.asarray(output) for output in outputs]
        if len(arrays) != len(self.shapes):
            return arrays
        return [a.reshape(shape) if a.size == np.prod(shape) else a for a, shape in zip(arrays, self.shapes)]


@dataclass(frozen=True)
class Estimate:
    """A figure over some samples.

    Attributes:
        value: over all of them; None where it cannot be computed.
        low, high: of the 95 % interval; None as ``value``.
        near: the ends of the 68 % interval, one standard error from the value; None as ``value``.
        samples: their number.
    """

    value: float | None
    low: float | None
    high: float | None
    near: tuple[float, float] | None
    samples: int


def estimates(task: Task, rows: Sequence[Any], *, draws: int = DRAWS) -> dict[str, Estimate]:
    """Each figure of a task with its 95 % interval.

    The interval is the percentile bootstrap over samples (Efron and Tibshirani, "An Introduction to the Bootstrap",
    chapter 13). It says how much the figure depends on which samples were taken. It says nothing about samples of
    another kind.

    Args:
        task: the task.
        rows: what ``task.compare`` returned, one for each sample.
        draws: number of bootstrap samples.
    """
    whole = task.summarise(rows)
    random = np.random.default_rng(0)
    drawn = [task.summarise([rows[i] for i in random.integers(len(rows), size=len(rows))]) for _ in range(draws)]
    found = {}
    for name, value in whole.items():
        values = [v for each in drawn if (v := each[name]) is not None]
        # Of an infinite PSNR a percentile would be the difference of infinities; the nearest sample is one of them.
        if not values or value is None:
            found[name] = Estimate(value, None, None, None, len(rows))
            continue
        low, left, right, high = np.percentile(values, [2.5, 16, 84, 97.5], method="nearest").tolist()
        found[name] = Estimate(value, low, high, (left, right), len(rows))
    return found


def ratio(parts: Sequence[tuple[float, float]]) -> float | None:
    """The sum of the first numbers over that of the second; None where that is zero."""
    total = sum(whole for _, whole in parts)
    return float(sum(part for part, _ in parts) / total) if total else None
