"""From an fp32 graph and its activation statistics to an int8 graph.

    ActivationStats ── make_table ──▶ Table (scales) ── apply_table ──▶ Graph with int8 layers

A table may also come from a file, ncnn2table's included; what happens to it is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ..calibrate import ActivationStats, quantizable
from ..errors import FormatError, ModelError, RecipeError
from ..graph import Graph, Layer
from ..ops import Mask
from ..passes import store_fp16
from .bias import correct_bias
from .scales import (
    STEPS,
    THRESHOLDS,
    WINOGRAD_STEPS,
    activation_scale,
    is_grouped,
    runs_winograd,
    to_int8,
    weight_rows,
    weight_scales,
)
from .table import Table, load_table, save_table

__all__ = [
    "METHODS",
    "TARGETS",
    "Table",
    "Target",
    "apply_table",
    "check_request",
    "correct_bias",
    "load_table",
    "machine_target",
    "make_table",
    "quantize",
    "save_table",
]

METHODS = tuple(THRESHOLDS)
NATIVE_METHODS = frozenset({"kl", "aciq"})  # ncnn2table's own: reproduced with its weight scales


@dataclass(frozen=True)
class Target:
    """The kernels that will run a model.

    Attributes:
        name: as the user writes it.
        int8_winograd: whether ncnn has int8 Winograd kernels there. They overflow with 8-bit weights, so a 3x3 layer
            must either have 6-bit weights or its Winograd switched off.
        grouped_to_float: whether a grouped (not depthwise) int8 convolution may hand on real numbers there.
    """

    name: str
    int8_winograd: bool
    grouped_to_float: bool


TARGETS: MappingProxyType[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            # Grouped: ncnn makes room for blocks of 4 channels where its AVX kernels write 8 or 16, and the outputs are
            # lost (``forward_int8_x86`` in ``src/layer/x86/convolutiondepthwise_x86.cpp``). Requantised ones are right.
            Target("x86", int8_winograd=True, grouped_to_float=False),
            # With the dot product (Cortex-A76 and newer) ncnn runs no int8 Winograd; older cores (A53, A72) do. Its
            # code for groups is x86's with blocks that fit; until somebody has measured it, it is not trusted.
            Target("arm", int8_winograd=True, grouped_to_float=False),
            Target("vulkan", int8_winograd=True, grouped_to_float=True),
        )
    }
)


def machine_target(machine: Mapping[str, Any]) -> str:
    """The target whose kernels a probed machine's CPU runs."""
    return "x86" if machine["machine"] in ("x86_64", "AMD64", "i686") else "arm"


def quantize(
    graph: Graph,
    stats: ActivationStats | Table,
    *,
    target: str = "arm",
    method: str | None = None,
    skip: Collection[str] = (),
) -> Graph:
    """Quantise a network to int8.

    Args:
        graph: the fp32 network; not changed.
        stats: what :func:`ncnnkit.calibrate` counted, or a table of scales.
        target: ``x86``, ``arm`` or ``vulkan``: the kernels that will run it.
        method: how thresholds are chosen: ``mse``, ``kl``, ``aciq``, ``minmax``; by default the one the
            statistics were counted for.
        skip: names of layers that stay in floating point.

    Returns:
        A graph whose convolutions and inner products are int8, chained in int8 where one feeds the next, and whose
        other weights are stored as fp16, as ncnn2int8 writes it.

    Raises:
        RecipeError: an unknown target, method or layer.
        FormatError: a table that does not fit the graph.
    """
    check_request(graph, target, skip)
    table = stats if isinstance(stats, Table) else make_table(graph, stats, method=method)
    return apply_table(graph, table.without(set(skip)), target=target)


def check_request(graph: Graph, target: str, skip: Collection[str]) -> None:
    """Raises RecipeError for a target that is unknown, or layers to skip that the network does not have."""
    if target not in TARGETS:
        raise RecipeError(f"unknown target {target!r}", hint=", ".join(TARGETS))
    unknown = set(skip) - {layer.name for layer in graph.layers}
    if unknown:
        raise RecipeError(f"no layer is called {min(unknown)!r}")


