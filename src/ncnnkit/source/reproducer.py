"""Writes one layer as files that can be attached to a bug report for ncnn or ncnnkit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .. import quoting
from ..errors import StorageError
from ..model import ncnnfile
from ..model.graph import Graph, Layer
from .bisection import Bisection, InnerTensor, LayerCheck
from .model import Array, ModelSource, say

FILES = ("layer.param", "layer.bin", "output.npy", "reproduce.py")
"""The files that every reproducer has."""

_SCRIPT = """{about}

import ncnn
import numpy as np

net = ncnn.Net()
for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
    setattr(net.opt, f"use_{{option}}", False)
net.load_param("layer.param")
net.load_model("layer.bin")
extractor = net.create_extractor()
inputs = [np.load(f"input-{{index}}.npy") for index in range({inputs})]
for index, array in enumerate(inputs):
    extractor.input(f"in{{index}}", ncnn.Mat(array).clone())
_, found = extractor.extract("out0")
found, expected = np.array(found).reshape(-1).astype(float), np.load("output.npy").reshape(-1)
print("ncnn", ncnn.__version__)
print("ncnn:    ", found[:8])
print("original:", expected[:8])
print("SQNR:    ", 10 * np.log10(np.sum(expected**2) / np.sum((found - expected) ** 2)), "dB")
"""


def check_folder(folder: Path) -> None:
    """Check early that a reproducer can be written to a folder and would not replace other files.

    Raises:
        StorageError: the folder is a file, cannot be written, or contains other files.
    """
    where = str(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageError("is a file, not a folder", where=where, hint="give another name with --reproducer")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError("cannot be written", where=where, hint="give another folder with --reproducer")
    if any(folder.iterdir()) and not (folder / FILES[-1]).is_file():
        raise StorageError("is not empty, and holds no reproducer", where=where, hint="give another folder")


def write_reproducer(
    folder: Path, source: ModelSource, found: Bisection, check: LayerCheck, sample: Sequence[Array]
) -> list[str]:
    """Write a layer, its inputs and its correct output.

    Args:
        folder: is created if needed. The files are ``layer.param``, ``layer.bin``, ``input-0.npy`` and so on,
            ``output.npy``, ``reproduce.py`` and, for an ONNX model, the same part of the model as ``layer.onnx``.
        source: the original.
        found: the comparison.
        check: the layer.
        sample: the inputs of the whole network.

    Returns:
        The names of the files.

    Raises:
        StorageError: the folder cannot be written.
    """
    inputs = zip(found.graph.inputs, source.inputs, sample, strict=True)
    tensors = {
        blob: InnerTensor(spec.name, "input", spec.as_original(np.asarray(array))) for blob, spec, array in inputs
    }
    shapes = dict(zip(found.graph.inputs, found.graph.input_shapes()))
    for row in found.layers:
        tensors[row.blob], shapes[row.blob] = row.tensor, row.shape
    layers, begins = _piece(found.graph, check.blob, tensors.keys())
    known = {blob: tensors[blob].values.reshape(shapes[blob]) for blob in (*begins, check.blob)}
    graph = _alone(layers, begins, check.blob, known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ncnnfile.save(graph, folder / "layer.param")
        files = list(FILES)
        for index, blob in enumerate(begins):
            files.append(f"input-{index}.npy")
            np.save(folder / files[-1], np.ascontiguousarray(known[blob], np.float32))
        np.save(folder / "output.npy", known[check.blob].astype(np.float32))
        about = f"ncnn computes {check.type} {check.layer} otherwise than the original does: {check.tensor.maker}."
        script = _SCRIPT.format(about=quoting.python(about), inputs=len(begins))
        (folder / "reproduce.py").write_text(script, encoding="utf-8")
        if source.kind == "onnx" and _save_onnx(source, [tensors[b] for b in begins], check.tensor.name, folder):
            files.append("layer.onnx")
    except OSError as error:
        raise StorageError(f"cannot be written: {say(error)}", where=str(folder)) from None
    return files


def _piece(graph: Graph, blob: str, known: Iterable[str]) -> tuple[list[Layer], list[str]]:
    """(the layers that compute a blob from blobs with known values, these blobs)."""
    ends = set(known) - {blob}
    needed: set[str] = {blob}
    begins: set[str] = set()
    layers: list[Layer] = []
    for layer in reversed(graph.layers):
        if needed.isdisjoint(layer.outputs):
            continue
        layers.append(layer)
        for name in layer.inputs:
            (begins if name in ends else needed).add(name)
    return layers[::-1], sorted(begins, key=[name for layer in graph.layers for name in layer.outputs].index)


def _alone(layers: Sequence[Layer], begins: Sequence[str], blob: str, known: Mapping[str, Array]) -> Graph:
    """These layers as a network with the inputs in0, in1 and so on, and the output out0."""
    new = {name: f"in{index}" for index, name in enumerate(begins)} | {blob: "out0"}
    graph = Graph([Layer("Input", new[name], [], [new[name]]) for name in begins])
    for layer in layers:
        copy = layer.copy()
        copy.inputs = [new.get(name, name) for name in layer.inputs]
        copy.outputs = [new.get(name, name) for name in layer.outputs]
        graph.layers.append(copy)
    graph.set_input_shapes([known[name].shape for name in begins])
    return graph


def _save_onnx(source: ModelSource, inputs: Sequence[InnerTensor], output: str, folder: Path) -> bool:
    """Write the same part of the original. Returns False if no part begins at exactly these tensors."""
    import onnx_ir as ir

    from .onnx.reading import load

    model = load(source.file)
    try:
        part = ir.convenience.extract(model.graph, [tensor.name for tensor in inputs], [output])
    except ValueError:
        return False
    for value, tensor in zip(part.inputs, inputs, strict=True):
        value.shape, value.dtype = ir.Shape(tensor.values.shape), ir.DataType.from_numpy(tensor.values.dtype)
    ir.save(ir.Model(part, ir_version=model.ir_version), folder / "layer.onnx")
    return True
