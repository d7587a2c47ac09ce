"""The main job: from a model reference to measured models and a report. :func:`run` is the product, in order."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .codec import as_read
from .comparison.accuracy import Errors
from .comparison.classes import Classes, what_it_classifies
from .comparison.layers import LAYER_IMAGES, layer_errors
from .comparison.outputs import Outputs, keep_outputs
from .comparison.wrong import why_blind
from .device.session import Session, probe
from .device.sites import Site, open_sites
from .errors import ImageError, ModelError, VerificationError
from .measure.judging import refuse_wrong_outputs
from .measure.variants import (
    Models,
    check_usable,
    list_variants,
    measure,
    refuse_copies_of_the_cpu,
    variant_record,
    write_models,
)
from .model.graph import Graph
from .model.precision import PRECISIONS, has_int8
from .model.targets import TARGETS
from .passes import optimize_with_report
from .plan.mixed import MixedPlan
from .plan.requirement import Requirements
from .plan.search import find_plan
from .progress import Progress, StepProgress, silent_steps
from .quantization import EFFORTS, Quantized, quantize_images
from .quantization.advice import image_ranges, likeness
from .quantization.calibration import quantizable
from .recipe import AUTO, Recipe, save_recipe
from .recommendation import recommend
from .record.environment import environment, installed
from .record.folder import (
    LABELS,
    LOG,
    RECIPE,
    REPORT,
    RUN,
    refuse_to_replace,
    save_labels,
    save_run,
    staging,
)
from .record.run import (
    ConversionCheck,
    CopiedFile,
    Device,
    Images,
    Likeness,
    OutputError,
    Plan,
    Run,
    SkippedFile,
    Stage,
    Variant,
)
from .report import write_report
from .samples.doubts import preprocessing_doubts
from .samples.images import ImageSet, apart, dropped_copies, find_images
from .samples.items import InputSpec
from .samples.labels import read_labels
from .samples.preprocess import Preprocess, default_preprocess, preset
from .samples.stream import Samples, in_memory, keep
from .source import ModelSource, open_model
from .source.conversion import Conversion, convert_source
from .source.model import fit
from .source.torch_models import BUILDERS
from .verdict import GUESS, WRONG_SQNR_DB, copies_said, top5, warn

Array = NDArray[Any]
ARRAYS = "none: the inputs are arrays"
CHECKED_IMAGES = 4  # for the conversion check
ROUNDING = 1e-4  # what fp32 may leave of an output that should be zero
STATISTICS_IMAGES = 16  # for the batch-norm statistics of a network with random weights


def run(recipe: Recipe, out: Path, progress: StepProgress = silent_steps) -> Run:
    """Do the main job.

    Args:
        recipe: what is asked for.
        out: the run folder: gets the models, run.json, report.html, recipe.toml and pnnx's log, all at the end.
        progress: called with the stage at work and what is done of it.

    Returns:
        What run.json holds.

    Raises:
        VerificationError: nothing usable came out; ``out`` holds the report that says why.
        NcnnkitError: anything else that a user can mend; ``out`` is then as it was before.
    """
    stages = Stages(progress)
    requirements = Requirements.parse(recipe.require, recipe.max_latency)
    reads = (recipe.model, recipe.images, recipe.eval_images, recipe.labels)
    with staging(out, reads=reads) as folder, ExitStack() as opened:
        with stages("look at the devices" if recipe.on else "look at this machine"):
            sites = opened.enter_context(open_sites(recipe.on, recipe.target if recipe.target != AUTO else ""))
            for site in sites:
                site.cluster(recipe.cluster)  # one that is not there shows before any work
        with stages("open the model"):
            source = open_model(recipe.model, shapes=recipe.shapes, weights=recipe.weights, workdir=folder)
            refuse_to_replace(out, files_to_come(recipe, source))
            preprocess, origin = choose_preprocess(recipe, source)
        with stages("look at the images"):
            efforts = efforts_by_target(recipe, sites)
            images, evaluation = open_image_sets(
                recipe, preprocess, source.inputs, images_needed(efforts), stages.progress("look at the images")
            )
            if not (images.pictures or evaluation.pictures):
                preprocess, origin = None, ARRAYS
            labels = open_labels(recipe, source, evaluation)
            source = settle_random_weights(recipe, source, images, folder)
        with stages("convert"):
            conversion = convert_source(source, folder)
            if has_int8(conversion.graph):
                raise ModelError("is an int8 model already", where=recipe.model, hint="ncnnkit bench or compare")
        with stages("optimise"):
            graph, rewrites = optimize_with_report(conversion.graph)
        with stages("read images"):
            inputs = keep(evaluation, folder / "inputs", stages.progress("read images"))
            doubts = preprocessing_doubts(inputs, source.inputs, preprocess)
        with stages("reference outputs"):
            shown = stages.progress("reference outputs")
            reference = reference_outputs(
                source, conversion.graph, inputs, folder / "reference", shown, threads=recipe.threads or None
            )
            blind = why_blind(reference)
            classes = what_it_classifies(
                reference, names=source.labels, known=source.classes, labelled=labels is not None
            )
            check_labels(labels, classes)
        with stages("check the conversion"):
            check = check_conversion(recipe, source, conversion, inputs, reference)
        quantized: dict[str, Quantized] = {}
        for target, effort in efforts.items() if quantizable(graph) else ():
            stage = "quantise" if target == sites[0].target else f"quantise for {target}"
            with stages(stage):
                quantized[target] = quantize_images(
                    graph, images, target=target, method=recipe.method, effort=effort,
                    threads=recipe.threads or None, progress=stages.within(stage),
                )  # fmt: skip
        mixed: dict[Site, MixedPlan] = {}
        for site in sites if quantized and "mixed" in recipe.precisions else ():
            if not site.emulated:
                stage = f"plan{site.label}"
                with stages(stage):
                    made = quantized[site.target]
                    mixed[site] = find_plan(
                        made, requirements, site.machine, device=site.device,
                        threads=recipe.threads or site.machine["cores"], progress=stages.within(stage),
                    )  # fmt: skip
        with stages("write the models"):
            models = write_models(
                recipe, graph, quantized, mixed, source.name, folder,
                preprocess=preprocess, labels=tuple(source.labels or ()), ncnn=sites[0].machine["ncnn"],
            )  # fmt: skip
        with stages("measure"):
            specs = list_variants(recipe, models, sites)
            shown = stages.progress("measure")
            results = measure(
                specs, inputs.files, folder, seconds=recipe.seconds, rounds=recipe.rounds, sustained=recipe.sustained,
                fix_clocks=recipe.fix_clocks, progress=shown,
            )  # fmt: skip
        first = quantized.get(sites[0].target)
        with stages("layer errors"):
            few = inputs.subset(range(min(LAYER_IMAGES, len(inputs))))
            layers = layer_errors(graph, first.graph, few) if first and "int8" in recipe.precisions else []
        with stages("compare the images"):
            alike = compare_images(first, inputs, recipe.threads or None)
        with stages("judge the outputs"):
            rows = [variant_record(spec, r, reference, classes, labels, layers) for spec, r in zip(specs, results)]
            rows = refuse_copies_of_the_cpu(rows, results)
            variants = refuse_wrong_outputs(rows, specs, results, graph, few, check.sqnr_db)
        recommended, why = recommend(variants, requirements, blind)
        with stages("write the report"):
            quantisation = first.record(recipe.effort, images.names, alike) if first else None
            planned = plan_record(mixed[sites[0]], requirements, sites[0], variants) if sites[0] in mixed else None
            guesses = top5(source, evaluation, reference, classes, recommended, results)
            remove_scratch(folder, models)
            (folder / LOG).write_text(conversion.log, encoding="utf-8")
            if source.labels:
                save_labels(source.labels, folder / LABELS)
            save_recipe(recipe, folder / RECIPE)
            document = as_read(
                Run(
                    files=sorted([*(path.name for path in folder.iterdir()), REPORT, RUN]),
                    model=source.record(graph, reference.shapes, classes.count),
                    recipe=recipe,
                    preprocess=preprocess,
                    preprocess_origin=origin,
                    images=images_record(recipe, images, evaluation, first),
                    environment=environment(probe() if recipe.on else sites[0].machine),
                    devices=[device_record(site, variants, requirements, blind) for site in sites],
                    reference=source.engine_record(),
                    conversion=check,
                    passes=rewrites,
                    quantisation=quantisation,
                    plan=planned,
                    variants=variants,
                    recommended=recommended,
                    why=why,
                    top5=guesses,
                    warnings=warn(
                        source.engine, origin, images, evaluation, check, variants, classes=classes, doubts=doubts,
                        quantisation=quantisation, plan=planned,
                        emulated=[site.device.name for site in sites if site.emulated], blind=blind,
                        random_weights=recipe.weights == "none",
                    ),
                    stages=stages.rows(),
                )
            )  # fmt: skip
            save_run(document, folder / RUN)
            write_report(document, folder / REPORT)
    check_usable(document.variants, str(out))
    return document


class Stages:
    """Names the stages of a run, times them, and passes progress on."""

    def __init__(self, progress: StepProgress) -> None:
        self._progress = progress
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._progress(name, 0, 0)
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def progress(self, name: str) -> Progress:
        return lambda done, total: self._progress(name, done, total)

    def within(self, name: str) -> StepProgress:
        """The progress of the steps of a stage."""
        return lambda step, done, total: self._progress(f"{name}: {step}", done, total)

    def rows(self) -> list[Stage]:
        return [Stage(name=name, seconds=round(seconds, 3)) for name, seconds in self._seconds.items()]


# ---------------------------------------------------------------------------------------------- model and images


def choose_preprocess(recipe: Recipe, source: ModelSource) -> tuple[Preprocess | None, str]:
    """The preprocessing and a sentence saying where it came from: the recipe, the model itself, or a guess."""
    if recipe.preset:
        named = preset(recipe.preset)
        found, origin = fit(named, source.inputs) or named, f"the preset {recipe.preset}"
        if found != named:
            origin += f", scaled to {source.inputs[0].shape[1]}x{source.inputs[0].shape[2]}"
    elif source.preprocess is not None:
        found, origin = source.preprocess, source.preprocess_origin
    else:
        guess = default_preprocess(source.inputs[0].shape) if len(source.inputs) == 1 else None
        if guess is None:
            return None, ARRAYS
        found, origin = guess, GUESS
    if recipe.preprocess:
        found = Preprocess.from_dict({**found.to_dict(), **recipe.preprocess})
        given = ", ".join(sorted(recipe.preprocess))
        origin = f"{given} as given" + ("" if origin == GUESS else f", the rest from {origin}")
    return found, origin


def images_needed(efforts: Mapping[str, str]) -> int:
    """How many images are calibrated with, at the largest of these efforts; a few even where nothing is quantised."""
    return max([EFFORTS[effort].images for effort in efforts.values()], default=STATISTICS_IMAGES)


def open_image_sets(
    recipe: Recipe, preprocess: Preprocess | None, specs: Sequence[InputSpec], most: int, progress: Progress
) -> tuple[ImageSet, ImageSet]:
    """(images to calibrate with, images to evaluate with); no image is in both.

    Args:
        most: so many are enough to calibrate with. They are chosen before any image is decoded.
        progress: called with (images looked at, images to look at).
    """
    if not recipe.images:
        raise ImageError(
            "no images are given", hint="--images FOLDER: a few dozen photographs like those the model will see"
        )
    images = find_images(Path(recipe.images), preprocess, specs, progress).distinct()
    if recipe.eval_images:
        if Path(recipe.eval_images).resolve() == Path(recipe.images).resolve():
            hint = "leave --eval-images out"
            raise ImageError("are the images to calibrate with", where=recipe.eval_images, hint=hint)
        evaluation = find_images(Path(recipe.eval_images), preprocess, specs, progress).distinct()
        images, evaluation = apart(images, evaluation)
    else:
        images, evaluation = images.split()
    return images.checked(most, progress), evaluation.checked(progress=progress)


def open_with_images(recipe: Recipe, most: int | None = None) -> tuple[Artifact, ImageSet, list[str]]:
    """(model, images, what to say of the preprocessing) of an ncnn model, for the single steps of the main job.

    Args:
        most: so many images are enough; all by default.
    """
    param = Path(recipe.model)
    if param.suffix != ".param":
        raise ModelError("is not an ncnn model", where=recipe.model, hint="ncnnkit convert makes one")
    source = open_model(recipe.model, shapes=recipe.shapes, workdir=param.parent)
    model = Artifact.load(param)
    model.graph.set_input_shapes([spec.shape for spec in source.inputs])
    preprocess, origin = choose_preprocess(recipe, source)
    images = find_images(recipe.images, preprocess, source.inputs).distinct().checked(most)
    preprocess, origin = (preprocess, origin) if images.pictures else (None, ARRAYS)
    doubts = preprocessing_doubts(images, source.inputs, preprocess)
    return model, images, [f"preprocessing: {origin}", *copies_said(images.copies), *doubts]


def efforts_by_target(recipe: Recipe, sites: Sequence[Site]) -> dict[str, str]:
    """The targets to quantise for -> with which effort. Empty where neither int8 nor mixed models are asked for.

    Vulkan is a target of its own: ncnn's Vulkan cannot run what is made for a CPU. On a software device, no figure of
    which is one of a GPU, it is not worth much time.
    """
    if not {"int8", "mixed"} & set(recipe.precisions):
        return {}
    efforts = {site.target: recipe.effort for site in sites}
    pads = any(TARGETS[target].int8_pads for target in efforts)
    asked = pads and "int8" in recipe.precisions and "vulkan" in recipe.backends
    if asked and any(site.machine["vulkan"] for site in sites):
        efforts["vulkan"] = recipe.effort if any(site.has_gpu for site in sites) else "fast"
    return efforts


def settle_random_weights(recipe: Recipe, source: ModelSource, images: ImageSet, folder: Path) -> ModelSource:
    """Random weights need batch-norm statistics of real images: without them every image has the same outputs."""
    library, _, _ = recipe.model.partition(":")
    if recipe.weights != "none" or library not in BUILDERS or len(source.inputs) != 1:
        return source
    (sample,) = in_memory(images.subset(range(min(len(images), STATISTICS_IMAGES))))
    return open_model(recipe.model, shapes=recipe.shapes, weights="none", workdir=folder, statistics=sample)


def open_labels(recipe: Recipe, source: ModelSource, evaluation: ImageSet) -> NDArray[np.int64] | None:
    if not recipe.labels:
        return None
    return read_labels(Path(recipe.labels), evaluation.names, source.labels)


def check_labels(labels: NDArray[np.int64] | None, classes: Classes) -> None:
    """Raises ImageError where labels are given that the network's outputs cannot be compared with."""
    if labels is None:
        return
    if not classes:
        raise ImageError("labels are given, but the network does not classify", hint="leave --labels out")
    if labels.max() >= classes.count:
        raise ImageError(f"class {labels.max()} is given, the network has {classes.count} (0 to {classes.count - 1})")


