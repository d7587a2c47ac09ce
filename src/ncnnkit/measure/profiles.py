"""Times every layer inside its network, with :func:`ncnnkit.onboard.profiling.profile`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifact import Artifact
from ..device.session import Array, noise, save_arrays
from ..errors import RuntimeFailure
from ..model import ncnnfile
from ..model.graph import Graph, Layer, Names
from ..model.ops import Mask
from ..model.precision import is_int8
from ..onboard.child import WorkerError
from ..onboard.facts import Conditions, VulkanDevice
from ..onboard.protocol import JobVariant, ProfileJob, ProfileResult
from ..onboard.scratch import Scratch
from .models import job_model

ADDS_UP = 0.1
"""The largest relative difference between the sum of the layers and the whole without a note."""


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer.

    Attributes:
        ms: the median time, ms.
        share: its share of the sum over all layers, 0 to 1.
        bits: the bits of an output value: 32, 16 or 8; None on a GPU, because its blobs are converted to fp32.
        precision: the precision in which it computed, or for fp16 and bf16 the precision in which its blobs are stored;
            None if unknown.
        runs_on: ``CPU`` or ``Vulkan``.
    """

    name: str
    type: str
    ms: float
    share: float
    bits: int | None
    precision: str | None
    runs_on: str


@dataclass(frozen=True)
class Profile:
    """A network's time, layer by layer.

    Attributes:
        whole: the time of an undisturbed inference, ms.
        measuring: the time of an inference whose layers are timed, ms.
        layers: the layers in the order of execution.
        threads: the number of CPU threads.
        device: the Vulkan device, or None.
        how: a sentence on how this was measured, and how much measuring slowed the network.
        notes: further facts that a reader needs.
        conditions: clocks, temperatures and power during the measurement.
    """

    whole: float
    measuring: float
    layers: Sequence[LayerTime]
    threads: int
    device: VulkanDevice | None
    how: str
    notes: Sequence[str]
    conditions: Conditions

    @property
    def sum(self) -> float:
        """The sum of the layers' times, ms."""
        return sum(layer.ms for layer in self.layers)


def profile(
    model: Artifact | Graph | str | Path,
    run_job: Callable[[ProfileJob], ProfileResult],
    *,
    precision: str | None = None,
    backend: str = "cpu",
    threads: int = 0,
    cpus: Sequence[int] = (),
    shapes: Sequence[tuple[int, ...]] = (),
    sample: Sequence[Array] | None = None,
    repeats: int = 50,
    fix_clocks: bool = False,
) -> Profile:
    """Time every layer of a network inside it.

    On the CPU, the blobs of one inference are extracted one after another, and each extraction takes as long as its
    layer. On Vulkan that would also time submission and download. So every blob is extracted twice there, under two
    names (:func:`tapped`), and the time of the second extraction, which computes nothing, is subtracted.

    Args:
        model: an Artifact, a Graph or the path of a ``.param``.
        run_job: a function that does a job, here (:func:`ncnnkit.onboard.jobs.run_job`) or on a board.
        precision: a precision of the model (:attr:`Artifact.precisions`); by default the one for which it was made.
        backend: ``cpu`` or ``vulkan``.
        threads: the number of CPU threads; 0: ncnn's default.
        cpus: the CPUs to which the process is pinned.
        shapes: the shapes of the inputs, if the file does not have them.
        sample: a float32 array for each network input, without a batch axis; by default noise.
        repeats: the number of inferences with timed layers. The same number of inferences is timed as a whole.
        fix_clocks: whether to hold the clocks at their maximum, if permitted.

    Raises:
        RecipeError: an unknown backend or precision.
        ModelError: the shape of an input is not known, or the model cannot be run at this precision.
        RuntimeFailure: ncnn crashed or refused the network.
    """
    artifact = Artifact.of(model).at(precision).on(backend)
    graph = artifact.graph
    arrays = sample if sample is not None else noise(graph, shapes, where=artifact.name)
    layers = [layer for layer in graph.layers if layer.op.computes]
    run, taps = (graph, [[la.outputs[0]] for la in layers]) if backend == "cpu" else tapped(graph, layers)
    with Scratch() as folder:
        file = Path(folder) / "model.param"
        ncnnfile.save(run, file)
        job = ProfileJob(
            variant=JobVariant("profile", job_model(replace(artifact, param=file)), backend, threads, list(cpus)),
            inputs=save_arrays(arrays, Path(folder)),
            taps=taps,
            outputs=graph.outputs,
            repeats=repeats,
            fix_clocks=fix_clocks,
        )
        try:
            result = run_job(job)
        except WorkerError as error:
            raise RuntimeFailure(f"timing layers: {error.sentence}") from None
    return _profile(layers, result, artifact.precision, backend)


