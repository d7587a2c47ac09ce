"""The record of the stages of a run in run.json."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ..progress import Position, Progress, StageProgress, StepProgress


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the run.

    Attributes:
        name: the name.
        seconds: the duration.
        reused: what was taken from an earlier run, because nothing that it depends on had changed; empty: nothing.
    """

    name: str
    seconds: float
    reused: list[str] = field(default_factory=list)


class Stages:
    """Numbers the stages of a run, times them, and passes progress on.

    Args:
        expected: the stages in order. Several consecutive stages may begin with the name of one of these, such as
            ``quantise`` and ``quantise for vulkan``. They have its number.
        progress: called with the position.
    """

    def __init__(self, expected: Sequence[str], progress: StageProgress) -> None:
        self._expected = expected
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._reused: dict[str, list[str]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._progress(self._position(name), 0, 0)
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def progress(self, name: str) -> Progress:
        """The progress function for a stage."""
        return lambda done, total: self._progress(self._position(name), done, total)

    def within(self, name: str) -> StepProgress:
        """The progress function for the steps of a stage."""
        return lambda step, done, total: self._progress(self._position(name).at(step), done, total)

    def reused(self, name: str, what: str) -> None:
        """Say that a stage took something from an earlier run."""
        known = self._reused.setdefault(name, [])
        if what not in known:
            known.append(what)
        self._progress(self._position(name), 0, 0)

    def note(self, name: str, text: str) -> None:
        """Say something about a stage, which is shown when it is finished."""
        self._progress(replace(self._position(name), note=text), 0, 0)

    def rows(self) -> list[Stage]:
        """The finished stages, in order."""
        return [
            Stage(name=name, seconds=round(seconds, 3), reused=self._reused.get(name, []))
            for name, seconds in self._seconds.items()
        ]

    def _position(self, name: str) -> Position:
        known = max((stage for stage in self._expected if name.startswith(stage)), key=len)
        reused = tuple(self._reused.get(name, ()))
        return Position(name, self._expected.index(known) + 1, len(self._expected), reused=reused)
