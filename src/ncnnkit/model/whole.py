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

COPIES = ("Split", "Reshape")
"""Layers that hand on the bits of what they read; :func:`ncnnkit.onboard.network.whole_inputs` repeats them."""

_KEEPS_32_BITS = Mask.NO_FP16_ARITHMETIC | Mask.NO_FP16_STORAGE | Mask.NO_BF16


def guard_whole_inputs(graph: Graph) -> None:
    """Mask the copies of inputs that Embeds read, so that every precision hands on their bits as they are.

    Raises:
        ModelError: an Embed reads what is computed, or another layer computes with the same input.
    """
    sources: dict[str, str] = {}  # blob -> the input of the network that it is a copy of
    for layer in graph.layers:
        if layer.type == "Input":
            sources.update((blob, blob) for blob in layer.outputs)
        elif layer.type in COPIES and layer.inputs[0] in sources:
            sources.update(dict.fromkeys(layer.outputs, sources[layer.inputs[0]]))
    looked_up: dict[str, str] = {}
    for layer in graph.layers:
        if layer.type == "Embed":
            if layer.inputs[0] not in sources:
                raise ModelError(
                    f"layer Embed {layer.name} looks up what the network computes, but ncnn's Embed reads whole numbers"
                )
            looked_up[sources[layer.inputs[0]]] = layer.name
    for layer in graph.layers:
        read = {sources[blob] for blob in layer.inputs if blob in sources} & looked_up.keys()
        if read and layer.type in COPIES:
            layer.params["featmask"] = int(layer.get("featmask")) | int(_KEEPS_32_BITS)
        elif read and layer.type != "Embed":
            name = min(read)
            raise ModelError(
                f"input {name!r} is looked up by layer Embed {looked_up[name]} as whole numbers, and layer "
                f"{layer.type} {layer.name} computes with it",
                hint="give the network that input twice",
            )
