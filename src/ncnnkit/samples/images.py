"""Samples for a network, from image files and arrays."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import ImageError
from ..formatting import counted
from ..onboard.picture import Placement, Tiles
from ..onboard.process import available_cores
from ..progress import Progress
from .axes import IMAGE_CHANNELS, ImageAxes
from .items import (
    ArrayFile,
    InputSpec,
    Item,
    Picture,
    Row,
    array_sample,
    completed,
    fit,
    image_input,
    open_arrays,
    reason,
    times,
)
from .preprocess import NO_IMAGE, Preprocess
from .presets import preset
from .stream import Sample, evenly

T = TypeVar("T")
R = TypeVar("R")

_ARRAY_SUFFIXES = (".npy", ".npz")
_THREADS = min(8, available_cores())
_CHUNK = 32  # entries that threads work on ahead: bounds the memory of a walk over a large set


@dataclass(frozen=True)
class ImageSet:
    """Samples that are decoded when they are asked for; iterating decodes in threads.

    Attributes:
        inputs: the network inputs each sample feeds, in order.
        items: the samples, sorted by name.
        skipped: (name, reason) of the files that are not usable samples.
        copies: (name, name of the sample with the same content) of the samples that were dropped for it.
        left_out: how many samples :meth:`checked` did not choose.
    """

    inputs: tuple[InputSpec, ...]
    items: tuple[Item, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    left_out: int = 0

    @property
    def pictures(self) -> bool:
        """Whether any sample is an image; arrays need no preprocessing."""
        return any(item.picture for item in self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """File names relative to the source, or ``name[index]`` for rows of an array."""
        return tuple(item.name for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """One float32 C-contiguous array per network input, without batch axis.

        Raises:
            ImageError: the sample does not fit the network, contains NaN or infinity, or can no longer be read.
        """
        item = self.items[index]
        try:
            sample = item.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"can no longer be read: {reason(error)}", where=item.name) from None
        for spec, array in zip(self.inputs, sample):
            if array.shape != spec.shape:
                raise ImageError(
                    f"has shape {times(array.shape)}, but input {spec.name!r} takes {times(spec.shape)}",
                    where=item.name,
                )
            if not np.isfinite(array).all():
                raise ImageError(f"contains NaN or infinity for input {spec.name!r}", where=item.name)
        return sample

    def placement(self, index: int) -> Placement | None:
        """Where the image lies in a sample, to bring what a network finds back to the image; None for an array."""
        item = self.items[index]
        return item.placement() if isinstance(item, Picture) else None

    def __iter__(self) -> Iterator[Sample]:
        return in_threads(self.__getitem__, range(len(self)))

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The samples at these positions, in this order."""
        return replace(self, items=tuple(self.items[i] for i in indices))

    @property
    def only_pictures(self) -> bool:
        """Whether all samples are images."""
        return all(item.picture for item in self.items)

    def prepared(self, preprocess: Preprocess | None) -> ImageSet:
        """The same samples, with the images prepared in another way; None changes nothing."""
        if preprocess is None:
            return self
        items = (replace(i, preprocess=preprocess) if isinstance(i, Picture) else i for i in self.items)
        return replace(self, items=tuple(items))

    def resized(self, inputs: Sequence[InputSpec]) -> ImageSet | None:
        """The same images for inputs of another size; None where some samples are arrays, tiles, or not resized."""
        inputs, items = tuple(inputs), list[Item]()
        for item in self.items:
            if not (isinstance(item, Picture) and image_input(inputs)):
                return None
            fitted = fit(item.preprocess, inputs)
            if fitted is None or not fitted.resizes or item.tile is not None:
                return None
            items.append(replace(item, preprocess=fitted))
        return replace(self, inputs=inputs, items=tuple(items))

    def split(self, every: int = 5) -> tuple[ImageSet, ImageSet]:
        """(calibration, evaluation): every ``every``-th sample is held out, or image with all its tiles.

        Raises:
            ImageError: there are fewer than that.
        """
        files = {file: i for i, file in enumerate(dict.fromkeys(item.file for item in self.items))}
        if len(files) < every:
            copies = f" ({len(self.copies)} copies of others were dropped)" if self.copies else ""
            raise ImageError(
                f"too few images to hold out every {every}th one: {len(files)}{copies}",
                hint="give more images, or evaluation images with --eval-images",
            )
        held = [files[item.file] % every == every - 1 for item in self.items]
        return self.subset([i for i, out in enumerate(held) if not out]), self.subset(
            [i for i, out in enumerate(held) if out]
        )

    def distinct(self) -> ImageSet:
        """The samples without those whose content an earlier one has; ``copies`` names them."""
        dropped = {i: first for first, *others in _same_content(self.items) for i in others}
        kept = tuple(item for i, item in enumerate(self.items) if i not in dropped)
        found = tuple((self.items[i].name, self.items[first].name) for i, first in sorted(dropped.items()))
        return replace(self, items=kept, copies=self.copies + found)

    def checked(self, at_most: int | None = None, progress: Progress | None = None) -> ImageSet:
        """The samples that can be decoded to their end; the others join ``skipped``.

        Args:
            at_most: choose so many, evenly spread over the set, and decode no others. Where one is damaged, another
                takes its place.
            progress: called with (samples checked, samples to check).

        Raises:
            ImageError: none can be decoded.
        """
        wanted = len(self) if at_most is None else min(at_most, len(self))
        next_ones = evenly(len(self), wanted)
        untried = sorted(set(range(len(self))) - set(next_ones))
        good: list[int] = []
        damaged: list[tuple[str, str]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about odd files
            while next_ones:
                for i, reason in zip(next_ones, in_threads(lambda i: self.items[i].damage(), next_ones)):
                    if reason is None:
                        good.append(i)
                    else:
                        damaged.append((self.items[i].name, reason))
                    if progress:
                        progress(len(good) + len(damaged), wanted + len(damaged))
                next_ones = [untried[i] for i in evenly(len(untried), wanted - len(good))]
                untried = [i for i in untried if i not in set(next_ones)]
        if not good and damaged:
            raise ImageError(f"no usable image in {counted(len(damaged), 'file')}; {' '.join(damaged[0])}")
        return replace(self.subset(sorted(good)), skipped=(*self.skipped, *damaged), left_out=len(untried))


def apart(calibration: ImageSet, evaluation: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Two distinct sets that share no content: what is in both leaves the larger one, and joins its ``copies``.

    Errors on images that int8 was calibrated with look smaller than they are.

    Raises:
        ImageError: one of the sets would be empty.
    """
    both = (*calibration.items, *evaluation.items)
    edge = len(calibration)
    shared: dict[int, int] = {}  # position in the calibration set -> position in the evaluation set
    for group in _same_content(both):
        ours, theirs = [i for i in group if i < edge], [i for i in group if i >= edge]
        shared |= {i: theirs[0] - edge for i in ours[:1] if theirs}
    if not shared:
        return calibration, evaluation
    if len(shared) == max(len(calibration), len(evaluation)):
        raise ImageError(
            f"all {len(shared)} evaluation images are also calibration images",
            hint="omit --eval-images: every fifth image is then held out",
        )
    if len(calibration) > len(evaluation):
        copies = tuple((calibration.items[i].name, evaluation.items[j].name) for i, j in shared.items())
        left = calibration.subset([i for i in range(edge) if i not in shared])
        return replace(left, copies=calibration.copies + copies), evaluation
    copies = tuple((evaluation.items[j].name, calibration.items[i].name) for i, j in shared.items())
    gone = set(shared.values())
    left = evaluation.subset([j for j in range(len(evaluation)) if j not in gone])
    return calibration, replace(left, copies=evaluation.copies + copies)


def dropped_copies(first: ImageSet, second: ImageSet) -> list[tuple[str, str]]:
    """(name, name of the sample with the same content) of what was dropped from either set.

    Both halves of one folder know the same copies; a list may name one file several times.
    """
    return list((Counter(first.copies) | Counter(second.copies)).elements())


def in_threads(function: Callable[[T], R], entries: Sequence[T]) -> Iterator[R]:
    """``function`` of each entry, in order, computed in threads a few entries ahead.

    :meth:`concurrent.futures.Executor.map` would make an object of 2 kB for every entry before the first is done.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(entries), _CHUNK):
            yield from pool.map(function, entries[start : start + _CHUNK])


def _same_content(items: Sequence[Item]) -> list[list[int]]:
    """Positions of items that hold the same, two or more each. Beginnings are compared first: reading all is slow."""
    groups: list[Sequence[int]] = [range(len(items))]
    for whole in (False, True):
        finer: list[Sequence[int]] = []
        for group in groups:
            firsts: dict[bytes, int] = {}
            alike: dict[int, list[int]] = {}  # few: most files have no copy
            for i in group:
                try:
                    first = firsts.setdefault(items[i].digest(whole), i)
                except OSError:  # gone meanwhile, and said where it is read
                    continue
                if first != i:
                    alike.setdefault(first, [first]).append(i)
            finer += alike.values()
        groups = finer
    return [list(group) for group in groups]


def open_images(
    source: str | Path,
    preprocess: Preprocess | str | None,
    inputs: Sequence[InputSpec],
    progress: Progress | None = None,
) -> ImageSet:
    """Find the samples of a source. This checks every image file, and decodes it again when the sample is read.

    Args:
        source: a folder (searched recursively; hidden files are ignored), a list file (``.txt``, a path a line,
            relative to the list), one image, or arrays: ``.npy`` with shape (N, ...) or that of one sample, ``.npz``
            with one array per network input name. Files in a folder or list may be images, or ``.npy``/``.npz`` of one
            sample each. Arrays are fed to the network as they are, unless ``preprocess.arrays`` says that they are
            normalised.
        preprocess: how images become tensors. The name of a preset (see :func:`ncnnkit.preset`) is scaled to the size
            of the input; a Preprocess is used as it is. None is enough if there are only arrays.
        inputs: the network's inputs.
        progress: called with (checked, total).

    Returns:
        The samples, sorted by name (a list file keeps its order). A sample is one float32 array per input, with the
        input's shape. ``.skipped`` lists the files that cannot be used.

    Raises:
        ImageError: the source is missing, holds nothing usable, or does not fit the network's inputs.
        RecipeError: an unknown preset.

    Example:
        >>> images = open_images("calib/", "imagenet", [InputSpec("in0", (3, 224, 224))])  # doctest: +SKIP
    """
    if isinstance(preprocess, str):
        preprocess = fit(preset(preprocess), inputs)
    return find_images(source, preprocess, inputs).checked(progress=progress)


def find_images(
    source: str | Path, preprocess: Preprocess | None, inputs: Sequence[InputSpec], progress: Progress | None = None
) -> ImageSet:
    """As :func:`open_images`, but no image is decoded yet: only the beginnings of the files are read.

    :meth:`ImageSet.checked` finds those that are damaged further on.
    """
    source, inputs = Path(source), tuple(inputs)
    preprocess = completed(preprocess, inputs)
    if not source.exists():
        raise ImageError("no such file or folder", where=str(source), hint="give a folder of images")
    folder = source if source.is_dir() else source.parent
    if source.is_dir():
        names = _folder(source)
    elif source.suffix.lower() == ".txt":
        names = _listed(source)
    elif source.suffix.lower() in _ARRAY_SUFFIXES:
        return _rows(source, inputs, preprocess)
    else:
        names = [source.name]
    if not names:
        raise ImageError("contains no files", where=str(source), hint="give a folder of images")
    misfit, axes = _misfit(preprocess, inputs, source), image_input(inputs)

    def look(name: str) -> list[Item] | str:
        path = folder / name
        if path.suffix.lower() in _ARRAY_SUFFIXES:
            try:
                array_sample(path, inputs)
            except ImageError as error:
                return error.what
            return [ArrayFile(name, root, inputs, preprocess)]
        found = _look_at_image(path, preprocess, axes, misfit)
        if isinstance(found, str):
            return found
        assert preprocess is not None  # else it would not fit
        tiles = range(len(found)) if isinstance(preprocess.crop, Tiles) else [None]
        return [Picture(name, root, preprocess, tile) for tile in tiles]

    root = str(folder)
    items: list[Item] = []
    skipped: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        # Oversized and odd files are reported as skipped; Pillow's warnings about them would only repeat it.
        warnings.simplefilter("ignore")
        for done, (name, found) in enumerate(zip(names, in_threads(look, names)), 1):
            if isinstance(found, str):
                skipped.append((name, found))
            else:
                items += found
            if progress:
                progress(done, len(names))
    if not items:
        name, reason = skipped[0]
        raise ImageError(f"no usable image in {counted(len(names), 'file')}; {name} {reason}", where=str(source))
    return ImageSet(inputs, tuple(items), tuple(skipped))


def _folder(root: Path) -> list[str]:
    """The files in a folder and those within, relative to it, sorted."""
    files: list[str] = []
    seen: set[str] = set()  # folders may be links, and links may form a circle
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # In order: of two names of one folder it is always the first that counts.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = Path(folder).relative_to(root).as_posix()
        prefix = "" if within == "." else f"{within}/"
        files += [prefix + name for name in names if not name.startswith(".")]
    return sorted(files)


def _listed(source: Path) -> list[str]:
    """The files that a list names, as it names them."""
    files: list[str] = []
    for number, line in enumerate(text_lines(source), 1):
        name = line.strip()
        if name:
            if not (source.parent / name).is_file():
                raise ImageError(f"no such file: {name}", where=f"{source}:{number}")
            files.append(name)
    return files


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises ImageError.

    Bytes that are not UTF-8 are read as Python reads those of file names, so that a line can name any file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        if "\0" in text:
            raise ImageError("is not a text file", where=str(path))
        return text.splitlines()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _misfit(preprocess: Preprocess | None, inputs: tuple[InputSpec, ...], source: Path) -> ImageError | None:
    """Why no image could feed this network as it is prepared; None where one can."""
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        return ImageError(
            f"images cannot feed a network with {len(inputs)} inputs ({names})",
            where=str(source),
            hint="give a .npz with one array per input name",
        )
    spec, axes = inputs[0], image_input(inputs)
    if axes is None:
        *counts, most = IMAGE_CHANNELS
        return ImageError(
            f"images cannot feed input {spec.name!r}, which takes {times(spec.shape)}: an image has "
            f"{', '.join(map(str, counts))} or {most} channels",
            where=str(source),
            hint="give a .npy of shape N x the input's; --mean, --std and --divisor apply to arrays, too",
        )
    if preprocess is None or preprocess.color == NO_IMAGE:
        return ImageError("images need preprocessing", where=str(source), hint="give a preset, or mean, std and resize")
    shape = preprocess.shape_at(preprocess.output_size(1, 1) if preprocess.resizes else (axes.height, axes.width))
    if shape == spec.shape:
        return None
    return ImageError(
        f"preprocessing gives {times(shape)}, input {spec.name!r} takes {times(spec.shape)}",
        where=str(source),
        hint="change the shape, or resize and crop, or give a preset by its name, which is scaled to the input",
    )


def _look_at_image(
    path: Path, preprocess: Preprocess | None, axes: ImageAxes | None, misfit: ImageError | None
) -> list[Placement] | str:
    """Where an image lies in its samples, as far as the beginning of its file tells; why it cannot be used, if so.

    Raises ImageError where the file is fine and the options are not.
    """
    from PIL import Image, UnidentifiedImageError

    if path.exists() and not path.is_file():
        return "is not a file"  # a pipe would be waited for without end
    try:
        with Image.open(path) as image:
            width, height = image.size
    except UnidentifiedImageError:
        return "is not an image"
    except Exception as error:  # whatever a decoder trips over in a damaged file: it is skipped and counted
        return reason(error)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        return f"is suspiciously large ({width}x{height} pixels)"
    if misfit is not None or preprocess is None or axes is None:
        raise misfit or ImageError("images need preprocessing", where=str(path))
    try:
        found = preprocess.places(height, width)
    except ValueError as error:
        return str(error)
    if found[0].input != (axes.height, axes.width):
        raise ImageError(
            f"becomes {times(found[0].input)}, but the network takes {axes.height}x{axes.width}",
            where=str(path),
            hint=f"resize to the input: --resize {axes.height},{axes.width}",
        )
    return found


def _rows(source: Path, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None) -> ImageSet:
    """A .npy or .npz file of many samples, or of one."""
    arrays = []
    for array, spec in zip(open_arrays(source, inputs), inputs):
        array = array[None] if array.shape == spec.shape else array
        if array.shape[1:] != spec.shape:
            raise ImageError(
                f"has shape {times(array.shape)}, but input {spec.name!r} takes N x {times(spec.shape)}",
                where=str(source),
            )
        arrays.append(array)
    counts = {len(array) for array in arrays}
    if counts == {0}:
        raise ImageError("contains no samples", where=str(source))
    if len(counts) != 1:
        raise ImageError(f"its arrays have different lengths: {sorted(counts)}", where=str(source))

    return ImageSet(inputs, tuple(Row(source.name, tuple(arrays), i, preprocess) for i in range(counts.pop())))
