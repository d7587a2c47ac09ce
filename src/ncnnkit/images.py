"""Images and arrays -> the float32 tensors a network is fed with.

:class:`Preprocess` is one value that calibration, evaluation, the worker and an emitted app all share. Its arithmetic
is that of torchvision's presets on Pillow images, bit for bit: Pillow resizes (antialiased), the centre crop rounds as
torchvision's does, then ``(pixel / divisor - mean) / std`` in float32. EXIF orientation is not applied, because
``PIL.Image.open`` and with it torchvision's data sets do not.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import ImageError, ModelError, RecipeError

Sample = tuple[NDArray[np.float32], ...]
"""One float32 array per network input, without batch axis."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILTERS = {filter.name.lower(): filter for filter in Image.Resampling}
_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
_ARRAY_SUFFIXES = (".npy", ".npz")
_LARGEST = 100_000_000  # pixels after resizing; a 1x5000 strip would otherwise ask for gigabytes
_THREADS = min(8, os.cpu_count() or 1)
_CHUNK = 32  # samples decoded ahead: bounds the memory of iterating over a large set


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        name: the model's own name for it.
        shape: without the batch axis; (channels, height, width) for an image.
        dtype: numpy's name of the type the original model takes. Samples are float32 whatever it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


# ---------------------------------------------------------------------------------------------------- preprocessing


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a tensor.

    Attributes:
        resize: int: the shorter side becomes this many pixels, as in torchvision; (height, width): exactly that,
            ignoring the aspect ratio; None: no resizing.
        interpolation: one of Pillow's filters (antialiased, as Pillow's are): nearest, bilinear, bicubic, lanczos, box
            or hamming.
        crop: centre crop, (height, width); smaller images are padded with black. None: no crop.
        color: rgb, bgr or gray.
        divisor: pixels (0 to 255) are divided by it first.
        mean: subtracted then, one value a channel in the order of ``color``.
        std: divided by at the end, one value a channel.

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
        if self.color not in _CHANNELS:
            raise RecipeError(f"unknown colour order {self.color!r}", hint=f"one of {', '.join(_CHANNELS)}")
        if self.interpolation not in _FILTERS:
            raise RecipeError(f"unknown interpolation {self.interpolation!r}", hint=f"one of {', '.join(_FILTERS)}")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            values = values * self.channels if len(values) == 1 else values
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise RecipeError(f"{name} must be {self.channels} numbers, not {values}")
            object.__setattr__(self, name, values)
        if not all(self.std):
            raise RecipeError("std must not be zero")
        if not (math.isfinite(self.divisor) and self.divisor > 0):
            raise RecipeError(f"divisor must be above zero, not {self.divisor}")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if size is None or (isinstance(size, int) and size > 0 and name == "resize"):
                continue
            if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
                raise RecipeError(f"{name} must be height,width in pixels, not {size!r}")

    @property
    def channels(self) -> int:
        """1 for gray, else 3."""
        return _CHANNELS[self.color]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the tensor an image of this size becomes."""
        return self.crop or self._resized(height, width)

    def fitted(self, height: int, width: int) -> Preprocess:
        """The same preprocessing for an input of another size: crop and resize scale together, as timm scales them."""
        if self.crop is None:
            return self if self.resize in (None, (height, width)) else replace(self, resize=(height, width))
        if self.crop == (height, width):
            return self
        scale_h, scale_w = height / self.crop[0], width / self.crop[1]
        if isinstance(self.resize, int):
            # The larger of the two scales, so that the crop never runs over the edge.
            return replace(self, crop=(height, width), resize=round(self.resize * max(scale_h, scale_w)))
        size = self.resize and (round(self.resize[0] * scale_h), round(self.resize[1] * scale_w))
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
            raise RecipeError(f"preprocessing has no {min(unknown)!r}")
        try:
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"preprocessing cannot be read: {error}") from None


def _margin(size: int, crop: int) -> int:
    # torchvision's rounding: half to even where the crop fits, down where black is added.
    return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own convert() clips 16-bit grey at 255: almost everything becomes white.
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if values.size and values.min() >= 0 and values.max() <= 1 else 1.0
        return Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        # Pillow drops transparency here either way; through RGBA it does not warn about it.
        return image.convert("RGBA")
    return image


# ---------------------------------------------------------------------------------------------------- presets

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
                f"{name} has no image preprocessing that can be taken over", hint="use --mean, --std, --resize"
            )
        return found
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}", hint=f"one of {', '.join(PRESETS)}, torchvision:NAME, timm:NAME")
    return PRESETS[name]


def default_preprocess(spec: InputSpec) -> Preprocess:
    """What is assumed when nothing says how a model was trained: stretched to the input, RGB, ImageNet mean and std.

    Raises:
        ImageError: the input is not an image of one or three channels.
    """
    if len(spec.shape) != 3 or spec.shape[0] not in (1, 3):
        raise ImageError(
            f"input {spec.name!r} of shape {_times(spec.shape)} does not take an image",
            hint="give arrays: .npy or .npz",
        )
    if spec.shape[0] == 1:
        grey_mean, grey_std = float(np.mean(IMAGENET_MEAN)), float(np.mean(IMAGENET_STD))
        return Preprocess(resize=spec.shape[1:], color="gray", mean=(grey_mean,), std=(grey_std,))
    return Preprocess(resize=spec.shape[1:], mean=IMAGENET_MEAN, std=IMAGENET_STD)


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
    crop = transform.crop_size if kind == "ImageClassification" else None
    return Preprocess(
        resize=_side(transform.resize_size),
        interpolation=transform.interpolation.value,
        crop=None if crop is None else (crop[0], crop[-1]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _side(size: Sequence[int] | None) -> int | tuple[int, int] | None:
    return None if size is None else size[0] if len(size) == 1 else (size[0], size[1])


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
    expressed (letterboxing, non-square centre crops, other than three channels)."""
    channels, height, width = config["input_size"]
    scaled = tuple(math.floor(side / (config["crop_pct"] or 0.875)) for side in (height, width))
    squash = config["crop_mode"] == "squash"
    if channels != 3 or config["crop_mode"] == "border" or (not squash and scaled[0] != scaled[1]):
        return None
    return Preprocess(
        resize=(scaled[0], scaled[1]) if squash else scaled[0],
        interpolation=config["interpolation"] if config["interpolation"] in _FILTERS else "bilinear",
        crop=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _not_installed(library: str, name: str) -> ModelError:
    return ModelError(f"{library} is not installed", where=f"{library}:{name}", hint="pip install 'ncnnkit[torch]'")


_LIBRARIES: dict[str, Callable[[str], Preprocess | None]] = {"torchvision": _torchvision_preset, "timm": _timm_preset}


# ---------------------------------------------------------------------------------------------------- image sets


@dataclass(frozen=True)
class _Item:
    """One sample that can be loaded: where it comes from, and how."""

    name: str
    load: Callable[[], Sample]


@dataclass(frozen=True)
class ImageSet:
    """Samples that are decoded when they are asked for; iterating and stacking decode in threads.

    Attributes:
        inputs: the network inputs each sample feeds, in order.
        items: the samples, sorted by name.
        skipped: (name, reason) of the files that are not usable images.
    """

    inputs: tuple[InputSpec, ...]
    items: tuple[_Item, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """File names relative to the source, or ``name[index]`` for rows of an array."""
        return tuple(item.name for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """One float32 C-contiguous array per network input, without batch axis.

        Raises:
            ImageError: the sample does not fit the network, holds NaN or infinity, or can no longer be read.
        """
        item = self.items[index]
        try:
            sample = item.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"can no longer be read: {_reason(error)}", where=item.name) from None
        for spec, array in zip(self.inputs, sample):
            if array.shape != spec.shape:
                raise ImageError(
                    f"gives {_times(array.shape)} where input {spec.name!r} takes {_times(spec.shape)}", where=item.name
                )
            if not np.isfinite(array).all():
                raise ImageError(f"holds NaN or infinity for input {spec.name!r}", where=item.name)
        return sample

    def __iter__(self) -> Iterator[Sample]:
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(self), _CHUNK):
                yield from pool.map(self.__getitem__, range(start, min(start + _CHUNK, len(self))))

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The samples at these positions, in this order."""
        return replace(self, items=tuple(self.items[i] for i in indices))

    def split(self, every: int = 5) -> tuple[ImageSet, ImageSet]:
        """(calibration, evaluation): every ``every``-th sample is held out. Raises ImageError for fewer than that."""
        if len(self) < every:
            raise ImageError(
                f"{len(self)} images are too few to hold out every {every}th",
                hint="give more, or others to evaluate on with --eval-images",
            )
        held = set(range(every - 1, len(self), every))
        return self.subset([i for i in range(len(self)) if i not in held]), self.subset(sorted(held))

    def stack(self, progress: Progress | None = None) -> tuple[NDArray[np.float32], ...]:
        """All samples at once: one float32 array (N, ...) per network input. Raises ImageError."""
        arrays = tuple(np.empty((len(self), *spec.shape), np.float32) for spec in self.inputs)
        for index, sample in enumerate(self):
            for array, value in zip(arrays, sample):
                array[index] = value
            if progress:
                progress(index + 1, len(self))
        return arrays


def open_images(
    source: str | Path, preprocess: Preprocess | None, inputs: Sequence[InputSpec], progress: Progress | None = None
) -> ImageSet:
    """Find the samples of a source. Every image file is checked whole now, and becomes a tensor when it is asked for.

    Args:
        source: a folder (searched recursively; hidden files are ignored), a list file (``.txt``, a path a line,
            relative to the list), one image, or arrays: ``.npy`` with shape (N, ...) or that of one sample, ``.npz``
            with one array per network input name. Files in a folder or list may be images, or ``.npy``/``.npz`` of one
            sample each. Arrays are fed to the network as they are: ``preprocess`` is for images.
        preprocess: None is enough where there are only arrays.
        inputs: the network's inputs.
        progress: called with (checked, total).

    Returns:
        The samples sorted by name (a list file keeps its order); files that are not images are in ``.skipped``.

    Raises:
        ImageError: the source is missing, holds nothing usable, or does not fit the network's inputs.
    """
    source, inputs = Path(source), tuple(inputs)
    if not source.exists():
        raise ImageError("no such file or folder", where=str(source), hint="give a folder of images")
    if source.is_dir():
        files = _folder(source)
    elif source.suffix.lower() == ".txt":
        files = _listed(source)
    elif source.suffix.lower() in _ARRAY_SUFFIXES:
        return _rows(source, inputs)
    else:
        files = [(source.name, source)]
    if not files:
        raise ImageError("holds no files", where=str(source), hint="give a folder of images")

    pictures = any(path.suffix.lower() not in _ARRAY_SUFFIXES for _, path in files)
    if pictures:
        _check_fits(preprocess, inputs, source)

    def check(entry: tuple[str, Path]) -> _Item | str:
        name, path = entry
        if path.suffix.lower() in _ARRAY_SUFFIXES:
            _array_sample(path, inputs)
            return _Item(name, lambda: tuple(map(_float, _array_sample(path, inputs))))
        assert preprocess is not None  # _check_fits saw to it
        reason = _why_unusable(path, preprocess, inputs[0])
        return reason or _Item(name, lambda: (_read(path, preprocess),))

    items: list[_Item] = []
    skipped: list[tuple[str, str]] = []
    with ThreadPoolExecutor(_THREADS) as pool, warnings.catch_warnings():
        # Oversized and odd files are reported as skipped; Pillow's warnings about them would only repeat it.
        warnings.simplefilter("ignore")
        for done, ((name, _), found) in enumerate(zip(files, pool.map(check, files)), 1):
            if isinstance(found, str):
                skipped.append((name, found))
            else:
                items.append(found)
            if progress:
                progress(done, len(files))
    if not items:
        name, reason = skipped[0]
        raise ImageError(f"none of {len(files)} files is a usable image; {name} {reason}", where=str(source))
    return ImageSet(inputs, tuple(items), tuple(skipped))


def _folder(root: Path) -> list[tuple[str, Path]]:
    files = []
    seen: set[str] = set()  # folders may be links, and links may form a circle
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        files += [] if real in seen else [Path(folder, name) for name in names if not name.startswith(".")]
        seen.add(real)
    return sorted((path.relative_to(root).as_posix(), path) for path in files)


def _listed(source: Path) -> list[tuple[str, Path]]:
    files = []
    for number, line in enumerate(_text_lines(source), 1):
        if line.strip():
            path = source.parent / line.strip()
            if not path.is_file():
                raise ImageError(f"no such file: {line.strip()}", where=f"{source}:{number}")
            files.append((line.strip(), path))
    return files


def _text_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ImageError("is not a text file", where=str(path)) from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _check_fits(preprocess: Preprocess | None, inputs: tuple[InputSpec, ...], source: Path) -> None:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise ImageError(
            f"images cannot feed a network with {len(inputs)} inputs ({names})",
            where=str(source),
            hint="give a .npz with one array per input name",
        )
    if preprocess is None:
        raise ImageError(
            "images need preprocessing", where=str(source), hint="use --preset, or --mean, --std and --resize"
        )
    spec = inputs[0]
    fixed = preprocess.crop or (preprocess.resize if isinstance(preprocess.resize, tuple) else None)
    size = (preprocess.channels, *(fixed or spec.shape[1:]))
    if len(spec.shape) != 3 or spec.shape != size:
        raise ImageError(
            f"preprocessing gives {_times(size)}, input {spec.name!r} takes {_times(spec.shape)}",
            where=str(source),
            hint="change --shape, --resize or --preset",
        )


def _why_unusable(path: Path, preprocess: Preprocess, spec: InputSpec) -> str | None:
    """Why a file cannot be used, None if it can. Raises ImageError where the file is fine and the options are not."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
                return f"is suspiciously large ({width}x{height} pixels)"
            size = preprocess.output_size(height, width)
            # JPEG decodes to an eighth of its size several times faster, and that finds a truncation just as well.
            image.draft(None, (1, 1))
            image.load()
    except UnidentifiedImageError:
        return "is not an image"
    except Exception as error:  # whatever a decoder trips over in a damaged file: it is skipped and counted
        return _reason(error)
    if size != spec.shape[1:]:
        raise ImageError(
            f"becomes {_times(size)}, the network takes {_times(spec.shape[1:])}",
            where=str(path),
            hint=f"resize to the input: --resize {spec.shape[1]},{spec.shape[2]}",
        )
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: Path, preprocess: Preprocess) -> NDArray[np.float32]:
    with Image.open(path) as image:
        return preprocess.apply(image)


