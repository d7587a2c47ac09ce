"""The command line: parse, call, print. The work is done elsewhere."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast

import typer
from rich.console import Console
from rich.markup import escape

from .arguments import (
    Backend,
    Effort,
    Fix,
    FixClocks,
    Force,
    Fp32Param,
    Images,
    Json,
    Method,
    On,
    OnePrecision,
    OnOne,
    Outputs,
    Param,
    ParamToWrite,
    Precision,
    RouteName,
    RunFolder,
    Shape,
    ShapeToo,
    Target,
    TaskName,
    Threads,
    Weights,
    takes_images,
    takes_recipe,
    to_numbers,
    to_shapes,
    to_sources,
    to_words,
)
from .errors import INTERRUPTED, OK, NcnnkitError, RecipeError, StorageError, VerificationError
from .progress import StepProgress, of_step
from .recipe import AUTO, KEYS, OWN

EXIT_CODES = (
    "Exit codes: 0 success; 1 a bug in ncnnkit; 2 a wrong command line; 3 an input that cannot be used; 4 a tool "
    "failed (pnnx, ncnn, the disk); 5 it ran, but the result must not be trusted; 130 interrupted."
)

app = typer.Typer(
    help="Convert trained networks for edge boards with ncnn, quantise, measure and explain them.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
# Into a file or a pipe the whole table, whatever width Rich would assume.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120, emoji=False)
err = Console(stderr=True, emoji=False)

CLEANING_UP = 1.8  # seconds after an interrupt until the process ends in any case

F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """The entry point of the ``ncnnkit`` command."""
    # A name that is not UTF-8 is printed with question marks; it does not end the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with _interruptible():
        app()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP clean up like Ctrl-C, and end the process within two seconds.

    A signal that the process inherited as ignored stays ignored: Ctrl-C of a background job, SIGHUP under nohup.
    """
    ours = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    reading, writing = os.pipe()

    def interrupt(*_: object) -> NoReturn:
        for number in ours:  # a second one must not disturb the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def insist() -> None:
        # Handlers wait for Python's turn, which a solver or a slow disk may keep; the system writes a byte at once.
        while os.read(reading, 1)[0] not in ours:
            pass
        time.sleep(CLEANING_UP)
        os.write(2, b"interrupted; cleaning up took too long\n")
        os._exit(INTERRUPTED)

    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in ours:
        signal.signal(number, interrupt)
    threading.Thread(target=insist, daemon=True).start()
    yield


def command(name: str | None = None, group: typer.Typer = app) -> Callable[[F], F]:
    """Register a command whose expected failures end in one line and their exit code."""

    def register(function: F) -> F:
        group.command(name)(guarded(function))
        return function

    return register


def guarded(function: F) -> F:
    """The function, with its expected failures printed as one line and turned into their exit code."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except NcnnkitError as error:
            err.print(f"[bold red]error:[/] {escape(error.line())}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from None
        except MemoryError as error:
            reason = f" ({escape(str(error))})" if str(error) else ""
            err.print(f"[bold red]error:[/] there is not enough memory{reason}", soft_wrap=True)
            raise typer.Exit(StorageError.exit_code) from None
        except KeyboardInterrupt:
            err.print("interrupted; no file is half-written")
            raise typer.Exit(INTERRUPTED) from None

    return cast(F, wrapped)


@contextmanager
def _progress() -> Iterator[StepProgress]:
    """Show a bar on stderr for the current stage; yields ``progress(stage, done, total)``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)
        stage = ""

        def progress(name: str, done: int, total: int) -> None:
            nonlocal stage
            if name != stage:
                bar.reset(task, description=name, total=total or None)
                stage = name
            bar.update(task, completed=done, total=total or None)

        yield progress


# ------------------------------------------------------------------------------------------------------- commands


@command()
@takes_images
@takes_recipe
def run(
    model: Annotated[str | None, typer.Argument(help=KEYS["model"].help)] = None,
    output: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("ncnnkit-out"),
    as_json: Json = False,
    recipe: Annotated[Path | None, typer.Option(help="A recipe.toml; other options replace its values.")] = None,
    asked: Any = None,
    prepared: Any = None,
) -> None:
    """Convert a trained model to ncnn at every precision, measure and compare the models, and write a report."""
    from .recipe import make_recipe

    _run(make_recipe({**asked, **prepared, "model": model}, recipe), output, as_json)


