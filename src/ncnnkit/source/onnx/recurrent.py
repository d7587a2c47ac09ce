"""Recurrent networks: RNN, GRU and LSTM over one sequence, with states as inputs and outputs."""

from __future__ import annotations

import numpy as np

from .axes import permuted
from .lowering import LARGEST_BATCH, Array, Blob, Node, Unsupported, operator

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 1, 3]}
"""ncnn's gates (R U N; I F O G) by their place in ONNX's (z r h; i o f c)."""
_ACTIVATIONS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
_DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}


@operator("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> None:
    layout, shape = int(node.attr("layout", 0)), node.shape(0)
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    if batch != 1 and any(node.has(5 + i) for i in range(2)):
        raise Unsupported(f"has states for a batch of {batch}")
    direction, hidden = _DIRECTIONS[node.attr("direction", "forward")], int(node.attr("hidden_size"))
    both = 2 if direction == 2 else 1
    _check(node, both, steps)
    weights = _weights(node, both, hidden)
    states = 2 if node.op == "LSTM" else 1
    shapes: list[tuple[int, ...]] = [(steps, both * hidden), *[(both, hidden)] * states]
    params = {"num_output": hidden, "weight_data_size": weights["weight_xc"].size, "direction": direction}
    if batch != 1:
        node.gives(*_one_by_one(node, weights, shapes, params))
        return
    inputs = [node.blob(0, (steps, shape[2]))]
    if any(node.has(5 + i) for i in range(states)):
        inputs += [
            node.blob(5 + i, (both, hidden)) if node.has(5 + i) else
            node.lowering.hold(np.zeros((both, hidden)), (both, hidden), f"{node.name}/state")
            for i in range(states)
        ]  # fmt: skip
    y, *final = node.lowering.emit(node.op, node.name, inputs, shapes, weights, **params)
    if layout and both == 2:  # else ONNX's (steps, directions, batch, hidden) has the same elements in the same order
        y = permuted(node, y, (steps, both, 1, hidden), (2, 0, 1, 3))
    node.gives(y, *final)


def _one_by_one(
    node: Node, weights: dict[str, Array], shapes: list[tuple[int, ...]], params: dict[str, int]
) -> list[Blob]:
    """A batch, one sequence after the other; each gets the same weights."""
    shape, layout = node.shape(0), int(node.attr("layout", 0))
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    if batch > LARGEST_BATCH:
        raise Unsupported(f"works on a batch of {batch}")
    x = node.blob(0) if layout else permuted(node, node.blob(0), shape, (1, 0, 2))
    rows = node.lowering.view(x, (batch, steps, shape[2]))
    parts = node.emit_many("Slice", [rows], [(1, steps, shape[2])] * batch, slices=(1,) * batch, axis=0)
    made = [
        node.lowering.emit(node.op, node.name, [node.lowering.view(p, (steps, shape[2]))], shapes, weights, **params)
        for p in parts
    ]
    both, hidden = shapes[1]
    joined = []
    for outputs, (size, side) in zip(zip(*made, strict=True), [(steps * both, hidden), *shapes[1:]], strict=True):
        flat = [node.lowering.view(blob, (1, size, side)) for blob in outputs]
        joined.append(node.emit("Concat", flat, (batch, size, side), axis=0))
    if layout:
        raise Unsupported(f"has a batch of {batch} in its first axis")
    y = permuted(node, joined[0], (batch, steps, both, hidden), (1, 2, 0, 3))
    return [y, *(permuted(node, state, (batch, both, hidden), (1, 0, 2)) for state in joined[1:])]


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
