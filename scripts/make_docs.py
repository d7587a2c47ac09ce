"""Write the pages that are generated from the code.

docs/run-json.md and docs/run.schema.json come from the dataclasses of run.json and their docstrings, docs/boards.md
from the table of boards, docs/reference/commands.md from the command line, and the badges of the README
from pyproject.toml.

python scripts/make_docs.py            # write them
python scripts/make_docs.py --check    # exit 1 if one of them is not up to date
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import command_pages
import msgspec

from ncnnkit.model.targets import BOARDS, TARGETS, features_of
from ncnnkit.older import tomllib
from ncnnkit.recipe import KEYS, Recipe
from ncnnkit.record.run import SCHEMA, Run

DOCS = Path(__file__).parent.parent / "docs"

INTRODUCTION = f"""\
# run.json

<!-- Made by scripts/make_docs.py from the docstrings of the classes in src/ncnnkit/record. Change those. -->

`ncnnkit run` writes `run.json` into the run folder. It contains every figure of `report.html` and of the terminal, and
more. It is UTF-8 JSON. [run.schema.json](run.schema.json) is its JSON Schema, for programs.

`schema` is the version of this format, now {SCHEMA}. It is incremented when a field is removed or changes its meaning.
New fields may be added without a new version, so ignore fields that you do not know. Every field is always present, but
may be null.

A figure is null if it was not measured, or if it is infinite or not a number, because JSON has neither. The names
contain the units (`latency_ms`, `peak_memory_mb`, `sqnr_db`), or the tables below give them. 1 MB is 10⁶ bytes. Shares
are from 0 to 1. Shapes have no batch axis. Bytes of a file name that are not UTF-8 are replaced by U+FFFD.

```python
import json

run = json.load(open("ncnnkit-out/run.json"))
best = next(v for v in run["variants"] if v["name"] == run["recommended"])
print(best["name"], best["latency_ms"]["median"], "ms", best["files"]["param"])
```

In Python, `ncnnkit.open_run(folder).run` reads and checks it, and gives these fields as attributes.
"""

BOARDS_INTRODUCTION = """\
# Boards

<!-- Made by scripts/make_docs.py from BOARDS in src/ncnnkit/model/targets.py. Change that. -->

The instructions of its cores determine whether a board computes int8 faster than fp32. ncnn uses an instruction if
*all* cores of the chip have it.

- **int8 dot product**: int8 is usually the fastest precision. Without it, int8 is often no faster than fp32.
- **fp16**: arithmetic in fp16, about twice as fast as fp32. Without it, fp16 only makes the model smaller.
- **i8mm** and **bf16**: matrix products in int8 and in bf16.

`ncnnkit doctor --on ssh://user@board` reads the same from your own board. `--target` takes a name of this table if you
quantise without the board at hand. A run on a board (`--on`) finds the target by itself.

ncnn has no int8 kernels for RISC-V: int8 models give the right result there, but slowly. For a phone take `arm`, or
`arm-dotprod` if `asimddp` is among the features in its `/proc/cpuinfo`.

| `--target` | cores | fp16 | int8 dot product | i8mm | bf16 | the same as `--target` |
| --- | --- | --- | --- | --- | --- | --- |
"""

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}
_PLURALS = {str: "texts", int: "whole numbers", float: "numbers", bool: "truths", Any: "values"}


def meanings(kind: type) -> dict[str, str]:
    """Field -> its description in the docstring of the class."""
    if kind is Recipe:
        return {name: _sentence(key.help) for name, key in KEYS.items()}
    text = inspect.getdoc(kind) or ""
    _, _, attributes = text.partition("Attributes:\n")
    attributes, *_ = re.split(r"\n\n(?=\S)", attributes, maxsplit=1)
    found = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", attributes, re.MULTILINE)
    return {name: _sentence(said) for names, said in found for name in names.split(", ")}


def summary(kind: type) -> str:
    """The docstring of a class up to its list of attributes."""
    text, _, _ = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text.replace("``", "`")).strip()


def _sentence(said: str) -> str:
    text = " ".join(said.split()).replace("``", "`")
    return text[:1].upper() + text[1:]


def hints(kind: type) -> Iterator[tuple[str, Any]]:
    """(field, its type) of a dataclass, in order."""
    known = get_type_hints(kind, include_extras=True)
    return ((field.name, known[field.name]) for field in dataclasses.fields(kind))


def choices(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself, without annotations."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(get_args(member)[0] if get_origin(member) is Annotated else member for member in members)


def pattern(hint: Any) -> str | None:
    """The pattern of a name, which may also be null; None for other types."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    known = [extra for member in members for extra in get_args(member)[1:] if isinstance(extra, re.Pattern)]
    return f"^{known[0].pattern}$" if known else None


