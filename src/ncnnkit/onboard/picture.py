"""Converts the pixels of an image to a network's input: placement, resizing as in OpenCV, and normalisation.

The host prepares images with these functions. The app in Python contains the code of this file (``standalone`` in
``app/bundling.py``). ``placing.cpp``, ``resize.cpp`` and ``preprocess.cpp`` of the app in C++ do the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

Array = Any  # numpy.ndarray

LARGEST_IMAGE = 100_000_000  # pixels after resizing; a 1x5000 strip could otherwise need gigabytes

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4, "bgra": 4}
"""Order of channels -> their number."""

OPENCV = "opencv"
"""The name of OpenCV's INTER_LINEAR among the interpolations; the others are Pillow's filters."""


@dataclass(frozen=True)
class Fit:
    """A way to resize an image for an input with another aspect ratio.

    Attributes:
        way: ``letterbox``: as large as fits into ``size`` at the image's own aspect ratio; the rest is padded.
            ``right``: to the height of ``size`` at the image's own aspect ratio, and padded to the right; a wider
            image is squeezed to the width of ``size`` (used for lines of text). ``multiple``: to about its own size,
            with sides that are multiples of ``multiple``; nothing is padded (used for fully convolutional networks).
        size: the size of the input, (height, width) in pixels, for letterbox and right. None: the size of the
            network's input.
        align: where a letterboxed image lies: ``centre`` (an odd pixel of padding is below or to the right), or
            ``corner``: the upper left.
        fill: the value of the padding, from 0 to 255: one value, or one per channel in the order of the colours. None:
            the tensor is zero there.
        grow: whether letterbox enlarges images that are smaller than ``size``.
        rounding: how the resized sides are rounded to whole pixels: ``nearest`` (half to even), ``down`` or ``up``.
        multiple: both sides become multiples of this number. Letterbox then pads each side only to the next multiple,
            instead of to ``size``. The sides of ``size`` must be multiples, too.
        shorter: for way ``multiple``: an image with a smaller shorter side is enlarged until its shorter side has this
            length, in pixels. None: no limit.
        longer: for way ``multiple``: an image with a larger longer side is reduced until its longer side has this
            length, in pixels. None: no limit.

    Example:
        >>> how = nk.Preprocess(resize=nk.Fit("letterbox", (320, 320), fill=(114,)))
        >>> how.places(480, 640)[0].resized  # of an image of 480x640
        (240, 320)
    """

    way: str
    size: Optional[Tuple[int, int]] = None
    align: str = "centre"
    fill: Optional[Tuple[int, ...]] = None
    grow: bool = True
    rounding: str = "nearest"
    multiple: int = 1
    shorter: Optional[int] = None
    longer: Optional[int] = None

    def fault(self) -> str:
        """What is wrong with it, as a clause; "" if nothing is."""
        known = (
            ("way", ("letterbox", "right", "multiple")), ("align", ("centre", "corner")),
            ("rounding", tuple(ROUNDINGS)),
        )  # fmt: skip
        for name, words in known:
            if getattr(self, name) not in words:
                return "%s must be one of %s, not %r" % (name, ", ".join(words), getattr(self, name))
        if not (self.size is None or is_size(self.size)):
            return "size must be height,width in pixels, not %r" % (self.size,)
        if not (self.fill is None or (isinstance(self.fill, tuple) and self.fill and all(map(_is_pixel, self.fill)))):
            return "fill must be none, or pixels from 0 to 255, not %r" % (self.fill,)
        if not isinstance(self.grow, bool):
            return "grow must be true or false, not %r" % (self.grow,)
        for name in ("multiple", "shorter", "longer"):
            value = getattr(self, name)
            if not (is_pixels(value) or (value is None and name != "multiple")):
                return "%s must be a whole number of pixels, not %r" % (name, value)
        if self.way == "letterbox" and self.size and any(side % self.multiple for side in self.size):
            return "size %dx%d is not a multiple of %d" % (*self.size, self.multiple)
        if self.way == "multiple" and self.size:
            return "the way multiple uses the size of the image, so it takes no size"
        return ""


@dataclass(frozen=True)
class Tiles:
    """Crops of one size that cover an image. Each crop is a sample. For networks that take a part of an image.

    Tiles are spread evenly and stay inside the image. An image that is smaller than a tile is padded with black at the
    bottom and at the right.

    Attributes:
        size: the size of a tile, (height, width) in pixels. None: the size of the network's input.
        overlap: the least number of pixels that neighbouring tiles share.

    Example:
        >>> how = nk.Preprocess(crop=nk.Tiles((128, 128), overlap=16))
        >>> len(how.places(200, 300))  # of an image of 200x300
        6
    """

    size: Optional[Tuple[int, int]] = None
    overlap: int = 0

    def fault(self) -> str:
        """What is wrong with it, as a clause; "" if nothing is."""
        if not (self.size is None or is_size(self.size)):
            return "size must be height,width in pixels, not %r" % (self.size,)
        if type(self.overlap) is not int or self.overlap < 0:
            return "overlap must be a whole number of pixels, not %r" % (self.overlap,)
        if self.size and self.overlap >= min(self.size):
            return "an overlap of %d leaves nothing of a tile of %dx%d" % (self.overlap, *self.size)
        return ""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a network's input. Sizes are (height, width) in pixels.

    Attributes:
        image: the size of the image.
        resized: its size after resizing.
        top, left: the position of the resized image in the input, in pixels; negative if it is cropped.
        input: the size of the input.

    Example:
        >>> found = Placement(image=(480, 640), resized=(240, 320), top=40, left=0, input=(320, 320))
        >>> found.to_image([[160.0, 160.0]]).tolist()
        [[320.0, 240.0]]
    """

    image: Tuple[int, int]
    resized: Tuple[int, int]
    top: int
    left: int
    input: Tuple[int, int]

    @property
    def scale(self) -> Tuple[float, float]:
        """(horizontal, vertical): pixels of the image per pixel of the input."""
        return self.image[1] / self.resized[1], self.image[0] / self.resized[0]

    def to_image(self, points: Any) -> Array:
        """Points of the input as points of the image, which may lie outside it.

        Args:
            points: (..., 2): x, y in pixels. x = 0 is the left edge of the first column, x = 1 its right edge.

        Returns:
            float64 of the same shape.
        """
        return (np.asarray(points, np.float64) - (self.left, self.top)) * self.scale

    def to_input(self, points: Any) -> Array:
        """Points of the image as points of the input; the inverse of :meth:`to_image`."""
        return np.asarray(points, np.float64) / self.scale + (self.left, self.top)


