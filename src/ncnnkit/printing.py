"""Text of strangers on the terminal: names of files, layers and classes may hold the codes that control a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from .errors import printable


class PlainConsole(Console):
    """A Rich console that shows control characters in what it prints, instead of passing them to the terminal.

    Rich's own codes for colours and cursor are not part of the text, and stay.
    """

    def __init__(self, **options: Any) -> None:
        # Nothing in a text is markup, or the name of an emoji: a name in a stranger's model may look like one.
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """See ``rich.console.Console.render``: everything that is printed passes through it."""
        return (_plain(segment) for segment in super().render(renderable, options))


def _plain(segment: Segment) -> Segment:
    text, style, control = segment
    return segment if control else Segment(printable(text), style)
