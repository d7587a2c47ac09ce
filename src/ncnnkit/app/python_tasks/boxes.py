"""Detection: boxes, perhaps with keypoints."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Tile, class_name, colour_of, immutable, label_at, rounded
from ncnnkit.onboard.picture import Array, Placement
from ncnnkit.tasks.boxes import chosen, gather
from ncnnkit.tasks.decoder import Decoder, Grid, Table
from ncnnkit.tasks.heads import candidates, masks
from ncnnkit.tasks.predictions import Boxes

JOINS_TILES = True


class Found(NamedTuple):
    """The boxes in pixels of the image, the best first, and a mask: the number of each pixel's object, from 1, or 0."""

    boxes: Boxes
    mask: Optional[Array]


def makes(facts: Dict[str, Any]) -> str:
    return "mask" if facts["task"]["decoder"]["prototypes"] else ""


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Found:
    """The boxes in an image, without those in the padding."""
    decoder, first = decoder_of(facts["task"]["decoder"]), tiles[0].place
    gathered = [gather(decoder, tile.outputs) for tile in tiles]
    shifts = [np.array((first.left - at.left, first.top - at.top), np.float32) for at in (tile.place for tile in tiles)]
    found, rows = zip(*(candidates(decoder, parts) for parts in gathered))
    tile_of = np.repeat(np.arange(len(tiles)), [len(boxes) for boxes in found])
    whole = joined([moved(boxes, shift) for boxes, shift in zip(found, shifts)])  # in coordinates of the first tile
    kept = chosen(decoder, whole)
    corners = corners_on_image(whole.xyxy[kept], first)
    kept = kept[(corners[:, 2:] > corners[:, :2]).all(1)]
    best, row_of, tile_of = whole.where(kept), np.concatenate(rows)[kept], tile_of[kept]
    mask = None
    if decoder.prototypes:
        mask = np.zeros(first.image, np.uint8)
        for number in reversed(range(min(len(best), 255))):  # better objects overwrite others
            index = int(tile_of[number])
            tile, box = tiles[index], best.xyxy[[number]] - np.tile(shifts[index], 2)
            (inside,) = masks(decoder, tile.outputs, gathered[index], row_of[[number]], box)
            paint(mask, number + 1, inside, decoder.prototype_step, tile.place)
    points = best.keypoints
    if points is not None:
        points = np.concatenate([first.to_image(points[..., :2]), points[..., 2:]], -1)
    return Found(Boxes(corners_on_image(best.xyxy, first), best.scores, best.labels, points), mask)


def decoder_of(facts: Dict[str, Any]) -> Decoder:
    """The decoder from its form in JSON."""
    given = {name: immutable(value) for name, value in facts.items()}
    given["tables"] = tuple(Table(**{k: immutable(v) for k, v in table.items()}) for table in given["tables"])
    given["anchors"] = tuple(Grid(**{k: immutable(v) for k, v in grid.items()}) for grid in given["anchors"])
    return Decoder(**given)


def moved(boxes: Boxes, shift: Array) -> Boxes:
    """Boxes moved by ``shift``, (x, y) in pixels."""
    points = boxes.keypoints
    if points is not None:
        points = np.concatenate([points[..., :2] + shift, points[..., 2:]], -1)
    return Boxes(boxes.xyxy + np.tile(shift, 2), boxes.scores, boxes.labels, points)


