"""The command line: parse, call, print. The work is done elsewhere.

``commands`` holds the table of the commands; each module that it names holds a group of them. ``options`` declares the
options that several commands take, ``values`` turns their texts into values, ``terminal`` prints.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated

import typer

from ..errors import printable
from .commands import COMMANDS, LazyGroup, guarded
from .interrupts import interruptible

__all__ = ["COMMANDS", "app", "main"]

EXIT_CODES = (
    "Exit codes: 0 success; 1 a bug in ncnnkit; 2 a wrong command line; 3 an input that cannot be used; 4 a tool "
    "failed (pnnx, ncnn, the disk); 5 it ran, but the result must not be trusted, or a condition of diff is met; "
    "130 interrupted."
)

app = typer.Typer(
    cls=LazyGroup,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ncnnkit {version('ncnnkit')}, ncnn {version('ncnn')}, Python {sys.version.split()[0]}")
        raise typer.Exit


@app.callback()
@guarded
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions.")
    ] = False,
) -> None:
    """Convert trained networks for edge boards with ncnn, quantise, measure and explain them."""


def main() -> None:
    """The entry point of the ``ncnnkit`` command."""
    # A name that is not UTF-8 is printed with question marks; it does not end the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    written = warnings.formatwarning
    warnings.formatwarning = lambda *args, **more: printable(written(*args, **more))
    with interruptible():
        app(prog_name="ncnnkit")
