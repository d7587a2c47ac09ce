"""Finds samples: in folders, lists and tables of files, and arrays; from one source, or from one for each input."""

from __future__ import annotations

import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import ImageError, meant_path
from ..formatting import counted
from ..onboard.picture import Placement, Tiles
from ..onboard.userfiles import LINES, opened_image, read_text
from ..progress import Progress
from .axes import IMAGE_CHANNELS, ImageAxes, image_axes
from .files import compact
from .images import ImageSet, in_threads
from .items import (
    ArrayFile,
    Group,
    InputSpec,
    Item,
    Picture,
    Row,
    Window,
    array_sample,
    completed,
    fed,
    fit,
    image_input,
    open_arrays,
    reason,
    times,
)
from .preprocess import NO_IMAGE, Preprocess
from .presets import preset
from .sounds import SUFFIX, read_recording, takes_sound, windows

Sources = str | Mapping[str, str]
"""The source of samples: one path for all inputs of a network, or the name of each input -> its path."""

_ARRAY_SUFFIXES = (".npy", ".npz")
_LIST, _TABLE = ".txt", ".csv"
MOST_ROWS = 10_000_000
"""The largest number of samples in one file of arrays."""
_LONGEST_SHOWN = 200  # characters of a name in an error

T = TypeVar("T")


def paths(sources: Sources) -> list[str]:
    """The paths of sources."""
    return list(sources.values()) if isinstance(sources, Mapping) else [sources]


def in_words(sources: Sources) -> str:
    """Sources as the command line takes them.

    Example:
        >>> in_words({"left": "a/", "right": "b/"})
        'left=a/, right=b/'
    """
    return ", ".join(f"{name}={path}" for name, path in sources.items()) if isinstance(sources, Mapping) else sources


def open_images(
    source: str | Path | Mapping[str, str],
    preprocess: Preprocess | str | None,
    inputs: Sequence[InputSpec],
    progress: Progress | None = None,
) -> ImageSet:
    """Find the samples of a source. Every image file is decoded once to check it, and again when the sample is read.

    Args:
        source: one of

            - a folder (searched recursively; hidden files are ignored) or a list file (``.txt``, one path per line,
              relative to the list) of images, recordings (``.wav``), or ``.npy``/``.npz`` files of one sample each;
            - one such file. The array of a ``.npy``, and the arrays of a ``.npz`` (one for each input name), may also
              have the shape (N, ...);
            - a table (``.csv``) with a column for each input: input names in the first line, then one line with the
              paths for each sample, relative to the table;
            - a mapping from each input's name to its own source. Folders are matched by the names of their files
              without the extension, other sources by order. A single file is used for every sample.
        preprocess: how images become tensors. The name of a preset (see :func:`ncnnkit.preset`) is scaled to the size
            of the input; a Preprocess is used as it is, and scaled where there are several inputs. None is enough if
            there are no images. Arrays are fed to the network as they are, unless ``preprocess.arrays`` says that they
            are normalised.
        inputs: the network's inputs.
        progress: called with (checked, total).

    Returns:
        The samples, sorted by name (a list or table keeps its order). A sample is one float32 array per input, with the
        input's shape. A recording is cut into windows; see :mod:`ncnnkit.samples.sounds`. ``.skipped`` lists the files
        that cannot be used.

    Raises:
        ImageError: the source is missing, holds nothing usable, or does not fit the network's inputs.
        RecipeError: an unknown preset.

    Example:
        >>> images = nk.open_images("calib/", "imagenet", [nk.InputSpec("in0", (3, 224, 224))])
        >>> len(images), images.names[0], images[0][0].shape
        (20, '00.png', (3, 224, 224))

        For several inputs:

        >>> inputs = [nk.InputSpec("left", (3, 256, 512)), nk.InputSpec("right", (3, 256, 512))]
        >>> pairs = nk.open_images({"left": "calib/", "right": "calib/"}, nk.Preprocess((256, 512)), inputs)
        >>> pairs[0][1].shape
        (3, 256, 512)
    """
    if isinstance(preprocess, str):
        preprocess = fit(preset(preprocess), inputs)
    return find_images(source, preprocess, inputs).checked(progress=progress)