def _open_arrays(path: Path, inputs: tuple[InputSpec, ...]) -> list[NDArray[Any]]:
    """The arrays of a .npy or .npz, one per network input."""
    try:
        # Read-only mapping: a set larger than memory is paged in sample by sample. Pickles are refused.
        data = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(data, np.ndarray):
            arrays = {inputs[0].name: data}
        else:
            with data:
                arrays = {key: data[key] for key in data.files}
    except Exception as error:  # zipfile, struct and numpy each raise their own for damaged files
        raise ImageError(f"cannot be read as arrays: {_reason(error)}", where=str(path)) from None
    if len(inputs) == len(arrays) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise ImageError(
            f"has no array {missing[0]!r} for the network's input of that name",
            where=str(path),
            hint=f"save a .npz with the arrays {', '.join(spec.name for spec in inputs)}",
        )
    found = [arrays[spec.name] for spec in inputs]
    for array in found:
        if array.dtype.kind not in "fiub":
            raise ImageError(f"holds {array.dtype}, not numbers", where=str(path))
    return found


def _array_sample(path: Path, inputs: tuple[InputSpec, ...]) -> list[NDArray[Any]]:
    """The arrays of a file that holds one sample, with or without a batch axis of 1."""
    sample = []
    for array, spec in zip(_open_arrays(path, inputs), inputs):
        if array.shape not in (spec.shape, (1, *spec.shape)):
            raise ImageError(
                f"has shape {_times(array.shape)}, input {spec.name!r} takes {_times(spec.shape)}", where=str(path)
            )
        sample.append(array.reshape(spec.shape))
    return sample


