"""Inputs of whole numbers, which select the rows of an Embed.

ncnn's Embed reads int32, and every other layer reads the bits of a blob as floating point. So an Embed may only read an
input of the network, or a copy of it. The copies must not be converted to 16 bits; ncnn does this to the inputs of
every layer that can store 16 bits. Serving processes feed such inputs as int32
(:func:`ncnnkit.onboard.network.whole_inputs`); everywhere else a sample is float32.
"""

from __future__ import annotations

from ..errors import ModelError
from .graph import Graph
from .ops import Mask

COPIES = ("Split", "Reshape")
"""Layer types that keep the bits of their input. :func:`ncnnkit.onboard.network.whole_inputs` has the same list."""

_KEEPS_32_BITS = Mask.NO_FP16_ARITHMETIC | Mask.NO_FP16_STORAGE | Mask.NO_BF16


def guard_whole_inputs(graph: Graph) -> None:
    """Set the mask of the layers that copy the inputs of Embeds, so that every precision keeps their bits.

    Raises:
        ModelError: an Embed reads a computed blob, or another layer computes with the same input.
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
                    f"layer Embed {layer.name} reads a computed blob, but ncnn's Embed reads whole numbers"
                )
            looked_up[sources[layer.inputs[0]]] = layer.name
    for layer in graph.layers:
        read = {sources[blob] for blob in layer.inputs if blob in sources} & looked_up.keys()
        if read and layer.type in COPIES:
            layer.params["featmask"] = int(layer.get("featmask")) | int(_KEEPS_32_BITS)
        elif read and layer.type != "Embed":
            name = min(read)
            raise ModelError(
                f"layer Embed {looked_up[name]} reads input {name!r} as whole numbers, but layer "
                f"{layer.type} {layer.name} computes with it",
                hint="give the network two inputs with these values, one for each use",
            )
