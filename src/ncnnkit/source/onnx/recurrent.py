"""Recurrent networks: RNN, GRU and LSTM, with states as inputs and outputs.

A cell that ncnn supports becomes one layer for each sequence of the batch. Other cells are unrolled, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .axes import permuted
from .control import MOST_STEPS
from .lowering import LARGEST_BATCH, Array, Blob, Node, Shape, Unsupported, operator
from .matrix import inner_product

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 1, 3]}
"""The index in ONNX's gates (z r h; i o f c) of each of ncnn's gates (R U N; I F O G)."""
_ACTIVATIONS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}


@operator("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> None:
    steps, batch, width = node.shape(0)
    direction, hidden = _DIRECTIONS[node.attr("direction", "forward")], int(node.attr("hidden_size"))
    both = 2 if direction == 2 else 1
    _check_lengths(node, steps)
    if other := _what_ncnn_lacks(node, both):
        if steps > MOST_STEPS:
            raise Unsupported(f"{other}, and has more than {MOST_STEPS} steps")
        node.gives(*_step_by_step(node, both, hidden))
        return
    if batch > LARGEST_BATCH:
        raise Unsupported(f"works on a batch of {batch}")
    weights = _weights(node, both, hidden)
    shapes: list[Shape] = [(steps, both * hidden), *[(both, hidden)] * _STATES[node.op]]
    params = {"num_output": hidden, "weight_data_size": weights["weight_xc"].size, "direction": direction}
    # Each sequence of the batch gets a layer of its own. The layers have the same weights.
    sequences = _of_batch(node, node.blob(0), (steps, batch, width))
    states = [
        _of_batch(node, node.blob(5 + i), (both, batch, hidden)) if node.has(5 + i) else
        [node.lowering.hold(np.zeros((both, hidden)), (both, hidden), f"{node.name}/state")] * batch
        for i in range(_STATES[node.op])
    ] if any(node.has(5 + i) for i in range(_STATES[node.op])) else []  # fmt: skip
    made = [_layer(node, list(inputs), shapes, weights, params) for inputs in zip(sequences, *states, strict=True)]
    y, *final = (_as_batch(node, list(blobs)) for blobs in zip(*made, strict=True))
    # ONNX has (steps, directions, batch, hidden), and states of (directions, batch, hidden).
    if batch > 1:
        y = permuted(node, y, (batch, steps, both, hidden), (1, 2, 0, 3))
        final = [permuted(node, state, (batch, both, hidden), (1, 0, 2)) for state in final]
    node.gives(y, *final)


_STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}


def _of_batch(node: Node, blob: Blob, shape: Shape) -> list[Blob]:
    """Cut a value along its second axis, the batch, into blobs without that axis."""
    first, batch, width = shape
    if batch == 1:
        return [node.lowering.view(blob, (first, width))]
    rows = node.lowering.view(permuted(node, blob, shape, (1, 0, 2)), (batch, first, width))
    parts = node.split(rows, [1] * batch, 0)
    return [node.lowering.view(part, (first, width)) for part in parts]


def _as_batch(node: Node, blobs: list[Blob]) -> Blob:
    """Join the blobs of a batch. The batch becomes the first axis."""
    if len(blobs) == 1:
        return blobs[0]
    rows = [node.lowering.view(blob, (1, *blob.shape)) for blob in blobs]
    return node.emit("Concat", rows, (len(blobs), *blobs[0].shape), axis=0)


def _layer(
    node: Node, inputs: list[Blob], shapes: list[Shape], weights: dict[str, Array], params: dict[str, int]
) -> list[Blob]:
    """Write one recurrent layer. Returns its outputs at every step, and its last states.

    The last state is cut from the outputs at every step. Only the cell of an LSTM is an output blob of the layer,
    because it is not part of these. All output blobs must be read: an unread blob would be an output of the network.
    """
    cell = node.op == "LSTM" and node.is_read(2)
    y, *states = node.lowering.emit(node.op, node.name, inputs, shapes if cell else shapes[:1], weights, **params)
    found = [y]
    if node.is_read(1) or cell:
        found.append(_last(node, y, shapes[1], params["direction"]))
    if cell:  # the other output blobs are read, too: they are multiplied by 0 and added
        unread = states[0] if node.is_read(0) or node.is_read(1) else _sum(node, states[0], found[1])
        nothing = node.emit("BinaryOp", [unread], unread.shape, op_type=2, with_scalar=1, b=0.0)
        found.append(_sum(node, states[1], nothing))
    return found


def _sum(node: Node, one: Blob, other: Blob) -> Blob:
    return node.emit("BinaryOp", [one, other], one.shape, op_type=0)


def _last(node: Node, y: Blob, shape: Shape, direction: int) -> Blob:
    """The state after the last step. In the backward direction, this is the first row."""
    steps, (both, hidden) = y.shape[0], shape
    ends = [steps - 1, 0] if both == 2 else [0 if direction == 1 else steps - 1]
    parts = [
        node.emit("Crop", [y], (1, hidden), starts=(row, i * hidden), ends=(row + 1, (i + 1) * hidden), axes=(0, 1))
        for i, row in enumerate(ends)
    ]
    return parts[0] if both == 1 else node.emit("Concat", parts, shape, axis=0)


def _what_ncnn_lacks(node: Node, both: int) -> str:
    """How a node differs from ncnn's layer of the same name, as a clause; empty if it does not."""
    said = [name.lower() for name in node.attr("activations", ()) or ()]
    if said and said != _ACTIVATIONS[node.op] * both:
        return f"has the activations {', '.join(said)}"
    if node.attr("clip") is not None or node.attr("input_forget", 0):
        return "clips its gates, or couples them"
    if node.op == "GRU" and not node.attr("linear_before_reset", 0):
        return "resets the state before its product; ncnn's GRU resets the product"
    return "has peephole connections" if node.has(7) else ""


