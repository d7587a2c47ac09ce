"""The original's outputs, and whether the converted network computes the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.accuracy import Errors
from ..comparison.outputs import Outputs, keep_outputs
from ..comparison.wrong import MARGIN_DB
from ..device.session import Session
from ..errors import ConvertError, VerificationError
from ..formatting import counted
from ..model.graph import Graph
from ..progress import Progress
from ..record.variant import Accuracy, OutputError
from ..samples.stream import ArraySamples, Samples, in_memory
from ..tasks import Agreement, agreement, decode
from . import ModelSource

Array = NDArray[Any]

LEAST_SQNR_DB = 60.0
"""Below it a converted network computes something else: fp32 normally reaches 100 dB."""

EXACT_SQNR_DB = 80.0
"""From here on a converted network is the original, but for the rounding of fp32."""

LEAST_KNOWN_DB = 10.0
"""An original that is less exact than this about itself explains no error: it computes something else every time."""

ROUNDING = 1e-4  # what fp32 may leave of an output that should be zero


def reference_outputs(
    source: ModelSource,
    converted: Graph,
    samples: Samples,
    folder: Path,
    progress: Progress,
    *,
    threads: int | None = None,
) -> Outputs:
    """The original model's outputs on every sample; ncnn's own in fp32 where there is no other original.

    Args:
        folder: gets them.
        progress: called with (samples done, all samples).
        threads: of ncnn; by default all cores.
    """
    if source.engine == "ncnn":
        names, rows = converted.outputs, ncnn_outputs(converted, samples, threads)
    else:
        names, rows = list(source.outputs), source.reference_outputs(samples)

    def checked() -> Iterator[tuple[Array, ...]]:
        for done, row in enumerate(rows, 1):
            for name, values in zip(names, row):
                if not np.isfinite(values).all():
                    hint = "wrong preprocessing, or a model that overflows?"
                    raise VerificationError(f"the original model's output {name!r} contains NaN or infinity", hint=hint)
            yield row
            progress(done, len(samples))

    return keep_outputs(names, checked(), folder)


def ncnn_outputs(graph: Graph, samples: Samples, threads: int | None) -> Iterator[tuple[Array, ...]]:
    """A graph's outputs in fp32 on the CPU, for each sample."""
    with Session(graph, precision="fp32", threads=threads) as net:
        for sample in samples:
            yield net.blobs(*sample, names=graph.outputs)


def compare_outputs(
    graph: Graph, samples: Samples, reference: Sequence[Sequence[Array]], *, threads: int | None = None
) -> Accuracy:
    """The errors of ncnn in fp32 against the original.

    What counts is the noise over the signal of all samples, for each output by itself. An output of the original that
    contains NaN or infinity counts as exact: it shows nothing.

    Args:
        graph: the converted network.
        samples: what both are fed.
        reference: the original's outputs for each sample.
        threads: of ncnn; by default all cores.

    Raises:
        VerificationError: ncnn's outputs have other sizes than the original's, or contain NaN or infinity.
        RuntimeFailure: ncnn cannot run the network.
    """
    errors = Errors()
    with Session(graph, precision="fp32", threads=threads) as net:
        # Blobs that no layer reads count as outputs in ncnn, too; they come after the model's own.
        names = net.outputs[: len(reference[0])]
        if len(names) != len(reference[0]):
            raise VerificationError(
                f"its network has {counted(len(names), 'output')}, but the original has {len(reference[0])}"
            )
        for sample, theirs in zip(samples, reference):
            ours = net.blobs(*sample, names=names)
            for name, a, b in zip(names, ours, theirs):
                if a.size != b.size:
                    raise VerificationError(f"its output {name!r} has {a.size} values, but the original's has {b.size}")
            telling = [np.isfinite(values).all() for values in theirs]
            errors.add(
                [a if tells else np.zeros_like(a) for a, tells in zip(ours, telling)],
                [b if tells else np.zeros_like(b) for b, tells in zip(theirs, telling)],
            )
    broken = errors.broken()
    if broken is not None:
        raise VerificationError(f"its output {names[broken]!r} contains NaN or infinity")
    return errors.result(names)


