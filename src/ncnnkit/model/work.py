"""How much a network computes, and how often a stage of a run may run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..older import Self
from .graph import Graph

PLAIN_COST = 10
"""The time of a multiply-add in ncnn's plain loops over the time in its fast kernels. On two cores, r3d_18 computes
3.4·10⁹ multiply-adds per second, and FCN-ResNet50 50·10⁹. Three-dimensional convolutions have plain loops only."""


def work(graph: Graph, input_shapes: Sequence[tuple[int, ...]]) -> int:
    """The multiply-adds of one inference, as far as the shapes are known.

    See :func:`~ncnnkit.model.counting.multiply_adds`. ncnn's fast convolutions (Winograd) do fewer. If ncnn has no fast
    kernel for a layer, each of its multiply-adds counts as :data:`PLAIN_COST`.

    Args:
        input_shapes: the shape of each input, without the batch axis.

    Raises:
        ModelError: a layer cannot take inputs of these shapes.

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
    """How much each stage of a run may compute, and what the stages left out because of it.

    A stage asks :meth:`take` how many samples, runs or groups of layers it may use. The budget counts multiply-adds,
    not time, so the same run uses the same samples on every machine.

    Attributes:
        allowed: the multiply-adds that a stage may compute.
        inference: multiply-adds of one inference of the network in floating point.
        reduced: name of the items that a stage reduced -> (how many it took, how many it wanted).

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
        """How many of the ``wanted`` items a stage may use, if each item costs ``runs`` inferences of the network.

        Args:
            what: the name of the items for the user, in the plural, such as "evaluation samples".
            least: the least number that is returned, because fewer would show nothing. It may exceed the budget.
        """
        fitting = self.inferences / runs
        taken = wanted if fitting >= wanted else min(wanted, max(least, int(fitting)))
        self.note(what, taken, wanted)
        return taken

    def note(self, what: str, taken: int, wanted: int) -> None:
        """Record that a stage took fewer items than it wanted. Does nothing if it took all."""
        if taken < wanted:
            self.reduced[what] = (taken, wanted)


UNBOUNDED = Budget()
"""The budget for callers without a limit. It never reduces anything."""