@command()
def demo(
    output: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("ncnnkit-demo"), as_json: Json = False
) -> None:
    """Do a whole run with EfficientNet-Lite0 and a few photographs, which come with ncnnkit."""
    from .recipe import Recipe

    data = Path(__file__).parent / "data"
    images = data / "images"
    recipe = Recipe(
        str(data / "efficientnet-lite0.onnx"),
        images=str(images / "calibration"),
        eval_images=str(images / "evaluation"),
        seconds=0.5,  # a demonstration: less timing than a run, so that it is over soon
    )
    _run(recipe, output, as_json)


def _print_json(value: Any) -> None:
    from .codec import encode

    print(encode(value).decode(), end="")


def _run(recipe: Any, output: Path, as_json: bool) -> None:
    from .pipeline import run as run_pipeline

    with _progress() as progress:
        document = run_pipeline(recipe, output, progress)
    _print_run(document, output, as_json)


def _print_run(document: Any, output: Path, as_json: bool) -> None:
    from .record.run import reasons
    from .report import console_table, converted, headline, shipping

    if as_json:
        _print_json(document)
        return
    out.print(console_table(document.variants, document.recommended, out.width))
    for line in converted(document.conversion, document.reference.origin):
        out.print(line, markup=False, soft_wrap=True)
    if document.task.labels:
        out.print(f"labels: {document.task.labels}", markup=False, soft_wrap=True)
    for guess in document.top5:
        best = ", ".join(f"{row.label} ({row.score:.1f})" for row in guess.recommended)
        out.print(f"top-5 of {guess.image}: {best}", markup=False)
    for warning in document.warnings:
        out.print(f"[yellow]note:[/] {escape(warning)}")
    for reason in reasons(document.variants, "skipped"):
        out.print(f"skipped: {reason}", markup=False)
    out.print(f"[bold]{escape(headline(document))}[/]")
    ship = shipping(document, str(output))
    if ship is not None:
        out.print(ship.text(), markup=False, soft_wrap=True)
    out.print(f"report: {output / 'report.html'}", markup=False, soft_wrap=True)


@command()
@takes_images
def convert(
    model: Annotated[str, typer.Argument(help=KEYS["model"].help)],
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
        bool, typer.Option("--explain", help="Show the error of each layer, and the first wrong one.")
    ] = False,
    reproducer: Annotated[
        Path | None, typer.Option(help="A folder that gets the first wrong layer by itself, for a bug report.")
    ] = None,
    prepared: Any = None,
) -> None:
    """Convert a model to ncnn's .param and .bin, fp32, with a card that holds its preprocessing.

    The model and the original are run on noise and compared.
    """
    from .recipe import make_recipe
    from .report import converted
    from .source import open_model
    from .source.conversion import convert_opened

    _check_param(output, model)
    if explain or reproducer:
        _explain(model, shape, weights, outputs, fix, route, reproducer)
    recipe = make_recipe(
        {
            "model": model, "shapes": to_shapes(shape), "shape_too": to_shapes(shape_too, "shape-too"),
            "weights": weights, "outputs": to_words(outputs), "fix": to_numbers(fix), "route": route, "force": force,
            "task": task, **prepared,
        }
    )  # fmt: skip
    with _progress() as progress:
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
        err.print(change, markup=False, soft_wrap=True)
    out.print(f"{output}: {len(made.graph.layers)} layers, {made.graph.parameters:,} parameters", markup=False)
    for line in [*converted(check, "the original"), *(check.own.said if check.own else [])]:
        out.print(line, markup=False, soft_wrap=True)


def _explain(
    model: str,
    shape: list[str] | None,
    weights: str | None,
    outputs: str | None,
    fix: list[str] | None,
    route: str | None,
    reproducer: Path | None,
) -> None:
    """Print the layers of a converted network beside those of the original."""
    from .report import bisection_table
    from .source.explaining import explain

    with _progress() as progress:
        progress("explain", 0, 0)
        explanation = explain(
            model, shapes=to_shapes(shape) or (), weights=weights or "default", outputs=to_words(outputs) or (),
            fix=to_numbers(fix), route=route or "auto", reproducer=reproducer,
        )  # fmt: skip
    out.print(bisection_table(explanation.found))
    first = explanation.found.first_wrong
    out.print("no layer is wrong" if first is None else f"the first wrong layer: {first.said}", markup=False)
    if reproducer and first is None:
        out.print(f"{reproducer} was not written: there is nothing to reproduce", markup=False, soft_wrap=True)
    if explanation.files:
        out.print(f"{reproducer}: {', '.join(explanation.files)}", markup=False, soft_wrap=True)


