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
from ..errors import ModelError, VerificationError
from ..model.graph import Graph
from ..progress import Progress
from ..record.run import Accuracy, OutputError
from ..samples.stream import Samples
from . import ModelSource

Array = NDArray[Any]

WRONG = (
    "pnnx converts an operator wrongly, often one over the batch axis: change the model, or export it in another way"
)
WRONG_SQNR_DB = 30.0  # below it the converted network computes something else
CHECKED_IMAGES = 4  # for the conversion check
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


def check_outputs(
    graph: Graph,
    samples: Samples,
    reference: Sequence[Sequence[Array]] | Outputs,
    *,
    where: str,
    hint: str,
    threads: int | None = None,
    force: bool = False,
) -> Accuracy:
    """Compare ncnn in fp32 with the original on a few samples.

    What counts is the noise over the signal of all these samples, for each output by itself. An output of the original
    that contains NaN or infinity tells nothing.

    Args:
        graph: the converted network.
        samples: the first few are used.
        reference: the original's outputs for each sample.
        where, hint: for the errors: the model, and what to do.
        threads: of ncnn; by default all cores.
        force: accept any error.

    Returns:
        The errors of ncnn's outputs.

    Raises:
        VerificationError: the outputs differ too much.
        ModelError: there are fewer outputs than the original's.
    """
    errors = Errors()
    with Session(graph, precision="fp32", threads=threads) as net:
        # Blobs that nobody reads count as outputs in ncnn, too; they come after the model's own.
        names = net.outputs[: len(reference[0])]
        if len(names) != len(reference[0]):
            what = f"the original has {len(reference[0])} outputs, but the converted model has {len(names)}"
            raise ModelError(what, where=where, hint=hint)
        for sample, theirs in zip(samples.subset(range(min(CHECKED_IMAGES, len(samples)))), reference):
            ours = net.blobs(*sample, names=names)
            for name, a, b in zip(names, ours, theirs):
                if a.size != b.size:
                    what = f"output {name!r} has {a.size} values, but the original's has {b.size}"
                    raise VerificationError(what, where=where, hint=hint)
            telling = [np.isfinite(values).all() for values in theirs]
            errors.add(
                [a if tells else np.zeros_like(a) for a, tells in zip(ours, telling)],
                [b if tells else np.zeros_like(b) for b, tells in zip(theirs, telling)],
            )
    broken = errors.broken()
    if broken is not None:
        raise VerificationError(
            f"the converted model's output {names[broken]!r} contains NaN or infinity", where=where, hint=hint
        )
    found = errors.result(names)
    worst = min(found.outputs, key=_exactness)
    if _exactness(worst) < WRONG_SQNR_DB and not force:
        which = f" of output {worst.name!r}" if len(names) > 1 else ""
        seen = "the original's is all zero, ncnn's is not" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB"
        raise VerificationError(
            f"the converted model differs from the original: {seen}{which} in fp32, but must have {WRONG_SQNR_DB:g} dB",
            where=where,
            hint=hint,
        )
    return found


def _exactness(output: OutputError) -> float:
    """The SQNR of an output, dB, infinite where it is exact. What should be zero may be zero up to rounding."""
    if output.sqnr_db is not None:
        return output.sqnr_db
    return math.inf if output.max_error < ROUNDING else -math.inf