def find_images(
    source: str | Path | Mapping[str, str],
    preprocess: Preprocess | None,
    inputs: Sequence[InputSpec],
    progress: Progress | None = None,
) -> ImageSet:
    """Like :func:`open_images`, but reads only the beginning of each file, and decodes no image.

    :meth:`ImageSet.checked` finds the files that are damaged further on.
    """
    inputs = tuple(inputs)
    if isinstance(source, Mapping):
        return _one_for_each(source, preprocess, inputs, progress)
    source = Path(source)
    preprocess = completed(preprocess, inputs)
    if not source.exists():
        hint = meant_path(source) or "give a folder of images"
        if len(inputs) > 1:
            hint += f" for each input: {_each(inputs)}"
        raise ImageError("no such file or folder", where=str(source), hint=hint)
    if source.suffix.lower() == _TABLE:
        return _table(source, preprocess, inputs, progress)
    if source.suffix.lower() in _ARRAY_SUFFIXES:
        return _rows(source, inputs, preprocess)
    names = _folder(source) if source.is_dir() else _listed(source) if _is_list(source) else [source.name]
    if not names:
        raise ImageError("contains no files", where=str(source), hint="give a folder of images")
    look = _Looker.into(source if source.is_dir() else source.parent, inputs, preprocess, str(source))
    return _walked(names, look, names, inputs, str(source), progress)


def find_files(
    files: Sequence[str],
    preprocess: Preprocess | None,
    inputs: Sequence[InputSpec],
    progress: Progress | None = None,
    *,
    where: str,
) -> ImageSet:
    """Like :func:`find_images`, for files in the given order, such as those of a list file.

    Args:
        where: the name of the set of files, for errors.
    """
    inputs = tuple(inputs)
    missing = next((file for file in files if not os.path.isfile(file)), None)
    if missing is not None:
        raise ImageError(f"no such file: {missing}", where=where)
    look = _Looker.into(Path(), inputs, completed(preprocess, inputs), where)
    return _walked(files, look, files, inputs, where, progress)


def _is_list(source: Path) -> bool:
    return source.suffix.lower() == _LIST


Found = list[Item] | str
"""The samples of a file, or the reason why it cannot be used."""


def _walked(
    names: Sequence[str],
    look: Callable[[T], Found],
    entries: Sequence[T],
    inputs: tuple[InputSpec, ...],
    where: str,
    progress: Progress | None,
) -> ImageSet:
    """The samples that ``look`` finds in the named entries."""
    items: list[Item] = []
    skipped: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        # Oversized and unusual files are reported as skipped, so Pillow's warnings about them are not needed.
        warnings.simplefilter("ignore")
        for done, (name, found) in enumerate(zip(names, in_threads(look, entries)), 1):
            if isinstance(found, str):
                skipped.append((name, found))
            else:
                items += found
            if progress:
                progress(done, len(names))
    if not items:
        name, why = skipped[0]
        raise ImageError(f"no usable image in {counted(len(names), 'file')}; {name} {why}", where=where)
    return _of_one_rate(ImageSet(inputs, compact(items), tuple(skipped)), where)


def _of_one_rate(found: ImageSet, where: str) -> ImageSet:
    """The set. Raises ImageError if its recordings have different rates."""
    if len(found.rates) > 1:
        first = next(item for item in found.items if item.rate)
        other = next(item for item in found.items if item.rate and item.rate != first.rate)
        raise ImageError(
            f"{other.file} has {other.rate} samples a second, and {first.file} has {first.rate}: ncnnkit does not "
            "resample recordings",
            where=where,
            hint="resample them to the rate that the network was trained with: ffmpeg -i a.wav -ar 16000 b.wav",
        )
    return found


