"""The costs of a mixed-precision plan: the time of each layer at each precision, and of conversions between layers.

A plan gives each layer a *choice*. The network is loaded with both fp16 and bf16 allowed. The featmask of each layer
(:data:`~ncnnkit.model.precision.MASKS`) forbids what its choice must not use. :mod:`ncnnkit.plan.timing` measures the
times.

**A layer with a mask that forbids bf16 reads a bf16 blob as fp32**, and reads beyond its end. ncnn converts for layers
that do not support bf16, but not for layers with a mask that forbids it (``convert_layout`` in its ``net.cpp``). So a
plan must put :func:`to_float` between the two; :attr:`Costs.makes` and :attr:`Costs.reads` show where. It must also
mask the Splits, which would otherwise cast to bf16 for readers that may not use it. ncnn itself converts from fp32 to
bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..model.graph import Graph, Layer
from ..model.ops import CAST_TYPES
from ..model.precision import FLOATS, INT8, MASKS, WINOGRAD

_CREDIBLE = (0.5, 2.0)  # plausible factors; a factor beyond them was measured on too few layers

Kind = str
"""How the values of a blob are stored: ``float`` (32 bits), ``fp16``, ``bf16`` or ``int8``."""


# ------------------------------------------------------------------------------------------------------ the result


@dataclass(frozen=True)
class Costs:
    """Measured costs in ms.

    Attributes:
        layers: (layer, choice, int8_in, int8_out) -> ms; absent combinations are impossible.
        conversions: (blob root, from kind, to kind) -> ms of one reader's conversion.
        reads: (layer, choice) -> the kind of blob that a layer reads without converting.
        makes: (layer, choice) -> the kind of its output blob, if that is not int8.
        free: names of layers that take no time.
        scales: choice -> factor by which its measured times are multiplied; see :func:`calibrated`.
    """

    layers: Mapping[tuple[str, str, bool, bool], float]
    conversions: Mapping[tuple[str, Kind, Kind], float]
    reads: Mapping[tuple[str, str], Kind]
    makes: Mapping[tuple[str, str], Kind]
    free: frozenset[str] = frozenset()
    scales: Mapping[str, float] = field(default_factory=dict)

    def has(self, layer: str, choice: str) -> bool:
        """Whether this choice is possible for a layer that takes time."""
        return (layer, choice) in self.reads

    def choices(self, layer: str) -> list[str]:
        """The possible choices of a layer; empty if it takes no time."""
        return [choice for choice in MASKS if self.has(layer, choice)]

    def ms(self, layer: str, choice: str, int8_in: bool = False, int8_out: bool = False) -> float:
        """The cost, ms, of a layer that reads and makes blobs of its own kind, or int8.

        Raises KeyError if impossible.
        """
        if layer in self.free:
            return 0.0
        return self.layers[layer, choice, int8_in, int8_out] * self.scales.get(choice, 1.0)

    def convert_ms(self, root: str, source: Kind, target: Kind) -> float:
        """The cost, ms, of converting a blob for one reader. ncnn converts between fp16 and bf16 via fp32."""
        if source == target or "int8" in (source, target):
            return 0.0
        if "float" not in (source, target):
            return self.convert_ms(root, source, "float") + self.convert_ms(root, "float", target)
        return self.conversions[root, source, target]

    def scaled(self, scales: Mapping[str, float]) -> Costs:
        """The same costs with other factors."""
        return replace(self, scales=dict(scales))


# ---------------------------------------------------------------------------------------------------------- plans


def predict(graph: Graph, costs: Costs, plan: Mapping[str, str]) -> float:
    """The latency, ms, of a network whose layers have the choices of ``plan``."""
    uses = graph.uses()
    chained = chains(graph, plan)
    layers = [layer for layer in graph.layers if layer.op.computes]
    total = 0.0
    for layer in layers:
        int8_in, int8_out = uses.root(layer.inputs[0]) in chained, layer.outputs[0] in chained
        total += costs.ms(layer.name, plan[layer.name], int8_in, int8_out)
        for root in map(uses.root, layer.inputs):
            maker = uses.producer(root)
            if root not in chained and maker.op.computes:
                made = costs.makes[maker.name, plan[maker.name]]
                total += costs.convert_ms(root, made, costs.reads[layer.name, plan[layer.name]])
    return total


def chains(graph: Graph, plan: Mapping[str, str]) -> set[str]:
    """The roots of the blobs that stay in int8: made by an int8 convolution, and read only by int8 convolutions."""
    uses = graph.uses()

    def fits(layer: Layer) -> bool:
        return layer.op.chains_int8 and plan.get(layer.name) in INT8

    return {
        root
        for root in uses.roots
        if not uses.is_output(root) and all(map(fits, [uses.producer(root), *uses.readers(root)]))
    }


def uniform(graph: Graph, costs: Costs, choice: str, otherwise: str = "fp32") -> dict[str, str]:
    """The plan with one choice for all layers. Layers for which it is impossible get another one."""
    names = [layer.name for layer in graph.layers if layer.op.computes]
    return {name: choice if costs.has(name, choice) else otherwise for name in names}


def calibrated(costs: Costs, graph: Graph, latencies: Mapping[str, float]) -> Costs:
    """Costs, scaled so that the predictions of uniform plans equal the measured latencies.

    The caches of a layer that is timed alone hold other data than in its network, which changes its time a little, by
    a different factor at each precision. The factor of each layer is unknown, so there is one factor per choice.

    Args:
        latencies: choice -> measured ms of the whole network with the plan :func:`uniform` gives for it.
    """
    fitted: dict[str, float] = {}
    for choice in (*FLOATS, "int8"):  # floats first, because a uniform int8 network has floating-point layers, too
        if choice not in latencies:
            continue
        plan = uniform(graph, costs, choice)
        others = predict(graph, costs.scaled({**fitted, choice: 0.0}), plan)
        own = predict(graph, costs.scaled({**fitted, choice: 1.0}), plan) - others
        if own > 0:
            low, high = _CREDIBLE
            fitted[choice] = min(max((latencies[choice] - others) / own, low), high)
    if "int8" in fitted:  # too few layers use Winograd to measure a separate factor
        fitted[WINOGRAD] = fitted["int8"]
    return costs.scaled(fitted)


def to_float(name: str, source: Kind, read: str, made: str) -> Layer:
    """A Cast of a 16-bit blob to fp32, for a reader with a mask that forbids the 16-bit type."""
    # The Cast has a mask, too. Otherwise ncnn would convert its input first.
    params = {"type_from": CAST_TYPES[source], "type_to": CAST_TYPES["float"], "featmask": MASKS["fp32"]}
    return Layer("Cast", name, [read], [made], params=dict(params))
