"""What every layer of a network costs at every precision on this machine: the ms a mixed-precision plan adds up.

A plan gives each layer a *choice*. The network is loaded with fp16 and bf16 both allowed, and each layer's featmask
(:data:`~ncnnkit.model.precision.MASKS`) forbids what its choice must not use. Layers are timed alone, each as ncnn
meets it in a network: the blobs it reads are as the layer before hands them on, just computed, and nothing is converted
on the clock.

**A layer that may not use bf16 takes a bf16 blob for fp32**, and reads beyond its end: ncnn converts for layers that
cannot, not for those that may not (``convert_layout`` in its ``net.cpp``). A plan must put :func:`to_float` between the
two (:attr:`Costs.makes` and :attr:`Costs.reads` say where), and mask the Splits, which would else cast
to bf16 for readers that may not use it. The other way, from fp32, ncnn converts by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import LOCAL, Device
from ..device.session import Session
from ..errors import RuntimeFailure
from ..model import ncnnfile
from ..model.graph import Graph, Layer
from ..model.ops import Mask, Value
from ..model.precision import FLOATS, INT8, MASKS, PRECISIONS, STORAGES
from ..onboard.child import LOAD_TIMEOUT, WorkerError
from ..quantization.scales import STEPS, WINOGRAD_STEPS, is_grouped, runs_winograd

Array = NDArray[Any]
Shape = tuple[int, ...]
Key = tuple[Any, ...]

_CAST_TYPES = {"float": 1, "fp16": 2, "bf16": 4}  # of ncnn's Cast layer
_CREDIBLE = (0.5, 2.0)  # factors of a calibration; beyond, a choice has too small a part in its network to tell

Kind = str
"""How the values of a blob are stored: ``float`` (32 bits), ``fp16``, ``bf16`` or ``int8``."""


# ------------------------------------------------------------------------------------------------------ the result


@dataclass(frozen=True)
class Costs:
    """Measured costs in ms.

    Attributes:
        layers: (layer, choice, int8_in, int8_out) -> ms; what is absent cannot be had.
        conversions: (blob root, from kind, to kind) -> ms of one reader's conversion.
        reads: (layer, choice) -> the kind of blob a layer reads without converting.
        makes: (layer, choice) -> the kind of blob it hands on, where that is not int8.
        free: names of layers that cost nothing.
        scales: what the measured ms of a choice are multiplied by; see :func:`calibrated`.
    """

    layers: Mapping[tuple[str, str, bool, bool], float]
    conversions: Mapping[tuple[str, Kind, Kind], float]
    reads: Mapping[tuple[str, str], Kind]
    makes: Mapping[tuple[str, str], Kind]
    free: frozenset[str] = frozenset()
    scales: Mapping[str, float] = field(default_factory=dict)

    def has(self, layer: str, choice: str) -> bool:
        """Whether a layer that costs something can have this choice."""
        return (layer, choice) in self.reads

    def choices(self, layer: str) -> list[str]:
        """The choices a layer has; none where it costs nothing."""
        return [choice for choice in MASKS if self.has(layer, choice)]

    def ms(self, layer: str, choice: str, int8_in: bool = False, int8_out: bool = False) -> float:
        """A layer's cost, reading and making blobs of its own kind, or int8. Raises KeyError where it cannot be had."""
        if layer in self.free:
            return 0.0
        return self.layers[layer, choice, int8_in, int8_out] * self.scales.get(choice, 1.0)

    def convert_ms(self, root: str, source: Kind, target: Kind) -> float:
        """The cost of converting a blob for one reader. Between fp16 and bf16 the way is over fp32."""
        if source == target or "int8" in (source, target):
            return 0.0
        if "float" not in (source, target):
            return self.convert_ms(root, source, "float") + self.convert_ms(root, "float", target)
        return self.conversions[root, source, target]

    def scaled(self, scales: Mapping[str, float]) -> Costs:
        """The same with other factors."""
        return replace(self, scales=dict(scales))


# ---------------------------------------------------------------------------------------------------------- plans


