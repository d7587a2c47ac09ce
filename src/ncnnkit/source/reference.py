"""The original's outputs, and whether the converted network computes the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from ..recipe import Recipe
from ..record.environment import installed
from ..record.folder import LOG
from ..record.run import ConversionCheck, OutputError
from ..samples.stream import Samples
from . import ModelSource
from .conversion import Conversion

Array = NDArray[Any]

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


def check_conversion(
    recipe: Recipe, source: ModelSource, conversion: Conversion, samples: Samples, reference: Outputs
) -> ConversionCheck:
    """Compare ncnn in fp32 with the original on a few samples. Raises VerificationError where they differ too much.

    What counts is the noise over the signal of all these samples, for each output by itself.
    """
    errors = Errors()
    with Session(conversion.graph, precision="fp32", threads=recipe.threads or None) as net:
        # Blobs that nobody reads count as outputs in ncnn, too; they come after the model's own.
        names = net.outputs[: len(reference.rows)]
        if len(names) != len(reference.rows):
            raise ModelError(
                f"the original has {len(reference.rows)} outputs, but the converted model has {len(names)}"
            )
        for sample, theirs in zip(samples.subset(range(min(CHECKED_IMAGES, len(samples)))), reference):
            ours = net.blobs(*sample, names=names)
            for name, a, b in zip(names, ours, theirs):
                if a.size != b.size:
                    raise VerificationError(f"output {name!r} has {a.size} values, but the original's has {b.size}")
            errors.add(ours, theirs)
    broken = errors.broken()
    if broken is not None:
        raise VerificationError(f"the converted model's output {names[broken]!r} contains NaN or infinity")
    found = errors.result(names)
    worst = min(found.outputs, key=_exactness)
    if _exactness(worst) < WRONG_SQNR_DB and not recipe.force:
        which = f" of output {worst.name!r}" if len(names) > 1 else ""
        seen = "the original's is all zero, ncnn's is not" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB"
        raise VerificationError(
            f"the converted model differs from the original: {seen}{which} in fp32, but must have {WRONG_SQNR_DB:g} dB",
            where=recipe.model,
            hint="an operator pnnx converts wrongly, or a wrong --shape; --force continues anyway",
        )
    return ConversionCheck(
        sqnr_db=found.sqnr_db,
        cosine=found.cosine,
        max_error=found.max_error,
        seconds=round(conversion.seconds, 3),
        pnnx_version=installed("pnnx"),
        log=LOG,
    )


def _exactness(output: OutputError) -> float:
    """The SQNR of an output, dB, infinite where it is exact. What should be zero may be zero up to rounding."""
    if output.sqnr_db is not None:
        return output.sqnr_db
    return math.inf if output.max_error < ROUNDING else -math.inf