@dataclass(frozen=True)
class _Looker:
    """Finds the samples in the files of a folder."""

    folder: str
    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess | None
    misfit: ImageError | None

    @classmethod
    def into(cls, folder: Path, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None, where: str) -> _Looker:
        return cls(str(folder), inputs, preprocess, _misfit(preprocess, inputs, where))

    def __call__(self, name: str) -> Found:
        path = Path(self.folder, name)
        if path.suffix.lower() in _ARRAY_SUFFIXES:
            try:
                array_sample(path, self.inputs)
            except ImageError as error:
                return error.what
            return [ArrayFile(name, self.folder, self.inputs, self.preprocess)]
        if path.suffix.lower() == SUFFIX:
            return self._windows(name)
        found = _look_at_image(path, self.preprocess, image_input(self.inputs), self.misfit)
        if isinstance(found, str):
            return found
        assert self.preprocess is not None  # otherwise it would not fit
        tiles = range(len(found)) if isinstance(self.preprocess.crop, Tiles) else [None]
        return [Picture(name, self.folder, self.preprocess, tile) for tile in tiles]

    def _windows(self, name: str) -> Found:
        path = Path(self.folder, name)
        if len(self.inputs) != 1:
            raise _several_inputs("recordings", self.inputs, str(path))
        (spec,) = self.inputs
        if not takes_sound(spec.shape):
            raise ImageError(
                f"a recording cannot feed input {spec.name!r}, which takes {times(spec.shape)}",
                where=str(path),
                hint="a waveform has one or two channels: (N,), (1, N) or (2, N); compute other features yourself, and "
                "give .npy files",
            )
        try:
            recording = read_recording(str(path))
        except (OSError, ValueError) as error:
            return reason(error)
        channels = spec.size // spec.shape[-1]
        if recording.channels != channels:
            return f"has {counted(recording.channels, 'channel')}, but input {spec.name!r} takes {channels}"
        if not recording.samples:
            return "contains no samples"
        count = windows(recording.samples, spec.shape[-1])
        return [Window(name, self.folder, index, spec.shape, recording.rate) for index in range(count)]


def _several_inputs(what: str, inputs: Sequence[InputSpec], where: str) -> ImageError:
    names = ", ".join(spec.name for spec in inputs)
    return ImageError(
        f"{what} cannot feed a network with {len(inputs)} inputs ({names})",
        where=where,
        hint=f"{_each(inputs)}; or a .csv with these columns; or .npz files with one array per input name",
    )


def _each(inputs: Sequence[InputSpec]) -> str:
    return " ".join(f"--images {spec.name}=FOLDER" for spec in inputs)


def _one_for_each(
    sources: Mapping[str, str], preprocess: Preprocess | None, inputs: tuple[InputSpec, ...], progress: Progress | None
) -> ImageSet:
    """The samples of a network with a source for each input."""
    names, where = [spec.name for spec in inputs], in_words(sources)
    for name in [*sources, *names]:
        if name not in names or name not in sources:
            what = "the network has no input" if name not in names else "no source is given for the input"
            raise ImageError(f"{what} {name!r}", where=where, hint=f"its inputs: {', '.join(names)}")
    sets = [find_images(sources[s.name], _fed(preprocess, s, len(inputs)), [s], progress) for s in inputs]
    lead = max(sets, key=len)
    folders = all(Path(sources[name]).is_dir() for name in names)
    skipped = [skip for each in sets for skip in each.skipped]
    columns: list[Sequence[Item | None]] = []  # for each input, an item for each item of ``lead``
    for name, found in zip(names, sets):
        path = Path(sources[name])
        if len(found) == 1 and not path.is_dir() and not _is_list(path):
            columns.append(tuple(found.items) * len(lead))
        elif folders:
            columns.append(_by_stem(found, lead, sources[name]))
        elif len(found) == len(lead):
            columns.append(found.items)
        else:
            counts = ", ".join(f"{n}: {len(s)}" for n, s in zip(names, sets))
            hint = "give folders with files of the same names, or sources with as many samples"
            raise ImageError(f"the inputs have different numbers of samples ({counts})", where=where, hint=hint)
    items: list[Item] = []
    for item, *parts in zip(lead.items, *columns):
        known = tuple(part for part in parts if part is not None)
        if len(known) == len(names):
            items.append(Group(item.name, item.file, known, inputs))
        else:
            skipped.append((item.name, f"has no file of the same name for input {names[parts.index(None)]!r}"))
    if not items:
        raise ImageError(
            f"no files of the same name; the first are {' and '.join(each.items[0].name for each in sets)}",
            where=where,
            hint="give a .csv file with a column for each input",
        )
    return _of_one_rate(ImageSet(inputs, tuple(items), tuple(skipped)), where)


