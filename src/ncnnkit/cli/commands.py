"""The table of the commands, and how a command is declared.

To add a command, add a row to :data:`COMMANDS` and, in the module that the row names, a function::

    @command(group, "diff", "ncnnkit diff before/ after/ --fail-if 'int8.latency > 1.1x'")
    def diff(...) -> None:
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import INTERRUPTED, UNREAD, NcnnkitError, of_machine

F = TypeVar("F", bound=Callable[..., Any])

PANELS = ("Model", "Images", "Task", "Precision", "Measuring", "Output")
"""The panels of options, in the order of the help."""


@dataclass(frozen=True)
class Row:
    """A command in the list of the commands.

    Attributes:
        name: its name on the command line.
        module: the module of this package that has its function in ``group``.
        panel: the heading under which it is listed.
        summary: what it does, for the list. Its own help is the docstring of its function.
    """

    name: str
    module: str
    panel: str
    summary: str


COMMANDS = (
    Row("run", "runs", "Whole runs", "Convert, quantise, measure and compare a network, and write a report."),
    Row("demo", "runs", "Whole runs", "Do a run with the network and the images that come with ncnnkit."),
    Row("cache", "caches", "Whole runs", "Show or remove what later runs can take from earlier ones."),
    Row("report", "reports", "Whole runs", "Write the report of a finished run, or a comparison of several."),
    Row("diff", "reports", "Whole runs", "Compare two runs, and fail where a condition is met. For CI."),
    Row("explain-layer", "reports", "Whole runs", "Explain the precision of each layer of a mixed model."),
    Row("convert", "models", "Single steps", "Convert a network to ncnn, in fp32."),
    Row("optimize", "models", "Single steps", "Fuse and remove layers."),
    Row("calibrate", "models", "Single steps", "Compute the scales of int8 layers from images."),
    Row("quantize", "models", "Single steps", "Make an int8 model."),
    Row("compare", "models", "Single steps", "Measure how much the outputs of two models differ."),
    Row("bench", "measuring", "Measuring", "Measure latency, load time and memory."),
    Row("profile", "measuring", "Measuring", "Show the time, precision and processor of each layer."),
    Row("tune", "measuring", "Measuring", "Find the fastest cores, threads, backend, precision and switches."),
    Row("app", "apps", "Programs", "Write a C++ or Python program that runs a model."),
    Row("verify", "apps", "Programs", "Run the self-test of a program on a device."),
    Row("devices", "boards", "Devices", "List your boards, name them and clean them."),
    Row("doctor", "boards", "Devices", "Check this machine or a board."),
)
"""Every command, in the order of the list."""


class _PlainHelp:
    """A command whose help is plain text: no word in brackets is lost as markup, and no flag shows <bool>."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help. Typer takes it for Rich's markup, and keeps the line breaks of later paragraphs."""
        shown = cast(Any, copy.copy(self))
        paragraphs = inspect.cleandoc(shown.help or "").split("\n\n")
        shown.help = _literal("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))
        shown.params = [copy.copy(parameter) for parameter in shown.params]
        for parameter in shown.params:
            parameter.help = _literal(getattr(parameter, "help", None) or "")
            if parameter.param_type_name == "argument":  # its help says what it is, so <list[Path]> adds nothing
                parameter.display_type_rich = lambda ctx: None
        super(_PlainHelp, shown).format_help(ctx, formatter)  # type: ignore[misc]


def _literal(text: str) -> str:
    """A text that Rich prints as it is."""
    from rich.markup import escape

    return escape(text)


class Group(_PlainHelp, TyperGroup):
    """A group of commands under one name."""


class LazyGroup(Group):
    """The commands of :data:`COMMANDS`. A module is imported when one of its commands is used.

    So the list of the commands and shell completion do not wait for numpy.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for row in COMMANDS:
            self.commands[row.name] = TyperCommand(row.name, short_help=row.summary, rich_help_panel=row.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is used, and replace its row."""
        modules = {row.name: row.module for row in COMMANDS}
        if args and args[0] in modules:
            module = importlib.import_module(f".{modules[args[0]]}", __package__)
            self.commands[args[0]] = typer.main.get_group(module.group).commands[args[0]]
        return super().resolve_command(ctx, args)


class _Command(_PlainHelp, TyperCommand):
    """A command with ``--help`` at the end of the panel of the output."""

    def get_help_option(self, ctx: Any) -> Any:
        option = cast(Any, super().get_help_option(ctx))
        if option is not None:
            option.rich_help_panel = PANELS[-1]
        return option


def command(group: typer.Typer, name: str, *examples: str) -> Callable[[F], F]:
    """Add a command to a group. Its expected failures end in one line and their exit code.

    Args:
        group: the commands of a module.
        name: its name on the command line.
        examples: command lines for its help.
    """

    def register(function: F) -> F:
        group.command(name, cls=_Command, epilog=shown_examples(*examples))(guarded(_by_panels(function)))
        return function

    return register


def shown_examples(*lines: str) -> str:
    """Command lines in the format of the help."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def _by_panels(function: F) -> F:
    """The function, with its options in the order of the panels. Typer calls it with keywords."""

    @functools.wraps(function)
    def called(**given: Any) -> Any:
        return function(**given)

    def place(parameter: inspect.Parameter) -> int:
        panel = getattr(parameter.annotation.__metadata__[0], "rich_help_panel", None)
        return PANELS.index(panel) if panel is not None else -1

    signature = inspect.signature(function, eval_str=True)
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()]
    ordered = sorted(keywords, key=place)
    called.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    return cast(F, called)


def guarded(function: F) -> F:
    """The function, with :func:`handled` around it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with handled():
            return function(*args, **kwargs)

    return cast(F, wrapped)


@contextmanager
def handled() -> Iterator[None]:
    """Print an expected failure in one line, and raise ``typer.Exit`` with its exit code.

    Other exceptions pass: they are bugs in ncnnkit.
    """
    try:
        yield
    except KeyboardInterrupt:
        from .terminal import say

        say("interrupted; no file is half-written")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        named = error if isinstance(error, NcnnkitError) else of_machine(error)
        if named is None:
            raise
        if named.exit_code != UNREAD:
            from .terminal import print_error

            print_error(named)
        raise typer.Exit(named.exit_code) from None
