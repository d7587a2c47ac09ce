"""How an image becomes the float32 input tensor of a network.

Calibration, evaluation and the shipped program share one :class:`Preprocess`. With Pillow's filters, the result equals
torchvision's presets on Pillow images bit by bit: Pillow resizes (antialiased), the centre crop rounds as torchvision
does, then ``(pixel / divisor - mean) / std`` is computed in float32. With ``opencv``, the resizing is that of OpenCV.
EXIF orientation is not applied, because ``PIL.Image.open`` and torchvision's data sets do not apply it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError
from ..onboard.picture import (
    CHANNELS,
    DEEP,
    OPENCV,
    Fit,
    Placement,
    Tiles,
    eight_bits,
    is_pixels,
    is_size,
    normalised,
    places,
    resize_as_opencv,
    to_tensor,
)

if TYPE_CHECKING:  # Pillow is imported when an image is read, so that importing ncnnkit is fast
    from PIL import Image

T = TypeVar("T")

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Name -> Pillow's ``Image.Resampling``."""

NO_IMAGE = "array"
"""The ``color`` of an input that takes arrays with any number of channels."""

_COLORS = (*CHANNELS, NO_IMAGE)
_INTERPOLATIONS = (*FILTERS, OPENCV)
_LAYOUTS = ("chw", "hwc")
_PILLOWS_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a tensor.

    Attributes:
        resize: an int: the new length of the shorter side in pixels, as in torchvision; (height, width): exactly this
            size, ignoring the aspect ratio; a Fit: a letterbox or another way to keep the aspect ratio; None: no
            resizing.
        interpolation: one of Pillow's filters (antialiased, as Pillow's are): nearest, bilinear, bicubic, lanczos, box
            or hamming. Or opencv: OpenCV's INTER_LINEAR, which is not antialiased.
        crop: (height, width): a centre crop in pixels, where smaller images are padded with black; Tiles: crops of one
            size that cover the image, each a sample; None: no crop.
        color: the order of the channels: rgb, bgr, gray, rgba or bgra; or array if the input takes arrays, not images.
        divisor: the pixels, 0 to 255, are first divided by this.
        mean: then this is subtracted, one value per channel in the order of ``color``.
        std: finally the values are divided by this, one value per channel in the order of ``color``.
        layout: the order of the tensor's axes: chw (channels, height, width) or hwc.
        arrays: whether divisor, mean and std apply to samples that are arrays, too. Otherwise such samples are fed
                unchanged. They are never resized.

    Raises:
        RecipeError: a value is out of range.

    Example:
        >>> how = nk.Preprocess(resize=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> how == nk.preset("imagenet")
        True
    """

    resize: int | tuple[int, int] | Fit | None = None
    interpolation: str = "bilinear"
    crop: tuple[int, int] | Tiles | None = None
    color: str = "rgb"
    divisor: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "chw"
    arrays: bool = False

    def __post_init__(self) -> None:
        for what, known in (("color", _COLORS), ("interpolation", _INTERPOLATIONS), ("layout", _LAYOUTS)):
            value = getattr(self, what)
            if not (isinstance(value, str) and value in known):
                raise RecipeError(f"unknown {what} {value!r}", hint=f"one of {', '.join(known)}")
        count = CHANNELS.get(self.color) or max(np.size(self.mean), np.size(self.std))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _per_channel(name, getattr(self, name), count))
        if not all(map(np.float32, self.std)):
            raise RecipeError("std must not be zero")
        if not (isinstance(self.divisor, int | float) and _is_float32(self.divisor) and np.float32(self.divisor) > 0):
            raise RecipeError(f"divisor must be a number above zero, not {self.divisor!r}")
        if not (self.resize is None or is_pixels(self.resize) or is_size(self.resize) or isinstance(self.resize, Fit)):
            raise RecipeError(f"resize must be pixels, height,width in pixels, or a Fit, not {self.resize!r}")
        if not (self.crop is None or is_size(self.crop) or isinstance(self.crop, Tiles)):
            raise RecipeError(f"crop must be height,width in pixels, or Tiles, not {self.crop!r}")
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if isinstance(value, Fit | Tiles) and value.fault():
                raise RecipeError(f"{name}: {value.fault()}")
        if isinstance(self.resize, Fit):
            if self.crop is not None:
                raise RecipeError(f"resize {self.resize.way} cannot be combined with a crop", hint="crop none")
            if self.resize.fill is not None and len(self.resize.fill) not in (1, self.channels):
                raise RecipeError(f"fill must be {self.channels} pixels, not {self.resize.fill!r}")
        if not isinstance(self.arrays, bool):
            raise RecipeError(f"arrays must be true or false, not {self.arrays!r}")

    @property
    def channels(self) -> int:
        """The number of channels of the tensor."""
        return len(self.mean)

    @property
    def resizes(self) -> bool:
        """Whether images of all sizes become tensors of one size."""
        if isinstance(self.resize, Fit):
            return self.resize.size is not None and self.resize.multiple == 1
        size = self.crop.size if isinstance(self.crop, Tiles) else self.crop or self.resize
        return isinstance(size, tuple)

    def shape_at(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a tensor of this (height, width)."""
        return (self.channels, *size) if self.layout == "chw" else (*size, self.channels)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the tensor of an image of this size. Raises ValueError as :meth:`apply` does."""
        return self.places(height, width)[0].input

    def places(self, height: int, width: int) -> list[Placement]:
        """The placements of an image of this size in the tensor: one, or one for each tile.

        Raises:
            ValueError: the image is too long and thin to be resized.
            RecipeError: the size of the input is unknown; see :meth:`fitted`.

        Example:
            >>> letterbox = nk.Preprocess(nk.Fit("letterbox", (320, 320)))
            >>> letterbox.places(480, 640)[0].to_image([0, 40]).tolist()
            [0.0, 0.0]
        """
        if self.waits_for_size:
            raise RecipeError(
                "the preprocessing lacks the size of the network's input", hint="fitted(height, width) sets it"
            )
        return places(self.resize, self.crop, height, width)

    def fitted(self, height: int, width: int) -> Preprocess:
        """The same preprocessing for an input of another size. Crop and resize are scaled together, as in timm.

        A Fit and Tiles take the new size. Other preprocessing that resizes without a crop stretches images to the new
        size.
        """
        size = (height, width)
        if isinstance(self.resize, Fit):
            known = self.resize.way != "multiple"
            return replace(self, resize=replace(self.resize, size=size, multiple=1) if known else size)
        if isinstance(self.crop, Tiles):
            return replace(self, crop=replace(self.crop, size=size))
        if self.crop is None:
            return self if self.resize in (None, size) else replace(self, resize=size)
        if self.crop == size:
            return self
        scale_h, scale_w = height / self.crop[0], width / self.crop[1]
        if isinstance(self.resize, int):
            # The larger of the two scales, so that the crop is never larger than the image.
            return replace(self, crop=size, resize=max(1, round(self.resize * max(scale_h, scale_w))))
        scaled = self.resize and (max(1, round(self.resize[0] * scale_h)), max(1, round(self.resize[1] * scale_w)))
        return replace(self, crop=size, resize=scaled)

    @property
    def waits_for_size(self) -> bool:
        """Whether it needs the size of the network's input; see :meth:`fitted`."""
        fit = self.resize if isinstance(self.resize, Fit) and self.resize.way != "multiple" else None
        return any(part is not None and part.size is None for part in (fit, self.crop) if not isinstance(part, tuple))

    def apply(self, image: Image.Image, tile: int = 0) -> NDArray[np.float32]:
        """The tensor of an image of any mode.

        Args:
            image: a Pillow image.
            tile: the index of the tile, if the image is cut into tiles.

        Returns:
            C-contiguous float32 array (channels, height, width), or (height, width, channels) if ``layout`` is hwc.

        Raises:
            ValueError: the image is too long and thin to be resized, or the input takes arrays.
            OSError: the image is truncated or broken.
        """
        if self.color == NO_IMAGE:
            raise ValueError("is an image, but the input takes arrays")
        image = _eight_bit(image).convert(_PILLOWS_MODES[self.channels])
        place = self.places(image.height, image.width)[tile]
        tensor: NDArray[np.float32] = to_tensor(resized(image, place.resized, self.interpolation), place, asdict(self))
        return tensor

    def apply_to_array(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """The tensor of a sample that is an array: its values are normalised if ``arrays`` says so."""
        tensor: NDArray[np.float32] = normalised(array, asdict(self))
        return tensor

    def in_words(self) -> dict[str, str]:
        """Name of a step -> a text that describes it."""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        values = f"(value / {self.divisor:g} - mean) / std; mean {mean}; std {std}"
        if self.color == NO_IMAGE:
            return {"values": values}
        antialiased = "not antialiased" if self.interpolation in (OPENCV, "nearest") else "antialiased"
        return {
            "resize": f"{_resize_in_words(self.resize)}, {self.interpolation}, {antialiased}"
            if self.resize
            else "none",
            "crop": _crop_in_words(self.crop),
            "colours": self.color if self.color == "gray" else self.color.upper(),
            "values": values,
            "axes": "channels, height, width" if self.layout == "chw" else "height, width, channels",
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values. :meth:`from_dict` makes an equal Preprocess from them."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`; absent keys take their defaults. Raises RecipeError."""
        given = dict(values)
        for name, kind in (("resize", Fit), ("crop", Tiles)):
            if isinstance(given.get(name), Mapping):
                given[name] = _made(kind, given[name], name)
        return _made(cls, given, "preprocessing")


def _made(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """A dataclass from JSON values."""
    known = [field.name for field in fields(cast(Any, kind))]
    unknown = set(values) - set(known)
    if unknown:
        raise RecipeError(f"{what} has no field {min(unknown)!r}", hint=f"one of {', '.join(known)}")
    if kind is Fit and "way" not in values:
        raise RecipeError(f"{what} has no way", hint='such as {way = "letterbox"}')
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _resize_in_words(resize: int | tuple[int, int] | Fit) -> str:
    if isinstance(resize, int):
        return f"the shorter side to {resize}"
    if isinstance(resize, tuple):
        return f"to {_sides(resize)}"
    if resize.way == "multiple":
        return f"to sides that are multiples of {resize.multiple}"
    fill = "zero in the tensor" if resize.fill is None else f"pixel {', '.join(map(str, resize.fill))}"
    if resize.way == "right":
        return f"at its aspect ratio to {_sides(resize.size)}, padded to the right with {fill}"
    where = "about the centre" if resize.align == "centre" else "below and to the right"
    small = "" if resize.grow else "; small images are not enlarged"
    return f"letterboxed to {_sides(resize.size)}, padded {where} with {fill}{small}"


def _crop_in_words(crop: tuple[int, int] | Tiles | None) -> str:
    if isinstance(crop, Tiles):
        return f"tiles of {_sides(crop.size)}, overlapping by {crop.overlap} or more"
    return f"{_sides(crop)} about the centre" if crop else "none"


def _sides(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]} (height x width)" if size else "the input's size"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """The pixels of an image, resized to this (height, width): uint8 (H, W, C)."""
    # Each channel separately, because Pillow would multiply the colours of an image with alpha by alpha.
    bands = image.split() if image.mode == "RGBA" else (image,)
    if interpolation != OPENCV and (image.height, image.width) != size:
        bands = tuple(band.resize((size[1], size[0]), FILTERS[interpolation]) for band in bands)
    pixels = np.dstack([np.asarray(band) for band in bands])
    return resize_as_opencv(pixels, *size) if interpolation == OPENCV else pixels


def _per_channel(name: str, given: Any, channels: int) -> tuple[float, ...]:
    try:
        values = tuple(map(float, np.atleast_1d(given)))
    except (TypeError, ValueError, OverflowError):
        values = ()
    values = values * channels if len(values) == 1 else values
    if not values or len(values) != channels or not all(map(_is_float32, values)):
        raise RecipeError(f"{name} must be {channels} numbers, not {given!r}")
    return values


def _is_float32(value: float) -> bool:
    return abs(value) <= float(np.finfo(np.float32).max)


def _eight_bit(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in DEEP:
        return Image.fromarray(eight_bits(image, image.mode))
    if image.mode == "P" and "transparency" in image.info:
        # Pillow drops transparency in any case; via RGBA it gives no warning.
        return image.convert("RGBA")
    # Pillow cannot convert LAB to grey, and its grey of YCbCr is not that of the RGB image.
    return image.convert("RGB") if image.mode in ("LAB", "YCbCr") else image
