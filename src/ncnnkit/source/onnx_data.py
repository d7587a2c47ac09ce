"""External weights of ONNX models: checks which files a model may read, and puts them into the model for pnnx.

The model contains the names of these files. They are read from the bytes of the model here, before a library reads it,
so that no library opens a file that was not checked.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError
from ..onboard.userfiles import WHOLE, check_regular, open_regular, read_bytes

# protobuf's field numbers of onnx.proto.
_CHILDREN = {  # message -> its fields that contain tensors, and the messages in them
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10  # bytes
_LOCATION = "location"  # the key of the file's name

_DAMAGED = (ValueError, IndexError, KeyError, RecursionError)
"""What reading the fields of a damaged model raises. UnicodeDecodeError is a ValueError."""


def check_model(path: Path) -> None:
    """Refuse an ONNX file that is no regular file, or that names files which it must not read.

    The weights of a model must be regular files in its folder or below. If the model or its folder is a link, as in
    the cache of the Hugging Face hub, the folder of its target counts, too.

    Raises:
        ModelError: they are not, one of them does not exist or is too short, or the model is damaged.
    """
    try:
        check_regular(path, WHOLE)
        if not path.stat().st_size:
            return
        with open_regular(path) as file:
            model = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if model.find(_LOCATION.encode()) < 0:  # most models have no other files, and need no closer look
            return
        for location, offset, length in sorted(set(_asked(memoryview(model), "model"))):
            _range_of(path, location, _file_of(path, location), offset, length)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except _DAMAGED as error:
        raise ModelError(f"is damaged, or is no ONNX model: {type(error).__name__}", where=str(path)) from None


def _asked(message: memoryview, kind: str) -> Iterator[tuple[str, str, str]]:
    """(name, offset, length) of all that a message asks of files. A name that is given twice counts twice."""
    if kind == "tensor":
        entries = [_entry(content) for number, content, _ in _fields(message) if number == _EXTERNAL_DATA]
        last = dict(entries)
        for key, value in entries:
            if key == _LOCATION:
                yield value, last.get("offset", ""), last.get("length", "")
        return
    for number, content, _ in _fields(message):
        if child := _CHILDREN[kind].get(number):
            yield from _asked(content, child)


def _file_of(model: Path, location: str) -> Path:
    """The file of a model's weights, with all links resolved. Raises ModelError."""
    shown = f"the weights {location!r}"
    try:
        found = Path(os.path.realpath(model.parent / location, strict=True))
        homes = {os.path.realpath(model.parent), os.path.dirname(os.path.realpath(model))}
        if not any(found.is_relative_to(home) for home in homes):
            hint = "the files of a model must be in its folder: copy them there, or save it as one file"
            raise ModelError(f"{shown} are outside the model's folder", where=str(model), hint=hint)
        check_regular(found)
    except ValueError:
        raise ModelError(f"{shown} are no file", where=str(model)) from None
    except OSError as error:
        raise ModelError(f"{shown} cannot be read: {error.strerror}", where=str(model)) from None
    return found


def _range_of(model: Path, location: str, found: Path, offset: str, length: str) -> tuple[int, int]:
    """(first byte, number of bytes) of a tensor in a file of weights. Raises ModelError if the file does not have them.

    Without a length they go to the end of the file.
    """
    shown, size = f"the weights {location!r}", found.stat().st_size
    for name, text in (("offset", offset), ("length", length)):
        if text and not re.fullmatch("[0-9]{1,19}", text, re.ASCII):
            raise ModelError(f"{shown} have an {name} that is no number of bytes: {text[:40]!r}", where=str(model))
    start = int(offset or 0)
    count = int(length) if length else size - start
    if start > size or start + count > size:
        what = f"{shown} have {size} bytes, but a tensor is {max(count, 0)} bytes from byte {start} on"
        raise ModelError(
            what, where=str(model), hint="the file is not that of this model, or was not copied completely"
        )
    return start, count


def inline_external_data(path: Path) -> bytes | None:
    """Read an ONNX model with its external data included.

    Args:
        path: a valid model. The names of its data files are relative to its folder.

    Returns:
        The bytes of the whole model, or None if it has no external data.

    Raises:
        ModelError: one of the files cannot be read, or may not be; see :func:`check_model`.
    """
    check_model(path)
    try:
        model = read_bytes(path)
        whole = _inline(memoryview(model), "model", path)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except _DAMAGED as error:
        raise ModelError(f"is damaged, or is no ONNX model: {type(error).__name__}", where=str(path)) from None
    return None if whole == model else whole


def _inline(message: memoryview, kind: str, model: Path) -> bytes:
    if kind == "tensor":
        return _inline_tensor(message, model)
    parts: list[bytes | memoryview] = []
    size = 0
    for number, content, field in _fields(message):
        child = _CHILDREN[kind].get(number)
        parts.append(_field(number, _inline(content, child, model)) if child else field)
        size += len(parts[-1])
        if size > WHOLE:
            raise ValueError("more bytes than protobuf allows")
    return b"".join(parts)


def _inline_tensor(tensor: memoryview, model: Path) -> bytes:
    kept: list[memoryview] = []
    entries: dict[str, str] = {}
    for number, content, field in _fields(tensor):
        if number == _EXTERNAL_DATA:
            key, value = _entry(content)
            entries[key] = value
        elif number != _DATA_LOCATION:
            kept.append(field)
    if not entries:
        return bytes(tensor)
    location = entries[_LOCATION]
    found = _file_of(model, location)
    with open_regular(found) as file:
        offset, length = _range_of(model, location, found, entries.get("offset", ""), entries.get("length", ""))
        if length > WHOLE:
            raise ValueError("more bytes than protobuf allows")
        file.seek(offset)
        data = file.read(length)
    return b"".join([*kept, _field(_RAW_DATA, data)])


def _entry(content: memoryview) -> tuple[str, str]:
    """The key and the value of an entry of ``external_data``."""
    entry = {number: bytes(part).decode() for number, part, _ in _fields(content)}
    return entry.get(1, ""), entry.get(2, "")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """(number, content, the whole field) of each field of a message."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        kind = tag & 7
        begin = position
        if kind == _VARINT:
            _, position = _read_varint(message, position)
        elif kind == _BYTES:
            length, begin = _read_varint(message, position)
            position = begin + length
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[kind]
        yield tag >> 3, message[begin:position], message[start:position]


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of too many bytes")


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
