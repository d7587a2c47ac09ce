"""Channel scale migration: makes the ranges of a blob's channels similar, so that one int8 scale fits all of them.

ncnn's int8 has one scale per blob, so a channel with small values uses few steps. But a channel can be divided by a
constant at no cost at run time: the rows of the layer that makes it are divided (int8 weights have one scale per row,
so this changes nothing), and the columns of the layers that read it are multiplied. A layer between them, such as a
ReLU or a Pooling, passes the constant on. A sum needs the same constant on both sides. The network still computes the
same.

This moves differences between channels into the columns of weights, which share the scale of their row. ``strength``
sets how much is moved. The constants are powers of two, so there is no additional rounding.

Source: after Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
2022, and across ReLUs after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
2019. Both also divide by the ranges of the weights' columns. On the networks that were tried, that was worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, RecipeError
from ..model.graph import Graph, Layer
from ..model.shapes import Shape
from ..passes.shapes import infer
from .calibration import quantizable
from .scales import group_count
from .zeropoint import absorbs

SAMPLES = 16  # enough for a mean of maxima
LARGEST = 64.0  # the largest constant of a channel; its inverse is the smallest

HOMOGENEOUS = frozenset({0, 1, 2})
"""Values of ``activation_type`` that commute with a positive factor: none, ReLU, leaky ReLU."""

_ADDITIVE = frozenset({0, 1, 7})  # op_type of BinaryOp: a + b, a - b, b - a

_Index = NDArray[np.intp]
_Floats = NDArray[np.float64]


def migrate(graph: Graph, ranges: Mapping[str, NDArray[np.float64]], strength: float) -> Graph:
    """Scale channels so that int8 layers read channels with similar ranges. The network still computes the same.

    Args:
        graph: the fp32 network; not changed.
        ranges: root blob -> the range of each of its channels:
            :attr:`ncnnkit.quantization.calibration.Observed.channels`.
        strength: the part of the differences that is moved to the weights, from 0 (nothing) to 1 (ranges become equal).

    Raises:
        RecipeError: the strength is not between 0 and 1.
        ModelError: the ranges belong to another graph.
    """
    scales = channel_scales(graph, ranges, strength)
    made = graph.copy()
    for layer in made.layers:
        if absorbs(layer):
            _rescale(layer, scales.get(layer.inputs[0]), scales.get(layer.outputs[0]))
    made.verify()
    return made


def channel_scales(
    graph: Graph, ranges: Mapping[str, NDArray[np.float64]], strength: float
) -> dict[str, NDArray[np.float64]]:
    """The divisor of each channel.

    A group of channels that share a scale gets ``range ** strength``, where range is a geometric mean over the int8
    layers that read it. It is rounded to a power of two.

    Args:
        graph: the fp32 network.
        ranges, strength: as :func:`migrate` takes them.

    Returns:
        Blob -> a scale for each of its channels, for every blob with a known number of channels. The scale is 1 if the
        channel cannot be scaled, is dead, or if no int8 layer reads it.
    """
    if not 0 <= strength <= 1:
        raise RecipeError(f"the strength is {strength}, not between 0 and 1")
    channels = Channels(graph)
    uses = graph.uses()
    seen = []
    for layer in quantizable(graph):
        source = layer.inputs[0]
        if channels.are_fixed(source):
            continue
        groups = channels.groups(source)
        found = ranges.get(uses.root(source))
        if found is None or len(found) != len(groups):
            fault = "no ranges" if found is None else f"{len(found)} ranges for {len(groups)} channels"
            raise ModelError(f"layer {layer.name} reads blob {uses.root(source)!r}, which has {fault}")
        seen.append((groups, np.asarray(found, np.float64)))
    logs = strength * _log_means(seen, channels.count)
    logs[channels.fixed] = np.nan
    live = np.flatnonzero(~np.isnan(logs))  # only the first channel of a group holds a value
    sets = channels.sets[live]
    logs[live] -= (_sums(sets, logs[live], channels.count) / np.maximum(_sums(sets, 1.0, channels.count), 1))[sets]
    bounded = np.clip(np.nan_to_num(logs) / math.log(2), -math.log2(LARGEST), math.log2(LARGEST))
    scales = np.exp2(np.rint(bounded))
    return {blob: scales[channels.groups(blob)] for blob in channels.blobs}


class Channels:
    """Which channels of a network's blobs must share a scale.

    Channels are numbered. A group of channels that share a scale has the number of its first channel.

    Args:
        graph: the fp32 network.

    Attributes:
        blobs: blob -> the numbers of its channels, for blobs with a known number of channels.
        count: the number of all channels.
        fixed: (count,), by the number of a group: whether its scale must be 1.
        sets: (count,), by the number of a channel: the set of connected blobs to which it belongs.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._shapes = infer(graph)
        self.blobs: dict[str, _Index] = {}
        self.count = 0
        for blob, shape in self._shapes.items():
            if shape is not None and len(shape) in (1, 3) and isinstance(shape[0], int):
                self.blobs[blob] = np.arange(self.count, self.count + shape[0])
                self.count += shape[0]
        self._ties: list[tuple[_Index, _Index]] = []
        self._stay: list[_Index] = []
        self._walk()
        self._group = _components(self._ties, self.count)
        self.fixed = np.zeros(self.count, bool)
        self.fixed[self._group[np.concatenate([*self._stay, np.empty(0, np.intp)])]] = True
        within = [(np.full_like(numbers, numbers[0]), numbers) for numbers in self.blobs.values() if len(numbers)]
        self.sets = _components([*self._ties, *within], self.count)

    def groups(self, blob: str) -> _Index:
        """The group of each channel of a blob of ``blobs``."""
        groups: _Index = self._group[self.blobs[blob]]
        return groups

    def are_fixed(self, blob: str) -> bool:
        """Whether no channel of a blob can be scaled."""
        return blob not in self.blobs or bool(self.fixed[self.groups(blob)].all())

    def _walk(self) -> None:
        for layer in self._graph.layers:
            if absorbs(layer):
                if not _takes(layer, self._shapes[layer.inputs[0]]):
                    self._fix(layer.inputs)
                if layer.get("activation_type") not in HOMOGENEOUS:
                    self._fix(layer.outputs)
            elif self._passes(layer):
                self._tie(layer)
            else:
                self._fix([*layer.inputs, *layer.outputs])
        self._fix(self._graph.outputs)

    def _passes(self, layer: Layer) -> bool:
        """Whether a layer passes the factor of each channel on to the same channel of its output."""
        ends = [*layer.inputs, *layer.outputs]
        if any(blob not in self.blobs for blob in ends):
            return False
        counts = [len(self.blobs[blob]) for blob in ends]
        rank = {len(self._shapes[blob] or ()) for blob in layer.inputs}
        if layer.type == "Concat":
            return len(rank) == 1 and layer.p.axis % rank.pop() == 0 and sum(counts[:-1]) == counts[-1]
        if len(set(counts)) > 1:
            return False
        if layer.type == "Pooling":
            return rank == {3}
        if layer.type == "Flatten":
            shape = self._shapes[layer.inputs[0]]
            return shape is not None and set(shape[1:]) <= {1}
        if layer.type == "BinaryOp":
            return (
                len(layer.inputs) == 2
                and layer.p.op_type in _ADDITIVE
                and self._shapes[layer.inputs[0]] == self._shapes[layer.inputs[1]]
            )
        return layer.op.copies or layer.type == "ReLU" or (layer.type == "Dropout" and layer.p.scale == 1.0)

    def _tie(self, layer: Layer) -> None:
        inputs = [self.blobs[blob] for blob in layer.inputs]
        outputs = [self.blobs[blob] for blob in layer.outputs]
        if layer.type == "Concat":
            inputs = [np.concatenate(inputs)]
        first, *others = [*inputs, *outputs]
        self._ties += [(first, other) for other in others]

    def _fix(self, blobs: Sequence[str]) -> None:
        self._stay += [self.blobs[blob] for blob in blobs if blob in self.blobs]


