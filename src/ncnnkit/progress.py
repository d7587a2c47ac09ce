"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

StepProgress = Callable[[str, int, int], None]
"""Called with (step, done, total); total is 0 where it cannot be known."""


def silent(done: int, total: int) -> None:
    """A :data:`Progress` that says nothing."""


def silent_steps(step: str, done: int, total: int) -> None:
    """A :data:`StepProgress` that says nothing."""


def of_step(steps: StepProgress, step: str) -> Progress:
    """The progress within one step."""
    return lambda done, total: steps(step, done, total)
