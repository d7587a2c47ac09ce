"""Figures: numbers that say how accurate a network's outputs or predictions are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Unit = Literal["", "dB", "share"]


@dataclass(frozen=True)
class Figure:
    """A number that says how accurate a model is.

    Attributes:
        name: its name in a requirement.
        title: its name in texts for the user.
        unit: ``dB``, ``share`` (0 to 1; may be written in percent), or empty if it is the output's own or none.
        at_least: whether a larger number is better.
        power: the figure -> a number proportional to the noise power that causes it; 0 if the outputs are exact.
        possible: whether a bound is possible.
        labelled: whether it needs labels of the samples.
        needs: the optional package that computes it; empty if none.
        counts: the things that it counts, such as ``boxes``; empty if it is a mean of values.
    """

    name: str
    title: str
    unit: Unit
    at_least: bool
    power: Callable[[float], float]
    possible: Callable[[float], bool]
    labelled: bool = False
    needs: str = ""
    counts: str = ""

    def text(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "share":
            return f"{100 * value:.4g} %"
        return f"{value:.6g} {self.unit}".rstrip()

    @property
    def relation(self) -> str:
        """The operator of a requirement."""
        return ">=" if self.at_least else "<="


def named(*figures: Figure) -> Mapping[str, Figure]:
    """Figures by their names, in their order."""
    return MappingProxyType({figure.name: figure for figure in figures})


def share(name: str, title: str, *, labelled: bool = False, needs: str = "", counts: str = "") -> Figure:
    """A share of something that should be 1.

    Its loss is about proportional to the amplitude of an error, so the square of the loss is proportional to the noise
    power.
    """
    return Figure(name, title, "share", True, lambda v: (1 - v) ** 2, lambda v: 0 <= v <= 1, labelled, needs, counts)


def fault(name: str, title: str, *, counts: str = "") -> Figure:
    """A share of something that should be 0; see :func:`share`."""
    return Figure(name, title, "share", False, lambda v: v**2, lambda v: v >= 0, counts=counts)


def decibels(name: str, title: str) -> Figure:
    """A ratio of signal power to noise power, dB; infinite if there is no noise."""
    return Figure(name, title, "dB", True, lambda v: 10 ** (-v / 10), lambda v: abs(v) <= 300)


def by_labels(*figures: Figure) -> tuple[Figure, ...]:
    """The same figures with labels as the truth: ``label_`` before the name."""
    return tuple(
        replace(figure, name=f"label_{figure.name}", title=f"{figure.title} by labels", labelled=True)
        for figure in figures
    )


OUTPUTS: Mapping[str, Figure] = named(
    # 1 - cosine is half of the noise over signal, if it is small.
    Figure("cosine", "cosine", "", True, lambda v: 1 - v, lambda v: -1 <= v < 1),
    decibels("sqnr", "SQNR"),
    Figure("mse", "MSE", "", False, lambda v: v, lambda v: v >= 0),
    # A single difference is proportional to the amplitude of the noise, not to its power.
    Figure("max_error", "largest error", "", False, lambda v: v**2, lambda v: v >= 0),
)
"""The figures of any network's outputs. Each is the figure of the worst output, compared with the original."""
