"""Makes comparison.html, a page that compares several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import printable
from ..formatting import cosine, plain
from ..model.ncnnfile import atomic_write
from ..record.diff import Change, Measure, compare_runs, measures, overlap, value_of
from ..record.run import Run
from .changes import shown
from .chart import Chart, Point, decades, logarithmic
from .html import page_environment
from .plots import FLOOR, power_text


@dataclass(frozen=True)
class NamedRun:
    """A run with its name on the page."""

    name: str
    run: Run


@dataclass(frozen=True)
class Table:
    """One measure of all variants.

    Attributes:
        measure: the measure.
        rows: variant -> for each run, the change from the first run.
    """

    measure: Measure
    rows: list[tuple[str, list[Change]]]


def write_comparison(runs: Sequence[NamedRun], path: Path) -> None:
    """Write a page that compares runs with the first of them.

    Args:
        runs: at least two runs.
        path: the .html file. It appears when it is complete.

    Raises:
        ToolError: jinja2 is not installed.
        StorageError: the file cannot be written.
    """
    text = render_comparison(runs)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="replace"))


def render_comparison(runs: Sequence[NamedRun]) -> str:
    """The page as one HTML document."""
    environment = page_environment()
    from markupsafe import Markup

    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    chart = tradeoff(runs)
    first = runs[0]
    notes = [
        note if len(runs) == 2 else f"{first.name} and {each.name}: {note}"
        for each in runs[1:]
        for note in compare_runs(first.run, each.run).notes
    ]
    return printable(
        environment.get_template("comparison.html").render(
            runs=runs, notes=notes, tables=tables(runs), chart=Markup(chart.svg()) if chart else None
        )
    )


def tables(runs: Sequence[NamedRun]) -> list[Table]:
    """A table for each measure that any variant has."""
    variants = [variant for each in runs for variant in each.run.variants]
    found = []
    for measure in shown(measures(variants)):
        rows = []
        for name in dict.fromkeys(variant.name for variant in variants):
            there = [each.run.variant(name) for each in runs]
            values = [value_of(variant, measure.name) for variant in there]
            if any(value is not None for value in values):
                ties = [measure.timed and overlap(there[0], variant) for variant in there]
                rows.append((name, [Change(measure, values[0], value, tie) for value, tie in zip(values, ties)]))
        if rows:
            found.append(Table(measure, rows))
    return found


def tradeoff(runs: Sequence[NamedRun]) -> Chart | None:
    """1 − cosine against latency of all variants of all runs, on logarithmic axes; None if no variant has both."""
    found = [
        (number, each, v, v.latency_ms.median, max(FLOOR, 1 - v.accuracy.cosine), v.accuracy.cosine)
        for number, each in enumerate(runs)
        for v in each.run.variants
        if v.status == "ok" and v.latency_ms and v.accuracy and v.accuracy.cosine is not None
    ]
    if not found:
        return None
    points = [
        Point(
            math.log10(ms), math.log10(error), f"run{number % 4}",
            f"{each.name}: {v.name}\n{plain(ms)} ms, cosine {cosine(exactly)}",
            label=v.name if v.name == each.run.recommended else "",
        )
        for number, each, v, ms, error, exactly in found
    ]  # fmt: skip
    x = logarithmic("latency, ms (median)", *decades([row[3] for row in found], 0.15), "{:g}".format)
    y = logarithmic("error, 1 − cosine", *decades([row[4] for row in found], 0.6), power_text)
    return Chart(x, y, "Latency against error of each variant in each run", points, height=380).labelled()
