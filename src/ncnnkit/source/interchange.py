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
    for entry, spec in zip(model.graph.input, source.inputs, strict=True):
        dims = entry.type.tensor_type.shape.dim
        del dims[:]
        dims.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in spec.original_shape)
    del model.graph.value_info[:]  # they may hold the sizes that were not fixed before
    ends = [*((entry.name, f"input{i}") for i, entry in enumerate(model.graph.input))]
    ends += [(entry.name, f"output{i}") for i, entry in enumerate(model.graph.output)]
    _rename(model.graph, dict(ends))
    made = folder / FILE
    onnx.save(model, str(made))
    return made


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values in a graph and in its subgraphs."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                _rename(inner, names)
    for entry in (*graph.input, *graph.output, *graph.initializer):
        entry.name = names.get(entry.name, entry.name)


def _exported(source: ModelSource, folder: Path) -> Path:
    try:
        return export_classic(source.module, source.inputs, folder, detects=source.searches)
    except ConvertError:
        return export_dynamo(source.module, source.inputs, folder)
