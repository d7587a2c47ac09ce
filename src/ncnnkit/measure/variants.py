"""The variants of a run: models at each precision, measured on each backend, and their records in run.json."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact, read_card
from ..batches import Workers
from ..comparison import accuracy
from ..comparison.evaluation import Version, outputs_over
from ..comparison.outputs import Outputs
from ..device import LOCAL
from ..device.session import noise, save_arrays
from ..device.sites import Site, open_sites, run_jobs
from ..errors import DeviceError, RuntimeFailure, VerificationError
from ..formatting import counted
from ..model.graph import Graph
from ..model.precision import PRECISIONS
from ..model.work import UNBOUNDED, Budget
from ..onboard.protocol import NCNN, JobModel, JobVariant, MeasureJob, VariantResult
from ..onboard.rows import Rows
from ..onboard.scratch import Scratch
from ..passes import store_fp16
from ..plan.mixed import MixedPlan
from ..progress import Progress, silent
from ..quantization import Quantized
from ..quantization.calibration import NOTHING_QUANTIZABLE
from ..recipe import Recipe
from ..record.variant import EMULATED, Backend, Files, Latency, LatencyAt, LayerError, Variant
from ..samples.stream import ArraySamples, evenly, keep
from ..source.model import file_safe
from ..tasks import Task
from .copies import refuse_copies
from .models import job_model

Array = NDArray[Any]

NO_VULKAN = "there is no Vulkan device"
SOFTWARE_SECONDS = 1.0  # seconds for evaluating, and for timing, on a software Vulkan device
SOFTWARE_COST = 200  # time of an inference on a software Vulkan device divided by that on a CPU
SOFTWARE_INFERENCES = 3  # least inferences of a variant on such a device: two samples, and one that is timed
LEAST_TIMED = 3  # inferences in a round, if the budget allows
LEAST_EVALUATED = 2  # samples; the outputs of one do not show how they vary


Models = Mapping[tuple[str, str], Artifact]
"""(precision, destination) -> model. The destination is a target for int8, a site's label for mixed, otherwise ""."""


def write_models(
    recipe: Recipe, graph: Graph, quantized: Mapping[str, Quantized], mixed: Mapping[Site, MixedPlan], name: str,
    folder: Path, **facts: Any,
) -> Models:  # fmt: skip
    """Make and write the requested models. A precision that cannot be made is absent.

    Args:
        quantized: target -> int8 network; the first is written as ``NAME-int8``.
        mixed: site -> its plan.
        facts: further attributes of the models' :class:`~ncnnkit.artifact.Card`.
    """

    def as_fp16() -> Graph:
        half = graph.copy()
        store_fp16(half)
        return half

    makers: dict[tuple[str, str], Callable[[], Graph]] = {("fp32", ""): lambda: graph, ("fp16", ""): as_fp16}
    makers |= {("int8", target): partial(getattr, made, "graph") for target, made in quantized.items()}
    makers |= {("mixed", site.label): partial(getattr, plan, "graph") for site, plan in mixed.items()}
    plain = {("int8", target) for target in list(quantized)[:1]}
    written: dict[tuple[str, str], Artifact] = {}
    for (file, whom), make in makers.items():
        wanted = [precision for precision in recipe.precisions if PRECISIONS[precision].file == file]
        if not wanted:
            continue
        suffix = "" if not whom or (file, whom) in plain else f"-{file_safe(whom)}"
        target = whom if file == "int8" else next((s.target for s in mixed if (file, s.label) == ("mixed", whom)), "")
        param = free_path(folder, f"{name}-{file}{suffix}", ".param")
        made = Artifact.made(make(), file, target=target, **facts).save(param)
        written |= {(precision, whom): made.at(precision) for precision in wanted}
    return written


def free_path(folder: Path, name: str, suffix: str) -> Path:
    """The path of a new file in a folder. The names of two devices may give the same file name."""
    paths = (
        folder / f"{name}{number}{suffix}" for number in itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    )
    return next(path for path in paths if not path.exists())


