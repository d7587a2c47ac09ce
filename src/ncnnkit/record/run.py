"""What run.json holds, as dataclasses: the contract with every program that reads it.

``docs/run-json.md`` and ``docs/run.schema.json`` are made from this file: the meaning of a field stands in the
docstring of its class and nowhere else. :data:`SCHEMA` counts up when a field disappears or changes its meaning.
A new field has a default, so that files written before stay valid. A reader ignores fields that it does not know.

A figure is null in JSON, None here, where it was not measured, and where it is infinite or not a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ..artifact import Tensor
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

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What a name may be that comes to stand in a shell script, in CMake, in C++ or in a path."""

PlainName = Annotated[str, PLAIN_NAME]


def check_name(where: str, name: str) -> None:
    """Raises ValueError where a name could mean something to a file system, a shell, CMake or C++."""
    if not PLAIN_NAME.fullmatch(name):
        allowed = "a name may have the characters A-Z a-z 0-9 . _ - and begins with none of . -"
        raise ValueError(f"{where} is {name[:80]!r}: {allowed}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network that was asked for.

    Attributes:
        reference: as it was typed: a path, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:function``.
        name: made from the reference, of the characters A-Z a-z 0-9 . _ - only. The models' files begin with it.
        kind: of the original: a file of ONNX, TorchScript or ncnn, or a network that code builds (``torch``).
        inputs: the network's inputs, in its order, named as in the original.
        outputs: the network's outputs, in its order, named as in the original.
        layers: layers of the optimised network.
        parameters: weights of the optimised network, counted one by one.
        labels: class names that the model brought; 0: none.
        classes: classes of the network's only output; 0: it does not classify, as far as anything shows. A vector is
            taken for scores of classes where images have labels, where the model brings as many names, where the
            library that built it says so, or where its values add up to one.
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
    """A sample that was dropped because another holds the same.

    Attributes:
        name: the sample.
        of: the one that was kept.
    """

    name: str
    of: str


@dataclass(frozen=True, kw_only=True)
class Images:
    """What was calibrated with and evaluated on.

    No sample is both: what the evaluation set shares with the calibration set was taken off the larger of the two.

    Attributes:
        source: the recipe's ``images``.
        available: images that there were to calibrate with.
        calibration: images that were chosen of these, as many as the effort takes, evenly spread. Only these were
            decoded.
        fitted: of the chosen, those that thresholds, weights and biases were fitted to. 0: nothing was quantised.
        held_back: of the chosen, those that decided which methods were kept and what a plan may cost in accuracy. With
            fewer than five images they are the same as the fitted ones.
        evaluation: images that took no part in any of this. The errors of the variants were measured on them.
        skipped: files that could not be used.
        copies: samples that were dropped because another holds the same.
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
    """What converted and quantised.

    Attributes:
        ncnnkit: version.
        pillow: version. How images are rounded when they are resized depends on it.
        machine: the machine, and its software.
    """

    ncnnkit: str
    pillow: str
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class DeviceRecord:
    """A device that variants were measured on.

    Attributes:
        name: what it was asked for by; ``local`` is the machine that converted.
        address: ``local``, ``ssh://…`` or ``adb://…``.
        target: the kernels of its CPU, which int8 was made for.
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
    """What the variants' outputs were compared with.

    Attributes:
        engine: what ran the original; ``ncnn`` means that no other original is known.
        version: version of that engine.
        origin: the same for a person.
    """

    engine: Engine
    version: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A route from the original to ncnn, and what came of it.

    Attributes:
        route: its name, as ``--route`` takes it.
        outcome: ``taken`` (its network went on), ``passed`` (its network is good, too), ``wrong`` (its network is not
            the original) or ``failed`` (it made no network that ncnn can run).
        reason: why it failed, or why its network is wrong; empty where it is good.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null where the outputs are equal or were not compared.
        layers: layers of its network, optimised; null where it failed.
        seconds: how long it took, with the comparison.
    """

    route: str
    outcome: Outcome
    reason: str
    sqnr_db: float | None
    layers: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ConversionCheck:
    """How the original was converted, and how exact the network was before anything was optimised.

    ncnn in fp32 against the original, on a few evaluation images.

    Attributes:
        route: the one whose network went on.
        verified: whether there was an original to compare with.
        sqnr_db: as in ``accuracy``, of the worst output, dB; null where the outputs are equal or were not compared.
            fp32 normally reaches 100; below 80 a warning says so, and below 60 a run ends, unless forced.
        cosine: as in ``accuracy``, of the worst output; null where the outputs were not compared.
        max_error: the largest absolute difference, in the output's unit; null where the outputs were not compared.
        seconds: how long all routes took together.
        attempts: the routes that were tried, in order.
        pnnx_version: version of pnnx, or ``unknown``; null where it did not run.
        log: file in the run folder with what pnnx printed; null where it did not run.
    """

    route: str
    verified: bool
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    seconds: float
    attempts: list[Attempt]
    pnnx_version: str | None
    log: PlainName | None


@dataclass(frozen=True, kw_only=True)
class Files:
    """A model of ncnn: names of files in the run folder, of the characters A-Z a-z 0-9 . _ - only.

    Attributes:
        param: the network.
        bin: its weights.
    """

    param: PlainName
    bin: PlainName


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The latency of one inference.

    Attributes:
        min: the fastest sample, ms.
        p25: a quarter of the samples were faster, ms.
        median: half of the samples were faster, ms.
        p75: three quarters of the samples were faster, ms.
        p90: nine of ten samples were faster, ms.
        samples: inferences that were timed, after warming up.
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


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """The error of one output.

    Attributes:
        name: ncnn's name of the output.
        mse: as in ``accuracy``, of this output.
        sqnr_db: as in ``accuracy``, of this output, dB.
        cosine: as in ``accuracy``, of this output.
        max_error: as in ``accuracy``, of this output.
    """

    name: str
    mse: float
    sqnr_db: float | None
    cosine: float | None
    max_error: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Errors against the reference: each figure is that of the output where it is worst.

    Images are the evaluation images, or the first few of them on a slow software device. Every figure is one of all
    these images together, and no mean of figures of images.

    Attributes:
        mse: mean squared error over all values of all images, in the output's unit squared.
        sqnr_db: 10·log10(Σ reference² / Σ error²), dB; null where the error is exactly zero, or the reference all zero.
        cosine: Σ output·reference / √(Σ output² · Σ reference²); null where the reference is all zero: nothing can be
            judged then.
        max_error: the largest absolute difference, in the output's unit.
        top1_agreement: share of the images whose best class is the reference's; null for networks that do not classify
            (``model.classes``). Images for which the reference prefers no class do not count.
        top5_agreement: share of the images whose five best classes hold the reference's best; null likewise.
        top1: share of the images whose best class is their label; null without labels, too.
        top5: share of the images whose five best classes hold their label; null likewise.
        images: images that these figures are over.
        outputs: the same for each output, in the network's order.
    """

    mse: float
    sqnr_db: float | None
    cosine: float | None
    max_error: float
    top1_agreement: float | None
    top5_agreement: float | None
    top1: float | None
    top5: float | None
    images: int
    outputs: list[OutputError]

    def figures(self) -> dict[str, float | None]:
        """Each figure by its name in :data:`ncnnkit.plan.requirement.FIGURES`; None where it is not known.

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
            "top1_agreement": self.top1_agreement,
            "top1": self.top1,
        }


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """The error of a layer's output against that of the same layer in fp32.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: the layer's type, as ncnn names it.
        sqnr_db: as in ``accuracy``, dB; null where the output is exact, or all zero.
    """

    name: str
    type: str
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model at one precision on one backend of one device.

    Attributes:
        name: precision and backend, and ``@`` the device where there are several. No two variants have the same.
        precision: what ncnn was allowed to store and compute with.
        backend: what was asked for; see ``status``.
        device: where it ran: a name of ``devices``.
        device_name: the processor or graphics card that did the work.
        threads: CPU threads that ncnn was given.
        status: ``ok``: it ran as asked. ``fallback``: Vulkan was asked for and the CPU did the work, so the figures are
            no GPU's. ``crashed``: ncnn ended, hung or gave no usable output. ``skipped``: it was not tried.
        reason: the reason for a status other than ``ok``; else empty.
        files: the model; null where there is none. Variants may share one.
        size_bytes: size of both files.
        latency_ms: latency of one inference; null where none was timed.
        load_ms: time of loading the model.
        first_ms: the first inference after a cold load, ms.
        cpus: the CPUs it was pinned to; empty: none.
        conditions: what was seen while it was timed; null where it was not timed.
        sustained: a long run without a rest; null where none was asked for.
        peak_memory_mb: peak resident memory of the process since the load began, less what it held before, MB.
        accuracy: errors against the reference; null where there are no usable outputs.
        layers: error of each int8 layer, on a few evaluation images, in the network's order; empty where that was not
            measured.
        notes: what a reader must know to read the figures right.
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
    load_ms: Load | None
    first_ms: float | None
    cpus: list[int]
    conditions: Conditions | None
    sustained: Sustained | None
    peak_memory_mb: float | None
    accuracy: Accuracy | None
    layers: list[LayerError]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A method of quantising that was tried.

    Attributes:
        method: what was tried, on top of what had been kept so far.
        relative_error: noise over signal of the outputs against fp32, on the held-back images: of each output relative
            to its own signal, the mean over the outputs; null where it is infinite.
        sqnr_db: the same as SQNR in dB; null where ``relative_error`` is zero or null.
        kept: whether it lowered the error. The first one is what the others are compared with.
        seconds: how long trying and judging took.
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
        before: the error before the layer was fitted; null where it is infinite.
        after: the error with what was kept; null where it is infinite.
        kept: the methods kept, joined by ``+``: of ``rounding``, ``bias`` and ``gain``; empty: none.
    """

    name: str
    before: float | None
    after: float | None
    kept: str


@dataclass(frozen=True)
class Count:
    """The error with fewer calibration images.

    The error is that of thresholds alone, on the held-back images, for several choices of so many calibration images.

    Attributes:
        images: calibration images used.
        relative_error: noise over signal, mean over the choices.
        low: the least of them.
        high: the largest of them.
    """

    images: int
    relative_error: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class StretchingImage:
    """A calibration image that alone stretches the range of some tensors.

    Attributes:
        image: the image's name.
        tensors: tensors whose largest value it makes, by more than half above any other image's.
        factor: how many times the second largest, in the worst of them; null where it is infinite.
    """

    image: str
    tensors: int
    factor: float | None


@dataclass(frozen=True)
class Likeness:
    """Whether the evaluation images are like the calibration images.

    Distances are in standard deviations of the logarithms of the calibration images' ranges, root mean square over the
    tensors that int8 layers read. The evaluation images are alike where ``evaluation`` is not above ``calibration``.

    Attributes:
        calibration: what 95 % of the calibration images stay under, each against all the others.
        evaluation: the median of the evaluation images.
    """

    calibration: float
    evaluation: float

    @property
    def alike(self) -> bool:
        return self.evaluation <= self.calibration


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How int8 was made.

    The effort limits the number of calibration images that are read. Every fifth of those was held back: no scale,
    weight or bias was fitted to it, and it decided which methods were kept. With fewer than five images all of them did
    both.

    Attributes:
        effort: the recipe's ``effort``.
        used: calibration images that scales, weights and biases were fitted to.
        held_back: calibration images that decided which methods were kept.
        trials: each method that was tried, in order.
        layers: each int8 layer that was fitted, in the network's order; empty where no fitting was kept.
        counts: the error against the number of calibration images, fewest first; empty where it was not looked at.
        enough: the least ``images`` of ``counts`` whose error, at its highest, is within 5 % of that with all; null:
            none, or not looked at.
        stretching: calibration images that alone stretch ranges, the worst first, at most five.
        likeness: whether the evaluation images are like the calibration images; null where that was not looked at.
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

    @property
    def unlike(self) -> bool:
        """Whether the evaluation images are unlike the calibration images; False where that was not looked at."""
        return self.likeness is not None and not self.likeness.alike


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A plan on the way from the fastest to the most exact, as predicted.

    Attributes:
        ms: predicted latency, ms.
        noise: predicted noise over signal of the outputs; null where it is infinite.
        int8: layers in int8.
    """

    ms: float
    noise: float | None
    int8: int


@dataclass(frozen=True, kw_only=True)
class LayerOption:
    """A precision that a layer could have had.

    Attributes:
        choice: as the layer's ``choice``.
        ms: predicted time of the layer alone, ms. Conversions between neighbours come on top.
        noise: predicted part of the outputs' noise over signal; null where it is infinite.
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
        choice: ``fp32``, ``fp16``, ``bf16``, ``int8``, or ``int8-winograd``: int8 with Winograd's faster, rougher
            kernels.
        options: what it could have been, the choice among them.
        why: the reason, for a person.
    """

    name: str
    type: str
    choice: str
    options: list[LayerOption]
    why: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the mixed model was made: the precision of each layer.

    Noise is that of the outputs against fp32, over the signal of each output, the mean over the outputs.

    Attributes:
        requirements: what the plan had to keep to, for a person: ``cosine ≥ 0.999``; empty where there was nothing.
        holds: whether it does: measured on the held-back images where it will run; for a latency, predicted.
        unmet: what it does not keep to, a clause each: ``cosine 0.99 is below 0.999``.
        repairs: how often the prediction was corrected because running the plan showed more error than allowed.
        predicted_ms: latency of one inference, ms, made up of the layers' times, at the speed at which fp32-cpu was
            measured.
        measured_ms: the median of the ``mixed-cpu`` variant, ms; null where that was not timed.
        predicted_noise: made up of the noise of each layer alone; null where it is infinite.
        measured_noise: on the held-back images, where the model will run; null where an output is not a number.
        front: plans from the fastest to the most exact, as predicted.
        layers: each layer that computes something, in the network's order.
    """

    requirements: str
    holds: bool
    unmet: list[str]
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
class Stage:
    """A stage of the run.

    Attributes:
        name: of the stage.
        seconds: how long it took.
    """

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of ``ncnnkit run``.

    Attributes:
        schema: the version of this contract: 1.
        files: names of the run's files in the run folder, ``run.json`` among them. A later run into the folder removes
            these files and no others.
        model: the network that was asked for.
        recipe: everything that was asked for; the same as ``recipe.toml``.
        preprocess: how an image became the network's input; null where the inputs were arrays.
        preprocess_origin: where this preprocessing was found, for a person.
        images: what was calibrated with and evaluated on.
        environment: what converted and quantised.
        devices: where the variants were measured, in the order asked for.
        reference: what the variants' outputs were compared with.
        conversion: how the original was converted, and how exact that was, before anything was optimised.
        passes: name of each optimising pass: how many rewrites it made, 0 too.
        quantisation: how int8 was made; null where no layer could be int8, or none was asked for.
        plan: how the mixed model was made; null where there is none.
        variants: what was made and measured: each precision on each backend.
        recommended: ``name`` of a variant; null where none ran to its end.
        why: the reason for the recommendation, or for there being none.
        top5: examples, for a person to see that it works; empty for networks without class names.
        warnings: what a careful person would say about this run.
        stages: how long each stage took, in order.
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
    passes: dict[str, int]
    quantisation: Quantisation | None
    plan: Plan | None
    variants: list[Variant]
    recommended: str | None
    why: str
    top5: list[Guess]
    warnings: list[str]
    stages: list[Stage]

    def __post_init__(self) -> None:
        check_name("model.name", self.model.name)
        if self.conversion.log is not None:
            check_name("conversion.log", self.conversion.log)
        for i, variant in enumerate(self.variants):
            if variant.files:
                check_name(f"variants[{i}].files.param", variant.files.param)
                check_name(f"variants[{i}].files.bin", variant.files.bin)
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


def reasons(variants: Iterable[Variant], *statuses: Status) -> list[str]:
    """Why the variants of these statuses have them, a line for each reason."""
    found = shared((v for v in variants if v.status in statuses), lambda variant: [variant.reason])
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]
