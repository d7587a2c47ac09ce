"""Commands that measure latency and memory, and the time of each layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..artifact import Artifact
from ..progress import of_step
from .commands import command
from .options import (
    Backend,
    FixClocks,
    Json,
    On,
    OneBackend,
    OnePrecision,
    OnOne,
    Param,
    Precision,
    Quiet,
    Shape,
    Threads,
    option,
)
from .progress import looking, shown_progress
from .terminal import out, print_json, print_notes, say_how
from .values import listed, to_shapes

group = typer.Typer()


@command(
    group, "bench", "ncnnkit bench model.param", "ncnnkit bench model.param --on rock5b --precision fp32,fp16 --json"
)
def bench(
    param: Param,
    on: On = None,
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    shape: Shape = None,
    seconds: Annotated[float, option("Measuring", "S", "Seconds of timing per row.", "--seconds", min=0.1)] = 3.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the latency, load time and memory of an ncnn model, without images."""
    from ..measure.variants import bench as bench_model
    from ..measure.variants import check_usable
    from ..recommendation import compared
    from ..record.variant import FAILED, reasons
    from ..report import console_table

    model = Artifact.load(param)
    with shown_progress(quiet or as_json) as progress:
        progress(looking(on), 0, 0)
        rows = bench_model(
            model, backends=listed(backend), precisions=listed(precision), threads=threads, on=on or (),
            shapes=to_shapes(shape) or (), seconds=seconds, progress=of_step(progress, "measure"),
        )  # fmt: skip
    say_how(model)
    if as_json:
        print_json(rows)
    else:
        out.print(console_table(rows, width=out.width))
        for status in FAILED:
            for reason in reasons(rows, status):
                out.print(f"{status}: {reason}", soft_wrap=True)
        for sentence in compared(rows):
            out.print(sentence, soft_wrap=True)
    check_usable(rows, str(param))


@command(group, "profile", "ncnnkit profile model.param --on rock5b --threads 4")
def profile(
    param: Param,
    on: OnOne = None,
    backend: OneBackend = "cpu",
    precision: OnePrecision = None,
    threads: Threads = None,
    shape: Shape = None,
    repeats: Annotated[int, option("Measuring", "N", "Number of inferences.", "--repeats", min=3)] = 50,
    fix_clocks: FixClocks = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the time of each layer, the precision in which it ran, and the processor."""
    from dataclasses import asdict

    from ..measure.profiles import profile as profile_model
    from ..report import profile_table

    model = Artifact.load(param)
    with _site(on, quiet or as_json) as (_, run_job):
        found = profile_model(
            model, run_job, precision=precision, backend=backend, threads=threads or 0,
            shapes=to_shapes(shape) or (), repeats=repeats, fix_clocks=fix_clocks,
        )  # fmt: skip
    say_how(model)
    figures = asdict(found)
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    out.print(profile_table(figures["layers"], out.width))
    print_notes(found.notes)
    out.print(found.how)


@command(group, "tune", "ncnnkit tune model.param --int8 model-int8.param --on rock5b")
def tune(
    param: Param,
    int8: Annotated[
        Path | None,
        option("Model", "FILE", "The .param file of the same network in int8, as another candidate.", "--int8"),
    ] = None,
    on: OnOne = None,
    backend: Backend = None,
    precision: Precision = None,
    shape: Shape = None,
    seconds: Annotated[
        float,
        option(
            "Measuring", "S", "Seconds of timing for all candidates together, without loading.", "--seconds", min=0.1
        ),
    ] = 60.0,
    fix_clocks: FixClocks = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the fastest cores, threads, backend, precision and ncnn switches, by successive halving."""
    from ..measure.tune import tune as tune_model
    from ..report import tuning_table

    model, quantised = Artifact.load(param), int8 and Artifact.load(int8)
    with _site(on, quiet or as_json) as (site, run_job):
        found = tune_model(
            model, run_job, site.machine, int8=quantised, precisions=listed(precision),
            backends=listed(backend) or ("cpu", "vulkan"), shapes=to_shapes(shape) or (), seconds=seconds,
            fix_clocks=fix_clocks,
        )  # fmt: skip
    say_how(model, quantised)
    if as_json:
        print_json(found)
        return
    out.print(tuning_table(found.candidates))
    print_notes(found.notes)
    out.print(Text.assemble((found.settings.name, "bold"), f": {found.why}"))


@contextmanager
def _site(on: str | None, quiet: bool) -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """A device, and a function that runs a job there and shows its progress."""
    from ..device.sites import open_sites

    with shown_progress(quiet) as progress:
        progress(looking(on), 0, 0)
        with open_sites([on] if on else []) as (site,):

            def show(step: Any) -> None:
                progress(step.stage, int(step.done), int(step.of))

            yield site, lambda job: site.device.run_job(job, show)