@dataclass(frozen=True)
class VariantSpec:
    """A variant to measure, or the reason why it is not measured.

    Attributes:
        model: the model for ncnn; None if there is none.
        skipped: why it is not measured.
        cpus: the CPUs to which it is pinned.
        engine: the engine that computes it.
        other: the model for another engine; None if there is none.
        inputs: the files of its samples, if its inputs differ from those of the other variants.
    """

    name: str
    precision: str
    backend: str
    threads: int
    site: Site
    model: Artifact | None
    skipped: str = ""
    cpus: tuple[int, ...] = ()
    engine: str = NCNN
    other: JobModel | None = None
    inputs: tuple[str, ...] = ()

    @property
    def job_model(self) -> JobModel | None:
        """The model in the form that a job takes; None if there is none to run."""
        if self.other:
            return self.other
        return job_model(self.model) if self.model and self.model.param else None

    @property
    def runs_anywhere(self) -> bool:
        """Whether workers may compute its outputs: it is one of ncnn's, on any cores of this machine."""
        here = self.site.device.address == LOCAL.address and self.backend == "cpu" and not self.cpus
        return here and self.engine == NCNN and self.model is not None and not self.inputs

    @property
    def size(self) -> int | None:
        """Bytes of the model's files."""
        if self.other:
            return sum(Path(file).stat().st_size for file in self.other.files)
        return self.model.size if self.model else None


def list_variants(
    recipe: Recipe, models: Models, sites: Sequence[Site], unplanned: Mapping[Site, str] = MappingProxyType({}),
    budget: Budget = UNBOUNDED,
) -> list[VariantSpec]:  # fmt: skip
    """Every precision on every backend of every device.

    Args:
        budget: decides whether software devices are skipped; see :func:`allows_software`.
        unplanned: the devices for which no mixed model could be planned, with the reasons.
    """

    def spec(site: Site, precision: str, backend: str) -> VariantSpec:
        keys = ((precision, whom) for whom in (backend, site.target, site.label, ""))
        found = [models[key] for key in keys if key in models]
        refused = [model.refused_by_vulkan if backend == "vulkan" else "" for model in found]
        model, skipped = next((model for model, why in zip(found, refused) if not why), None), ""
        if model is None and (found or (backend == "vulkan" and not PRECISIONS[precision].vulkan)):
            skipped = refused[0] if found else f"a {precision} model is made for the kernels of the CPU"
        elif precision == "mixed" and model is None and site.emulated:
            skipped = "a plan needs timings, and the timings of an emulated device are not real"
        elif precision == "mixed" and model is None and site in unplanned:
            skipped = unplanned[site]
        elif model is None:
            skipped = NOTHING_QUANTIZABLE
        elif backend == "vulkan" and not site.machine.vulkan:
            model, skipped = None, NO_VULKAN
        elif backend == "vulkan" and not site.has_gpu and not allows_software(recipe, budget):
            model = None
            skipped = f"there is no GPU, and software Vulkan would take minutes at --effort {recipe.effort}"
        cpus = site.cluster(recipe.cluster)
        threads = recipe.threads or len(cpus) or site.machine.cores
        return VariantSpec(site.variant(precision, backend), precision, backend, threads, site, model, skipped, cpus)

    return [spec(site, p, backend) for site in sites for backend in recipe.backends for p in recipe.precisions]


def allows_software(recipe: Recipe, budget: Budget) -> bool:
    """Whether the budget allows Vulkan without a GPU, although that gives no figures of a GPU."""
    variants = sum(PRECISIONS[precision].vulkan for precision in recipe.precisions)
    return budget.inferences >= SOFTWARE_INFERENCES * SOFTWARE_COST * variants


def evaluated(recipe: Recipe, samples: int, budget: Budget) -> list[int]:
    """The indices of the evaluation samples that the budget allows. Every variant runs all of them."""
    return evenly(
        samples, budget.take("evaluation samples", samples, runs=len(recipe.precisions), least=LEAST_EVALUATED)
    )


