"""Tries methods of quantising. Each method is judged, and kept if it helps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..comparison.judge import Judge
from ..comparison.noise import sqnr_db
from ..model.graph import Graph
from ..record.quantisation import Trial


class Trials:
    """The methods that were tried.

    Args:
        judge: measures the errors, on samples that are not used for fitting.
        guards: whether a method that does not lower the error is rejected.

    Attributes:
        rows: the methods that were tried, in order.
        least: the smallest error that was kept: noise over signal, the mean over the outputs. Infinite at first.
    """

    def __init__(self, judge: Judge, *, guards: bool = True) -> None:
        self.rows: list[Trial] = []
        self.least = math.inf
        self._judge, self._guards = judge, guards

    def error(self, int8: Graph) -> float:
        """Noise over signal of a network's outputs; infinite if they are not finite."""
        return self._judge.errors(int8).relative

    @contextmanager
    def trial(self, method: str) -> Iterator[Callable[[Graph], bool]]:
        """A context that adds a row. It gives a function that judges a network and returns whether to keep it."""
        start = time.perf_counter()

        def keeps(int8: Graph) -> bool:
            error = self.error(int8)
            kept = not self.rows or error < self.least or not self._guards
            if kept:
                self.least = min(self.least, error)
            seconds = round(time.perf_counter() - start, 3)
            self.rows.append(
                Trial(method=method, relative_error=error, sqnr_db=sqnr_db(error), kept=kept, seconds=seconds)
            )
            return kept

        yield keeps
