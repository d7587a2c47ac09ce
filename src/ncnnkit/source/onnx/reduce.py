"""Operators that reduce along axes: sums and similar reductions, softmax, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...model.shapes import MOST_AXES, natural
from .elementwise import combine
from .lowering import (
    Array,
    Blob,
    Node,
    Operand,
    Shape,
    Unsupported,
    each_of_batch,
    operator,
    with_axes_kept,
)

_REDUCTIONS = {
    "ReduceSum": 0, "ReduceSumSquare": 2, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceProd": 6,
    "ReduceL1": 7, "ReduceL2": 8, "ReduceLogSum": 9, "ReduceLogSumExp": 10,
}  # fmt: skip
"""Operator -> Reduction's ``operation``."""


@operator(*_REDUCTIONS)
def reduction(node: Node) -> None:
    shape = node.shape(0)
    if node.op == "ReduceMean" and node.output_kind() in "iu":
        raise Unsupported("takes the mean of integers")
    given = node.ints("axes", 1)
    if given or node.attr("noop_with_empty_axes", 0):
        axes = sorted({axis % len(shape) for axis in given or ()})
    else:
        axes = list(range(len(shape)))
    view, reduced = _by_axes(shape, axes)
    x = node.blob(0, view)
    if not reduced and node.op in _SAME_ALONE:
        node.gives(x)
    elif node.op == "ReduceLogSumExp":
        node.gives(_log_sum_exp(node, x, reduced))
    else:
        node.gives(reduced_over(node, x, _REDUCTIONS[node.op], reduced))


def _by_axes(shape: Shape, axes: Sequence[int]) -> tuple[Shape, tuple[int, ...]]:
    """A blob's shape with at most four axes, and the indices of the axes to reduce in it.

    Raises:
        Unsupported: there are more than four axes even after merging adjacent ones.
    """
    groups: list[tuple[int, bool]] = []
    skip = int(shape[:1] == (1,) and len(shape) > 1)
    if len(shape) - skip <= MOST_AXES:
        groups = [(side, axis in axes) for axis, side in enumerate(shape)][skip:]
    else:
        for axis, side in enumerate(shape):
            if side != 1 and groups and groups[-1][1] == (axis in axes):
                groups[-1] = (groups[-1][0] * side, groups[-1][1])
            elif side != 1:
                groups.append((side, axis in axes))
    if len(groups) > MOST_AXES:
        raise Unsupported(f"works on axes {list(axes)} of {list(shape)}")
    return tuple(side for side, _ in groups) or (1,), tuple(i for i, (_, gone) in enumerate(groups) if gone)


_SAME_ALONE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")
"""The operators that change nothing if the axes have one element."""


def reduced_over(node: Node, x: Blob, operation: int, axes: tuple[int, ...]) -> Blob:
    """Write a Reduction that keeps the reduced axes with size 1."""
    if not axes:  # without axes, ncnn would reduce all of them
        x, axes = node.lowering.view(x, (x.size, 1)), (1,)
    out = tuple(1 if i in axes else side for i, side in enumerate(x.shape))
    return node.emit("Reduction", [x], out, operation=operation, reduce_all=0, axes=axes, keepdims=1, fixbug0=1)


def _log_sum_exp(node: Node, x: Blob, axes: tuple[int, ...]) -> Blob:
    """Write log(sum(exp(x - m))) + m, with m the largest x. Without m, the exponentials overflow above 88."""
    largest = reduced_over(node, x, 4, axes)
    below = node.emit("BinaryOp", [x, largest], x.shape, op_type=1)
    found = reduced_over(node, below, _REDUCTIONS["ReduceLogSumExp"], axes)
    return node.emit("BinaryOp", [found, largest], found.shape, op_type=0)


