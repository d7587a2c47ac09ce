"""The figures of a task in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..formatting import NOTHING, cosine, decibel, percent
from ..record.variant import FigureValue, Variant


def task_figures(variants: Sequence[Variant]) -> list[FigureValue]:
    """The figures of the task that some variant has, one for each name."""
    found = {figure.name: figure for v in variants if v.accuracy for figure in v.accuracy.task}
    return list(found.values())


def with_unit(text: str, figure: FigureValue) -> str:
    """The head of a figure's column."""
    return text + {"share": " %", "dB": " dB"}.get(figure.unit, "")


def figure_text(figure: FigureValue | None) -> str:
    """The value of a figure, without its unit."""
    if figure is None:
        return NOTHING
    if figure.unit == "share":
        return percent(figure.value)
    return decibel(figure.value) if figure.unit == "dB" else cosine(figure.value, 4)


def said(figure: FigureValue) -> str:
    """A figure in a sentence: ``boxes kept 97.2 %``."""
    return with_unit(f"{figure.title} {figure_text(figure)}", figure)


def interval_text(figure: FigureValue) -> str:
    """The 95 % interval of a figure, without its unit; empty if it is one value."""
    low, high = (figure_text(replace(figure, value=end)) for end in (figure.low, figure.high))
    return f"{low} – {high}" if low != high else ""
