"""Files that a user gives. Nothing else of ncnnkit opens them.

Such a file may be a pipe, which blocks for ever, a device such as ``/dev/zero``, which never ends, or a small archive
that says it holds gigabytes. So a file is opened only if it is a regular file, read only up to a limit for its kind,
and unpacked only if what it declares is within a limit. A folder in its place is the usual IsADirectoryError.

The Python app contains the code of this file.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Dict, Iterator, Optional, Tuple

import numpy as np

SETTINGS = 16 << 20
"""Bytes of the largest recipe, card or other file of settings."""
LINES = 128 << 20
"""Bytes of the largest list of files, file of labels, table, ``.param`` or run.json."""
COCO = 512 << 20
"""Bytes of the largest file of COCO's format. COCO's own has 470 MB."""
WHOLE = 2 << 30
"""Bytes of the largest other file that is read as a whole. It is also the limit of protobuf, and so of ONNX."""
UNPACKED = 1 << 30
"""Bytes of the arrays of the largest ``.npz``, which is read as a whole. A ``.npy`` may have any size."""

MEMBERS = 10000
"""Arrays in the largest ``.npz``. Each takes time, however small it is."""
HEADER = 1 << 16
"""Bytes of the longest header of a ``.npy``. NumPy refuses longer ones, but only after it has read them."""

_KINDS = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def check_regular(path: Any, most: Optional[int] = None) -> None:
    """Refuse what must not be opened. For a library that opens the file itself.

    Args:
        path: the file.
        most: the largest size, in bytes; None: any.

    Raises:
        OSError: it is no regular file, is larger than that, or does not exist.
    """
    _check(os.stat(path), path, most)


def _check(found: os.stat_result, path: Any, most: Optional[int]) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, "it is %s, not a file" % kind, str(path))
    if most is not None and found.st_size > most:
        text = "it has %.0f MB, and at most %.0f MB are read" % (found.st_size / 1e6, most / 1e6)
        raise OSError(errno.EFBIG, text, str(path))


def open_regular(path: Any, most: Optional[int] = None) -> BinaryIO:
    """Open a file to read its bytes; see :func:`check_regular`."""
    check_regular(path, most)  # opening a device may already do something
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()), path, most)
    except BaseException:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open as ``os.open`` does; a pipe that has taken the place of a file meanwhile would block."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: Any, most: int = WHOLE) -> bytes:
    """The content of a file; see :func:`check_regular`."""
    with open_regular(path, most) as file:
        data = file.read(most + 1)
    if len(data) > most:  # files of /proc have the size 0
        raise OSError(errno.EFBIG, "more than %.0f MB come out of it" % (most / 1e6), str(path))
    return data


def read_text(path: Any, most: int = SETTINGS, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file, with line ends as ``open`` makes them; see :func:`check_regular`. Raises UnicodeDecodeError,
    too."""
    return read_bytes(path, most).decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")


# ------------------------------------------------------------------------------------------------------------- arrays


def read_npz(path: Any, most: int = UNPACKED) -> Dict[str, Any]:
    """The arrays of a ``.npz`` file by their names. What they declare is added up before any is read.

    Raises:
        OSError: see :func:`check_regular`.
        ValueError: it is no such file, an array has no numbers, or together they have more than ``most`` bytes.
    """
    import zipfile
    import zlib

    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) > MEMBERS:
                    raise ValueError("it has %d arrays, and at most %d are read" % (len(members), MEMBERS))
                size = sum(_declared(archive, info) for info in members)
                if size > most:
                    text = "its arrays have %.0f MB, and at most %.0f MB are read (.npy files may be larger)"
                    raise ValueError(text % (size / 1e6, most / 1e6))
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (zipfile.BadZipFile, EOFError, LookupError, RuntimeError, zlib.error) as error:
            raise ValueError("is damaged: %s" % (str(error) or type(error).__name__)) from None


def _declared(archive: Any, info: Any) -> int:
    """The bytes that a member of a ``.npz`` will take in memory."""
    import zipfile

    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory as they please
        raise ValueError("%s is compressed in a way that NumPy does not use" % info.filename)
    with archive.open(info) as member:
        shape, dtype = npy_header(member)[::2]
    if dtype.hasobject:
        raise ValueError("%s holds Python objects, which are never read" % info.filename)
    return math.prod(shape) * int(dtype.itemsize)


def npy_header(file: Any) -> Tuple[Tuple[int, ...], bool, Any]:
    """(shape, whether its order is Fortran's, type) of the ``.npy`` that begins here; the file then is at its values.

    Raises:
        ValueError: there is none.
    """
    file = _Beginning(file)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except Exception as error:  # NumPy reads it as Python, which raises what it likes
        raise ValueError("its header is damaged: %s" % error) from None
    return shape, fortran, dtype


def map_npy(path: Any) -> Any:
    """The array of a ``.npy`` file, in the file and not in memory; see :func:`check_regular`.

    Raises:
        ValueError: it is no such file.
    """
    with open_regular(path) as file:
        if file.read(6) == b"\x93NUMPY":  # otherwise NumPy says what it is
            file.seek(0)
            npy_header(file)
    return np.load(path, mmap_mode="r", allow_pickle=False)


class _Beginning:
    """A file of which nothing long is read at once."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > HEADER:
            raise ValueError("it has %d bytes" % size)
        data: bytes = self._file.read(size)
        return data


# ------------------------------------------------------------------------------------------------------------- images

FORMATS = (
    ("PNG", "Png"), ("JPEG", "Jpeg"), ("PPM", "Ppm"), ("BMP", "Bmp"), ("GIF", "Gif"), ("TIFF", "Tiff"),
    ("WEBP", "WebP"), ("JPEG2000", "Jpeg2K"), ("AVIF", "Avif"),
)  # fmt: skip
"""The formats of images that are read, and the modules of Pillow that read them. A file's content says which it is.

Pillow knows more formats, and some run programs: it passes PostScript to Ghostscript, whatever the file's name is."""


@contextmanager
def opened_image(path: Any) -> Iterator[Any]:
    """A Pillow image, of which only the beginning was read. A context; the file is closed with it.

    Raises:
        OSError: see :func:`check_regular`; or (UnidentifiedImageError) it is no image of :data:`FORMATS`.
        ValueError: it has more pixels than Pillow's limit.
        Exception: decoders raise any exception for damaged files.
    """
    from PIL import Image, UnidentifiedImageError

    formats = _formats()
    with open_regular(path) as file:
        try:
            image = Image.open(file, formats=formats)
        except UnidentifiedImageError:
            raise UnidentifiedImageError("its content is none of %s" % ", ".join(formats)) from None
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError("is suspiciously large (%dx%d pixels)" % image.size)
        yield image


def _formats() -> Tuple[str, ...]:
    """The names of :data:`FORMATS` that this Pillow can read."""
    from importlib import import_module

    from PIL import Image

    for name, module in FORMATS:
        if name not in Image.OPEN:
            with suppress(ImportError):  # an older Pillow
                import_module("PIL.%sImagePlugin" % module)
    return tuple(name for name, _ in FORMATS if name in Image.OPEN)
