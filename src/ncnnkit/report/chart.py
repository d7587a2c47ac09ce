"""Charts as SVG: points and lines on two axes, without a script.

Horizontal positions are percentages and vertical positions are pixels, so a chart is as wide as its page, and its text
keeps its size. Colours are CSS classes of the style sheet in template.html, for light and dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape

LABEL = 6.5
"""Width of a letter of a label, pixels."""
_PHONE = (260.0, 300.0)  # pixels; labels are placed for a plot of this size, as on a phone
_GAP = 9  # pixels between the centre of a point and its label


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        title: the title with the unit.
        low, high: its ends, in its own coordinates (logarithms on a logarithmic axis).
        ticks: (position, text), in the same coordinates.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def part(self, value: float) -> float:
        """The relative position of a value: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Point:
    """A mark with a name.

    Attributes:
        x, y: its position in the axes' coordinates.
        kind: a CSS class, which sets its colour.
        hover: the tooltip, with lines separated by line feeds.
        label: the text next to it; empty for none.
        place: the position of the label; see :func:`place_labels`.
        bold: whether the label is bold.
        hollow: whether only its outline is drawn.
    """

    x: float
    y: float
    kind: str
    hover: str
    label: str = ""
    place: str = "middle right"
    bold: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """Points that are joined.

    Attributes:
        points: (x, y) in the axes' coordinates, from left to right.
        kind: as in Point; it is also the ``data-choice`` of the line.
        name: for the legend; empty if there is none.
    """

    points: Sequence[tuple[float, float]]
    kind: str
    name: str = ""


@dataclass(frozen=True)
class Chart:
    """Points and lines on two axes.

    Attributes:
        x, y: the axes.
        title: a description of the chart for a reader who cannot see it.
        height: the height of the plot between the axes, pixels.
        limit: the position of a dotted line, and its caption; None for no line.
        caption: the position of the caption: (``left``, ``center`` or ``right``, ``top`` or ``bottom``).
    """

    x: Axis
    y: Axis
    title: str
    points: Sequence[Point] = ()
    lines: Sequence[Line] = ()
    height: int = 380
    limit: tuple[float, str] | None = None
    caption: tuple[str, str] = ("right", "bottom")

    def labelled(self) -> Chart:
        """The same chart with labels placed where they cover little; see :func:`place_labels`."""
        places, caption = place_labels(
            [(p.x, p.y) for p in self.points], [p.label for p in self.points], (self.x.low, self.x.high),
            (self.y.low, self.y.high), self.limit[0] if self.limit else None,
        )  # fmt: skip
        points = [replace(point, place=place) for point, place in zip(self.points, places)]
        return replace(self, points=points, caption=caption)

    def svg(self) -> str:
        """The chart as an ``<svg>`` element; every text in it is escaped."""
        return _Drawing(self).text()


