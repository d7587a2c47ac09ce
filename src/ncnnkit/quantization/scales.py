"""Chooses scales, which map a range of real numbers to 127 steps on each side of zero.

ncnn's int8 is symmetric: q = round(x · scale), clipped to ±127, where scale = 127 / threshold. Activations have one
scale per tensor, weights one per output channel (or group).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model.graph import Layer
from ..model.scales import STEPS as STEPS  # other modules of quantization import it from here
from .calibration import BlobStats

DEAD = 1e-30  # smaller values count as zero, because their scale would not fit into fp32
WINOGRAD_STEPS = 31  # 6 bits, which ncnn2table uses for weights of ncnn's int8 Winograd kernels
WINOGRAD_LARGEST = (2**31 - 1) // 576  # the largest product for these kernels, whose sums are 576 times as large


def minmax_threshold(stats: BlobStats) -> float:
    """The largest absolute value: nothing is clipped."""
    return stats.absmax


def mse_threshold(stats: BlobStats, steps: int = STEPS) -> float:
    """The threshold with the least mean squared error of quantising the histogram's values to ``steps`` steps.

    Clipping and rounding errors are summed over the histogram for thresholds down to 5 % of the largest value, in steps
    of 2 %. Source: Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference", 2019.
    """
    if not stats.histogram.any():
        return stats.absmax  # the blob is so sparse that no non-zero value was counted
    used = int(np.flatnonzero(stats.histogram)[-1]) + 1
    counts = stats.histogram[:used].astype(np.float64)
    centres = (np.arange(used) + 0.5) * stats.width
    candidates = stats.absmax * 0.98 ** np.arange(150)
    errors = np.empty(len(candidates))
    for i, threshold in enumerate(candidates):
        step = threshold / steps
        rounded = np.minimum(np.rint(centres / step), steps) * step
        errors[i] = counts @ (centres - rounded) ** 2
    return float(candidates[np.argmin(errors)])


def kl_threshold(stats: BlobStats) -> float:
    """The threshold with the least KL divergence of the 128-level distribution from the original, as in ncnn2table.

    It needs 2048 bins over [0, absmax] (:func:`ncnnkit.calibrate` with ``method="kl"``). Sources: Migacz, "8-bit
    Inference with TensorRT", 2017; ``quantize_KL`` in ``tools/quantize/ncnn2table.cpp``.

    Merging the bins below a threshold into levels and distributing each level evenly gives a density that is constant
    within a level. So Σ p log q needs one logarithm per level, and one per bin that lies across two levels. This makes
    many thresholds one array operation.
    """
    eps, bins = 1e-4, len(stats.histogram)
    share = stats.histogram / max(int(stats.histogram.sum()), 1)
    cumulative = np.concatenate([[0.0], np.cumsum(share)])
    own = np.concatenate([[0.0], np.cumsum((share + eps) * np.log(share + eps))])
    best, least = 0, np.inf
    for at in _kl_levels(bins):
        below = cumulative[at.knot] + at.inside * share[at.knot]
        density = np.diff(below, axis=1) * at.per_bin
        clipped = cumulative[-1] - cumulative[at.thresholds]  # values beyond the threshold go into the last bin

        whole = cumulative[at.last] - cumulative[at.first] + eps * (at.last - at.first)
        whole[:, -1] += clipped
        inside = at.inside[:, 1:-1]
        shared = density[:, :-1] * inside + density[:, 1:] * (1 - inside)
        split = (share[at.knot[:, 1:-1]] + eps) * (inside > 0)
        cross = np.sum(whole * np.log(density + eps), axis=1) + np.sum(split * np.log(shared + eps), axis=1)

        ends = share[at.thresholds - 1] + eps
        entropy = own[at.thresholds - 1] + (ends + clipped) * np.log(ends + clipped)
        divergence = entropy - cross
        if divergence.min() < least:
            best, least = int(at.thresholds[divergence.argmin()]), divergence.min()
    return (best + 0.5) * stats.absmax / bins


class _Levels(NamedTuple):
    """The positions of the 128 levels for some thresholds. All but the first two have shape (thresholds, about 128)."""

    thresholds: NDArray[np.intp]  # in bins
    per_bin: NDArray[np.float64]  # levels per bin
    knot: NDArray[np.intp]  # the bin that contains an edge between levels
    inside: NDArray[np.float64]  # the part of that bin before the edge; 0 if the edge is also an edge of bins
    first: NDArray[np.intp]  # the first bin that lies completely in a level
    last: NDArray[np.intp]  # the bin after the last such bin


@lru_cache(maxsize=2)
def _kl_levels(bins: int, levels: int = 128) -> tuple[_Levels, ...]:
    """The thresholds in groups, so that the arrays fit into the cache."""
    groups = []
    for thresholds in np.array_split(np.arange(levels, bins), max(1, bins // 64)):
        edges = np.arange(levels + 1) * (thresholds[:, None] / levels)
        knot = edges.astype(np.intp)
        first = np.ceil(edges[:, :-1]).astype(np.intp)
        groups.append(_Levels(thresholds, levels / thresholds[:, None], knot, edges - knot, first, knot[:, 1:]))
    return tuple(groups)


def aciq_clip(absmax: NDArray[np.float32] | float, count: int, bits: int = 8) -> NDArray[np.float64]:
    """The clipping threshold for Gaussian values, from the largest value and the number of values, as in ncnn2table.

    Sources: Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", 2019;
    ``compute_aciq_gaussian_clip`` in ``tools/quantize/ncnn2table.cpp``.
    """
    alpha = (0.0, 1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714)[bits - 1]
    gaussian = 0.5 * 0.35 * (1 + np.sqrt(np.pi * np.log(4)))
    std = np.asarray(absmax, np.float64) * 2 * gaussian / np.sqrt(2 * np.log(max(count, 2)))
    return np.asarray(alpha * std)


def aciq_threshold(stats: BlobStats, images: int = 1) -> float:
    """ACIQ for an activation, with the number of values of one image."""
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


def widened(threshold: float, stats: BlobStats, unclipped: float) -> float:
    """A threshold moved towards the largest value, on a logarithmic scale. ``unclipped`` 1 gives the largest value."""
    return float(threshold ** (1 - unclipped) * stats.absmax**unclipped)


def activation_scale(stats: BlobStats, method: str, images: int, unclipped: float = 0.0) -> float:
    """The scale of an activation. It is 1 for a blob that was zero on every image, for which any finite scale is right.

    Args:
        unclipped: the position of the threshold between that of the method (0) and the largest value (1), on a
            logarithmic scale.
    """
    if stats.absmax < DEAD:
        return 1.0
    return STEPS / widened(THRESHOLDS[method](stats, images), stats, unclipped)


def runs_winograd(layer: Layer) -> bool:
    """Whether ncnn may run this convolution with an int8 Winograd kernel, unless its mask forbids it."""
    p = layer.p
    square = layer.type == "Convolution" and (p.kernel_w, p.kernel_h) == (3, 3)
    return square and (p.dilation_w, p.dilation_h, p.stride_w, p.stride_h) == (1, 1, 1, 1)


def winograd_may_overflow(steps: NDArray[Any]) -> bool:
    """Whether int8 Winograd kernels with these weights, (rows, n) or more axes, can overflow 32 bits on some input.

    Intermediate sums are modulo 2^32, so only the result must fit. It is 576 times the product (because of the
    denominators of F(4, 3)). Many 8-bit layers are safe; with very many input channels, even 6 bits are not. Source:
    ``conv3x3s1_winograd43_int8`` in ``src/layer/x86/convolution_3x3_winograd_int8.h``.
    """
    rows = np.abs(np.asarray(steps, np.int64)).reshape(len(steps), -1)
    return bool((rows.sum(axis=1) * STEPS).max() > WINOGRAD_LARGEST)


def is_grouped(layer: Layer) -> bool:
    """Whether this is a grouped convolution with 8 or more output channels per group. ncnn runs a convolution per
    group."""
    return layer.type == "ConvolutionDepthWise" and layer.get("num_output") // layer.get("group") % 8 == 0


def group_count(layer: Layer) -> int:
    """The number of groups of a convolution; 1 for other layers."""
    return int(layer.get("group")) if layer.type == "ConvolutionDepthWise" else 1


def weight_rows(layer: Layer) -> NDArray[np.float32]:
    """The weights as float32 (rows, n): a row per scale, which is an output channel, or a group of a depthwise
    layer."""
    rows = layer.get("group") if layer.type == "ConvolutionDepthWise" else layer.get("num_output")
    return layer.array("weight").reshape(rows, -1)


def weight_scales(layer: Layer, *, steps: int = STEPS, method: str = "mse") -> NDArray[np.float32]:
    """The scale of each weight row, float32 (rows,). An all-zero row has scale 1 (ncnn2table writes infinity).

    ``aciq`` clips as ncnn2table does. All other methods keep the largest weight, which is best for 8 bits per channel.
    """
    rows = weight_rows(layer)
    absmax = np.abs(rows).max(axis=1)
    bits = steps.bit_length() + 1
    threshold = aciq_clip(absmax, rows.shape[1], bits) if method == "aciq" else absmax
    return np.where(absmax > DEAD, steps / np.where(absmax > DEAD, threshold, 1), 1).astype(np.float32)


def to_int8(rows: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Quantise (rows, n) weights: round half away from zero, as ncnn's ``float2int8`` does, and clip to ±127."""
    scaled = rows * scales[:, None]
    # trunc(x + copysign(0.5)) rounds like C's round(); fp32 holds every sum exactly in this range.
    rounded: NDArray[np.float32] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return np.clip(rounded, -STEPS, STEPS).astype(np.int8)
