"""Finds signs of wrong preprocessing in the input tensors of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..formatting import plain
from .items import InputSpec
from .preprocess import Preprocess
from .stream import Samples

LOOKED_AT = 32  # number of samples; a wrong range is visible in the first few
NARROW, WIDE = 0.1, 100.0  # implausible spans of values; networks are trained on spans of about 1 to 5
ALIKE = 1e-3  # share of the span; samples that differ by less are considered equal
NCNN_NORM = 0.05  # a smaller std is one of ncnn's norm values, such as 0.017 = 1/58.4


def preprocessing_doubts(samples: Samples, inputs: Sequence[InputSpec], preprocess: Preprocess | None) -> list[str]:
    """Sentences on what looks wrong, why, and what to change; empty if nothing looks wrong.

    Args:
        samples: the input tensors; the first 32 are examined.
        inputs: the network's inputs. Inputs of integers, such as token ids, are not examined.
        preprocess: how images became these samples; None for arrays.

    Example:
        >>> pixels = ArraySamples((np.arange(256, dtype=np.float32).reshape(4, 1, 8, 8),))
        >>> len(preprocessing_doubts(pixels, [InputSpec("x", (1, 8, 8))], None))
        1
    """
    few = list(islice(samples, LOOKED_AT))
    found: list[str] = []
    for number, spec in enumerate(inputs):
        if np.dtype(spec.dtype).kind == "f" and few:
            values = np.stack([sample[number] for sample in few])
            found += _about(values, f"input {spec.name!r}", preprocess)
    return found


def _about(values: NDArray[np.float32], name: str, preprocess: Preprocess | None) -> Iterator[str]:
    low, high = float(values.min()), float(values.max())
    span = high - low
    if len(values) > 1 and float(np.max(np.abs(values - values[0]))) <= ALIKE * span:
        yield f"{name}: the first {len(values)} samples are all alike; errors measured on them are not meaningful"
    cause = _cause(preprocess)
    if cause:
        yield f"{name}: its values lie from {plain(low)} to {plain(high)}: {cause}"
    elif span < NARROW:
        yield (
            f"{name}: its values lie within {plain(span)} of each other ({plain(low)} to {plain(high)}), nearly a "
            f"constant: {_FIX if preprocess else 'scale the arrays as the network was trained'}"
        )
    elif span > WIDE:
        raw = preprocess is None and low >= 0 and high <= 255 and bool(np.all(values == np.rint(values)))
        what = "the arrays hold raw pixels" if raw else f"its values lie from {plain(low)} to {plain(high)}"
        fix = _FIX if preprocess else "scale the arrays as the network was trained, for most (pixel / 255 - mean) / std"
        yield f"{name}: {what}; only networks trained on raw pixels, such as Caffe's, take a range above 100: {fix}"


_FIX = "check --divisor, --mean and --std"


def _cause(preprocess: Preprocess | None) -> str:
    """Which part of the preprocessing is implausible, and what to give instead."""
    if preprocess is None:
        return ""
    white = 255.0 / preprocess.divisor  # the largest pixel after the division
    if preprocess.divisor > 1 and max(map(abs, preprocess.mean)) > white:
        mean = ", ".join(map(plain, preprocess.mean))
        return (
            f"the mean {mean} belongs to pixels from 0 to 255, but pixels are divided by {plain(preprocess.divisor)} "
            "first; give --divisor 1, or a mean between 0 and 1"
        )
    if preprocess.divisor > 1 and max(map(abs, preprocess.std)) > max(1.0, white / NARROW):
        std = ", ".join(map(plain, preprocess.std))
        return (
            f"the std {std} belongs to pixels from 0 to 255, but pixels are divided by {plain(preprocess.divisor)} "
            "first; give --divisor 1, or a std between 0 and 1"
        )
    if max(map(abs, preprocess.std)) < NCNN_NORM:
        std, inverse = (", ".join(map(plain, row)) for row in (preprocess.std, [1 / s for s in preprocess.std]))
        return (
            f"the std {std} looks like a norm value of ncnn, a factor; std is a divisor: "
            f"give --std {inverse} and --divisor 1"
        )
    return ""


def copies_said(copies: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence about samples that were dropped as duplicates; empty if there are none."""
    if not copies:
        return []
    name, of = copies[0]
    count = "one sample was" if len(copies) == 1 else f"{len(copies)} samples were"
    example = f"{name} is named twice" if name == of else f"{name} has the same content as {of}"
    return [f"{count} dropped as {'a copy of another' if len(copies) == 1 else 'copies of others'}: {example}"]