@dataclass
class _Drawing:
    chart: Chart
    parts: list[str] = field(default_factory=list)

    def text(self) -> str:
        self._axes()
        self._lines()
        self._limit()
        for point in self.chart.points:
            self._point(point)
        height, title = self.chart.height + 48, escape(self.chart.title)
        head = f'<svg class="chart" role="img" width="100%" height="{height}" aria-label="{title}">'
        return f"{head}{''.join(self.parts)}</svg>"

    def _across(self, value: float) -> str:
        return f"{100 * self.chart.x.part(value):.3f}%"

    def _down(self, value: float) -> str:
        return f"{self.chart.height * (1 - self.chart.y.part(value)):.2f}"

    def _write(
        self, text: str, x: str, y: str, kind: str, anchor: str = "middle", dx: float = 0, dy: float = 0
    ) -> None:
        moved = f' dx="{dx:g}" dy="{dy:g}"' if dx or dy else ""
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}"{moved} text-anchor="{anchor}">{escape(text)}</text>')

    def _axes(self) -> None:
        chart = self.chart
        for value, text in chart.x.ticks:
            x = self._across(value)
            self.parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{chart.height}"/>')
            self._write(text, x, str(chart.height + 16), "tick")
        for value, text in chart.y.ticks:
            y = self._down(value)
            self.parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
            self._write(text, "0", y, "tick", "end", -6, 4)
        self._write(chart.x.title, "50%", str(chart.height + 38), "axis")
        self._write(chart.y.title, "0", "-8", "axis", "start", -44)

    def _lines(self) -> None:
        for line in self.chart.lines:
            # One polyline in a stretched box of 100 by 100. Separate lines with percentages would be many elements.
            places = " ".join(
                f"{100 * self.chart.x.part(x):.2f},{100 * (1 - self.chart.y.part(y)):.2f}" for x, y in line.points
            )
            title = f"<title>{escape(line.name)}</title>" if line.name else ""
            kind = escape(line.kind)
            self.parts.append(
                f'<svg class="lines" x="0" y="0" width="100%" height="{self.chart.height}" viewBox="0 0 100 100" '
                f'preserveAspectRatio="none">{title}<polyline class="{kind}" data-choice="{kind}" points="{places}"/>'
                "</svg>"
            )

    def _limit(self) -> None:
        if self.chart.limit is None:
            return
        value, text = self.chart.limit
        across, side = self.chart.caption
        y = self._down(value)
        self.parts.append(f'<line class="limit" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        x, anchor = {"left": ("0", "start"), "center": ("50%", "middle"), "right": ("100%", "end")}[across]
        self._write(text, x, y, "tick", anchor, dy=-5 if side == "bottom" else 14)

    def _point(self, point: Point) -> None:
        x, y = self._across(point.x), self._down(point.y)
        kind = escape(point.kind) + (" hollow" if point.hollow else "")
        title = escape(point.hover)
        choice = escape(point.kind)
        self.parts.append(
            f'<circle class="{kind}" data-choice="{choice}" cx="{x}" cy="{y}" r="5.5"><title>{title}</title></circle>'
        )
        if point.label:
            down, across = point.place.split()
            anchor, dx = {"left": ("end", -1), "center": ("middle", 0), "right": ("start", 1)}[across]
            dy = {"top": -_GAP, "middle": 4, "bottom": _GAP + 9}[down]
            kind = "label bold" if point.bold else "label"
            self._write(point.label, x, y, kind, anchor, dx * (_GAP if down == "middle" else 2), dy)


# ------------------------------------------------------------------------------------------------------------ axes


def linear(title: str, low: float, high: float, text: Callable[[float], str] = "{:g}".format) -> Axis:
    """An axis with at most eight ticks, at multiples of 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10((high - low) / 8))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Axis(title, low, high, [(i * step, text(round(i * step, 10))) for i in range(first, last + 1)])


def logarithmic(title: str, low: float, high: float, text: Callable[[float], str]) -> Axis:
    """An axis of logarithms with ticks at 1, 2, 5 of each decade, or at few enough powers of ten.

    Args:
        low, high: its ends, as logarithms.
    """
    first, last = math.floor(low), math.ceil(high)
    step = max(1, math.ceil((last - first) / 7))
    digits = (1, 2, 5) if last - first <= 3 else (1,)
    values = [d * 10.0**e for e in range(first, last + 1, step) for d in digits]
    return Axis(title, low, high, [(math.log10(v), text(v)) for v in values if low <= math.log10(v) <= high])


def decades(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The ends of a logarithmic axis: the decades of the values, with a margin."""
    low, high = math.log10(min(values)), math.log10(max(values))
    air = max(margin, 0.12 * (high - low))
    return low - air, high + air


# ---------------------------------------------------------------------------------------------------------- labels


def place_labels(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
    line: float | None,
) -> tuple[list[str], tuple[str, str]]:
    """Positions of labels so that, on a phone, few labels cover points, the line or each other.

    A greedy method, in the order of the points: it takes the first of eight positions around a point that covers least.

    Args:
        points: the points in the coordinates of the axes (logarithms on logarithmic axes).
        x, y: the ranges of the axes.
        line: the position of a horizontal line with a caption; None if there is none.

    Returns:
        For each name, ``top``, ``middle`` or ``bottom`` and ``left``, ``center`` or ``right``; and the end of the line
        with the caption, with ``bottom`` if the caption is above the line.
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
        long = LABEL * len(name)
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
    """How many pixels of a label are outside the plot, weighted, because a cut label is worse than a covered one."""
    width, height = _PHONE
    return 20 * (max(0.0, -box[0]) + max(0.0, box[2] - width) + max(0.0, -box[1]) + max(0.0, box[3] - height))
