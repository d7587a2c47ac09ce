"""Makes docs/reference/commands.md from the command line: every command and option (see scripts/make_docs.py)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import typer

from ncnnkit.cli import EXIT_CODES
from ncnnkit.cli.commands import COMMANDS

INTRODUCTION = """\
# Commands

<!-- Made by scripts/make_docs.py from the commands in src/ncnnkit/cli. Change those. -->

`ncnnkit COMMAND --help` prints the same as this page. An option marked "may be repeated" can be given several times.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION, *_overview()]
    for row in COMMANDS:
        module = importlib.import_module(f"ncnnkit.cli.{row.module}")
        made: Any = typer.main.get_group(module.group).commands[row.name]
        parts += _command(made, f"ncnnkit {row.name}", "##")
    parts.append(f"## Exit codes\n\n{_exit_codes()}\n")
    return "\n".join(parts)


def _overview() -> Iterator[str]:
    panel = ""
    for row in COMMANDS:
        if row.panel != panel:
            panel = row.panel
            yield f"**{panel}**\n"
        last = row is COMMANDS[-1] or COMMANDS[COMMANDS.index(row) + 1].panel != panel
        yield f"- [`{row.name}`](#ncnnkit-{row.name}): {row.summary}" + ("\n" if last else "")


def _command(made: Any, path: str, heading: str) -> Iterator[str]:
    """The section of a command, followed by the sections of its subcommands."""
    context = made.context_class(made, info_name=path)
    parameters = [one for one in made.get_params(context) if not one.hidden and one.name != "help"]
    arguments = [one for one in parameters if not one.opts[0].startswith("-")]
    options = [one for one in parameters if one.opts[0].startswith("-")]
    yield f"{heading} {path}\n"
    yield f"{_prose(made.help)}\n"
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *map(_as_typed, arguments)])
    yield f"```\n{usage}{' COMMAND' if hasattr(made, 'commands') else ''}\n```\n"
    examples = [line.strip() for line in (made.epilog or "").splitlines()[1:] if line.strip()]
    if examples:
        yield "Examples:\n\n```sh\n" + "\n".join(examples) + "\n```\n"
    if arguments:
        yield "| argument | meaning |\n| --- | --- |"
        yield "\n".join(f"| `{one.metavar or one.name.upper()}` | {_cell(one.help)} |" for one in arguments) + "\n"
    if options:
        yield "| option | meaning |\n| --- | --- |"
        yield "\n".join(f"| {_flags(one)} | {_meaning(one)} |" for one in options) + "\n"
    for name, inner in getattr(made, "commands", {}).items():
        yield from _command(inner, f"{path} {name}", "###")


def _as_typed(argument: Any) -> str:
    word = (argument.metavar or argument.name.upper()).removesuffix("...") + ("…" if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _flags(option: Any) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    return ", ".join(f"`{name}{value if name.startswith('--') else ''}`" for name in option.opts)


def _meaning(option: Any) -> str:
    said = [_cell(option.help)]
    if option.required:
        said.append("Required.")
    if getattr(option, "multiple", False) and "repeated" not in said[0]:
        said.append("May be repeated.")
    if option.default not in (None, False, "", ()) and "Default" not in said[0]:
        said.append(f"Default: {option.default}.")
    return " ".join(said)


def _prose(text: str | None) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", (text or "").replace("``", "`")).strip()


def _cell(text: str | None) -> str:
    return _prose(text).replace("|", "\\|").replace("<", "&lt;")


def _exit_codes() -> str:
    first, *rest = re.split(r"; (?=\d)", EXIT_CODES.removeprefix("Exit codes: ").rstrip("."))
    return "\n".join(["| code | meaning |", "| --- | --- |", *(_code(one) for one in [first, *rest])])


def _code(said: str) -> str:
    number, _, meaning = said.partition(" ")
    return f"| {number} | {meaning} |"
