"""Classification: a vector of scores; the highest score gives the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .decoder import Array
from .figures import named, share
from .task import Task, ratio


class Row(NamedTuple):
    """One sample.

    Attributes:
        prefers: whether the original prefers some class.
        first, five: whether the best class, or one of the five best classes, is the original's best class.
        labelled: whether there is a label.
        right, right_five: whether the best class, or one of the five best classes, is the label.
    """

    prefers: bool
    first: bool
    five: bool
    labelled: bool
    right: bool
    right_five: bool


@dataclass(frozen=True)
class Classification(Task):
    """A network that gives the class of its input.

    The default requirement is the cosine of the scores: unlike the share of equal classes, it distinguishes models on a
    few samples.

    Example:
        >>> task = Classification()
        >>> row = task.compare(np.array([0.1, 0.9]), np.array([0.2, 0.8]), truth=0)
        >>> task.summarise([row])["top1_agreement"], task.summarise([row])["top1"]
        (1.0, 0.0)
    """

    name = "classification"
    figures = named(
        share("top1_agreement", "top-1 agreement", counts="samples"),
        share("top5_agreement", "top-5 agreement", counts="samples"),
        share("top1", "top-1 accuracy", labelled=True),
        share("top5", "top-5 accuracy", labelled=True),
    )
    requires = ("cosine>=0.999",)
    labels = "classes"

    def predict(self, outputs: Sequence[Array]) -> Array:
        """The scores, (classes,)."""
        return np.asarray(outputs[0]).reshape(-1)

    def compare(self, ours: Array, theirs: Array, truth: int | None = None) -> Row:
        """Whether the best classes of two networks, and the label, agree."""
        best, five = int(theirs.argmax()), top_k(ours, 5)
        prefers, labelled = bool(theirs.min() < theirs.max()), truth is not None
        return _row(prefers, best == five[0], best in five, labelled, truth == five[0], truth in five)

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """The shares. Samples for which the original prefers no class do not count for the agreement."""
        return {
            "top1_agreement": ratio([(row.prefers and row.first, row.prefers) for row in rows]),
            "top5_agreement": ratio([(row.prefers and row.five, row.prefers) for row in rows]),
            "top1": ratio([(row.labelled and row.right, row.labelled) for row in rows]),
            "top5": ratio([(row.labelled and row.right_five, row.labelled) for row in rows]),
        }

    def severity(self, row: Row) -> float:
        """0 if the best classes agree, 1 if the original's is not among the five best, 0.5 otherwise."""
        return 0.0 if row.first or not row.prefers else 0.5 if row.five else 1.0


# Equal rows are one object: there are at most 64, and they are kept for every sample.
_row = lru_cache(maxsize=None)(Row)


def top_k(scores: Array, k: int) -> list[int]:
    """Indices of the k largest scores of one sample, the best first; equal scores stay in their order."""
    return [int(index) for index in np.argsort(-np.asarray(scores, np.float64).reshape(-1), kind="stable")[:k]]
