"""How long-running work reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

StepProgress = Callable[[str, int, int], None]
"""Called with (step, done, total); total is 0 if unknown."""


@dataclass(frozen=True)
class Position:
    """The stage and the step that a run has reached.

    Attributes:
        stage: its name, such as ``quantise``.
        number: the number of the stage, from 1; 0 if the work is not counted in stages.
        of: the number of stages.
        step: the step of the stage, such as ``calibrate``; empty if the stage has no steps.
        note: what the stage has to say when it is finished; empty if nothing.
        reused: what the stage took from an earlier run.
    """

    stage: str
    number: int = 0
    of: int = 0
    step: str = ""
    note: str = ""
    reused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.stage}: {self.step}" if self.step else self.stage

    def at(self, step: str) -> Position:
        """The position of a step of this stage."""
        return replace(self, step=step)


StageProgress = Callable[[Position, int, int], None]
"""Called with (position, done, total). ``done`` and ``total`` count within the step; total is 0 if unknown."""


def silent(done: int, total: int) -> None:
    """A :data:`Progress` that says nothing."""


def silent_steps(step: str, done: int, total: int) -> None:
    """A :data:`StepProgress` that says nothing."""


def silent_stages(position: Position, done: int, total: int) -> None:
    """A :data:`StageProgress` that says nothing."""


def of_step(steps: StepProgress, step: str) -> Progress:
    """The progress within one step."""
    return lambda done, total: steps(step, done, total)