def make_table(graph: Graph, stats: ActivationStats, *, method: str | None = None) -> Table:
    """Choose the scales of every layer ncnn can run in int8.

    Weights have 8 bits: 3x3 layers too, whose Winograd :func:`apply_table` then switches off where the target has
    it. The native methods ``kl`` and ``aciq`` give those 6 bits, as ncnn2table does.
    """
    method = method or stats.method
    if method not in METHODS:
        raise RecipeError(f"unknown method {method!r}", hint=", ".join(METHODS))
    if method == "kl" and stats.method != "kl":
        raise RecipeError("these statistics have no bins for KL", hint='calibrate with method="kl"')
    roots = graph.roots()
    layers = quantizable(graph)
    readers = {roots[layer.inputs[0]]: layer.name for layer in layers}
    for root, name in readers.items():
        if root not in stats.blobs:
            hint = "calibrate this very graph"
            raise ModelError(f"layer {name} reads blob {root!r}, which was not calibrated", hint=hint)
    blob_scales = {root: activation_scale(stats.blobs[root], method, stats.images) for root in readers}
    weights = {}
    for layer in layers:
        steps = WINOGRAD_STEPS if method in NATIVE_METHODS and runs_winograd(layer) else STEPS
        weights[f"{layer.name}_param_0"] = weight_scales(layer, steps=steps, method=method)
    return Table(weights, {layer.name: blob_scales[roots[layer.inputs[0]]] for layer in layers})


def apply_table(graph: Graph, table: Table, *, target: str = "arm") -> Graph:
    """Quantise the layers a table names, requantise between them, store the rest as fp16.

    Raises:
        FormatError: the table names a layer the graph has not, lacks a layer's weight scales, or has too many or few.
    """
    kernels = TARGETS[target]
    made = graph.copy()
    layers = {layer.name: layer for layer in quantizable(made)}
    strangers = table.inputs.keys() - layers.keys()
    if strangers:
        raise FormatError(
            f"the table names layer {min(strangers)!r}, which the network does not have or cannot run in int8"
        )
    for name, scale in table.inputs.items():
        _quantize_layer(layers[name], table.weights.get(f"{name}_param_0"), scale, kernels)
    _requantize(made)
    wrong = {name for name, layer in layers.items() if not kernels.grouped_to_float and _is_grouped_to_float(layer)}
    if wrong:  # in floating point they change what the layers before them may hand on: begin again without them
        return apply_table(graph, table.without(wrong), target=target)
    store_fp16(made)
    made.verify()
    return made


def _is_grouped_to_float(layer: Layer) -> bool:
    """Whether this is a grouped int8 convolution that is not requantised."""
    return bool(layer.params.get("int8_scale_term")) and "output_scale" not in layer.weights and is_grouped(layer)


def _quantize_layer(layer: Layer, scales: Any, input_scale: float, target: Target) -> None:
    where = f"layer {layer.type} {layer.name}"
    if scales is None:
        raise FormatError(f"the table has no {layer.name}_param_0", where=where)
    rows = weight_rows(layer)
    if len(scales) != len(rows):
        raise FormatError(f"the table has {len(scales)} weight scales, the layer needs {len(rows)}", where=where)
    assert layer.op.int8 is not None
    quantized = to_int8(rows, scales)
    layer.params["int8_scale_term"] = layer.op.int8(layer.p)
    layer.weights["weight"] = quantized.reshape(layer.weights["weight"].shape)
    layer.weights["weight_scales"] = np.asarray(scales, np.float32)
    layer.weights["input_scale"] = np.array([input_scale], np.float32)
    if target.int8_winograd and runs_winograd(layer) and int(np.abs(quantized).max()) > WINOGRAD_STEPS:
        layer.params["featmask"] = layer.get("featmask") | Mask.NO_WINOGRAD


def _requantize(graph: Graph) -> None:
    """Let a convolution hand int8 on where only int8 convolutions read it, directly or through a Split.

    ncnn2int8's ``fuse_requantize``, except that readers behind a Split must agree on the scale: the producer can
    write one only, and ncnn2int8 takes the first reader's whatever the others expect.
    """
    consumers = graph.consumers()

    def readers(blob: str) -> list[Layer]:
        users = consumers.get(blob, [])
        if len(users) != 1 or users[0].type != "Split":
            return users
        copies = users[0].outputs
        # A copy that nobody reads is an output of the network: it must stay a real number.
        return [user for copy in copies for user in consumers[copy]] if consumers.keys() >= set(copies) else users

    convolutions = ("Convolution", "ConvolutionDepthWise")
    for layer in graph.layers:
        term = layer.params.get("int8_scale_term")
        if layer.type not in convolutions or not term:
            continue
        users = readers(layer.outputs[0])
        if users and all(u.type in convolutions and u.params.get("int8_scale_term") for u in users):
            scales = {float(u.array("input_scale")[0]) for u in users}
            if len(scales) == 1:
                layer.params["int8_scale_term"] = int(term) + 100  # type: ignore[arg-type]
                layer.weights["output_scale"] = np.array([scales.pop()], np.float32)
