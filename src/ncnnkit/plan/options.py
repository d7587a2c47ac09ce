"""The plan as a problem for the solver: the options of each layer, and the costs of pairs of neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..model.graph import Graph
from ..model.precision import INT8
from .costs import Costs
from .solve import Edge, Option


def make_options(
    exact: Graph, costs: Costs, errors: Mapping[tuple[str, str], float], uniform_int8: float
) -> dict[str, list[Option]]:
    """The options of each layer, each with its time and the noise that it adds to the outputs.

    The noises of the int8 layers are scaled so that their sum is the noise of the uniform int8 model.

    Args:
        errors: (layer, choice) -> noise over signal with only that layer in this choice; absent choices are impossible.
        uniform_int8: noise over signal of the uniform int8 model.
    """
    alone = sum(error for (_, choice), error in errors.items() if choice == "int8" and math.isfinite(error))
    factor = uniform_int8 / alone if alone and math.isfinite(uniform_int8) else 1.0
    return {
        layer.name: [
            Option(
                choice, costs.ms(layer.name, choice), errors[layer.name, choice] * (factor if choice in INT8 else 1.0)
            )
            for choice in costs.choices(layer.name)
            if (layer.name, choice, False, False) in costs.layers and (layer.name, choice) in errors
        ]
        for layer in exact.layers
        if costs.choices(layer.name)
    }


def make_edges(exact: Graph, costs: Costs) -> list[Edge]:
    """The cost of the transition between the choices of a layer and its reader.

    It is negative if they pass int8 between them.
    """
    uses = exact.uses()
    edges = []
    for root in uses.roots:
        maker, users = uses.producer(root), uses.readers(root)
        if not costs.choices(maker.name):
            continue
        ends = (maker, *users)
        chained = not uses.is_output(root) and all(
            la.op.chains_int8 and "int8" in costs.choices(la.name) for la in ends
        )
        for user in {user.name: user for user in users}.values():
            table = {}
            for a in costs.choices(maker.name):
                for b in costs.choices(user.name):
                    table[a, b] = costs.convert_ms(
                        root, costs.makes.get((maker.name, a), "float"), costs.reads[user.name, b]
                    )
                    if chained and a in INT8 and b in INT8:
                        table[a, b] = _saving(costs, user.name, b, (True, False)) + (
                            _saving(costs, maker.name, a, (False, True)) / len(users)
                        )
            edges.append(Edge(maker.name, user.name, table))
    return edges


def _saving(costs: Costs, name: str, choice: str, form: tuple[bool, bool]) -> float:
    """The additional time of a layer if one side of it is int8. It is mostly negative."""
    if (name, choice, *form) not in costs.layers or (name, choice, False, False) not in costs.layers:
        return 0.0
    return costs.ms(name, choice, *form) - costs.ms(name, choice)
