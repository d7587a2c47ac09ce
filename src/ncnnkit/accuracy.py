"""How far one set of outputs is from another: MSE, SQNR, cosine, largest error, top-k.

Every function compares ``outputs`` with ``reference``, arrays (N, …) over N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _rows(array: Array) -> NDArray[np.float64]:
    return np.asarray(array, np.float64).reshape(len(array), -1)


def mse(outputs: Array, reference: Array) -> float:
    """Mean squared error over all values of all samples; squared unit of the output."""
    return float(np.mean((_rows(outputs) - _rows(reference)) ** 2))


def sqnr_db(outputs: Array, reference: Array) -> float | None:
    """Signal to quantisation noise ratio, 10·log10(Σ ref² / Σ err²) over all samples, in dB; None where they are equal."""
    ref = _rows(reference)
    noise = float(np.sum((_rows(outputs) - ref) ** 2))
    if noise == 0.0:
        return None
    signal = float(np.sum(ref**2))
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def cosine(outputs: Array, reference: Array) -> float:
    """Mean over samples of the cosine between output and reference. Two zero vectors count as 1, one alone as 0."""
    a, b = _rows(outputs), _rows(reference)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    products = np.sum(a * b, axis=1)
    values = np.divide(products, norms, out=both_zero.astype(np.float64), where=norms > 0)
    return float(np.mean(np.minimum(values, 1.0)))


def max_error(outputs: Array, reference: Array) -> float:
    """The largest absolute difference; unit of the output."""
    return float(np.max(np.abs(_rows(outputs) - _rows(reference))))


def classifies(reference: Mapping[str, Array]) -> bool:
    """Whether the outputs look like those of a classifier: one output, one vector of scores a sample."""
    if len(reference) != 1:
        return False
    (scores,) = reference.values()
    return scores.ndim >= 2 and scores[0].size >= 2 and scores[0].size == max(scores.shape[1:])


def top_k(scores: Array, k: int) -> NDArray[np.int64]:
    """Indices of the k largest scores of each sample, best first; int64 (N, k)."""
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


def output_errors(outputs: Array, reference: Array) -> dict[str, float | None]:
    """MSE, SQNR, cosine and largest error of one output."""
    return {
        "mse": mse(outputs, reference),
        "sqnr_db": sqnr_db(outputs, reference),
        "cosine": cosine(outputs, reference),
        "max_error": max_error(outputs, reference),
    }


def compare(
    outputs: Mapping[str, Array], reference: Mapping[str, Array], labels: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """All figures of a variant, as ``accuracy`` in run.json holds them.

    Args:
        outputs: output name -> (N, …), in the network's order.
        reference: the same outputs of the original, of at least N samples; names may differ, the order may not.
        labels: int64 (≥N,) class of each sample, or None.

    Returns:
        The figures over all outputs together, and ``outputs``, a list with those of each.
    """
    count = len(next(iter(outputs.values())))
    pairs = [(name, out, ref[:count]) for (name, out), ref in zip(outputs.items(), reference.values())]
    together = [np.concatenate([_rows(part[i]) for part in pairs], axis=1) for i in (1, 2)]
    scores = classifies(reference)
    out, ref = pairs[0][1], pairs[0][2]
    known = labels is not None and scores
    return {
        **output_errors(together[0], together[1]),
        "top1_agreement": top1_agreement(out, ref) if scores else None,
        "top5_agreement": top5_agreement(out, ref) if scores else None,
        "top1": label_accuracy(out, labels[:count], 1) if known and labels is not None else None,
        "top5": label_accuracy(out, labels[:count], 5) if known and labels is not None else None,
        "images": count,
        "outputs": [{"name": name, **output_errors(o, r)} for name, o, r in pairs],
    }
