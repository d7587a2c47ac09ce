"""Whether a method helps: int8 networks compared with the exact one on samples that take no part in fitting."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..comparison.noise import Noise, sqnr_db
from ..device.session import Session
from ..errors import ModelError
from ..model.graph import Graph
from ..onboard.rows import Rows, RowWriter
from ..samples.stream import Samples


@dataclass(frozen=True)
class Trial:
    """One method: the error with it on held-back samples, beside the best so far; and what it cost.

    Attributes:
        method: its name.
        relative_error: noise over signal of the outputs against fp32, on the held-back samples; the mean over the
            outputs, each relative to its own signal (:attr:`ncnnkit.comparison.noise.Noise.relative`).
        kept: whether it lowered the error. The first row is what the others are compared with.
        seconds: the time it took, trying and judging.
    """

    method: str
    relative_error: float
    kept: bool
    seconds: float

    @property
    def sqnr_db(self) -> float | None:
        """The same error as an SQNR in dB; None where there is none."""
        return sqnr_db(self.relative_error)


class Judge:
    """Judges int8 networks on samples. Use it in a ``with`` block: the exact outputs lie in files meanwhile.

    Args:
        exact: the fp32 network.
        held: the samples that judge.
        guards: whether what does not lower the error is not kept.
        threads: CPU threads; by default all cores.

    Attributes:
        trials: what was judged, in order.

    Raises:
        ModelError: an output changes its size from sample to sample.
        RuntimeFailure: ncnn crashed.
    """

    def __init__(self, exact: Graph, held: Samples, *, guards: bool = True, threads: int | None = None) -> None:
        self.trials: list[Trial] = []
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
            kept = not self.trials or error < min(trial.relative_error for trial in self.trials if trial.kept)
            kept |= not self._guards
            self.trials.append(Trial(method, error, kept, time.perf_counter() - start))
            return kept

        yield judge
