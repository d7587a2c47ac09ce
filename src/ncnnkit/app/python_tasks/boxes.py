"""Detection: boxes, perhaps with keypoints."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Tile, class_name, colour_of, immutable, label_at, rounded
from ncnnkit.tasks.boxes import chosen, gather
from ncnnkit.tasks.decoder import Decoder, Grid, Table
from ncnnkit.tasks.heads import candidates
from ncnnkit.tasks.predictions import Boxes

PICTURE = ""
JOINS_TILES = True


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Boxes:
    """The boxes in pixels of the image, float64, the best first; those in the padding are left out."""
    task = facts["task"]
    given = {name: immutable(value) for name, value in task["decoder"].items()}
    given["tables"] = tuple(Table(**{k: immutable(v) for k, v in table.items()}) for table in given["tables"])
    given["anchors"] = tuple(Grid(**{k: immutable(v) for k, v in grid.items()}) for grid in given["anchors"])
    decoder, first = Decoder(**given), tiles[0].place
    found: List[Boxes] = []
    for tile in tiles:
        boxes, _ = candidates(decoder, gather(decoder, tile.outputs))
        shift = np.array([first.left - tile.place.left, first.top - tile.place.top], np.float32)  # to the first tile
        points = boxes.keypoints
        if points is not None:
            points = np.concatenate([points[..., :2] + shift, points[..., 2:]], -1)
        found.append(Boxes(boxes.xyxy + np.tile(shift, 2), boxes.scores, boxes.labels, points))
    several = [boxes.keypoints for boxes in found if boxes.keypoints is not None]
    whole = Boxes(
        np.concatenate([boxes.xyxy for boxes in found]), np.concatenate([boxes.scores for boxes in found]),
        np.concatenate([boxes.labels for boxes in found]), np.concatenate(several) if several else None,
    )  # fmt: skip
    best = whole.where(chosen(decoder, whole))
    height, width = first.image
    corners = np.clip(first.to_image(best.xyxy.reshape(-1, 2, 2)), 0, (width, height)).reshape(-1, 4)
    points = best.keypoints
    if points is not None:
        points = np.concatenate([first.to_image(points[..., :2]), points[..., 2:]], -1)
    return Boxes(corners, best.scores, best.labels, points).where((corners[:, 2:] > corners[:, :2]).all(1))


def lines(found: Boxes, labels: Sequence[str], top: int) -> List[str]:
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.xyxy.tolist())
    return [
        "%s %s at %s,%s to %s,%s" % (class_name(labels, label), rounded(score), *map(rounded, box))
        for label, score, box in rows
    ] or ["nothing was found"]


def describe(found: Boxes, labels: Sequence[str], top: int) -> Dict[str, Any]:
    rows: List[Dict[str, Any]] = []
    for number, (label, score, box) in enumerate(
        zip(found.labels.tolist(), found.scores.tolist(), found.xyxy.tolist())
    ):
        corners = dict(zip(("x1", "y1", "x2", "y2"), box))
        rows.append({"label": class_name(labels, label), "index": label, "score": score, **corners})
        if found.keypoints is not None:
            rows[-1]["keypoints"] = [(*point, 1.0)[:3] for point in found.keypoints[number].tolist()]
    return {"boxes": rows}


def draw(found: Boxes, labels: Sequence[str], image: Any) -> None:
    from PIL import ImageDraw

    pen, wide = ImageDraw.Draw(image), 1 + max(image.size) // 400
    for number in reversed(range(len(found))):  # the best on top
        box, label = found.xyxy[number].tolist(), int(found.labels[number])
        pen.rectangle(box, outline=colour_of(label), width=wide)
        for x, y, *seen in [] if found.keypoints is None else found.keypoints[number].tolist():
            if not seen or seen[0] >= 0.5:
                pen.ellipse((x - wide, y - wide, x + wide, y + wide), fill=colour_of(label))
        label_at(image, box[0], box[1], "%s %s" % (class_name(labels, label), rounded(found.scores[number])), label)


def picture(found: Boxes) -> Any:
    return None