def _check_lengths(node: Node, steps: int) -> None:
    if node.has(4):
        lengths = node.needed_constant(4, "lengths of the sequences")
        if set(lengths.reshape(-1)) != {steps}:
            raise Unsupported("has sequences shorter than its input")


def _weights(node: Node, both: int, hidden: int) -> dict[str, Array]:
    gates, order = _GATES[node.op], _ORDER[node.op]

    def ordered(array: Array) -> Array:
        return np.concatenate([array[:, gate * hidden : (gate + 1) * hidden] for gate in order], axis=1)

    w, r = (node.needed_constant(i, "weights").astype(np.float32) for i in (1, 2))
    bias = (
        node.needed_constant(3, "bias").astype(np.float32)
        if node.has(3)
        else np.zeros((both, 2 * gates * hidden), np.float32)
    )
    of_input, of_state = ordered(bias[:, : gates * hidden]), ordered(bias[:, gates * hidden :])
    if node.op == "GRU":  # in the last gate, the two biases are separate
        joined = np.concatenate(
            [(of_input + of_state)[:, : 2 * hidden], of_input[:, 2 * hidden :], of_state[:, 2 * hidden :]], axis=1
        )
    else:
        joined = of_input + of_state
    return {
        "weight_xc": ordered(w),
        "bias_c": joined.reshape(both, -1, hidden),
        "weight_hc": ordered(r),
    }


# -------------------------------------------------------------------------------------------------------- step by step

_Function = Callable[[Blob], Blob]


