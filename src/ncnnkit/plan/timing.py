"""Measures the costs of a plan on a device: of single layers in all their forms, and of whole networks.

Each layer is timed alone, but under the conditions of a network: its input blobs were just computed, and are in the
form in which the layer before it outputs them. No conversion is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..device import LOCAL, Device
from ..device.session import Session
from ..errors import RuntimeFailure
from ..model import ncnnfile
from ..model.graph import Graph, Layer
from ..model.ops import CAST_TYPES, Mask, Value
from ..model.precision import FLOATS, INT8, MASKS, PRECISIONS, STORAGES, WINOGRAD
from ..model.work import UNBOUNDED, Budget, work
from ..onboard.answers import NetTime
from ..onboard.child import LOAD_TIMEOUT, WorkerError
from ..onboard.scratch import Scratch
from ..progress import Progress, silent
from ..quantization.scales import STEPS, WINOGRAD_STEPS, is_grouped, runs_winograd
from .costs import Costs, Kind, to_float

Array = NDArray[Any]
Shape = tuple[int, ...]
Key = tuple[Any, ...]

ROUNDS = 6
LEAST_TIMED = 3  # inferences in a round; the first one does not count
LEAST_LAYER_ROUNDS = 2

SUSPECT = 8.0
"""A form of a layer is timed again if it takes this many times as long as the median of the layer's other forms."""

REPEATS = 2
"""How often such a form is timed again before its time is accepted."""


class Timing(Protocol):
    """The source of a plan's times."""

    def layers(
        self, exact: Graph, fitted: Graph, shapes: Mapping[str, Shape], choices: Collection[str], progress: Progress
    ) -> Costs:
        """The costs of the layers, as :func:`measure_costs` returns them."""
        ...

    def networks(self, graphs: Mapping[str, Graph], sample: Sequence[Array]) -> dict[str, float]:
        """The latency of each graph, ms, as :func:`time_graphs` returns it."""
        ...


@dataclass(frozen=True)
class DeviceTiming:
    """Times that are measured on a device.

    Attributes:
        threads: the number of CPU threads.
        device: the device that times.
        budget: limits how often networks and layers are timed.
    """

    threads: int
    device: Device = LOCAL
    budget: Budget = UNBOUNDED

    def layers(
        self, exact: Graph, fitted: Graph, shapes: Mapping[str, Shape], choices: Collection[str], progress: Progress
    ) -> Costs:
        return measure_costs(
            exact, fitted, shapes, choices, self.threads, self.device, budget=self.budget, progress=progress
        )

    def networks(self, graphs: Mapping[str, Graph], sample: Sequence[Array]) -> dict[str, float]:
        return time_graphs(graphs, sample, self.threads, self.device, budget=self.budget)


def blob_shapes(graph: Graph, samples: Sequence[Array] = ()) -> dict[str, Shape]:
    """The shape of every blob for one sample, without a batch axis. By default the sample is noise.

    A blob that is empty because nothing was detected has the shape of one detection.
    """
    rng = np.random.default_rng(0)
    samples = samples or [rng.standard_normal(shape).astype(np.float32) for shape in graph.input_shapes()]
    blobs = [blob for layer in graph.layers if layer.type != "Noop" for blob in layer.outputs]
    with Session(graph, precision="fp32", keep_blobs=True) as session:
        found = session.blobs(*samples, names=blobs)
    return {blob: tuple(side or 1 for side in array.shape) for blob, array in zip(blobs, found)}


