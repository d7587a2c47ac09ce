"""Landmarks: points of the only object in the image."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Failure, Tile, colour_of, rounded
from ncnnkit.onboard.picture import Array

JOINS_TILES = False


def makes(facts: Dict[str, Any]) -> str:
    return ""


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Array:
    """The points, float64 (N, 2 or 3): x and y in pixels of the image, and perhaps the visibility."""
    task = facts["task"]
    (_, numbers), (table,) = task["decoder"]["keypoints"], task["decoder"]["tables"]
    values = tiles[0].outputs[task["output"]].reshape(-1)
    if values.size % numbers:
        raise Failure("%d values cannot be points of %d numbers" % (values.size, numbers))
    rows = values.reshape(numbers, -1).T if table["layout"] == "columns" else values.reshape(-1, numbers)
    offset, factor = np.float32(task["offset"]), np.float32(task["factor"])
    return np.concatenate([tiles[0].place.to_image(offset + factor * rows[:, :2]), rows[:, 2:3]], 1)


def agreement(found: Array, wanted: Dict[str, Any]) -> float:
    """The share of points whose distance from the example's is at most 5 % of the object's diagonal."""
    points = np.reshape(wanted["points"], (-1, 3))[:, :2]
    if len(points) != len(found):
        return 0.0
    size = np.hypot(*(points.max(0) - points.min(0)))
    return float((np.hypot(*(found[:, :2] - points).T) <= 0.05 * size).mean())


def lines(found: Array, labels: Sequence[str], top: int) -> List[str]:
    return [" ".join([",".join(map(rounded, row[:2])), *map(rounded, row[2:])]) for row in found.tolist()]


def describe(found: Array, labels: Sequence[str], top: int) -> Dict[str, Any]:
    return {"points": [(*row, 1.0)[:3] for row in found.tolist()]}


def draw(found: Array, labels: Sequence[str], image: Any) -> None:
    from PIL import ImageDraw

    half = 1 + max(image.size) // 400
    for x, y in found[:, :2].tolist():
        ImageDraw.Draw(image).ellipse((x - half, y - half, x + half, y + half), fill=colour_of(0))


def picture(found: Array) -> Any:
    return None
