"""Makes the network's input tensors of files, one file for each input."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ncnnkit.app.python_parts.images import decode_pnm, in_color, read_image, resize
from ncnnkit.app.python_tasks.classification import JOINS_TILES
from ncnnkit.app.python_tasks.common import Failure, times
from ncnnkit.onboard.picture import (
    CHANNELS,
    OPENCV,
    Array,
    Placement,
    normalised,
    of_card,
    places,
    resize_as_opencv,
    to_tensor,
)
from ncnnkit.onboard.userfiles import LINES, WHOLE, check_regular, map_npy, read_npz, read_text

Facts = Dict[str, Any]
"""The content of infer.json, or a part of it."""

ARRAYS = (".npy", ".txt", ".csv")
"""Suffixes of files with one array. A ``.npz`` has an array for each input."""


@dataclass
class Input:
    """The input of the network.

    Attributes:
        tiles: for each tile of the image (or once), a float32 tensor for each input of the network.
        places: where the image lies in the tensor of each tile.
        pixels: of the image, uint8; None if there are only arrays.
    """

    tiles: List[Tuple[Array, ...]]
    places: List[Placement]
    pixels: Optional[Array] = None


def named_files(words: Sequence[str], facts: Facts) -> Tuple[Dict[str, Path], List[str]]:
    """(name of an input -> its file on the command line, the remaining words).

    The file of a single input needs no name. Several inputs may be in one .npz.
    """
    names = [row["name"] for row in facts["inputs"]]
    pairs = [word.partition("=") for word in words]
    given = {name: Path(file) for name, found, file in pairs if found and name in names}
    rest = [word for word, (name, found, _) in zip(words, pairs) if not (found and name in names)]
    if not given and rest and (len(names) == 1 or rest[0].endswith(".npz")):
        given = dict.fromkeys(names, Path(rest.pop(0)))
    missing = [name for name in names if name not in given]
    if missing:
        every = " ".join("%s=FILE" % name for name in names) if len(names) > 1 else "INPUT"
        raise Failure("the model needs %s%s" % (every, ": %s is missing" % missing[0] if given else ""))
    return given, rest


def read_inputs(given: Dict[str, Path], facts: Facts, tile: Optional[int] = None) -> Input:
    """Read the files of all inputs. The image is that of the main input. Raises Failure, which names the file."""
    found = []
    for row in facts["inputs"]:
        path = given[row["name"]]
        try:
            if path.is_dir():
                raise Failure("is a folder")
            if not path.is_file() or not path.stat().st_size:
                raise Failure("no such file, or an empty one")
            found.append(read_input(path, row, facts["may_swap"], tile))
        except Failure as failure:
            raise Failure("%s: %s" % (path, failure)) from None
    main = found[facts["main"]]
    if len(found) > 1 and any(len(each.tiles) > 1 for each in found):
        raise Failure("an image is cut into tiles, and the model takes several inputs: choose one with --tile")
    tiles = [tuple(each.tiles[0][0] for each in found)] if len(found) > 1 else main.tiles
    return Input(tiles, main.places, main.pixels)


def read_input(path: Path, row: Facts, may_swap: bool, tile: Optional[int] = None) -> Input:
    """Read the input ``row`` of the network from a file."""
    how = row["preprocess"]
    if path.suffix in (*ARRAYS, ".npz"):
        values = fitting(read_array(path, row["name"]), tuple(row["shape"]), path.suffix in (".npy", ".npz"))
        values = normalised(values, how) if how else values
        return Input([(values,)], [whole_input(row)])
    if how is None or how["color"] not in CHANNELS:
        raise Failure("the input %s takes arrays (.npy or text), not images" % row["name"])
    return from_pixels(read_image(path), row, may_swap, tile)


def from_pixels(pixels: Array, row: Facts, may_swap: bool, tile: Optional[int] = None) -> Input:
    """Make the input ``row`` of the network from an image."""
    tensors, found = prepare(pixels, {**row["preprocess"], "may_swap": may_swap}, tile)
    if tensors[0].shape != tuple(row["shape"]):
        raise Failure("becomes %s, but the network takes %s" % (times(tensors[0].shape), times(row["shape"])))
    return Input([(tensor,) for tensor in tensors], found, pixels)


def prepare(pixels: Array, how: Facts, tile: Optional[int] = None) -> Tuple[List[Array], List[Placement]]:
    """Prepare an image, uint8 (H, W) or (H, W, C). Returns a float32 tensor and a placement for each tile, or one."""
    pixels = in_color(pixels, CHANNELS[how["color"]])
    try:
        found = places(*of_card(how), *pixels.shape[:2])
    except ValueError as error:
        raise Failure(str(error)) from None
    if (tile or 0) >= len(found) or (tile is None and len(found) > 1 and not JOINS_TILES):
        raise Failure("is cut into tiles: choose one with --tile=0 to --tile=%d" % (len(found) - 1))
    found = found if tile is None else [found[tile]]
    height, width = found[0].resized
    if how["interpolation"] == OPENCV:
        pixels = resize_as_opencv(pixels, height, width)
    elif (height, width) != pixels.shape[:2]:
        pixels = resize(pixels, height, width, how["interpolation"], how["may_swap"])
    return [to_tensor(pixels, place, how) for place in found], found


def read_array(path: Path, name: str = "") -> Array:
    """Read a finite float32 array. From a ``.npz``, it is the array with this name, or the only one. Raises Failure."""
    try:
        if path.suffix == ".npz":
            arrays = read_npz(path)
            key = next(iter(arrays)) if len(arrays) == 1 else name
            if key not in arrays:
                raise Failure("contains no array %s: it has %s" % (name, ", ".join(arrays) or "none"))
            values = arrays[key]
        elif path.suffix == ".npy":
            check_regular(path, WHOLE)
            values = map_npy(path)
        else:
            values = np.array(read_text(path, LINES).replace(",", " ").replace(";", " ").split(), np.float32)
        if values.dtype.kind not in "fiub":
            raise Failure("does not contain numbers, but %s" % values.dtype)
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    except OSError as error:
        raise Failure("cannot be read: %s" % (error.strerror or error)) from None
    except (ValueError, EOFError, SyntaxError) as error:
        raise Failure("does not contain numbers: %s" % error) from None
    if not np.isfinite(values).all():
        raise Failure("contains NaN or infinity")
    return values


def fitting(values: Array, shape: Tuple[int, ...], shaped: bool) -> Array:
    """An array in the shape of an input. ``shaped``: its file has a shape, which must match up to a batch axis of 1."""
    if values.shape not in (shape, (1, *shape)) if shaped else values.size != math.prod(shape):
        raise Failure("has shape %s, but the network takes %s" % (times(values.shape), times(shape)))
    return np.ascontiguousarray(values.reshape(shape))


def whole_input(row: Facts) -> Placement:
    """The placement of an array, which fills the network's input."""
    shape = (1, *row["shape"])
    last = len(shape) == 4 and (row["preprocess"] or {}).get("layout") == "hwc"
    size = shape[1:3] if last else shape[-2:]
    return Placement(size, size, 0, 0, size)