# --------------------------------------------------------------------------------------- conversion and reference


def reference_outputs(
    source: ModelSource,
    converted: Graph,
    samples: Samples,
    folder: Path,
    progress: Progress,
    *,
    threads: int | None = None,
) -> Outputs:
    """The original model's outputs on every sample; ncnn's own in fp32 where there is no other original.

    Args:
        folder: gets them.
        progress: called with (samples done, all samples).
        threads: of ncnn; by default all cores.
    """
    if source.engine == "ncnn":
        names, rows = converted.outputs, ncnn_outputs(converted, samples, threads)
    else:
        names, rows = list(source.outputs), source.reference_outputs(samples)

    def checked() -> Iterator[tuple[Array, ...]]:
        for done, row in enumerate(rows, 1):
            for name, values in zip(names, row):
                if not np.isfinite(values).all():
                    hint = "wrong preprocessing, or a model that overflows?"
                    raise VerificationError(f"the original model's output {name!r} holds NaN or infinity", hint=hint)
            yield row
            progress(done, len(samples))

    return keep_outputs(names, checked(), folder, source.reference)


def ncnn_outputs(graph: Graph, samples: Samples, threads: int | None) -> Iterator[tuple[Array, ...]]:
    """A graph's outputs in fp32 on the CPU, for each sample."""
    with Session(graph, precision="fp32", threads=threads) as net:
        for sample in samples:
            yield net.blobs(*sample, names=graph.outputs)


