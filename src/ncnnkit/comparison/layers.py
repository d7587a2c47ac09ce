"""The error of each layer. It shows where in the network two versions begin to differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..batches import Workers, given_or_here
from ..device import LOCAL, Device
from ..device.session import Session
from ..errors import RuntimeFailure
from ..model.graph import Graph, Layer
from ..model.precision import PRECISIONS, has_int8, is_int8
from ..progress import Progress, StepProgress, of_step, silent, silent_steps
from ..record.variant import Accuracy, LayerError
from ..samples.stream import Samples
from .evaluation import differences_over
from .noise import matched, sqnr_db

Array = NDArray[Any]

SURE = 0.9  # least squared correlation of two versions of a channel
OUTSTANDING = 10.0  # least ratio of a wrong layer's noise to that of its inputs; no measured correct layer reached it
LAYER_IMAGES = 4  # few are enough, because a figure of a layer sums over whole blobs
MOST_BYTES = 1 << 28  # bytes of blobs that one run returns
MOST_VALUES = 1 << 20  # values of a blob that are compared; 16 channels of a full-HD image have 33 million


def layer_errors(
    exact: Artifact | Graph, coarse: Artifact | Graph, samples: Samples, *, int8_only: bool = True
) -> list[LayerError]:
    """The SQNR of the layers' outputs in one network against those in another, over some samples.

    Args:
        exact: the reference.
        coarse: the other network. Layers are matched by name, type and output.
        samples: a few samples are enough, because a figure sums over whole blobs.
        int8_only: compare the outputs of int8 layers only; otherwise of all layers that both networks have.

    Returns:
        The error of each layer, in order.
    """
    exact, coarse = Artifact.of(exact), Artifact.of(coarse)
    with Session(exact, keep_blobs=True) as one:
        return _layer_errors(one, exact, coarse, samples, int8_only=int8_only)


def errors_by_variant(
    exact: Artifact | Graph,
    variants: Mapping[str, Artifact],
    samples: Samples,
    progress: Progress = silent,
    errors: Callable[..., list[LayerError]] = lambda name, coarse, measure: measure(),
) -> dict[str, list[LayerError]]:
    """Name of a version -> the SQNR of every layer's output in this version of a network.

    A version that does not run on this machine has no figures. It may run on its device.

    Args:
        exact, samples: as for :func:`layer_errors`.
        variants: name -> the version.
        progress: called with (versions done, number of versions).
        errors: called with ``name``, the version ``coarse``, and ``measure``, which measures its errors. Returns what
            that returns, or returned in an earlier run.
    """
    found: dict[str, list[LayerError]] = {}
    exact = Artifact.of(exact)
    with ExitStack() as stack:
        sessions: list[Session] = []  # of the reference: one, if any version is measured

        def measure(coarse: Artifact) -> list[LayerError]:
            if not sessions:
                sessions.append(stack.enter_context(Session(exact, keep_blobs=True)))
            return _layer_errors(sessions[0], exact, coarse, samples, int8_only=False)

        for done, (name, coarse) in enumerate(variants.items()):
            progress(done, len(variants))
            with suppress(RuntimeFailure):
                found[name] = errors(name=name, coarse=coarse, measure=partial(measure, coarse))
    return found


def _layer_errors(
    one: Session, exact: Artifact, coarse: Artifact, samples: Samples, *, int8_only: bool, progress: Progress = silent
) -> list[LayerError]:
    layers = [layer for layer in _in_both(exact.graph, coarse.graph) if is_int8(layer) or not int8_only]
    return [
        LayerError(name=layer.name, type=layer.type, sqnr_db=None if found is None else sqnr_db(found))
        for layer, found in zip(layers, _noise_over_signal(one, coarse, layers, samples, progress))
    ]


def first_wrong_layer(
    exact: Artifact | Graph,
    coarse: Artifact | Graph,
    samples: Samples,
    *,
    backend: str = "cpu",
    threads: int | None = None,
    device: Device = LOCAL,
) -> str:
    """The first layer with a wrong output although its inputs are correct.

    A layer's output is wrong if it has more noise than correct outputs of whole networks in that precision, and ten
    times (10 dB) more than the noisiest of the layer's inputs, or if it contains NaN or infinity. Noise that only grows
    gradually is not the fault of a single layer.

    Args:
        exact: the reference, run in fp32 on this machine's CPU.
        coarse: the network at the judged precision.
        samples: a few samples are enough.
        backend, threads, device: how and where it was run; see :class:`Session`.

    Returns:
        ``NAME (TYPE)``; empty if no single layer stands out.

    Raises:
        RuntimeFailure: ncnn crashed or could not load a model.
    """
    exact, coarse = Artifact.of(exact), Artifact.of(coarse)
    layers = _in_both(exact.graph, coarse.graph)
    with Session(exact, keep_blobs=True) as one:
        found = _noise_over_signal(one, coarse, layers, samples, backend=backend, threads=threads, device=device)
    noise = {layer.name: ratio or 0.0 for layer, ratio in zip(layers, found)}
    allowed = 10 ** (-PRECISIONS[coarse.precision].least_sqnr_db / 10)
    carried: dict[str, float] = {}  # blob -> noise over signal, also for outputs of a Split or a Cast
    for layer in coarse.graph.layers:
        read = max((carried[blob] for blob in layer.inputs), default=0.0)
        made = noise.get(layer.name, read)
        if made > allowed and made > OUTSTANDING * read:
            return f"{layer.name} ({layer.type})"
        carried |= dict.fromkeys(layer.outputs, made)
    return ""


def _in_both(exact: Graph, coarse: Graph) -> list[Layer]:
    """The layers of the second network that correspond to a layer of the first, in order."""
    known = {layer.outputs[0]: (layer.name, layer.type) for layer in exact.layers if layer.outputs}
    return [
        layer
        for layer in coarse.layers
        if layer.type != "Input"
        and not layer.op.copies
        and layer.outputs
        and known.get(layer.outputs[0]) == (layer.name, layer.type)
    ]


def _noise_over_signal(
    one: Session,
    coarse: Artifact,
    layers: Sequence[Layer],
    samples: Samples,
    progress: Progress = silent,
    **settings: Any,
) -> list[float | None]:
    """Noise over signal of the first output of each layer, over all samples.

    It is infinite if the output contains NaN or infinity, and None if there is noise but no signal. If a layer detects
    another number of objects, its whole output is noise.
    """
    names = [layer.outputs[0] for layer in layers]
    if not names:
        return []
    scale, moved = _blob_scales(coarse.graph), has_int8(coarse.graph)
    noise, signal = np.zeros(len(layers)), np.zeros(len(layers))
    number = {name: i for i, name in enumerate(names)}
    with Session(coarse, keep_blobs=True, **settings) as other:
        runs = (
            (done, sample, part) for done, sample in enumerate(samples) for part in _parts(coarse.graph, names, sample)
        )
        for done, inputs, part in runs:
            progress(done, len(samples))
            for blob, ours, theirs in zip(part, one.blobs(*inputs, names=part), other.blobs(*inputs, names=part)):
                i = number[blob]
                if not np.isfinite(theirs).all():
                    noise[i] = math.inf
                    continue
                if ours.shape == theirs.shape:
                    ours, theirs = _thinned(ours), _thinned(theirs)
                values = theirs.astype(np.float64) / scale.get(blob, 1.0)
                if moved and ours.shape == values.shape and ours.size:
                    values = _moved_back(values, ours)
                found, right = matched(values, ours)
                noise[i] += float(np.sum((found - right) ** 2))
                signal[i] += float(np.sum(right**2))
    return [math.inf if n == math.inf else n / s if s > 0 else None for n, s in zip(noise.tolist(), signal.tolist())]


def _parts(graph: Graph, names: Sequence[str], sample: Sequence[Array]) -> list[list[str]]:
    """The blobs in groups of at most :data:`MOST_BYTES`, to limit memory for large images. Each group is a run."""
    shapes = graph.infer_shapes([array.shape for array in sample])
    parts: list[list[str]] = []
    room = 0
    for name in names:
        size = 4 * math.prod(side for side in shapes.get(name) or () if isinstance(side, int))
        if not parts or size > room:
            parts.append([])
            room = MOST_BYTES
        parts[-1].append(name)
        room -= size
    return parts


def _thinned(blob: Array) -> Array:
    """About :data:`MOST_VALUES` values at the same positions of every channel; the whole blob if it is small."""
    step = math.ceil(blob.size / MOST_VALUES)
    if step <= 1 or blob.ndim < 2:
        return blob
    while math.gcd(step, blob.shape[-1]) > 1:  # otherwise it would only visit some columns
        step += 1
    return blob.reshape(len(blob), -1)[:, ::step]


def _moved_back(values: Array, ours: Array) -> Array:
    """Undo the changes of ``quantization.equalize`` and ``quantization.zeropoint`` in a blob of a quantised network.

    These methods divide a channel by a power of two, negate a blob, and subtract a constant from it. All three changes
    are estimated from the blobs. An error of the mean of a whole blob cannot be distinguished from such a constant, so
    it is not counted.
    """
    shape = (len(ours), -1) if ours.ndim > 1 else (1, -1)  # a channel of a vector has only one value
    rows, theirs = ours.reshape(shape).astype(np.float64), values.reshape(shape).astype(np.float64)
    centred, others = (blob - blob.mean(axis=1, keepdims=True) for blob in (rows, theirs))
    turn = -1.0 if np.sum(centred * others) < 0 else 1.0
    product, square, own = np.sum(centred * others, 1), np.sum(others**2, 1), np.sum(centred**2, 1)
    sure = product**2 > SURE * square * own  # otherwise noise would determine the power
    power = np.exp2(np.rint(np.log2(np.where(sure, np.abs(product) / np.where(square > 0, square, 1), 1.0))))[:, None]
    # One constant per blob, divided like its channel.
    constant = np.sum((rows - turn * power * theirs) * power) / np.sum(power * power * np.ones_like(rows))
    return np.asarray(turn * power * theirs + constant * power).reshape(ours.shape)


def _blob_scales(graph: Graph) -> dict[str, float]:
    """Blob that holds int8 steps -> its scale, by which it must be divided."""
    return {la.outputs[0]: float(la.array("output_scale")[0]) for la in graph.layers if "output_scale" in la.weights}


@dataclass(frozen=True)
class Comparison:
    """How much the outputs of one model differ from those of another.

    Attributes:
        accuracy: the errors of the outputs.
        layers: the error of each layer; empty if not requested.
    """

    accuracy: Accuracy
    layers: list[LayerError]


def compare_models(
    first: Artifact, second: Artifact, samples: Samples, *, layers: bool, workers: Workers | None = None,
    progress: StepProgress = silent_steps,
) -> Comparison:  # fmt: skip
    """The errors of the second model's outputs against the first's, and of each layer if requested.

    Args:
        first: the reference.
        second: the other model.
        samples: all of them compare the outputs, the first :data:`LAYER_IMAGES` the layers.
        layers: whether to compare layers.
        workers: run batches of the samples; by default processes on this machine.
        progress: called with the name of a step, the samples done and their number.

    Raises:
        ModelError: the models differ in the number or the shapes of their outputs. The numbers of detections may
            differ; see :class:`~ncnnkit.comparison.noise.Noise`.
    """
    with given_or_here(workers) as given:
        outputs = of_step(progress, "compare outputs")
        errors, names = differences_over(first, second, samples, given, progress=outputs)
    found = errors.result(names)
    if not layers:
        return Comparison(found, [])
    few = samples.subset(range(min(LAYER_IMAGES, len(samples))))
    with Session(first, keep_blobs=True) as one:
        of_layers = of_step(progress, "compare layers")
        return Comparison(found, _layer_errors(one, first, second, few, int8_only=False, progress=of_layers))