@dataclass(frozen=True)
class _Net:
    """A layer to time, after layers that compute its inputs."""

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
    rounds: int = ROUNDS,
    seconds: float = 0.03,
    budget: Budget = UNBOUNDED,
    progress: Progress = silent,
) -> Costs:
    """Time every layer at every possible choice. Layers that differ only in names and values are timed once.

    A choice with which ncnn crashes, or which it refuses, is impossible for that layer.

    Args:
        graph_float: the fp32 network.
        graph_int8: the same with int8 layers; whether they requantise does not matter.
        shapes: the shape of every blob; see :func:`blob_shapes`.
        choices: the keys of :data:`~ncnnkit.model.precision.MASKS` to measure.
        threads: the number of CPU threads.
        device: the device that times them.
        rounds: the number of rounds through all layers.
        seconds: the time for each layer and form in all rounds together.
        budget: limits the rounds of a form that needs more than its seconds; at least :data:`LEAST_LAYER_ROUNDS`.
        progress: called with (turns done, number of turns). A form of a layer has a turn in each round.

    Raises:
        RuntimeFailure: ncnn does not run a layer in fp32, or the device does not answer.
    """
    supported = _storages(graph_float, device)
    int8 = {layer.name: layer for layer in graph_int8.layers if layer.params.get("int8_scale_term")}
    layers = [layer for layer in graph_float.layers if layer.op.computes]
    keys = {layer.name: (layer.name in int8, *_key(layer, shapes)) for layer in layers}
    forms = {layer.name: list(_forms(layer, int8.get(layer.name), choices)) for layer in layers}
    nets: dict[Key, _Net] = {}
    for layer in {keys[layer.name]: layer for layer in layers}.values():
        sides = [shapes[blob] for blob in layer.inputs]
        for choice, form, int8_in, int8_out in forms[layer.name]:
            kind = "int8" if int8_in else _wanted(choice, supported[layer.name])
            nets[keys[layer.name], choice, int8_in, int8_out] = _net(form, sides, kind)
    roots = {root: shapes[root] for root in graph_float.uses().roots if root in shapes}
    kinds = sorted({STORAGES[choice] for choice in choices if choice in STORAGES})
    pairs = [pair for kind in kinds for pair in ((kind, "float"), ("float", kind))]
    casts = [(shape, *pair) for pair in pairs for shape in set(roots.values())]
    for shape, source, target in casts:
        nets[shape, source, target] = _net(_cast(source, target), [shape], source)
    once = sum(work(net.graph, [shape for _, shape in net.inputs]) for net in nets.values()) / budget.inference
    least = budget.take(
        "rounds of timing for layers that take long", rounds, runs=max(once, 1e-9), least=LEAST_LAYER_ROUNDS
    )
    alike = [key[0] for key in nets]
    found = zip(nets, _time(list(nets.values()), alike, threads, rounds, least, seconds, device, progress))
    timed = {key: time for key, time in found if time is not None}
    if not all(cast in timed for cast in casts):
        raise RuntimeFailure("timing layers: ncnn does not run a conversion between precisions", where=device.name)

    costs: dict[tuple[str, str, bool, bool], float] = {}
    reads: dict[tuple[str, str], Kind] = {}
    makes: dict[tuple[str, str], Kind] = {}
    for layer in layers:
        broken = {form[0] for form in forms[layer.name] if (keys[layer.name], form[0], *form[2:]) not in timed}
        if "fp32" in broken:
            raise RuntimeFailure(f"timing layers: ncnn does not run layer {layer.name} in fp32", where=device.name)
        for choice, _, int8_in, int8_out in forms[layer.name]:
            if choice in broken:  # impossible for this layer
                continue
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
    """(choice, the layer in this form, int8 in, int8 out) for every form in which a layer can run."""
    for choice in FLOATS:
        if choice in choices:
            yield choice, _masked(layer, choice), False, False
    for choice in INT8:
        if int8 is None:
            return
        if choice not in choices or (choice == WINOGRAD and not runs_winograd(layer)):
            continue
        # ncnn computes a grouped int8 convolution correctly only if it outputs int8 (see quantize).
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
    """An int8 layer at a choice. It outputs int8 with this scale, or floats."""
    made = _masked(layer, choice)
    made.params["int8_scale_term"] = layer.get("int8_scale_term") % 100 + (100 if output_scale else 0)
    made.weights.pop("output_scale", None)
    if output_scale:
        made.weights["output_scale"] = np.array([output_scale], np.float32)
    weight = np.asarray(made.weights["weight"])
    if choice == WINOGRAD and int(np.abs(weight).max(initial=0)) > WINOGRAD_STEPS:
        ratio = WINOGRAD_STEPS / STEPS
        made.weights["weight"] = np.rint(weight * ratio).astype(np.int8)
        made.weights["weight_scales"] = made.array("weight_scales") * np.float32(ratio)
    return made