def check_conversion(
    recipe: Recipe, source: ModelSource, conversion: Conversion, samples: Samples, reference: Outputs
) -> ConversionCheck:
    """Compare ncnn in fp32 with the original on a few samples. Raises VerificationError where they differ too much.

    What counts is the noise over the signal of all these samples, for each output by itself.
    """
    errors = Errors()
    with Session(conversion.graph, precision="fp32", threads=recipe.threads or None) as net:
        # Blobs that nobody reads count as outputs in ncnn, too; they come after the model's own.
        names = net.outputs[: len(reference.rows)]
        if len(names) != len(reference.rows):
            raise ModelError(f"the original has {len(reference.rows)} outputs, the converted model {len(names)}")
        for sample, theirs in zip(samples.subset(range(min(CHECKED_IMAGES, len(samples)))), reference):
            ours = net.blobs(*sample, names=names)
            for name, a, b in zip(names, ours, theirs):
                if a.size != b.size:
                    raise VerificationError(f"output {name!r} has {a.size} values, the original's has {b.size}")
            errors.add(ours, theirs)
    broken = errors.broken()
    if broken is not None:
        raise VerificationError(f"the converted model's output {names[broken]!r} holds NaN or infinity")
    found = errors.result(names)
    worst = min(found.outputs, key=_exactness)
    if _exactness(worst) < WRONG_SQNR_DB and not recipe.force:
        which = f" of output {worst.name!r}" if len(names) > 1 else ""
        seen = "the original's is all zero, ncnn's is not" if worst.sqnr_db is None else f"SQNR {worst.sqnr_db:.1f} dB"
        raise VerificationError(
            f"the converted model is not the original: {seen}{which} in fp32, it must be {WRONG_SQNR_DB:g} dB",
            where=recipe.model,
            hint="an operator pnnx converts wrongly, or a wrong --shape; --force goes on all the same",
        )
    return ConversionCheck(
        sqnr_db=found.sqnr_db,
        cosine=found.cosine,
        max_error=found.max_error,
        seconds=round(conversion.seconds, 3),
        pnnx_version=installed("pnnx"),
        log=LOG,
    )


