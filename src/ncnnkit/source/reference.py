"""The original's outputs, and whether the converted network computes the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.accuracy import Errors
from ..comparison.outputs import Outputs, keep_outputs
from ..device.session import Session
from ..errors import VerificationError
from ..formatting import counted
from ..model.graph import Graph
from ..progress import Progress
from ..record.run import Accuracy, OutputError
from ..samples.stream import Samples
from . import ModelSource

Array = NDArray[Any]

LEAST_SQNR_DB = 60.0
"""Below it a converted network computes something else: fp32 normally reaches 100 dB."""

EXACT_SQNR_DB = 80.0
"""From here on a converted network is the original, but for the rounding of fp32."""

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

    return keep_outputs(names, checked(), folder, source.reference)


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
    contains NaN or infinity counts as exact: it tells nothing.

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
        # Blobs that nobody reads count as outputs in ncnn, too; they come after the model's own.
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


def exactness(found: Accuracy) -> float:
    """The SQNR of the worst output, dB; infinite where all are exact."""
    return min(map(_exactness, found.outputs))


def shortfall(found: Accuracy) -> str:
    """What is wrong with outputs that are less exact than they must be; empty where they are exact enough."""
    worst = min(found.outputs, key=_exactness)
    if _exactness(worst) >= LEAST_SQNR_DB:
        return ""
    which = f" of output {worst.name!r}" if len(found.outputs) > 1 else ""
    seen = "the original's is all zero, ncnn's is not" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB"
    return f"its network differs from the original: {seen}{which} in fp32, but must have {LEAST_SQNR_DB:g} dB"


def _exactness(output: OutputError) -> float:
    """The SQNR of an output, dB, infinite where it is exact. What should be zero may be zero up to rounding."""
    if output.sqnr_db is not None:
        return output.sqnr_db
    return math.inf if output.max_error < ROUNDING else -math.inf