def _rows(source: Path, inputs: tuple[InputSpec, ...]) -> ImageSet:
    """A .npy or .npz file of many samples, or of one."""
    arrays = []
    for array, spec in zip(_open_arrays(source, inputs), inputs):
        array = array[None] if array.shape == spec.shape else array
        if array.shape[1:] != spec.shape:
            raise ImageError(
                f"has shape {_times(array.shape)}, input {spec.name!r} takes N x {_times(spec.shape)}",
                where=str(source),
            )
        arrays.append(array)
    counts = {len(array) for array in arrays}
    if counts == {0}:
        raise ImageError("holds no samples", where=str(source))
    if len(counts) != 1:
        raise ImageError(f"its arrays have different lengths: {sorted(counts)}", where=str(source))

    def row(index: int) -> _Item:
        return _Item(f"{source.name}[{index}]", lambda: tuple(_float(array[index]) for array in arrays))

    return ImageSet(inputs, tuple(row(i) for i in range(counts.pop())))


def _float(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.array(array, np.float32, order="C")


# ---------------------------------------------------------------------------------------------------- labels


def read_labels(path: str | Path, names: Sequence[str], classes: Sequence[str] | None = None) -> NDArray[np.int64]:
    """The right class of each image.

    Args:
        path: a text file. Either a line per image, ``file name<space, tab or comma>class`` (in any order; lines about
            other files are ignored), or just a class index a line, in the order of ``names``.
        names: the images, as ``ImageSet.names``. A line may give the bare file name where that is unique.
        classes: class names, so that a class may be written as its name; else it must be an index.

    Returns:
        int64 array (N,) of class indices.

    Raises:
        ImageError: with the line number: a class that does not exist, an image named twice with different classes, or
            a file that is about other images; an image without a label.
    """
    path = Path(path)
    lines = [(number, line.strip()) for number, line in enumerate(_text_lines(path), 1) if line.strip()]
    if not lines:
        raise ImageError("holds no labels", where=str(path))
    known = {name.casefold(): index for index, name in enumerate(classes or ())}
    counts = Counter(name.casefold() for name in classes or ())

    def parse(text: str, number: int) -> int:
        where = f"{path}:{number}"
        if re.fullmatch(r"-?\d+", text):
            if int(text) < 0 or (classes and int(text) >= len(classes)):
                limit = f"0 to {len(classes) - 1}" if classes else "0 or above"
                raise ImageError(f"class {text} is out of range ({limit})", where=where)
            return int(text)
        name = text.strip("\"'").casefold()
        if counts[name] > 1:
            raise ImageError(f"several classes are called {text!r}", where=where, hint="give the index")
        if name not in known:
            hint = "give a class index or one of the model's class names" if classes else "give a class index"
            raise ImageError(f"no class is called {text!r}", where=where, hint=hint)
        return known[name]

    if all(re.fullmatch(r"-?\d+", line) for _, line in lines):
        if len(lines) != len(names):
            raise ImageError(
                f"{len(lines)} labels for {len(names)} images",
                where=f"{path}:{lines[min(len(lines), len(names) + 1) - 1][0]}",
                hint="write 'file name, class' lines where some images were skipped",
            )
        return np.array([parse(line, number) for number, line in lines], np.int64)

    places = _places(names)
    found: dict[int, int] = {}
    for number, line in lines:
        place, text = _divide(line, places)
        if place is None:
            if not re.search(r"[\s,]", line):
                raise ImageError("is neither 'file name, class' nor a class index", where=f"{path}:{number}")
            continue
        label = parse(text, number)
        if found.setdefault(place, label) != label:
            raise ImageError(f"{names[place]} has another class on an earlier line", where=f"{path}:{number}")
    missing = [name for index, name in enumerate(names) if index not in found]
    if not found:
        raise ImageError("names none of the images", where=f"{path}:{lines[0][0]}", hint=f"the first is {names[0]}")
    if missing:
        raise ImageError(f"has no label for {missing[0]} ({len(missing)} of {len(names)} images)", where=str(path))
    return np.array([found[index] for index in range(len(names))], np.int64)


def _places(names: Sequence[str]) -> dict[str, int]:
    """What a label line may call an image -> its position."""
    places: dict[str, int] = {}
    base = [name.rsplit("/", 1)[-1] for name in names]
    counts = Counter(base)
    places.update({name: index for index, name in enumerate(base) if counts[name] == 1})
    places.update({name: index for index, name in enumerate(names)})
    return places


def _divide(line: str, places: Mapping[str, int]) -> tuple[int | None, str]:
    # File names and class names may both hold spaces and commas: the file name is the shortest start that is an image.
    for match in re.finditer(r"[\s,]+", line):
        name = line[: match.start()].strip("\"'").removeprefix("./")
        if name in places:
            return places[name], line[match.end() :].strip()
    return None, ""