def _exactness(output: OutputError) -> float:
    """The SQNR of an output, dB, infinite where it is exact. What should be zero may be zero up to rounding."""
    if output.sqnr_db is not None:
        return output.sqnr_db
    return math.inf if output.max_error < ROUNDING else -math.inf


# ------------------------------------------------------------------------------------------------ what came of it


def images_record(recipe: Recipe, images: ImageSet, evaluation: ImageSet, quantized: Quantized | None) -> Images:
    """What the images were used for. Both halves of one folder know the same skipped files and copies."""
    return Images(
        source=recipe.images,
        available=len(images) + images.left_out,
        calibration=len(images),
        fitted=len(quantized.used) if quantized else 0,
        held_back=len(quantized.held) if quantized else 0,
        evaluation=len(evaluation),
        skipped=[
            SkippedFile(name=name, reason=reason) for name, reason in dict.fromkeys(images.skipped + evaluation.skipped)
        ],
        copies=[CopiedFile(name=name, of=of) for name, of in dropped_copies(images, evaluation)],
    )


LIKENESS_IMAGES = 24  # of the evaluation images: enough for a median


def compare_images(quantized: Quantized | None, samples: Samples, threads: int | None) -> Likeness | None:
    """How far the evaluation images are from those calibrated with; None where nothing was looked at."""
    if quantized is None or not quantized.advice.ranges.size:
        return None
    few = samples.subset(range(min(LIKENESS_IMAGES, len(samples))))
    return likeness(quantized.advice.ranges, image_ranges(quantized.source, few, threads))


