"""Resolves control flow: inlines the branch of an If that is taken, and unrolls loops.

ncnn has no control flow. If a condition or a number of steps does not depend on the network's inputs, it is known
before the network runs. Control flow that depends on the inputs remains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .weights import hold

Array = NDArray[Any]

MOST_STEPS = 64
"""A loop with more steps is not unrolled, because the network would have too many layers."""

RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
"""Operators with random results. They are not constant, even if they have no inputs."""


def resolve(graph: ir.Graph, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Replace every If by the branch that is taken, and every Loop and Scan by its steps.

    Only nodes of the graph itself are replaced. Control flow inside a branch or a step is resolved by the next call.

    Args:
        graph: it is changed.
        constants: name -> value that does not depend on the inputs.
        shapes: name -> shape of each value that has one.

    Returns:
        Whether anything changed. Shapes and constants must then be computed again.
    """
    found = False
    for node in list(graph):
        if node.domain or node.op_type not in _RESOLVED:
            continue
        at = _Place(graph, node, constants, shapes)
        results = _RESOLVED[node.op_type](at)
        if results is not None:
            at.replace(results)
            found = True
    return found


class _Place:
    """A node with control flow, with its graph and the known shapes and constants."""

    def __init__(
        self, graph: ir.Graph, node: ir.Node, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.graph, self.node, self.shapes, self.constants = graph, node, shapes, constants
        self._made: set[ir.Value] = set()

    def constant(self, index: int) -> Array | None:
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return None if value is None else self.constants.get(str(value.name))

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        given = self.node.attributes.get(name)
        return list(default) if given is None else [int(number) for number in given.as_ints()]

    def hold(self, array: Array, name: str) -> ir.Value:
        """A new constant of the graph."""
        return hold(self.graph, array, f"{self.node.name or self.node.op_type}/{name}")

    def add(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Insert a new node before this one, and return its output."""
        made = ir.node(operator, inputs=list(inputs), attributes=attributes)
        self.graph.insert_before(self.node, made)
        self._made.update(made.outputs)
        return made.outputs[0]

    def put(self, body: ir.Graph, inputs: Sequence[ir.Value]) -> list[ir.Value]:
        """Move the nodes of a subgraph before this node, and connect its inputs to these values. Return its outputs."""
        results = list(body.outputs)
        body.outputs.clear()
        nodes = list(body)
        body.remove(nodes)
        self.graph.insert_before(self.node, nodes)
        self._made.update(value for node in nodes for value in node.outputs)
        given = dict(zip(body.inputs, inputs, strict=True))
        ir.convenience.replace_all_uses_with(list(given), list(given.values()))
        return [given.get(value, value) for value in results]

    def own(self, body: ir.Graph) -> ir.Graph:
        """The subgraph of this node after moving its initializers to the graph, so that all steps share them."""
        for value in list(body.initializers.values()):
            del body.initializers[str(value.name)]
            while value.name in self.graph.initializers:
                value.name = f"{value.name}_"
            self.graph.register_initializer(value)
        return body

    def joined(self, parts: Sequence[ir.Value], axis: int) -> ir.Value:
        """Stack values of the same shape along a new axis."""
        if self.graph.opset_imports.get("", 1) < 13:
            rows = [self.add("Unsqueeze", part, axes=[axis]) for part in parts]
        else:
            axes = self.hold(np.array([axis]), "axis")
            rows = [self.add("Unsqueeze", part, axes) for part in parts]
        return self.add("Concat", *rows, axis=axis)

    def replace(self, results: Sequence[ir.Value]) -> None:
        """Remove the node. Readers of its outputs read these values instead."""
        names = [value.name for value in self.node.outputs]
        ir.convenience.replace_all_uses_with(list(self.node.outputs), list(results), replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)
        for value, name in zip(results, names):
            if value in self._made:  # values from outside keep their names
                value.name = name


def _branch(at: _Place) -> list[ir.Value] | None:
    condition = at.constant(0)
    if condition is None:
        return None
    return at.put(at.own(at.node.attributes["then_branch" if condition.all() else "else_branch"].as_graph()), [])


def _loop(at: _Place) -> list[ir.Value] | None:
    """Unroll a Loop. None if its number of steps depends on the inputs or is too large."""
    body = at.node.attributes["body"].as_graph()
    carried = [value for value in at.node.inputs[2:] if value is not None]
    collects = len(body.outputs) - 1 > len(carried)
    steps = _steps(at, body)
    if steps is None or steps > MOST_STEPS or (steps < 1 and collects):
        return None
    at.own(body)
    made: list[list[ir.Value]] = []
    always = at.hold(np.array(True), "condition")
    for step in range(steps):
        number = at.hold(np.array(step), f"step{step}")
        _, *results = at.put(body.clone(allow_outer_scope_values=True), [number, always, *carried])
        carried = results[: len(carried)]
        made.append(results[len(carried) :])
    return [*carried, *(at.joined(parts, 0) for parts in zip(*made))]


def _steps(at: _Place, body: ir.Graph) -> int | None:
    """The number of steps of a Loop, or a number above MOST_STEPS; None if it depends on the inputs."""
    most, goes_on = at.constant(0), at.constant(1)
    if (at.has(0) and most is None) or (at.has(1) and goes_on is None):
        return None
    limit = MOST_STEPS + 1 if most is None else max(0, int(most.reshape(-1)[0]))
    if goes_on is None or (goes_on.all() and _goes_on(body)):
        return limit
    if not goes_on.all():
        return 0
    found = _independent(at, body)
    if found is None:
        return None
    condition, places = found
    state = [at.constant(2 + place) for place in places]
    names = [str(body.inputs[2 + place].name) for place in places]
    number, again = (str(value.name) for value in body.inputs[:2])
    for step in range(min(limit, MOST_STEPS)):
        given = {number: np.array(step), again: np.array(True), **dict(zip(names, state))}
        wanted, *state = condition.run(None, given)
        if not np.all(wanted):
            return step + 1
    return limit


def _independent(at: _Place, body: ir.Graph) -> tuple[ReferenceEvaluator, list[int]] | None:
    """The part of a Loop's body that computes its condition, and the indices of the carried values that it reads.

    The part takes the number of the step, the condition and these values. It returns the next condition and the next
    values. None if the condition depends on the network's inputs.
    """
    places = [place for place in range(len(body.inputs) - 2) if at.constant(2 + place) is not None]
    while True:
        known = {str(value.name) for value in (*body.inputs[:2], *(body.inputs[2 + place] for place in places))}
        outside = {name: array for name, array in at.constants.items() if name not in known}
        for name, value in body.initializers.items():
            if value.const_value is not None:
                outside[str(name)] = value.const_value.numpy()
        nodes = []
        for node in body:
            whole = all(v is None or v.name in known or v.name in outside for v in node.inputs)
            inner = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
            if whole and not inner and node.op_type not in RANDOM:
                known.update(str(value.name) for value in node.outputs)
                nodes.append(node)
        kept = [place for place in places if str(body.outputs[1 + place].name) in known | outside.keys()]
        if kept == places:
            break
        places = kept
    results = [str(body.outputs[0].name), *(str(body.outputs[1 + place].name) for place in places)]
    if results[0] not in known | outside.keys():
        return None
    inputs = [*body.inputs[:2], *(body.inputs[2 + place] for place in places)]
    read = {str(value.name) for node in nodes for value in node.inputs if value is not None} | {*results}
    graph = helper.make_graph(
        [ir.serde.serialize_node(node) for node in nodes],
        "what decides whether a Loop goes on",
        [onnx.ValueInfoProto(name=str(value.name)) for value in inputs],
        [onnx.ValueInfoProto(name=name) for name in results],
        [onnx.numpy_helper.from_array(outside[name], name) for name in sorted(read & outside.keys())],
    )
    versions = [helper.make_opsetid(domain, number) for domain, number in at.graph.opset_imports.items()]
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=versions)), places


def _goes_on(body: ir.Graph) -> bool:
    """Whether a Loop's body returns its condition unchanged, or always returns true."""
    condition: ir.Value | None = body.outputs[0]
    while condition is not None:
        if condition is body.inputs[1]:
            return True
        if condition.const_value is not None:
            return bool(condition.const_value.numpy().all())
        maker = condition.producer()
        condition = maker.inputs[0] if maker is not None and maker.op_type in ("Identity", "Cast") else None
    return False


def _scan(at: _Place) -> list[ir.Value] | None:
    """Unroll a Scan. Its steps are the indices of an axis, so their number is known."""
    body = at.node.attributes["body"].as_graph()
    read = int(at.node.attributes["num_scan_inputs"].as_int())
    values = [value for value in at.node.inputs if value is not None]
    carried, scanned = values[: len(values) - read], values[len(values) - read :]
    if at.graph.opset_imports.get("", 1) < 9 or any(value.name not in at.shapes for value in scanned):
        return None  # before opset 9, a Scan had a batch axis
    written = len(body.outputs) - len(carried)
    axes = at.numbers("scan_input_axes", [0] * read)
    backwards = at.numbers("scan_input_directions", [0] * read)
    out_axes = at.numbers("scan_output_axes", [0] * written)
    out_backwards = at.numbers("scan_output_directions", [0] * written)
    shapes = [at.shapes[str(value.name)] for value in scanned]
    steps = shapes[0][axes[0]]
    if not 0 < steps <= MOST_STEPS:
        return None
    at.own(body)
    made: list[list[ir.Value]] = []
    for step in range(steps):
        parts = []
        for value, shape, axis, back in zip(scanned, shapes, axes, backwards):
            place = at.hold(np.array(steps - 1 - step if back else step), f"place{step}")
            parts.append(at.add("Gather", value, place, axis=axis % len(shape)))
        results = at.put(body.clone(allow_outer_scope_values=True), [*carried, *parts])
        carried = results[: len(carried)]
        made.append(results[len(carried) :])
    return [
        *carried,
        *(at.joined(row[::-1] if back else row, axis) for row, axis, back in zip(zip(*made), out_axes, out_backwards)),
    ]


_RESOLVED = {"If": _branch, "Loop": _loop, "Scan": _scan}
"""Operator -> function that inserts the nodes that replace it, and returns their outputs; None if it cannot."""
