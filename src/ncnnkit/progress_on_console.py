"""Shows progress on a console: a moving bar, and a line for each finished stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.text import Text

from .formatting import duration
from .progress import Position, StageProgress

PATIENCE = 3.0
"""Seconds after which a log gets a line, even if there is no news."""

CREDIBLE = 2.0
"""Seconds after which the remaining time is estimated from the speed so far."""


class Shown:
    """Shows positions on a console.

    On a terminal a bar shows the stage, how far its step is, how long the stage has taken and how long the step will
    still take. Otherwise there are plain lines: one for each finished stage, and one after each :data:`PATIENCE`
    without any.

    Args:
        console: the Rich console to write to.
        live: whether to show a bar.
        clock: returns the time in seconds.
    """

    def __init__(self, console: Console, live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._live, self._clock = console, live, clock
        self._at: Position | None = None
        self._done = self._total = 0
        self._stage_began = self._step_began = self._said = clock()
        self._lock = threading.RLock()
        columns = (SpinnerColumn(), _Where(self), BarColumn(bar_width=24), _HowFar(self))
        self._bar = Progress(*columns, console=console, transient=True, disable=not live, get_time=clock)
        self._task: TaskID | None = None

    def __call__(self, position: Position, done: int, total: int) -> None:
        """Take a position. If its stage differs from the last one, a new stage begins."""
        with self._lock:
            before = self._at
            if before is None or (before.stage, before.number) != (position.stage, position.number):
                self.finish()
                self._stage_began = self._clock()
            if position != before or total != self._total:
                # A new task, because Rich keeps the last total if the new total is unknown.
                self._step_began = self._clock()
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task("", total=total or None)
            self._at, self._done, self._total = position, done, total
            if self._task is not None:
                self._bar.update(self._task, completed=done)

    def finish(self) -> None:
        """Print that the stage is finished, and how long it took."""
        with self._lock:
            if self._at is not None:
                took = duration(self._clock() - self._stage_began)
                reused = f"({', '.join(self._at.reused)} reused) " if self._at.reused else ""
                stage = f"{self._at.stage}: {self._at.note}" if self._at.note else self._at.stage
                name = f"{_numbered(self._at)}{stage} "
                self._say(Text.assemble(("✓ ", "green"), name, (reused, "cyan"), (took, "dim")))
            self._at = None

    def beat(self) -> None:
        """Print the position if there is no bar and nothing was printed for :data:`PATIENCE` seconds."""
        with self._lock:
            if self._at is not None and not self._live and self._clock() - self._said >= PATIENCE:
                self._say(Text(f"  {self.where()}, {self.how_far()}"))

    def due_in(self) -> float:
        """Seconds until :meth:`beat` may have something to say; never so few that waiting for them is work."""
        return max(self._said + PATIENCE - self._clock(), PATIENCE / 15)

    def where(self) -> str:
        """The stage, its number and its step: ``Stage 5/11 quantise: calibrate``."""
        if self._at is None:
            return ""
        return f"Stage {_numbered(self._at)}{self._at}" if self._at.number else str(self._at)

    def how_far(self) -> str:
        """The count within the step, the time of the stage so far, and the estimated time left: ``40/96, 12 s``."""
        now = self._clock()
        parts = [f"{self._done}/{self._total}"] if self._total else []
        parts.append(duration(now - self._stage_began))
        spent = now - self._step_began
        if 0 < self._done < self._total and spent >= CREDIBLE:
            parts.append(f"{duration(spent / self._done * (self._total - self._done))} left")
        return ", ".join(parts)

    def _say(self, line: Text) -> None:
        self._said = self._clock()
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def running(self) -> Iterator[Shown]:
        """Show the bar or the lines until the block ends. A stage that fails is not printed as finished."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(None if self._live else self.due_in()):
                self.beat()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            with self._bar:
                yield self
                self.finish()
        finally:
            over.set()
            watcher.join()


class _Where(ProgressColumn):
    """The column with the stage and its step."""

    def __init__(self, shown: Shown) -> None:
        super().__init__()
        self._shown = shown

    def render(self, task: Task) -> Text:
        return Text(self._shown.where())


class _HowFar(_Where):
    """The column with counts and times. It is updated even without news."""

    def render(self, task: Task) -> Text:
        return Text(self._shown.how_far())


def _numbered(position: Position) -> str:
    return f"{position.number}/{position.of} " if position.number else ""


@contextmanager
def shown_on(console: Console, plain: bool = False) -> Iterator[StageProgress]:
    """Show the progress of a run on a console.

    Args:
        console: the Rich console to write to.
        plain: print lines instead of a bar, even on a terminal.
    """
    with Shown(console, live=console.is_terminal and not plain).running() as shown:
        yield shown
