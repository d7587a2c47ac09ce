"""What a finished run says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..errors import RecipeError
from .commands import command
from .options import Json, RunFolder, completing, option
from .terminal import out, print_json

group = typer.Typer()


@command(group, "report", "ncnnkit report out/")
def report(folder: RunFolder, as_json: Json = False) -> None:
    """Write the report.html of a run again, and print its table."""
    from ..record.folder import REPORT, load_run, replacing
    from ..report import write_report

    document = load_run(folder)
    home = folder if folder.is_dir() else folder.parent
    with replacing(home, REPORT) as path:
        write_report(document, path)
    print_run(document, home, as_json)


@command(
    group, "explain-layer",
    "ncnnkit explain-layer out/ --sort ms",
    "ncnnkit explain-layer out/ conv_9",
)  # fmt: skip
def explain_layer(
    folder: RunFolder,
    layer: Annotated[str | None, typer.Argument(help="Name of the layer. Default: list all layers.")] = None,
    order: Annotated[
        str,
        option(
            "Output",
            "COLUMN",
            "Order of the layers: network, name, type, choice, ms or error.",
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
        raise RecipeError(f"no layer is called {layer!r}", where=str(folder), hint="ncnnkit explain-layer lists them")
    if as_json:
        print_json(rows[0] if layer else rows)
    elif layer:
        out.print(layer_table(rows[0]))
        out.print(rows[0].why, markup=False)
    else:
        out.print(plan_table(rows, order))


def print_run(document: Any, output: Path, as_json: bool) -> None:
    """Print a Run: its table and what is recommended, or all of it as JSON."""
    from ..record.run import reasons
    from ..report import console_table, converted, headline, shipping

    if as_json:
        print_json(document)
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
