"""Finds where to end a network that ncnn cannot compute completely.

Detectors end in a TopK or a NonMaxSuppression, other networks in an ArgMax. ncnn has no layers for these. Such a
network is cut: its new outputs are the tensors that the remaining operators, the *tail*, read.
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
"""The least share of the nodes with weights that must be before the cut."""

_WEIGHTED = frozenset(("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "RNN", "GRU", "LSTM"))

VIEWS = frozenset(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that move values without changing them."""


@dataclass(frozen=True)
class Cut:
    """Where a network ends.

    Attributes:
        outputs: names of the values that become the outputs, in the order of the original.
        tail: types of the operators after the cut, in order.
        causes: types of the operators in ``tail`` that ncnn cannot compute.
        weighted: the number of operators in ``tail`` with weights. They are a second stage of the network.
    """

    outputs: tuple[str, ...]
    tail: tuple[str, ...]
    causes: tuple[str, ...]
    weighted: int = 0


def find_cut(reading: Reading, *, latest: bool = False, whole: bool = False) -> Cut | None:
    """Find the smallest set of tensors from which the part that ncnn cannot compute is computed.

    All nodes with weights that ncnn can compute, and that an output depends on, come before the cut. Among sets of the
    same size, the last one is taken, so that ncnn computes as much as it can.

    Args:
        reading: the model.
        latest: take the last tensors that ncnn can compute, in any number. Views of one tensor count once.
        whole: the model's own outputs must be computable from the tensors, too. By default, outputs that ncnn can
            compute stay outputs: in a detector, perhaps only the labels need an ArgMax, and the scores do not.

    Returns:
        None if ncnn can compute the whole network. Also None if fewer than half of the nodes with weights would remain,
        because an unsupported operator is in the middle of the network.
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
    """The part of a model before a cut, without inputs that only the tail reads. ``reading.model`` is changed.

    Values that are constant for the given input shapes become initializers, because nodes before the cut may read the
    shape of a tensor in the tail.
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
    """Whether a model has operators that ncnn may be unable to compute. This is fast, because nothing is run."""
    return any(node.op_type in HINTS or node.domain not in ("", "ai.onnx") for node in model.graph.all_nodes())


# --------------------------------------------------------------------------------------------------- what is possible


def _computing(reading: Reading) -> list[ir.Node]:
    """The nodes whose results depend on the inputs, in the order of the model."""
    return [node for node in reading.model.graph if not all(value.name in reading.constants for value in node.outputs)]


def _cannot(reading: Reading, nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """The nodes that ncnn cannot compute although it can compute their inputs. Found by lowering each node."""
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
    """The nodes that are needed to compute some values."""
    names, found = set(outputs), set()
    for node in reversed(nodes):
        if not names.isdisjoint(str(value.name) for value in node.outputs):
            found.add(node)
            names.update(reads(node))
    return found


def reads(node: ir.Node) -> Iterator[str]:
    """The names of the values that a node reads, including those that its subgraphs read from outside."""
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
    """The smallest set of values from which the wanted values can be computed without weights; the last such set.

    Args:
        reading: the model.
        before: the nodes that ncnn can compute.
        known: values that are outputs already. Nothing that is computed from them alone is needed.
        wanted: the values that the other nodes read.
        views_only: compute the wanted values only by nodes that move values without changing them.
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
    """The minimum vertex cut between the sources and the wanted values. Of several, the one nearest to the wanted ones.

    It is computed by the method of Ford and Fulkerson. The edge from the end "in" to the end "out" of a value has the
    capacity 1; edges between values have infinite capacity.

    Args:
        made: value -> the values that it is computed from; empty for a source. Values that are not keys are known.
        wanted: the values at which paths end.
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
            if at[1] == to[1]:  # through a value: the edge is used up, and can only be undone
                onward[at].remove(to)
                onward[to].add(at)
            elif at[0] == "out":
                onward[to].add(at)
            else:  # back between two values: undo the flow on that edge
                onward[at].remove(to)
    back: dict[_End, set[_End]] = {end: set() for end in onward}
    for at, follows in onward.items():
        for to in follows:
            back[to].add(at)
    behind = _reachable(back, ends & onward.keys())
    return {name for name in made if ("out", name) in behind and ("in", name) not in behind}


def _path(onward: Mapping[_End, set[_End]], begins: Iterable[_End], ends: set[_End]) -> list[_End]:
    """A shortest path to one of the ends; empty if there is none."""
    came = _reachable(onward, begins)
    end = next((at for at in came if at in ends), None)
    path: list[_End] = []
    while end is not None:
        path.append(end)
        end = came[end]
    return path[::-1]


def _reachable(onward: Mapping[_End, set[_End]], begins: Iterable[_End]) -> dict[_End, _End | None]:
    """Reachable node -> its predecessor, in breadth-first order."""
    came: dict[_End, _End | None] = dict.fromkeys(begins)
    queue = list(came)
    for at in queue:
        for to in sorted(onward[at]):
            if to not in came:
                came[to] = at
                queue.append(to)
    return came
