"""Changes of files for tests: bytes, lines of text, JSON, protobuf messages, zip archives."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import tomli_w

from ncnnkit.older import tomllib

Mutate = Callable[[bytes, Random, Sequence[bytes]], bytes]
"""(content of a file, source of chance, other files of its kind) -> a changed content."""

LARGEST = 1 << 20  # bytes of a mutated file
_WINDOW = 200  # characters of a long line that are looked at
_SIZES = (1, 2, 4, 8)  # bytes of a number in a binary file

NUMBERS = [
    0, 1, -1, 2, 3, 7, 127, 128, 255, 256, -233, -23300, 32767, 65535, 65536, 1 << 20, (1 << 24) + 1, (1 << 31) - 1,
    1 << 31, -(1 << 31), (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30, -(10**30),
]  # fmt: skip
"""Whole numbers at the limits of types."""

WORDS = [
    "", "0", "-0", "1e999", "-1e999", "nan", "inf", "-inf", "NaN", "Infinity", "1e-50", "1e38", "3.5e38", "0.1", "1.5",
    "null", "true", "false", "none", "..", "../../x", "/etc/passwd", "a b", "a\tb", "\x1b[31m", "\x00", "é", "\ud800",
    "𝟘", "٣", "x" * 300, "9" * 400, "9" * 4400, "1e" + "9" * 30, "{}", "[]", '"', "'", "\\", "$(id)", "%s", "<b>", "-",
]  # fmt: skip
"""Words that readers stumble over."""

_TOKEN = re.compile(r"[A-Za-z_]+|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|[^\sA-Za-z_\d]")


def mutated(data: bytes, random: Random, pool: Sequence[bytes], kinds: Sequence[Mutate]) -> bytes:
    """A file with one to eight changes; few changes are more likely."""
    for _ in range(1 + min(random.getrandbits(3) for _ in range(4))):
        try:
            data = random.choice(kinds)(data, random, pool)
        except Exception:  # it is no JSON, message or archive any more; libraries raise any exception for such bytes
            data = mutate_bytes(data, random, pool)
    return data[:LARGEST]


# ---------------------------------------------------------------------------------------------------------------- bytes


def mutate_bytes(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Change, remove, repeat, move or insert some bytes."""
    if not data:
        return random.randbytes(random.randint(1, 8))
    at = random.randrange(len(data))
    length = min(len(data) - at, 1 << random.randrange(8))
    match random.randrange(9):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + random.randbytes(length) + data[at + length :]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[:at] + data[at : at + length] * random.choice((2, 2, 3, 50)) + data[at + length :]
        case 5:
            return data[:at] + random.randbytes(length) + data[at:]
        case 6:
            size = random.choice(_SIZES)
            number = random.choice(NUMBERS) % (1 << 8 * size)
            return data[:at] + number.to_bytes(size, random.choice(("little", "big"))) + data[at + size :]
        case 7:
            other = random.choice(pool)
            return data[:at] + other[random.randrange(len(other) + 1) :]
        case _:
            to = random.randrange(len(data))
            return data[:to] + data[at : at + length] + data[to + length :]


# ----------------------------------------------------------------------------------------------------------------- text


