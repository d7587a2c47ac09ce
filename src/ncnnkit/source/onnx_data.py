"""Puts the external weights of an ONNX model into the model file, because pnnx reads only one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# protobuf's field numbers of onnx.proto.
_CHILDREN = {  # message -> its fields that contain tensors, and the messages in them
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def inline_external_data(path: Path) -> bytes | None:
    """Read an ONNX model with its external data included.

    Args:
        path: a valid model. The names of its data files are relative to its folder.

    Returns:
        The bytes of the whole model, or None if it has no external data.

    Raises:
        OSError: one of the files cannot be read.
    """
    model = path.read_bytes()
    whole = _inline(memoryview(model), "model", path.parent)
    return None if whole == model else whole


def _inline(message: memoryview, kind: str, folder: Path) -> bytes:
    if kind == "tensor":
        return _inline_tensor(message, folder)
    parts: list[bytes | memoryview] = []
    for number, content, field in _fields(message):
        child = _CHILDREN[kind].get(number)
        parts.append(_field(number, _inline(content, child, folder)) if child else field)
    return b"".join(parts)


def _inline_tensor(tensor: memoryview, folder: Path) -> bytes:
    kept: list[memoryview] = []
    entries: dict[str, str] = {}
    for number, content, field in _fields(tensor):
        if number == _EXTERNAL_DATA:
            key, value = (bytes(part).decode() for _, part, _ in _fields(content))
            entries[key] = value
        elif number != _DATA_LOCATION:
            kept.append(field)
    if not entries:
        return bytes(tensor)
    with open(folder / entries["location"], "rb") as file:
        file.seek(int(entries.get("offset", 0)))
        data = file.read(int(entries.get("length", -1)))
    return b"".join([*kept, _field(_RAW_DATA, data)])


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
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