def _by_stem(found: ImageSet, lead: ImageSet, where: str) -> list[Item | None]:
    """The item that belongs to each item of ``lead``: the same tile or window of the file of that name, or the file."""
    named: dict[str, Item] = {}
    for item in found.items:
        first = named.setdefault(_stem(item.file) + _part(item), item)
        if first is not item:
            raise ImageError(f"{first.name} and {item.name} have the same name without their endings", where=where)
    return [named.get(_stem(item.file) + _part(item), named.get(_stem(item.file))) for item in lead.items]


def _part(item: Item) -> str:
    """The end of an item's name that identifies the tile or window of its file; empty if it is the whole file."""
    return item.name[len(item.file) :]


def _stem(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))


def _fed(preprocess: Preprocess | None, spec: InputSpec, inputs: int) -> Preprocess | None:
    """The preprocessing for one of several inputs."""
    if preprocess is None or image_axes(spec.shape) is None:
        return None
    return fed(preprocess, spec) if inputs > 1 else preprocess


def _table(
    source: Path, preprocess: Preprocess | None, inputs: tuple[InputSpec, ...], progress: Progress | None
) -> ImageSet:
    """The samples of a table: a column of paths for each input."""
    rows = [row for _, row in csv_rows(source)]
    header = [cell.strip() for cell in rows[0]] if rows else []
    names = [spec.name for spec in inputs]
    missing = [name for name in names if header.count(name) != 1]
    if missing:
        hint = f"the first line names the inputs: {','.join(names)}"
        raise ImageError(f"has no column {missing[0]!r}", where=f"{source}:1", hint=hint)
    columns = [header.index(name) for name in names]
    lines = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows[1:], 2) if any(row)]
    for number, cells in lines:
        for name, column in zip(names, columns):
            cell = cells[column] if column < len(cells) else ""
            if not cell or not os.path.isfile(source.parent / cell):
                what = f"no such file: {cell[:_LONGEST_SHOWN]}" if cell else "a cell is empty"
                raise ImageError(f"{what} (column {name})", where=f"{source}:{number}")
    if not lines:
        raise ImageError("contains no samples", where=str(source))
    entries = [[cells[column] for column in columns] for _, cells in lines]
    looks = [
        _Looker.into(source.parent, (s,), _fed(preprocess, s, len(inputs)), f"{source}, column {s.name}")
        for s in inputs
    ]
    # The first column without duplicates gives the samples their names.
    apart = next((column for column in zip(*entries) if len(set(column)) == len(entries)), None)
    called = apart or [f"{source.name}:{number}" for number, _ in lines]

    def look(entry: tuple[str, Sequence[str]]) -> Found:
        name, cells = entry
        parts = [each(cell) for each, cell in zip(looks, cells)]
        for cell, part in zip(cells, parts):
            if isinstance(part, str):
                return f"{cell} {part}" if cell != name else part
        found = [part for part in parts if not isinstance(part, str)]
        count = max(map(len, found))
        if any(len(part) not in (1, count) for part in found):
            return f"has {', '.join(str(len(part)) for part in found)} windows or tiles for its inputs"
        if len(inputs) == 1:
            return found[0]
        groups = [tuple(part[index % len(part)] for part in found) for index in range(count)]
        ends = [f"[{index}]" for index in range(count)] if count > 1 else [""]
        return [Group(name + end, name, parts, inputs) for parts, end in zip(groups, ends)]

    return _walked(called, look, list(zip(called, entries)), inputs, str(source), progress)


def _folder(root: Path) -> list[str]:
    """The files in a folder and its subfolders, relative to it, sorted."""
    files: list[str] = []
    seen: set[str] = set()  # folders may be links, and links may form a circle
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that a folder with two names is always found under the first one.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = Path(folder).relative_to(root).as_posix()
        prefix = "" if within == "." else f"{within}/"
        files += [prefix + name for name in names if not name.startswith(".")]
    return sorted(files)