def mutate_text(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Change a word or a number, or remove, repeat, move or insert lines."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    at = random.randrange(len(lines))
    match random.randrange(12):
        case 0:
            del lines[at : at + random.choice((1, 1, 2, 5))]
        case 1:
            lines.insert(random.randrange(len(lines)), lines[at])
        case 2:
            to = random.randrange(len(lines))
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            theirs = random.choice(pool).decode("utf-8", "surrogateescape").split("\n")
            lines.insert(at, random.choice(theirs))
        case 4:
            there = random.choice(_TOKEN.findall(random.choice(lines)[:_WINDOW]) or [""])
            lines[at] = _with_word(lines[at], random, lambda _: there)
        case _:
            lines[at] = _other_word(lines[at], random)
    return "\n".join(lines).encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")


def _other_word(line: str, random: Random) -> str:
    return _with_word(line, random, lambda word: _instead(word, random))


def _with_word(line: str, random: Random, instead: Callable[[str], str]) -> str:
    """The line with another word in the place of one of its words."""
    start = random.randrange(len(line)) if len(line) > 2 * _WINDOW else 0
    words = list(_TOKEN.finditer(line, start, start + 2 * _WINDOW))
    if not words:
        return line + instead("")
    word = random.choice(words)
    return line[: word.start()] + instead(word[0]) + line[word.end() :]


def _instead(word: str, random: Random) -> str:
    if re.fullmatch(r"-?\d+", word) and random.random() < 0.7:
        near = int(word[:20]) + random.choice((-1, 1, 2, 16, -int(word[:20]) * 2))
        return str(random.choice((near, near, random.choice(NUMBERS))))
    strange = random.choice(WORDS).encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    return random.choice((strange, str(random.choice(NUMBERS)), word + word, word[:-1]))


# ----------------------------------------------------------------------------------------------------------------- JSON


def mutate_json(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Change, remove or add a value of a JSON document. Raises ValueError for other bytes."""
    return json.dumps(_other_document(json.loads(data), random)).encode()


def mutate_toml(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Change, remove or add a value of a TOML document. Raises ValueError for other bytes."""
    try:
        return tomli_w.dumps(_other_document(tomllib.loads(data.decode()), random)).encode()
    except (TypeError, AttributeError) as error:  # TOML has no null, and a document is a table
        raise ValueError("no TOML") from error


def _other_document(document: Any, random: Random) -> Any:
    inside, key = _place(document, random)
    if inside is None:
        return _other_value(document, random)
    if random.random() < 0.2:
        del inside[key]
    elif random.random() < 0.2:
        from_inside, from_key = _place(document, random)
        value = inside[key] if from_inside is None else from_inside[from_key]
        value = json.loads(json.dumps(value, default=str))
        if isinstance(inside, list):
            inside.insert(key, value)
        else:
            inside[str(random.choice(WORDS)) if random.random() < 0.1 else key] = value
    else:
        inside[key] = _other_value(inside[key], random)
    return document


def _place(document: Any, random: Random) -> tuple[Any, Any]:
    """(list or mapping, index or key) of a value of a document; (None, None) for the whole."""
    inside = key = None
    value = document
    while isinstance(value, dict | list) and value and random.random() < (0.98 if inside is None else 0.85):
        inside, key = value, random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        value = inside[key]
    return inside, key


def _other_value(value: Any, random: Random) -> Any:
    strange: list[Any] = [None, True, False, [], {}, [[]], [None], {"": 0}, 0, -1, 1.5, float("nan"), float("inf")]
    strange += [random.choice(NUMBERS), random.choice(WORDS), [value], [value] * 3, {"x": value}]
    if isinstance(value, bool):
        strange += [not value] * 5
    elif isinstance(value, int):
        strange += [value + 1, value - 1, -value, value * 2, random.choice(NUMBERS), float(min(value, 1 << 60))] * 3
    elif isinstance(value, float):
        strange += [-value, 0.0, value * 1e30, 1e-320, 1e308] * 3
    elif isinstance(value, str):
        strange += [_other_word(value, random), value[:-1], value + value, random.choice(WORDS)] * 4
        if value[:1] in ("{", "[") and random.random() < 0.8:  # a document within a document
            return mutated(value.encode(errors="replace"), random, [b""], (mutate_json, mutate_text)).decode(
                errors="replace"
            )
    elif isinstance(value, list):
        strange += [value[1:], value[::-1], value + value, value[:1] * 40] * 3
    return random.choice(strange)


# ------------------------------------------------------------------------------------------------------------- protobuf


def mutate_protobuf(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Change a field of a protobuf message, somewhere within it. Raises ValueError for other bytes."""
    fields = list(_fields(data))
    if not fields:
        return data + _field(random.randint(1, 20), 0, random.choice(NUMBERS))
    at = random.randrange(len(fields))
    number, kind, value = fields[at]
    choice = random.random()
    if choice < 0.1:
        del fields[at]
    elif choice < 0.2:
        fields.insert(random.randrange(len(fields)), fields[at])
    elif choice < 0.25:
        fields[at] = (random.randint(1, 20), kind, value)
    elif kind == 0:
        other = random.choice((value + 1, value - 1, value ^ 1 << random.randrange(8), random.choice(NUMBERS)))
        fields[at] = (number, kind, other)
    elif kind == 2:
        fields[at] = (number, kind, _other_content(value, random, pool))
    else:
        fields[at] = (number, kind, random.randbytes(len(value)))
    return b"".join(_field(*field) for field in fields)


def _other_content(value: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Of a field of bytes: a message, a text, or packed numbers. Which of them cannot be known."""
    if value and random.random() < 0.8:
        try:
            return mutate_protobuf(value, random, pool)
        except ValueError:
            pass
    if value.isascii() and random.random() < 0.7:
        return _other_word(value.decode(), random).encode("utf-8", "surrogateescape")
    return mutate_bytes(value, random, pool)


def _fields(data: bytes) -> Any:
    """(number, kind, value) of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, kind, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("not a message")
        if at + length > len(data) or not tag >> 3:
            raise ValueError("not a message")
        yield tag >> 3, kind, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("not a message")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("not a message")


def _field(number: int, kind: int, value: int | bytes) -> bytes:
    head = _as_varint(number << 3 | kind)
    if isinstance(value, int):
        return head + _as_varint(value)
    return head + (_as_varint(len(value)) if kind == 2 else b"") + value


def _as_varint(value: int) -> bytes:
    value %= 1 << 64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


# ------------------------------------------------------------------------------------------------------------- archives


def mutate_zip(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """Change, remove, rename or repeat a file of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [(name, archive.read(name)) for name in archive.namelist()]
    at = random.randrange(len(files))
    name, content = files[at]
    match random.randrange(8):
        case 0:
            del files[at]
        case 1:
            files[at] = (_other_word(name, random).replace("\0", ""), content)
        case 2:
            files.insert(at, (name, random.choice(files)[1]))
        case 3:
            files[at] = (name, mutate_text(content, random, [content]))
        case _:
            files[at] = (name, mutate_bytes(content, random, [content]))
    return zipped(files)


def zipped(files: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip archive of these files."""
    import warnings

    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), content)
    return stream.getvalue()
