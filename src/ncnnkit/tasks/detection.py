"""Detection: boxes with scores and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .boxes import class_scores, gather
from .coco import PACKAGE, average_precision, countable, matches
from .decoder import Array, Decoder, Part, Table
from .decoding import decode
from .figures import Figure, by_labels, fault, named, share
from .predictions import Agreement, Boxes, agreement, shared_areas
from .task import Task, ratio

USUAL_SCORE = 0.25
LEAST_SCORE = 0.01
"""Boxes with a score above this share of the working threshold count for the average precision."""


@dataclass(frozen=True, eq=False)
class Beside:
    """All boxes of one sample compared with the true ones, for the average precision. Large masks are not kept.

    Attributes:
        ours, truth: the boxes.
        shared: their intersections over unions, (ours, truth).
    """

    ours: Boxes
    truth: Boxes
    shared: NDArray[np.float64]

    @classmethod
    def of(cls, ours: Boxes, truth: Boxes) -> Beside:
        """Compare the boxes of one sample."""
        return cls(replace(ours, masks=None), replace(truth, masks=None), shared_areas(ours, truth))

    @cached_property
    def matches(self) -> dict[int, Any] | None:
        """See :func:`ncnnkit.tasks.coco.matches`."""
        return matches(self.ours, self.truth, self.shared)


@dataclass(frozen=True, eq=False)
class Row:
    """One sample.

    Attributes:
        found: the boxes at the working threshold, compared with the original's.
        exact: all boxes, compared with the original's at the working threshold.
        right: all boxes, compared with the labelled ones; None without labels.
    """

    found: Agreement
    exact: Beside
    right: Beside | None


_PRECISION = (("map50_95", "mAP50-95"), ("map50", "mAP50"))


def found_figures(nouns: str) -> Mapping[str, Figure]:
    """The figures of a network that finds several objects. ``nouns`` is their name in texts."""
    precision = [share(name, title, needs=PACKAGE, counts=nouns) for name, title in _PRECISION]
    return named(
        *precision,
        share("kept", f"{nouns} kept", counts=nouns),
        fault("new", f"new {nouns}", counts=nouns),
        share("iou", "mean IoU"),
        *by_labels(*precision),
    )


@dataclass(frozen=True)
class Detection(Task):
    """A network that finds objects.

    The original's boxes at the working threshold are the truth. Boxes of the model count with their scores as in
    COCO's protocol.

    Attributes:
        decoder: how the outputs become boxes.
    """

    name = "detection"
    figures = found_figures("boxes")
    requires: ClassVar[tuple[str, ...]] = ("kept>=0.95", "new<=0.05", "iou>=0.9")
    labels = "boxes"
    reads: ClassVar[tuple[Part, ...]] = ()
    """The parts that the decoder must have in addition to boxes and scores."""

    decoder: Decoder = field(default_factory=lambda: Decoder("boxes", (Table(0, ("boxes", "scores")),), 1))

    @property
    def threshold(self) -> float:
        """The working threshold: the threshold of the decoder, or 0.25 if the decoder accepts any score."""
        return self.decoder.score_threshold or USUAL_SCORE

    def predict(self, outputs: Sequence[Array]) -> Boxes:
        """The boxes, including those with scores far below the working threshold."""
        low = replace(self.decoder, score_threshold=self.threshold * LEAST_SCORE)
        found = cast(Boxes, decode(low, outputs))
        return found if "prototypes" in self.reads else replace(found, masks=None)

    def compare(self, ours: Boxes, theirs: Boxes, truth: Boxes | None = None) -> Row:
        """The boxes of two networks, at the working threshold and with all scores."""
        threshold = self.threshold
        exact = theirs.above(threshold)
        right = None if truth is None else Beside.of(ours, truth)
        return Row(agreement(ours.above(threshold), exact), Beside.of(ours, countable(exact)), right)

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """The figures. They are None, except for ``new``, if the original has no boxes."""
        found = [row.found for row in rows]
        labelled = [row.right.matches if row.right else None for row in rows]
        theirs = sum(each.theirs for each in found)
        new = sum(each.ours - each.matched for each in found)
        return {
            **average_precision([row.exact.matches for row in rows]),
            **{f"label_{name}": value for name, value in average_precision(labelled).items()},
            "kept": ratio([(each.matched, each.theirs) for each in found]),
            "new": new / theirs if theirs else 0.0 if not new else None,
            "iou": ratio([((each.iou or 0.0) * each.matched, each.matched) for each in found]),
        }

    def counted(self, rows: Sequence[Row]) -> int:
        """The original's boxes."""
        return sum(row.found.theirs for row in rows)

    def severity(self, row: Row) -> float:
        """The number of lost and of new boxes; for equal numbers, the mean distance of the pairs."""
        found = row.found
        return found.theirs + found.ours - 2 * found.matched + (1 - found.iou if found.iou is not None else 0.0)

    def parts(self, outputs: Sequence[Array]) -> Sequence[Array]:
        """Boxes, scores, keypoints and the data of masks as separate parts, and then the outputs that are not read.

        Scores are taken after their activation. An output of another shape than the decoder expects, such as detections
        that ncnn selected, is one part.
        """
        try:
            found = gather(self.decoder, outputs)
            scores = class_scores(self.decoder, found)
        except ModelError:
            return outputs
        read = {table.output for table in self.decoder.tables}
        others = [output for index, output in enumerate(outputs) if index not in read]
        broken = not all(np.isfinite(rows).all() for rows in found.values())
        scores = np.where(np.isfinite(scores), scores, np.nan if broken else 0.0)
        kept = [rows for part, rows in found.items() if part in _SIGNALS]
        return [*kept, scores, *others]


_SIGNALS: tuple[Part, ...] = ("boxes", "keypoints", "coefficients", "prototypes")
"""The parts with a separate noise. The noise of scores is computed after their activation."""
