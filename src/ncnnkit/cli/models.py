"""Commands for single steps: convert, optimise, calibrate, quantise and compare models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..artifact import Artifact, floating
from ..errors import RecipeError
from ..progress import of_step
from ..recipe import AUTO, OWN
from .commands import command
from .options import (
    Effort,
    Fix,
    Force,
    Fp32Param,
    Images,
    ImagesToCompare,
    Json,
    Method,
    Model,
    Outputs,
    Param,
    ParamToWrite,
    Quiet,
    RouteName,
    Scheduler,
    Shape,
    ShapeToo,
    Skip,
    Target,
    TaskName,
    Threads,
    Weights,
    option,
    takes_images,
)
from .progress import shown_progress, shown_workers
from .terminal import out, print_json, say, say_how
from .values import check_file, check_param, listed, to_numbers, to_shapes, to_sources

group = typer.Typer()


@command(
    group, "convert",
    "ncnnkit convert model.onnx -o model.param",
    "ncnnkit convert mynet:build --weights best.pth --shape 3,320,320 -o mynet.param",
    "ncnnkit convert model.onnx -o model.param --explain",
)  # fmt: skip
@takes_images
def convert(
    model: Model,
    output: ParamToWrite,
    shape: Shape = None,
    shape_too: ShapeToo = None,
    weights: Weights = None,
    route: RouteName = None,
    force: Force = False,
    outputs: Outputs = None,
    fix: Fix = None,
    task: TaskName = None,
    explain: Annotated[
        bool, option("Output", "", "Show the error of each layer, and the first wrong one.", "--explain")
    ] = False,
    reproducer: Annotated[
        Path | None,
        option(
            "Output", "FOLDER", "Write the first wrong layer alone to this folder, for a bug report.", "--reproducer"
        ),
    ] = None,
    quiet: Quiet = False,
    prepared: Any = None,
) -> None:
    """Convert a model to ncnn's .param and .bin, fp32, with a card that holds its preprocessing.

    The model and the original are run on noise and compared.
    """
    from ..recipe import make_recipe
    from ..report import converted
    from ..source import open_model
    from ..source.conversion import convert_opened

    check_param(output, model)
    if explain or reproducer:
        _explain(model, shape, weights, outputs, fix, route, reproducer, quiet)
    recipe = make_recipe(
        {
            "model": model, "shapes": to_shapes(shape), "shape_too": to_shapes(shape_too, "shape-too"),
            "weights": weights, "outputs": listed(outputs), "fix": to_numbers(fix), "route": route, "force": force,
            "task": task, **prepared,
        }
    )  # fmt: skip
    with shown_progress(quiet) as progress:
        progress("open the model", 0, 0)
        source = open_model(
            recipe.model, shapes=recipe.shapes, shape_too=recipe.shape_too, weights=recipe.weights,
            outputs=recipe.outputs, fix=recipe.fix, task=recipe.task,
        )  # fmt: skip
        changes: list[str] = []
        made, check = convert_opened(
            source, preset=recipe.preset, preprocess=recipe.preprocess, route=recipe.route, force=recipe.force,
            task=recipe.task, tell=changes.append,
            progress=lambda step, done, total: progress(f"convert: {step}", done, total),
        )  # fmt: skip
        made.save(output)
    for change in changes:
        say(change)
    out.print(f"{output}: {len(made.graph.layers)} layers, {made.graph.parameters:,} parameters")
    for line in [*converted(check, "the original"), *(check.own.said if check.own else [])]:
        out.print(line, soft_wrap=True)


def _explain(
    model: str,
    shape: list[str] | None,
    weights: str | None,
    outputs: list[str] | None,
    fix: list[str] | None,
    route: str | None,
    reproducer: Path | None,
    quiet: bool,
) -> None:
    """Print the comparison of a converted network with its original, layer by layer."""
    from ..report import bisection_table
    from ..source.explaining import explain

    with shown_progress(quiet) as progress:
        progress("explain", 0, 0)
        explanation = explain(
            model, shapes=to_shapes(shape) or (), weights=weights or "default", outputs=listed(outputs) or (),
            fix=to_numbers(fix), route=route or "auto", reproducer=reproducer,
        )  # fmt: skip
    out.print(bisection_table(explanation.found))
    first = explanation.found.first_wrong
    out.print("no layer is wrong" if first is None else f"the first wrong layer: {first.said}")
    if reproducer and first is None:
        out.print(f"{reproducer} was not written: there is nothing to reproduce", soft_wrap=True)
    if explanation.files:
        out.print(f"{reproducer}: {', '.join(explanation.files)}", soft_wrap=True)


@command(group, "optimize", "ncnnkit optimize model.param -o better.param --fp16")
def optimize(
    param: Param,
    output: ParamToWrite,
    fp16: Annotated[bool, option("Precision", "", "Store the weights as fp16.", "--fp16")] = False,
) -> None:
    """Fuse and remove layers, like ncnnoptimize."""
    from ..passes import optimize_with_report

    check_param(output, param)
    model = Artifact.load(param)
    better, rewrites = optimize_with_report(model.graph, fp16=fp16)
    model.having(better).save(output)
    done = ", ".join(f"{name} {count}" for name, count in rewrites.items() if count) or "nothing to do"
    out.print(f"{output}: {len(model.graph.layers)} layers became {len(better.layers)} ({done})")


@command(group, "calibrate", "ncnnkit calibrate model.param --images calib/ -o model.table")
@takes_images
def calibrate(
    param: Fp32Param,
    images: Images,
    output: Annotated[Path, option("Output", "FILE", "The table to write.", "-o", "--out")],
    method: Method = None,
    threads: Threads = None,
    scheduler: Scheduler = None,
    shape: Shape = None,
    quiet: Quiet = False,
    prepared: Any = None,
) -> None:
    """Compute the scales of int8 layers from images, and write them in ncnn2table's format."""
    from ..quantization import make_table, save_table
    from ..quantization.calibration import calibrate as collect

    check_file(output, param)
    if method == OWN:
        raise RecipeError(f"calibrate computes scales, and the method {OWN!r} uses those that the model already has")
    method = None if method == AUTO else method
    with shown_progress(quiet) as progress, shown_workers(scheduler, threads, progress) as workers:
        progress("look at the images", 0, 0)
        model, samples = _open(param, shape, images=images, **prepared, method=method)
        stats = collect(
            model, samples, method=method or "mse", threads=threads, workers=workers,
            progress=of_step(progress, "calibrate"),
        )  # fmt: skip
    save_table(make_table(model.graph, stats), output)
    out.print(f"{output}: scales of {len(stats.blobs)} activations from {stats.images} images ({stats.method})")


