"""Figures: numbers that say how right a network's outputs or predictions are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

Unit = Literal["", "dB", "share"]


@dataclass(frozen=True)
class Figure:
    """A number that says how right a model is.

    Attributes:
        name: as it is written in a requirement.
        title: as a text for people names it.
        unit: ``dB``, ``share`` (0 to 1; may be written in percent), or empty if it is the output's own or none.
        at_least: whether a larger number is better.
        power: the figure -> a number in proportion to the noise power that causes it, 0 where the outputs are exact.
        possible: whether a bound makes sense.
        labelled: whether it needs labels of the samples.
        needs: the package that computes it, where that is an extra.
        counts: the things that it is a share of, such as ``boxes``; empty if it is a mean of values.
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

    What is lost of it is about in proportion to the size of an error, and its square to the noise power.
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
    # 1 - cosine is half the noise over the signal, as long as both are small.
    Figure("cosine", "cosine", "", True, lambda v: 1 - v, lambda v: -1 <= v < 1),
    decibels("sqnr", "SQNR"),
    Figure("mse", "MSE", "", False, lambda v: v, lambda v: v >= 0),
    # A single difference grows as the noise's size, not as its power.
    Figure("max_error", "largest error", "", False, lambda v: v**2, lambda v: v >= 0),
)
"""The figures of any network's outputs. Each is that of the worst output, against the original."""
