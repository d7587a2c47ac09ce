"""ONNX -> ncnn, without pnnx: reading, patterns, and one function an operator.

=============  ==========================================================================
module         what is in it
=============  ==========================================================================
reading        the file as a model of fixed shapes in float32, with all constants known
quantized      quantised models as models in floating point, with their scales
codes          what codes stand for, and a model while that replaces them
dequantizing   one function for each quantised operator
control        the branch that is taken, and the steps of a loop, in its place
einsums        an Einsum that is a product of matrices, as MatMul
weights        new constants of a model
lowering       views, layers, Splits: what the operators' functions are written with
elementwise    activations, arithmetic with broadcasting, comparisons
windows        convolution, pooling, padding, resizing
axes           what moves, cuts and joins axes
indices        gathering and scattering at constant places, the look-up in a table
matrix         products of matrices
reduce         sums and the like, softmax, normalisation
recurrent      RNN, GRU, LSTM
attention      scaled dot products, rotary embeddings
spectra        Fourier transforms of real signals
sequences      lists of tensors, and the control flow that is left
contrib        what ONNX Runtime's optimiser writes: the domain com.microsoft
groups         groups of nodes that compute one value from one other, as functions
patterns       groups of nodes that are one layer of ncnn
cutting        where to end a network that ncnn cannot compute completely
tails          what comes after a cut, recognised as a decoder
heads          inputs as ncnnkit feeds them: float32, channels first
hints          what to do about an operator that ncnn has no layer for
=============  ==========================================================================

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
from . import attention, axes, contrib, elementwise, indices, matrix, recurrent, reduce, sequences, spectra, windows  # noqa: F401  # they fill the table
from .hints import hint_for, place
from .lowering import OPERATORS, Blob, Lowering, Node, Unsupported
from .patterns import write
from .quantized import scales_of
from .reading import Reading, fed, read

__all__ = ["OPERATORS", "Lowered", "lower", "lower_reading"]


@dataclass(frozen=True)
class Lowered:
    """A model as ncnn's graph, and what its blobs are in the original.

    Attributes:
        graph: fp32, not yet optimised; it holds the scales of a quantised original.
        places: name of a value of the original -> its blob. The blob holds the value's elements in their order, in
            another shape. Values that became part of a larger layer have none.
    """

    graph: Graph
    places: Mapping[str, Blob]


def lower(path: Path, inputs: Sequence[InputSpec]) -> Graph:
    """An ONNX file as ncnn's graph, fp32, not yet optimised.

    Args:
        path: the model.
        inputs: in the model's order.

    Returns:
        Its inputs are called in0, in1 and so on, its outputs out0, out1, in the model's order.

    Raises:
        ConvertError: the file cannot be read, or ncnn has no layer for one of its operators.
    """
    return lower_reading(read(path, [spec.original_shape for spec in inputs]), str(path)).graph


def lower_reading(reading: Reading, where: str = "") -> Lowered:
    """A model that was read as ncnn's graph.

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
