"""Makes report.html from run.json: one file that loads nothing from a network."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import formatting
from ..errors import ToolError, printable
from ..model.ncnnfile import atomic_write
from ..onboard.userfiles import read_bytes
from ..plan.requirement import Requirements
from ..record.plan import PlannedLayer
from ..record.quantisation import FittedLayer
from ..record.run import Picture, Run
from ..record.variant import Variant, baseline, shared, speed_up
from ..source.reference import EXACT_SQNR_DB, LEAST_SQNR_DB
from . import plots
from .chart import Chart
from .console import npus
from .figures import figure_text, interval_text, said, task_figures, with_unit
from .layers import details, drawing, errors_of_precisions, layer_table, network_of
from .pictures import ENLARGED
from .ship import shipping

JPEG = b"\xff\xd8\xff"
"""The first bytes of every JPEG."""

GAINED = 10
"""The number of fitted layers that are shown. These are the layers with the largest gain."""


def write_report(run: Run, path: Path) -> None:
    """Write a run's report.

    Args:
        run: the valid content of run.json.
        path: the .html file. It appears when it is complete.

    Raises:
        ToolError: jinja2 is not installed.
        StorageError: the file cannot be written.
    """
    text = render(run, path.parent)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="replace"))


def render(run: Run, folder: Path | None = None) -> str:
    """The report as one HTML document. The same run gives the same bytes.

    Raises ToolError if jinja2 is not installed.

    Args:
        run: the valid content of run.json.
        folder: the run folder with the pictures. Missing pictures are left out.
    """
    import msgspec

    environment = page_environment()
    from markupsafe import Markup

    def drawn(chart: Chart | None) -> Markup | None:
        # The chart has escaped all its texts.
        return Markup(chart.svg()) if chart else None

    filters: dict[str, Callable[..., Any]] = {
        "plain": formatting.plain,
        "exact": lambda value: formatting.typeset(formatting.exact(value)),
        "megabytes": formatting.megabytes,
        "decibel": formatting.decibel,
        "cosine": formatting.cosine,
        "percent": formatting.percent,
        "shape": lambda shape: " × ".join(map(str, shape)) or "1",
        "number": lambda value: f"{value:g}",
        "show": _show,
        "heading": lambda figure: with_unit(figure.title, figure),
        "figure": figure_text,
        "said": said,
        "interval": interval_text,
        "times": lambda factor: formatting.NOTHING if factor is None else f"{factor:.2f} ×",
        "sorted_by": _sorted_by,
        "decibels": _decibels,
        "speed_up": lambda variant: speed_up(run.variants, variant),
    }
    environment.filters |= filters
    best = run.variant(run.recommended)
    quantisation, plan, network = run.quantisation, run.plan, network_of(run)
    errors = errors_of_precisions(run)
    requirements = [*(r.text for r in run.task.requires), *(Requirements.parse([], run.recipe.max_latency).texts)]
    cosine = next((r.bound for r in run.task.requires if r.figure == "cosine"), None)
    text = environment.get_template("template.html").render(
        run=run,
        best=best,
        base=baseline(run.variants),
        speed_up=speed_up(run.variants, best) if best else None,
        remarks=_remarks(run),
        recipe=msgspec.to_builtins(run.recipe),
        fallbacks=any(v.status == "fallback" for v in run.variants),
        tradeoff=drawn(plots.latency_against_error(run.variants, run.recommended, cosine)),
        devices=run.devices,
        npus=npus(run),
        watched=_watched(run.variants),
        quantisation=quantisation,
        gained=_gained(quantisation.layers) if quantisation else [],
        plan=plan,
        precisions=_precisions(plan.layers) if plan else [],
        front=drawn(plots.pareto_front(plan)) if plan else None,
        pictures=_pictures(run, folder),
        enlarged=ENLARGED,
        ship=shipping(run, "."),
        table=layer_table(run),
        along=drawn(plots.along_the_network(errors, [layer.name for layer in network])),
        compared=[(precision, plots.worst(rows)) for precision, rows in errors.items()],
        network=Markup(drawing(network, {la.name: la.choice for la in plan.layers} if plan else {})),
        details=Markup(details(network)),
        script=Markup((Path(__file__).parent / "report.js").read_text(encoding="utf-8")),
        figures=task_figures(run.variants),
        several=[v for v in run.variants if v.accuracy and len(v.accuracy.outputs) > 1],
        ratio=formatting.ratio,
        requirements=", ".join(requirements),
        cosine=cosine,
        least_sqnr_db=LEAST_SQNR_DB,
        exact_sqnr_db=EXACT_SQNR_DB,
    )
    return printable(str(text))


def page_environment() -> Any:
    """The jinja2 environment for the templates beside this module. Raises ToolError if jinja2 is not installed."""
    try:
        import jinja2
    except ImportError as error:
        missing = str(error.name or error).partition(".")[0]
        raise ToolError(f"the report needs {missing}", hint=f"pip install {missing}") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["images"] = lambda n: f"{n} image" if n == 1 else f"{n} images"
    return environment


def _remarks(run: Run) -> list[tuple[str, list[str]]]:
    """(reason or note, names of its variants). A text that several variants share occurs once."""
    return list(shared(run.variants, lambda v: filter(None, [v.reason, *v.notes])).items())


def _watched(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """The conditions of each variant during its timing, for the table; empty if there are none."""

    def highest(values: Iterable[float]) -> str:
        return formatting.plain(max(values, default=None))

    rows, seen = [], False
    for variant in variants:
        conditions, sustained = variant.conditions, variant.sustained
        if not conditions:
            continue
        seen |= bool(conditions.looks or sustained)
        rows.append(
            {
                "name": variant.name,
                "cells": [
                    formatting.plain(variant.first_ms),
                    highest(q.min for q in conditions.clocks_mhz.values()),
                    highest(q.max for q in conditions.temperatures.values()),
                    highest(q.mean for q in conditions.power_w.values()),
                    formatting.plain(conditions.energy_mj),
                    f"{formatting.plain(sustained.first_ms)} → {formatting.plain(sustained.last_ms)} ms"
                    if sustained
                    else formatting.NOTHING,
                ],
            }
        )
    return rows if seen else []


def _pictures(run: Run, folder: Path | None) -> dict[str, list[tuple[Picture, str]]]:
    """The pictures of each variant with their files as data URIs, so that the report is one file."""
    found: dict[str, list[tuple[Picture, str]]] = {}
    for picture in run.pictures if folder else []:
        assert folder is not None
        with suppress(OSError):
            data = read_bytes(folder / picture.file)
            if data[: len(JPEG)] != JPEG:  # a link in a stranger's folder must not bring another file into the report
                continue
            content = base64.b64encode(data).decode("ascii")
            found.setdefault(picture.variant, []).append((picture, f"data:image/jpeg;base64,{content}"))
    return found


def _gained(layers: Sequence[FittedLayer]) -> list[FittedLayer]:
    """The :data:`GAINED` layers for which fitting reduced the error most, sorted by the reduction."""
    gains = [(la.before - la.after, la) for la in layers if la.before is not None and la.after is not None]
    better = sorted((pair for pair in gains if pair[0] > 0), key=lambda pair: -pair[0])
    return [layer for _, layer in better[:GAINED]]


def _precisions(layers: Sequence[PlannedLayer]) -> list[tuple[str, int]]:
    """The number of layers with each choice, the most frequent first."""
    return Counter(layer.choice for layer in layers).most_common()


def _sorted_by(value: float | None) -> str:
    """The number by which a cell is sorted, as text for JavaScript. Unknown values come last."""
    return "" if value is None else f"{value:.4g}".replace("inf", "Infinity")


def _decibels(value: float | None) -> str:
    """An SQNR as text. None is unknown, and infinity is exact."""
    if value is None:
        return formatting.NOTHING
    return "broken" if value == -math.inf else formatting.decibel(None if value == math.inf else value)


def _show(value: Any) -> str:
    """A field of a recipe as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{key} {_show(inner)}" for key, inner in value.items()]
    if isinstance(value, list):
        return ", ".join("×".join(map(str, v)) if isinstance(v, list) else str(v) for v in value) or formatting.NOTHING
    return str(value) if value not in ("", None) else formatting.NOTHING