def words(hint: Any) -> str:
    """A type as text, such as "a number or null"."""
    members = choices(hint)
    if len(members) > 1:
        *firsts, last = map(words, members)
        return f"{', '.join(firsts)} or {last}"
    (kind,) = members
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list or (origin is tuple and arguments[-1] is ...):
        return f"a list of {_PLURALS.get(arguments[0], 'lists' if get_origin(arguments[0]) else 'objects')}"
    if origin is tuple:
        return f"{len(arguments)} {_PLURALS[arguments[0]]}"
    return _WORDS.get(kind, "an object")


def nested(hint: Any) -> Iterator[tuple[type, str]]:
    """(dataclass, end of its path after the field) for the dataclasses in a field of this type."""
    for member in choices(hint):
        item, mark = member, ""
        if get_origin(member) in (list, tuple):
            item, mark = get_args(member)[0], "[]"
        elif get_origin(member) is dict:
            item, mark = get_args(member)[1], ".NAME"
        if dataclasses.is_dataclass(item) and isinstance(item, type):
            yield item, mark


def sections(kind: type, path: str) -> Iterator[tuple[type, str]]:
    """Every dataclass below one, with its path such as ``variants[].accuracy``, depth first."""
    yield kind, path
    for name, hint in hints(kind):
        for inner, mark in nested(hint):
            yield from sections(inner, f"{path}.{name}{mark}".removeprefix("."))


def page() -> str:
    """The text of docs/run-json.md."""
    paths: dict[type, list[str]] = {}
    for kind, path in sections(Run, ""):
        paths.setdefault(kind, []).append(path)
    parts = [INTRODUCTION]
    for kind, places in paths.items():
        level = "##" if all(place.count(".") == 0 for place in places) else "###"
        title = ", ".join(f"`{place}`" for place in places if place) or "The run"
        known = meanings(kind)
        rows = [f"| `{name}` | {words(hint)} | {_cell(known[name])} |" for name, hint in hints(kind)]
        parts.append(f"{level} {title}\n\n{summary(kind)}\n\n| field | holds | meaning |\n| --- | --- | --- |")
        parts[-1] += "\n" + "\n".join(rows) + "\n"
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schema() -> str:
    """The text of docs/run.schema.json: msgspec's schema, with descriptions from the docstrings and the patterns of
    names.
    """
    found = msgspec.json.schema(Run)
    classes = {kind.__name__: kind for kind, _ in sections(Run, "")}
    for name, definition in found["$defs"].items():
        kind = classes[name]
        definition["description"] = summary(kind)
        known = meanings(kind)
        for field, hint in hints(kind):
            prop = definition["properties"][field]
            allowed = pattern(hint)
            more: Mapping[str, Any] = {"pattern": allowed} if allowed else {}
            # Beside a $ref, the description is that of the field, not that of the class.
            definition["properties"][field] = {**prop, **more, "description": known[field]}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "run.json of ncnnkit",
        "$ref": found["$ref"],
        "$defs": dict(sorted(found["$defs"].items())),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def boards() -> str:
    """The text of docs/boards.md."""
    rows = []
    for name, cores in BOARDS.items():
        told = " + ".join(f"{count} × {core}" for core, count in cores.items())
        has = [_has(features_of(name), word) for word in ("fp16", "dotprod", "i8mm", "bf16")]
        rows.append(f"| `{name}` | {told} | {' | '.join(has)} | `{TARGETS[name].name}` |\n")
    return BOARDS_INTRODUCTION + "".join(rows)


def _has(features: frozenset[str], word: str) -> str:
    """The cell that shows whether a board has an instruction of Arm."""
    return "" if "riscv" in features else "yes" if word in features else "no"


BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{name}: {value}">
<rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="#1d6d99"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{name_at}" y="14">{name}</text><text x="{value_at}" y="14">{value}</text></g></svg>
"""


def badge(name: str, value: str) -> str:
    """A badge with a name and its value. It is drawn here, so that no page loads anything from another host."""
    left, right = (10 + 7 * len(text) for text in (name, value))
    places = {"width": left + right, "left": left, "right": right, "name_at": left // 2, "value_at": left + right // 2}
    return BADGE.format(name=name, value=value, **places)


def badges() -> dict[str, str]:
    """File name -> badge, from pyproject.toml."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(project.get("classifiers", ())))
    oldest = project["requires-python"].removeprefix(">=")
    versions = f"{classified[0]} – {classified[-1]}" if classified else f"{oldest} or newer"
    return {
        "images/badge-license.svg": badge("licence", project["license"]),
        "images/badge-python.svg": badge("python", versions),
    }


def main() -> int:
    made = {
        "run-json.md": page(), "run.schema.json": schema(), "boards.md": boards(),
        "reference/commands.md": command_pages.page(), **badges(),
    }  # fmt: skip
    stale = [name for name, text in made.items() if not _is(DOCS / name, text)]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} is not up to date: run scripts/make_docs.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(made[name], encoding="utf-8")
        print(f"docs/{name} written")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
