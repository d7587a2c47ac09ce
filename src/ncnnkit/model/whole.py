"""Inputs of whole numbers: what an Embed looks its rows up by.

ncnn's Embed reads the bits of int32, and every other layer takes a blob's bits for floating point. So an Embed may read
an input of the network alone, through copies at most; and copies of it must not be turned into 16 bits, which ncnn does
to what any layer reads that can store 16 bits. Serving processes feed such inputs as int32
(:func:`ncnnkit.onboard.network.whole_inputs`); everywhere else a sample is float32.
"""

from __future__ import annotations

from ..errors import ModelError
from .graph import Graph
from .ops import Mask

_KEEPS_32_BITS = Mask.NO_FP16_ARITHMETIC | Mask.NO_FP16_STORAGE | Mask.NO_BF16


def guard_whole_inputs(graph: Graph) -> None:
    """Mask the copies of inputs that Embeds read, so that every precision hands on their bits as they are.

    Raises:
        ModelError: an Embed reads what is computed, or another layer computes with the same input.
    """
    uses = graph.uses()
    for embed in [layer for layer in graph.layers if layer.type == "Embed"]:
        root = uses.root(embed.inputs[0])
        if uses.producer(root).type != "Input":
            raise ModelError(f"layer Embed {embed.name} looks up what the network computes; ncnn's reads whole numbers")
        others = [layer for layer in uses.readers(root) if layer.type != "Embed"]
        if others:
            raise ModelError(
                f"input {root!r} is looked up by layer Embed {embed.name} as whole numbers, and layer {others[0].type} "
                f"{others[0].name} computes with it",
                hint="give the network that input twice",
            )
        for layer in graph.layers:
            if layer.op.copies and uses.root(layer.inputs[0]) == root:
                layer.params["featmask"] = int(layer.get("featmask")) | int(_KEEPS_32_BITS)
