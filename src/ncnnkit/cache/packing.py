"""Results as bytes and back, and the hashes of values.

A value consists of dataclasses of ncnnkit, arrays, numbers, texts, lists, tuples, sets and mappings. What comes back
equals what was packed, to the bit and to the type. Nothing but such a dataclass is made when bytes are read, so these
cannot run code as a pickle can.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ..errors import FormatError

_PACKAGE = __package__.partition(".")[0]


class Unpackable(Exception):
    """A value that cannot be packed, such as a function, or an object of a user's class."""


def pack(value: Any) -> bytes:
    """A value as bytes; equal values have equal bytes, as long as their mappings have the same order.

    Raises:
        Unpackable: a part of the value is none of the above.

    Example:
        >>> unpack(pack({("a", 1): (np.float32(0.5), [None])}))
        {('a', 1): (np.float32(0.5), [None])}
    """
    import msgspec

    try:
        return msgspec.msgpack.encode(_plain(value))
    except UnicodeEncodeError as error:  # a file name that is not UTF-8
        raise Unpackable(str(error)) from None


def unpack(data: bytes) -> Any:
    """The value. Raises FormatError if these bytes are none."""
    import msgspec

    try:
        return _restored(msgspec.msgpack.decode(data))
    except (
        msgspec.MsgspecError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ImportError,
        RecursionError,
    ) as error:
        raise FormatError(f"is not a packed value: {error}") from None


def digest(value: Any) -> str:
    """A SHA-256 of a value, without a copy of its arrays. Raises Unpackable."""
    found = hashlib.sha256()
    _hash(_plain(value), found)
    return found.hexdigest()


def _hash(plain: Any, found: Any) -> None:
    if isinstance(plain, list):
        found.update(b"[%d " % len(plain))
        for part in plain:
            _hash(part, found)
    else:
        data = plain if isinstance(plain, bytes | memoryview) else repr(plain).encode("utf-8", "surrogatepass")
        found.update(b"%s %d " % (type(plain).__name__.encode(), len(data)))
        found.update(data)


def _bytes(array: Any) -> memoryview:
    """The values of an array, in C order."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


# A value that MessagePack lacks is a list that begins with one of these words; lists begin with "list".
def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | bytes) or type(value) in (int, float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise Unpackable("an array of objects")
        word = "array" if isinstance(value, np.ndarray) else "number"
        return [word, array.dtype.str, list(array.shape), _bytes(array)]
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if kind.__module__.partition(".")[0] != _PACKAGE or kind.__qualname__ != kind.__name__:
            raise Unpackable(f"{kind.__module__}.{kind.__qualname__} is not of {_PACKAGE}")
        return [
            "object", f"{kind.__module__}:{kind.__name__}", *(_plain(getattr(value, name)) for name in _names(kind))
        ]  # fmt: skip
    if isinstance(value, Mapping):
        return ["map", *(_plain(part) for pair in value.items() for part in pair)]
    if isinstance(value, frozenset | set):
        return ["set", *sorted(map(_plain, value), key=repr)]
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", *map(_plain, value)]
    raise Unpackable(f"a value of {type(value).__module__}.{type(value).__qualname__}")


def _restored(packed: Any) -> Any:
    if not isinstance(packed, list):
        return packed
    word, *rest = packed
    if word in ("array", "number"):
        dtype, shape, data = rest
        array = np.frombuffer(data, np.dtype(dtype)).reshape(shape) if data else np.empty(shape, np.dtype(dtype))
        return array if word == "array" else array[()]
    if word == "object":
        kind = _kind(rest[0])
        return kind(**dict(zip(_names(kind), map(_restored, rest[1:]), strict=True)))
    values = list(map(_restored, rest))
    if word == "map":
        return dict(zip(values[::2], values[1::2], strict=True))
    return _SEQUENCES[word](values)


_SEQUENCES: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": frozenset}


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.init)


@functools.cache
def _kind(named: str) -> Any:
    module, _, name = named.partition(":")
    if module.partition(".")[0] != _PACKAGE:
        raise ValueError(f"{module} is not of {_PACKAGE}")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ValueError(f"{named} is not a dataclass")
    return kind


def content(samples: Iterable[tuple[Any, ...]]) -> str:
    """The SHA-256 of samples as the network gets them: of the type, the shape and the values of every array."""
    found = hashlib.sha256()
    for sample in samples:
        for array in sample:
            found.update(f"{array.dtype.str} {array.shape} ".encode())
            found.update(_bytes(array))
        found.update(b"\n")
    return found.hexdigest()
