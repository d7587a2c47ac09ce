"""Where to end a network that ncnn cannot compute completely.

Detectors end in a TopK or a NonMaxSuppression, others in an ArgMax; ncnn has no layers for these. Such a network is
cut: its outputs are then the tensors that the rest is computed from. The names of the operators of the rest are kept.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from ...errors import ModelError
from .hints import HINTS
from .lowering import Lowering, Node, Unsupported
from .patterns import write
from .reading import Reading, fed
from .weights import hold

LEAST_KEPT = 0.5
"""The share of the nodes with weights that must stay before the cut."""

_WEIGHTED = frozenset(("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "RNN", "GRU", "LSTM"))

VIEWS = frozenset(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that move values and change none."""


@dataclass(frozen=True)
class Cut:
    """Where a network ends.

    Attributes:
        outputs: names of the values that are its outputs, in the order of the original.
        tail: the operators that come after it, in their order.
        causes: the operators in ``tail`` that ncnn cannot compute.
        weighted: how many operators in ``tail`` have weights: a second stage of the network.
    """

    outputs: tuple[str, ...]
    tail: tuple[str, ...]
    causes: tuple[str, ...]
    weighted: int = 0


def find_cut(reading: Reading, *, latest: bool = False, whole: bool = False) -> Cut | None:
    """The smallest set of tensors that the part which ncnn cannot compute is computed from.

    No node with weights that ncnn can compute, and whose results an output depends on, comes after the cut. Among sets
    of one size it is the last one, so that ncnn computes as much as it can.

    Args:
        reading: the model.
        latest: the last tensors that ncnn can compute, however many these are. Views of one tensor count once.
        whole: the tensors must tell the model's own outputs as well. By default outputs that ncnn can compute stay
            outputs: a detector may give its scores, and only the labels need an ArgMax.

    Returns:
        None if ncnn can compute the whole network, and where the cut would leave too little of it: fewer than half of
        the nodes with weights. An unsupported operator is then in the middle of the network.
    """
    nodes = _computing(reading)
    causes = _cannot(reading, nodes)
    after = _after(nodes, causes)
    before = [node for node in nodes if node not in after]
    if not after or not _leaves_enough(reading, before, nodes):
        return None
    outputs = [str(value.name) for value in reading.model.graph.outputs]
    made = [str(value.name) for node in before for value in node.outputs]
    read = {name for node in after for name in reads(node)}
    own = [name for name in outputs if name in made]
    kept = [] if whole else own
    wanted = (read & set(made)) - set(kept) | (set(own) if whole else set())
    ends = _smallest(reading, before, kept, wanted, views_only=latest)
    chosen = [*kept, *(name for name in made if name in ends)]
    needed = needed_for(nodes, chosen)
    tail = [node for node in nodes if node not in needed]
    weighted = sum(_has_weights(reading, node) for node in tail)
    operators, why = tuple(node.op_type for node in tail), tuple(dict.fromkeys(node.op_type for node in causes))
    return Cut(tuple(chosen), operators, why, weighted) if chosen else None


def cut_at(reading: Reading, outputs: Sequence[str], where: str = "") -> Cut:
    """The cut at tensors that the user names.

    Raises:
        ModelError: the model computes no tensor of such a name.
    """
    nodes = _computing(reading)
    made = {str(value.name) for node in nodes for value in node.outputs if value.name in reading.shapes}
    for name in outputs:
        if name not in made:
            alike = difflib.get_close_matches(name, made, 3, 0.4) or sorted(made)[-3:]
            raise ModelError(
                f"the model computes no tensor {name!r}", where=where, hint=f"{', '.join(alike)} are some that it does"
            )
    kept = needed_for(nodes, outputs)
    return Cut(tuple(outputs), tuple(node.op_type for node in nodes if node not in kept), ())


def cut_model(reading: Reading, cut: Cut) -> ir.Model:
    """The model that ends at a cut. Inputs that only its tail reads are gone. ``reading.model`` is changed.

    What is constant for the shapes of the inputs becomes a weight: the shape of a tensor in the tail may be read before
    the cut.
    """
    graph = reading.model.graph
    needed = needed_for(_computing(reading), cut.outputs)
    for node in needed:
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer() is not None and value.name in reading.constants:
                node.replace_input_with(index, _as_weight(reading, str(value.name)))
    read = {name for node in needed for name in reads(node)}
    inputs = [value for value in fed(graph) if value.name in read]
    part = ir.convenience.extract(graph, inputs, cut.outputs)
    return ir.Model(part, ir_version=reading.model.ir_version)


def _as_weight(reading: Reading, name: str) -> ir.Value:
    weights, made = reading.model.graph.initializers, f"{name}/constant"
    return weights[made] if made in weights else hold(reading.model.graph, reading.constants[name], made)


def may_need_cut(model: ir.Model) -> bool:
    """Whether a model has operators that ncnn may be unable to compute. Cheap: nothing is run."""
    return any(node.op_type in HINTS or node.domain not in ("", "ai.onnx") for node in model.graph.all_nodes())


# --------------------------------------------------------------------------------------------------- what is possible


def _computing(reading: Reading) -> list[ir.Node]:
    """The nodes with results that depend on the inputs, in the order of the model."""
    return [node for node in reading.model.graph if not all(value.name in reading.constants for value in node.outputs)]