def joined(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of all parts, one after the other."""
    points = [boxes.keypoints for boxes in parts if boxes.keypoints is not None]
    return Boxes(
        np.concatenate([boxes.xyxy for boxes in parts]), np.concatenate([boxes.scores for boxes in parts]),
        np.concatenate([boxes.labels for boxes in parts]), np.concatenate(points) if points else None,
    )  # fmt: skip


def corners_on_image(xyxy: Array, place: Placement) -> Array:
    """Corners in pixels of the image, float64 (N, 4), clipped to it."""
    height, width = place.image
    return np.clip(place.to_image(xyxy.reshape(-1, 2, 2)), 0, (width, height)).reshape(-1, 4)


def paint(mask: Array, number: int, inside: Array, step: float, place: Placement) -> None:
    """Write the number of an object into the mask of the image.

    Args:
        mask: uint8 (height, width) of the image; it is changed.
        number: of the object.
        inside: bool (height, width) of the prototypes: whether a pixel belongs to the object.
        step: side of a pixel of the prototypes, in pixels of the input.
        place: where the image lies in the input.
    """
    axes, valid = [], []
    for length, resized, begin, count in zip(mask.shape, place.resized, (place.top, place.left), inside.shape):
        at = np.floor(((np.arange(length) + 0.5) * resized / length + begin) / step).astype(int)
        axes.append(np.clip(at, 0, count - 1))
        valid.append((at >= 0) & (at < count))
    mask[inside[np.ix_(*axes)] & valid[0][:, None] & valid[1][None, :]] = number


def agreement(found: Found, wanted: Dict[str, Any]) -> float:
    """The share of matching boxes: of the same class, with an intersection over union of 0.5 or more."""
    free = list(range(len(found.boxes)))
    for index, _, *corners in (row[:6] for row in wanted.get("box", [])):
        same = (i for i in free if found.boxes.labels[i] == index and overlap(found.boxes.xyxy[i], corners) >= 0.5)
        match = next(same, None)
        if match is not None:
            free.remove(match)
    most = max(len(found.boxes), len(wanted.get("box", [])))
    return (len(found.boxes) - len(free)) / most if most else 1.0


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / max(areas - wide * high, 1e-12)


def lines(found: Found, labels: Sequence[str], top: int) -> List[str]:
    rows = zip(found.boxes.labels.tolist(), found.boxes.scores.tolist(), found.boxes.xyxy.tolist())
    return [
        "%s %s at %s,%s to %s,%s" % (class_name(labels, label), rounded(score), *map(rounded, box))
        for label, score, box in rows
    ] or ["nothing was found"]


def describe(found: Found, labels: Sequence[str], top: int) -> Dict[str, Any]:
    rows: List[Dict[str, Any]] = []
    for number, (label, score, box) in enumerate(
        zip(found.boxes.labels.tolist(), found.boxes.scores.tolist(), found.boxes.xyxy.tolist())
    ):
        corners = dict(zip(("x1", "y1", "x2", "y2"), box))
        rows.append({"label": class_name(labels, label), "index": label, "score": score, **corners})
        if found.boxes.keypoints is not None:
            rows[-1]["keypoints"] = [(*point, 1.0)[:3] for point in found.boxes.keypoints[number].tolist()]
    return {"boxes": rows}


def draw(found: Found, labels: Sequence[str], image: Any) -> None:
    from PIL import Image, ImageDraw

    if found.mask is not None:
        colours = np.array([colour_of(number) for number in range(256)], np.uint16)
        mixed = np.where(found.mask[..., None] > 0, (np.asarray(image) + colours[found.mask]) // 2, np.asarray(image))
        image.paste(Image.fromarray(mixed.astype(np.uint8)))
    pen, wide = ImageDraw.Draw(image), 1 + max(image.size) // 400
    for number in reversed(range(len(found.boxes))):  # better boxes are drawn over others
        box, label = found.boxes.xyxy[number].tolist(), int(found.boxes.labels[number])
        pen.rectangle(box, outline=colour_of(label), width=wide)
        for x, y, *seen in [] if found.boxes.keypoints is None else found.boxes.keypoints[number].tolist():
            if not seen or seen[0] >= 0.5:
                pen.ellipse((x - wide, y - wide, x + wide, y + wide), fill=colour_of(label))
        label_at(
            image, box[0], box[1], "%s %s" % (class_name(labels, label), rounded(found.boxes.scores[number])), label
        )


def picture(found: Found) -> Any:
    return found.mask
