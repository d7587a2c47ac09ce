"""The wiring of a graph: the producer and the readers of each blob, kept up to date while a pass changes layers."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.graph import Graph, Layer
from ..model.ops import OPS, Value

LINEAR = frozenset(name for name, op in OPS.items() if {"num_output", "activation_type"} <= op.by_name.keys())
"""Convolutions and deconvolutions of all kinds, and InnerProduct: they have weights, a bias and a fused activation."""


class Wires:
    """A graph while a pass changes it. Use it in a ``with`` block.

    Iterating gives the layers in the order of execution, without dropped ones. Dropped layers are removed from the
    graph at the end of the block. In a valid graph, a blob has at most one reader.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {blob: layer for layer in graph.layers for blob in layer.outputs}
        self.reader = {blob: layer for layer in graph.layers for blob in layer.inputs}
        self._gone: set[int] = set()  # ids of dropped layers
        self._place: dict[int, int] = {}  # id of a layer -> id of the dropped layer that it replaces in the order

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
        """The only reader of the only output of ``layer``, if its feature mask allows fusing it into ``layer``."""
        follower = self.reader.get(layer.outputs[0]) if len(layer.outputs) == 1 else None
        return follower if follower and may_merge(layer, follower) else None

    def absorb(self, layer: Layer, follower: Layer) -> None:
        """Let ``layer`` produce the blob of ``follower``, at the place of ``follower``, and drop ``follower``.

        The place matters if the blob is an output, because a network's outputs have the order of the file.
        """
        del self.maker[layer.outputs[0]]
        self.reader.pop(layer.outputs[0], None)
        layer.outputs = list(follower.outputs)
        self.maker[layer.outputs[0]] = layer
        self._place[id(layer)] = id(follower)
        self._gone.add(id(follower))

    def skip(self, layer: Layer) -> bool:
        """Drop a layer whose outputs are copies of its inputs. Its readers then read the inputs.

        Returns:
            False, without any change, if the network's inputs and outputs would not keep their names and order.
        """
        pairs = list(zip(layer.inputs, layer.outputs, strict=True))
        if any(after not in self.reader for _, after in pairs):
            # An output of the network keeps its name, so the producer of the blob before it must produce it instead. An
            # unread blob of a Noop is not an output of the network, and must not become one.
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
        """The MemoryData of a blob, also through a Split; None for other blobs and for missing weights."""
        maker = self.maker[blob]
        while maker.op.copies:
            maker = self.maker[maker.inputs[0]]
        return maker if maker.type == "MemoryData" and "data" in maker.weights else None

    def unread(self, blob: str) -> None:
        """Drop a constant that nobody reads any more, or its copy by a Split."""
        self.reader.pop(blob, None)
        maker = self.maker.pop(blob)
        maker.outputs.remove(blob)
        maker.params.pop("shape_hints", None)  # they have one shape per output
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
    """Whether ``layer`` disables every feature that ``follower`` disables: a fused layer has the mask of ``layer``."""
    off = int(follower.params.get("featmask", 0))  # type: ignore[arg-type]
    return not off & ~int(layer.params.get("featmask", 0))  # type: ignore[arg-type]


def is_float(layer: Layer) -> bool:
    """Whether a layer computes in floating point, with its own weights."""
    p = layer.params
    return not (p.get("int8_scale_term") or p.get("quantize_term") or p.get("dynamic_weight"))


def become(layer: Layer, type: str, params: dict[str, Value]) -> None:
    """Change the type of a layer in place. Its name, blobs, shape hints and feature mask stay."""
    kept = {key: value for key, value in layer.params.items() if key in ("shape_hints", "featmask")}
    layer.type, layer.params, layer.weights = type, {**params, **kept}, {}