@command(
    group, "quantize",
    "ncnnkit quantize model.param --images calib/ -o model-int8.param",
    "ncnnkit quantize model.param --table model.table --skip conv_1 --skip fc -o model-int8.param",
)  # fmt: skip
@takes_images
def quantize(
    param: Fp32Param,
    output: ParamToWrite,
    table: Annotated[
        Path | None, option("Precision", "FILE", "A table of scales, as ncnn2table writes it.", "--table")
    ] = None,
    images: Annotated[
        list[str] | None,
        option("Images", "PATH", "Calibration samples, instead of a table, as for `run`.", "--images"),
    ] = None,
    method: Method = None,
    effort: Effort = None,
    target: Target = None,
    skip: Skip = None,
    threads: Threads = None,
    scheduler: Scheduler = None,
    shape: Shape = None,
    quiet: Quiet = False,
    prepared: Any = None,
) -> None:
    """Make an int8 model from an fp32 model, with images or with a table of scales.

    A model that was converted from a quantised one needs neither: it has the scales of the original.
    """
    from ..model.precision import is_int8
    from ..quantization import (
        EFFORTS,
        apply_own,
        check_request,
        finished,
        load_table,
        quantize_images,
        settle_without_samples,
    )
    from ..quantization import quantize as to_int8
    from ..record.quantisation import losses
    from ..report import trials_table

    check_param(output, param)
    if table is not None and images:
        raise RecipeError("give --table or --images", hint="not both")
    if table is not None and (method or effort or shape or prepared):
        raise RecipeError(
            "--method, --effort, --shape and the preprocessing need --images",
            hint="a table contains the scales",
        )
    if images:
        chosen = EFFORTS.get(effort or "default")
        limit = chosen.images if chosen else None
        with shown_progress(quiet) as progress, shown_workers(scheduler, threads, progress) as workers:
            progress("look at the images", 0, 0)
            model, samples = _open(
                param, shape, limit, images=images, **prepared, method=method, target=target, effort=effort
            )
            graph = floating(model, "quantising")
            check_request(graph, target or "arm", listed(skip) or ())
            found = quantize_images(
                graph, samples, target=target or "arm", method=method, effort=effort or "default",
                skip=listed(skip) or (), task=model.purpose, workers=workers, threads=threads, progress=progress,
            )  # fmt: skip
        out.print(trials_table(found.trials))
        out.print(
            f"{found.fitted_samples} of {len(samples)} samples fitted, {len(found.held)} held back",
        )
        made, lost = found.graph, found.lost
    elif table is not None:
        model = Artifact.load(param)
        graph = floating(model, "quantising")
        made = to_int8(graph, load_table(table), target=target or "arm", skip=listed(skip) or ())
        lost = {}
    else:
        model = Artifact.load(param)
        graph = floating(model, "quantising")
        check_request(graph, target or "arm", listed(skip) or ())
        settle_without_samples(graph, method)
        own = apply_own(graph, target=target or "arm", skip=listed(skip) or ())
        made, lost = finished(own.int8), own.lost
    for loss in losses(lost):
        out.print(loss.said, soft_wrap=True)
    model.having(made, "int8", target=target or "arm").save(output)
    count = sum(map(is_int8, made.layers))
    out.print(f"{output}: {count} of {len(made.layers)} layers in int8")