def _components(ties: Sequence[tuple[_Index, _Index]], count: int) -> _Index:
    """Connected components: for each number below ``count``, the smallest number of its component."""
    parent: _Index = np.arange(count)
    if not ties:
        return parent
    one, two = (np.concatenate(side) for side in zip(*ties))
    while True:
        a, b = parent[one], parent[two]
        if np.array_equal(a, b):
            return parent
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]


def _log_means(parts: Sequence[tuple[_Index, _Floats]], count: int) -> _Floats:
    """The logarithm of the geometric mean of each group's positive values; NaN for groups without positive values."""
    if not parts:
        return np.full(count, np.nan)
    groups, values = (np.concatenate(side) for side in zip(*parts))
    good = np.isfinite(values) & (values > 0)
    groups, counts = groups[good], _sums(groups[good], 1.0, count)
    means: _Floats = np.where(counts > 0, _sums(groups, np.log(values[good]), count) / np.maximum(counts, 1), np.nan)
    return means


def _sums(groups: _Index, values: Any, count: int) -> _Floats:
    sums: _Floats = np.bincount(groups, np.broadcast_to(values, groups.shape), count).astype(np.float64)
    return sums


# ------------------------------------------------------------------------------------------------ layers that absorb


def _takes(layer: Layer, shape: Shape | None) -> bool:
    """Whether the columns of a layer's weights can compensate factors of its input channels."""
    if shape is None or not isinstance(shape[0], int):
        return False
    inputs = layer.get("weight_data_size") // layer.get("num_output")
    if layer.type == "InnerProduct":
        sides = [side for side in shape if isinstance(side, int)]
        return len(shape) in (1, 3) and sides == list(shape) and math.prod(sides) == inputs
    if layer.get("pad_value"):
        return False
    return bool(shape[0] * layer.get("kernel_w") * layer.get("kernel_h") == inputs * group_count(layer))


def _by_channel(layer: Layer, channels: int) -> NDArray[np.float32]:
    """A layer's weight as (groups, output channels per group, input channels per group, weights per pair of
    channels)."""
    weight, group = layer.array("weight"), group_count(layer)
    return weight.reshape(group, layer.get("num_output") // group, channels // group, -1)


def _rescale(layer: Layer, taken: _Floats | None, given: _Floats | None) -> None:
    """Change a layer so that its input channels are divided by ``taken``, and its output channels by ``given``."""
    shape, group = layer.array("weight").shape, group_count(layer)
    if taken is not None and (taken != 1).any():
        weight = _by_channel(layer, len(taken)) * taken.reshape(group, 1, -1, 1)
        layer.weights["weight"] = weight.reshape(shape).astype(np.float32)
    if given is not None and (given != 1).any():
        weight = layer.array("weight").reshape(len(given), -1) / given[:, np.newaxis]
        layer.weights["weight"] = weight.reshape(shape).astype(np.float32)
        if layer.get("bias_term"):
            layer.weights["bias"] = (layer.array("bias") / given).astype(np.float32)
