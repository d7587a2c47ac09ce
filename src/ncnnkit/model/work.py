"""How much a network computes, and how often a stage of a run may run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..older import Self
from .graph import Graph

PLAIN_COST = 10
"""What a multiply-add costs in ncnn's plain loops, in multiply-adds of its fast kernels: r3d_18 computes 3.4·10⁹ in a
second on two cores, FCN-ResNet50 50·10⁹. Convolutions in three dimensions have plain loops only."""


def work(graph: Graph, input_shapes: Sequence[tuple[int, ...]]) -> int:
    """The multiply-adds of one inference, as far as shapes follow from the inputs' shapes.

    See :func:`~ncnnkit.model.counting.multiply_adds`. ncnn's fast convolutions (Winograd) do fewer. Where ncnn has no
    fast kernel, each counts as :data:`PLAIN_COST`.

    Args:
        input_shapes: one for each input, without the batch axis.

    Raises:
        ModelError: a layer cannot take what it is given.

    Example:
        >>> work(load("resnet50.param"), [(3, 224, 224)])  # doctest: +SKIP
        4133742760
    """
    shapes = graph.infer_shapes(input_shapes)
    return sum(
        layer.multiply_adds(shapes) * (PLAIN_COST if layer.weights and layer.type.endswith("3D") else 1)
        for layer in graph.layers
    )


@dataclass(eq=False)
class Budget:
    """What each stage of a run may compute, and what stages left out to keep to it.

    A stage asks :meth:`take` how many samples, runs or groups of layers it may have. It is a count and no time, so the
    same run takes the same samples on every machine.

    Attributes:
        allowed: multiply-adds of a stage.
        inference: multiply-adds of one inference of the network in floating point.
        reduced: what stages took fewer of -> (how many they took, how many they would have taken).

    Example:
        >>> budget = Budget(allowed=1000, inference=100)
        >>> budget.take("samples", 20, runs=2)
        5
        >>> budget.reduced
        {'samples': (5, 20)}
    """

    allowed: float = math.inf
    inference: float = 1.0
    reduced: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, gmac: float, graph: Graph, input_shapes: Sequence[tuple[int, ...]]) -> Self:
        """The budget of a network, with this many 10⁹ multiply-adds for each stage."""
        return cls(gmac * 1e9, max(work(graph, input_shapes), 1))

    @property
    def inferences(self) -> float:
        """How often a stage may run the network."""
        return self.allowed / self.inference

    def take(self, what: str, wanted: int, *, runs: float = 1.0, least: int = 1) -> int:
        """How many of ``wanted`` a stage may have, if each of them costs ``runs`` inferences of the network.

        Args:
            what: they are, as a user reads it: a plural, such as "evaluation samples".
            least: so many are had in any case, because fewer show nothing.
        """
        fitting = self.inferences / runs
        taken = wanted if fitting >= wanted else min(wanted, max(least, int(fitting)))
        self.note(what, taken, wanted)
        return taken

    def note(self, what: str, taken: int, wanted: int) -> None:
        """Note what a stage took, where it is less than it wanted."""
        if taken < wanted:
            self.reduced[what] = (taken, wanted)


UNBOUNDED = Budget()
"""For callers that bound nothing. Nothing is ever reduced, so it stays empty."""