@command()
def optimize(
    param: Param,
    output: ParamToWrite,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store the weights as fp16.")] = False,
) -> None:
    """Fuse and remove layers, like ncnnoptimize."""
    from .passes import optimize_with_report

    _check_param(output, param)
    model = _model(param)
    better, rewrites = optimize_with_report(model.graph, fp16=fp16)
    model.having(better).save(output)
    done = ", ".join(f"{name} {count}" for name, count in rewrites.items() if count) or "nothing to do"
    out.print(f"{output}: {len(model.graph.layers)} layers became {len(better.layers)} ({done})", markup=False)


def _check_param(output: Path, model: str | Path) -> None:
    """Raise before minutes of work, not after, if a model cannot be written, or would replace what is not one."""
    if output.suffix != ".param":
        raise StorageError("does not end in .param", where=str(output), hint="a .bin and a .json file come beside it")
    _check_output(output, model)
    weights = output.with_suffix(".bin")
    if weights.exists() and not output.exists():
        raise StorageError(
            "would be replaced, but there is no .param that it belongs to", where=str(weights),
            hint="give another name with -o, or remove the file",
        )  # fmt: skip


def _check_output(output: Path, model: str | Path) -> None:
    if not output.parent.is_dir():
        raise StorageError("no such folder", where=str(output.parent), hint="make it first")
    if output.exists() and Path(model).exists() and output.samefile(model):
        raise StorageError("is the model itself", where=str(output), hint="give another name with -o")


def _open(param: Path, shape: list[str] | None, most: int | None = None, **options: Any) -> tuple[Any, Any]:
    """(Artifact, ImageSet) for a command that takes an ncnn model and images; checks its other options with them.

    ``most``: so many images are enough.
    """
    from .recipe import make_recipe
    from .source.opening import open_with_images

    options["images"] = to_sources(options["images"])
    recipe = make_recipe({"model": str(param), "shapes": to_shapes(shape), **options})
    model, samples, said = open_with_images(recipe, most)
    for sentence in said:
        err.print(sentence, markup=False, soft_wrap=True)
    return model, samples


def _model(param: Path) -> Any:
    """The Artifact of a ``.param``."""
    from .artifact import Artifact

    return Artifact.load(param)


def _say_how(*models: Any) -> None:
    """Print how models without a card were run, and why. It comes after the work, so that an error stays one line."""
    for model in models:
        if model is not None and model.derived:
            err.print(f"{model.name}: {model.how}", markup=False, soft_wrap=True)


@command()
@takes_images
def calibrate(
    param: Fp32Param,
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="The table to write.")],
    method: Method = None,
    threads: Threads = None,
    shape: Shape = None,
    prepared: Any = None,
) -> None:
    """Compute the scales of int8 layers from images, and write them in ncnn2table's format."""
    from .quantization import make_table, save_table

    _check_output(output, param)
    if method == OWN:
        raise RecipeError(f"calibrate computes scales, and the method {OWN!r} takes those that the model has already")
    method = None if method == AUTO else method
    model, samples = _open(param, shape, images=images, **prepared, method=method)
    stats = _calibrate(model, samples, method or "mse", threads)
    save_table(make_table(model.graph, stats), output)
    out.print(
        f"{output}: scales of {len(stats.blobs)} activations from {stats.images} images ({stats.method})", markup=False
    )


def _calibrate(graph: Any, samples: Any, method: str, threads: int | None) -> Any:
    from .quantization.calibration import calibrate as count

    with _progress() as progress:
        return count(graph, samples, method=method, threads=threads, progress=of_step(progress, "calibrate"))