def tapped(graph: Graph, layers: Sequence[Layer]) -> tuple[Graph, list[list[str]]]:
    """The graph with the first output of each of ``layers`` split in three: one for its readers, two without readers.

    A Split passes its blob on unchanged. A layer that works in place must copy such a blob first, so networks with such
    layers (activations that are not fused) become a little slower.

    Returns:
        (the graph, the two additional names of each layer's blob).
    """
    named, names = {layer.name for layer in layers}, Names(graph)
    rows: list[Layer] = []
    taps = []
    for original in graph.layers:
        layer = original.copy()
        rows.append(layer)
        if layer.name in named:
            blob = layer.outputs[0]
            made, pair = names.new(blob, "made"), [names.new(blob, "tap"), names.new(blob, "tap")]
            layer.outputs[0] = made
            rows.append(Layer("Split", names.new(layer.name, "taps"), [made], [blob, *pair]))
            taps.append(pair)
    return Graph(rows), taps


def _profile(layers: Sequence[Layer], result: ProfileResult, precision: str, backend: str) -> Profile:
    total = sum(result.layers)
    asked_for_gpu, on_gpu = backend == "vulkan", result.device is not None
    rows = []
    for layer, ms, bits in zip(layers, result.layers, result.bits):
        vulkan = on_gpu and layer.name in result.vulkan and not layer.get("featmask") & Mask.NO_VULKAN
        seen = None if on_gpu else bits
        computed = None if seen is None else _precision(layer, seen, precision)
        rows.append(LayerTime(layer.name, layer.type, ms, ms / total, seen, computed, "Vulkan" if vulkan else "CPU"))
    notes = []
    if asked_for_gpu and not on_gpu:
        notes.append("no Vulkan device: ncnn ran all layers on the CPU")
    elif result.device and result.device.type == "cpu":
        notes.append(f"runs in software on the CPU: {result.device.name}")
    astray = [row.name for row in rows if row.runs_on == "CPU"] if on_gpu else []
    if astray:
        notes.append("on the CPU although Vulkan was requested: " + ", ".join(astray))
    if abs(total / result.whole - 1) > ADDS_UP:
        notes.append(
            f"the sum of the layers differs from the whole by more than {ADDS_UP:.0%}: other processes ran, or "
            "the network is so small that the start of an inference takes a large part of the time"
        )
    if result.conditions.throttled:
        notes.append("throttled: " + "; ".join(result.conditions.throttled_by))
    return Profile(
        result.whole, result.measuring, rows, result.threads, result.device,
        _how(total, result.whole, result.measuring, asked_for_gpu), notes, result.conditions,
    )  # fmt: skip


def _how(total: float, whole: float, measuring: float, asked_for_gpu: bool) -> str:
    twice = "; each is extracted twice, and the time of the second, which computes nothing, is subtracted"
    return (
        f"one inference takes {whole:.3g} ms, and {measuring:.3g} ms if its blobs are extracted one by one"
        f"{twice if asked_for_gpu else ''}; the layers add up to {total:.3g} ms, {(total / whole - 1) * 100:+.1f} %"
    )


def _precision(layer: Layer, bits: int, asked: str) -> str:
    """The precision in which a layer computed, found from its weights and its output."""
    mask = layer.get("featmask")
    if (is_int8(layer) and not mask & Mask.NO_INT8) or bits == 8:
        return "int8"
    if bits == 32:
        return "fp32"
    return "bf16" if asked == "bf16" or (asked == "mixed" and not mask & Mask.NO_BF16) else "fp16"
