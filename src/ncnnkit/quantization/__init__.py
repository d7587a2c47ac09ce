"""Quantises an fp32 network to int8.

=====================  =========================================================================
module                 content
=====================  =========================================================================
methods                the methods in order; each is kept if it helps
efforts                how much computation the methods may take
own                    the scales of a quantised original
scales, table          thresholds and weight scales; ncnn2table's file
int8                   int8 layers from scales, requantised between them
zeropoint              shifts one-sided activations to the middle of int8's range
thresholds             moves thresholds to the least error of the layers that read the blob
equalize               makes the ranges of a tensor's channels more equal
trials                 judges a method on held-back samples
bias                   corrects all biases in one pass
ranges, advice         figures of int8 layers and of the calibration images for the report
layerwise, rounding    weights, biases and scales fitted to the real outputs of the layers before
stepper, activations   run a network layer by layer
=====================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, overload

from ..artifact import Artifact, floating
from ..model.graph import Graph
from ..model.targets import TARGETS, Target, machine_target
from .bias import correct_bias
from .calibration import ActivationStats
from .efforts import EFFORTS, Effort
from .int8 import METHODS, apply_table, check_request, finished, make_table
from .methods import Quantized, quantize_images
from .own import apply_own, settle_without_samples
from .table import Table, load_table, save_table

__all__ = [
    "EFFORTS",
    "METHODS",
    "TARGETS",
    "Effort",
    "Quantized",
    "Table",
    "Target",
    "apply_own",
    "apply_table",
    "check_request",
    "correct_bias",
    "finished",
    "load_table",
    "machine_target",
    "make_table",
    "quantize",
    "quantize_images",
    "save_table",
    "settle_without_samples",
]


@overload
def quantize(
    model: Artifact,
    stats: Any = None,
    *,
    target: str = "arm",
    method: str | None = None,
    effort: str = "default",
    skip: Collection[str] = (),
) -> Artifact: ...


@overload
def quantize(
    model: Graph | str | Path,
    stats: Any = None,
    *,
    target: str = "arm",
    method: str | None = None,
    effort: str = "default",
    skip: Collection[str] = (),
) -> Graph: ...


def quantize(
    model: Artifact | Graph | str | Path,
    stats: Any = None,
    *,
    target: str = "arm",
    method: str | None = None,
    effort: str = "default",
    skip: Collection[str] = (),
) -> Artifact | Graph:
    """Quantise a network to int8.

    Args:
        model: a network in floating point: an Artifact, a Graph or the path of a ``.param``; not changed.
        stats: calibration samples, for the best result: float arrays of shape (N, …), an ImageSet, or an iterable of
            batches such as a PyTorch DataLoader; see :func:`ncnnkit.samples.given.as_samples`. Or the result of
            :func:`ncnnkit.calibrate`, or a table of scales; weights are then rounded to the nearest value. None is
            enough for a network that keeps the scales of a quantised original.
        target: the kernels that will run it: a name in ``ncnnkit.model.targets.TARGETS``, such as ``x86``, ``arm``,
            ``arm-dotprod``, ``vulkan`` or ``rk3588``.
        method: the method to choose scales: ``own``, ``mse``, ``kl``, ``aciq`` or ``minmax``. ``own`` takes the scales
            and the weights of a quantised original, and fits nothing. The default is the method of the statistics,
            otherwise ``own`` if the network has the scales of a quantised original, otherwise ``mse``.
        effort: ``fast``, ``default`` or ``best``; only with samples.
        skip: names of layers that stay in floating point.

    Returns:
        A graph with int8 convolutions and inner products, which pass int8 to each other if possible. Its other weights
        are stored as fp16, as ncnn2int8 does. For an Artifact the result is an Artifact, which keeps the preprocessing
        and the class names.

    Raises:
        ModelError: the model is int8 or mixed already.
        RecipeError: the target, method, effort or a layer is unknown, or there is nothing to choose scales from.
        ImageError: the samples do not fit the network's inputs.
        FormatError: the table does not fit the graph.

    Example:
        >>> samples = np.random.default_rng(0).normal(size=(20, 3, 224, 224)).astype(np.float32)
        >>> int8 = nk.quantize(nk.load("model.param"), samples, target="arm", effort="fast")
        >>> int8.layers[1].get("int8_scale_term") > 0
        True
    """
    graph = floating(model, "quantising")
    check_request(graph, target, skip)
    if isinstance(stats, (ActivationStats, Table)):
        table = stats if isinstance(stats, Table) else make_table(graph, stats, method=method)
        made = apply_table(graph, table.without(set(skip)), target=target)
    elif stats is None:
        settle_without_samples(graph, method)
        made = finished(apply_own(graph, target=target, skip=skip).int8)
    else:
        made = quantize_images(graph, stats, target=target, method=method, effort=effort, skip=skip).graph
    return model.having(made, "int8", target=target) if isinstance(model, Artifact) else made
