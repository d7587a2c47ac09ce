"""Prints for the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from ..errors import NcnnkitError
from ..printing import PlainConsole

# A file or a pipe gets the whole table, independent of the width that Rich assumes.
out = PlainConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
err = PlainConsole(stderr=True)


def print_json(value: Any) -> None:
    """Print dataclasses as JSON, as in run.json."""
    from ..codec import encode

    print(encode(value).decode(), end="")


def print_notes(notes: Sequence[str]) -> None:
    """Print the notes of a result."""
    for note in notes:
        out.print(Text.assemble(("note:", "yellow"), f" {note}"))


def say(text: str) -> None:
    """Print a line to stderr."""
    err.print(text, soft_wrap=True)


def print_error(error: NcnnkitError) -> None:
    """Print an expected failure in one line."""
    err.print(Text.assemble(("error:", "bold red"), f" {error.line()}"), soft_wrap=True)


def say_how(*models: Any) -> None:
    """Print how models without a card were run, and why. It is printed after the work, so that errors stay one line."""
    for model in models:
        if model is not None and model.derived:
            say(f"{model.name}: {model.how}")
