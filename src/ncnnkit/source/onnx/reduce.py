"""Operators that gather values along axes: sums and the like, softmax, normalisation."""

from __future__ import annotations

import math

import numpy as np

from .elementwise import Operand, combine
from .lowering import Blob, Node, Shape, Unsupported, natural, operator, with_axes_kept

_REDUCTIONS = {
    "ReduceSum": 0, "ReduceSumSquare": 2, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceProd": 6,
    "ReduceL1": 7, "ReduceL2": 8, "ReduceLogSum": 9, "ReduceLogSumExp": 10,
}  # fmt: skip
"""Operator -> Reduction's ``operation``."""


@operator(*_REDUCTIONS)
def reduction(node: Node) -> None:
    shape = node.shape(0)
    given = node.ints("axes", 1)
    if not given and node.attr("noop_with_empty_axes", 0):
        node.gives(node.blob(0))
        return
    axes = sorted({axis % len(shape) for axis in given}) if given else list(range(len(shape)))
    groups: list[tuple[int, bool]] = []  # (size, reduced): neighbours of one kind are one axis
    natural_fits = len(shape) - (shape[0] == 1) <= 4
    skip = int(shape[0] == 1 and len(shape) > 1)
    if natural_fits:
        groups = [(side, axis in axes) for axis, side in enumerate(shape)][skip:]
    else:
        for axis, side in enumerate(shape):
            if side == 1:
                continue
            if groups and groups[-1][1] == (axis in axes):
                groups[-1] = (groups[-1][0] * side, groups[-1][1])
            else:
                groups.append((side, axis in axes))
    if len(groups) > 4:
        raise Unsupported(f"works on axes {axes} of {list(shape)}")
    view = tuple(size for size, _ in groups) or (1,)
    reduced = tuple(i for i, (_, gone) in enumerate(groups) if gone)
    x = node.blob(0, view)
    out = tuple(1 if i in reduced else side for i, side in enumerate(view))
    params = {"operation": _REDUCTIONS[node.op], "reduce_all": 0, "axes": reduced, "keepdims": 1, "fixbug0": 1}
    node.gives(node.emit("Reduction", [x], out, **params) if reduced else x)


@operator("Softmax", "LogSoftmax")
def softmax(node: Node) -> None:
    """Before opset 13 the axes from ``axis`` on are one: those files say so by what ONNX Runtime computes."""
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
    shape = node.shape(0)
    if shape[0] != 1:
        raise Unsupported(f"works on a batch of {shape[0]}")
    gamma, beta = (node.needed_constant(i, "weights").astype(np.float32) for i in (1, 2))
    x = node.blob(0, (shape[1], 1, math.prod(shape[2:])) if len(shape) != 4 else shape[1:])
    made = node.emit(
        "InstanceNorm", [x], x.shape, {"gamma": gamma, "beta": beta},
        channels=gamma.size, eps=float(node.attr("epsilon", 1e-5)), affine=1,
    )  # fmt: skip
    node.gives(made)


@operator("LayerNormalization")
def layer_normalization(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.attr("axis", -1)) % len(shape)
    if node.outputs > 1:
        raise Unsupported("hands out its mean")
    size = math.prod(shape[axis:])
    gamma = node.needed_constant(1, "scale").reshape(-1).astype(np.float32)
    beta = node.needed_constant(2, "bias").reshape(-1) if node.has(2) else np.zeros_like(gamma)
    if gamma.size != size:
        raise Unsupported("has a scale that is not one number an element")
    rows = math.prod(shape[:axis])
    x = node.blob(0, (rows, size) if rows > 1 else (size,))
    made = node.emit(
        "LayerNorm", [x], x.shape, {"gamma": gamma, "beta": beta},
        affine_size=size, eps=float(node.attr("epsilon", 1e-5)), affine=1,
    )  # fmt: skip
    node.gives(made)


@operator("LRN")
def lrn(node: Node) -> None:
    x = node.blob(0, node.shape(0)[1:]) if node.shape(0)[0] == 1 else None
    if x is None:
        raise Unsupported(f"works on a batch of {node.shape(0)[0]}")
    made = node.emit(
        "LRN", [x], x.shape, region_type=0, local_size=int(node.attr("size")),
        alpha=float(node.attr("alpha", 1e-4)), beta=float(node.attr("beta", 0.75)), bias=float(node.attr("bias", 1.0)),
    )  # fmt: skip
    node.gives(made)


@operator("LpNormalization")
def lp_normalization(node: Node) -> None:
    shape = node.shape(0)
    view, (place,) = with_axes_kept(shape, [int(node.attr("axis", -1))])
    x = node.blob(0, view)
    out = tuple(1 if i == place else side for i, side in enumerate(view))
    kind = {1: 7, 2: 8}[int(node.attr("p", 2))]
    norm = node.emit("Reduction", [x], out, operation=kind, reduce_all=0, axes=(place,), keepdims=1, fixbug0=1)
    node.gives(node.emit("BinaryOp", [x, norm], view, op_type=3))


@operator("GroupNormalization")
def group_normalization(node: Node) -> None:
    shape, groups = node.shape(0), int(node.attr("num_groups"))
    if shape[0] != 1 or len(shape) > 5:
        raise Unsupported(f"works on {list(shape)}")
    gamma, beta = (node.needed_constant(i, "weights").reshape(-1).astype(np.float32) for i in (1, 2))
    if gamma.size == groups:  # before opset 21 there was one number a group
        gamma, beta = (np.repeat(values, shape[1] // groups) for values in (gamma, beta))
    x = node.blob(0, shape[1:])
    params = {"group": groups, "channels": shape[1], "eps": float(node.attr("epsilon", 1e-5)), "affine": 1}
    node.gives(node.emit("GroupNorm", [x], x.shape, {"gamma": gamma, "beta": beta}, **params))


@operator("RMSNormalization")
def rms_normalization(node: Node) -> None:
    shape = node.shape(0)
    axis = int(node.attr("axis", -1)) % len(shape)
    size, rows = math.prod(shape[axis:]), math.prod(shape[:axis])
    gamma = np.broadcast_to(node.needed_constant(1, "scale"), shape[axis:]).reshape(-1)
    x = node.blob(0, (rows, size) if rows > 1 else (size,))
    params = {"affine_size": size, "eps": float(node.attr("epsilon", 1e-5)), "affine": 1}
    node.gives(node.emit("RMSNorm", [x], x.shape, {"gamma": gamma}, **params))
