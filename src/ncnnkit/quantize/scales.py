"""Scales: how a range of real numbers becomes 127 steps a side.

ncnn's int8 is symmetric: q = round(x · scale), clipped to ±127, with one scale a tensor for activations and one an
output channel (or group) for weights; scale = 127 / threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..calibrate import BlobStats
from ..graph import Layer

STEPS = 127  # int8, symmetric; -128 is not used
WINOGRAD_STEPS = 31  # 6 bits: the most that ncnn's int8 Winograd kernels add up without overflow


def minmax_threshold(stats: BlobStats) -> float:
    """The largest absolute value seen: nothing is clipped."""
    return stats.absmax


def mse_threshold(stats: BlobStats) -> float:
    """The threshold with the least mean squared error of quantising what was seen.

    Clipping and rounding error are summed over the histogram for thresholds down to 5 % of the largest value, in steps
    of 2 %. (Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference", 2019.)
    """
    used = int(np.flatnonzero(stats.histogram)[-1]) + 1
    counts = stats.histogram[:used].astype(np.float64)
    centres = (np.arange(used) + 0.5) * stats.width
    candidates = stats.absmax * 0.98 ** np.arange(150)
    errors = np.empty(len(candidates))
    for i, threshold in enumerate(candidates):
        step = threshold / STEPS
        rounded = np.minimum(np.rint(centres / step), STEPS) * step
        errors[i] = counts @ (centres - rounded) ** 2
    return float(candidates[np.argmin(errors)])


def kl_threshold(stats: BlobStats) -> float:
    """The threshold whose 128-level version diverges least from the distribution seen, as ncnn2table finds it.

    Works on 2048 bins over [0, absmax] (:func:`ncnnkit.calibrate` with ``method="kl"``). (Migacz, "8-bit Inference with
    TensorRT", 2017; ``quantize_KL`` in ``tools/quantize/ncnn2table.cpp``.) Merging a stretch of bins into one level and
    spreading it again equals interpolating the cumulative histogram between the levels' edges.
    """
    levels, eps, bins = 128, 1e-4, len(stats.histogram)
    share = stats.histogram / max(int(stats.histogram.sum()), 1)
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    edges = np.arange(bins + 1, dtype=np.float64)
    best, best_divergence = levels, np.inf
    for threshold in range(levels, bins):
        clipped = share[:threshold] + eps
        clipped[-1] += cumulative[-1] - cumulative[threshold]
        knots = np.arange(levels + 1) * (threshold / levels)
        spread = np.diff(np.interp(edges[: threshold + 1], knots, np.interp(knots, edges, cumulative))) + eps
        divergence = clipped @ np.log(clipped / spread)
        if divergence < best_divergence:
            best, best_divergence = threshold, divergence
    return float((best + 0.5) * stats.absmax / bins)


def aciq_clip(absmax: NDArray[np.float32] | float, count: int, bits: int = 8) -> NDArray[np.float64]:
    """Clipping threshold for Gaussian values, from their largest and their number, as ncnn2table has it.

    (Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", 2019;
    ``compute_aciq_gaussian_clip`` in ``tools/quantize/ncnn2table.cpp``.)
    """
    alpha = (0.0, 1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714)[bits - 1]
    gaussian = 0.5 * 0.35 * (1 + np.sqrt(np.pi * np.log(4)))
    std = np.asarray(absmax, np.float64) * 2 * gaussian / np.sqrt(2 * np.log(max(count, 2)))
    return np.asarray(alpha * std)


def aciq_threshold(stats: BlobStats, images: int = 1) -> float:
    """ACIQ for an activation: the count is that of one image."""
    return float(aciq_clip(stats.absmax, stats.count // max(images, 1)))


THRESHOLDS: MappingProxyType[str, Callable[[BlobStats, int], float]] = MappingProxyType(
    {
        "mse": lambda stats, images: mse_threshold(stats),
        "kl": lambda stats, images: kl_threshold(stats),
        "aciq": aciq_threshold,
        "minmax": lambda stats, images: minmax_threshold(stats),
    }
)
"""Method -> threshold of an activation, from its statistics and the number of images."""


def activation_scale(stats: BlobStats, method: str, images: int) -> float:
    """Scale of an activation. 1 for a blob that was zero on every image: any finite scale is right, infinity is not."""
    if stats.absmax == 0.0:
        return 1.0
    return STEPS / THRESHOLDS[method](stats, images)


def runs_winograd(layer: Layer) -> bool:
    """Whether ncnn may run this convolution with an int8 Winograd kernel, unless its mask forbids it."""
    p = layer.p
    square = layer.type == "Convolution" and (p.kernel_w, p.kernel_h) == (3, 3)
    return square and (p.dilation_w, p.dilation_h, p.stride_w, p.stride_h) == (1, 1, 1, 1)


def weight_rows(layer: Layer) -> NDArray[np.float32]:
    """The weights as float32 (rows, n): a row for each scale, an output channel or a group of a depthwise one."""
    rows = layer.get("group") if layer.type == "ConvolutionDepthWise" else layer.get("num_output")
    return layer.array("weight").reshape(rows, -1)


def weight_scales(layer: Layer, *, steps: int = STEPS, method: str = "mse") -> NDArray[np.float32]:
    """Scale of each weight row, float32 (rows,). An all-zero row has scale 1, where ncnn2table writes infinity.

    ``aciq`` clips as ncnn2table does; every other method keeps the largest weight, which is best with 8 bits a channel.
    """
    rows = weight_rows(layer)
    absmax = np.abs(rows).max(axis=1)
    bits = steps.bit_length() + 1
    threshold = aciq_clip(absmax, rows.shape[1], bits) if method == "aciq" else absmax
    return np.where(absmax > 0, steps / np.where(absmax > 0, threshold, 1), 1).astype(np.float32)


def to_int8(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Quantise (rows, n) weights: rounded half away from zero, as ncnn's ``float2int8``, and clipped to ±127."""
    scaled = rows * scales[:, None]
    # trunc(x + copysign(0.5)) rounds like C's round(); fp32 holds every sum exactly in this range.
    rounded: NDArray[np.float32] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return np.clip(rounded, -STEPS, STEPS).astype(np.int8)
