"""Fuses layers that only scale and shift channels into the layer before them.

There are two tables: how a follower is read as ``y = a * x + b`` (:data:`READERS`), and which weights of a producer are
multiplied by ``a`` (:data:`FOLDED`). ``b`` is added to the bias. A chain of followers is first composed in float64, so
the weights are rounded only once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.graph import Graph, Layer
from ..model.shapes import Shape, expand
from .shapes import infer
from .wires import LINEAR, Wires, is_float, may_merge

Vector = NDArray[np.float64]

FOLDED = {**dict.fromkeys(LINEAR, "weight"), "BatchNorm": "slope", "Scale": "scale"}
"""Producer type -> the weight that is multiplied by ``a``. Its first axis is the output channel."""


@dataclass(frozen=True)
class Affine:
    """``y = a * x + b``. a and b have one value per channel, or one value for all."""

    a: Vector
    b: Vector

    def then(self, after: Affine) -> Affine:
        """The composition: first this map, then ``after``."""
        return Affine(after.a * self.a, after.a * self.b + after.b)


@dataclass(frozen=True)
class Output:
    """The output of a producer, with the position of its channels.

    Attributes:
        channels: the number of the producer's output channels.
        shape: the shape of the blob; None if unknown.
        outermost: whether the channels are the blob's first axis. They are not if an InnerProduct maps the rows of a
            matrix.
    """

    blob: str
    channels: int
    shape: Shape | None
    outermost: bool

    def holds(self, constant: tuple[int, ...]) -> bool:
        """Whether BinaryOp broadcasts a constant of this shape along the channels without changing the blob's shape."""
        if constant == (1,):
            return True  # one value for all
        if self.outermost and constant == (self.channels,):
            return True  # ncnn prefers the outermost axis for a vector
        if self.shape is None or len(constant) > len(self.shape):
            return False
        axis = 0 if self.outermost else len(self.shape) - 1
        along = [1] * len(self.shape)
        along[axis] = self.channels
        return expand(constant, self.shape) in (tuple(along), (1,) * len(self.shape))


def fuse_affine(graph: Graph) -> int:
    """Fold BatchNorm, Scale, Bias, scaling Dropout and BinaryOp with a constant into the layer before.

    The producers are convolutions and deconvolutions of all kinds, InnerProduct, BatchNorm and Scale.
    """
    rewrites = 0
    shapes = infer(graph)
    with Wires(graph) as wires:
        for layer in wires:
            output = _output(layer, shapes)
            if output is None:
                continue
            chain, affine = _chain(layer, output, wires)
            if not chain or not _fold(layer, affine, output.channels):
                continue
            for follower in chain:
                constants = [blob for blob in follower.inputs if blob != layer.outputs[0]]
                wires.absorb(layer, follower)
                for blob in constants:
                    wires.unread(blob)
            rewrites += len(chain)
    return rewrites


def _output(layer: Layer, shapes: dict[str, Shape | None]) -> Output | None:
    """The output of ``layer`` if an affine map can be fused into the layer; otherwise None."""
    slot = FOLDED.get(layer.type)
    if slot not in layer.weights or not is_float(layer) or layer.params.get("activation_type"):
        return None
    blob = layer.outputs[0]
    shape = shapes[blob]
    channels = int(layer.get({"BatchNorm": "channels", "Scale": "scale_data_size"}.get(layer.type, "num_output")))
    outermost = layer.type != "InnerProduct" or (shape is not None and len(shape) == 1)
    return Output(blob, channels, shape, outermost)


def _chain(layer: Layer, output: Output, wires: Wires) -> tuple[list[Layer], Affine]:
    """(the followers of ``layer`` that only scale and shift, their composition)."""
    chain: list[Layer] = []
    affine = Affine(np.ones(1), np.zeros(1))
    follower = wires.reader.get(output.blob)
    while follower is not None and follower.type in READERS and may_merge(layer, follower):
        step = READERS[follower.type](follower, output, wires)
        if step is None or not (np.isfinite(step.a).all() and np.isfinite(step.b).all()):
            break
        affine, output = affine.then(step), Output(follower.outputs[0], output.channels, output.shape, output.outermost)
        chain.append(follower)
        follower = wires.reader.get(output.blob)
    return chain, affine


