"""Zero points for an engine without zero points: shifts one-sided activations to the middle of int8's range.

ncnn's int8 is symmetric, so the output of a ReLU or ReLU6 leaves half of its 254 steps unused. But a constant can be
subtracted from such a blob at no cost: it is subtracted from the producer's bias and from the bounds of its activation
(a ReLU becomes a Clip), and added again in the biases of the layers that read the blob. ``pad_value`` replaces padded
zeros. The network computes the same, and its activations use the steps of both signs. This reduces the rounding noise
to a quarter. Between two int8 layers, the saturation of int8 replaces the Clip, so the Clip is removed.

Source: asymmetric activations as in Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, with the zero points folded into biases.

ncnn's x86 kernels pad int8 blobs wrongly with a negative value (``Padding_x86::forward_int8`` repeats the value's byte
by OR-ing shifted copies, which loses all bytes but the first if the value is negative). So a padded blob is also
negated: it holds ``offset - x`` instead of ``x - offset``, and its zeros are positive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..model.graph import Graph, Layer
from ..model.ops import FLOAT_MAX
from ..passes.wires import become, is_float
from .calibration import quantizable


def _always(_: Any) -> bool:
    return True


PASSING: dict[str, Callable[[Any], bool]] = {
    # If an average counts the padding as zeros, it is not linear in the constant.
    "Split": _always,
    "Concat": _always,
    "Flatten": _always,
    "Reshape": _always,
    "Permute": _always,
    "Slice": _always,
    "ShuffleChannel": _always,
    "Dropout": lambda p: p.scale == 1.0,
    "Pooling": lambda p: p.pooling_type == 0 or p.global_pooling or not p.avgpool_count_include_pad,
}
"""Type -> function that returns whether a layer with these parameters passes a constant on unchanged."""

_ADD, _MAX = 0, 0  # op_type of BinaryOp, pooling_type of Pooling


@dataclass(eq=False)
class Group:
    """Blobs from which the same constant must be subtracted.

    Attributes:
        blobs: their names.
        one_sided: the blobs of the group with no negative values and many zeros.
        fixed: whether a blob of the group must not be changed.
        padded: whether a layer pads one of them.
        pooled: whether a maximum is taken over one of them, so that they cannot be negated.
    """

    blobs: set[str] = field(default_factory=set)
    one_sided: set[str] = field(default_factory=set)
    fixed: bool = False
    padded: bool = False
    pooled: bool = False


class Lowering:
    """The blobs of a network from which a constant can be subtracted ("lowered").

    Args:
        graph: the fp32 network; not changed.
        pads: whether the target's int8 kernels can pad with a value other than 0. If not, padded blobs are not changed.
        wanted: blob that an int8 layer reads -> the constant to subtract. By default positive constants are subtracted
            from one-sided blobs.

    Attributes:
        groups: the groups that can be lowered, if that helps: int8 layers read blobs of the group that are one-sided,
            or in ``wanted``. In graph order.
    """

    def __init__(self, graph: Graph, *, pads: bool = True, wanted: Mapping[str, float] | None = None) -> None:
        self._graph = graph
        self._wanted = wanted
        self._of: dict[str, Group] = {}
        self._summands: dict[str, tuple[str, str]] = {}
        """Linear layer that feeds a sum -> (blob of the sum, blob of the other summand). These two blobs may be lowered
        by different constants, because the bias of the layer compensates the difference."""
        self._walk()
        self._read = {layer.inputs[0] for layer in quantizable(graph)}
        every = list(dict.fromkeys(self._of.values()))
        found = [g for g in every if not g.fixed and self._read & g.blobs and self.asked(g)]
        self._turned: set[Group] = set()
        barred: set[Group] = set()
        for like in self._turning_together(every):
            padded = {group for group in found if group in like and group.padded}
            raised = {group for group in padded if self.asked(group) < 0}  # their zeros become positive
            if not pads:
                barred |= padded
            elif raised == padded:
                continue
            elif any(group.fixed or group.pooled for group in like):
                barred |= padded - raised
            else:
                self._turned |= like
                barred |= raised
        self.groups = [group for group in found if group not in barred]

    def asked(self, group: Group) -> float:
        """The constant for a group: the one wanted for most of its blobs; 0 if the group should not be lowered.

        Without ``wanted``, only its sign is meaningful: positive.
        """
        if self._wanted is None:
            return float(self._read & group.blobs <= group.one_sided)
        offsets = [self._wanted[blob] for blob in sorted(group.blobs & self._wanted.keys())]
        return max(offsets, key=offsets.count, default=0.0)

    def sign(self, blob: str) -> int:
        """-1 for a blob that is negated, otherwise 1."""
        return -1 if self._of[blob] in self._turned else 1

    def apply(self, offsets: Mapping[Group, float], graph: Graph | None = None) -> Graph:
        """The network with groups lowered by constants, in the units of the blobs. It computes the same as before.

        Every blob of a group becomes ``sign * (blob - offset)``. ``graph`` is another version of the network, with the
        same layers.
        """
        made = (graph or self._graph).copy()
        for layer in made.layers:
            if absorbs(layer):
                given = offsets.get(self._of[layer.outputs[0]], 0.0)
                turn = self.sign(layer.outputs[0])
                if layer.name in self._summands:
                    total, other = (offsets.get(self._of[blob], 0.0) for blob in self._summands[layer.name])
                    given, turn = total - other, self.sign(self._summands[layer.name][0])
                source = layer.inputs[0]
                move(layer, (self.sign(source), offsets.get(self._of[source], 0.0)), (turn, given))
            elif layer.type in ("ReLU", "Clip"):
                offset, turn = offsets.get(self._of[layer.outputs[0]], 0.0), self.sign(layer.outputs[0])
                if offset or turn < 0:
                    low, high = _moved_bounds(layer, turn, offset)
                    become(layer, "Clip", {"min": low, "max": high})
        made.verify()
        return made

    def _walk(self) -> None:
        groups, uses = self._of, self._graph.uses()
        for layer in self._graph.layers:
            groups.update((blob, Group({blob})) for blob in layer.outputs)
            ends = [*layer.inputs, *layer.outputs]
            cut = bounds(layer)
            one_sided = cut is not None and cut[0] == 0.0
            if absorbs(layer):
                groups[layer.inputs[0]].padded |= padded(layer)
                if layer.get("activation_type") and cut is None:
                    self._fix(layer.outputs)
            elif layer.type in PASSING and PASSING[layer.type](layer.p):
                one_sided = all(blob in groups[blob].one_sided for blob in layer.inputs)
                self._tie(ends)
                groups[layer.outputs[0]].pooled |= layer.type == "Pooling" and layer.p.pooling_type == _MAX
            elif cut is not None:
                self._tie(ends)
            elif layer.type == "BinaryOp" and layer.p.op_type == _ADD and len(layer.inputs) == 2:
                one, two = layer.inputs
                made = {b: uses.producer(b) for b in (one, two) if uses.root(b) == b}  # a copy has other readers, too
                linear = [b for b, maker in made.items() if absorbs(maker) and not maker.get("activation_type")]
                if linear:
                    self._summands[made[linear[0]].name] = (layer.outputs[0], two if linear[0] == one else one)
                else:
                    self._fix(ends)
            else:
                self._fix(ends)
            if one_sided:
                for blob in layer.outputs:
                    groups[blob].one_sided.add(blob)
        self._fix(self._graph.outputs)

    def _tie(self, blobs: Sequence[str]) -> None:
        first, *others = dict.fromkeys(self._of[blob] for blob in blobs)
        for other in others:
            first.blobs |= other.blobs
            first.one_sided |= other.one_sided
            first.fixed |= other.fixed
            first.padded |= other.padded
            first.pooled |= other.pooled
            self._of.update(dict.fromkeys(other.blobs, first))

    def _fix(self, blobs: Sequence[str]) -> None:
        for blob in blobs:
            self._of[blob].fixed = True

    def _turning_together(self, groups: Sequence[Group]) -> list[set[Group]]:
        """Groups that can only be negated together: a sum, and the summand whose producer has no weights."""
        together = {group: {group} for group in groups}
        for total, other in self._summands.values():
            one, two = together[self._of[total]], together[self._of[other]]
            if one is not two:
                one |= two
                together.update(dict.fromkeys(two, one))
        return list({id(each): each for each in together.values()}.values())


def move(layer: Layer, taken: tuple[int, float], given: tuple[int, float]) -> None:
    """Change a layer so that it reads and outputs ``sign * (blob - offset)``, each given as (sign, offset)."""
    if (taken, given) == ((1, 0.0), (1, 0.0)):
        return
    (turned, offset), (turn, lowered) = taken, given
    weight = layer.array("weight")
    sums = weight.reshape(layer.get("num_output"), -1).sum(axis=1, dtype=np.float64)
    bias = layer.array("bias").astype(np.float64) if layer.get("bias_term") else np.zeros(len(sums))
    layer.params["bias_term"] = 1
    layer.weights["bias"] = (turn * (bias + offset * sums - lowered)).astype(np.float32)
    if turn * turned < 0:
        layer.weights["weight"] = -weight
    if layer.type != "InnerProduct" and padded(layer):
        layer.params["pad_value"] = float(turned * (layer.get("pad_value") - offset))
    if layer.get("activation_type") and (turn < 0 or lowered):
        layer.params.update(activation_type=3, activation_params=_moved_bounds(layer, turn, lowered))


def bounds(layer: Layer) -> tuple[float, float] | None:
    """The bounds of a layer's output, if it is, or has, a ReLU or a Clip; otherwise None."""
    p = layer.p
    if _is_linear(layer):
        if p.activation_type == 1:
            return (0.0, FLOAT_MAX)
        return tuple(p.activation_params) if p.activation_type == 3 else None
    if layer.type == "ReLU":
        return (0.0, FLOAT_MAX) if p.slope == 0.0 else None
    return (p.min, p.max) if layer.type == "Clip" else None


def _moved_bounds(layer: Layer, turn: int, offset: float) -> tuple[float, float]:
    low, high = bounds(layer) or (-FLOAT_MAX, FLOAT_MAX)
    low, high = (side if abs(side) >= FLOAT_MAX else side - offset for side in (low, high))
    return (low, high) if turn > 0 else (-high, -low)


def absorbs(layer: Layer) -> bool:
    """Whether a change of a layer's weights and bias can compensate a change of its input, and change its output."""
    return _is_linear(layer) and is_float(layer) and "weight" in layer.weights


def _is_linear(layer: Layer) -> bool:
    """Whether this is a convolution or inner product: the types that ncnn runs in int8."""
    return layer.op.int8 is not None


def padded(layer: Layer) -> bool:
    """Whether a layer pads its input."""
    sides = ("pad_left", "pad_right", "pad_top", "pad_bottom")
    return layer.type != "InnerProduct" and any(layer.get(side) for side in sides)
