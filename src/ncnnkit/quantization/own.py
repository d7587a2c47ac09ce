"""Quantises with the scales of a quantised original.

A network that was trained with quantisation has weights that are exact in int8, and was trained for the scales of its
activations. So nothing is fitted here: every layer gets the codes and the scales of the original. ncnn has no zero
points. They are folded into biases, as in :mod:`.zeropoint`. If the producer of a blob has no bias (an input, a Swish),
a BinaryOp before the layer subtracts the constant. If this BinaryOp would be between two layers that could pass int8,
the steps are enlarged instead, so that the range of the original fits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import RecipeError
from ..model.graph import Graph, Layer, Names
from ..model.ops import Value
from ..model.precision import is_int8
from ..model.scales import NEAR
from ..model.targets import TARGETS
from ..recipe import AUTO, OWN
from .calibration import quantizable
from .int8 import apply_table, rounded_weights
from .scales import STEPS, weight_rows
from .table import Table
from .zeropoint import Lowering, move, padded

ZERO_POINT = "the zero point of their input is lost, and the steps of their input are larger"
ROUNDED = "their weights are rounded again, because the original's codes do not fit ncnn's int8"
FLOATING = "they are in int8 in the original, but stay in floating point for this target"


@dataclass(frozen=True, eq=False)
class OwnScales:
    """A network that is quantised with the scales of its original.

    Attributes:
        exact: the floating-point network, with zero points folded into biases. It computes the same as before.
        whole: ``exact`` with the weights of int8.
        int8: the int8 network, not finished.
        table: the scales.
        lost: reason -> names of the layers in which ncnn's int8 differs from the original.
    """

    exact: Graph
    whole: Graph
    int8: Graph
    table: Table
    lost: dict[str, list[str]] = field(default_factory=dict)


def settled_method(graph: Graph, method: str | None) -> str:
    """The method that quantises a network.

    Args:
        graph: the floating-point network.
        method: the user's method. None or ``auto``: ``own`` if the network has scales of a quantised original,
            otherwise ``mse``.

    Raises:
        RecipeError: the method is ``own``, but the network has no scales of a quantised original.
    """
    if method in (None, AUTO):
        return OWN if graph.scales else "mse"
    if method == OWN and not graph.scales:
        hint = "convert a quantised ONNX model, or choose another --method"
        what = f"the method {OWN!r} needs the scales of a quantised original, which the network does not have"
        raise RecipeError(what, hint=hint)
    return method


def settle_without_samples(graph: Graph, method: str | None) -> None:
    """Check that no samples are needed. Raises RecipeError if they are."""
    if settled_method(graph, method) != OWN:
        hint = "--images takes calibration images, --table a table of scales"
        raise RecipeError("there is nothing to choose scales from: give --table or --images", hint=hint)


def apply_own(graph: Graph, *, target: str, skip: Collection[str] = ()) -> OwnScales:
    """Quantise a network with the scales of its original.

    Args:
        graph: the fp32 network, with ``scales``; not changed.
        target: the kernels that will run it.
        skip: layers that stay in floating point.
    """
    asked, pads = graph.scales.keys() - set(skip), TARGETS[target].int8_pads
    layers = [(layer, graph.scales[layer.name]) for layer in quantizable(graph) if layer.name in asked]
    wanted = {layer.inputs[0]: given.offset for layer, given in layers if given.zero_point}
    lowering = Lowering(graph, pads=pads, wanted=wanted)
    offsets = {group: lowering.asked(group) for group in lowering.groups}
    of = {blob: offset for group, offset in offsets.items() for blob in group.blobs}
    chained = _chained(graph, {layer.name for layer, _ in layers})
    lost: dict[str, list[str]] = {}
    shifts: dict[str, float] = {}
    weights, inputs = {}, {}
    for layer, given in layers:
        weights[f"{layer.name}_param_0"], kept = given.weight_scales(weight_rows(layer))
        if not kept:
            lost.setdefault(ROUNDED, []).append(layer.name)
        offset = of.get(layer.inputs[0], 0.0)
        inputs[layer.name] = given.input
        if np.isclose(offset, given.offset, rtol=1e-6, atol=NEAR / given.input):
            continue
        if offset == 0 and (pads or not padded(layer)) and layer.name not in chained:
            shifts[layer.name] = given.offset
        else:
            low, high = given.range
            inputs[layer.name] = STEPS / max(high - offset, offset - low)
            lost.setdefault(ZERO_POINT, []).append(layer.name)
    table = Table(weights, inputs)
    exact, whole = (_shifted(lowering.apply(offsets, each), shifts) for each in (graph, rounded_weights(graph, table)))
    int8 = apply_table(whole, table, target=target, finish=False)
    done = {layer.name for layer in int8.layers if is_int8(layer)}
    floating = [layer.name for layer, _ in layers if layer.name not in done]
    return OwnScales(exact, whole, int8, table, lost | ({FLOATING: floating} if floating else {}))


def _chained(graph: Graph, names: Collection[str]) -> set[str]:
    """The layers that can receive int8, because only such layers read the output of their producer."""
    uses = graph.uses()
    found = set[str]()
    for layer in graph.layers:
        if layer.name in names and layer.op.chains_int8:
            maker, readers = uses.producer(layer.inputs[0]), uses.readers(layer.inputs[0])
            if maker.name in names and maker.op.chains_int8 and all(reader.name in names for reader in readers):
                found.add(layer.name)
    return found


def _shifted(graph: Graph, shifts: Mapping[str, float]) -> Graph:
    """The network with a constant subtracted from the inputs of some layers, and added again in their biases."""
    made, names = Graph([], dict(graph.scales)), Names(graph)
    for layer in (each.copy() for each in graph.layers):
        offset = shifts.get(layer.name)
        if offset is not None:
            turn = -1 if padded(layer) and offset > 0 else 1
            blob = names.new(layer.name, "shifted")
            params: dict[str, Value] = {"op_type": _SUB if turn > 0 else _RSUB, "with_scalar": 1, "b": offset}
            made.layers.append(Layer("BinaryOp", names.new(layer.name, "shift"), layer.inputs, [blob], params))
            layer.inputs = [blob]
            move(layer, (turn, offset), (1, 0.0))
        made.layers.append(layer)
    made.verify()
    return made


_SUB, _RSUB = 1, 7  # op_type of BinaryOp: x - b, b - x
