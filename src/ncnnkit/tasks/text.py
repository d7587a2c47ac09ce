"""Text recognition: a text for each image, read by connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import ctc
from .decoder import Array, Decoder, Table
from .figures import by_labels, fault, named, share
from .task import Task, ratio


class Reading(NamedTuple):
    """The comparison of a text with the correct one: whether they are equal, the number of edits, the correct
    length."""

    equal: bool
    changes: int
    length: int


class Row(NamedTuple):
    """One sample: the comparison with the original's text, and with the labelled one (None without a label)."""

    exact: Reading
    right: Reading | None


_FIGURES = (share("texts", "equal texts", counts="texts"), fault("cer", "character error rate"))


@dataclass(frozen=True)
class Texts(Task):
    """A network that reads text: the best character of each step, without repeats and blanks.

    A text is a sequence of classes. The characters that they represent do not matter here.

    Attributes:
        output: index of the output.
        axis: the axis of the classes; the other axis has the steps.
        blank: the class that is not a character (Graves et al., "Connectionist Temporal Classification").
        alphabet: the character of each class; () if unknown.

    Example:
        >>> task = Texts()
        >>> task.predict([np.eye(4)[[0, 1, 1, 0, 1, 3]]])
        (1, 1, 3)
        >>> task.summarise([task.compare((1, 1, 2), (1, 1, 3))])
        {'texts': 0.0, 'cer': 0.3333333333333333, 'label_texts': None, 'label_cer': None}
    """

    name = "text"
    figures = named(*_FIGURES, *by_labels(*_FIGURES))
    requires = ("texts>=0.98",)
    labels = "texts"

    output: int = 0
    axis: int = -1
    blank: int = 0
    alphabet: tuple[str, ...] = ()

    def predict(self, outputs: Sequence[Array]) -> tuple[int, ...]:
        """The classes of the characters."""
        classes = np.shape(outputs[self.output])[self.axis]
        decoder = Decoder("ctc", (Table(self.output),), classes, axis=self.axis, blank=self.blank)
        return tuple(ctc.decode(decoder, outputs).codes.tolist())

    def written(self, codes: Sequence[int]) -> str:
        """A text as characters; if the alphabet is unknown, as the numbers of its classes."""
        if not self.alphabet:
            return " ".join(map(str, codes))
        return "".join(self.alphabet[code] if code < len(self.alphabet) else "\ufffd" for code in codes)

    def compare(self, ours: Sequence[int], theirs: Sequence[int], truth: Sequence[int] | None = None) -> Row:
        """Compare two texts."""
        return Row(_read(ours, theirs), None if truth is None else _read(ours, truth))

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """The share of equal texts, and the number of edits divided by the number of characters of the correct
        texts."""
        exact = _summary([row.exact for row in rows])
        right = _summary([row.right for row in rows if row.right is not None])
        return {**exact, **{f"label_{name}": value for name, value in right.items()}}

    def severity(self, row: Row) -> float:
        """The number of edits divided by the number of characters of the original."""
        return row.exact.changes / max(row.exact.length, 1)


def _read(ours: Sequence[int], right: Sequence[int]) -> Reading:
    return Reading(tuple(ours) == tuple(right), edits(ours, right), len(right))


def _summary(readings: Sequence[Reading]) -> dict[str, float | None]:
    return {
        "texts": ratio([(each.equal, 1) for each in readings]),
        "cer": ratio([(each.changes, each.length) for each in readings]),
    }


def edits(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """The least number of insertions, deletions and substitutions between two sequences (Levenshtein)."""
    row = list(range(len(theirs) + 1))
    for i, a in enumerate(ours, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(theirs, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
