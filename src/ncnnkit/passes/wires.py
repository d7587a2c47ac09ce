"""The wiring a pass works on: who makes and who reads each blob, kept true while layers merge and vanish."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.graph import Graph, Layer
from ..model.ops import OPS, Value

LINEAR = frozenset(name for name, op in OPS.items() if {"num_output", "activation_type"} <= op.by_name.keys())
"""Convolutions and deconvolutions of all kinds, and InnerProduct: weights, a bias, then an activation of their own."""


class Wires:
    """A graph while one pass rewires it; use it in a ``with`` block.

    Iterating gives the layers in running order, without those dropped meanwhile; they leave the graph at the end of
    the block. A well-formed graph has one reader a blob at most, so every map is one to one.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {blob: layer for layer in graph.layers for blob in layer.outputs}
        self.reader = {blob: layer for layer in graph.layers for blob in layer.inputs}
        self._gone: set[int] = set()  # ids of dropped layers
        self._place: dict[int, int] = {}  # id of a layer -> id of the dropped one whose place it takes

    def __enter__(self) -> Wires:
        return self

    def __exit__(self, *_: object) -> None:
        moved = {id(layer): layer for layer in self.graph.layers if id(layer) in self._place.keys() - self._gone}
        placed = {self._place[key]: layer for key, layer in moved.items()}
        self.graph.layers = [
            placed.get(id(layer), layer)
            for layer in self.graph.layers
            if id(layer) in placed or not (id(layer) in moved or id(layer) in self._gone)
        ]

    def __iter__(self) -> Iterator[Layer]:
        return (layer for layer in self.graph.layers if id(layer) not in self._gone)

    def follower(self, layer: Layer) -> Layer | None:
        """The one layer that reads the one output of ``layer``, if it may merge into it (its feature mask allows)."""
        follower = self.reader.get(layer.outputs[0]) if len(layer.outputs) == 1 else None
        return follower if follower and may_merge(layer, follower) else None

    def absorb(self, layer: Layer, follower: Layer) -> None:
        """``layer`` now makes the blob ``follower`` made, in its place; ``follower`` is dropped.

        The place matters where the blob is an output: a network's outputs have the order of the file.
        """
        del self.maker[layer.outputs[0]]
        self.reader.pop(layer.outputs[0], None)
        layer.outputs = list(follower.outputs)
        self.maker[layer.outputs[0]] = layer
        self._place[id(layer)] = id(follower)
        self._gone.add(id(follower))

    def skip(self, layer: Layer) -> bool:
        """Drop a layer with as many outputs as inputs, each the copy of one: its readers read the inputs instead.

        Returns:
            False, and nothing is done, where the network's inputs and outputs would not keep their names and order.
        """
        pairs = list(zip(layer.inputs, layer.outputs, strict=True))
        if any(after not in self.reader for _, after in pairs):
            # An output of the network keeps its name, so what makes the blob before it must make it instead. What a
            # Noop makes and no layer reads is no output of the network, and must not become one.
            maker = self.maker[layer.inputs[0]]
            if len(pairs) > 1 or len(maker.outputs) > 1 or maker.type == "Input" or layer.type == "Noop":
                return False
            self.absorb(maker, layer)
            return True
        for before, after in pairs:
            reader = self.reader.pop(after)
            reader.inputs = [before if blob == after else blob for blob in reader.inputs]
            self.reader[before] = reader
        self.drop(layer)
        return True

    def constant(self, blob: str) -> Layer | None:
        """The MemoryData a blob holds, whether a Split copied it or not; None for other blobs and absent weights."""
        maker = self.maker[blob]
        while maker.op.copies:
            maker = self.maker[maker.inputs[0]]
        return maker if maker.type == "MemoryData" and "data" in maker.weights else None

    def unread(self, blob: str) -> None:
        """Nobody reads this constant any more: drop it, or the copy a Split made of it."""
        self.reader.pop(blob, None)
        maker = self.maker.pop(blob)
        maker.outputs.remove(blob)
        maker.params.pop("shape_hints", None)  # they count one shape an output
        if not maker.outputs:
            self._gone.add(id(maker))
            for before in maker.inputs:
                self.unread(before)

    def drop(self, layer: Layer) -> None:
        """Drop a layer whose outputs no layer reads any more."""
        for blob in layer.outputs:
            del self.maker[blob]
        self._gone.add(id(layer))


def may_merge(layer: Layer, follower: Layer) -> bool:
    """Whether ``layer`` has every feature off that ``follower`` has off: a merged layer has ``layer``'s mask."""
    off = int(follower.params.get("featmask", 0))  # type: ignore[arg-type]
    return not off & ~int(layer.params.get("featmask", 0))  # type: ignore[arg-type]


def is_float(layer: Layer) -> bool:
    """Whether a layer computes in floating point, with weights of its own."""
    p = layer.params
    return not (p.get("int8_scale_term") or p.get("quantize_term") or p.get("dynamic_weight"))


def become(layer: Layer, type: str, params: dict[str, Value]) -> None:
    """Make a layer one of another type, in place; its name, blobs, shape hints and feature mask stay."""
    kept = {key: value for key, value in layer.params.items() if key in ("shape_hints", "featmask")}
    layer.type, layer.params, layer.weights = type, {**params, **kept}, {}
