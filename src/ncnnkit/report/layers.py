"""The layers of a network in the report: a table with the figures at every precision, and a drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..errors import printable
from ..model.precision import PRECISIONS, WINOGRAD
from ..record.network import Histogram, NetworkLayer
from ..record.plan import PlannedLayer
from ..record.run import Run
from ..record.variant import LayerError
from .drawing import HEIGHT, WIDTH, draw, path

NAMES = 21
"""The number of letters of a layer's name that fit into its box."""


@dataclass(frozen=True)
class Cell:
    """The figures of one layer at one precision.

    Attributes:
        ms: predicted time of the layer alone, ms.
        alone: SQNR of the network's outputs if only this layer had the precision, dB; infinite for no error.
        sqnr_db: SQNR of the layer's output, including the errors of the layers before it, dB; infinite for no error.
    """

    ms: float | None
    alone: float | None
    sqnr_db: float | None


@dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
        name, type, shape: see :class:`~ncnnkit.record.network.NetworkLayer`.
        choice, why: its choice in the mixed model, and the reason; empty if there is no plan, or if the layer computes
            nothing.
        cells: its figures, in the order of :attr:`LayerTable.precisions`.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    choice: str
    why: str
    cells: list[Cell]


@dataclass(frozen=True)
class LayerTable:
    """The table of all layers.

    Attributes:
        precisions: the precisions with any figure.
        first: the index of the precision that is shown first.
        rows: the layers, in order.
    """

    precisions: list[str]
    first: int
    rows: list[Row]


def layer_table(run: Run) -> LayerTable | None:
    """The layers of a run with their figures at every precision; None if no layer is known."""
    planned = {layer.name: layer for layer in run.plan.layers} if run.plan else {}
    errors = errors_of_precisions(run)
    known = {precision: {error.name: error for error in rows} for precision, rows in errors.items()}
    layers = [(layer.name, layer.type, layer.shape) for layer in network_of(run)]
    options = {option.choice for layer in planned.values() for option in layer.options}
    order = ["mixed", *(name for name in PRECISIONS if name != "mixed"), WINOGRAD]
    have = options | errors.keys() | ({"mixed"} if planned else set())
    # A choice that is not in the table of precisions comes from a newer ncnnkit.
    precisions = [name for name in order if name in have] + sorted(have - set(order))
    if not layers or not precisions:
        return None
    rows = []
    for name, kind, shape in layers:
        plan = planned.get(name)
        cells = [_cell(precision, plan, known.get(precision, {}).get(name)) for precision in precisions]
        rows.append(Row(name, kind, shape, plan.choice if plan else "", plan.why if plan else "", cells))
    best = run.variant(run.recommended)
    wanted = [best.precision if best and best.precision != "fp32" else "", "mixed", "int8"]
    first = next((precisions.index(name) for name in wanted if name in precisions), 0)
    return LayerTable(precisions, first, rows)


def errors_of_precisions(run: Run) -> dict[str, list[LayerError]]:
    """Precision -> the errors of the layers in the first variant with such errors."""
    found: dict[str, list[LayerError]] = {}
    for variant in run.variants:
        if variant.layers:
            found.setdefault(variant.precision, variant.layers)
    return found


def network_of(run: Run) -> list[NetworkLayer]:
    """The layers of the network. If run.json does not have the network, the layers that have any figure."""
    if run.network:
        return run.network
    named = {layer.name: layer.type for layer in run.plan.layers} if run.plan else {}
    for rows in errors_of_precisions(run).values():
        named |= {layer.name: layer.type for layer in rows}
    return [
        NetworkLayer(name=name, type=kind, reads=[], outputs=[], shape=None, parameters=0, int8=None)
        for name, kind in named.items()
    ]


def _cell(precision: str, plan: PlannedLayer | None, error: LayerError | None) -> Cell:
    wanted = plan.choice if plan and precision == "mixed" else precision
    option = next((o for o in plan.options if o.choice == wanted), None) if plan else None
    sqnr_db = None if error is None else math.inf if error.sqnr_db is None else error.sqnr_db
    return Cell(option.ms if option else None, _decibel(option.noise) if option else None, sqnr_db)


def _decibel(noise: float | None) -> float | None:
    """Noise over signal as an SQNR; minus infinity for noise that is not finite."""
    if noise is None:
        return -math.inf
    return -10 * math.log10(noise) if noise > 0 else math.inf


def drawing(layers: Sequence[NetworkLayer], choices: Mapping[str, str]) -> str:
    """The network as an ``<svg>``; empty if the inputs of the layers are unknown.

    Args:
        layers: the layers of the network, in order.
        choices: layer -> its precision, which sets its colour.
    """
    number = {layer.name: i for i, layer in enumerate(layers)}
    reads = [[n for name in layer.reads if (n := number.get(name, i)) < i] for i, layer in enumerate(layers)]
    if not any(reads):
        return ""
    placed = draw(reads)
    edges = "".join(
        f'<path data-from="{source}" data-to="{reader}" d="{path(points)}"/>' for source, reader, points in placed.edges
    )
    nodes = "".join(_box(i, layer, choices.get(layer.name), *placed.places[i]) for i, layer in enumerate(layers))
    size = f"{placed.width:.0f} {placed.height:.0f}"
    return (
        f'<svg class="network" viewBox="0 0 {size}" data-size="{size}" role="img" '
        f'aria-label="The network, its layers from top to bottom"><g class="edges">{edges}</g>{nodes}</svg>'
    )


def _box(index: int, layer: NetworkLayer, choice: str | None, x: float, y: float) -> str:
    """A layer of the drawing, as an SVG group around its centre."""
    chosen = f' data-choice="{escape(choice)}"' if choice else ""
    return (
        f'<g data-layer="{index}" tabindex="0"{chosen} transform="translate({x - WIDTH / 2:.0f} {y - HEIGHT / 2:.0f})">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="4"/><text x="{WIDTH // 2}" y="17">{escape(_short(layer))}</text>'
        f"<title>{escape(f'{layer.name}: {layer.type}')}</title></g>"
    )


def _short(layer: NetworkLayer) -> str:
    """The text in a layer's box: its name, or the end of a long name, in which names differ most."""
    return layer.name if len(layer.name) <= NAMES else f"…{layer.name[-NAMES + 1 :]}"


def details(layers: Sequence[NetworkLayer]) -> str:
    """The details that a click on a layer shows, as JSON for a ``<script>``. It contains no ``<``."""
    rows: list[dict[str, Any]] = []
    for layer in layers:
        row: dict[str, Any] = {
            "name": printable(layer.name),
            "type": printable(layer.type),
            "shape": list(layer.shape) if layer.shape else None,
            "reads": [printable(name) for name in layer.reads],
            "parameters": layer.parameters,
        }
        if layer.int8:
            row["int8"] = {
                "low": _few(layer.int8.low),
                "high": _few(layer.int8.high),
                "zero": _few(layer.int8.zero_point),
                "steps": [_few(step) for step in layer.int8.steps],
                "inputs": _bins(layer.int8.inputs),
                "weights": _bins(layer.int8.weights),
            }
        rows.append(row)
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")


def _bins(histogram: Histogram | None) -> list[Any] | None:
    """[low, high, counts]."""
    return [_few(histogram.low), _few(histogram.high), histogram.counts] if histogram else None


def _few(value: float) -> float:
    """A value with four digits. More would only make the page larger."""
    return float(f"{value:.4g}")