@command()
@takes_images
def quantize(
    param: Fp32Param,
    output: ParamToWrite,
    table: Annotated[Path | None, typer.Option(help="A table of scales, as ncnn2table writes it.")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Calibration samples, instead of a table, as for `run`.")
    ] = None,
    method: Method = None,
    effort: Effort = None,
    target: Target = None,
    skip: Annotated[str | None, typer.Option(help="Layers that stay in floating point, separated by commas.")] = None,
    threads: Threads = None,
    shape: Shape = None,
    prepared: Any = None,
) -> None:
    """Make an int8 model from an fp32 model, with images or with a table of scales.

    A model that was converted from a quantised one needs neither: it has the scales of the original.
    """
    from .artifact import floating
    from .model.precision import is_int8
    from .quantization import (
        EFFORTS,
        apply_own,
        check_request,
        finished,
        load_table,
        quantize_images,
        settle_without_samples,
    )
    from .quantization import quantize as to_int8
    from .record.run import losses
    from .report import trials_table

    _check_param(output, param)
    if table is not None and images:
        raise RecipeError("give --table or --images", hint="one of them")
    if table is not None and (method or effort or shape or prepared):
        raise RecipeError(
            "--method, --effort, --shape and the preprocessing need --images",
            hint="a table contains the scales",
        )
    if images:
        chosen = EFFORTS.get(effort or "default")
        limit = chosen.images if chosen else None
        model, samples = _open(
            param, shape, limit, images=images, **prepared, method=method, target=target,
            effort=effort,
        )  # fmt: skip
        graph = floating(model, "quantising")
        check_request(graph, target or "arm", to_words(skip) or ())
        with _progress() as progress:
            found = quantize_images(
                graph, samples, target=target or "arm", method=method, effort=effort or "default",
                skip=to_words(skip) or (), task=model.purpose, threads=threads, progress=progress,
            )  # fmt: skip
        out.print(trials_table(found.trials))
        out.print(
            f"{found.fitted_samples} of {len(samples)} samples fitted, {len(found.held)} held back",
            markup=False,
        )
        made, lost = found.graph, found.lost
    elif table is not None:
        model = _model(param)
        graph = floating(model, "quantising")
        made = to_int8(graph, load_table(table), target=target or "arm", skip=to_words(skip) or ())
        lost = {}
    else:
        model = _model(param)
        graph = floating(model, "quantising")
        check_request(graph, target or "arm", to_words(skip) or ())
        settle_without_samples(graph, method)
        own = apply_own(graph, target=target or "arm", skip=to_words(skip) or ())
        made, lost = finished(own.int8), own.lost
    for loss in losses(lost):
        out.print(loss.said, markup=False, soft_wrap=True)
    model.having(made, "int8", target=target or "arm").save(output)
    count = sum(map(is_int8, made.layers))
    out.print(f"{output}: {count} of {len(made.layers)} layers in int8", markup=False)


@command()
@takes_images
def compare(
    first: Annotated[Path, typer.Argument(help="The .param file of the reference.")],
    second: Annotated[Path, typer.Argument(help="The .param file to compare with it.")],
    images: Images,
    layers: Annotated[bool, typer.Option("--layers", help="Also show the error of each layer.")] = False,
    shape: Shape = None,
    prepared: Any = None,
    as_json: Json = False,
) -> None:
    """Measure how much the outputs of two ncnn models differ, on real images."""
    from .comparison.layers import compare_models
    from .report import comparison_table

    reference, samples = _open(first, shape, images=images, **prepared)
    other = _model(second)
    with _progress() as progress:
        figures = compare_models(reference, other, samples, layers=layers, progress=of_step(progress, "compare"))
    _say_how(reference, other)
    _print_json(figures) if as_json else out.print(comparison_table(figures))