def _listed(source: Path) -> list[str]:
    """The files in a list, with the names in the list."""
    files: list[str] = []
    for number, line in enumerate(text_lines(source), 1):
        name = line.strip()
        if name:
            if not os.path.isfile(source.parent / name):  # Path.is_file fails for a name that is too long
                raise ImageError(f"no such file: {name[:_LONGEST_SHOWN]}", where=f"{source}:{number}")
            files.append(name)
    return files


def files_of(folder: Path, names: Sequence[str], endings: Collection[str]) -> list[Path | None]:
    """The file of each sample in a folder of labels: the sample's name with another extension; None if there is none.

    Args:
        folder: the folder of the labels. It has the same subfolders as the samples, or, if names are unique, none.
        names: the names of the samples.
        endings: the extensions, the preferred ones first.
    """
    stems = [_stem(name) for name in names]  # also for a tile or window, where a number follows the extension
    last = [PurePosixPath(stem).name for stem in stems]
    folders = Counter(name for _, name in {*zip(stems, last)})
    found: list[Path | None] = []
    for stem, name in zip(stems, last):
        places = [folder / stem, *([folder / name] if folders[name] == 1 else [])]
        files = (place.parent / (place.name + end) for place in places for end in endings)
        found.append(next((file for file in files if os.path.isfile(file)), None))
    return found


def text_lines(path: Path, most: int = LINES) -> list[str]:
    """The lines of a UTF-8 text file of at most so many bytes. Raises ImageError.

    Bytes that are not UTF-8 become lone surrogates, as in file names, so that a line can name any file.
    """
    try:
        text = read_text(path, most, "utf-8-sig", "surrogateescape")
        if "\0" in text:
            raise ImageError("is not a text file", where=str(path))
        return text.splitlines()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", where=str(path)) from None


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of the rows of a .csv file. Raises ImageError."""
    reader = csv.reader(text_lines(path))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ImageError(f"is not a table: {error}", where=f"{path}:{reader.line_num}") from None


def _misfit(preprocess: Preprocess | None, inputs: tuple[InputSpec, ...], where: str) -> ImageError | None:
    """Why images with this preprocessing cannot be inputs of the network; None if they can."""
    if len(inputs) != 1:
        return _several_inputs("images", inputs, where)
    spec, axes = inputs[0], image_input(inputs)
    if axes is None:
        *counts, most = IMAGE_CHANNELS
        return ImageError(
            f"images cannot feed input {spec.name!r}, which takes {times(spec.shape)}: an image has "
            f"{', '.join(map(str, counts))} or {most} channels",
            where=where,
            hint="give a .npy of shape N x the input's; --mean, --std and --divisor apply to arrays, too",
        )
    if preprocess is None or preprocess.color == NO_IMAGE:
        return ImageError("images need preprocessing", where=where, hint="give a preset, or mean, std and resize")
    shape = preprocess.shape_at(preprocess.output_size(1, 1) if preprocess.resizes else (axes.height, axes.width))
    if shape == spec.shape:
        return None
    return ImageError(
        f"preprocessing gives {times(shape)}, but input {spec.name!r} takes {times(spec.shape)}",
        where=where,
        hint="change the shape, or resize and crop, or give a preset by its name, which is scaled to the input",
    )


def _look_at_image(
    path: Path, preprocess: Preprocess | None, axes: ImageAxes | None, misfit: ImageError | None
) -> list[Placement] | str:
    """The placements of an image in its samples, from the beginning of its file; or why it cannot be used.

    Raises ImageError if the file is valid, but the options do not suit it.
    """
    from PIL import UnidentifiedImageError

    try:
        with opened_image(path) as image:
            width, height = image.size
    except UnidentifiedImageError:
        return "is not an image"
    except Exception as error:  # decoders raise any exception for damaged files; the file is skipped and counted
        return reason(error)
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
    if max(counts) > MOST_ROWS:  # a file may be large and take no room on disk; each sample is an object in memory
        raise ImageError(f"has {max(counts)} samples, and at most {MOST_ROWS} are read", where=str(source))
    if len(counts) != 1:
        raise ImageError(f"its arrays have different lengths: {sorted(counts)}", where=str(source))

    return ImageSet(inputs, tuple(Row(source.name, tuple(arrays), i, preprocess) for i in range(counts.pop())))
