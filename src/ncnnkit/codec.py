"""JSON to dataclasses and back, on the host. msgspec reads and checks; its errors become FormatError."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import FormatError, NcnnkitError

T = TypeVar("T")

_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


def decode(data: bytes | str, kind: type[T]) -> T:
    """Read JSON as a dataclass, with the lists and mappings of dataclasses in it. Unknown fields are ignored.

    Raises:
        FormatError: the text is not JSON, or a value has the wrong type or is not allowed. ``where`` is the path of the
            first such value, such as ``variants[2].latency_ms.median``; empty if the whole is wrong.

    Example:
        >>> decode(b'{"resize": 256}', Preprocess).resize
        256
    """
    import msgspec

    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _in_words(str(error)) from None
    except NcnnkitError as error:
        raise FormatError(error.line()) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"is not JSON: {error}") from None


def as_dataclass(value: Any, kind: type[T]) -> T:
    """A dataclass from plain values (what a JSON parser gives). Raises FormatError as :func:`decode` does."""
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _in_words(str(error)) from None


def encode(value: Any, indent: int = 2) -> bytes:
    """A dataclass as JSON in UTF-8, with a newline at its end.

    JSON has no infinity and no NaN: both become null. Lone surrogates, with which Python represents the bytes of a file
    name that is not UTF-8, become U+FFFD. Characters that control a terminal are escaped.
    """
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(_clean(msgspec.to_builtins(value))), indent=indent)
    return _CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), text) + b"\n"


_CONTROLS = re.compile(b"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xaa-\xae]|\xe2\x81[\xa6-\xa9]|\xd8\x9c")
"""In UTF-8, the characters of :func:`ncnnkit.errors.printable` that JSON does not escape. They are in texts only."""


def as_read(value: T) -> T:
    """The value after encoding and decoding. Raises FormatError if its JSON cannot be read."""
    return decode(encode(value), type(value))


def readable(text: str) -> str:
    """A text with U+FFFD for each lone surrogate. Python represents file names that are not UTF-8 with these."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _in_words(message: str) -> FormatError:
    text, _, path = message.partition(" - at `$")
    where = path.removesuffix("`").removeprefix(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        return FormatError("is missing", where=f"{where}.{missing[1]}".removeprefix("."))
    wrong = re.fullmatch(r"Expected `(.+)`, got `(.+)`", text)
    if wrong:
        *firsts, last = (_WORDS.get(name, name) for name in wrong[1].split(" | "))
        expected = f"{', '.join(firsts)} or {last}" if firsts else last
        return FormatError(f"expected {expected}, found {_WORDS.get(wrong[2], wrong[2])}", where=where)
    return FormatError(text[:1].lower() + text[1:], where=where)
