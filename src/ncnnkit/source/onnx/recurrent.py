"""Recurrent networks: RNN, GRU and LSTM over one sequence, with states as inputs and outputs."""

from __future__ import annotations

import numpy as np

from .axes import permuted
from .lowering import LARGEST_BATCH, Array, Blob, Node, Shape, Unsupported, operator

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 1, 3]}
"""ncnn's gates (R U N; I F O G) by their place in ONNX's (z r h; i o f c)."""
_ACTIVATIONS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}


@operator("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> None:
    steps, batch, width = node.shape(0)
    direction, hidden = _DIRECTIONS[node.attr("direction", "forward")], int(node.attr("hidden_size"))
    both = 2 if direction == 2 else 1
    _check(node, both, steps)
    if batch > LARGEST_BATCH:
        raise Unsupported(f"works on a batch of {batch}")
    weights = _weights(node, both, hidden)
    shapes: list[Shape] = [(steps, both * hidden), *[(both, hidden)] * _STATES[node.op]]
    params = {"num_output": hidden, "weight_data_size": weights["weight_xc"].size, "direction": direction}
    # Each sequence of the batch by a layer of its own; the layers have the same weights.
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
    """The parts of a value whose second axis is the batch, without that axis."""
    first, batch, width = shape
    if batch == 1:
        return [node.lowering.view(blob, (first, width))]
    rows = node.lowering.view(permuted(node, blob, shape, (1, 0, 2)), (batch, first, width))
    parts = node.emit_many("Slice", [rows], [(1, first, width)] * batch, slices=(1,) * batch, axis=0)
    return [node.lowering.view(part, (first, width)) for part in parts]


def _as_batch(node: Node, blobs: list[Blob]) -> Blob:
    """The parts of a batch as one blob, the batch as its first axis."""
    if len(blobs) == 1:
        return blobs[0]
    rows = [node.lowering.view(blob, (1, *blob.shape)) for blob in blobs]
    return node.emit("Concat", rows, (len(blobs), *blobs[0].shape), axis=0)


def _layer(
    node: Node, inputs: list[Blob], shapes: list[Shape], weights: dict[str, Array], params: dict[str, int]
) -> list[Blob]:
    """One recurrent layer: its outputs at every step, and its last states.

    The last state is cut from the outputs, except an LSTM's cell, which is no part of them: a blob of the layer that
    nobody reads would become an output of the network.
    """
    cell = node.op == "LSTM" and node.is_read(2)
    y, *states = node.lowering.emit(node.op, node.name, inputs, shapes if cell else shapes[:1], weights, **params)
    found = [y]
    if node.is_read(1) or cell:
        found.append(_last(node, y, shapes[1], params["direction"]))
    if cell:  # the other outputs are read, too: they are added, times 0
        unread = states[0] if node.is_read(0) or node.is_read(1) else _sum(node, states[0], found[1])
        nothing = node.emit("BinaryOp", [unread], unread.shape, op_type=2, with_scalar=1, b=0.0)
        found.append(_sum(node, states[1], nothing))
    return found


def _sum(node: Node, one: Blob, other: Blob) -> Blob:
    return node.emit("BinaryOp", [one, other], one.shape, op_type=0)


def _last(node: Node, y: Blob, shape: Shape, direction: int) -> Blob:
    """The state after the last step: of a direction that goes backwards that is the first one."""
    steps, (both, hidden) = y.shape[0], shape
    ends = [steps - 1, 0] if both == 2 else [0 if direction == 1 else steps - 1]
    parts = [
        node.emit("Crop", [y], (1, hidden), starts=(row, i * hidden), ends=(row + 1, (i + 1) * hidden), axes=(0, 1))
        for i, row in enumerate(ends)
    ]
    return parts[0] if both == 1 else node.emit("Concat", parts, shape, axis=0)


def _check(node: Node, both: int, steps: int) -> None:
    said = [name.lower() for name in node.attr("activations", ()) or ()]
    if said and said != _ACTIVATIONS[node.op] * both:
        raise Unsupported(f"has the activations {', '.join(said)}")
    if node.attr("clip") is not None or node.attr("input_forget", 0):
        raise Unsupported("clips its gates, or couples them")
    if node.op == "GRU" and not node.attr("linear_before_reset", 0):
        raise Unsupported("resets the state before its product; ncnn's GRU resets the product")
    if node.has(7):
        raise Unsupported("has peephole connections")
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
    if node.op == "GRU":  # the last gate keeps its two biases apart
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
