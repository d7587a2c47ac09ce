"""ncnnkit's own front end for ONNX: reads a file and lowers it to ncnn's layers, with one function for each operator.

=============  ==============================================================================
module         what it does
=============  ==============================================================================
reading        reads a file as a model with fixed shapes, in float32, with folded constants
quantized      turns a quantised model into one in floating point that keeps the scales
codes          quantisation parameters, and the graph while its operators are dequantised
dequantizing   one function for each quantised operator
control        resolves control flow: inlines branches, and unrolls loops
einsums        rewrites an Einsum that is a matrix product as MatMul
weights        adds initializers to a model
lowering       views, layers and Splits, with which the functions of the operators are written
elementwise    activations, arithmetic with broadcasting, comparisons
windows        convolution, pooling, padding
resampling     resizing, sampling at the points of a grid
axes           permutes, cuts and joins axes
indices        gathers and scatters at constant indices; look-up in a table
matrix         matrix products
reduce         reductions, softmax, normalisation
recurrent      RNN, GRU, LSTM
attention      scaled dot-product attention, rotary embeddings
spectra        Fourier transforms of real signals
sequences      lists of tensors, and control flow that could not be resolved
contrib        operators of ONNX Runtime's optimiser: the domain com.microsoft
groups         groups of nodes that compute one value from one other value, as functions
patterns       recognises groups of nodes that are one layer of ncnn
cutting        finds where to end a network that ncnn cannot compute completely
tails          recognises the operators after a cut as a decoder
heads          makes inputs what ncnnkit feeds: float32, channels first
hints          advice about operators that ncnn has no layer for
=============  ==============================================================================

A new operator is one function with ``@operator("Name")`` in the module it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConvertError
from ...model.graph import Graph
from ...model.scales import LayerScales
from ...samples.items import InputSpec
from . import (  # noqa: F401  # they fill the table
    attention,
    axes,
    contrib,
    elementwise,
    indices,
    matrix,
    recurrent,
    reduce,
    resampling,
    sequences,
    spectra,
    windows,
)
from .hints import hint_for, place
from .lowering import OPERATORS, Blob, Lowering, Node, Unsupported
from .patterns import write
from .quantized import scales_of
from .reading import Reading, fed, read

__all__ = ["OPERATORS", "Lowered", "lower", "lower_reading"]


@dataclass(frozen=True)
class Lowered:
    """A model as ncnn's graph, and the blobs of the original's values.

    Attributes:
        graph: fp32, not yet optimised; it includes the scales of a quantised original.
        places: name of a value of the original -> its blob. The blob has the same elements in the same order, perhaps
            in another shape. Values inside a fused layer have no blob.
    """

    graph: Graph
    places: Mapping[str, Blob]


def lower(path: Path, inputs: Sequence[InputSpec]) -> Graph:
    """Convert an ONNX file to ncnn's graph in fp32, not yet optimised.

    Args:
        path: the model.
        inputs: in the model's order.

    Returns:
        The graph. Its inputs are called in0, in1 and so on, its outputs out0, out1, in the model's order.

    Raises:
        ConvertError: the file cannot be read, or ncnn has no layer for one of its operators.
    """
    return lower_reading(read(path, [spec.original_shape for spec in inputs]), str(path)).graph


def lower_reading(reading: Reading, where: str = "") -> Lowered:
    """Lower a model that was read to ncnn's graph.

    Args:
        reading: the model.
        where: the file's name, for errors.

    Raises:
        ConvertError: ncnn has no layer for one of its operators.
    """
    lowering = Lowering(reading)
    graph, scales = reading.model.graph, dict[str, LayerScales]()
    for index, value in enumerate(fed(graph)):
        lowering.feed(str(value.name), f"in{index}")
    for node in graph:
        if all(value.name in reading.constants for value in node.outputs):
            continue
        at, before = Node(lowering, node), len(lowering.layers)
        try:
            write(at)
        except Unsupported as fault:
            raise ConvertError(f"{place(at)} {fault}", where=where, hint=hint_for(at)) from None
        if found := scales_of(node):
            scales |= {layer.name: found for layer in lowering.layers[before:] if layer.op.int8}
    made = lowering.graph([str(value.name) for value in graph.outputs])
    made.scales = {layer.name: scales[layer.name] for layer in made.layers if layer.name in scales}
    return Lowered(made, lowering.places(made))