@command()
def bench(
    param: Param,
    on: On = None,
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    shape: Shape = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of timing per row.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure the latency, load time and memory of an ncnn model, without images."""
    from .measure.variants import bench as bench_model
    from .measure.variants import check_usable
    from .report import console_table

    model = _model(param)
    with _progress() as progress:
        rows = bench_model(
            model, backends=to_words(backend), precisions=to_words(precision), threads=threads, on=on or (),
            shapes=to_shapes(shape) or (), seconds=seconds, progress=of_step(progress, "measure"),
        )  # fmt: skip
    _say_how(model)
    if as_json:
        _print_json(rows)
    else:
        out.print(console_table(rows, width=out.width))
        for variant in rows:
            if variant.status != "ok":
                out.print(f"{variant.name}: {variant.status}: {variant.reason}", markup=False, soft_wrap=True)
    check_usable(rows, str(param))


@command()
def tune(
    param: Param,
    int8: Annotated[
        Path | None, typer.Option(help="The .param file of the same network in int8, as another candidate.")
    ] = None,
    on: OnOne = None,
    backend: Backend = None,
    precision: Precision = None,
    shape: Shape = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds of timing for all candidates together, without loading.")
    ] = 60.0,
    fix_clocks: FixClocks = False,
    as_json: Json = False,
) -> None:
    """Find the fastest cores, threads, backend, precision and ncnn switches, by successive halving."""
    from .measure.tune import tune as tune_model
    from .report import tuning_table

    model, quantised = _model(param), int8 and _model(int8)
    with _site(on) as (site, run_job):
        found = tune_model(
            model, run_job, site.machine, int8=quantised, precisions=to_words(precision),
            backends=to_words(backend) or ("cpu", "vulkan"), shapes=to_shapes(shape) or (), seconds=seconds,
            fix_clocks=fix_clocks,
        )  # fmt: skip
    _say_how(model, quantised)
    if as_json:
        _print_json(found)
        return
    out.print(tuning_table(found.candidates))
    _print_notes(found.notes)
    out.print(f"[bold]{escape(found.settings.name)}[/]: {escape(found.why)}")


@command()
def profile(
    param: Param,
    on: OnOne = None,
    backend: Annotated[str, typer.Option(help="Backend: cpu or vulkan.")] = "cpu",
    precision: OnePrecision = None,
    threads: Threads = None,
    shape: Shape = None,
    repeats: Annotated[int, typer.Option(min=3, help="Number of inferences.")] = 50,
    fix_clocks: FixClocks = False,
    as_json: Json = False,
) -> None:
    """Show the time of each layer, the precision in which it ran, and the processor."""
    from dataclasses import asdict

    from .measure.profiles import profile as profile_model
    from .report import profile_table

    model = _model(param)
    with _site(on) as (_, run_job):
        found = profile_model(
            model, run_job, precision=precision, backend=backend, threads=threads or 0,
            shapes=to_shapes(shape) or (), repeats=repeats, fix_clocks=fix_clocks,
        )  # fmt: skip
    _say_how(model)
    figures = asdict(found)
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    out.print(profile_table(figures["layers"]))
    _print_notes(found.notes)
    out.print(found.how, markup=False)


@contextmanager
def _site(on: str | None) -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """A device, and a function that runs a job there and shows its progress."""
    from .device.sites import open_sites

    with open_sites([on] if on else []) as (site,), _progress() as progress:

        def show(step: Any) -> None:
            progress(step.stage, int(step.done), int(step.of))

        yield site, lambda job: site.device.run_job(job, show)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        out.print(f"[yellow]note:[/] {escape(note)}")


@command("explain-layer")
def explain_layer(
    folder: RunFolder,
    layer: Annotated[str | None, typer.Argument(help="Name of the layer. Default: list all layers.")] = None,
    as_json: Json = False,
) -> None:
    """Explain the precision of a layer in the mixed model."""
    from .record.folder import load_run
    from .report import layer_table, plan_table

    plan = load_run(folder).plan
    if plan is None:
        raise RecipeError("the run made no mixed model", where=str(folder), hint="ncnnkit run --precision mixed")
    rows = [row for row in plan.layers if layer in (None, row.name)]
    if not rows:
        raise RecipeError(f"no layer is called {layer!r}", where=str(folder), hint="ncnnkit explain-layer lists them")
    if as_json:
        _print_json(rows[0] if layer else rows)
    elif layer:
        out.print(layer_table(rows[0]))
        out.print(rows[0].why, markup=False)
    else:
        out.print(plan_table(rows))


@command()
def report(folder: RunFolder, as_json: Json = False) -> None:
    """Write the report.html of a run again, and print its table."""
    from .record.folder import REPORT, load_run, replacing
    from .report import write_report

    document = load_run(folder)
    home = folder if folder.is_dir() else folder.parent
    with replacing(home, REPORT) as path:
        write_report(document, path)
    _print_run(document, home, as_json)


@command("app")
def make_app(
    model: Annotated[Path, typer.Argument(help="A run folder, its run.json, or a .param with its card.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    variant: Annotated[
        str | None,
        typer.Option(
            help="For a run: a variant, such as int8-vulkan, or a precision on the CPU. Default: recommended."
        ),
    ] = None,
    lang: Annotated[str, typer.Option(help="Language: cpp or python.")] = "cpp",
    embed: Annotated[bool, typer.Option("--embed", help="Make the model part of the program.")] = False,
    images: Annotated[
        Path | None, typer.Option(help="For a .param: images for the self-test. A run has its own examples.")
    ] = None,
    extras: Annotated[
        str | None, typer.Option("--with", help="Parts that not everybody needs: streams, camera or both with a comma.")
    ] = None,
) -> None:
    """Write a program that runs a model: a C++ project, or one Python file."""
    from .app import make_app as write_app

    chosen = write_app(
        model, output, variant=variant, lang=lang, embed=embed, images=images, extras=to_words(extras) or ()
    )
    out.print(f"{output}: {chosen.name}; see its README.md", markup=False, soft_wrap=True)
    _say_how(chosen.model)


@command("verify")
def verify_app(
    app_folder: Annotated[Path, typer.Argument(metavar="APP", help="The folder of a C++ app.")],
    options: Annotated[
        list[str] | None, typer.Argument(help="After --: options of infer, such as --gpu or --threads=2.")
    ] = None,
    device: Annotated[str, typer.Option("--on", help="A name, local, ssh://user@host or adb://serial.")] = "local",
    infer: Annotated[
        Path | None, typer.Option(help="An infer compiled for that device. Default: it is built there, or from build/.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run an app's self-test on a device and write receipt.json: figures, bounds, versions, hashes."""
    from .app.verify import RECEIPT, check_options
    from .app.verify import verify_app as verify

    with _progress() as progress:
        receipt = verify(app_folder, device, program=infer, options=check_options(options or []), progress=progress)
    if as_json:
        print((app_folder / RECEIPT).read_text(encoding="utf-8"), end="")
    elif receipt.test:
        test = receipt.test
        where = test.device or receipt.cpu or receipt.system
        out.print(f"{test.model}, {test.precision}, on {receipt.on}: {where}", markup=False, soft_wrap=True)
        for figure in test.figures:
            value = "not a number" if figure.value is None else f"{figure.value:.4g} {figure.unit}"
            verdict = "pass" if figure.passed else "FAIL"
            out.print(f"{figure.name:28}{value:>14}, at least {figure.bound:.4g}: {verdict}", markup=False)
        out.print(f"latency {test.latency_ms['median']:.4g} ms, load {test.load_ms:.4g} ms", markup=False)
    if not receipt.passed:
        raise VerificationError(receipt.why, where=str(app_folder), hint=f"{RECEIPT} tells more")


@command()
def doctor(on: On = None, as_json: Json = False) -> None:
    """Check this machine or a board: ncnn, pnnx, Vulkan devices and drivers, CPU features."""
    from .doctor import examine, examine_device

    _print_findings([finding for name in on for finding in examine_device(name)] if on else examine(), as_json)


def _print_findings(findings: Sequence[Any], as_json: bool) -> NoReturn:
    from .doctor import as_json as to_json

    marks = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "problem": "[red]problem[/]"}
    if as_json:
        print(json.dumps(to_json(list(findings)), indent=2))
    else:
        for finding in findings:
            subject, text = escape(finding.subject), escape(finding.text)
            out.print(f"{marks[finding.level]} [bold]{subject}[/]  {text}", soft_wrap=True)
    raise typer.Exit(4 if any(finding.level == "problem" for finding in findings) else OK)


