"""Embedding: a vector of which only the direction matters."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Failure, Tile, rounded
from ncnnkit.onboard.picture import Array

JOINS_TILES = False


def makes(facts: Dict[str, Any]) -> str:
    return ""


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Array:
    """The vector, scaled to length 1; zeros if its length is 0 or not finite."""
    task = facts["task"]
    vector = tiles[0].outputs[task["output"]].reshape(-1)
    length = np.float32(np.sqrt((vector.astype(np.float64) ** 2).sum()))
    return vector / length if 0 < length < np.inf else np.zeros_like(vector)


def agreement(found: Array, wanted: Dict[str, Any]) -> float:
    """The cosine similarity to the vector of the example."""
    (vector,) = wanted["embedding"]
    return float(np.dot(found, vector)) if len(found) == len(vector) else 0.0


def lines(found: Array, labels: Sequence[str], top: int) -> List[str]:
    first = " ".join(map(rounded, found[:4].tolist()))
    return ["a vector of %d numbers: %s%s" % (found.size, first, " …" if found.size > 4 else "")]


def describe(found: Array, labels: Sequence[str], top: int) -> Dict[str, Any]:
    return {"embedding": found.tolist()}


def draw(found: Array, labels: Sequence[str], image: Any) -> None:
    raise Failure("--draw: a vector cannot be drawn")


def picture(found: Array) -> Any:
    return None