def predict(graph: Graph, costs: Costs, plan: Mapping[str, str]) -> float:
    """The latency of a network whose layers have the choices of ``plan``, in ms."""
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
    """The blobs, by root, that are handed on as int8: those an int8 convolution makes and only such read."""
    uses = graph.uses()

    def fits(layer: Layer) -> bool:
        return layer.op.chains_int8 and plan.get(layer.name) in INT8

    return {
        root
        for root in uses.roots
        if not uses.is_output(root) and all(map(fits, [uses.producer(root), *uses.readers(root)]))
    }


def uniform(graph: Graph, costs: Costs, choice: str, otherwise: str = "fp32") -> dict[str, str]:
    """The plan that gives every layer one choice, and those that cannot have it another."""
    names = [layer.name for layer in graph.layers if layer.op.computes]
    return {name: choice if costs.has(name, choice) else otherwise for name in names}


def calibrated(costs: Costs, graph: Graph, latencies: Mapping[str, float]) -> Costs:
    """Costs scaled so that uniform plans come out as measured.

    A layer alone finds caches and memory a little otherwise than in its network, and to another degree at each
    precision; one factor a choice takes that out, where the factor of each layer is unknown.

    Args:
        latencies: choice -> measured ms of the whole network with the plan :func:`uniform` gives for it.
    """
    fitted: dict[str, float] = {}
    for choice in (*FLOATS, "int8"):  # the floats first: a uniform int8 network has layers of theirs
        if choice not in latencies:
            continue
        plan = uniform(graph, costs, choice)
        others = predict(graph, costs.scaled({**fitted, choice: 0.0}), plan)
        own = predict(graph, costs.scaled({**fitted, choice: 1.0}), plan) - others
        if own > 0:
            low, high = _CREDIBLE
            fitted[choice] = min(max((latencies[choice] - others) / own, low), high)
    if "int8" in fitted:  # few layers have Winograd; their share of a network would not show
        fitted["int8-winograd"] = fitted["int8"]
    return costs.scaled(fitted)


# --------------------------------------------------------------------------------------------------------- shapes


def blob_shapes(graph: Graph, samples: Sequence[Array] = ()) -> dict[str, Shape]:
    """Shape of every blob for one sample, without a batch axis; noise of the network's input shapes by default."""
    rng = np.random.default_rng(0)
    samples = samples or [rng.standard_normal(shape).astype(np.float32) for shape in graph.input_shapes()]
    blobs = [blob for layer in graph.layers if layer.type != "Noop" for blob in layer.outputs]
    with Session(graph, precision="fp32", keep_blobs=True) as session:
        return {blob: array.shape for blob, array in zip(blobs, session.blobs(*samples, names=blobs))}


def to_float(name: str, source: Kind, read: str, made: str) -> Layer:
    """A layer that turns a blob of 16 bits into fp32, for a reader that may not use these bits."""
    # Masked itself, or ncnn would convert what it reads before it does.
    params = {"type_from": _CAST_TYPES[source], "type_to": _CAST_TYPES["float"], "featmask": MASKS["fp32"]}
    return Layer("Cast", name, [read], [made], params=dict(params))


# ------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class _Net:
    """A layer to time, behind layers that make what it reads."""

    graph: Graph
    inputs: tuple[tuple[str, Shape], ...]
    ready: tuple[str, ...]
    outputs: tuple[str, ...]


