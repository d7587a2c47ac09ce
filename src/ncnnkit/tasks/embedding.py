"""Embeddings: a vector for each sample; only its direction matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .decoder import Array
from .figures import Figure, named, share
from .task import Task

SAME = 1e-6
"""Cosines that differ by less count as equal, because the rounding of a product of two vectors depends on how
many products are computed together."""


class Row(NamedTuple):
    """One sample: the two vectors, of length 1."""

    ours: NDArray[np.float32]
    theirs: NDArray[np.float32]


@dataclass(frozen=True)
class Embedding(Task):
    """A network that computes vectors to compare samples with each other: search, faces, speakers.

    Attributes:
        output: index of the output; all its values are one vector.

    Example:
        >>> task = Embedding()
        >>> rows = [task.compare(v, v) for v in np.eye(3, dtype=np.float32)]
        >>> task.summarise(rows)
        {'recall1': 1.0, 'similarity': 1.0}
    """

    name = "embedding"
    figures = named(
        share("recall1", "recall@1", counts="samples"),
        Figure("similarity", "mean cosine", "", True, lambda v: 1 - v, lambda v: -1 <= v < 1),
    )
    requires = ("recall1>=0.99",)

    output: int = 0

    def predict(self, outputs: Sequence[Array]) -> NDArray[np.float32]:
        """The vector, of length 1; zeros if it has no direction."""
        vector = np.asarray(outputs[self.output], np.float32).reshape(-1)
        length = float(np.linalg.norm(vector))
        return vector / length if np.isfinite(length) and length else np.zeros_like(vector)

    def compare(self, ours: NDArray[np.float32], theirs: NDArray[np.float32], truth: None = None) -> Row:
        """Both vectors."""
        return Row(ours if ours.shape == theirs.shape else np.zeros_like(theirs), theirs)

    def summarise(self, rows: Sequence[Row]) -> dict[str, float | None]:
        """recall@1: the share of samples for which the nearest of the original's vectors is that of the same sample.

        Samples with the same vector in the original count as one.
        """
        if not rows:
            return {"recall1": None, "similarity": None}
        ours, theirs = (np.stack(column) for column in zip(*rows))
        near = ours @ theirs.T
        own = near.diagonal()
        nearest = (own >= near.max(1) - SAME) & ours.any(1)
        return {"recall1": float(nearest.mean()), "similarity": float(own.mean())}
