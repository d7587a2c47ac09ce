"""Pose: boxes with keypoints, of people or faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import detection
from .detection import Detection
from .figures import fault, named
from .predictions import Boxes, pairs, shared_areas
from .task import ratio

LEAST_VISIBLE = 0.5
"""Keypoints with a lower visibility in the original do not count."""


@dataclass(frozen=True, eq=False)
class Row(detection.Row):
    """One sample, with the sum and the number of the distances of keypoints divided by the size of their box."""

    away: float
    points: int


@dataclass(frozen=True)
class Pose(Detection):
    """A network that finds objects and points on them.

    It has the figures of :class:`~ncnnkit.tasks.detection.Detection`, and the distance of the keypoints divided by the
    diagonal of the original's box, as the mean over all visible keypoints of the boxes kept.
    """

    name = "pose"
    figures = named(*Detection.figures.values(), fault("nme", "keypoint error"))
    requires = (*Detection.requires, "nme<=0.02")
    reads = ("keypoints",)

    def compare(self, ours: Boxes, theirs: Boxes, truth: Boxes | None = None) -> Row:
        """The boxes and the keypoints of two networks."""
        row = super().compare(ours, theirs, truth)
        one, other = ours.above(self.threshold), theirs.above(self.threshold)
        away: list[float] = []
        for mine, its, _ in pairs(one, other, shared_areas(one, other)):
            if one.keypoints is not None and other.keypoints is not None:
                points, exact = one.keypoints[mine], other.keypoints[its]
                seen = exact[:, 2] >= LEAST_VISIBLE if exact.shape[1] > 2 else np.ones(len(exact), bool)
                size = float(np.hypot(*(other.xyxy[its, 2:] - other.xyxy[its, :2])))
                away += (np.hypot(*(points - exact)[seen, :2].T) / max(size, 1e-6)).tolist()
        return Row(row.found, row.exact, row.right, sum(away), len(away))

    def summarise(self, rows: Sequence[Any]) -> dict[str, float | None]:
        """The figures; None if there is nothing to compare."""
        return {**super().summarise(rows), "nme": ratio([(row.away, row.points) for row in rows])}