def _step_by_step(node: Node, both: int, hidden: int) -> list[Blob | None]:
    """The outputs of an unrolled node. The sequences of the batch are rows of each step's blobs."""
    steps, batch, width = node.shape(0)
    sequence = node.blob(0, (steps * batch, width))
    directions = ["forward", "reverse"] if both == 2 else [node.attr("direction", "forward")]
    functions = list(_functions(node, both))
    each = len(_ACTIVATIONS[node.op])
    outputs: dict[tuple[int, int], Blob] = {}
    last: list[list[Blob]] = []
    for index, direction in enumerate(directions):
        cell = _Cell.of(node, index, hidden, functions[index * each : (index + 1) * each])
        states = [_first_state(node, 5 + i, index, both, (batch, hidden)) for i in range(_STATES[node.op])]
        projected = inner_product(node, sequence, cell.of_input, cell.bias)
        for step in range(steps) if direction == "forward" else reversed(range(steps)):
            now = _rows(node, projected, step * batch, batch)
            states = _STEPS[node.op](cell, now, *states)
            outputs[step, index] = states[0]
        last.append(states)
    ordered = [outputs[step, index] for step in range(steps) for index in range(both)]
    final = [_stacked(node, list(parts)) if node.is_read(1 + i) else None for i, parts in enumerate(zip(*last))]
    return [_stacked(node, ordered) if node.is_read(0) else None, *final]


def _first_state(node: Node, place: int, index: int, both: int, shape: Shape) -> Blob:
    """The initial state of a direction: a part of an input, or zeros."""
    batch, hidden = shape
    if not node.has(place):
        return node.lowering.hold(np.zeros(shape), shape, f"{node.name}/state")
    return _rows(node, node.blob(place, (both * batch, hidden)), index * batch, batch)


def _rows(node: Node, x: Blob, start: int, count: int) -> Blob:
    if count == x.shape[0]:
        return x
    return node.emit("Crop", [x], (count, x.shape[1]), starts=(start,), ends=(start + count,), axes=(0,))


def _stacked(node: Node, parts: list[Blob]) -> Blob:
    rows = sum(part.shape[0] for part in parts)
    return parts[0] if len(parts) == 1 else node.emit("Concat", parts, (rows, parts[0].shape[1]), axis=0)


