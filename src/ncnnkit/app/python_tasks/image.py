"""Images: the output is an image."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ncnnkit.app.python_tasks.common import Failure, Tile, shaped, times
from ncnnkit.onboard.picture import Array

JOINS_TILES = True


def makes(facts: Dict[str, Any]) -> str:
    return "image"


def planes_of(output: Array) -> Array:
    """An output as (height, width, channels) with 1 or 3 channels. Raises Failure."""
    while output.ndim > 3 and len(output) == 1:
        output = output[0]
    output = output[None] if output.ndim == 2 else output
    if output.ndim != 3 or not {output.shape[0], output.shape[2]} & {1, 3}:
        raise Failure("the output %s is not an image" % times(output.shape))
    return output.transpose(1, 2, 0) if output.shape[0] in (1, 3) else output


def scaled(length: int, to: int, of: int) -> int:
    """``length * to / of``, rounded half away from zero as by C's lround."""
    exact = abs(length) * to / of
    return int(np.floor(exact + 0.5)) * (1 if length >= 0 else -1)


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Array:
    """The image, uint8 (height, width, 1 or 3).

    Tiles that overlap are blended: the nearer a pixel is to the border of a tile, the less it counts.
    """
    task = facts["task"]
    places, resized = [tile.place for tile in tiles], tiles[0].place.resized
    # The part of the resized image that the tiles cover, in its pixels.
    begin = [max(0, min(-corner for corner in side)) for side in zip(*((p.top, p.left) for p in places))]
    ends = zip(*((p.input[0] - p.top, p.input[1] - p.left) for p in places))
    end = [min(length, max(side)) for length, side in zip(resized, ends)]
    total, weights = np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    for number, (tile, place) in enumerate(zip(tiles, places)):
        planes = planes_of(shaped(tile.outputs[task["output"]], task)).astype(np.float32)
        to, size = planes.shape[:2], place.input
        low = [scaled(at, t, s) for at, t, s in zip(begin, to, size)]
        if not number:
            height, width = (scaled(at, t, s) - first for at, t, s, first in zip(end, to, size, low))
            total = np.zeros((height, width, planes.shape[2]), np.float32)
            weights = np.zeros((height, width, 1), np.float32)
        shift = [scaled(at, t, s) + first for at, t, s, first in zip((place.top, place.left), to, size, low)]
        inner = tuple(slice(max(0, s), min(t, n + s)) for s, t, n in zip(shift, to, total.shape))
        outer = tuple(slice(i.start - s, i.stop - s) for i, s in zip(inner, shift))
        near = [np.minimum(np.arange(1, t + 1), np.arange(t, 0, -1)).astype(np.float32) for t in to]
        weight = (near[0][:, None] * near[1][None, :])[inner][:, :, None]
        total[outer] += weight * planes[inner]
        weights[outer] += weight
    black, white = np.float32(task["low"]), np.float32(task["high"])
    values = np.clip((total / weights - black) / (white - black), 0, 1)
    pixels = (values * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    how = facts["inputs"][facts["main"]]["preprocess"]
    reversed_colours = how is not None and how["color"].startswith("bgr")
    return pixels[:, :, ::-1] if reversed_colours else pixels


def agreement(found: Array, wanted: Dict[str, Any]) -> float:
    """1 - RMSE against the image of the example, with pixels from 0 to 1."""
    ours, theirs = picture(found), wanted["picture"]
    if ours.shape != theirs.shape:
        return 0.0
    return 1 - float(np.sqrt(np.mean((ours / 255.0 - theirs / 255.0) ** 2)))


def lines(found: Array, labels: Sequence[str], top: int) -> List[str]:
    return ["an image of %dx%d pixels: give a .png as OUTPUT to keep it" % found.shape[1::-1]]


def describe(found: Array, labels: Sequence[str], top: int) -> Dict[str, Any]:
    return {"width": found.shape[1], "height": found.shape[0]}


def draw(found: Array, labels: Sequence[str], image: Any) -> None:
    raise Failure("--draw: the answer is an image itself: give a .png as OUTPUT")


def picture(found: Array) -> Any:
    return found[:, :, 0] if found.shape[2] == 1 else found
