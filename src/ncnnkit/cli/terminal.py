"""Prints for the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from ..printing import PlainConsole

# A file or a pipe gets the whole table, independent of the width that Rich assumes.
out = PlainConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120, emoji=False)
err = PlainConsole(stderr=True, emoji=False)


def print_json(value: Any) -> None:
    """Print dataclasses as JSON, as in run.json."""
    from ..codec import encode

    print(encode(value).decode(), end="")


def print_notes(notes: Sequence[str]) -> None:
    """Print the notes of a result."""
    for note in notes:
        out.print(f"[yellow]note:[/] {escape(note)}")


def say(text: str) -> None:
    """Print a line to stderr."""
    err.print(text, markup=False, soft_wrap=True)


def say_how(*models: Any) -> None:
    """Print how models without a card were run, and why. It is printed after the work, so that errors stay one line."""
    for model in models:
        if model is not None and model.derived:
            say(f"{model.name}: {model.how}")