@dataclass(frozen=True)
class Compared:
    """A converted network beside its original.

    Attributes:
        errors: of its outputs.
        blind: whether the original's outputs all contain NaN or infinity, so that nothing was compared.
        known: how exactly the original knows each output itself, dB, see :meth:`Expected.known`; empty where the
            network is exact without it.
    """

    errors: Accuracy
    blind: bool = False
    known: Sequence[float] = ()

    @property
    def sqnr_db(self) -> float:
        """The SQNR of the worst output, dB; infinite if all are exact.

        An output within twice the noise of the original itself is exact.
        """
        return min(self._each())

    @property
    def original_sqnr_db(self) -> float | None:
        """The noise of the original, where nothing else makes the network exact."""
        return min(self.known) if self.known and self.sqnr_db >= EXACT_SQNR_DB else None

    @property
    def shortfall(self) -> str:
        """What is wrong with outputs that are less exact than they must be; empty if they are exact enough."""
        least, worst = min(zip(self._each(), self.errors.outputs), key=lambda pair: pair[0])
        if least >= LEAST_SQNR_DB:
            return ""
        which = f" of output {worst.name!r}" if len(self.errors.outputs) > 1 else ""
        seen = "the original's is all zero, ncnn's is not" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB"
        return f"its network differs from the original: {seen}{which} in fp32, but must have {LEAST_SQNR_DB:g} dB"

    def _each(self) -> list[float]:
        known = self.known or [math.inf] * len(self.errors.outputs)
        return [
            math.inf if LEAST_KNOWN_DB <= own <= sqnr + MARGIN_DB else sqnr
            for sqnr, own in zip(map(_exactness, self.errors.outputs), known, strict=True)
        ]


class Expected:
    """An original's outputs on some samples, which networks are compared with.

    Args:
        source: the original.
        samples: a few.
    """

    def __init__(self, source: ModelSource, samples: Samples) -> None:
        self._source, self._given = source, samples
        self._outputs = list(source.reference_outputs(samples.subset([0])))

    @property
    def _samples(self) -> Samples:
        """The samples with known outputs."""
        return self._given.subset(range(len(self._outputs)))

    def compare(self, graph: Graph, threads: int | None = None, most: int | None = None) -> Compared:
        """A network beside the original; arguments and errors are those of :func:`compare_outputs`.

        Args:
            most: the number of samples to compare on; by default all.
        """
        count = min(len(self._given), len(self._given) if most is None else most)
        further = self._given.subset(range(len(self._outputs), count))
        self._outputs += self._source.reference_outputs(further)
        blind = not any(np.isfinite(values).all() for row in self._outputs for values in row)
        found = Compared(compare_outputs(graph, self._samples, self._outputs, threads=threads), blind)
        return found if found.sqnr_db >= EXACT_SQNR_DB else replace(found, known=self.known)

    def predictions(self, graph: Graph, threads: int | None = None) -> Agreement | None:
        """The predictions of a network beside those of the original; None if no decoder is known, or it fails."""
        decoder, predict = self._source.decoder, self._source.predict
        if decoder is None:
            return None
        found = Agreement(0, 0, 0)
        for ours, theirs in zip(ncnn_outputs(graph, self._samples, threads), self._outputs):
            shaped = [a.reshape(b.shape) for a, b in zip(ours, theirs)]
            try:
                original = predict(theirs) if predict else decode(decoder, theirs)
            except ConvertError:  # what comes after the cut fails for these values
                return None
            found += agreement(decode(decoder, shaped), original)
        return found

    @property
    def quantised_sqnr_db(self) -> float | None:
        """A quantised original's own noise: the same in floating point against it, of the worst output, dB."""
        original = self._source.as_quantised
        if original is None:
            return None
        errors = _errors(self._outputs, original.reference_outputs(self._samples))
        return errors.result(list(self._source.outputs)).sqnr_db

    @cached_property
    def known(self) -> list[float]:
        """How exactly the original knows its own outputs: the SQNR of each against itself, dB; infinite where equal.

        Every number of the inputs is moved to the next one of fp32, up or down by chance. A sigmoid of large negative
        numbers has outputs near zero: a rounding of its input by one part in 10^7 changes them by one part in 10^5. It
        is the better one of two draws: where an output jumps, such as a rounded one, a single value may make most of
        the noise.
        """
        return [max(pair) for pair in zip(*map(self._moved, (0, 1)), strict=True)]

    def _moved(self, seed: int) -> list[float]:
        noise = np.random.default_rng(seed)
        moved = [
            np.nextafter(array, np.where(noise.random(array.shape) < 0.5, -np.inf, np.inf).astype(np.float32))
            if spec.dtype.startswith("float")
            else array
            for array, spec in zip(in_memory(self._samples), self._source.inputs, strict=True)
        ]
        errors = _errors(self._source.reference_outputs(ArraySamples(tuple(moved))), self._outputs)
        found = [errors.sqnr_db(index) for index in range(len(self._outputs[0]))]
        return [math.inf if sqnr is None or math.isnan(sqnr) else sqnr for sqnr in found]


def _errors(outputs: Iterable[Sequence[Array]], reference: Iterable[Sequence[Array]]) -> Errors:
    """The errors of the outputs for some samples against others for the same samples."""
    errors = Errors()
    for ours, theirs in zip(outputs, reference, strict=True):
        errors.add(ours, theirs)
    return errors


def _exactness(output: OutputError) -> float:
    """The SQNR of an output, dB, infinite if it is exact. What should be zero may be zero up to rounding."""
    if output.sqnr_db is not None:
        return output.sqnr_db
    return math.inf if output.max_error < ROUNDING else -math.inf
