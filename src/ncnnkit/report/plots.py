"""The report's plots, as plotly figures in plain dicts.

Colours that must follow the reader's light or dark mode are not set here: template.html's style sheet sets them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from ..formatting import cosine, exact, plain, typeset
from ..record.run import FrontPoint, LayerError, Plan, Variant

Figure = dict[str, Any]

ACCENT = "#2b7fb8"  # legible on white and on near-black
GREY = "#8a8f98"
FLOOR = 1e-12  # errors under it are drawn on it: a logarithmic axis has no zero
WORST = 5
_PHONE = (260.0, 300.0)  # pixels that labels are placed for: what a phone leaves between the axes
_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif", "size": 12}
_HOVER = {"bgcolor": "#20242b", "bordercolor": "#20242b", "font": {"color": "#ffffff", "size": 12}}


def latency_against_error(variants: Sequence[Variant], recommended: str | None, limit: float | None) -> Figure | None:
    """Latency (ms) across, 1 − cosine up, both logarithmic; None where no variant has both.

    Args:
        limit: the cosine that is required, for a dotted line; None: no cosine is.
    """
    measured = [
        (v, v.latency_ms.median, v.accuracy.cosine)
        for v in variants
        if v.latency_ms and v.accuracy and v.accuracy.cosine is not None and v.status in ("ok", "fallback")
    ]
    if not measured:
        return None
    drawn = [v for v, _, _ in measured]
    points = [(ms, max(FLOOR, 1 - found)) for _, ms, found in measured]
    x, y = (
        _decades([p[0] for p in points], 0.15),
        _decades([p[1] for p in points] + ([] if limit is None else [1 - limit]), 0.6),
    )
    line = y[0] if limit is None else math.log10(1 - limit)
    logarithms = [(math.log10(a), math.log10(b)) for a, b in points]
    places, (xanchor, yanchor) = place_labels(logarithms, [v.name for v in drawn], x, y, line)
    traces = []
    for status, marker in (
        ("ok", {"color": ACCENT, "size": 11}),
        ("fallback", {"color": GREY, "size": 11, "symbol": "circle-open", "line": {"width": 1.5}}),
    ):
        chosen = [i for i, v in enumerate(drawn) if v.status == status]
        names = [escape(drawn[i].name) for i in chosen]
        bold = [f"<b>{n}</b>" if drawn[i].name == recommended else n for i, n in zip(chosen, names)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [points[i][0] for i in chosen],
                "y": [points[i][1] for i in chosen],
                "text": bold,
                "textposition": [places[i] for i in chosen],
                "customdata": [_latency_hover(*measured[i]) for i in chosen],
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": marker,
                "cliponaxis": False,
            }
        )
    layout = _layout(height=440)
    layout["xaxis"] |= {
        "type": "log",
        "range": x,
        "title": {"text": "latency, ms (median)"},
        **_log_ticks(x, "{:g}".format),
    }
    layout["yaxis"] |= {"type": "log", "range": y, "title": {"text": "error, 1 − cosine"}, **_log_ticks(y, _power)}
    if limit is not None:
        layout["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1 - limit, "y1": 1 - limit,
             "line": {"color": GREY, "width": 1, "dash": "dot"}}
        ]  # fmt: skip
        layout["annotations"] = [
            {"xref": "paper", "x": {"left": 0, "center": 0.5, "right": 1}[xanchor], "xanchor": xanchor,
             "y": line, "yanchor": yanchor,
             "text": f"limit: cosine {limit}", "showarrow": False, "font": {"size": 11}}
        ]  # fmt: skip
    return {"data": traces, "layout": layout}


def layer_sqnr(layers: Sequence[LayerError]) -> Figure | None:
    """Each layer's SQNR (dB) as a bar, in the network's order from top to bottom; None where no layer has one.

    The :data:`WORST` are in full colour. Many layers make thin bars, of which only the worst are named.
    """
    if not any(layer.sqnr_db is not None for layer in layers):
        return None
    marked = {id(layer) for layer in worst(layers)}
    step = max(4.0, min(20.0, 1400 / len(layers)))  # pixels a layer
    named = [i for i, layer in enumerate(layers) if step >= 13 or id(layer) in marked]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [layer.sqnr_db for layer in layers],
        "y": list(range(len(layers))),
        "marker": {"color": ACCENT, "opacity": [1.0 if id(layer) in marked else 0.4 for layer in layers]},
        "customdata": [_layer_hover(layer) for layer in layers],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = _layout(height=round(step * len(layers)) + 80)
    layout["bargap"] = 0.25
    layout["xaxis"] |= {"title": {"text": "SQNR, dB (longer is better)"}, "side": "top", "rangemode": "tozero"}
    layout["yaxis"] |= {
        "range": [len(layers) - 0.5, -0.5],
        "tickvals": _apart(named, layers, 12 / step) if step < 13 else named,
        "showgrid": False,
        "zeroline": False,
    }
    names = _tell_apart([layer.name for layer in layers])
    layout["yaxis"]["ticktext"] = [escape(names[i]) + " " for i in layout["yaxis"]["tickvals"]]
    layout["margin"] |= {"t": 56, "b": 8}
    return {"data": [bars], "layout": layout}


def pareto_front(plan: Plan) -> Figure | None:
    """Plans from the fastest to the most exact: predicted ms across, predicted noise up; the one taken is marked.

    None where there are no plans. What was measured is a hollow point beside it. Noise of zero has no logarithm: it
    is drawn a decade under the least other one, and so is one under :data:`FLOOR`. An infinite one is not drawn.
    """
    front = [(p.ms, p.noise, p) for p in plan.front if p.noise is not None]
    taken = [("the plan", plan.predicted_ms, plan.predicted_noise), ("measured", plan.measured_ms, plan.measured_noise)]
    marked = [(name, ms, noise) for name, ms, noise in taken if ms is not None and noise is not None]
    if not front:
        return None
    errors = [noise for _, noise, _ in front] + [noise for _, _, noise in marked]
    positive = [noise for noise in errors if noise > FLOOR]
    lowest = min(positive, default=1.0) / 10

    def height(noise: float) -> float:
        return noise if noise > FLOOR else lowest

    points = [(ms, height(noise)) for ms, noise, _ in front]
    ours = [(ms, height(noise)) for _, ms, noise in marked]
    left, right = min(ms for ms, _ in points + ours), max(ms for ms, _ in points + ours)
    air = 0.08 * (right - left) or 0.1 * abs(right) or 1.0
    x, y = [left - air, right + air], _decades([noise for _, noise in points + ours], 0.3)
    names = [name for name, _, _ in marked] + [""] * len(points)
    places, _ = place_labels([(ms, math.log10(noise)) for ms, noise in ours + points], names, x, y, line=None)
    curve = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [ms for ms, _ in points],
        "y": [noise for _, noise in points],
        "customdata": [_front_hover(p) for _, _, p in front],
        "hovertemplate": "%{customdata}<extra></extra>",
        "line": {"color": GREY, "width": 1},
        "marker": {"color": GREY, "size": 7},
    }
    chosen = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [ms for ms, _ in ours],
        "y": [noise for _, noise in ours],
        "text": [{"the plan": "<b>the plan</b>"}.get(name, name) for name, _, _ in marked],
        "textposition": places[: len(ours)],
        "customdata": [
            f"{name}<br>{plain(ms)} ms, noise over signal {typeset(exact(noise))}" for name, ms, noise in marked
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "color": ACCENT,
            "size": 12,
            "symbol": ["circle" if name == "the plan" else "circle-open" for name, _, _ in marked],
            "line": {"color": ACCENT, "width": 1.5},
        },
        "cliponaxis": False,
    }
    layout = _layout(height=380)
    layout["xaxis"] |= {"range": x, "title": {"text": "latency, ms (predicted)"}}
    ticks = _log_ticks(y, _power)
    if len(positive) < len(errors):
        ticks = _with_zero(ticks, lowest)
    layout["yaxis"] |= {"type": "log", "range": y, "title": {"text": "noise over signal (predicted)"}, **ticks}
    return {"data": [curve, chosen], "layout": layout}


def _with_zero(ticks: Figure, lowest: float) -> Figure:
    """Ticks of a logarithmic axis on which zeros are drawn at ``lowest``."""
    kept = [(value, text) for value, text in zip(ticks["tickvals"], ticks["ticktext"]) if value > 3 * lowest]
    return {
        "tickmode": "array",
        "tickvals": [lowest, *(value for value, _ in kept)],
        "ticktext": ["0", *(text for _, text in kept)],
    }


def _front_hover(point: FrontPoint) -> str:
    layers = "1 layer" if point.int8 == 1 else f"{point.int8} layers"
    return f"{plain(point.ms)} ms, noise over signal {typeset(exact(point.noise))}<br>{layers} in int8"


def worst(layers: Sequence[LayerError]) -> list[LayerError]:
    """The :data:`WORST` layers of lowest SQNR, the worst first."""
    figures = [(la.sqnr_db, la) for la in layers if la.sqnr_db is not None]
    return [la for _, la in sorted(figures, key=lambda pair: pair[0])[:WORST]]


def place_labels(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
    line: float | None,
) -> tuple[list[str], tuple[str, str]]:
    """Where names go so that on a phone few of them cover points, the line or each other.

    Greedy, in the order of the points: of eight places around a point, the first that covers least.

    Args:
        points: in the axes' own coordinates (logarithms on logarithmic axes).
        x, y: the axes' ranges.
        line: where a horizontal line crosses the plot. It has a caption. None: there is none.

    Returns:
        A plotly ``textposition`` for each name, and the caption's ``xanchor`` and ``yanchor``.
    """
    width, height = _PHONE
    dots = [(width * (a - x[0]) / (x[1] - x[0]), height * (b - y[0]) / (y[1] - y[0])) for a, b in points]
    taken = [(a - 7, b - 7, a + 7, b + 7) for a, b in dots]
    up = -math.inf if line is None else height * (line - y[0]) / (y[1] - y[0])
    captions = {
        (xanchor, yanchor): (left, low, left + 115, low + 16)
        for yanchor, low in (("bottom", up), ("top", up - 16))
        for xanchor, left in (("right", width - 115), ("left", 0.0), ("center", width / 2 - 57))
    }
    caption = min(captions, key=lambda place: sum(_overlap(captions[place], dot) for dot in taken))
    taken += [captions[caption], (0.0, up - 3, width, up + 3)]
    places = []
    for (a, b), name in zip(dots, names):
        long = 6.5 * len(name)
        boxes = {
            "top center": (a - long / 2, b + 8, a + long / 2, b + 22),
            "bottom center": (a - long / 2, b - 22, a + long / 2, b - 8),
            "middle right": (a + 9, b - 7, a + 9 + long, b + 7),
            "middle left": (a - 9 - long, b - 7, a - 9, b + 7),
            "top right": (a + 2, b + 8, a + 2 + long, b + 22),
            "bottom right": (a + 2, b - 22, a + 2 + long, b - 8),
            "top left": (a - 2 - long, b + 8, a - 2, b + 22),
            "bottom left": (a - 2 - long, b - 22, a - 2, b - 8),
        }
        costs = {p: sum(_overlap(box, other) for other in taken) + _outside(box) for p, box in boxes.items()}
        best = min(costs, key=lambda p: costs[p])
        taken.append(boxes[best])
        places.append(best)
    return places, caption


Box = tuple[float, float, float, float]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box) -> float:
    """How many pixels of a label leave the plot, weighted: a cut name is worse than a covered one."""
    width, height = _PHONE
    return 20 * (max(0.0, -box[0]) + max(0.0, box[2] - width) + max(0.0, -box[1]) + max(0.0, box[3] - height))


def _layout(height: int) -> Figure:
    axis = {"fixedrange": True, "automargin": True, "zeroline": False, "ticks": "", "showline": False}
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 16, "t": 16, "b": 8},
        "font": _FONT,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": _HOVER,
        "showlegend": False,
        # A finger that moves over a plot scrolls the page.
        "dragmode": False,
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def _decades(values: Sequence[float], margin: float) -> list[float]:
    """A logarithmic axis' range: the values' decades, and some air."""
    low, high = math.log10(min(values)), math.log10(max(values))
    air = max(margin, 0.12 * (high - low))
    return [low - air, high + air]


def _log_ticks(span: Sequence[float], text: Any) -> Figure:
    """Ticks at 1, 2, 5 of each decade, or at few enough powers of ten."""
    first, last = math.floor(span[0]), math.ceil(span[1])
    step = max(1, math.ceil((last - first) / 7))
    digits = (1, 2, 5) if last - first <= 3 else (1,)
    values = [d * 10.0**e for e in range(first, last + 1, step) for d in digits]
    values = [v for v in values if span[0] <= math.log10(v) <= span[1]]
    return {"tickmode": "array", "tickvals": values, "ticktext": [text(v) for v in values]}


def _power(value: float) -> str:
    return ("≤ " if value <= FLOOR else "") + typeset(f"{value:.0e}").removeprefix("1·")


def _latency_hover(variant: Variant, ms: float, found: float) -> str:
    said = f"{escape(variant.name)}<br>{plain(ms)} ms, cosine {cosine(found)}"
    return said + ("<br>not a GPU figure" if variant.status == "fallback" else "")


def _layer_hover(layer: LayerError) -> str:
    figure = "exact, or all zero" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"
    return f"{escape(_short(layer.name, 40))}<br>{escape(layer.type)}<br>{figure}"


def _tell_apart(names: Sequence[str]) -> list[str]:
    """The names; where some are long, without what all begin and end with."""
    if all(_short(name) == name for name in names):
        return list(names)
    start = _shared(names)
    end = _shared([name[start:][::-1] for name in names])
    return [_short(name[start : len(name) - end] or name) for name in names]


def _shared(names: Sequence[str]) -> int:
    """How many characters all names begin with."""
    first, last = min(names), max(names)
    return next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))


def _short(name: str, longest: int = 22) -> str:
    """A name with its middle left out where it is long: both ends tell layers apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _apart(indices: Sequence[int], layers: Sequence[LayerError], gap: float) -> list[int]:
    """Of the layers to name, worst first, those at least ``gap`` rows from one named before."""
    kept: list[int] = []
    for i in sorted(indices, key=lambda i: layers[i].sqnr_db or 0.0):
        if all(abs(i - other) >= gap for other in kept):
            kept.append(i)
    return sorted(kept)