def _wanted(choice: str, supported: Collection[str]) -> Kind:
    """The kind of blob that a layer of this choice reads without converting, if the CPU supports it."""
    storage = STORAGES.get(choice, "float")
    return storage if storage in supported else "float"


def _kind(choice: str, bits: int) -> Kind:
    return {8: "int8", 16: STORAGES.get(choice, "float")}.get(bits, "float")


def _cast(source: Kind, target: Kind) -> Layer:
    layer = to_float("cast", source, "read", "made")
    layer.params["type_to"] = CAST_TYPES[target]
    return layer


def _ready(kind: Kind, index: int) -> Layer:
    """A layer that passes a blob on unchanged, in the kind and packing that ncnn's layers use."""
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
    nets: Sequence[_Net],
    alike: Sequence[Key],
    threads: int,
    rounds: int,
    least: int,
    seconds: float,
    device: Device,
    progress: Progress,
) -> list[tuple[float, int, int] | None]:
    """The time of each net, ms, and the bits of a value of the layer's inputs and outputs; None if ncnn cannot run it.

    Other processes may take the CPU for longer than a layer runs, and a layer with several threads waits for its
    slowest thread. So the time of a layer is the lowest decile. The median may be many times as long. A form that is
    far slower than the other forms of its layer is timed again (:func:`settled`).

    Args:
        alike: the layer of each net. Several nets may be forms of the same layer.
    """
    with Scratch() as folder:
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

        def ask(numbers: Sequence[int], rounds: int = rounds, seconds: float = seconds) -> list[NetTime]:
            asked: dict[str, Any] = {
                "threads": threads,
                "options": PRECISIONS["mixed"].options,
                "rounds": rounds,
                "least": min(least, rounds),
                "seconds": seconds,
            }
            patience = LOAD_TIMEOUT + 10 * len(numbers) * seconds
            with device.child() as child:
                wanted = [rows[n] for n in numbers]
                answer = child.ask("time_nets", nets=wanted, timeout=patience, progress=progress, **asked)[0]
                found: list[NetTime] = answer.nets
                return found

        def runs(numbers: Sequence[int]) -> bool:
            try:
                ask(numbers, rounds=1, seconds=0.0)
            except WorkerError:
                return False
            return True

        with _failing("layers"):
            try:
                good = list(range(len(rows)))
                times = ask(good)
            except WorkerError:
                answers(device)
                good = without_broken(good, runs)
                times = ask(good)
            times = settled(times, [alike[n] for n in good], lambda places: ask([good[place] for place in places]))
    timed = {n: (time.undisturbed, (time.ready or time.made)[0], time.made[0]) for n, time in zip(good, times)}
    return [timed.get(number) for number in range(len(nets))]


def settled(
    times: Sequence[NetTime], alike: Sequence[Key], again: Callable[[Sequence[int]], Sequence[NetTime]]
) -> list[NetTime]:
    """Times without those that another program disturbed.

    A form that took :data:`SUSPECT` times as long as the other forms of its layer is timed again, up to
    :data:`REPEATS` times, and the shortest time counts. If all repeats are slow, the form is slow.

    Args:
        times: the time of each form.
        alike: the layer of each form.
        again: a function that times the forms at these indices again.
    """
    found = list(times)
    for _ in range(REPEATS):
        suspects = [place for place in range(len(found)) if _is_suspect(place, found, alike)]
        if not suspects:
            break
        for place, time in zip(suspects, again(suspects)):
            found[place] = min(found[place], time, key=lambda each: each.undisturbed)
    return found


