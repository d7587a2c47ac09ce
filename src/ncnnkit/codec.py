"""JSON to dataclasses and back, on the host. msgspec reads and checks; its errors become FormatError."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from .errors import FormatError, NcnnkitError, reason

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
        FormatError: the text is not JSON, or a value has the wrong type or is not allowed, or a number is too large: a
            whole one does not fit into 64 bits, another is above 1e100. ``where`` is the path of the first such value,
            such as ``variants[2].latency_ms.median``; empty if the whole is wrong.

    Example:
        >>> decode(b'{"resize": 256}', Preprocess).resize
        256
    """
    import msgspec

    try:
        found = msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _in_words(str(error)) from None
    except NcnnkitError as error:
        raise FormatError(error.line()) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"is not JSON: {reason(error)}") from None
    if _many_digits(data):
        check_numbers(found)
    return found


_LARGEST, _LARGEST_REAL = (1 << 63) - 1, 1e100
_LONG = "[0-9]{19}|[eE][+]?[0-9]{3}"


def _many_digits(data: bytes | str) -> bool:
    """Whether a number may be too large. Looking at each number takes long in a large file."""
    found = re.search(_LONG, data) if isinstance(data, str) else re.search(_LONG.encode(), data)
    return found is not None


def check_numbers(value: Any, where: str = "", most_real: float = _LARGEST_REAL) -> None:
    """Raise FormatError for a number that nothing has, and with which arithmetic would fail. msgspec takes any."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise FormatError("does not fit into 64 bits", where=where)
    if isinstance(value, float) and abs(value) > most_real:
        raise FormatError(f"is above {most_real:g}", where=where)
    if is_dataclass(value):
        for field in fields(value):
            check_numbers(getattr(value, field.name), f"{where}.{field.name}".removeprefix("."), most_real)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_numbers(item, f"{where}[{key!r}]", most_real)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_numbers(item, f"{where}[{index}]", most_real)


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
