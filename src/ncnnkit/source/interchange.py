"""An original as an ONNX file with fixed shapes: what other engines read."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConvertError
from .exporting import export_classic, export_dynamo
from .model import ModelSource

FILE = "original.onnx"


def as_onnx(source: ModelSource, folder: Path) -> Path:
    """Write an original as one ONNX file whose inputs have the shapes of a run.

    Args:
        source: the original. Where its file was cut, the part that ncnn computes.
        folder: gets the file.

    Raises:
        ConvertError: there is no ONNX file of it, and torch cannot write one.
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
    made = folder / FILE
    onnx.save(model, str(made))
    return made


def _exported(source: ModelSource, folder: Path) -> Path:
    try:
        return export_classic(source.module, source.inputs, folder, detects=source.searches)
    except ConvertError:
        return export_dynamo(source.module, source.inputs, folder)
