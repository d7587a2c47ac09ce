"""How far the work is, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..progress import StepProgress
from .terminal import err


@contextmanager
def shown_progress() -> Iterator[StepProgress]:
    """Show a bar on stderr for the current stage; yields ``progress(stage, done, total)``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)
        stage = ""

        def progress(name: str, done: int, total: int) -> None:
            nonlocal stage
            if name != stage:
                bar.reset(task, description=name, total=total or None)
                stage = name
            bar.update(task, completed=done, total=total or None)

        yield progress