def in_folder(folder: Path) -> List[Path]:
    """All files in a folder and its subfolders, in order, without hidden ones. Raises Failure if there are none."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise Failure("%s: contains no files" % folder)
    return found


def frames(stream: Any) -> Iterator[bytes]:
    """The PPM and PGM images in a stream, as FFmpeg writes them, one after the other."""
    while header := header_of(stream):
        words = header.split()
        sides = [int(word) for word in words[1:3] if word.isdigit()]
        if words[0] not in (b"P5", b"P6") or len(sides) < 2 or not all(0 < side <= 100000 for side in sides):
            raise Failure("stdin: contains data that is not a binary PPM or PGM")
        yield header + stream.read(math.prod(sides) * (3 if words[0] == b"P6" else 1))


def header_of(stream: Any) -> bytes:
    """The four words of a PPM's header, and the space after them, without comments; empty at the end of the stream."""
    header, comment = b"", False
    while len(header.split()) < 4 or not header[-1:].isspace():
        byte = stream.read(1)
        if not byte and header:
            raise Failure("stdin: ends within an image")
        if not byte or len(header) > 100:
            return header
        comment = (comment or byte == b"#") and byte != b"\n"
        header += b"" if comment else byte
    return header


def from_frame(data: bytes, row: Facts, may_swap: bool, tile: Optional[int]) -> Input:
    """Make the input ``row`` of the network from the bytes of a PPM or PGM."""
    return from_pixels(decode_pnm(data), row, may_swap, tile)


def each_input(word: str, facts: Facts, tile: Optional[int]) -> Iterator[Tuple[str, Callable[[], Input]]]:
    """(name, function that reads it) of each input in a folder, or on stdin if ``word`` is ``-``."""
    (row,) = facts["inputs"]
    if word == "-":
        for number, data in enumerate(frames(sys.stdin.buffer), 1):
            yield "frame %d" % number, partial(from_frame, data, row, facts["may_swap"], tile)
        return
    for path in in_folder(Path(word)):
        yield str(path), partial(read_inputs, {row["name"]: path}, facts, tile)