def measure_costs(
    graph_float: Graph,
    graph_int8: Graph,
    shapes: Mapping[str, Shape],
    choices: Collection[str] = tuple(MASKS),
    threads: int = 1,
    device: Device = LOCAL,
    *,
    rounds: int = 6,
    seconds: float = 0.03,
) -> Costs:
    """Time every layer at every choice it has; layers that are alike in all but names and values are timed once.

    Args:
        graph_float: the fp32 network.
        graph_int8: the same with int8 layers; whether they requantise does not matter.
        shapes: of every blob, see :func:`blob_shapes`.
        choices: those of :data:`~ncnnkit.model.precision.MASKS` to measure.
        threads: of the CPU.
        device: where to time them.
        rounds: how often all are gone through.
        seconds: for each layer and form, in all rounds.

    Raises:
        RuntimeFailure: ncnn crashed or refused.
    """
    supported = _storages(graph_float, device)
    int8 = {layer.name: layer for layer in graph_int8.layers if layer.params.get("int8_scale_term")}
    layers = [layer for layer in graph_float.layers if layer.op.computes]
    keys = {layer.name: (layer.name in int8, *_key(layer, shapes)) for layer in layers}
    nets: dict[Key, _Net] = {}
    for layer in {keys[layer.name]: layer for layer in layers}.values():
        sides = [shapes[blob] for blob in layer.inputs]
        for choice, form, int8_in, int8_out in _forms(layer, int8.get(layer.name), choices):
            kind = "int8" if int8_in else _wanted(choice, supported[layer.name])
            nets[keys[layer.name], choice, int8_in, int8_out] = _net(form, sides, kind)
    roots = {root: shapes[root] for root in graph_float.uses().roots if root in shapes}
    kinds = sorted({STORAGES[choice] for choice in choices if choice in STORAGES})
    pairs = [pair for kind in kinds for pair in ((kind, "float"), ("float", kind))]
    for source, target in pairs:
        for shape in set(roots.values()):
            nets[shape, source, target] = _net(_cast(source, target), [shape], source)
    timed = dict(zip(nets, _time(list(nets.values()), threads, rounds, seconds, device)))

    costs: dict[tuple[str, str, bool, bool], float] = {}
    reads: dict[tuple[str, str], Kind] = {}
    makes: dict[tuple[str, str], Kind] = {}
    for layer in layers:
        for choice, _, int8_in, int8_out in _forms(layer, int8.get(layer.name), choices):
            ms, bits_read, bits_made = timed[keys[layer.name], choice, int8_in, int8_out]
            costs[layer.name, choice, int8_in, int8_out] = ms
            if not int8_in:
                reads[layer.name, choice] = _kind(choice, bits_read)
            if not int8_out:
                makes[layer.name, choice] = _kind(choice, bits_made)
    conversions = {(root, *pair): timed[(shape, *pair)][0] for root, shape in roots.items() for pair in pairs}
    free = frozenset(layer.name for layer in graph_float.layers if not layer.op.computes)
    return Costs(costs, conversions, reads, makes, free)


def _key(layer: Layer, shapes: Mapping[str, Shape]) -> Key:
    params = {name: value for name, value in layer.params.items() if name != "shape_hints"}
    return (layer.type, tuple(sorted(params.items())), tuple(shapes[blob] for blob in layer.inputs))


def _forms(layer: Layer, int8: Layer | None, choices: Collection[str]) -> Iterator[tuple[str, Layer, bool, bool]]:
    """(choice, the layer so, int8 in, int8 out) of every form a layer can be run in."""
    for choice in FLOATS:
        if choice in choices:
            yield choice, _masked(layer, choice), False, False
    for choice in INT8:
        if int8 is None:
            return
        if choice not in choices or (choice == "int8-winograd" and not runs_winograd(layer)):
            continue
        # ncnn computes a grouped int8 convolution rightly only where it hands on int8 (see quantize).
        chained = layer.op.chains_int8
        outs = [out for out in (False, True) if (chained or not out) and (out or not is_grouped(layer))]
        for int8_out in outs:
            made = _int8_form(int8, choice, 1.0 if int8_out else None)
            yield from ((choice, made, int8_in, int8_out) for int8_in in ((False, True) if chained else (False,)))


def _masked(layer: Layer, choice: str) -> Layer:
    made = layer.copy()
    others = layer.get("featmask") & ~(MASKS["fp32"] | Mask.NO_WINOGRAD) if choice in INT8 else layer.get("featmask")
    made.params["featmask"] = others | MASKS[choice]
    return made


def _int8_form(layer: Layer, choice: str, output_scale: float | None) -> Layer:
    """An int8 layer at a choice, handing on int8 of this scale, or real numbers."""
    made = _masked(layer, choice)
    made.params["int8_scale_term"] = layer.get("int8_scale_term") % 100 + (100 if output_scale else 0)
    made.weights.pop("output_scale", None)
    if output_scale:
        made.weights["output_scale"] = np.array([output_scale], np.float32)
    weight = np.asarray(made.weights["weight"])
    if choice == "int8-winograd" and int(np.abs(weight).max(initial=0)) > WINOGRAD_STEPS:
        ratio = WINOGRAD_STEPS / STEPS
        made.weights["weight"] = np.rint(weight * ratio).astype(np.int8)
        made.weights["weight_scales"] = made.array("weight_scales") * np.float32(ratio)
    return made


