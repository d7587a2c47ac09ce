"""The original's outputs, and the comparison of a converted network with them."""

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
"""A converted network with a lower SQNR counts as wrong: a right one in fp32 normally reaches 100 dB."""

EXACT_SQNR_DB = 80.0
"""A converted network with this SQNR or more counts as exact: it equals the original up to fp32 rounding."""

LEAST_KNOWN_DB = 10.0
"""If the SQNR of the original against itself is below this, it excuses no error: its outputs are mostly noise."""

ROUNDING = 1e-4  # the largest absolute error of an output that should be zero, from fp32 rounding


def reference_outputs(
    source: ModelSource,
    converted: Graph,
    samples: Samples,
    folder: Path,
    progress: Progress,
    *,
    threads: int | None = None,
) -> Outputs:
    """Compute the original's outputs for every sample. If there is no other original, ncnn computes them in fp32.

    Args:
        source: the original.
        converted: its network, which is run if the original is an ncnn model.
        samples: the inputs.
        folder: the outputs are written here.
        progress: called with (samples done, all samples).
        threads: of ncnn; by default all cores.

    Raises:
        ModelError: the original fails on a sample.
        VerificationError: an output contains NaN or infinity.
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
    """The outputs of a graph in fp32 on the CPU, for each sample."""
    with Session(graph, precision="fp32", threads=threads) as net:
        for sample in samples:
            yield net.blobs(*sample, names=graph.outputs)


def compare_outputs(
    graph: Graph, samples: Samples, reference: Sequence[Sequence[Array]], *, threads: int | None = None
) -> Accuracy:
    """The errors of ncnn in fp32 against the original.

    Noise and signal are summed over all samples, for each output separately. An output of the original that contains
    NaN or infinity cannot be compared, and counts as exact.

    Args:
        graph: the converted network.
        samples: the inputs of both.
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
            comparable = [np.isfinite(values).all() for values in theirs]
            errors.add(
                [a if known else np.zeros_like(a) for a, known in zip(ours, comparable)],
                [b if known else np.zeros_like(b) for b, known in zip(theirs, comparable)],
            )
    broken = errors.broken()
    if broken is not None:
        raise VerificationError(f"its output {names[broken]!r} contains NaN or infinity")
    return errors.result(names)


@dataclass(frozen=True)
class Compared:
    """The comparison of a converted network with its original.

    Attributes:
        errors: of the network's outputs.
        blind: whether the original's outputs all contain NaN or infinity, so that nothing was compared.
        known: the SQNR of each output of the original against itself, dB, see :attr:`Expected.known`; empty if the
            network is exact without it.
    """

    errors: Accuracy
    blind: bool = False
    known: Sequence[float] = ()

    @property
    def sqnr_db(self) -> float:
        """The SQNR of the worst output, dB; infinite if all are exact.

        An output also counts as exact if its SQNR is at most ``MARGIN_DB`` below that of the original against itself.
        """
        return min(self._each())

    @property
    def original_sqnr_db(self) -> float | None:
        """The SQNR of the original against itself, dB, if the network counts as exact only because of it."""
        return min(self.known) if self.known and self.sqnr_db >= EXACT_SQNR_DB else None

    @property
    def shortfall(self) -> str:
        """The message about the worst output if its SQNR is too low; empty if all outputs are exact enough."""
        least, worst = min(zip(self._each(), self.errors.outputs), key=lambda pair: pair[0])
        if least >= LEAST_SQNR_DB:
            return ""
        which = f"output {worst.name!r}: " if len(self.errors.outputs) > 1 else ""
        zero = "the original's output is all zero, ncnn's is not"
        seen = zero if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB, but {LEAST_SQNR_DB:g} dB are needed"
        return f"its network differs from the original in fp32: {which}{seen}"

    def _each(self) -> list[float]:
        known = self.known or [math.inf] * len(self.errors.outputs)
        return [
            math.inf if LEAST_KNOWN_DB <= own <= sqnr + MARGIN_DB else sqnr
            for sqnr, own in zip(map(_exactness, self.errors.outputs), known, strict=True)
        ]


class Expected:
    """An original's outputs on a few samples. Converted networks are compared with them.

    Args:
        source: the original.
        samples: a few samples. The original runs on each when it is first needed.
    """

    def __init__(self, source: ModelSource, samples: Samples) -> None:
        self._source, self._given = source, samples
        self._outputs = list(source.reference_outputs(samples.subset([0])))

    @property
    def _samples(self) -> Samples:
        """The samples with known outputs."""
        return self._given.subset(range(len(self._outputs)))

    def compare(self, graph: Graph, threads: int | None = None, most: int | None = None) -> Compared:
        """Compare a network with the original. The other arguments and the errors are those of :func:`compare_outputs`.

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
        """How well the predictions of a network and of the original agree. None if no decoder is known, or it fails."""
        decoder, predict = self._source.decoder, self._source.predict
        if decoder is None:
            return None
        found = Agreement(0, 0, 0)
        for ours, theirs in zip(ncnn_outputs(graph, self._samples, threads), self._outputs):
            shaped = [a.reshape(b.shape) for a, b in zip(ours, theirs)]
            try:
                original = predict(theirs) if predict else decode(decoder, theirs)
            except ConvertError:  # the operators after the cut fail for these values
                return None
            found += agreement(decode(decoder, shaped), original)
        return found

    @property
    def quantised_sqnr_db(self) -> float | None:
        """The SQNR in dB of the floating-point form of a quantised original against the quantised one, worst output.

        None if the original is not quantised, or cannot be run.
        """
        original = self._source.as_quantised
        if original is None:
            return None
        errors = _errors(self._outputs, original.reference_outputs(self._samples))
        return errors.result(list(self._source.outputs)).sqnr_db

    @cached_property
    def known(self) -> list[float]:
        """The numerical noise of the original: the SQNR of each output against itself, dB; infinite where equal.

        Every number of the inputs is moved to an adjacent fp32 number, up or down at random. This can change outputs
        much: a sigmoid of large negative numbers has outputs near zero, and a change of its input by one part in 10^7
        changes them by one part in 10^5. The better one of two random draws counts, because in an output that jumps,
        such as a rounded one, a single value may make most of the noise.
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
    """The errors of outputs against reference outputs for the same samples."""
    errors = Errors()
    for ours, theirs in zip(outputs, reference, strict=True):
        errors.add(ours, theirs)
    return errors


def _exactness(output: OutputError) -> float:
    """The SQNR of an output, dB; infinite without error. If the reference is zero: infinite up to rounding, or -inf."""
    if output.sqnr_db is not None:
        return output.sqnr_db
    return math.inf if output.max_error < ROUNDING else -math.inf
