"""Shows the progress of a command on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..batches import Workers, open_workers
from ..progress import Position, StageProgress, StepProgress
from ..progress_on_console import shown_on
from .terminal import err, say


@contextmanager
def shown_stages(plain: bool) -> Iterator[StageProgress]:
    """Show the progress of a run on stderr.

    Args:
        plain: print lines instead of a bar, even on a terminal.
    """
    with shown_on(err, plain) as shown:
        yield shown


@contextmanager
def shown_progress(plain: bool) -> Iterator[StepProgress]:
    """Show the progress of work without counted stages. Each step is shown as a stage; see :func:`shown_stages`."""
    with shown_stages(plain) as shown:

        def progress(step: str, done: int, total: int) -> None:
            stage, _, inner = step.partition(": ")
            shown(Position(stage, step=inner), done, total)

        yield progress


@contextmanager
def shown_workers(scheduler: str | None, threads: int | None, progress: StepProgress) -> Iterator[Workers | None]:
    """The workers of a scheduler, and a line that says what they are; None if no scheduler was given."""
    if not scheduler:
        yield None
        return
    progress("connect to the workers", 0, 0)
    with open_workers(scheduler, threads) as workers:
        say(workers.said)
        yield workers


def looking(on: str | Sequence[str] | None) -> str:
    """The name of the step that connects to devices. It may take minutes for a new board."""
    names = [on] if isinstance(on, str) else on
    return f"look at {', '.join(names)}" if names else "look at this machine"
