"""The stages of a run, as run.json holds them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..progress import Progress, StepProgress
from .run import Stage


class Stages:
    """Names the stages of a run, times them, and passes progress on."""

    def __init__(self, progress: StepProgress) -> None:
        self._progress = progress
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._progress(name, 0, 0)
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def progress(self, name: str) -> Progress:
        return lambda done, total: self._progress(name, done, total)

    def within(self, name: str) -> StepProgress:
        """The progress of the steps of a stage."""
        return lambda step, done, total: self._progress(f"{name}: {step}", done, total)

    def rows(self) -> list[Stage]:
        return [Stage(name=name, seconds=round(seconds, 3)) for name, seconds in self._seconds.items()]
