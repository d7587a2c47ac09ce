"""Writes an original as an ONNX file with fixed shapes, which other engines can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from .exporting import export_classic, export_dynamo
from .model import ModelSource

FILE = "original.onnx"


def as_onnx(source: ModelSource, folder: Path) -> Path:
    """Write an original as one ONNX file with the input shapes of a run.

    Its inputs are called ``input0`` and so on, its outputs ``output0``. The tools of some engines change other names,
    or use them as file names.

    Args:
        source: the original. If its file was cut, the part that ncnn computes is written.
        folder: the file is written here.

    Returns:
        The path of the file.

    Raises:
        ConvertError: the original is an ncnn model, or torch cannot export it.
    """
    import onnx

    if source.kind == "ncnn":
        raise ConvertError("the original is an ncnn model, which no other engine reads")
    path = source.file if source.kind == "onnx" else _exported(source, folder)
    model = onnx.load(str(path))
    graph = model.graph
    _drop_weights_from_inputs(graph)
    for entry, spec in zip(graph.input, source.inputs, strict=True):
        dims = entry.type.tensor_type.shape.dim
        del dims[:]
        dims.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in spec.original_shape)
    del graph.value_info[:]  # they may hold the sizes that were not fixed before
    _call_ends(graph)
    made = folder / FILE
    onnx.save(model, str(made))
    return made


def _drop_weights_from_inputs(graph: Any) -> None:
    """Drop the inputs that are weights. Models of IR version 3 and older list all weights there."""
    weights = {entry.name for entry in graph.initializer}
    fed = [entry for entry in graph.input if entry.name not in weights]
    del graph.input[:]
    graph.input.extend(fed)


def _call_ends(graph: Any) -> None:
    """Rename the inputs and outputs, and the other values that have one of the new names."""
    import onnx

    inputs = {entry.name: f"input{i}" for i, entry in enumerate(graph.input)}
    names = [f"output{i}" for i in range(len(graph.output))]
    outputs = dict(zip([entry.name for entry in graph.output], names))
    taken = {*inputs.values(), *names}
    others = {name: f"inner:{name}" for name in _names(graph) if name in taken}
    _rename(graph, others | outputs | inputs)
    for entry, name in zip(graph.output, names):
        if entry.name != name:  # the output is an input, or another output
            graph.node.append(onnx.helper.make_node("Identity", [entry.name], [name]))
            entry.name = name


def _names(graph: Any) -> set[str]:
    """The names of all values in a graph and in its subgraphs."""
    found = {entry.name for entry in graph.initializer}
    for node in graph.node:
        found.update(node.input, node.output)
        for inner in _subgraphs(node):
            found |= _names(inner)
    return found


def _subgraphs(node: Any) -> list[Any]:
    """The graphs in the attributes of a node."""
    return [graph for attribute in node.attribute for graph in (*attribute.graphs, attribute.g) if graph.ByteSize()]


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values in a graph and in its subgraphs."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _subgraphs(node):
            _rename(inner, names)
    for entry in (*graph.input, *graph.output, *graph.initializer):
        entry.name = names.get(entry.name, entry.name)


def _exported(source: ModelSource, folder: Path) -> Path:
    try:
        return export_classic(source.module, source.inputs, folder, detects=source.searches)
    except ConvertError:
        return export_dynamo(source.module, source.inputs, folder)
