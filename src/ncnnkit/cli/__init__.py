"""The command line: parse, call, print. The work is done elsewhere.

``commands`` holds the table of the commands; each module that it names holds a group of them. ``options`` declares the
options that several commands take, ``values`` turns their texts into values, ``terminal`` prints.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from ..errors import BUG, OK, printable
from .commands import COMMANDS, LazyGroup, guarded, handled
from .interrupts import interruptible
from .streams import prepare_streams

__all__ = ["COMMANDS", "app", "main"]

EXIT_CODES = (
    "Exit codes: 0 success; 1 a bug in ncnnkit; 2 a wrong command line; 3 an input that cannot be used; 4 a tool "
    "failed (pnnx, ncnn, the disk); 5 it ran, but the result must not be trusted, or a condition of diff is met; "
    "130 interrupted; 141 whatever read the output has ended."
)
BUG_SAID = (
    "This is a bug in ncnnkit. Please report it with the command, the lines above, and what `ncnnkit doctor` prints."
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
    prepare_streams()
    written = warnings.formatwarning
    warnings.formatwarning = lambda *args, **more: printable(written(*args, **more))
    with interruptible():
        sys.exit(_ended(app, prog_name="ncnnkit") or _ended(sys.stdout.flush))


def _ended(function: Callable[..., object], **options: str) -> str | int | None:
    """Call a function that may end the process.

    Returns:
        The exit code of its end.
    """
    try:
        with handled():
            function(**options)
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code
    except Exception:
        sys.excepthook(*sys.exc_info())
        print(BUG_SAID, file=sys.stderr)
        return BUG
    return OK
