"""Whether a method helps: int8 networks compared with the exact one on samples that take no part in fitting."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from ..comparison.noise import Noise, sqnr_db
from ..comparison.outputs import keep_outputs
from ..device.session import Session
from ..model.graph import Graph
from ..record.run import Trial
from ..samples.stream import Samples


class Judge:
    """Judges int8 networks on samples. Use it in a ``with`` block: the exact outputs lie in files meanwhile.

    Args:
        exact: the fp32 network.
        held: the samples that judge.
        guards: whether what does not lower the error is not kept.
        threads: CPU threads; by default all cores.

    Attributes:
        trials: what was judged, in order.
        least: the smallest error that was kept: noise over signal, the mean over the outputs. Infinite before any was.

    Raises:
        ModelError: an output changes its shape from sample to sample.
        RuntimeFailure: ncnn crashed.
    """

    def __init__(self, exact: Graph, held: Samples, *, guards: bool = True, threads: int | None = None) -> None:
        self.trials: list[Trial] = []
        self.least = math.inf
        self._exact, self._held, self._guards, self._threads = exact, held, guards, threads

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ncnnkit-")))
            with Session(self._exact, threads=self._threads) as net:
                rows = (net.blobs(*sample, names=self._exact.outputs) for sample in self._held)
                self._reference = keep_outputs(self._exact.outputs, rows, folder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def error(self, int8: Graph) -> float:
        """Noise over signal of a network's outputs; infinite where they are not finite."""
        noise = Noise()
        with Session(int8, threads=self._threads) as net:
            for sample, exact in zip(self._held, self._reference):
                noise.add(net.blobs(*sample, names=int8.outputs), exact)
        return noise.relative

    @contextmanager
    def trial(self, method: str) -> Iterator[Callable[[Graph], bool]]:
        """A row of ``trials``; inside, call what is given with the network to judge: it says whether to keep it."""
        start = time.perf_counter()

        def judge(int8: Graph) -> bool:
            error = self.error(int8)
            kept = not self.trials or error < self.least or not self._guards
            if kept:
                self.least = min(self.least, error)
            seconds = round(time.perf_counter() - start, 3)
            self.trials.append(
                Trial(method=method, relative_error=error, sqnr_db=sqnr_db(error), kept=kept, seconds=seconds)
            )
            return kept

        yield judge