def _cannot(reading: Reading, nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """The nodes that ncnn cannot compute, although it can compute what they read. Found by trying each."""
    lowering = Lowering(reading)
    for index, value in enumerate(fed(reading.model.graph)):
        lowering.feed(str(value.name), f"in{index}")
    found = []
    for node in nodes:
        if any(name not in lowering.blobs and name not in reading.constants for name in reads(node)):
            continue
        try:
            write(Node(lowering, node))
        except Unsupported:
            found.append(node)
    return found


def _after(nodes: Sequence[ir.Node], causes: Iterable[ir.Node]) -> set[ir.Node]:
    """These nodes, and all that depend on them."""
    found, names = set(causes), {str(value.name) for node in causes for value in node.outputs}
    for node in nodes:
        if node in found or not names.isdisjoint(reads(node)):
            found.add(node)
            names.update(str(value.name) for value in node.outputs)
    return found


def needed_for(nodes: Sequence[ir.Node], outputs: Iterable[str]) -> set[ir.Node]:
    """The nodes that some values are computed with."""
    names, found = set(outputs), set()
    for node in reversed(nodes):
        if not names.isdisjoint(str(value.name) for value in node.outputs):
            found.add(node)
            names.update(reads(node))
    return found


def reads(node: ir.Node) -> Iterator[str]:
    """The names of the values that a node reads; a Loop or an If reads those that its body takes from outside, too."""
    yield from (str(value.name) for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        bodies = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        for body in attribute.value if attribute.type == ir.AttributeType.GRAPHS else bodies:
            inside = {str(v.name) for v in (*body.inputs, *body.initializers.values())}
            inside.update(str(value.name) for inner in body for value in inner.outputs)
            outer = [name for inner in body for name in reads(inner)] + [str(value.name) for value in body.outputs]
            yield from (name for name in outer if name not in inside)


def _has_weights(reading: Reading, node: ir.Node) -> bool:
    return node.op_type in _WEIGHTED and any(name in reading.constants for name in reads(node))


def _leaves_enough(reading: Reading, before: Sequence[ir.Node], nodes: Sequence[ir.Node]) -> bool:
    with_weights = [node for node in nodes if _has_weights(reading, node)]
    kept = [node for node in before if not with_weights or _has_weights(reading, node)]
    return len(kept) >= LEAST_KEPT * len(with_weights or nodes)


# ---------------------------------------------------------------------------------------------------- the smallest set


def _smallest(
    reading: Reading, before: Sequence[ir.Node], known: Iterable[str], wanted: set[str], *, views_only: bool
) -> set[str]:
    """The fewest values from which the wanted ones can be computed without weights; the last ones among as few.

    Args:
        reading: the model.
        before: the nodes that ncnn can compute.
        known: values that are outputs already, so that nothing that follows from them is needed.
        wanted: what the other nodes read.
        views_only: compute the wanted ones by nodes that move values and change none.
    """
    weights = any(_has_weights(reading, node) for node in before)
    leads_to_weights: set[str] = set()
    for node in reversed(before):
        if _has_weights(reading, node) or not leads_to_weights.isdisjoint(str(value.name) for value in node.outputs):
            leads_to_weights.update(reads(node))
    made: dict[str, list[str]] = {}
    for node in before:
        names = [str(value.name) for value in node.outputs]
        free = weights and not _has_weights(reading, node) and leads_to_weights.isdisjoint(names)
        free &= not views_only or node.op_type in VIEWS
        made |= dict.fromkeys(names, list(reads(node)) if free else [])
    return _vertex_cut({name: from_ for name, from_ in made.items() if name not in known}, wanted)


_End = tuple[str, str]
"""One of the two ends of a value, ("in", name) and ("out", name)."""


def _vertex_cut(made: Mapping[str, Sequence[str]], wanted: set[str]) -> set[str]:
    """The fewest values that every path to a wanted one goes through, as near to the wanted ones as can be.

    It is a minimum vertex cut by the method of Ford and Fulkerson: one path may go through a value, from its end "in"
    to its end "out", and any number between two values.

    Args:
        made: value -> what it is computed from; nothing where paths begin. What is not among its keys is known anyway.
        wanted: where paths end.
    """
    onward: dict[_End, set[_End]] = {(end, name): set() for name in made for end in ("in", "out")}
    for name, from_ in made.items():
        onward["in", name].add(("out", name))
        for other in from_:
            if other in made:
                onward["out", other].add(("in", name))
    begins, ends = [("in", name) for name, from_ in made.items() if not from_], {("out", name) for name in wanted}
    while path := _path(onward, begins, ends):
        for at, to in pairwise(path):
            if at[1] == to[1]:  # through a value: once, and then only back
                onward[at].remove(to)
                onward[to].add(at)
            elif at[0] == "out":
                onward[to].add(at)
            else:  # back between two values: what went there goes another way
                onward[at].remove(to)
    back: dict[_End, set[_End]] = {end: set() for end in onward}
    for at, follows in onward.items():
        for to in follows:
            back[to].add(at)
    behind = _reachable(back, ends & onward.keys())
    return {name for name in made if ("out", name) in behind and ("in", name) not in behind}


def _path(onward: Mapping[_End, set[_End]], begins: Iterable[_End], ends: set[_End]) -> list[_End]:
    """The shortest way to one of the ends; empty if there is none."""
    came = _reachable(onward, begins)
    end = next((at for at in came if at in ends), None)
    path: list[_End] = []
    while end is not None:
        path.append(end)
        end = came[end]
    return path[::-1]


def _reachable(onward: Mapping[_End, set[_End]], begins: Iterable[_End]) -> dict[_End, _End | None]:
    """What can be reached, the nearest first, and from where."""
    came: dict[_End, _End | None] = dict.fromkeys(begins)
    queue = list(came)
    for at in queue:
        for to in sorted(onward[at]):
            if to not in came:
                came[to] = at
                queue.append(to)
    return came