def plan_record(plan: MixedPlan, requirements: Requirements, site: Site, variants: Sequence[Variant]) -> Plan:
    """The plan, beside what was measured of its model."""
    medians = {variant.name: variant.latency_ms.median for variant in variants if variant.latency_ms}
    mixed, fp32 = (medians.get(site.variant(precision, "cpu")) for precision in ("mixed", "fp32"))
    return plan.record(requirements, mixed_ms=mixed, fp32_ms=fp32)


def device_record(site: Site, variants: Sequence[Variant], requirements: Requirements, blind: str) -> Device:
    """A device, and what is recommended for it."""
    return site.record(*recommend([v for v in variants if v.device == site.device.name], requirements, blind))


def files_to_come(recipe: Recipe, source: ModelSource) -> list[str]:
    """Files that the run will make for certain, so that one of the user's shows before any work is done."""
    stems = {f"{source.name}-{PRECISIONS[precision].file}" for precision in recipe.precisions}
    made = [f"{stem}.{end}" for stem in sorted(stems) for end in ("param", "bin", "json")]
    return [RUN, REPORT, RECIPE, LOG, *([LABELS] if source.labels else []), *made]


def remove_scratch(folder: Path, models: Models) -> None:
    """Leave only the models in the staging folder."""
    params = {model.param for model in models.values() if model.param}
    keep = {param.with_suffix(end) for param in params for end in (".param", ".bin", ".json")}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in keep:
            path.unlink()