# -------------------------------------------------------------------------------------------------------- devices

devices = typer.Typer(help="List the boards that have a name, name them, and clean them.")
app.add_typer(devices, name="devices")

DeviceName = Annotated[str, typer.Argument(metavar="NAME", help="The name.")]


@devices.callback(invoke_without_command=True)
@guarded
def look_at_devices(context: typer.Context, as_json: Json = False) -> None:
    """Manage the names of boards. Without a command: check each board that has a name."""
    from .device.names import load_names
    from .doctor import examine_device

    if context.invoked_subcommand is not None:
        return
    names = load_names()
    if not names and not as_json:
        out.print("no device has a name; add one, such as: ncnnkit devices add rock5b ssh://user@rock5b")
        return
    _print_findings([finding for name in names for finding in examine_device(name)], as_json)


@command("add", devices)
def add_device(
    name: DeviceName, address: Annotated[str, typer.Argument(help="Address: ssh://user@host or adb://serial.")]
) -> None:
    """Give a device a name."""
    from .device.names import add_name

    add_name(name, address)
    out.print(f"{name}: {address}", markup=False)


@command("remove", devices)
def remove_device(name: DeviceName) -> None:
    """Remove a name. The files on the device stay; `clean` removes them."""
    from .device.names import remove_name

    remove_name(name)


@command("clean", devices)
def clean_device(name: Annotated[str, typer.Argument(metavar="NAME", help="A name or an address.")]) -> None:
    """Remove all files of ncnnkit from a device: Python packages, models, unfinished jobs."""
    from .device import open_device

    with open_device(name) as device:
        device.clean()
    out.print(f"{name}: all files of ncnnkit are removed", markup=False)


if __name__ == "__main__":
    main()
