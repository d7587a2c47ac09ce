"""Commands for finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..errors import RecipeError, VerificationError
from .commands import command
from .options import Json, RunFolder, completing, option
from .terminal import out, print_json, print_notes

group = typer.Typer()


COMPARISON = Path("comparison.html")


@command(group, "report", "ncnnkit report out/", "ncnnkit report before/ after/ best/ -o comparison.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or their run.json files.")],
    output: Annotated[
        Path | None,
        option("Output", "FILE", f"Where to write a comparison of several runs. Default: {COMPARISON}.", "-o", "--out"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report.html of a finished run again and print its table, or compare several runs on one page.

    The other runs are compared with the first one.
    """
    from ..record.folder import REPORT, load_run, replacing
    from ..report import NamedRun, headline, write_comparison, write_report

    documents = [load_run(folder) for folder in runs]
    if len(runs) == 1:
        if output is not None:
            hint = "give several runs, or leave out --out"
            raise RecipeError("report.html of a run is written into its folder", where="--out", hint=hint)
        home = runs[0] if runs[0].is_dir() else runs[0].parent
        with replacing(home, REPORT) as path:
            write_report(documents[0], path)
        print_run(documents[0], home, as_json)
        return
    page = output or COMPARISON
    named = [NamedRun(name, document) for name, document in zip(names_of(runs), documents)]
    write_comparison(named, page)
    if as_json:
        print_json({each.name: each.run for each in named})
        return
    for each in named:
        out.print(f"{each.name}: {headline(each.run)}", soft_wrap=True)
    out.print(f"comparison: {page}", soft_wrap=True)


def names_of(runs: Sequence[Path]) -> list[str]:
    """The names of runs in a comparison: their folders, with as many parents as are needed to be unique."""
    paths = [(run if run.is_dir() else run.parent).resolve() for run in runs]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise RecipeError("the same run is given twice", where=str(runs[0]), hint="give different run folders")


@command(
    group, "diff", "ncnnkit diff before/ after/", "ncnnkit diff before/ after/ --fail-if 'int8.latency > 1.1x'",
    "ncnnkit diff before/ after/ --fail-if 'recommended.top1_agreement < -0.5%' --junit diff.xml",
)  # fmt: skip
def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The run folder to compare with, or its run.json.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The run folder that is judged, or its run.json.")],
    fail_if: Annotated[
        list[str] | None,
        option(
            "Measuring",
            "CONDITION",
            "Fail if this holds: VARIANT.FIGURE, one of > >= < <=, and a bound such as 1.1x, 20ms or -0.5dB.",
        ),
    ] = None,
    markdown: Annotated[Path | None, option("Output", "FILE", "Write a summary in Markdown.")] = None,
    junit: Annotated[Path | None, option("Output", "FILE", "Write the conditions as JUnit test cases.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs. The exit code is 5 if a condition is met, so a CI job can fail on it."""
    from ..model.ncnnfile import atomic_write
    from ..record.diff import compare_runs
    from ..record.folder import load_run
    from ..report import diff_table
    from ..report import junit as as_junit
    from ..report import markdown as as_markdown

    found = compare_runs(load_run(before), load_run(after), fail_if or ())
    for path, text in ((markdown, as_markdown), (junit, as_junit)):
        if path is not None:
            with atomic_write(path) as file:
                file.write(text(found).encode())
    print_json(found) if as_json else out.print(diff_table(found))
    if found.failed:
        first, *more = found.failed
        rest = f"; {len(more)} more of {len(found.verdicts)} conditions" if more else ""
        raise VerificationError(f"{first}{rest}", where=str(after))


@command(
    group, "explain-layer",
    "ncnnkit explain-layer out/ --sort ms",
    "ncnnkit explain-layer out/ conv_9",
)  # fmt: skip
def explain_layer(
    folder: RunFolder,
    layer: Annotated[
        str | None, typer.Argument(metavar="LAYER", help="Name of the layer. Default: list all layers.")
    ] = None,
    order: Annotated[
        str,
        option(
            "Output",
            "COLUMN",
            "Order of the layers: network (as they are computed), name, type or choice (by the alphabet), "
            "ms or error (the largest first).",
            "--sort",
            autocompletion=completing(("network", "name", "type", "choice", "ms", "error")),
        ),
    ] = "network",
    as_json: Json = False,
) -> None:
    """Explain the precision of each layer in the mixed model, or of one layer.

    The table shows the choice for each layer, its time, its part of the error, and the reason. For one layer, it shows
    the other choices, too.
    """
    from ..record.folder import load_run
    from ..report import LAYER_ORDERS, layer_table, plan_table

    if order not in LAYER_ORDERS:
        raise RecipeError(f"unknown --sort {order!r}", hint=f"one of {', '.join(LAYER_ORDERS)}")

    plan = load_run(folder).plan
    if plan is None:
        raise RecipeError("the run made no mixed model", where=str(folder), hint="ncnnkit run --precision mixed")
    rows = [row for row in plan.layers if layer in (None, row.name)]
    if not rows:
        raise RecipeError(
            f"no layer is called {layer!r}", where=str(folder), hint=f"ncnnkit explain-layer {folder} lists them"
        )
    if as_json:
        print_json(rows[0] if layer else rows)
    elif layer:
        out.print(layer_table(rows[0]))
        out.print(rows[0].why)
    else:
        out.print(plan_table(rows, order, out.width))


def print_run(document: Any, output: Path, as_json: bool) -> None:
    """Print a Run: its table and the recommendation, or everything as JSON."""
    from ..record.variant import reasons
    from ..report import console_table, converted, headline, npus, shipping

    if as_json:
        print_json(document)
        return
    out.print(console_table(document.variants, document.recommended, out.width))
    for line in converted(document.conversion, document.reference.origin):
        out.print(line, soft_wrap=True)
    if document.task.labels:
        out.print(f"labels: {document.task.labels}", soft_wrap=True)
    for guess in document.top5:
        best = ", ".join(f"{row.label} ({row.score:.1f})" for row in guess.recommended)
        out.print(f"top-5 of {guess.image}: {best}")
    print_notes(document.warnings)
    for reason in reasons(document.variants, "skipped"):
        out.print(f"skipped: {reason}")
    out.print(Text(headline(document), "bold"))
    for said in [*document.engines_compared, *npus(document)]:
        out.print(said)
    ship = shipping(document, str(output))
    if ship is not None:
        out.print(ship.text(), soft_wrap=True)
    out.print(f"report: {output / 'report.html'}", soft_wrap=True)