@operator("Softmax", "LogSoftmax")
def softmax(node: Node) -> None:
    """Write a Softmax. Before opset 13, all axes from ``axis`` on are flattened into one."""
    shape = node.shape(0)
    axis = int(node.attr("axis", 1 if node.lowering.opset < 13 else -1)) % len(shape)
    if node.lowering.opset < 13 and math.prod(shape[axis + 1 :]) != 1:
        view: tuple[int, ...] = (math.prod(shape[:axis]), math.prod(shape[axis:]))
        place = 1
    else:
        view, (place,) = with_axes_kept(shape, [axis])
    made = node.emit("Softmax", [node.blob(0, view)], view, axis=place, fixbug0=1)
    node.gives(node.emit("UnaryOp", [made], view, op_type=8) if node.op == "LogSoftmax" else made)


@operator("BatchNormalization")
def batch_normalization(node: Node) -> None:
    shape = node.shape(0)
    if node.attr("training_mode", 0):
        raise Unsupported("is in training mode")
    slope, bias, mean, var = (node.needed_constant(i, "statistics").astype(np.float32) for i in (1, 2, 3, 4))
    eps = float(node.attr("epsilon", 1e-5))
    if shape[0] == 1:
        x = node.blob(0, natural(shape) if len(shape) <= 5 else (shape[1], math.prod(shape[2:])))
        weights = {"slope": slope, "mean": mean, "var": var, "bias": bias}
        node.gives(node.emit("BatchNorm", [x], x.shape, weights, channels=slope.size, eps=eps))
        return
    factor = slope / np.sqrt(var + eps)
    along = (slope.size, *(1,) * (len(shape) - 2))
    found: tuple[Shape, Operand] = (shape, node.blob(0))
    for kind, value in ((2, factor), (0, bias - mean * factor)):
        found = combine(node, kind, found, (along, value.reshape(along)))
    assert isinstance(found[1], Blob)
    node.gives(found[1])


@operator("InstanceNormalization")
def instance_normalization(node: Node) -> None:
    gamma, beta = (node.needed_constant(i, "weights").astype(np.float32) for i in (1, 2))
    params = {"channels": gamma.size, "eps": float(node.attr("epsilon", 1e-5)), "affine": 1}

    def normalised(x: Blob) -> Blob:
        image = x if len(x.shape) == 3 else node.lowering.view(x, (x.shape[0], 1, math.prod(x.shape[1:])))
        return node.emit("InstanceNorm", [image], image.shape, {"gamma": gamma, "beta": beta}, **params)

    node.gives(each_of_batch(node, normalised))


@operator("LayerNormalization")
def layer_normalization(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.attr("axis", -1)) % len(shape)
    size = math.prod(shape[axis:])
    try:
        gamma, beta = (
            np.broadcast_to(node.needed_constant(i, "scale and bias"), shape[axis:]).reshape(-1).astype(np.float32)
            if node.has(i)
            else np.zeros(size, np.float32)
            for i in (1, 2)
        )
    except ValueError:
        raise Unsupported("has a scale that is not the same for all it normalises") from None
    eps = float(node.attr("epsilon", 1e-5))
    mean, deviation = _statistics(node, size, eps) if node.is_read(1) or node.is_read(2) else (None, None)
    node.gives(layer_norm(node, node.blob(0), gamma, beta, eps, centred=True), mean, deviation)


