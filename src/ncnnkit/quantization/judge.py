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
from ..device.session import Session
from ..errors import ModelError
from ..model.graph import Graph
from ..onboard.rows import Rows, RowWriter
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
        ModelError: an output changes its size from sample to sample.
        RuntimeFailure: ncnn crashed.
    """

    def __init__(self, exact: Graph, held: Samples, *, guards: bool = True, threads: int | None = None) -> None:
        self.trials: list[Trial] = []
        self.least = math.inf
        self._exact, self._held, self._guards, self._threads = exact, held, guards, threads

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ncnnkit-")))
            files = [folder / f"output-{number}.npy" for number in range(len(self._exact.outputs))]
            with ExitStack() as writing, Session(self._exact, threads=self._threads) as net:
                writers = [writing.enter_context(RowWriter(file)) for file in files]
                for sample in self._held:
                    outputs = net.blobs(*sample, names=self._exact.outputs)
                    for name, writer, output in zip(self._exact.outputs, writers, outputs, strict=True):
                        try:
                            writer.append(output)
                        except ValueError:
                            raise ModelError(
                                f"output {name!r} changes its size from sample to sample",
                                hint="cut the model before the layers that choose, such as detection outputs",
                            ) from None
            self._reference = [Rows(file) for file in files]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def error(self, int8: Graph) -> float:
        """Noise over signal of a network's outputs; infinite where they are not finite."""
        noise = Noise()
        with Session(int8, threads=self._threads) as net:
            for index, sample in enumerate(self._held):
                noise.add(net.blobs(*sample, names=int8.outputs), [rows[index] for rows in self._reference])
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
