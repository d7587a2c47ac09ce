"""The records of variants and their figures in run.json, and functions on several variants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..model.precision import PrecisionName
from ..onboard.facts import Conditions, Load, Status, Sustained
from ..onboard.protocol import NCNN
from .names import PlainName

EMULATED = "emulated: timings are not real"
"""The note of a variant with meaningless timings."""


Backend = Literal["cpu", "vulkan", "opencl"]


Unit = Literal["", "dB", "share"]


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of an ncnn model in the run folder. The names only have the characters A-Z a-z 0-9 . _ -.

    Attributes:
        param: the network.
        bin: its weights.
        sha256: the name of each of these files, with its SHA-256 in hexadecimal.
    """

    param: PlainName
    bin: PlainName
    sha256: dict[str, str] = field(default_factory=dict)


NOISY = 0.5
"""If the interquartile range divided by the median is larger than this, a latency is too noisy to be compared."""


_SHORTEST = 1e-9  # ms; no clock is that fine

OUTLYING = 5.0
"""If a sample divided by a typical one is larger than this, something other than the network took the time."""


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

    def __post_init__(self) -> None:
        if not all(_SHORTEST < ms < math.inf for ms in (self.min, self.p25, self.median, self.p75, self.p90)):
            raise ValueError("a latency must be above 0")

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        return (self.p75 - self.p25) / self.median

    @property
    def disturbed(self) -> bool:
        """Whether something other than the network took the time of most samples, so that the median is not meaningful.

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
        other_shape: number of images on which the output has another number of values than the reference, such as the
            output of a detector that selects boxes. The output then counts as zeros in all figures, so the whole signal
            is error. If the reference is empty, the whole output is error.
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
        name: its name in a requirement, such as ``map50_95``.
        title: its name for people.
        unit: ``share`` (0 to 1), ``dB``, or empty.
        value: the figure; null if it is infinite, such as the PSNR of equal images.
        low: lower end of the 95 % interval (percentile bootstrap over the images); null if it is not finite.
        high: upper end of that interval; null if it is not finite.
        count: the number of things of which it is a share: the original's boxes, or the samples; null if it is a mean
            of values.
    """

    name: str
    title: str
    unit: Unit
    value: float | None
    low: float | None
    high: float | None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Errors against the reference. Each is the figure of the worst output.

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
        """A figure of the task; None if it could not be computed."""
        return next((figure for figure in self.task if figure.name == name), None)

    def other_shapes(self) -> list[str]:
        """Clauses about the outputs that have another shape than the reference on some samples."""
        return [
            f"output {each.name!r} has another shape than the reference on {each.other_shape} of {self.images} samples"
            for each in self.outputs
            if each.other_shape
        ]

    def figures(self) -> dict[str, float | None]:
        """Each figure that a requirement can name, by its name; None if it is not known.

        An output with a reference of zeros is exact if it is zero, and otherwise has the worst possible figures.
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
        shapes: the shapes of the inputs, without the batch axis.
        latency_ms: the latency; null if the variant did not run at these shapes.
        reason: why it did not run; otherwise empty.
    """

    shapes: list[tuple[int, ...]]
    latency_ms: Latency | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model at one precision on one backend of one device.

    Attributes:
        name: precision and backend, such as ``int8-cpu``, followed by ``@`` and the device if there are several
            devices. For another engine it begins with the engine's name, such as ``mnn-int8-cpu``. It is unique.
        engine: the engine that computes it: ``ncnn``, or another engine of the recipe.
        precision: the precision in which the engine could store and compute.
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
        latency_at: the latency for each further requested input shape, on noise.
        load_ms: time of loading the model.
        first_ms: the first inference after a cold load, ms.
        cpus: the CPUs to which it was pinned; empty if not pinned.
        conditions: clocks, temperatures and power during the timing; null if it was not timed.
        sustained: a long run without a pause; null if none was requested.
        peak_memory_mb: peak resident memory of the process since the start of loading, minus the memory before, MB.
        accuracy: errors against the reference; null if there are no usable outputs.
        quantised_sqnr_db: SQNR of the worst output against a quantised original, dB; null if the original is not
            quantised, or if the outputs are equal. ``accuracy`` compares with the same original in floating point.
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
    engine: str = NCNN


def baseline(variants: Sequence[Variant]) -> Variant | None:
    """The variant to which speed-ups refer: ncnn's fp32 on the CPU; None if it did not run."""
    wanted = (NCNN, "fp32", "cpu", "ok")
    found = (v for v in variants if (v.engine, v.precision, v.backend, v.status) == wanted)
    return next((v for v in found if v.latency_ms), None)


def speed_up(variants: Sequence[Variant], variant: Variant) -> float | None:
    """The speed relative to the baseline.

    None without a baseline, if the variant did not run as requested, or if one of the two latencies is disturbed.
    """
    base = baseline(variants)
    if base is None or base.latency_ms is None or variant.status != "ok" or variant.latency_ms is None:
        return None
    if base.latency_ms.disturbed or variant.latency_ms.disturbed:
        return None
    return base.latency_ms.median / variant.latency_ms.median


def shared(variants: Iterable[Variant], texts: Callable[[Variant], Iterable[str]]) -> dict[str, list[str]]:
    """Text -> the names of its variants, so that a common text occurs only once."""
    said: dict[str, list[str]] = {}
    for variant in variants:
        for text in texts(variant):
            said.setdefault(text, []).append(variant.name)
    return said


FAILED: tuple[Status, ...] = ("skipped", "fallback", "crashed")
"""The statuses of variants that did not run as requested."""


def reasons(variants: Iterable[Variant], *statuses: Status) -> list[str]:
    """The reasons of the variants with these statuses, a line for each reason."""
    found = shared((v for v in variants if v.status in statuses), lambda variant: [variant.reason])
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]