def _fold(layer: Layer, affine: Affine, channels: int) -> bool:
    """Change the layer's weights. If a result would overflow fp32, nothing is changed, and the result is False."""
    slot = FOLDED[layer.type]
    a, b = (np.broadcast_to(v, (channels,)) for v in (affine.a, affine.b))
    folded: dict[str, NDArray[np.float32]] = {}
    try:
        with np.errstate(over="raise", invalid="raise"):
            if (a != 1).any():
                weight, column = layer.array(slot), a.astype(np.float32)[:, None]
                folded[slot] = (weight.reshape(channels, -1) * column).reshape(weight.shape)
            bias = (a * layer.array("bias") + b if "bias" in layer.weights else b).astype(np.float32)
    except FloatingPointError:
        return False
    if "bias" in layer.weights or bias.any():
        folded["bias"] = bias
        if "bias_term" in layer.op.by_name:
            layer.params["bias_term"] = 1
    layer.weights.update(folded)
    return True


# ------------------------------------------------------------------------------------------------------- followers


def _batch_norm(layer: Layer, output: Output, _: Wires) -> Affine | None:
    if not (output.outermost and layer.weights and layer.p.channels == output.channels):
        return None
    slope, mean, var, bias = (layer.array(name).astype(np.float64) for name in ("slope", "mean", "var", "bias"))
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(var + layer.p.eps)
    deviation[deviation == 0] = 1e-4  # as in ncnn
    a = slope / deviation
    return Affine(a, bias - a * mean)


def _scale(layer: Layer, output: Output, _: Wires) -> Affine | None:
    if not (output.outermost and layer.weights and layer.p.scale_data_size == output.channels):
        return None
    a = layer.array("scale").astype(np.float64)
    return Affine(a, layer.array("bias").astype(np.float64) if "bias" in layer.weights else np.zeros(1))


def _bias(layer: Layer, output: Output, _: Wires) -> Affine | None:
    # For a matrix or a vector, Bias adds its first value to everything.
    fits = output.outermost and output.shape is not None and len(output.shape) >= 3
    if not (fits and layer.weights and layer.p.bias_data_size == output.channels):
        return None
    return Affine(np.ones(1), layer.array("bias").astype(np.float64))


def _dropout(layer: Layer, _: Output, __: Wires) -> Affine:
    return Affine(np.array([layer.p.scale], np.float64), np.zeros(1))


_ONE, _NONE = np.ones(1), np.zeros(1)

# op_type -> the affine map of x for `x op v` and for `v op x`; dividing by x is not affine.
_MAPS: dict[int, tuple[Callable[[Vector], Affine] | None, Callable[[Vector], Affine] | None]] = {
    0: (lambda v: Affine(_ONE, v), lambda v: Affine(_ONE, v)),  # add
    1: (lambda v: Affine(_ONE, -v), lambda v: Affine(-_ONE, v)),  # subtract
    2: (lambda v: Affine(v, _NONE), lambda v: Affine(v, _NONE)),  # multiply
    3: (lambda v: Affine(1 / v, _NONE), None),  # divide
    7: (lambda v: Affine(-_ONE, v), lambda v: Affine(_ONE, -v)),  # subtract from
    8: (None, lambda v: Affine(1 / v, _NONE)),  # divide into
}


def _binary_op(layer: Layer, output: Output, wires: Wires) -> Affine | None:
    first, second = _MAPS.get(layer.p.op_type, (None, None))
    if len(layer.inputs) == 1:
        value, read = np.array([layer.p.b], np.float64), first if layer.p.with_scalar else None
    else:
        ours = layer.inputs.index(output.blob)
        constant = wires.constant(layer.inputs[1 - ours])
        if constant is None:
            return None
        data = constant.array("data")
        if not output.holds(data.shape):
            return None
        value, read = data.reshape(-1).astype(np.float64), (first, second)[ours]
    with np.errstate(divide="ignore"):
        return read(value) if read is not None else None


READERS: dict[str, Callable[[Layer, Output, Wires], Affine | None]] = {
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Bias": _bias,
    "Dropout": _dropout,
    "BinaryOp": _binary_op,
}
"""Follower type -> function that returns its affine map; None if it is not affine, or not along the channels."""