def _is_suspect(place: int, times: Sequence[NetTime], alike: Sequence[Key]) -> bool:
    others = [
        time.undisturbed for at, time in enumerate(times) if at != place and alike[at] == alike[place]
    ]  # fmt: skip
    return bool(others) and times[place].undisturbed > SUSPECT * float(np.median(others))


def without_broken(numbers: Sequence[int], runs: Callable[[Sequence[int]], bool]) -> list[int]:
    """The numbers of those that run. A run of several fails if one of them fails, so halves are tried separately."""
    if not numbers or runs(numbers):
        return list(numbers)
    half = len(numbers) // 2
    return [n for part in (numbers[:half], numbers[half:]) for n in without_broken(part, runs)] if half else []


def answers(device: Device) -> None:
    """Check that a new process on a device answers.

    Then the network caused a failure, not the device. Raises WorkerError.
    """
    with device.child() as child:
        child.ask("memory")


def _storages(graph: Graph, device: Device) -> dict[str, list[str]]:
    """Layer -> the 16-bit storages that it can read."""
    with Scratch() as folder, _failing("layers"), device.child() as child:
        param = Path(folder) / "model.param"
        ncnnfile.save(graph, param)
        there, weights = device.put([param, param.with_suffix(".bin")])
        child.ask(
            "load",
            param=there,
            bin=weights,
            backend="cpu",
            options=PRECISIONS["mixed"].options,
            threads=1,
            timeout=LOAD_TIMEOUT,
        )
        return dict(child.ask("layers")[0].storages)


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except WorkerError as error:
        raise RuntimeFailure(f"timing {what}: {error.sentence}") from None


def time_graphs(
    graphs: Mapping[str, Graph],
    sample: Sequence[Array],
    threads: int,
    device: Device = LOCAL,
    *,
    rounds: int = ROUNDS,
    seconds: float = 0.12,
    budget: Budget = UNBOUNDED,
) -> dict[str, float]:
    """Median latency of each graph, ms, loaded as a mixed model and timed in interleaved rounds.

    A graph with which ncnn crashes, or which it refuses, is absent.

    Args:
        rounds: the number of rounds through all graphs, each with ``seconds`` or three inferences for each graph.
        budget: limits the inferences of each graph if they take longer than that; at least one is timed.

    Raises:
        RuntimeFailure: the device does not answer.
    """
    samples: dict[str, list[float]] = {}
    what = "timed inferences of each uniform model"
    # Each graph also runs once before the timing, and is judged after it.
    least = budget.take(what, rounds * LEAST_TIMED, runs=2 * max(len(graphs), 1))
    rounds = min(rounds, least)
    with Scratch() as folder, _failing("networks"), ExitStack() as stack:
        children = {}
        for name, graph in graphs.items():
            param = Path(folder) / f"{name}.param"
            ncnnfile.save(graph, param)
            children[name] = child = stack.enter_context(device.child())
            there, weights = device.put([param, param.with_suffix(".bin")])
            with _leaving_out(name, samples):
                child.ask("load", timeout=LOAD_TIMEOUT, param=there, bin=weights, backend="cpu", threads=threads,
                          options=PRECISIONS["mixed"].options)  # fmt: skip
                child.ask("run", list(sample))
                samples[name] = []
        for _ in range(rounds):
            for name in list(samples):
                with _leaving_out(name, samples):
                    limits: dict[str, Any] = {"min_samples": min(LEAST_TIMED, least // rounds), "max_samples": 100}
                    found = children[name].ask("time", seconds=seconds, **limits)[0].samples
                    samples[name] += found[1:] or found  # the first one is slower, because the caches hold other data
        if len(samples) < len(graphs):
            answers(device)
    return {name: float(np.median(found)) for name, found in samples.items()}


@contextmanager
def _leaving_out(name: str, samples: dict[str, list[float]]) -> Iterator[None]:
    """Leave out graphs that fail; the others go on."""
    try:
        yield
    except WorkerError:
        samples.pop(name, None)