def _wanted(choice: str, supported: Collection[str]) -> Kind:
    """The kind of blob a layer of this choice reads without converting, if the CPU has it."""
    storage = STORAGES.get(choice, "float")
    return storage if storage in supported else "float"


def _kind(choice: str, bits: int) -> Kind:
    return {8: "int8", 16: STORAGES.get(choice, "float")}.get(bits, "float")


def _cast(source: Kind, target: Kind) -> Layer:
    layer = to_float("cast", source, "read", "made")
    layer.params["type_to"] = _CAST_TYPES[target]
    return layer


def _ready(kind: Kind, index: int) -> Layer:
    """A layer that hands a blob on as it is, in the kind and packing ncnn's layers hand on."""
    blobs = [f"in{index}"], [f"ready{index}"]
    if kind == "int8":
        params: dict[str, Value] = {"scale_data_size": 1, "featmask": MASKS["fp32"]}
        return Layer("Quantize", f"ready{index}", *blobs, params, {"scale": np.full(1, 40, np.float32)})
    return Layer("ReLU", f"ready{index}", *blobs, {"slope": 1.0, "featmask": MASKS.get(kind, MASKS["fp32"])})


def _net(layer: Layer, shapes: Sequence[Shape], kind: Kind) -> _Net:
    made = layer.copy()
    count = range(len(shapes))
    made.name, made.inputs = "layer", [f"ready{i}" for i in count]
    made.outputs = [f"out{i}" for i in range(len(layer.outputs))]
    inputs = [Layer("Input", f"in{i}", [], [f"in{i}"]) for i in count]
    graph = Graph([*inputs, *(_ready(kind, i) for i in count), made])
    return _Net(graph, tuple((f"in{i}", shapes[i]) for i in count), tuple(made.inputs), (made.outputs[0],))


def _time(
    nets: Sequence[_Net], threads: int, rounds: int, seconds: float, device: Device
) -> list[tuple[float, int, int]]:
    """Of each: its ms, and the bits of a value of what its layer reads and makes.

    Other processes take the CPU for longer than a layer runs, and a layer of several threads waits for all of them: the
    lowest decile is the layer's, where the median may be many times that.
    """
    with tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder:
        files = []
        for number, net in enumerate(nets):
            param = Path(folder) / f"{number}.param"
            ncnnfile.save(net.graph, param)
            files += [param, param.with_suffix(".bin")]
        there = device.put(files)
        rows = [
            {"param": param, "bin": weights, "inputs": net.inputs, "ready": net.ready, "outputs": net.outputs}
            for net, param, weights in zip(nets, there[::2], there[1::2])
        ]
        patience = LOAD_TIMEOUT + 10 * len(nets) * seconds
        with _failing(), device.child() as child:
            answer = child.ask("time_nets", nets=rows, threads=threads, options=PRECISIONS["mixed"].options,
                               rounds=rounds, seconds=seconds, timeout=patience)[0]  # fmt: skip
    return [(ms, (ready or made)[0], made[0]) for ms, (ready, made) in zip(answer["undisturbed"], answer["bits"])]


def _storages(graph: Graph, device: Device) -> dict[str, list[str]]:
    """Layer -> the storages of 16 bits it can read."""
    with tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder, _failing(), device.child() as child:
        param = Path(folder) / "model.param"
        ncnnfile.save(graph, param)
        there, weights = device.put([param, param.with_suffix(".bin")])
        child.ask("load", param=there, bin=weights, backend="cpu", options=PRECISIONS["mixed"].options, threads=1,
                  timeout=LOAD_TIMEOUT)  # fmt: skip
        return dict(child.ask("layers")[0]["layers"])


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except WorkerError as error:
        raise RuntimeFailure(f"timing layers: {error.sentence}") from None