def measure(
    specs: Sequence[VariantSpec],
    inputs: Sequence[str],
    folder: Path,
    *,
    seconds: float,
    rounds: int,
    sustained: float = 0.0,
    fix_clocks: bool = False,
    budget: Budget = UNBOUNDED,
    workers: Workers | None = None,
    progress: Progress = silent,
) -> list[VariantResult]:
    """Measure variants on all their devices at the same time. The variants of one device share one interleaved job.

    Args:
        specs: the variants; those without a model are skipped.
        inputs: a .npy file (N, …) of float32 for each network input. All samples are evaluated, and the last one is
            timed.
        folder: the folder in which ``scratch``, with the outputs, is created.
        seconds: the time for each variant, spread over ``rounds``.
        sustained: how long each variant then runs alone without pauses, seconds.
        fix_clocks: whether to hold the clocks at their maximum, if permitted.
        budget: limits the timed inferences of each variant if they take longer than ``seconds``; at least two.
        workers: compute the outputs of ncnn's models on the CPU of this machine; by default the job does, before it
            times them.

    Returns:
        A result for each variant, in order. If a device was lost, its variants have the status ``crashed``, with the
        reason.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    elsewhere = [p for p in specs if p.runs_anywhere] if workers is not None else []
    few = _first(inputs, scratch / "few") if elsewhere else []
    todo: dict[Site, list[JobVariant]] = {}
    for p in specs:
        model = p.job_model
        if model is not None:
            fed = few if p in elsewhere else list(p.inputs)
            variant = JobVariant(p.name, model, p.backend, p.threads, list(p.cpus), inputs=fed)
            todo.setdefault(p.site, []).append(variant)
    most = max(map(len, todo.values()), default=1)
    timed = budget.take("timed inferences of each variant", rounds * LEAST_TIMED, runs=most, least=2)
    rounds = min(rounds, timed)
    jobs = {
        site: MeasureJob(
            variants=variants,
            inputs=list(inputs),
            folder=str(scratch),
            rounds=1 if site.emulated else rounds,
            seconds=0.0 if site.emulated else seconds,  # timings on an emulator mean nothing
            slow_seconds=SOFTWARE_SECONDS,
            least=timed // rounds,
            sustained=0.0 if site.emulated else sustained,
            fix_clocks=fix_clocks,
        )
        for site, variants in todo.items()
    }
    steps = sum(len(variants) + rounds for variants in todo.values()) + len(elsewhere)
    done = 0

    def step(_: Any) -> None:
        nonlocal done
        done += 1
        progress(min(done, steps), steps)

    results = {p.name: VariantResult(p.name, "skipped", p.skipped) for p in specs}
    for site, found in run_jobs(jobs, step).items():
        reason = str(found) if isinstance(found, DeviceError) else f"{site.device.name} returned no result for it"
        told = [] if isinstance(found, DeviceError) else found.variants
        answers = {result.name: result for result in told}
        for variant in todo[site]:  # a board can only answer for its own variants
            results[variant.name] = answers.get(variant.name, VariantResult(variant.name, "crashed", reason))
    for number, p in enumerate(elsewhere):
        result = results[p.name]
        if workers is not None and p.model is not None and result.outputs:
            version, place = Version(p.model, list(result.outputs)), scratch / f"evaluated-{number}"
            try:
                outputs = outputs_over(version, ArraySamples(tuple(map(Rows, inputs))), place, workers)
                result.outputs = {name: rows.path for name, rows in outputs.rows.items()}
            except RuntimeFailure as error:
                result.status, result.reason, result.outputs = "crashed", error.what, {}
        step(None)
    return list(results.values())


def _first(inputs: Sequence[str], folder: Path) -> list[str]:
    """Files of the first samples only, for a job that times and does not evaluate."""
    samples = ArraySamples(tuple(map(Rows, inputs)))
    return list(keep(samples.subset(range(min(LEAST_EVALUATED, len(samples)))), folder).files)


def time_at(
    specs: Sequence[VariantSpec],
    results: Sequence[VariantResult],
    shapes: Sequence[tuple[int, ...]],
    sample: Sequence[Array],
    *,
    seconds: float,
    rounds: int,
    budget: Budget = UNBOUNDED,
    progress: Progress = silent,
) -> list[LatencyAt]:
    """The latency, at other input shapes, of the variants that ran at their own shapes.

    Args:
        specs: the variants.
        results: their results with their own input shapes.
        shapes: the shapes of the inputs.
        sample: an array for each network input, of these shapes.
        seconds, rounds, budget: as for :func:`measure`.
    """
    ran = [replace(s, model=s.model if r.samples else None) for s, r in zip(specs, results)]
    with Scratch() as name:
        saved = save_arrays([array[None] for array in sample], Path(name))
        found = measure(ran, saved, Path(name), seconds=seconds, rounds=rounds, budget=budget, progress=progress)
    return [
        LatencyAt(shapes=list(shapes), latency_ms=latency(r.samples) if r.samples else None, reason=r.reason)
        for r in found
    ]


def variant_record(
    spec: VariantSpec,
    result: VariantResult,
    reference: Outputs | None,
    task: Task | None,
    labels: Sequence[Any] | None,
    layers: Sequence[LayerError] = (),
    latency_at: Sequence[LatencyAt] = (),
    quantised: Outputs | None = None,
) -> Variant:
    """The record of a variant in run.json.

    Args:
        reference: the original's outputs; None if there is nothing to compare with.
        task: what the network is for; None: only the values of its outputs count.
        labels: the label of each sample, if known.
        layers: the errors of its layers; see :func:`ncnnkit.comparison.layers.errors_by_variant`.
        latency_at: its latencies at other input shapes; see :func:`time_at`.
        quantised: the outputs of the quantised original itself. ``reference`` is the same network in floating point.
    """
    status, reason = result.status, result.reason
    param = spec.model.param if spec.model else None
    figures = as_quantised = None
    if result.outputs and reference is not None:
        # In ncnn, blobs that no layer reads are outputs, too. They come after the outputs of the model.
        outputs = Outputs.opened(result.outputs).first(len(reference.rows))
        if spec.engine != NCNN and len(outputs.rows) == len(reference.rows):  # its models have other output names
            outputs = Outputs(dict(zip(reference.rows, outputs.rows.values())))
        reason = _unfit(outputs, reference, varies=spec.model is not None and spec.model.graph.varies)
        if reason:
            status = "crashed"
        else:
            errors = accuracy.errors_of(outputs, reference, task, labels)
            broken = errors.broken()
            if broken is None:
                figures, reason = errors.result(list(outputs.rows)), result.reason
                if quantised is not None:
                    as_quantised = accuracy.errors_of(outputs, quantised).result(list(outputs.rows)).sqnr_db
            else:
                status, reason = "crashed", f"output {list(outputs.rows)[broken]!r} contains NaN or infinity"
    return Variant(
        name=spec.name,
        engine=spec.engine,
        precision=spec.precision,
        backend=cast(Backend, spec.backend),
        device=spec.site.device.name,
        device_name=result.device.name if result.device else spec.site.machine.cpu,
        threads=spec.threads,
        status=status,
        reason=reason,
        files=_files(param) if param else None,
        size_bytes=spec.size,
        latency_ms=latency(result.samples) if result.samples else None,
        latency_at=list(latency_at),
        load_ms=result.load_ms,
        first_ms=result.first_ms,
        cpus=list(spec.cpus),
        conditions=result.conditions,
        sustained=result.sustained,
        peak_memory_mb=result.peak_memory_mb,
        accuracy=figures,
        quantised_sqnr_db=as_quantised,
        layers=list(layers),
        notes=[*notes(spec, result), *(figures.other_shapes() if figures else [])],
    )


def _files(param: Path) -> Files:
    """The files of a model, with the hashes in its card."""
    names = {end: param.with_suffix(f".{end}").name for end in ("param", "bin")}
    card = read_card(param)
    return Files(**names, sha256={names[end]: digest for end, digest in card.sha256.items()} if card else {})


def compared_layer_by_layer(specs: Sequence[VariantSpec]) -> dict[str, Artifact]:
    """Name -> model, for variants to compare with fp32 layer by layer: the CPU models of the first device."""
    return {
        spec.name: spec.model
        for spec in specs
        if spec.model and spec.backend == "cpu" and spec.precision != "fp32" and spec.site is specs[0].site
    }


def _unfit(outputs: Outputs, reference: Outputs, varies: bool) -> str:
    """Why outputs, which may come from a board, cannot be compared with the reference, as a clause; "" if they can.

    Args:
        varies: whether the shapes may differ from sample to sample.
    """
    if len(outputs.rows) != len(reference.rows):
        return f"it has {counted(len(outputs.rows), 'output')}, the original has {len(reference.rows)}"
    sizes, wanted = ([math.prod(shape) for shape in each.shapes.values()] for each in (outputs, reference))
    if sizes != wanted and not varies:
        return f"its outputs have {sizes} values, and those of the original have {wanted}"
    if not 0 < len(outputs) <= len(reference):
        return f"it has outputs for {len(outputs)} samples, but {len(reference)} were given"
    return ""


def latency(samples: Sequence[float]) -> Latency:
    """The latency figures of samples, ms."""
    p25, median, p75, p90 = (float(v) for v in np.percentile(samples, [25, 50, 75, 90]))
    return Latency(min=float(min(samples)), p25=p25, median=median, p75=p75, p90=p90, samples=len(samples))


def notes(spec: VariantSpec, result: VariantResult) -> list[str]:
    """The facts that a reader needs to understand the figures of this variant."""
    features = set(spec.site.machine.cpu_features)
    on_cpu = spec.backend == "cpu" and spec.engine == NCNN
    said = [EMULATED] if spec.site.emulated and result.samples else []
    if on_cpu and spec.precision == "fp16" and "fp16-arithmetic" not in features:
        said.append("ncnn has no fp16 arithmetic for this CPU: weights are stored in fp16, and it computes in fp32")
    if on_cpu and spec.precision == "bf16" and not features & {"avx512-bf16", "bf16"}:
        said.append("this CPU has no bf16 instructions: ncnn converts to fp32 and back")
    seen = [result.conditions, result.sustained.conditions if result.sustained else None]
    said += ["throttled: " + "; ".join(each.throttled_by) for each in seen if each and each.throttled]
    if result.without_vulkan:
        said.append("no Vulkan kernel, run on the CPU: " + ", ".join(result.without_vulkan))
    return said


def bench(
    model: Artifact | Graph | str | Path,
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: int | None = None,
    on: Sequence[str] = (),
    shapes: Sequence[tuple[int, ...]] = (),
    seconds: float = 3.0,
    progress: Progress = silent,
) -> list[Variant]:
    """Time one ncnn model on noise, without checking its outputs.

    Args:
        model: an Artifact, a Graph or the path of a ``.param``.
        backends: the backends; by default the CPU, and Vulkan if there is a GPU.
        precisions: the precisions; by default all at which the model can run: fp32, fp16 and bf16, or int8, or mixed.
        on: the devices; by default this machine.
        shapes: the shapes of the inputs, if the file does not have them.

    Returns:
        The variants, without accuracy.

    Raises:
        ModelError: the shape of an input is unknown, or the model cannot run at a precision.
    """
    artifact = Artifact.of(model)
    at = {precision: artifact.at(precision) for precision in precisions or artifact.precisions}
    inputs = [array[None] for array in noise(artifact.graph, shapes, where=artifact.name)]
    with open_sites(on) as sites, Scratch() as folder, artifact.files() as files:
        gpu = any(site.has_gpu for site in sites)
        recipe = Recipe(
            artifact.name,
            backends=tuple(backends or (("cpu", "vulkan") if gpu else ("cpu",))),
            precisions=tuple(at),
            threads=threads or 0,
        )
        models = {(precision, ""): replace(made, param=files[0]) for precision, made in at.items()}
        specs = list_variants(recipe, models, sites)
        saved = save_arrays(inputs, Path(folder))
        results = measure(specs, saved, Path(folder), seconds=seconds, rounds=recipe.rounds, progress=progress)
        rows = [variant_record(spec, result, None, None, None, []) for spec, result in zip(specs, results)]
        return refuse_copies(rows, results)


def check_usable(variants: Sequence[Variant], where: str) -> None:
    """Check that a variant can be used.

    Raises:
        VerificationError: no variant is ``ok``. The error has the reason of each.
    """
    if any(variant.status == "ok" for variant in variants):
        return
    reasons = "; ".join(f"{variant.name} {variant.status}: {variant.reason}" for variant in variants)
    raise VerificationError(f"no variant can be used: {reasons}", where=where)
