"""The samples of a set. An item stores where its data is, and is read when it is needed."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..older import Self, file_digest
from ..onboard.picture import Placement
from ..onboard.rows import Rows
from ..onboard.userfiles import map_npy, open_regular, opened_image, read_npz
from .axes import ImageAxes, image_axes
from .pictures import opened_picture
from .preprocess import Preprocess
from .sounds import window_of
from .stream import Sample

_HEAD = 4096  # bytes; enough to distinguish most files without reading them completely


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        name: its name in the model.
        shape: its shape without the batch axis; (channels, height, width) for an image.
        dtype: NumPy's name of the type that the original model takes. Samples are always float32.
        channels_last: whether the model's file takes (height, width, channels). Arrays of that shape are transposed.
        original: the shape in the original, if that is not (1, *shape): the original has no batch axis, or more axes
                than a blob of ncnn.

    Example:
        >>> nk.InputSpec("in0", (3, 224, 224)).size
        150528
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    channels_last: bool = False
    original: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def original_shape(self) -> tuple[int, ...]:
        """The shape that the original takes."""
        return (1, *self.shape) if self.original is None else self.original

    def as_original(self, array: NDArray[Any]) -> NDArray[Any]:
        """A sample's array in the shape and the type of the original."""
        return (array[None] if self.original is None else array.reshape(self.original)).astype(self.dtype)

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array in the axes of ``shape``, from one with the axes of the model's file; other arrays are not
        changed."""
        given = (*self.shape[1:], *self.shape[:1])
        return np.moveaxis(array, -1, -3) if self.channels_last and array.shape[-len(given) :] == given else array


def image_input(inputs: Sequence[InputSpec]) -> ImageAxes | None:
    """The axes of a network's only input; None if there are several, or if it does not take images."""
    return image_axes(inputs[0].shape) if len(inputs) == 1 else None


def fit(preprocess: Preprocess | None, inputs: Sequence[InputSpec]) -> Preprocess | None:
    """The preprocessing for inputs of this size; unchanged if they do not take images."""
    axes = image_input(inputs)
    if preprocess is None or axes is None:
        return preprocess
    return in_layout(preprocess.fitted(axes.height, axes.width), axes)


def completed(preprocess: Preprocess | None, inputs: Sequence[InputSpec]) -> Preprocess | None:
    """The preprocessing, completed from the network's input: the size, if it has none, and the layout."""
    axes = image_input(inputs)
    if preprocess is None or axes is None:
        return preprocess
    return fit(preprocess, inputs) if preprocess.waits_for_size else in_layout(preprocess, axes)


def fed(preprocess: Preprocess, spec: InputSpec) -> Preprocess:
    """The preprocessing for the images of one of several inputs, scaled to it. Arrays are fed unchanged."""
    fitted = fit(preprocess, (spec,))
    assert fitted is not None
    return replace(fitted, arrays=False)


def in_layout(preprocess: Preprocess, axes: ImageAxes) -> Preprocess:
    """The preprocessing with the input's order of axes, if it has the same number of channels."""
    return replace(preprocess, layout=axes.layout) if preprocess.channels == axes.channels else preprocess


def times(shape: Sequence[int]) -> str:
    """A shape as text: 3x224x224."""
    return "x".join(map(str, shape)) or "a scalar"