@command(group, "compare", "ncnnkit compare model.param model-int8.param --images val/ --layers")
@takes_images
def compare(
    first: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The .param file of the reference.")],
    second: Annotated[Path, typer.Argument(metavar="PARAM", help="The .param file to compare with it.")],
    images: ImagesToCompare,
    layers: Annotated[bool, option("Output", "", "Also show the error of each layer.", "--layers")] = False,
    shape: Shape = None,
    scheduler: Scheduler = None,
    prepared: Any = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much the outputs of two ncnn models differ, on real images."""
    from ..comparison.layers import compare_models
    from ..report import comparison_table

    with shown_progress(quiet or as_json) as progress, shown_workers(scheduler, None, progress) as workers:
        progress("look at the images", 0, 0)
        reference, samples = _open(first, shape, images=images, **prepared)
        other = Artifact.load(second)
        figures = compare_models(reference, other, samples, layers=layers, workers=workers, progress=progress)
    say_how(reference, other)
    print_json(figures) if as_json else out.print(comparison_table(figures))


def _open(param: Path, shape: list[str] | None, most: int | None = None, **options: Any) -> tuple[Any, Any]:
    """(Artifact, ImageSet) for a command that takes an ncnn model and images. Its other options are checked, too.

    ``most``: check only so many images; by default all.
    """
    from ..recipe import make_recipe
    from ..source.opening import open_with_images

    options["images"] = to_sources(options["images"])
    recipe = make_recipe({"model": str(param), "shapes": to_shapes(shape), **options})
    model, samples, said = open_with_images(recipe, most)
    for sentence in said:
        say(sentence)
    return model, samples
