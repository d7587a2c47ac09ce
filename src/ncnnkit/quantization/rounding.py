"""Rounds weights so that their rounding errors compensate each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scales import STEPS

Array = NDArray[np.float32]

DAMPING = 0.01  # this share of the mean of the covariance's diagonal is added to the diagonal
BLOCK = 128  # number of columns after which the following columns are updated
SMALL = 64  # matrices up to this size are inverted as a whole


def nearest(scaled: Array, steps: int = STEPS) -> Array:
    """Weights in steps, each rounded independently, as C's ``round`` does."""
    return np.clip(np.trunc(scaled + np.copysign(np.float32(0.5), scaled)), -steps, steps).astype(np.float32)


def gptq(scaled: Array, covariance: Array, steps: int = STEPS) -> Array:
    """Weights in steps, rounded one input after another. The weights of the following inputs compensate each error.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022.
    It uses the covariance of the inputs instead of their second moments, because the bias corrects errors of the mean.

    Args:
        scaled: float32 (groups, rows, inputs), the weights divided by their step.
        covariance: float32 (groups, inputs, inputs), the covariance of the layer's inputs.
        steps: the largest absolute value of the result.

    Returns:
        Integers as float32, in the shape of ``scaled``.
    """
    groups, _, inputs = scaled.shape
    diagonal = covariance[:, range(inputs), range(inputs)]
    # The inputs with the largest variance come first, because most other inputs can then compensate their errors.
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
    """The upper triangular U for which UᵀU is the inverse of each matrix.

    If the matrix with rows and columns reversed is LLᵀ, U is L⁻¹ with rows and columns reversed.
    """
    lower = np.linalg.cholesky(matrix[:, ::-1, ::-1])
    return np.ascontiguousarray(_inverse_of_lower(lower)[:, ::-1, ::-1])


def _inverse_of_lower(lower: Array) -> Array:
    """The inverses of lower triangular matrices, by recursive halving, so that most of the work is matrix products."""
    size = lower.shape[1]
    if size <= SMALL:
        return np.linalg.inv(lower)
    half = size // 2
    result = np.zeros_like(lower)
    result[:, :half, :half] = first = _inverse_of_lower(lower[:, :half, :half])
    result[:, half:, half:] = second = _inverse_of_lower(lower[:, half:, half:])
    result[:, half:, :half] = -(second @ lower[:, half:, :half] @ first)
    return result
