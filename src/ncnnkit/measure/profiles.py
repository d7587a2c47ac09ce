"""Which layers take the time: every layer timed inside its network, by :func:`ncnnkit.onboard.profiling.profile`."""

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
"""How far the sum of the layers may be from the whole without a word."""


@dataclass(frozen=True)
class LayerTime:
    """One layer's part.

    Attributes:
        ms: median.
        share: of the sum over all layers.
        bits: of one output value: 32, 16 or 8; None on a GPU, whose blobs arrive here as fp32 whatever they were.
        precision: it computed in, or with fp16 and bf16: its blobs are stored in; None if that cannot be seen.
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
        whole: ms of an undisturbed inference, without timing its layers.
        measuring: ms of one with it.
        layers: in the order they run.
        threads: of the CPU.
        device: the Vulkan device, or None.
        how: in a sentence how this was measured, and what that cost.
        notes: what a reader must know besides.
        conditions: clocks, temperatures, power meanwhile.
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
        """Of the layers, ms."""
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

    On the CPU, the blobs of one inference are asked for one after the other, and each takes as long as its layer. On
    Vulkan that would time submitting and downloading, too; every blob there is taken twice under two names
    (:func:`tapped`), and the second time, which computes nothing, is subtracted from the first.

    Args:
        model: an Artifact, a Graph or the path of a ``.param``.
        run_job: does a job, here (:func:`ncnnkit.onboard.jobs.run_job`) or on a board.
        precision: one of the model's own (:attr:`Artifact.precisions`); by default what it is made for.
        backend: ``cpu`` or ``vulkan``.
        threads: 0 for as many as ncnn takes by itself.
        cpus: to pin to.
        shapes: of the inputs, where the file does not say.
        sample: an array for each network input, without a batch axis; by default noise.
        repeats: inferences with timing the layers, and as many without.
        fix_clocks: hold the clocks at their highest, where that is permitted.

    Raises:
        RecipeError: an unknown backend or precision.
        ModelError: the shape of an input is not known, or the model cannot be run at this precision.
        RuntimeFailure: ncnn crashed or refused.
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
    """The graph with the first output of each of ``layers`` split in three: for its readers, and two without readers.

    A Split hands its blob on as it is. A layer that works in place copies such a blob first, so networks with such
    layers (activations that are not fused) take a little longer so.

    Returns:
        The graph, and the two further names of each layer's blob.
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
        notes.append("no Vulkan device: ncnn ran all of it on the CPU")
    elif result.device and result.device.type == "cpu":
        notes.append(f"runs in software on the CPU: {result.device.name}")
    astray = [row.name for row in rows if row.runs_on == "CPU"] if on_gpu else []
    if astray:
        notes.append("on the CPU although Vulkan was requested: " + ", ".join(astray))
    if abs(total / result.whole - 1) > ADDS_UP:
        notes.append(
            f"the sum of the layers differs from the whole by more than {ADDS_UP:.0%}: other processes ran, or "
            "the network is so small that the start of an inference matters"
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
    """The precision in which a layer computed, from its weights and its output."""
    mask = layer.get("featmask")
    if (is_int8(layer) and not mask & Mask.NO_INT8) or bits == 8:
        return "int8"
    if bits == 32:
        return "fp32"
    return "bf16" if asked == "bf16" or (asked == "mixed" and not mask & Mask.NO_BF16) else "fp16"
