"""How an image becomes the float32 tensor a network is fed with.

:class:`Preprocess` is one value that calibration and evaluation share. Its arithmetic
is that of torchvision's presets on Pillow images, bit for bit: Pillow resizes (antialiased), the centre crop rounds as
torchvision's does, then ``(pixel / divisor - mean) / std`` in float32. EXIF orientation is not applied, because
``PIL.Image.open`` and with it torchvision's data sets do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, RecipeError

if TYPE_CHECKING:  # Pillow itself is imported where an image is in hand, so that importing ncnnkit stays light
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pillow's Image.Resampling, by name.
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
_LARGEST = 100_000_000  # pixels after resizing; a 1x5000 strip would otherwise ask for gigabytes


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a tensor.

    Attributes:
        resize: a whole number: the new length of the shorter side in pixels, as in torchvision; (height, width):
            exactly this size, ignoring the aspect ratio; None: no resizing.
        interpolation: one of Pillow's filters (antialiased, as Pillow's are): nearest, bilinear, bicubic, lanczos, box
            or hamming.
        crop: centre crop, (height, width); smaller images are padded with black. None: no crop.
        color: order of the channels: rgb, bgr or gray.
        divisor: the first divisor of the pixels, which are 0 to 255.
        mean: subtracted after that, one value per channel in the order of ``color``.
        std: the divisor at the end, one value per channel in the order of ``color``.

    Raises:
        RecipeError: a value is out of range.
    """

    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    crop: tuple[int, int] | None = None
    color: str = "rgb"
    divisor: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for what, known in (("color", _CHANNELS), ("interpolation", _FILTERS)):
            value = getattr(self, what)
            if not (isinstance(value, str) and value in known):
                raise RecipeError(f"unknown {what} {value!r}", hint=f"one of {', '.join(known)}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _per_channel(name, getattr(self, name), self.channels))
        if not all(map(np.float32, self.std)):
            raise RecipeError("std must not be zero")
        if not (isinstance(self.divisor, int | float) and _is_float32(self.divisor) and np.float32(self.divisor) > 0):
            raise RecipeError(f"divisor must be a number above zero, not {self.divisor!r}")
        if not (self.resize is None or _is_pixels(self.resize) or _is_size(self.resize)):
            raise RecipeError(f"resize must be pixels, or height,width in pixels, not {self.resize!r}")
        if not (self.crop is None or _is_size(self.crop)):
            raise RecipeError(f"crop must be height,width in pixels, not {self.crop!r}")

    @property
    def channels(self) -> int:
        """1 for gray, else 3."""
        return _CHANNELS[self.color]

    @property
    def resizes(self) -> bool:
        """Whether images of all sizes become tensors of one size."""
        return self.crop is not None or isinstance(self.resize, tuple)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the tensor an image of this size becomes. Raises ValueError as :meth:`apply` does."""
        resized = self._resized(height, width)
        return self.crop or resized

    def fitted(self, height: int, width: int) -> Preprocess:
        """The same preprocessing for an input of another size: crop and resize scale together, as timm scales them.

        What has no crop is stretched to the input instead.
        """
        if self.crop is None:
            return self if self.resize in (None, (height, width)) else replace(self, resize=(height, width))
        if self.crop == (height, width):
            return self
        scale_h, scale_w = height / self.crop[0], width / self.crop[1]
        if isinstance(self.resize, int):
            # The larger of the two scales, so that the crop never runs over the edge.
            return replace(self, crop=(height, width), resize=max(1, round(self.resize * max(scale_h, scale_w))))
        size = self.resize and (max(1, round(self.resize[0] * scale_h)), max(1, round(self.resize[1] * scale_w)))
        return replace(self, crop=(height, width), resize=size)

    def apply(self, image: Image.Image) -> NDArray[np.float32]:
        """The tensor of an image of any mode.

        Returns:
            C-contiguous float32 array (channels, height, width).

        Raises:
            ValueError: the image is too long and thin to be resized.
            OSError: the image is truncated or broken.
        """
        image = _eight_bit(image).convert("L" if self.color == "gray" else "RGB")
        height, width = self._resized(image.height, image.width)
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if self.crop and self.crop != (height, width):
            top, left = _margin(height, self.crop[0]), _margin(width, self.crop[1])
            # Pillow fills what lies outside with black, as torchvision pads.
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        pixels = np.asarray(image)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self.color == "bgr":
            planes = planes[::-1]
        tensor = planes.astype(np.float32, order="C")
        # In place and in this order: each of torchvision's operations rounds to float32 once.
        tensor /= np.float32(self.divisor)
        tensor -= np.asarray(self.mean, np.float32)[:, None, None]
        tensor /= np.asarray(self.std, np.float32)[:, None, None]
        return tensor

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        longer = int(self.resize * max(height, width) / min(height, width))
        if self.resize * longer > _LARGEST:
            raise ValueError(f"is too long and thin ({width}x{height}) to resize to {self.resize}x{longer}")
        return (self.resize, longer) if height <= width else (longer, self.resize)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back to an equal value."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`; absent keys take their defaults. Raises RecipeError."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise RecipeError(f"preprocessing has no field {min(unknown)!r}")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)


def _per_channel(name: str, given: Any, channels: int) -> tuple[float, ...]:
    try:
        values = tuple(map(float, np.atleast_1d(given)))
    except (TypeError, ValueError):
        values = ()
    values = values * channels if len(values) == 1 else values
    if len(values) != channels or not all(map(_is_float32, values)):
        raise RecipeError(f"{name} must be {channels} numbers, not {given!r}")
    return values


def _is_float32(value: float) -> bool:
    return abs(value) <= float(np.finfo(np.float32).max)


def _is_pixels(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST  # True is an int to isinstance


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_pixels, value))


def _margin(size: int, crop: int) -> int:
    # torchvision's rounding: half to even where the crop fits, down where black is added.
    return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)


def _eight_bit(image: Image.Image) -> Image.Image:
    from PIL import Image

    # Pillow's own convert() clips 16-bit grey at 255: almost everything becomes white.
    if image.mode.startswith("I;16"):
        return Image.fromarray(_rounded(np.asarray(image).astype(np.float64) / 257.0))
    if image.mode in ("I", "F"):
        # Such a file does not say what white is: it is the first usual value that no pixel is more than twice of.
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        usual = _WHITES if image.mode == "F" else _WHITES[1:]
        white = next((white for white in usual if values.max(initial=0.0) <= 2 * white), _WHITES[-1])
        return Image.fromarray(_rounded(values * (255.0 / white)))
    if image.mode == "P" and "transparency" in image.info:
        # Pillow drops transparency here either way; through RGBA it does not warn about it.
        return image.convert("RGBA")
    return image


_WHITES = (1.0, 255.0, 65535.0, 2.0**32 - 1)  # of numbers from 0 to 1, and of 8, 16 and 32 bits


def _rounded(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------- presets

PRESETS = {
    "imagenet": Preprocess(resize=256, crop=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "efficientnet-lite0": Preprocess(resize=256, interpolation="bicubic", crop=(224, 224), mean=(0.5,), std=(0.5,)),
}


def preset(name: str) -> Preprocess:
    """Preprocessing by name.

    Args:
        name: a key of ``PRESETS``, or ``torchvision:NAME`` or ``timm:NAME`` for what that library's model was trained
            with (the library must be installed; nothing is downloaded).

    Raises:
        RecipeError: no such preset, or one that a Preprocess cannot express.
        ModelError: the library is not installed or has no such model.
    """
    library, _, model = name.partition(":")
    if model and library in _LIBRARIES:
        found = _LIBRARIES[library](model)
        if found is None:
            raise RecipeError(
                f"{name} has no image preprocessing that ncnnkit can use", hint="use --mean, --std, --resize"
            )
        return found
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}", hint=f"one of {', '.join(PRESETS)}, torchvision:NAME, timm:NAME")
    return PRESETS[name]


def default_preprocess(shape: tuple[int, ...]) -> Preprocess | None:
    """What is assumed for an input when nothing says how the model was trained: stretched to it, RGB, ImageNet's mean
    and std. None where an input of this shape does not take an image of one or three channels."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    size = (shape[1], shape[2])
    if shape[0] == 1:
        mean, std = float(np.mean(IMAGENET_MEAN)), float(np.mean(IMAGENET_STD))
        return Preprocess(resize=size, color="gray", mean=(mean,), std=(std,))
    return Preprocess(resize=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _torchvision_preset(name: str) -> Preprocess | None:
    try:
        from torchvision.models import get_model_weights
    except ImportError:
        raise _not_installed("torchvision", name) from None
    try:
        weights = get_model_weights(name)
    except ValueError:
        raise ModelError(f"torchvision has no model {name!r}", where=f"torchvision:{name}") from None
    return from_torchvision(getattr(weights, "DEFAULT", None))


def from_torchvision(weights: Any) -> Preprocess | None:
    """Preprocessing of a torchvision weights enum member; None where it has none for single images."""
    transform: Any = weights.transforms() if weights is not None else None
    kind = type(transform).__name__
    if kind not in ("ImageClassification", "SemanticSegmentation"):
        return None
    return Preprocess(
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        crop=(transform.crop_size[0],) * 2 if kind == "ImageClassification" else None,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _timm_preset(name: str) -> Preprocess | None:
    try:
        import timm
    except ImportError:
        raise _not_installed("timm", name) from None
    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        raise ModelError(f"timm has no model {name!r}", where=f"timm:{name}")
    return from_timm(timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))


def from_timm(config: Mapping[str, Any]) -> Preprocess | None:
    """Preprocessing of a timm data config, as ``timm.data.create_transform(**config)`` does it; None where it cannot be
    expressed (letterboxing, non-square centre crops)."""
    _, height, width = config["input_size"]
    scaled = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    squash = config["crop_mode"] == "squash"
    if config["crop_mode"] == "border" or (not squash and height != width):
        return None
    return Preprocess(
        resize=scaled if squash else scaled[0],
        interpolation=config["interpolation"],
        crop=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _not_installed(library: str, name: str) -> ModelError:
    return ModelError(
        f"{library} is not installed", where=f"{library}:{name}", hint="pip install torch torchvision timm"
    )


_LIBRARIES: dict[str, Callable[[str], Preprocess | None]] = {"torchvision": _torchvision_preset, "timm": _timm_preset}
