"""Reads images, resizes them as Pillow does, and converts their colours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from ncnnkit.app.python_tasks.common import Failure
from ncnnkit.onboard.picture import DEEP, Array, eight_bits
from ncnnkit.onboard.userfiles import open_regular, opened_image, read_bytes

# -------------------------------------------------------------------------------------------------- Pillow's resizing

BITS = 32 - 8 - 2  # fractional bits of a coefficient: 8 bits are for the pixel, 2 for headroom (Pillow's Resample.c)


def _sinc(x: Array) -> Array:
    safe = np.where(x == 0, 1.0, x * math.pi)
    return np.where(x == 0, 1.0, np.sin(safe) / safe)


def _bicubic(x: Array) -> Array:
    x = np.abs(x)
    outer = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, outer, 0.0))


def _hamming(x: Array) -> Array:
    return np.where(np.abs(x) < 1, _sinc(np.abs(x)) * (0.54 + 0.46 * np.cos(x * math.pi)), 0.0)


FILTERS: Dict[str, Tuple[Callable[[Array], Array], float]] = {
    "box": (lambda x: ((x > -0.5) & (x <= 0.5)).astype(np.float64), 0.5),
    "bilinear": (lambda x: np.maximum(1.0 - np.abs(x), 0.0), 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (lambda x: np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0), 3.0),
}
"""Name of a filter of Pillow -> (function, support radius in pixels)."""


def resize(pixels: Array, height: int, width: int, interpolation: str, may_swap: bool) -> Array:
    """Resize uint8 (H, W, C) bit by bit as Pillow does, with antialiasing.

    ``may_swap``: do the vertical pass first if that is less work, as Pillow does from version 13 on.
    """
    if interpolation == "nearest":
        rows, columns = nearest_places(pixels.shape[0], height), nearest_places(pixels.shape[1], width)
        found = pixels[np.maximum(rows, 0)][:, np.maximum(columns, 0)]
        return np.where((rows < 0)[:, None, None] | (columns < 0)[None, :, None], np.uint8(0), found)
    fewer_rows, fewer_columns = pixels.shape[0] - height, pixels.shape[1] - width
    rows_first = may_swap and fewer_rows > 0 and fewer_rows > 2 * fewer_columns
    for axis in (0, 1) if rows_first else (1, 0):
        size = (height, width)[axis]
        if size != pixels.shape[axis]:
            pixels = resize_rows(pixels.swapaxes(0, axis), size, interpolation).swapaxes(0, axis)
    return pixels


def resize_rows(pixels: Array, size: int, interpolation: str) -> Array:
    """Resize the first axis of uint8 (N, W, C) to ``size`` rows."""
    curve, reach = FILTERS[interpolation]
    scale = len(pixels) / size
    stretch = max(scale, 1.0)
    reach *= stretch
    out = np.empty((size, *pixels.shape[1:]), np.uint8)
    for row in range(size):
        center = (row + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        last = min(int(center + reach + 0.5), len(pixels))
        exact = curve((np.arange(first, last) - center + 0.5) * (1.0 / stretch))
        exact = exact / (sum(exact.tolist()) or 1.0)  # summed sequentially, as in C, because the order affects rounding
        weights = np.trunc(np.where(exact < 0, -0.5, 0.5) + exact * (1 << BITS)).astype(np.int32)
        total = np.tensordot(weights, pixels[first:last].astype(np.int32), 1) + (1 << (BITS - 1))
        out[row] = np.clip(total >> BITS, 0, 255)
    return out


def nearest_places(before: int, after: int) -> Array:
    """The old index of each new row or column; -1 if the summed steps, as Pillow sums them, lead outside."""
    steps = np.full(after, before / after)
    steps[0] /= 2
    places = np.cumsum(steps).astype(int)  # summed sequentially: a product would round differently
    return np.where(places < before, places, -1)


def in_color(pixels: Array, channels: int) -> Array:
    """Convert to uint8 (H, W, channels). Luma is computed in Pillow's fixed point; a missing alpha becomes opaque."""
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if channels == 1 and pixels.shape[2] > 1:
        red, green, blue = pixels.astype(np.uint32).transpose(2, 0, 1)[:3]
        pixels = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    if channels > 1 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if channels == 4 and pixels.shape[2] == 3:
        pixels = np.concatenate([pixels, np.full_like(pixels[:, :, :1], 255)], axis=2)
    return pixels[:, :, :channels]


def read_image(path: Path) -> Array:
    """Read an image as uint8 (H, W), (H, W, 3) or (H, W, 4). Raises Failure."""
    try:
        with open_regular(path) as file:
            head = file.read(2)
        if head in (b"P5", b"P6"):
            return decode_pnm(read_bytes(path))
    except OSError as error:
        raise Failure("cannot be read: %s" % error.strerror) from None
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise Failure("is not a PPM or PGM image, and other formats need Pillow (pip install Pillow)") from None
    try:
        with opened_image(path) as image:
            return from_pillow(image)
    except Exception as error:  # a decoder may raise anything for a damaged file
        raise Failure("is not an image: %s" % error) from None


def from_pillow(image: Any) -> Array:
    """The pixels of a Pillow image, uint8 (H, W), (H, W, 3) or (H, W, 4). Deep images are scaled to 8 bits."""
    if image.mode in DEEP:
        return eight_bits(image, image.mode)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def decode_pnm(data: bytes) -> Array:
    """Decode a binary PGM (P5) or PPM (P6) as uint8 (H, W) or (H, W, 3). Raises Failure."""
    words: List[bytes] = []
    at = 2
    while len(words) < 3 and at < len(data):
        if data[at : at + 1] == b"#":
            at = data.find(b"\n", at) if b"\n" in data[at:] else len(data)
        elif data[at : at + 1].isspace():
            at += 1
        else:
            words.append(data[at:].split(None, 1)[0])
            at += len(words[-1])
    if len(words) < 3 or not all(word.isdigit() for word in words) or words[2] != b"255":
        raise Failure("is a broken PPM: its header must be three numbers, the last 255")
    shape = (int(words[1]), int(words[0])) + ((3,) if data[1:2] == b"6" else ())
    pixels = data[at + 1 :]
    if len(pixels) < math.prod(shape):
        raise Failure("is a broken PPM: the file ends too early")
    return np.frombuffer(pixels, np.uint8, math.prod(shape)).reshape(shape)
