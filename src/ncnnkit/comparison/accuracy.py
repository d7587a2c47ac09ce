"""How far one set of outputs is from another: MSE, SQNR, cosine, largest error, top-k.

Every function compares ``outputs`` with ``reference``, arrays (N, …) over N samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..record.run import Accuracy, OutputError

Array = NDArray[Any]

RIGHT = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99, "int8": 0.9, "mixed": 0.9}
"""Precision -> the cosine to fp32 that right outputs reach. Below is a broken kernel or driver, not rounding."""


def stack_outputs(names: Sequence[str], samples: Sequence[Sequence[Array]], where: str = "") -> dict[str, Array]:
    """Outputs collected sample by sample as one array (N, …) for each name.

    Args:
        names: of the outputs.
        samples: for each of N samples its outputs, in the order of ``names``.
        where: the model, for the error.

    Raises:
        ModelError: an output changes its shape from sample to sample, as detections do.
    """
    columns = dict(zip(names, zip(*samples)))
    for name, column in columns.items():
        if len({value.shape for value in column}) > 1:
            hint = "cut the model before the layers that choose, such as detection outputs"
            raise ModelError(f"output {name!r} changes its shape from sample to sample", where=where, hint=hint)
    return {name: np.stack(column) for name, column in columns.items()}


def _rows(array: Array) -> NDArray[np.float64]:
    return np.asarray(array, np.float64).reshape(len(array), -1)


def mse(outputs: Array, reference: Array) -> float:
    """Mean squared error over all values of all samples; squared unit of the output."""
    return float(np.mean((_rows(outputs) - _rows(reference)) ** 2))


def sqnr_db(outputs: Array, reference: Array) -> float | None:
    """Signal to quantisation noise ratio, 10·log10(Σ ref² / Σ err²) over all samples, in dB.

    None where it would be infinite: the outputs are equal, or the reference is all zero; the MSE tells which.
    """
    ref = _rows(reference)
    noise = float(np.sum((_rows(outputs) - ref) ** 2))
    signal = float(np.sum(ref**2))
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def cosine(outputs: Array, reference: Array) -> float:
    """Mean over samples of the cosine between output and reference. Two zero vectors count as 1, one alone as 0."""
    a, b = _rows(outputs), _rows(reference)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    values = np.sum(a * b, axis=1) / np.where(norms > 0, norms, 1.0)
    values = np.where(a.any(axis=1) | b.any(axis=1), values, 1.0)
    return float(np.mean(np.clip(values, -1.0, 1.0)))  # rounding may leave the interval


def max_error(outputs: Array, reference: Array) -> float:
    """The largest absolute difference; unit of the output."""
    return float(np.max(np.abs(_rows(outputs) - _rows(reference))))


def classifies(reference: Mapping[str, Array]) -> bool:
    """Whether the outputs look like those of a classifier: one output, one vector of scores a sample."""
    if len(reference) != 1:
        return False
    (scores,) = reference.values()
    classes = math.prod(scores.shape[1:])
    return scores.ndim >= 2 and classes >= 2 and classes == max(scores.shape[1:])


def top_k(scores: Array, k: int) -> NDArray[np.int64]:
    """Indices of the k largest scores of each sample, best first, of equal ones the first; int64 (N, k)."""
    return np.argsort(-_rows(scores), axis=1, kind="stable")[:, :k]


def top1_agreement(outputs: Array, reference: Array) -> float:
    """Share of samples whose best class is the reference's."""
    return float(np.mean(top_k(outputs, 1) == top_k(reference, 1)))


def top5_agreement(outputs: Array, reference: Array) -> float:
    """Share of samples whose five best classes hold the reference's best."""
    return float(np.mean(np.any(top_k(outputs, 5) == top_k(reference, 1), axis=1)))


def label_accuracy(outputs: Array, labels: NDArray[np.int64], k: int) -> float:
    """Share of samples whose label is among the k best classes."""
    return float(np.mean(np.any(top_k(outputs, k) == labels[:, None], axis=1)))


def output_error(name: str, outputs: Array, reference: Array) -> OutputError:
    """MSE, SQNR, cosine and largest error of one output."""
    return OutputError(
        name=name,
        mse=mse(outputs, reference),
        sqnr_db=sqnr_db(outputs, reference),
        cosine=cosine(outputs, reference),
        max_error=max_error(outputs, reference),
    )


def compare(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], labels: NDArray[np.int64] | None = None
) -> Accuracy:
    """All figures of a variant.

    Args:
        outputs: output name -> (N, …), in the network's order.
        reference: the same outputs of the original, of at least N samples; names may differ, the order may not.
        labels: int64 (≥N,) class of each sample, or None.
    """
    count = len(next(iter(outputs.values())))
    pairs = list(zip(outputs.values(), (values[:count] for values in reference.values()), strict=True))
    ours, theirs = zip(*pairs)
    scores = classifies(reference)
    known = labels[:count] if labels is not None and scores else None
    whole = output_error("", *(np.concatenate([_rows(v) for v in each], axis=1) for each in (ours, theirs)))
    return Accuracy(
        mse=whole.mse,
        sqnr_db=whole.sqnr_db,
        cosine=whole.cosine,
        max_error=whole.max_error,
        top1_agreement=top1_agreement(ours[0], theirs[0]) if scores else None,
        top5_agreement=top5_agreement(ours[0], theirs[0]) if scores else None,
        top1=label_accuracy(ours[0], known, 1) if known is not None else None,
        top5=label_accuracy(ours[0], known, 5) if known is not None else None,
        images=count,
        outputs=[output_error(name, *pair) for name, pair in zip(outputs, pairs)],
    )
