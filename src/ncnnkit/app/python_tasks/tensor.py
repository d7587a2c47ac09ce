"""Outputs of unknown meaning: their shapes and values."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Failure, Tile, rounded, times

JOINS_TILES = False


def makes(facts: Dict[str, Any]) -> str:
    return ""


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Name, shape, minimum, mean and maximum of each output."""
    rows = []
    for row, output in zip(facts["outputs"], tiles[0].outputs):
        values = output.astype(np.float64) if output.size else np.zeros(1)
        low, mean, high = float(values.min()), float(values.mean()), float(values.max())
        rows.append({"name": row["blob"], "shape": list(output.shape), "min": low, "mean": mean, "max": high})
    return rows


def agreement(found: List[Dict[str, Any]], wanted: Dict[str, Any]) -> float:
    raise Failure("it is not known what the outputs mean")


def lines(found: List[Dict[str, Any]], labels: Sequence[str], top: int) -> List[str]:
    return [
        "%s: %s, from %s to %s, mean %s"
        % (row["name"], times(row["shape"]), rounded(row["min"]), rounded(row["max"]), rounded(row["mean"]))
        for row in found
    ]


def describe(found: List[Dict[str, Any]], labels: Sequence[str], top: int) -> Dict[str, Any]:
    return {"outputs": found}


def draw(found: List[Dict[str, Any]], labels: Sequence[str], image: Any) -> None:
    raise Failure("--draw: it is not known what the outputs mean")


def picture(found: List[Dict[str, Any]]) -> Any:
    return None