@dataclass(frozen=True)
class _Cell:
    """One direction of a node: its weights in ONNX's order of gates, and methods to write a step.

    Attributes:
        node: the node that gives the layers its name.
        hidden: size of the state.
        of_input: weights of the input, (gates * hidden, width).
        of_state: weights of the state, (gates * hidden, hidden).
        bias: of the product with the input, (gates * hidden,).
        state_bias: of the product with the state, (gates * hidden,).
        peepholes: of an LSTM, (3, hidden) for i, o and f; None if it has none.
        functions: the activations. They clip their input if the node asks for it.
    """

    node: Node
    hidden: int
    of_input: Array
    of_state: Array
    bias: Array
    state_bias: Array
    peepholes: Array | None
    functions: list[_Function]

    @classmethod
    def of(cls, node: Node, index: int, hidden: int, functions: list[_Function]) -> _Cell:
        w, r = (node.needed_constant(i, "weights").astype(np.float32)[index] for i in (1, 2))
        biases = (
            node.needed_constant(3, "bias").astype(np.float32)[index].reshape(2, -1)
            if node.has(3)
            else np.zeros((2, w.shape[0]), np.float32)
        )
        peepholes = node.needed_constant(7, "peepholes")[index].reshape(3, hidden) if node.has(7) else None
        return cls(node, hidden, w, r, biases[0], biases[1], peepholes, functions)

    def product(self, state: Blob, first: int, count: int) -> Blob:
        """The product of a state with the weights of some gates, plus their bias."""
        rows = slice(first * self.hidden, (first + count) * self.hidden)
        return inner_product(self.node, state, self.of_state[rows], self.state_bias[rows])

    def gates(self, x: Blob) -> list[Blob]:
        return self.node.split(x, [self.hidden] * (x.shape[1] // self.hidden), 1)

    def op(self, kind: int, one: Blob, other: Blob) -> Blob:
        return self.node.emit("BinaryOp", [one, other], one.shape, op_type=kind)

    def peeped(self, gate: Blob, index: int, cell: Blob) -> Blob:
        """A gate plus its peephole connection to the cell."""
        if self.peepholes is None:
            return gate
        held = self.node.lowering.hold(self.peepholes[index], (1, self.hidden), f"{self.node.name}/peepholes")
        return self.op(_ADD, gate, self.op(_MUL, cell, held))


_ADD, _SUB, _MUL = 0, 1, 2


def _rnn_step(cell: _Cell, now: Blob, state: Blob) -> list[Blob]:
    return [cell.functions[0](cell.op(_ADD, now, cell.product(state, 0, 1)))]


def _gru_step(cell: _Cell, now: Blob, state: Blob) -> list[Blob]:
    gate, new = cell.functions
    z, r, h = cell.gates(now)
    of_z, of_r = cell.gates(cell.product(state, 0, 2))
    z, r = gate(cell.op(_ADD, z, of_z)), gate(cell.op(_ADD, r, of_r))
    if cell.node.attr("linear_before_reset", 0):
        of_h = cell.op(_MUL, r, cell.product(state, 2, 1))
    else:
        of_h = cell.product(cell.op(_MUL, r, state), 2, 1)
    candidate = new(cell.op(_ADD, h, of_h))
    # (1 - z) * candidate + z * state
    return [cell.op(_ADD, candidate, cell.op(_MUL, z, cell.op(_SUB, state, candidate)))]


def _lstm_step(cell: _Cell, now: Blob, state: Blob, kept: Blob) -> list[Blob]:
    gate, new, out = cell.functions
    i, o, f, c = cell.gates(cell.op(_ADD, now, cell.product(state, 0, 4)))
    i = gate(cell.peeped(i, 0, kept))
    if cell.node.attr("input_forget", 0):
        f = cell.node.emit("BinaryOp", [i], i.shape, op_type=7, with_scalar=1, b=1.0)
    else:
        f = gate(cell.peeped(f, 2, kept))
    kept = cell.op(_ADD, cell.op(_MUL, f, kept), cell.op(_MUL, i, new(c)))
    return [cell.op(_MUL, gate(cell.peeped(o, 1, kept)), out(kept)), kept]


_STEPS: dict[str, Callable[..., list[Blob]]] = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}

_FUNCTIONS: dict[str, tuple[str, dict[str, float]]] = {
    "sigmoid": ("Sigmoid", {}), "tanh": ("TanH", {}), "relu": ("ReLU", {}), "softplus": ("Softplus", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}), "elu": ("ELU", {"alpha": 1.0}),
    "leakyrelu": ("ReLU", {"slope": 0.01}),
}  # fmt: skip
"""Activation -> ncnn's layer, and its params with ONNX's default values."""


def _functions(node: Node, both: int) -> Iterator[_Function]:
    """The activations of a node, in order. ``activation_alpha`` and ``_beta`` list numbers only for those with params.

    The input of an activation is clipped if the node asks for it. ONNX Runtime does not clip the cell of an LSTM.
    """
    given = {name: iter(node.attr(f"activation_{name}", ()) or ()) for name in ("alpha", "beta")}
    limit = node.attr("clip")
    for place, name in enumerate(node.attr("activations", ()) or _ACTIVATIONS[node.op] * both):
        if name.lower() not in _FUNCTIONS:
            raise Unsupported(f"has the activation {name}")
        kind, defaults = _FUNCTIONS[name.lower()]
        params = {
            key: float(next(given["beta" if key == "beta" else "alpha"], value)) for key, value in defaults.items()
        }
        clipped = limit is not None and not (node.op == "LSTM" and place % 3 == 2)
        yield _function(node, kind, params, limit if clipped else None)


def _function(node: Node, kind: str, params: dict[str, float], limit: float | None) -> _Function:
    def apply(x: Blob) -> Blob:
        if limit is not None:
            x = node.emit("Clip", [x], x.shape, min=-limit, max=limit)
        return node.emit(kind, [x], x.shape, **params)

    return apply
