"""Classification: one vector of scores; the highest score gives the class."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Tile, class_name, label_at, rounded
from ncnnkit.onboard.picture import Array

JOINS_TILES = False


def makes(facts: Dict[str, Any]) -> str:
    return ""


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Array:
    """The scores, (classes,)."""
    return tiles[0].outputs[0].reshape(-1)


def agreement(found: Array, wanted: Dict[str, Any]) -> float:
    """1 if the best class is that of the example, else 0."""
    best_score = max(wanted["score"], key=lambda row: row[1])
    return float(int(found.argmax()) == best_score[0])


def best(found: Array, labels: Sequence[str], top: int) -> List[Dict[str, Any]]:
    """Index, label and score of the ``top`` best classes, the best first."""
    named = labels if len(labels) == len(found) else ()  # another number of labels cannot belong to these classes
    order = np.argsort(-found, kind="stable")[:top].tolist()
    return [{"index": i, "label": class_name(named, i), "score": float(found[i])} for i in order]


def lines(found: Array, labels: Sequence[str], top: int) -> List[str]:
    return ["%s\t%s" % (rounded(row["score"]), row["label"]) for row in best(found, labels, top)]


def describe(found: Array, labels: Sequence[str], top: int) -> Dict[str, Any]:
    return {"top": best(found, labels, top)}


def draw(found: Array, labels: Sequence[str], image: Any) -> None:
    (row,) = best(found, labels, 1)
    label_at(image, 0, 0, "%s %s" % (row["label"], rounded(row["score"])), row["index"])


def picture(found: Array) -> Any:
    return None
