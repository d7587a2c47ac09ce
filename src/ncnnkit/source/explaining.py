"""Explains why a converted network differs from its original: converts it again and compares it layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..onboard.scratch import Scratch
from ..recipe import AUTO
from ..samples.stream import ArraySamples
from . import open_model
from .bisection import Bisection, bisect
from .conversion import convert_source
from .model import example_arrays
from .reproducer import check_folder, write_reproducer


@dataclass(frozen=True)
class Explanation:
    """The comparison of every layer with the original.

    Attributes:
        found: the comparison.
        files: names of the reproducer's files; empty if no reproducer was asked for, or if no layer is wrong.
    """

    found: Bisection
    files: Sequence[str]


def explain(
    model: str | Path | Any,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    weights: str = "default",
    outputs: Sequence[str] = (),
    fix: Mapping[str, float] | None = None,
    route: str = AUTO,
    reproducer: Path | None = None,
) -> Explanation:
    """Convert a model, and compare every layer with the original on one sample of noise.

    Args:
        model, shapes, weights, outputs, fix, route: as for :func:`ncnnkit.convert`.
        reproducer: a folder for a reproducer: the first wrong layer alone, with its inputs and the correct output.

    Raises:
        ModelError: the model cannot be used, or the tensors inside it cannot be read.
        ConvertError, RuntimeFailure: it cannot be converted, or the network cannot be run.
        StorageError: ``reproducer`` cannot be written, or holds other files.
    """
    if reproducer is not None:
        check_folder(reproducer)
    with Scratch() as folder:
        source = open_model(model, shapes=shapes, weights=weights, outputs=outputs, fix=fix)
        sample = example_arrays(source.inputs)
        noise = ArraySamples(tuple(array[None] for array in sample))
        converted = convert_source(source, noise, Path(folder), route=route, force=True)
        found = bisect(source, converted.graph, sample)
        if reproducer is None or found.first_wrong is None:
            return Explanation(found, [])
        return Explanation(found, write_reproducer(reproducer, source, found, found.first_wrong, sample))
