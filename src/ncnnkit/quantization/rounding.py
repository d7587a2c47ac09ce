"""Rounding weights so that the errors of one make up for those of the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scales import STEPS

Array = NDArray[np.float32]

DAMPING = 0.01  # of the mean of the covariance's diagonal, added to all of it
BLOCK = 128  # columns after which the ones behind are brought up to date
SMALL = 64  # inputs up to which a matrix is inverted as a whole


def nearest(scaled: Array, steps: int = STEPS) -> Array:
    """Weights in steps, each rounded by itself; as C's ``round``."""
    return np.clip(np.trunc(scaled + np.copysign(np.float32(0.5), scaled)), -steps, steps).astype(np.float32)


def gptq(scaled: Array, covariance: Array, steps: int = STEPS) -> Array:
    """Weights in steps, rounded one input after the other, each error made up for by the inputs that follow.

    (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022. With the
    covariance of the inputs in the place of their second moments: what rounding does to the mean, the bias takes back.)

    Args:
        scaled: float32 (groups, rows, inputs), weights over their step.
        covariance: float32 (groups, inputs, inputs), of what the weights are multiplied with.
        steps: the largest value.

    Returns:
        Whole numbers as float32, of ``scaled``'s shape.
    """
    groups, _, inputs = scaled.shape
    diagonal = covariance[:, range(inputs), range(inputs)]
    # The inputs that vary most go first, while the most others are left to make up for them.
    order = np.argsort(-diagonal, axis=1, kind="stable")
    each = np.arange(groups)[:, None]
    work = np.take_along_axis(scaled, order[:, None, :], axis=2).astype(np.float32)
    matrix = covariance[each[:, :, None], order[:, :, None], order[:, None, :]]
    damping = DAMPING * diagonal.mean(axis=1) + 1e-12
    matrix[:, range(inputs), range(inputs)] += damping[:, None]
    upper = _upper_of_inverse(matrix)
    rounded = np.empty_like(work)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = np.empty((*work.shape[:2], stop - start), np.float32)
        for i in range(start, stop):
            rounded[:, :, i] = nearest(work[:, :, i], steps)
            error = (work[:, :, i] - rounded[:, :, i]) / upper[:, None, i, i]
            work[:, :, i + 1 : stop] -= error[:, :, None] * upper[:, i, None, i + 1 : stop]
            errors[:, :, i - start] = error
        work[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    result = np.empty_like(rounded)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], rounded.shape), rounded, axis=2)
    return result


def _upper_of_inverse(matrix: Array) -> Array:
    """U, upper triangular, with UᵀU the inverse of each matrix.

    Turned end for end, the matrix is LLᵀ; its inverse's factor is then L⁻¹ turned back.
    """
    lower = np.linalg.cholesky(matrix[:, ::-1, ::-1])
    return np.ascontiguousarray(_inverse_of_lower(lower)[:, ::-1, ::-1])


def _inverse_of_lower(lower: Array) -> Array:
    """The inverses of lower triangular matrices, half by half: most of the work is in products of matrices."""
    size = lower.shape[1]
    if size <= SMALL:
        return np.linalg.inv(lower)
    half = size // 2
    result = np.zeros_like(lower)
    result[:, :half, :half] = first = _inverse_of_lower(lower[:, :half, :half])
    result[:, half:, half:] = second = _inverse_of_lower(lower[:, half:, half:])
    result[:, half:, :half] = -(second @ lower[:, half:, :half] @ first)
    return result