class Item(Protocol):
    """One sample that can be loaded. A set may have many thousands, so an item takes little memory.

    Objects that are common to all items of a set, such as ``folder``, are shared.
    """

    @property
    def picture(self) -> bool:
        """Whether it contains an image, which needs preprocessing."""
        ...

    @property
    def in_own_file(self) -> bool:
        """Whether another process can read it, because it is in a file with a path."""
        ...

    @property
    def rate(self) -> int:
        """The sample rate of its recording, Hz; 0 if there is none."""
        ...

    @property
    def name(self) -> str:
        """The name of its source, for the user."""
        ...

    @property
    def file(self) -> str:
        """A name that overlapping items share: the file of a tile; otherwise its own name."""
        ...

    def load(self) -> Sample:
        """Read the sample."""
        ...

    def placement(self) -> Placement | None:
        """The position of the image in the sample; None if there is no image."""
        ...

    def prepared(self, preprocess: Preprocess) -> Item:
        """The same item with its images prepared in another way."""
        ...

    def digest(self, whole: bool) -> bytes:
        """A hash of its content, 16 bytes; without ``whole``, only of its beginning."""
        ...

    def damage(self) -> str | None:
        """Why it cannot be read completely; None if it can. Decodes all of it."""
        ...


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, or a tile of one.

    Attributes:
        file: its name within ``folder``.
        tile: the index of the tile, if ``preprocess`` cuts the image into tiles; otherwise None.
    """

    file: str
    folder: str
    preprocess: Preprocess
    tile: int | None = None
    picture: ClassVar[bool] = True
    in_own_file: ClassVar[bool] = True
    rate: ClassVar[int] = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Picture, (self.file, os.path.abspath(self.folder), self.preprocess, self.tile)

    @property
    def name(self) -> str:
        return self.file if self.tile is None else f"{self.file}[{self.tile}]"

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.file)

    def load(self) -> Sample:
        with opened_picture(self.path) as image:
            return (self.preprocess.apply(image, self.tile or 0),)

    def placement(self) -> Placement:
        """The position of the image in the sample."""
        with opened_image(self.path) as image:
            return self.preprocess.places(image.height, image.width)[self.tile or 0]

    def prepared(self, preprocess: Preprocess) -> Picture:
        return replace(self, preprocess=preprocess)

    def digest(self, whole: bool) -> bytes:
        return _short(hashlib.sha256(b"%d " % (self.tile or 0) + _file_digest(self.path, whole)))

    def damage(self) -> str | None:
        try:
            with opened_picture(self.path) as image:
                # JPEG decodes to an eighth of its size several times faster, and this also detects truncated files.
                image.draft(None, (1, 1))
                image.load()
        except Exception as error:  # decoders raise any exception for damaged files; the file is skipped and counted
            return reason(error)
        return None


class _NoImage:
    """Base class of items without an image."""

    __slots__ = ()
    picture: ClassVar[bool] = False

    def placement(self) -> None:
        return None

    def prepared(self, preprocess: Preprocess) -> Self:
        return self

    def damage(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class ArrayFile(_NoImage):
    """A ``.npy`` or ``.npz`` file of one sample: ``name`` within ``folder``."""

    name: str
    folder: str
    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess | None
    in_own_file: ClassVar[bool] = True
    rate: ClassVar[int] = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayFile, (self.name, os.path.abspath(self.folder), self.inputs, self.preprocess)

    @property
    def file(self) -> str:
        return self.name

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)

    def load(self) -> Sample:
        return _as_fed(array_sample(Path(self.path), self.inputs), self.preprocess)

    def digest(self, whole: bool) -> bytes:
        return _file_digest(self.path, whole)


@dataclass(frozen=True, slots=True, eq=False)
class Row(_NoImage):
    """A row of arrays that hold many samples.

    Attributes:
        source: the name of the file, or of the argument with the arrays.
        arrays: (N, …) for each network input, in memory or in files.
        index: the index of the row.
        preprocess: tells whether values are normalised; None if they are not.
    """

    source: str
    arrays: tuple[NDArray[Any] | Rows, ...]
    index: int
    preprocess: Preprocess | None
    in_own_file: ClassVar[bool] = False
    rate: ClassVar[int] = 0

    @property
    def name(self) -> str:
        return f"{self.source}[{self.index}]"

    @property
    def file(self) -> str:
        return self.name

    def load(self) -> Sample:
        return _as_fed([array[self.index] for array in self.arrays], self.preprocess)

    def digest(self, whole: bool) -> bytes:
        parts = (array[self.index].reshape(-1)[: None if whole else _HEAD] for array in self.arrays)
        return _short(hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)))


@dataclass(frozen=True, slots=True)
class Window(_NoImage):
    """A window of a recording, with as many samples as the input takes.

    Attributes:
        file: its name within ``folder``.
        index: the index of the window. Windows are consecutive and do not overlap.
        shape: the shape of the input; samples are along its last axis.
        rate: the sample rate, Hz.
    """

    file: str
    folder: str
    index: int
    shape: tuple[int, ...]
    rate: int
    in_own_file: ClassVar[bool] = True

    def __reduce__(self) -> tuple[Any, ...]:
        return Window, (self.file, os.path.abspath(self.folder), self.index, self.shape, self.rate)

    @property
    def name(self) -> str:
        return f"{self.file}[{self.index}]"

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.file)

    def load(self) -> Sample:
        return (window_of(self.path, self.index, self.shape),)

    def digest(self, whole: bool) -> bytes:
        return _short(hashlib.sha256(b"%d " % self.index + _file_digest(self.path, whole)))


@dataclass(frozen=True, slots=True)
class Group:
    """A sample for several inputs: an item for each of them.

    Attributes:
        name: the name of the main item, to which the others belong.
        file: the file of that item.
        parts: the items, in the order of the inputs.
        inputs: the inputs.
    """

    name: str
    file: str
    parts: tuple[Item, ...]
    inputs: tuple[InputSpec, ...]

    @property
    def picture(self) -> bool:
        return any(part.picture for part in self.parts)

    @property
    def in_own_file(self) -> bool:
        return all(part.in_own_file for part in self.parts)

    @property
    def rate(self) -> int:
        return max(part.rate for part in self.parts)

    def load(self) -> Sample:
        return tuple(array for part in self.parts for array in part.load())

    def placement(self) -> Placement | None:
        return next((part.placement() for part in self.parts if part.picture), None)

    def prepared(self, preprocess: Preprocess) -> Group:
        return replace(self, parts=tuple(p.prepared(fed(preprocess, s)) for p, s in zip(self.parts, self.inputs)))

    def digest(self, whole: bool) -> bytes:
        return _short(hashlib.sha256(b"".join(part.digest(whole) for part in self.parts)))

    def damage(self) -> str | None:
        return next((damage for part in self.parts if (damage := part.damage())), None)


def _file_digest(path: str, whole: bool) -> bytes:
    with open_regular(path) as file:
        if whole:
            return _short(file_digest(file))
        return _short(hashlib.sha256(b"%d " % os.fstat(file.fileno()).st_size + file.read(_HEAD)))


def _short(digest: Any) -> bytes:
    """Half of a SHA-256, to save memory: 128 bits are enough to distinguish files."""
    return bytes(digest.digest()[:16])


def reason(error: BaseException) -> str:
    """The message of an error, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def open_arrays(path: Path, inputs: tuple[InputSpec, ...]) -> list[NDArray[Any]]:
    """The arrays of a .npy or .npz, one per network input."""
    try:
        # Memory-mapped, so that a .npy larger than memory is read sample by sample (a .npz is read whole). No pickles.
        with open_regular(path) as file:
            npz = file.read(2) == b"PK"
        arrays = read_npz(path) if npz else {inputs[0].name: map_npy(path)}
    except Exception as error:  # zipfile, struct and numpy raise different exceptions for damaged files
        raise ImageError(f"cannot be read as arrays: {reason(error)}", where=str(path)) from None
    if len(inputs) == len(arrays) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise ImageError(
            f"has no array {missing[0]!r} for the network's input of that name",
            where=str(path),
            hint=f"save a .npz file with the arrays {', '.join(spec.name for spec in inputs)}",
        )
    found = [spec.turned(arrays[spec.name]) for spec in inputs]
    for array in found:
        if array.dtype.kind not in "fiub":
            raise ImageError(f"contains {array.dtype}, not numbers", where=str(path))
    return found


def array_sample(path: Path, inputs: tuple[InputSpec, ...]) -> list[NDArray[Any]]:
    """The arrays of a file with one sample, with or without a batch axis of 1."""
    sample = []
    for array, spec in zip(open_arrays(path, inputs), inputs):
        if array.shape not in (spec.shape, (1, *spec.shape), spec.original_shape):
            raise ImageError(
                f"has shape {times(array.shape)}, but input {spec.name!r} takes {times(spec.shape)}", where=str(path)
            )
        sample.append(array.reshape(spec.shape))
    return sample


def _as_fed(arrays: Sequence[NDArray[Any]], preprocess: Preprocess | None) -> Sample:
    """A sample's arrays in the form that the network reads."""
    with np.errstate(over="ignore"):  # overflow gives infinity, which is refused when the sample is read
        if preprocess is not None and len(arrays) == 1:
            return (preprocess.apply_to_array(arrays[0]),)
        return tuple(np.array(array, np.float32, order="C") for array in arrays)
