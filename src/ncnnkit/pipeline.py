"""The main job: from a model reference to measured models and a report. :func:`run` calls the stages in order."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .artifact import Tensor
from .batches import Workers, open_workers
from .cache.store import Store
from .codec import as_read
from .comparison.accuracy import errors_of
from .comparison.guessing import Purpose, find_task
from .comparison.layers import LAYER_IMAGES, errors_by_variant
from .comparison.outputs import Outputs, opened_outputs
from .comparison.truths import truths
from .comparison.wrong import why_blind
from .device.looking import look_at
from .device.sites import Site, open_sites
from .errors import DeviceError, ModelError, RuntimeFailure
from .measure.copies import refuse_copies
from .measure.engines import NO_ENGINES, OtherEngines, chosen_engines, prepare_engines
from .measure.examples import choose_examples
from .measure.judging import refuse_wrong_outputs
from .measure.variants import (
    Models,
    allows_software,
    check_usable,
    compared_layer_by_layer,
    evaluated,
    list_variants,
    measure,
    time_at,
    variant_record,
    write_models,
)
from .model.graph import Graph
from .model.precision import PRECISIONS, has_int8
from .onboard.protocol import NCNN
from .passes import optimize_with_report
from .plan.mixed import MixedPlan
from .plan.requirement import Requirements
from .plan.search import find_plan
from .progress import StageProgress, silent_stages
from .quantization import Quantized
from .quantization.calibration import quantizable
from .quantization.efforts import EFFORTS, efforts_by_target, images_needed
from .recipe import AUTO, NO_OBJECTS, Objects, Recipe, save_recipe
from .recommendation import compare_engines, recommend
from .record.environment import environment, installed
from .record.examples import EXAMPLES
from .record.folder import LABELS, LOG, RECIPE, REPORT, RUN, refuse_to_replace, save_labels, save_run, staging
from .record.images import images_record
from .record.network import network_record
from .record.run import DeviceRecord, Picture, Run, TaskRecord
from .record.stages import Stages
from .record.variant import LatencyAt, Variant
from .report import write_report
from .report.pictures import draw_worst
from .reuse import CONVERTED, LAYER_ERRORS, QUANTISED, REFERENCE, SENSITIVITY, Reuse
from .samples.doubts import preprocessing_doubts
from .samples.finding import in_words, paths
from .samples.items import times
from .samples.labels import Labels
from .samples.sets import check_given, open_image_sets
from .samples.stream import keep
from .source import ModelSource, open_model
from .source.conversion import CHECKED_SAMPLES
from .source.model import example_arrays
from .source.normalisation import fold_normalisation
from .source.opening import as_used, choose_preprocess, open_labels, settle_random_weights
from .tasks import Task
from .tasks.table import asked_task, spelled
from .verdict import about_engines, reduced_said, top5, warn


def run(
    recipe: Recipe,
    out: Path,
    progress: StageProgress = silent_stages,
    objects: Objects = NO_OBJECTS,
    store: Store | None = None,
) -> Run:
    """Make, measure and compare the models of a recipe, and write them with a report.

    Args:
        recipe: the request.
        out: the run folder. At the end it gets the models, run.json, report.html, recipe.toml and, if pnnx ran, its
            log.
        progress: called with (position, done, total). The position is the stage with its number; ``done`` and
            ``total`` count within its current step.
        objects: Python objects, which the recipe names but cannot hold.
        store: the results of earlier runs, which are taken instead of being computed again; see
            :mod:`ncnnkit.reuse`. None: everything is computed, and nothing is kept.

    Returns:
        The content of run.json.

    Raises:
        VerificationError: no model is usable; ``out`` holds the report that says why.
        NcnnkitError: any other error that a user can correct; ``out`` is then unchanged.
    """
    stages = Stages(stages_to_come(recipe), progress)
    take = Reuse(recipe, store, stages.reused)
    given = objects.filled(recipe)
    asked = asked_task(given.task, given.metric)
    engines = chosen_engines(recipe.engines)
    requirements = Requirements.parse(recipe.require, recipe.max_latency, asked, labelled=bool(recipe.labels))
    check_given(given.images, given.eval_images)
    reads = (recipe.model, *paths(recipe.images), *paths(recipe.eval_images), recipe.labels)
    with staging(out, reads=reads) as folder, ExitStack() as opened:
        with stages("look at the devices" if recipe.on else "look at this machine"):
            sites = opened.enter_context(open_sites(recipe.on, recipe.target if recipe.target != AUTO else ""))
            for site in sites:
                site.cluster(recipe.cluster)  # raises before any work if there is no such cluster
        workers: Workers | None = None
        if recipe.scheduler:
            with stages("connect to the workers"):
                workers = opened.enter_context(open_workers(recipe.scheduler, recipe.threads or None))
                stages.note("connect to the workers", workers.said)
        with stages("open the model"):
            source = open_model(
                given.model, shapes=recipe.shapes, shape_too=recipe.shape_too, weights=recipe.weights,
                outputs=recipe.outputs, fix=recipe.fix, task=recipe.task,
            )  # fmt: skip
            refuse_to_replace(out, files_to_come(recipe, source))
            preprocess, origin = choose_preprocess(source, recipe.preset, recipe.preprocess)
        with stages("look at the images"):
            efforts = efforts_by_target(recipe, sites)
            images, evaluation = open_image_sets(
                given.images,
                given.eval_images,
                preprocess,
                source.inputs,
                images_needed(efforts),
                stages.progress("look at the images"),
            )
            preprocess, origin = as_used(preprocess, origin, images, evaluation)
            labels = open_labels(recipe.labels, evaluation, source, asked, preprocess)
            source = settle_random_weights(recipe, source, images)
        with stages("convert"):
            checked = evaluation.subset(range(min(CHECKED_SAMPLES, len(evaluation))))
            conversion = take(CONVERTED, "convert", folder, stages.within("convert"), source=source, samples=checked)
            check = conversion.check
            if has_int8(conversion.graph):
                raise ModelError("is an int8 model already", where=recipe.model, hint="ncnnkit bench or compare")
        with stages("optimise"):
            graph, rewrites = optimize_with_report(conversion.graph, any_size=bool(source.others))
            only_images = images.only_pictures and evaluation.only_pictures
            fed = fold_normalisation(graph, preprocess, origin, images=only_images)
            graph, preprocess, origin = fed.graph, fed.preprocess, fed.origin
            images, evaluation = images.prepared(preprocess), evaluation.prepared(preprocess)
        with stages("read images"):
            budget = EFFORTS[recipe.effort].budget(graph, evaluation[0])
            kept = evaluated(recipe, len(evaluation), budget)
            evaluation, labels = evaluation.subset(kept), labels.subset(kept) if labels else None
            inputs = keep(evaluation, folder / "inputs", stages.progress("read images"))
            doubts = preprocessing_doubts(inputs, source.inputs, preprocess)
        with stages("reference outputs"):
            taken = evaluation.prepared(fed.original) if fed.changes else inputs  # what the original takes

            def outputs(place: Path, *, quantised: bool) -> Outputs:
                converted = conversion.graph if source.engine == "ncnn" else Graph()
                names = take(
                    REFERENCE, "reference outputs", place, stages.within("reference outputs"), source=source,
                    converted=converted, samples=taken, quantised=quantised,
                )  # fmt: skip
                return opened_outputs(names, place)

            reference = outputs(folder / "reference", quantised=False)
            quantised = outputs(folder / "quantised", quantised=True) if source.as_quantised else None
            blind = why_blind(reference)
            known = source.known(labelled=labels is not None and labels.kind == "classes")
            purpose = find_task(reference, known, task=given.task, metric=given.metric)
            truth = truths(labels, purpose.task, size=known.size, names=source.labels or (), preprocess=preprocess)
            by_labels = figures_by_labels(reference, purpose.task, truth)
            requirements = requirements.of(purpose.task).against(by_labels)
        quantized: dict[str, Quantized] = {}
        efforts = efforts_by_target(recipe, sites, software=allows_software(recipe, budget))
        for target, effort in efforts.items() if quantizable(graph) else ():
            stage = "quantise" if target == sites[0].target else f"quantise for {target}"
            with stages(stage):
                stored = take(
                    QUANTISED, stage, folder, stages.within(stage), graph=graph, samples=images, target=target,
                    effort=effort, task=purpose.task, budget=budget, workers=workers,
                )  # fmt: skip
                quantized[target] = stored.opened(graph, images, effort=effort, task=purpose.task, budget=budget)
        mixed: dict[Site, MixedPlan] = {}
        unplanned: dict[Site, str] = {}
        for site in sites if quantized and "mixed" in recipe.precisions else ():
            if not site.emulated:
                stage = f"plan{site.label}"
                with stages(stage):
                    made, threads = quantized[site.target], recipe.threads or site.machine.cores
                    noise = functools.partial(
                        take, SENSITIVITY, stage, folder, stages.within(stage), exact=made.exact, fitted=made.fitted,
                        used=made.used, judging=made.judging, task=purpose.task, budget=budget, threads=threads,
                    )  # fmt: skip
                    try:
                        mixed[site] = find_plan(
                            made, requirements, site.machine, device=site.device, workers=workers, threads=threads,
                            budget=budget, noise=noise, progress=stages.within(stage),
                        )  # fmt: skip
                    except (DeviceError, RuntimeFailure) as error:  # the other devices go on
                        unplanned[site] = f"it could not be planned: {error.line()}"
        with stages("write the models"):
            models = write_models(
                recipe, graph, quantized, mixed, source.name, folder,
                preprocess=preprocess, labels=tuple(source.labels or ()), ncnn=sites[0].machine.ncnn,
                pillow=installed("Pillow"), decoder=purpose.decoder, task=spelled(purpose.task),
                fed=source.input_names,
                outputs=tuple(map(Tensor, graph.outputs[: len(source.outputs)])),
            )  # fmt: skip
        others = NO_ENGINES
        if engines:
            with stages("other engines"):
                others = prepare_engines(
                    engines, recipe, source, reference.shapes, images.prepared(fed.original), taken, sites, folder,
                    budget=budget, progress=stages.within("other engines"),
                )  # fmt: skip
        with stages("measure"):
            specs = list_variants(recipe, models, sites, unplanned, budget)
            beside = others.variants(recipe, sites)
            shown = stages.progress("measure")
            every = measure(
                [*specs, *beside], inputs.files, folder, seconds=recipe.seconds, rounds=recipe.rounds,
                sustained=recipe.sustained, fix_clocks=recipe.fix_clocks, budget=budget, workers=workers,
                progress=shown,
            )  # fmt: skip
            results = every[: len(specs)]
        latencies: list[list[LatencyAt]] = [[] for _ in specs]
        for other in source.others:
            stage = f"measure at {' and '.join(map(times, other.shapes))}"
            with stages(stage):
                timed = time_at(
                    specs, results, other.shapes, example_arrays(other.inputs), seconds=recipe.seconds,
                    rounds=recipe.rounds, budget=budget, progress=stages.progress(stage),
                )  # fmt: skip
                latencies = [[*rows, row] for rows, row in zip(latencies, timed)]
        first = quantized.get(sites[0].target)
        with stages("layer errors"):
            compared = compared_layer_by_layer(specs)
            wanted, runs = min(LAYER_IMAGES, len(inputs)), 2 * (1 + len(compared))  # all blobs are copied
            few = inputs.subset(range(budget.take("samples for the errors of layers", wanted, runs=runs)))
            errors = functools.partial(
                take, LAYER_ERRORS, "layer errors", folder, stages.within("layer errors"), exact=graph, samples=few
            )
            layers = errors_by_variant(graph, compared, few, stages.progress("layer errors"), errors)
            fed_shapes = [array.shape for array in inputs[0]]
            network = network_record(graph, fed_shapes, first.int8_layers() if first else {})
        with stages("compare the images"):
            alike = first.likeness_of(inputs, recipe.threads or None, budget, workers) if first else None
        with stages("judge the outputs"):
            rows = [
                variant_record(spec, r, reference, purpose.task, truth, layers.get(spec.name, ()), at, quantised)
                for spec, r, at in zip([*specs, *beside], every, [*latencies, *([] for _ in beside)])
            ]
            rows = refuse_copies(rows, every)
            measured_all = refuse_wrong_outputs(rows, [*specs, *beside], every, graph, few, check.sqnr_db)
            variants = measured_all[: len(specs)]
        recommended, why = recommend(variants, requirements, blind)
        with stages("write the report"):
            quantisation = first.record(recipe.effort, images.names, alike) if first else None
            planned = mixed[sites[0]].record(requirements, sites[0], variants) if sites[0] in mixed else None
            guesses = top5(source, evaluation, reference, purpose, recommended, results)
            measured = {r.name: Outputs.opened(r.outputs).first(len(reference.rows)) for r in results if r.outputs}
            pictures = draw_worst(
                purpose.task, dict(sorted(measured.items(), key=lambda row: row[0] != recommended)), reference, inputs,
                evaluation.names, preprocess, source.labels or (), folder,
            )  # fmt: skip
            examples = choose_examples(evaluation, reference, measured)
            remove_scratch(folder, models, pictures, others)
            examples.save(folder / EXAMPLES)
            if source.labels:
                save_labels(source.labels, folder / LABELS)
            save_recipe(recipe, folder / RECIPE)
            document = as_read(
                Run(
                    files=sorted([*(path.name for path in folder.iterdir()), REPORT, RUN]),
                    model=source.record(graph, reference.shapes, purpose.classes),
                    recipe=recipe,
                    preprocess=preprocess,
                    preprocess_origin=origin,
                    images=images_record(
                        in_words(recipe.images), images, evaluation,
                        fitted=first.fitted_samples if first else 0, held_back=len(first.held) if first else 0,
                    ),
                    environment=environment(look_at() if recipe.on else sites[0].machine),
                    devices=[device_record(site, variants, requirements, blind) for site in sites],
                    reference=source.engine_record(),
                    conversion=check,
                    task=task_record(purpose, requirements, labels, by_labels),
                    passes=rewrites,
                    quantisation=quantisation,
                    plan=planned,
                    variants=measured_all,
                    recommended=recommended,
                    why=why,
                    top5=guesses,
                    pictures=pictures,
                    warnings=[*warn(
                        source.engine, origin, images, evaluation, check, variants, purpose=purpose,
                        doubts=[*source.changes, *fed.changes, *doubts, *reduced_said(recipe.effort, budget)],
                        requirements=requirements, quantisation=quantisation, plan=planned,
                        emulated=[site.device.name for site in sites if site.emulated], blind=blind,
                        random_weights=recipe.weights == "none",
                    ), *about_engines(engines, measured_all[len(specs) :])],
                    stages=stages.rows(),
                    network=network,
                    engines=others.records(),
                    engines_compared=[
                        said for site in sites if (said := compare_on(site, measured_all, requirements, blind))
                    ],
                )
            )  # fmt: skip
            save_run(document, folder / RUN)
            write_report(document, folder / REPORT)
    check_usable(variants, str(out))
    return document


def device_record(site: Site, variants: Sequence[Variant], requirements: Requirements, blind: str) -> DeviceRecord:
    """The record of a device, with the variant recommended for it."""
    return site.record(*recommend([v for v in variants if v.device == site.device.name], requirements, blind))


def compare_on(site: Site, variants: Sequence[Variant], requirements: Requirements, blind: str) -> str:
    """How other engines compare with ncnn on a device, as sentences; empty where none was measured."""
    here = [v for v in variants if v.device == site.device.name]
    ours, _ = recommend([v for v in here if v.engine == NCNN], requirements, blind)
    said = "" if blind else compare_engines(here, ours, requirements)
    return f"{site.device.name}: {said}" if said and site.label else said


def figures_by_labels(reference: Outputs, task: Task, truth: Sequence[Any] | None) -> dict[str, float]:
    """The figures of the original itself against the labels: name -> value."""
    if truth is None:
        return {}
    found = errors_of(reference, reference, task, truth).figures()
    return {name: value for name in task.figures if task.figures[name].labelled and (value := found[name]) is not None}


def task_record(
    purpose: Purpose, requirements: Requirements, labels: Labels | None, by_labels: dict[str, float]
) -> TaskRecord:
    """The record of the task, and of the requirements that its figures must satisfy."""
    return TaskRecord(
        name=purpose.task.name, why=purpose.why, requires=[r.record() for r in requirements.figures],
        labels=labels.in_words() if labels else "", original=by_labels,
    )  # fmt: skip


def stages_to_come(recipe: Recipe) -> list[str]:
    """The stages of a run, in order. A stage that runs once for each device, target or shape counts as one."""
    made = set(recipe.precisions)
    return [
        "look at the devices" if recipe.on else "look at this machine",
        *(["connect to the workers"] if recipe.scheduler else []),
        "open the model",
        "look at the images",
        "convert",
        "optimise",
        "read images",
        "reference outputs",
        *(["quantise"] if made & {"int8", "mixed"} else []),
        *(["plan"] if "mixed" in made else []),
        "write the models",
        *(["other engines"] if recipe.engines else []),
        "measure",
        *(["measure at"] if recipe.shape_too else []),
        "layer errors",
        "compare the images",
        "judge the outputs",
        "write the report",
    ]


def files_to_come(recipe: Recipe, source: ModelSource) -> list[str]:
    """Files that the run certainly writes. They are checked first, so that a conflict with a user's file shows
    early."""
    stems = {f"{source.name}-{PRECISIONS[precision].file}" for precision in recipe.precisions}
    made = [f"{stem}.{end}" for stem in sorted(stems) for end in ("param", "bin", "json")]
    return [RUN, REPORT, RECIPE, EXAMPLES, *([LABELS] if source.labels else []), *made]


def remove_scratch(folder: Path, models: Models, pictures: Sequence[Picture], others: OtherEngines) -> None:
    """Leave only the models, the pictures and pnnx's log in the staging folder."""
    params = {model.param for model in models.values() if model.param}
    keep = {param.with_suffix(end) for param in params for end in (".param", ".bin", ".json")}
    keep |= {folder / picture.file for picture in pictures} | set(others.files)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in keep and path.name != LOG:
            path.unlink()
