"""Segmentation: a class for each pixel."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Failure, Tile, class_name, colour_of, rounded, shaped, times
from ncnnkit.onboard.picture import Array

JOINS_TILES = True


def makes(facts: Dict[str, Any]) -> str:
    return "mask"


def class_map(output: Array, task: Dict[str, Any]) -> Array:
    """The class of each pixel, (height, width). A single map has class 1 where it is above the threshold."""
    decoder = task["decoder"]
    if decoder["classes"] == 1:
        classes = (output > np.float32(decoder["score_threshold"])).astype(np.int64)
    else:
        classes = output.argmax(decoder["axis"])
    while classes.ndim > 2 and len(classes) == 1:
        classes = classes[0]
    if classes.ndim > 2 or classes.max(initial=0) > 255:
        raise Failure("the classes %s are not a map with at most 256 classes" % times(classes.shape))
    return classes.reshape(-1, classes.shape[-1])


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Array:
    """The class of each pixel of the image, uint8.

    It is the class at the pixel's centre, from the tile in which the centre is farthest from the border. Pixels that no
    tile covers have class 0.
    """
    task = facts["task"]
    height, width = tiles[0].place.image
    mask, inside = np.zeros((height, width), np.uint8), np.zeros((height, width))
    for tile in tiles:
        place = tile.place
        classes = class_map(shaped(tile.outputs[task["output"]], task), task)
        y = (np.arange(height)[:, None] + 0.5) * place.resized[0] / height + place.top
        x = (np.arange(width)[None, :] + 0.5) * place.resized[1] / width + place.left
        away = np.minimum(np.minimum(x, place.input[1] - x), np.minimum(y, place.input[0] - y))
        nearer = away > inside
        inside[nearer] = away[nearer]
        rows = np.clip(y * classes.shape[0] / place.input[0], 0, classes.shape[0] - 1).astype(int)
        columns = np.clip(x * classes.shape[1] / place.input[1], 0, classes.shape[1] - 1).astype(int)
        mask[nearer] = classes[rows, columns][nearer]
    return mask


def agreement(found: Array, wanted: Dict[str, Any]) -> float:
    """The share of pixels that have the same class as in the example."""
    return float((found == wanted["picture"]).mean()) if found.shape == wanted["picture"].shape else 0.0


def shares(found: Array) -> List[Any]:
    """(share, class), the largest first."""
    index, count = np.unique(found, return_counts=True)
    return sorted(zip((count / found.size).tolist(), index.tolist()), key=lambda row: -row[0])


def lines(found: Array, labels: Sequence[str], top: int) -> List[str]:
    return ["%s %%\t%s" % (rounded(100 * share), class_name(labels, index)) for share, index in shares(found)]


def describe(found: Array, labels: Sequence[str], top: int) -> Dict[str, Any]:
    rows = [{"index": i, "label": class_name(labels, i), "share": share} for share, i in shares(found)]
    return {"classes": rows}


def draw(found: Array, labels: Sequence[str], image: Any) -> None:
    from PIL import Image

    colours = np.array([colour_of(index) for index in range(256)], np.uint16)
    pixels = np.asarray(image)
    image.paste(Image.fromarray(((pixels + colours[found]) // 2).astype(np.uint8)))


def picture(found: Array) -> Any:
    return found