def _statistics(node: Node, size: int, eps: float) -> tuple[Blob, Blob]:
    """The mean and the inverse standard deviation of the last ``size`` elements of the first input."""
    x = node.blob(0, (math.prod(node.shape(0)) // size, size))
    mean = reduced_over(node, x, 3, (1,))
    centred = node.emit("BinaryOp", [x, mean], x.shape, op_type=1)
    variance = reduced_over(node, node.emit("UnaryOp", [centred], x.shape, op_type=4), 3, (1,))
    above = node.emit("BinaryOp", [variance], variance.shape, op_type=0, with_scalar=1, b=eps)
    root = node.emit("UnaryOp", [above], above.shape, op_type=5)
    return mean, node.emit("UnaryOp", [root], root.shape, op_type=15)


def layer_norm(node: Node, x: Blob, gamma: Array, beta: Array | None, eps: float, *, centred: bool) -> Blob:
    """Write a LayerNorm, or an RMSNorm if it is not centred, over as many last elements as ``gamma`` has."""
    size = gamma.size
    x = node.lowering.view(x, (x.size // size, size) if x.size > size else (size,))
    weights = {"gamma": gamma.astype(np.float32)}
    if centred:
        weights["beta"] = np.zeros_like(gamma) if beta is None else beta.reshape(-1)
    return node.emit("LayerNorm" if centred else "RMSNorm", [x], x.shape, weights, affine_size=size, eps=eps, affine=1)


@operator("LRN")
def lrn(node: Node) -> None:
    size = int(node.attr("size"))
    if size % 2 == 0:
        raise Unsupported(f"normalises over an even number of channels, {size}")
    defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    numbers = {name: float(node.attr(name, default)) for name, default in defaults.items()}

    def normalised(x: Blob) -> Blob:
        image = node.lowering.view(x, (x.shape[0], 1, math.prod(x.shape[1:])))
        return node.emit("LRN", [image], image.shape, region_type=0, local_size=size, **numbers)

    node.gives(each_of_batch(node, normalised))


@operator("LpNormalization")
def lp_normalization(node: Node) -> None:
    shape = node.shape(0)
    view, (place,) = with_axes_kept(shape, [int(node.attr("axis", -1))])
    x = node.blob(0, view)
    norm = reduced_over(node, x, {1: 7, 2: 8}[int(node.attr("p", 2))], (place,))
    # The norm of zeros is 0. ONNX's result is then 0, too.
    above = node.emit("BinaryOp", [norm], norm.shape, op_type=4, with_scalar=1, b=1e-30)
    node.gives(node.emit("BinaryOp", [x, above], view, op_type=3))


@operator("GroupNormalization")
def group_normalization(node: Node) -> None:
    shape, groups = node.shape(0), int(node.attr("num_groups"))
    gamma, beta = (node.needed_constant(i, "weights").reshape(-1).astype(np.float32) for i in (1, 2))
    if gamma.size == groups:  # before opset 21, there was one number per group
        gamma, beta = (np.repeat(values, shape[1] // groups) for values in (gamma, beta))
    params = {"group": groups, "channels": shape[1], "eps": float(node.attr("epsilon", 1e-5)), "affine": 1}

    def normalised(x: Blob) -> Blob:
        image = x if len(x.shape) <= 3 else node.lowering.view(x, (x.shape[0], math.prod(x.shape[1:])))
        return node.emit("GroupNorm", [image], image.shape, {"gamma": gamma, "beta": beta}, **params)

    node.gives(each_of_batch(node, normalised))


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.attr("axis", -1)) % len(shape)
    if any(node.is_read(index) for index in range(1, node.outputs)):
        raise Unsupported("returns its deviation")
    gamma = np.broadcast_to(node.needed_constant(1, "scale"), shape[axis:]).reshape(-1)
    node.gives(layer_norm(node, node.blob(0), gamma, None, float(node.attr("epsilon", 1e-5)), centred=False))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> None:
    shape = node.shape(0)
    axes = sorted(int(axis) % len(shape) for axis in node.attr("axes", (0, 2, 3)))
    view, reduced = _by_axes(shape, axes)
    x = node.blob(0, view)
    centred = node.emit("BinaryOp", [x, reduced_over(node, x, 3, reduced)], view, op_type=1)
    variance = reduced_over(node, node.emit("UnaryOp", [centred], view, op_type=4), 3, reduced)
    deviation = node.emit("UnaryOp", [variance], variance.shape, op_type=5)
    above = node.emit("BinaryOp", [deviation], deviation.shape, op_type=0, with_scalar=1, b=1e-9)
    node.gives(node.emit("BinaryOp", [centred, above], view, op_type=3))
