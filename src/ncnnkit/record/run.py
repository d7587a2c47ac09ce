"""What run.json holds, as dataclasses: the contract with every program that reads it.

``docs/run-json.md`` and ``docs/run.schema.json`` are made from this file: the meaning of a field stands in the
docstring of its class and nowhere else. :data:`SCHEMA` counts up when a field disappears or changes its meaning.
A new field has a default, so that files written before stay valid. A reader ignores fields that it does not know.

A figure is null in JSON, None here, where it was not measured, and where it is infinite or not a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ..artifact import Tensor
from ..formatting import counted, decibel
from ..model.precision import PrecisionName
from ..onboard.facts import Conditions, Load, Machine, Status, Sustained
from ..recipe import Recipe
from ..samples.preprocess import Preprocess

SCHEMA = 1
"""The version of run.json that this ncnnkit writes and reads."""

EMULATED = "emulated: timings are not real"
"""The note of a variant whose timings mean nothing."""

Kind = Literal["onnx", "torchscript", "torch", "ncnn"]
Outcome = Literal["taken", "passed", "wrong", "failed"]
Engine = Literal["torch", "onnxruntime", "ncnn"]
Backend = Literal["cpu", "vulkan"]
Unit = Literal["", "dB", "share"]

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What a name may be that comes to stand in a shell script, in CMake, in C++ or in a path."""

PlainName = Annotated[str, PLAIN_NAME]


