"""The charts of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..formatting import cosine, exact, plain, typeset
from ..record.plan import FrontPoint, Plan
from ..record.variant import LayerError, Variant
from .chart import Chart, Line, Point, decades, linear, logarithmic

FLOOR = 1e-12  # smaller errors are drawn here, because a logarithmic axis has no zero
WORST = 5
NAMED = 12
"""The largest number of points that all get a label. If there are more, only points on the Pareto front get one."""


def latency_against_error(variants: Sequence[Variant], recommended: str | None, limit: float | None) -> Chart | None:
    """1 − cosine against latency (ms), both on logarithmic axes; None if no variant has both.

    Args:
        limit: the required cosine, which is a dotted line; None if none is required.
    """
    measured = [
        (v, v.latency_ms.median, v.accuracy.cosine)
        for v in variants
        if v.latency_ms and v.accuracy and v.accuracy.cosine is not None and v.status in ("ok", "fallback")
    ]
    if not measured:
        return None
    places = [(ms, max(FLOOR, 1 - found)) for _, ms, found in measured]
    wanted = [] if limit is None else [max(FLOOR, 1 - limit)]
    x = logarithmic("latency, ms (median)", *decades([ms for ms, _ in places], 0.15), "{:g}".format)
    y = logarithmic("error, 1 − cosine", *decades([error for _, error in places] + wanted, 0.6), power_text)
    named = {
        v.name
        for (v, ms, _), (_, error) in zip(measured, places)
        if len(measured) <= NAMED or v.name == recommended or not any(a < ms and b <= error for a, b in places)
    }
    points = [
        Point(
            math.log10(ms), math.log10(error), v.status, _latency_hover(v, ms, found),
            label=v.name if v.name in named else "", bold=v.name == recommended, hollow=v.status == "fallback",
        )
        for (v, _, found), (ms, error) in zip(measured, places)
    ]  # fmt: skip
    line = (math.log10(wanted[0]), f"limit: cosine {limit}") if wanted else None
    title = "Latency against error of each variant; the table above contains the figures"
    return Chart(x, y, title, points, height=380, limit=line).labelled()


def along_the_network(errors: Mapping[str, Sequence[LayerError]], order: Sequence[str]) -> Chart | None:
    """The SQNR (dB) of each layer's output, a line for each precision; None if no layer has one.

    Args:
        errors: precision -> the layers' errors.
        order: the names of the layers, from the first to the last.
    """
    place = {name: i for i, name in enumerate(order)}
    lines = [
        Line([(place[e.name], e.sqnr_db) for e in rows if e.sqnr_db is not None and e.name in place], precision,
             precision)
        for precision, rows in errors.items()
    ]  # fmt: skip
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    figures = [figure for line in lines for _, figure in line.points]
    low, high = min(0.0, *figures), max(*figures, 1.0)
    x = linear("layer, in the network's order", 0, max(len(order) - 1, 1))
    y = linear("SQNR, dB (higher is better)", low, high + 0.05 * (high - low))
    points = [
        Point(a, b, line.kind, f"{order[int(a)]}\n{line.name}: {b:.1f} dB") for line in lines for a, b in line.points
        if len(line.points) == 1
    ]  # fmt: skip
    return Chart(x, y, "SQNR of each layer's output at each precision", points, lines, height=260)


def pareto_front(plan: Plan) -> Chart | None:
    """Predicted noise against predicted latency of plans, with the chosen plan marked.

    None if there are no plans. The measured values of the chosen plan are a hollow point. Zero noise has no logarithm,
    so it is drawn a decade below the least other noise. So is noise below :data:`FLOOR`. Infinite noise is not drawn.
    """
    front = [(p.ms, p.noise, p) for p in plan.front if p.noise is not None]
    taken = [("the plan", plan.predicted_ms, plan.predicted_noise), ("measured", plan.measured_ms, plan.measured_noise)]
    marked = [(name, ms, noise) for name, ms, noise in taken if ms is not None and noise is not None]
    if not front:
        return None
    noises = [noise for _, noise, _ in front] + [noise for _, _, noise in marked]
    positive = [noise for noise in noises if noise > FLOOR]
    lowest = min(positive, default=1.0) / 10

    def height(noise: float) -> float:
        return math.log10(noise if noise > FLOOR else lowest)

    times = [ms for ms, _, _ in front] + [ms for _, ms, _ in marked]
    air = 0.08 * (max(times) - min(times)) or 0.1 * abs(times[0]) or 1.0
    x = linear("latency, ms (predicted)", min(times) - air, max(times) + air)
    y = logarithmic(
        "noise over signal (predicted)", *decades([10 ** height(noise) for noise in noises], 0.3), power_text
    )
    if len(positive) < len(noises):
        bottom = math.log10(lowest)
        ticks = [(bottom, "0"), *((value, text) for value, text in y.ticks if value > bottom + math.log10(3))]
        y = type(y)(y.title, y.low, y.high, ticks)
    ours = [
        Point(
            ms, height(noise), "ok", f"{name}\n{plain(ms)} ms, noise over signal {typeset(exact(noise))}",
            label=name, bold=name == "the plan", hollow=name == "measured",
        )
        for name, ms, noise in marked
    ]  # fmt: skip
    others = [Point(ms, height(noise), "front", _front_hover(point)) for ms, noise, point in front]
    curve = Line([(point.x, point.y) for point in others], "front")
    title = "Predicted latency against predicted noise of plans, from the fastest to the most accurate"
    drawn = Chart(x, y, title, [*ours, *others], [curve], height=320).labelled()
    return Chart(x, y, title, [*drawn.points[len(ours) :], *drawn.points[: len(ours)]], [curve], height=320)


def worst(layers: Sequence[LayerError]) -> list[LayerError]:
    """The :data:`WORST` layers with the lowest SQNR, the worst first."""
    figures = [(la.sqnr_db, la) for la in layers if la.sqnr_db is not None]
    return [la for _, la in sorted(figures, key=lambda pair: pair[0])[:WORST]]


def _front_hover(point: FrontPoint) -> str:
    layers = "1 layer" if point.int8 == 1 else f"{point.int8} layers"
    return f"{plain(point.ms)} ms, noise over signal {typeset(exact(point.noise))}\n{layers} in int8"


def power_text(value: float) -> str:
    """The text of a tick on an axis of errors: a power of ten."""
    return ("≤ " if value <= FLOOR else "") + typeset(f"{value:.0e}").removeprefix("1·")


def _latency_hover(variant: Variant, ms: float, found: float) -> str:
    said = f"{variant.name}\n{plain(ms)} ms, cosine {cosine(found)}"
    return said + ("\nnot as requested" if variant.status == "fallback" else "")