Resize = Union[int, Tuple[int, int], Fit, None]
Crop = Union[Tuple[int, int], Tiles, None]


def of_card(how: Dict[str, Any]) -> Tuple[Resize, Crop]:
    """(resize, crop) of ``preprocess`` from a card, which is JSON."""
    resize, crop = ({k: _immutable(v) for k, v in given.items()} if isinstance(given, dict) else _immutable(given)
                    for given in (how["resize"], how["crop"]))  # fmt: skip
    return (Fit(**resize) if isinstance(resize, dict) else resize), (Tiles(**crop) if isinstance(crop, dict) else crop)


def _immutable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def is_pixels(value: Any) -> bool:
    """Whether a value can be the length of a side in pixels."""
    return type(value) is int and 0 < value <= LARGEST_IMAGE  # True is an int to isinstance


def is_size(value: Any) -> bool:
    """Whether a value can be (height, width)."""
    return isinstance(value, tuple) and len(value) == 2 and all(map(is_pixels, value))


def _is_pixel(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


ROUNDINGS: Dict[str, Callable[[float], int]] = {"nearest": round, "down": math.floor, "up": math.ceil}
"""Name of a rounding -> the function that rounds a number of pixels."""


def places(resize: Resize, crop: Crop, height: int, width: int) -> List[Placement]:
    """The placement of an image in the network's input: one, or one for each tile.

    Args:
        resize, crop: how the image is resized and cropped; None: not.
        height, width: the size of the image in pixels.

    Raises:
        ValueError: the image is too long and thin to be resized.
    """
    image = (height, width)
    if isinstance(resize, Fit):
        resized, size = _fitted(resize, height, width)
    else:
        resized = size = _resized(resize, height, width)
    if max(resized[0] * resized[1], size[0] * size[1]) > LARGEST_IMAGE:
        raise ValueError("is too long and thin (%dx%d) to resize to %dx%d" % (width, height, *resized[::-1]))
    if isinstance(crop, Tiles):
        tile = crop.size or size
        tops, lefts = (_starts(length, side, crop.overlap) for length, side in zip(resized, tile))
        return [Placement(image, resized, -top, -left, tile) for top in tops for left in lefts]
    if crop:
        return [Placement(image, resized, -_margin(resized[0], crop[0]), -_margin(resized[1], crop[1]), crop)]
    centred = isinstance(resize, Fit) and resize.way == "letterbox" and resize.align == "centre"
    top, left = ((size[0] - resized[0]) // 2, (size[1] - resized[1]) // 2) if centred else (0, 0)
    return [Placement(image, resized, top, left, size)]


def _resized(resize: Union[int, Tuple[int, int], None], height: int, width: int) -> Tuple[int, int]:
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize
    longer = int(resize * max(height, width) / min(height, width))
    return (resize, longer) if height <= width else (longer, resize)


def _fitted(fit: Fit, height: int, width: int) -> Tuple[Tuple[int, int], Tuple[int, int]]:
    """(size of the resized image, size of the input)."""
    to_whole = ROUNDINGS[fit.rounding]
    if fit.way == "multiple":
        scale = max(1.0, fit.shorter / min(height, width)) if fit.shorter else 1.0
        scale = min(scale, fit.longer / max(height, width)) if fit.longer else scale
        # Truncated to whole pixels first, as PaddleOCR does.
        found = [max(1, to_whole(int(side * scale) / fit.multiple)) * fit.multiple for side in (height, width)]
        return (found[0], found[1]), (found[0], found[1])
    size = fit.size or (height, width)
    if fit.way == "right":
        return (size[0], max(1, min(to_whole(size[0] * (width / height)), size[1]))), size
    scale = min(size[0] / height, size[1] / width)
    scale = scale if fit.grow else min(scale, 1.0)
    rows, columns = (max(1, min(to_whole(side * scale), most)) for side, most in zip((height, width), size))
    if fit.multiple > 1:
        size = (-(-rows // fit.multiple) * fit.multiple, -(-columns // fit.multiple) * fit.multiple)
    return (rows, columns), size


def _margin(size: int, crop: int) -> int:
    """Where a centred crop begins. It rounds as torchvision does: half to even, or down if the crop is larger."""
    return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)


def _starts(length: int, tile: int, overlap: int) -> List[int]:
    """Where tiles begin on a side."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [(length - tile) * i // (count - 1) for i in range(count)]


# --------------------------------------------------------------------------------------------------------- resizing

_FRACTION = 2048  # OpenCV's INTER_RESIZE_COEF_SCALE


def resize_as_opencv(pixels: Array, height: int, width: int) -> Array:
    """OpenCV's ``resize(..., interpolation=INTER_LINEAR)`` of 8-bit pixels, bit-exact to OpenCV on x86.

    It does not antialias: a new pixel depends on two pixels of a line, even if the image is reduced. Weights have 11
    bits. If both sides are halved, a new pixel is the mean of four pixels. Source: ``resize.cpp`` of OpenCV's imgproc.

    Args:
        pixels: uint8 (H, W, C).
        height, width: the new size.

    Returns:
        uint8 (height, width, C).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[:2] == (2 * height, 2 * width):
        four = [pixels[i::2, j::2].astype(np.int32) for i in (0, 1) for j in (0, 1)]
        return ((sum(four) + 2) >> 2).astype(np.uint8)
    column, before_x, after_x = _neighbours(pixels.shape[1], width)
    # At the left and right edges OpenCV uses one pixel, but at the top and bottom edges twice the same pixel.
    alone = (column < 0) | (column >= pixels.shape[1] - 1)
    before_x[alone], after_x[alone] = _FRACTION, 0
    row, before_y, after_y = _neighbours(pixels.shape[0], height)
    lines = []
    for rows in (row, row + 1):
        line = pixels[np.clip(rows, 0, pixels.shape[0] - 1)]
        first, second = (line[:, np.clip(at, 0, pixels.shape[1] - 1)].astype(np.int32) for at in (column, column + 1))
        lines.append((first * before_x[:, None] + second * after_x[:, None]) >> 4)
    total = ((lines[0] * before_y[:, None, None]) >> 16) + ((lines[1] * after_y[:, None, None]) >> 16)
    return ((total + 2) >> 2).astype(np.uint8)


def _neighbours(before: int, after: int) -> Tuple[Array, Array, Array]:
    """For each new pixel: (index of the pixel before it, or -1; its weight; the weight of the next pixel)."""
    place = ((np.arange(after) + 0.5) * (1.0 / (after / before)) - 0.5).astype(np.float32)
    first = np.floor(place)
    part = place - first
    weights = [np.rint(share * np.float32(_FRACTION)).astype(np.int32) for share in (np.float32(1) - part, part)]
    return first.astype(np.int64), weights[0], weights[1]


# ----------------------------------------------------------------------------------------------------- 8 bits a pixel

DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of grey images with more than 8 bits."""

_WHITES = (1.0, 255.0, 65535.0, 2.0**32 - 1)  # the white of floats from 0 to 1, and of 8, 16 and 32 bits


def eight_bits(values: Array, mode: str) -> Array:
    """Grey values of more than 8 bits as uint8, rounded. (Pillow's convert() clips 16-bit values at 255, so to white.)

    Args:
        values: the values of the pixels.
        mode: one of :data:`DEEP`. A file of 32 bits (``I``, ``F``) does not say which value is white. It is the first
            of the usual values that is at least half of the largest pixel.
    """
    values = np.asarray(values)
    bands = np.array_split(values, max(1, values.size // _BAND))  # float64 takes memory
    found = np.empty(values.shape, np.uint8)
    white = _white(bands, mode) if mode in ("I", "F") else 0.0
    for band, made in zip(bands, np.array_split(found, len(bands))):
        exact = np.nan_to_num(band.astype(np.float64))
        made[:] = np.clip((exact * (255.0 / white) if white else exact / 257.0) + 0.5, 0, 255).astype(np.uint8)
    return found


_BAND = 1 << 20  # pixels that are computed at once


def _white(bands: List[Array], mode: str) -> float:
    most = max(np.nan_to_num(band.astype(np.float64)).max(initial=0.0) for band in bands)
    usual = _WHITES if mode == "F" else _WHITES[1:]
    return next((white for white in usual if most <= 2 * white), _WHITES[-1])


# ----------------------------------------------------------------------------------------------------------- values


def to_tensor(pixels: Array, place: Placement, how: Dict[str, Any]) -> Array:
    """The network's input from the resized image.

    Args:
        pixels: uint8 (H, W, C) of size ``place.resized``, with the colours in the order red, green, blue, alpha.
        place: the placement of the image in the input.
        how: ``preprocess`` from the model's card.

    Returns:
        C-contiguous float32 (channels, height, width), or (height, width, channels) if ``how["layout"]`` is hwc.
    """
    count = pixels.shape[2]
    order = [2, 1, 0, 3][:count] if how["color"].startswith("bgr") else list(range(count))
    rows, columns = (_shared(*line) for line in zip((place.top, place.left), place.resized, place.input))
    inner = np.ascontiguousarray(pixels[rows[1], columns[1]].transpose(2, 0, 1)[order], np.float32)
    _normalise(inner, how)
    fill = how["resize"].get("fill") if isinstance(how["resize"], dict) else [0]
    outside = np.zeros((count, 1, 1), np.float32)
    if fill is not None:
        outside[:, 0, 0] = fill
        _normalise(outside, how)
    tensor = np.empty((count, *place.input), np.float32)
    tensor[:] = outside
    tensor[:, rows[0], columns[0]] = inner
    return np.ascontiguousarray(tensor.transpose(1, 2, 0)) if how["layout"] == "hwc" else tensor


def _shared(start: int, length: int, size: int) -> Tuple[slice, slice]:
    """(part of the input's side that an image beginning at ``start`` covers, the same part of the image's side)."""
    first, last = max(start, 0), max(min(start + length, size), max(start, 0))
    return slice(first, last), slice(first - start, last - start)


def normalised(array: Array, how: Dict[str, Any]) -> Array:
    """A sample that is an array, as float32. It is normalised if ``how``, ``preprocess`` from the card, says so."""
    values = np.array(array, np.float32, order="C")
    if how["arrays"]:
        _normalise(np.moveaxis(values, -1, 0) if how["layout"] == "hwc" else values, how)
    return values


def _normalise(planes: Array, how: Dict[str, Any]) -> None:
    """Normalise float32 (channels, ...) in place. The order of operations gives the same rounding as torchvision."""
    planes /= np.float32(how["divisor"])
    planes -= _a_channel(how["mean"], planes)
    planes /= _a_channel(how["std"], planes)


def _a_channel(values: Sequence[float], planes: Array) -> Array:
    if len(values) == 1:
        return np.float32(values[0])
    return np.asarray(values, np.float32).reshape(-1, *[1] * (planes.ndim - 1))