def check_name(where: str, name: str) -> None:
    """Raise ValueError if a name could have a meaning for a file system, a shell, CMake or C++."""
    if not PLAIN_NAME.fullmatch(name):
        allowed = "a name may have the characters A-Z a-z 0-9 . _ - and must not begin with . or -"
        raise ValueError(f"{where} is {name[:80]!r}: {allowed}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The requested network.

    Attributes:
        reference: the model as the user gave it: a path, ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:function``.
        name: made from the reference, with the characters A-Z a-z 0-9 . _ - only. The names of the models' files begin
            with it.
        kind: the kind of the original: a file of ONNX, TorchScript or ncnn, or a network built by code (``torch``).
        inputs: the network's inputs, in its order, named as in the original.
        outputs: the network's outputs, in its order, named as in the original.
        layers: layers of the optimised network.
        parameters: weights of the optimised network, counted one by one.
        labels: number of class names that the model contains.
        classes: number of classes of the network's only output; 0: nothing shows that it is a classifier. A vector
            counts as scores of classes if images have labels, if the model contains as many names, if the library that
            built it says so, or if its values add up to one.
    """

    reference: str
    name: PlainName
    kind: Kind
    inputs: list[Tensor]
    outputs: list[Tensor]
    layers: int
    parameters: int
    labels: int
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file that could not be used.

    Attributes:
        name: the file.
        reason: why it was skipped.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CopiedFile:
    """A sample that was dropped as a duplicate.

    Attributes:
        name: the sample.
        of: the sample that was kept.
    """

    name: str
    of: str


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images for calibration and evaluation.

    No sample is in both sets: samples in both were removed from the larger set.

    Attributes:
        source: the recipe's ``images``.
        available: number of images given for calibration.
        calibration: number of images chosen from these: as many as the effort uses, evenly spread. Only these were
            decoded.
        fitted: number of chosen images to which thresholds, weights and biases were fitted. 0: nothing was quantised.
        held_back: number of chosen images that decided which methods were kept, and that measured the accuracy of
            plans. If fewer than five were given, they are the same as the fitted images.
        evaluation: number of images that were used for none of this. The errors of the variants were measured on them.
        skipped: files that could not be used.
        copies: samples that were dropped as duplicates.
    """

    source: str
    calibration: int
    evaluation: int
    skipped: list[SkippedFile]
    available: int = 0
    fitted: int = 0
    held_back: int = 0
    copies: list[CopiedFile] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine that converted and quantised, and its software.

    Attributes:
        ncnnkit: version.
        pillow: version. The rounding of resized images depends on it.
        machine: the machine, and its software.
    """

    ncnnkit: str
    pillow: str
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class DeviceRecord:
    """A device on which variants were measured.

    Attributes:
        name: the name or address in the request; ``local`` is the machine that converted.
        address: ``local``, ``ssh://…`` or ``adb://…``.
        target: the kernels of its CPU, for which int8 was made.
        machine: the machine, and its software.
        recommended: ``name`` of the variant recommended for this device; null: none.
        why: the reason.
    """

    name: str
    address: str
    target: str
    machine: Machine
    recommended: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference of the variants' outputs.

    Attributes:
        engine: the library that ran the original; ``ncnn`` means that no other original is known.
        version: version of that engine.
        origin: the same as a text.
    """

    engine: Engine
    version: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A route from the original to ncnn, and its outcome.

    Attributes:
        route: the name of the route.
        outcome: ``taken`` (its network is the one that was used), ``passed`` (its network is good, but was not used),
            ``wrong`` (its network differs from the original) or ``failed`` (it made no network that ncnn can run).
        reason: why it failed, or why its network is wrong; empty otherwise.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null if the outputs are equal or were not compared.
        layers: number of layers of its network after optimisation; null if it failed.
        seconds: duration, including the comparison.
    """

    route: str
    outcome: Outcome
    reason: str
    sqnr_db: float | None
    layers: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Layers in which ncnn's int8 cannot be that of a quantised original.

    Attributes:
        reason: what is lost, a clause.
        layers: their names.
    """

    reason: str
    layers: list[str]

    @property
    def said(self) -> str:
        """A sentence, with the names of a few layers."""
        named = ", ".join(self.layers[:_MOST_NAMED]) + (", …" if len(self.layers) > _MOST_NAMED else "")
        return f"not kept in {counted(len(self.layers), 'layer')}: {self.reason} ({named})"


_MOST_NAMED = 6


def losses(lost: Mapping[str, Sequence[str]]) -> list[Loss]:
    """Reason -> names of layers, as run.json holds them."""
    return [Loss(reason=reason, layers=list(names)) for reason, names in lost.items()]


@dataclass(frozen=True, kw_only=True)
class OwnQuantisation:
    """The quantisation of an original that is quantised.

    The original is compared with ncnn's fp32 network in floating point: with its weights as they are, and without the
    rounding of its activations.

    Attributes:
        kept: number of layers of the ncnn network that keep the original's scales.
        lost: what ncnn cannot keep.
        sqnr_db: the original in floating point against the original as it is: the noise of its own quantisation. As in
            ``accuracy``, of the worst output, dB; null if they are equal.
    """

    kept: int
    lost: list[Loss]
    sqnr_db: float | None

    @property
    def said(self) -> list[str]:
        """A sentence each."""
        noise = "" if self.sqnr_db is None else f", {decibel(self.sqnr_db)} dB from the same in floating point"
        kept = f"its scales are kept for the int8 model in {counted(self.kept, 'layer')}"
        return [f"the original is quantised{noise}; {kept}", *(loss.said for loss in self.lost)]


@dataclass(frozen=True, kw_only=True)
class DecodedCheck:
    """The predictions of the converted network, beside those of the original.

    Both are those of the images of ``accuracy`` of the conversion. The original's are its own outputs where the network
    was cut before they were computed, and otherwise its outputs after the same decoder.

    Attributes:
        decoder: the kind of decoder: ``boxes``, ``argmax`` (a map of classes), ``ctc`` (text) or ``points``. The
            model's card contains all of it.
        original: number of boxes of the original, or of places of its map of classes, characters or points.
        network: number of those of the network.
        matched: number of pairs with the same class and an intersection over union of 0.5 or more; of places with the
            same class, of characters in the same order, or of points at most a pixel apart.
        iou: mean intersection over union of these pairs; null if there are none, and for all but boxes.
        score_error: largest difference of the two scores of a pair; null as above.
    """

    decoder: str
    original: int
    network: int
    matched: int
    iou: float | None
    score_error: float | None


@dataclass(frozen=True, kw_only=True)
class ShapeCheck:
    """The accuracy of the converted network for inputs of further shapes.

    It was measured on the images, resized to these shapes. If the samples are arrays, or if the preprocessing does not
    resize, it was measured on a sample of noise.

    Attributes:
        shapes: of the inputs, without the batch axis.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null if the outputs are equal.
        cosine: as in ``accuracy``, of the worst output.
        max_error: the largest absolute difference, in the output's unit.
        original_sqnr_db: as in the conversion, for these shapes.
    """

    shapes: list[tuple[int, ...]]
    sqnr_db: float | None
    cosine: float | None
    max_error: float
    original_sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class ConversionCheck:
    """The routes to ncnn, and the accuracy of the converted network before optimisation.

    The accuracy is measured with ncnn in fp32 against the original, on a few evaluation images.

    Attributes:
        route: the route whose network was used.
        verified: whether there was an original to compare with, and any of its outputs was finite.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null if the outputs are equal or were not compared. fp32
            normally reaches 100; below 80 the run warns, and below 60 it ends, unless ``force`` is set.
        cosine: as in ``accuracy``, of the worst output; null if the outputs were not compared.
        max_error: the largest absolute difference, in the output's unit; null if the outputs were not compared.
        original_sqnr_db: the SQNR of the original against itself when the last bit of its inputs changes, of the worst
            output, dB. It explains an ``sqnr_db`` below 80: outputs within 6 dB of it are as exact as the original.
            null if it explains nothing.
        shapes: the same for each further input shape that was asked for; empty if there is no original to compare with.
        seconds: duration of all routes together.
        attempts: the routes that were tried, in order.
        pnnx_version: version of pnnx, or ``unknown``; null if pnnx did not run.
        log: file in the run folder with the output of pnnx; null if pnnx did not run.
        own: what is known of the quantisation of the original; null for an original in floating point.
        decoded: the predictions; null if no decoder is known, or if there was no original to compare with.
    """

    route: str
    verified: bool
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    original_sqnr_db: float | None
    shapes: list[ShapeCheck]
    seconds: float
    attempts: list[Attempt]
    pnnx_version: str | None
    log: PlainName | None
    own: OwnQuantisation | None = None
    decoded: DecodedCheck | None = None


@dataclass(frozen=True, kw_only=True)
class Files:
    """An ncnn model: names of files in the run folder, with the characters A-Z a-z 0-9 . _ - only.

    Attributes:
        param: the network.
        bin: its weights.
        sha256: the name of each of these files, with its SHA-256 in hexadecimal.
    """

    param: PlainName
    bin: PlainName
    sha256: dict[str, str] = field(default_factory=dict)


NOISY = 0.5
"""Interquartile range over the median from which a latency is too noisy to be compared."""

OUTLYING = 5.0
"""A sample over a typical one from which something else than the network took the time."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The latency of one inference.

    Attributes:
        min: the fastest sample, ms.
        p25: a quarter of the samples were faster, ms.
        median: half of the samples were faster, ms.
        p75: three quarters of the samples were faster, ms.
        p90: nine of ten samples were faster, ms.
        samples: number of timed inferences, after warming up.
    """

    min: float
    p25: float
    median: float
    p75: float
    p90: float
    samples: int

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        return (self.p75 - self.p25) / self.median

    @property
    def disturbed(self) -> bool:
        """Whether something else than the network took the time of most samples, so that the median means little.

        That is so if the middle half of the samples spreads over more than :data:`NOISY` of the median, or if the
        median is more than :data:`OUTLYING` times the fastest sample: a busy machine may delay nearly all of them.
        """
        return self.spread > NOISY or self.median > OUTLYING * self.min

    @property
    def outlying(self) -> bool:
        """Whether one of ten samples took more than :data:`OUTLYING` times the median."""
        return self.p90 > OUTLYING * self.median


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """The error of one output.

    Attributes:
        name: the name of the output in ncnn.
        mse: as in ``accuracy``, of this output.
        sqnr_db: as in ``accuracy``, of this output, dB.
        cosine: as in ``accuracy``, of this output.
        max_error: as in ``accuracy``, of this output.
        other_shape: number of images on which the output has another number of values than the reference, as detectors
            have that choose among boxes. The output then counts as zeros in all figures: its whole signal is error. If
            the reference is empty, the whole output is error.
    """

    name: str
    mse: float
    sqnr_db: float | None
    cosine: float | None
    max_error: float
    other_shape: int = 0


@dataclass(frozen=True, kw_only=True)
class FigureValue:
    """A figure of the task, over the same images as ``accuracy``.

    Attributes:
        name: as a requirement writes it, such as ``map50_95``.
        title: for people.
        unit: ``share`` (0 to 1), ``dB``, or empty.
        value: the figure; null if it is infinite, as the PSNR of equal images.
        low: lower end of the 95 % interval (percentile bootstrap over the images); null if it is not finite.
        high: upper end of that interval; null if it is not finite.
        count: how many things it is a share of: the original's boxes, or the samples; null if it is a mean of values.
    """

    name: str
    title: str
    unit: Unit
    value: float | None
    low: float | None
    high: float | None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class RequirementRecord:
    """A figure with a bound that models must satisfy.

    Attributes:
        figure: its name.
        bound: the least value allowed, or the largest if less is better; a share is 0 to 1.
        text: for people, such as ``boxes kept ≥ 95 %``.
    """

    figure: str
    bound: float
    text: str


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What the network is for.

    Attributes:
        name: such as ``detection``; ``tensor`` if nothing is known.
        why: how that is known, a clause.
        requires: the requirements for its models: those of the recipe, or the task's own.
        labels: what was read as labels, for how many samples, and from where; empty without labels.
        original: the original's own figures against the labels, by their names; empty without labels.
    """

    name: str
    why: str
    requires: list[RequirementRecord]
    labels: str
    original: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Errors against the reference. Each figure is that of the worst output.

    The images are the evaluation images, or the first few of them on a slow software device. Each figure is computed
    over all these images together; it is not a mean of the figures of single images.

    Attributes:
        mse: mean squared error over all values of all images, in the output's unit squared.
        sqnr_db: 10·log10(Σ reference² / Σ error²), dB; null if the error is exactly zero, or if the reference is all
            zero.
        cosine: Σ output·reference / √(Σ output² · Σ reference²); null if the reference is all zero: the output cannot
            be judged then.
        max_error: the largest absolute difference, in the output's unit.
        images: number of images.
        task: the figures of the task (``task.name``), against the original or the labels. Those that could not be
            computed are missing.
        outputs: the same for each output, in the network's order.
    """

    mse: float
    sqnr_db: float | None
    cosine: float | None
    max_error: float
    images: int
    task: list[FigureValue]
    outputs: list[OutputError]

    def figure(self, name: str) -> FigureValue | None:
        """A figure of the task; None where it could not be computed."""
        return next((figure for figure in self.task if figure.name == name), None)

    def other_shapes(self) -> list[str]:
        """What to say of outputs that have another shape than the reference on some samples, a clause for each."""
        return [
            f"output {each.name!r} has another shape than the reference on {each.other_shape} of {self.images} samples"
            for each in self.outputs
            if each.other_shape
        ]

    def figures(self) -> dict[str, float | None]:
        """Each figure that a requirement can name, by its name; None where it is not known.

        An output that should be zero throughout is exact where it is, and as wrong as can be where it is not.
        """
        exact = [output.mse == 0 for output in self.outputs]
        rows = list(zip(self.outputs, exact))
        sqnrs = [o.sqnr_db if o.sqnr_db is not None else math.inf if same else -math.inf for o, same in rows]
        cosines = [o.cosine if o.cosine is not None else 1.0 if same else 0.0 for o, same in rows]
        return {
            "cosine": min(cosines, default=1.0),
            "sqnr": min(sqnrs, default=math.inf),
            "mse": self.mse,
            "max_error": self.max_error,
            **{figure.name: figure.value for figure in self.task},
        }


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """The error of a layer's output against that of the same layer in fp32. It includes the errors of earlier layers.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: the layer's type, as ncnn names it.
        sqnr_db: as in ``accuracy``, dB; null if the output is exact, or all zero.
    """

    name: str
    type: str
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class LatencyAt:
    """The latency of one inference for inputs of other shapes.

    Attributes:
        shapes: of the inputs, without the batch axis.
        latency_ms: null if the variant did not run at these shapes.
        reason: why it did not run; otherwise empty.
    """

    shapes: list[tuple[int, ...]]
    latency_ms: Latency | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model at one precision on one backend of one device.

    Attributes:
        name: precision and backend, such as ``int8-cpu``, and ``@`` and the device if there are several. It is unique.
        precision: the precision in which ncnn could store and compute.
        backend: the requested backend; see ``status``.
        device: a name in ``devices``.
        device_name: the processor or graphics card that did the work.
        threads: number of CPU threads.
        status: ``ok``: it ran as requested. ``fallback``: Vulkan was requested, but the CPU did the work, so the
            figures are not those of a GPU. ``crashed``: ncnn crashed, hung or gave no usable output. ``skipped``: it
            did not run.
        reason: the reason for a status other than ``ok``; otherwise empty.
        files: the model; null if there is none. Variants may share a model.
        size_bytes: size of both files.
        latency_ms: latency of one inference; null if none was timed.
        latency_at: the same for each further input shape that was asked for, on noise.
        load_ms: time of loading the model.
        first_ms: the first inference after a cold load, ms.
        cpus: the CPUs to which it was pinned; empty: not pinned.
        conditions: clocks, temperatures and power during the timing; null if it was not timed.
        sustained: a long run without a pause; null if none was requested.
        peak_memory_mb: peak resident memory of the process since the start of loading, minus the memory before, MB.
        accuracy: errors against the reference; null if there are no usable outputs.
        quantised_sqnr_db: SQNR against an original that is quantised, as it is: ``accuracy`` is against the same in
            floating point. Of the worst output, dB; null if the original is not quantised, or the outputs are equal.
        layers: error of each layer, on a few evaluation images, in the network's order. It is measured for the CPU
            variants of the first device, on the machine that converted; empty if not measured.
        notes: facts that a reader needs to interpret the figures.
    """

    name: str
    precision: PrecisionName
    backend: Backend
    device: str
    device_name: str
    threads: int
    status: Status
    reason: str
    files: Files | None
    size_bytes: int | None
    latency_ms: Latency | None
    latency_at: list[LatencyAt]
    load_ms: Load | None
    first_ms: float | None
    cpus: list[int]
    conditions: Conditions | None
    sustained: Sustained | None
    peak_memory_mb: float | None
    accuracy: Accuracy | None
    quantised_sqnr_db: float | None
    layers: list[LayerError]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A quantisation method that was tried.

    Attributes:
        method: the method, added to the methods kept so far.
        relative_error: noise over signal of the outputs against fp32, on the held-back images: computed for each output
            relative to its own signal, then averaged over the outputs; null if it is infinite.
        sqnr_db: the same as SQNR in dB; null if ``relative_error`` is zero or null.
        kept: whether it lowered the error. The first trial is the baseline.
        seconds: duration of the trial.
    """

    method: str
    relative_error: float | None
    sqnr_db: float | None
    kept: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """An int8 layer that was fitted.

    Errors are the mean squared error of the layer's output over the mean square of that output, on samples that the
    fit did not see.

    Attributes:
        name: the layer's name in the ``.param`` file.
        before: the error before the layer was fitted; null if it is infinite.
        after: the error with the methods kept; null if it is infinite.
        kept: the methods kept, joined by ``+``: ``rounding``, ``bias`` and ``gain``; empty: none.
    """

    name: str
    before: float | None
    after: float | None
    kept: str


@dataclass(frozen=True)
class Count:
    """The error with fewer calibration images.

    The error is that of thresholds alone, on the held-back images, for several subsets of the calibration images.

    Attributes:
        images: size of the subsets.
        relative_error: noise over signal, mean over the subsets.
        low: the smallest over the subsets.
        high: the largest over the subsets.
    """

    images: int
    relative_error: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class StretchingImage:
    """A calibration image that alone determines the range of some tensors.

    Attributes:
        image: the image's name.
        tensors: number of tensors whose largest value comes from it and is more than 1.5 times that of any other image.
        factor: the largest ratio to the second largest value; null if it is infinite.
    """

    image: str
    tensors: int
    factor: float | None


@dataclass(frozen=True)
class Likeness:
    """Whether the evaluation images are like the calibration images.

    A distance is in standard deviations of the logarithms of the calibration images' ranges, as the root mean square
    over the inputs of int8 layers. The evaluation images are alike if ``evaluation`` is not above ``calibration``.

    Attributes:
        calibration: the 95th percentile of the distances of each calibration image from all others.
        evaluation: the median distance of the evaluation images.
    """

    calibration: float
    evaluation: float

    @property
    def alike(self) -> bool:
        return self.evaluation <= self.calibration


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How int8 was made.

    The effort limits the number of calibration images. Every fourth of them was held back: no scale, weight or bias was
    fitted to it, and it decided which methods were kept. If fewer than four were given, all of them had both roles. Of
    a heavy network that few images are taken for, one was held back.

    Attributes:
        effort: the recipe's ``effort``.
        used: number of calibration images to which scales, weights and biases were fitted.
        held_back: number of calibration images that decided which methods were kept.
        trials: each method that was tried, in order.
        layers: each int8 layer that was fitted, in the network's order; empty if no fitting was kept.
        counts: the error against the number of calibration images, fewest first; empty if not examined.
        enough: the smallest ``images`` in ``counts`` whose highest error is within 5 % of that with all images; null:
            none, or not examined.
        stretching: calibration images that alone determine ranges, the worst first, at most five.
        likeness: whether the evaluation images are like the calibration images; null if not examined.
        lost: layers in which int8 differs from that of a quantised original whose scales it has.
    """

    effort: str
    used: int
    held_back: int
    trials: list[Trial]
    layers: list[FittedLayer]
    counts: list[Count]
    enough: int | None
    stretching: list[StretchingImage]
    likeness: Likeness | None
    lost: list[Loss] = field(default_factory=list)

    @property
    def unlike(self) -> bool:
        """Whether the evaluation images are unlike the calibration images; False if not examined."""
        return self.likeness is not None and not self.likeness.alike


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A plan between the fastest and the most accurate, as predicted.

    Attributes:
        ms: predicted latency, ms.
        noise: predicted noise over signal of the outputs; null if it is infinite.
        int8: number of layers in int8.
    """

    ms: float
    noise: float | None
    int8: int


@dataclass(frozen=True, kw_only=True)
class LayerOption:
    """A precision that a layer could have had.

    Attributes:
        choice: as the layer's ``choice``.
        ms: predicted time of the layer alone, ms, without conversions between neighbours.
        noise: predicted part of the outputs' noise over signal; null if it is infinite.
    """

    choice: str
    ms: float | None
    noise: float | None


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """A layer that computes something, and its precision.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: the layer's type, as ncnn names it.
        choice: ``fp32``, ``fp16``, ``bf16``, ``int8``, or ``int8-winograd``: int8 with Winograd's faster, less
            accurate kernels.
        options: the possible precisions, including the choice.
        why: the reason, as a text.
    """

    name: str
    type: str
    choice: str
    options: list[LayerOption]
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the mixed model was made: the precision of each layer.

    Noise is that of the outputs against fp32, over the signal of each output, averaged over the outputs.

    Attributes:
        requirements: the requirements as a text, such as ``cosine ≥ 0.999``; empty if there are none.
        holds: whether the plan satisfies them, measured on the held-back images on the device; a latency is predicted.
        unmet: the requirements that it does not satisfy, a clause each, such as ``cosine 0.99 is below 0.999``.
        few: the requirements that the images which judged the plan are too few for, a clause each.
        refused: what ncnn said of models that it did not run while the plan was made -> how many there were.
        repairs: how often the noise allowed was changed, because a run of the plan showed a larger error than allowed.
        predicted_ms: latency of one inference, ms, the sum of the layers' times, at the speed of the machine when
            fp32-cpu was measured.
        measured_ms: the median latency of the ``mixed-cpu`` variant, ms; null if it was not timed.
        predicted_noise: the sum of the noise of each layer alone; null if it is infinite.
        measured_noise: on the held-back images, on the device; null if an output is not a number.
        front: plans from the fastest to the most accurate, as predicted.
        layers: each layer that computes something, in the network's order.
    """

    requirements: str
    holds: bool
    unmet: list[str]
    few: list[str]
    refused: dict[str, int]
    repairs: int
    predicted_ms: float
    measured_ms: float | None
    predicted_noise: float | None
    measured_noise: float | None
    front: list[FrontPoint]
    layers: list[PlannedLayer]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A class and its score.

    Attributes:
        label: the class.
        score: the network's output for it.
    """

    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The five best classes of one image.

    Attributes:
        image: the image's name.
        reference: the original's five best classes, best first.
        recommended: the recommended variant's five best classes, best first.
    """

    image: str
    reference: list[Score]
    recommended: list[Score]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A sample on which a variant differs most from the original.

    Attributes:
        variant: the name of the variant.
        image: the name of the evaluation image.
        file: a JPEG in the run folder: the original's prediction on the left, the variant's beside it, and, for images,
            their difference ten times enlarged. For texts it is the image alone.
        severity: how far it differs: for boxes, the boxes lost and the new ones; for maps, the share of other pixels;
            for images, the mean squared error over the squared range; for texts, the characters to change over those
            of the original; for points, their mean error.
        original_text, text: what the original and the variant read; empty for all but texts.
    """

    variant: str
    image: str
    file: PlainName
    severity: float
    original_text: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How values are distributed, in bins of one width.

    Attributes:
        low: lower end of the first bin.
        high: upper end of the last bin.
        counts: number of values in each bin.
    """

    low: float
    high: float
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Int8Layer:
    """How a layer computes in int8, for the first device.

    Attributes:
        low: the smallest input value that int8 can hold, in the unit of the input in fp32.
        high: the largest one. Values beyond ``low`` and ``high`` are clipped.
        zero_point: the input value of code 0. ncnn has no zero points; ncnnkit makes them part of the biases.
        inputs: histogram of the absolute values of the input over the calibration images, without zeros; null if it is
            not known.
        weights: histogram of the weights in fp32.
        steps: the smallest and the largest difference of two codes of a weight, over the output channels.
    """

    low: float
    high: float
    zero_point: float
    inputs: Histogram | None
    weights: Histogram
    steps: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class NetworkLayer:
    """A layer of the optimised network. Layers that only copy (``Split``) are left out.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: the layer's type, as ncnn names it.
        reads: names of the layers that make its inputs.
        outputs: names of its output blobs.
        shape: of its first output, without a batch axis; null if it is not known.
        parameters: its weights, counted one by one.
        int8: how it computes in int8; null if it does not.
    """

    name: str
    type: str
    reads: list[str]
    outputs: list[str]
    shape: tuple[int, ...] | None
    parameters: int
    int8: Int8Layer | None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the run.

    Attributes:
        name: the name.
        seconds: the duration.
    """

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of ``ncnnkit run``.

    Attributes:
        schema: the version of this contract: 1.
        files: names of the run's files in the run folder, including ``run.json``. A later run in the folder removes
            these files and no others.
        model: the requested network.
        recipe: the request; the same as ``recipe.toml``.
        preprocess: how an image became the network's input; null if the inputs were arrays.
        preprocess_origin: where this preprocessing comes from, as a text.
        images: the images for calibration and evaluation.
        environment: the machine that converted and quantised, and its software.
        devices: the devices on which the variants were measured, in the order of the request.
        reference: the reference of the variants' outputs.
        conversion: the routes to ncnn, and the accuracy of the converted network before optimisation.
        task: what the network is for.
        passes: the name of each optimising pass, with its number of rewrites, which may be 0.
        quantisation: how int8 was made; null if no layer can be int8, or if none was requested.
        plan: how the mixed model was made; null if there is none.
        variants: the results: each precision on each backend.
        recommended: ``name`` of the recommended variant; null if there is none.
        why: the reason for the recommendation, or why there is none.
        top5: the best classes of an example image; empty for networks without class names.
        pictures: the worst evaluation images of each variant, drawn, those of the recommended variant first; empty for
            tasks without pictures.
        warnings: the warnings, a sentence each.
        stages: the duration of each stage, in order.
        network: the layers of the optimised network in fp32, in order.
    """

    schema: int = SCHEMA
    files: list[str]
    model: Model
    recipe: Recipe
    preprocess: Preprocess | None
    preprocess_origin: str
    images: Images
    environment: Environment
    devices: list[DeviceRecord]
    reference: Reference
    conversion: ConversionCheck
    task: TaskRecord
    passes: dict[str, int]
    quantisation: Quantisation | None
    plan: Plan | None
    variants: list[Variant]
    recommended: str | None
    why: str
    top5: list[Guess]
    pictures: list[Picture]
    warnings: list[str]
    stages: list[Stage]
    network: list[NetworkLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name("model.name", self.model.name)
        if self.conversion.log is not None:
            check_name("conversion.log", self.conversion.log)
        for i, variant in enumerate(self.variants):
            if variant.files:
                check_name(f"variants[{i}].files.param", variant.files.param)
                check_name(f"variants[{i}].files.bin", variant.files.bin)
        for i, picture in enumerate(self.pictures):
            check_name(f"pictures[{i}].file", picture.file)
        names = [variant.name for variant in self.variants]
        unprintable = next((name for name in names if not name.isprintable()), None)
        if unprintable is not None:
            raise ValueError(f"a variant's name is {unprintable!r}: a name holds no control characters")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"there are two variants {twice!r}")
        if self.recommended is not None and self.recommended not in names:
            raise ValueError(f"recommended is {self.recommended!r}, which is no variant's name")

    def variant(self, name: str | None) -> Variant | None:
        """The variant of this name."""
        return next((variant for variant in self.variants if variant.name == name), None)


# -------------------------------------------------------------------------------------------- questions to variants


def baseline(variants: Sequence[Variant]) -> Variant | None:
    """What speed-ups are given over: fp32 on the CPU, where it ran."""
    wanted = ("fp32", "cpu", "ok")
    return next((v for v in variants if (v.precision, v.backend, v.status) == wanted and v.latency_ms), None)


def speed_up(variants: Sequence[Variant], variant: Variant) -> float | None:
    """How many times as fast as the baseline; None without one, and for what did not run as asked."""
    base = baseline(variants)
    if base is None or base.latency_ms is None or variant.status != "ok" or variant.latency_ms is None:
        return None
    return base.latency_ms.median / variant.latency_ms.median


def shared(variants: Iterable[Variant], texts: Callable[[Variant], Iterable[str]]) -> dict[str, list[str]]:
    """Texts -> the variants they are of, so that what several share is said once."""
    said: dict[str, list[str]] = {}
    for variant in variants:
        for text in texts(variant):
            said.setdefault(text, []).append(variant.name)
    return said


FAILED: tuple[Status, ...] = ("skipped", "fallback", "crashed")
"""Every status of a variant that did not run as it was asked to."""


def reasons(variants: Iterable[Variant], *statuses: Status) -> list[str]:
    """Why the variants of these statuses have them, a line for each reason."""
    found = shared((v for v in variants if v.status in statuses), lambda variant: [variant.reason])
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]
