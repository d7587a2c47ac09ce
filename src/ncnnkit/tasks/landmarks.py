"""Landmarks: points on one object, such as a face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .decoder import Array
from .figures import fault, named, share
from .task import Task

NEAR = 0.05
"""A point counts as in place if its distance is below this share of the object's size."""


@dataclass(frozen=True)
class Landmarks(Task):
    """A network that finds certain points of one object.

    Attributes:
        output: index of the output.
        dims: number of values of each point; the first two are x and y.
        apart: 1 if all x come first, then all y; 0 if the values of each point are adjacent.

    Example:
        >>> task = Landmarks()
        >>> row = task.compare(task.predict([np.array([0, 0, 1.1, 1])]), task.predict([np.array([0, 0, 1, 1.0])]))
        >>> {name: round(value, 3) for name, value in task.summarise([row]).items()}
        {'nme': 0.035, 'near': 0.5}
    """

    name = "landmarks"
    figures = named(fault("nme", "landmark error"), share("near", "points in place"))
    requires = ("nme<=0.02",)

    output: int = 0
    dims: int = 2
    apart: int = 0

    def predict(self, outputs: Sequence[Array]) -> Array:
        """The points, (N, 2)."""
        values = np.asarray(outputs[self.output], np.float64)
        return (values.reshape(self.dims, -1).T if self.apart else values.reshape(-1, self.dims))[:, :2]

    def compare(self, ours: Array, theirs: Array, truth: Array | None = None) -> Array:
        """The distance of each point divided by the diagonal of the box around the original's points, (N,)."""
        size = float(np.linalg.norm(np.ptp(theirs, axis=0)))
        if ours.shape != theirs.shape or not size:
            return np.full(len(theirs), np.inf if ours.shape != theirs.shape or (ours != theirs).any() else 0.0)
        away = np.linalg.norm(ours - theirs, axis=1) / size
        return np.where(np.isfinite(away), away, np.inf)

    def summarise(self, rows: Sequence[Array]) -> dict[str, float | None]:
        """The mean distance, and the share of points nearer than :data:`NEAR`."""
        if not rows:
            return {"nme": None, "near": None}
        away = np.concatenate(rows)
        return {"nme": float(away.mean()), "near": float((away <= NEAR).mean())}

    def severity(self, row: Array) -> float:
        """The mean distance divided by the size of the object."""
        return float(row.mean()) if len(row) else 0.0
