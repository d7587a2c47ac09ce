"""Routes: the ways to convert an original to ncnn's graph, by the kind of original. See :data:`ROUTES`.

===============  =============================================================================
route            what it does
===============  =============================================================================
``onnx``         reads an ONNX file by ncnnkit's own front end (:mod:`ncnnkit.source.onnx`)
``pnnx``         gives an ONNX or TorchScript file to pnnx
``classic``      exports to ONNX by torch's older exporter, then as ``onnx``
``dynamo``       exports to ONNX by ``torch.export`` and onnxscript, then as ``onnx``
``torchscript``  traces a module to TorchScript, then as ``pnnx``
``ncnn``         reads ncnn's own files: nothing is converted
===============  =============================================================================

A route is a function ``(source, folder) -> graph``. It writes its files to ``folder``, and raises NcnnkitError if it
fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ConvertError, RecipeError
from ..model import ncnnfile
from ..model.graph import Graph
from ..recipe import AUTO
from ..record.run import Kind
from . import pnnx
from .exporting import export_classic, export_dynamo, trace
from .model import ModelSource

Route = Callable[[ModelSource, Path], Graph]


def routes_for(kind: Kind, name: str = AUTO) -> dict[str, Route]:
    """The routes to try, in order.

    Args:
        kind: of the original.
        name: of the only one to try, or ``auto``.

    Raises:
        RecipeError: this kind of original has no such route.
    """
    routes = ROUTES[kind]
    if name == AUTO:
        return routes
    if name not in routes:
        raise RecipeError(f"a model of kind {kind} has no route {name!r}", hint=f"one of {', '.join((AUTO, *routes))}")
    return {name: routes[name]}


def _lower(path: Path, source: ModelSource) -> Graph:
    from .onnx import lower  # onnx-ir is slow to import

    return lower(path, source.inputs)


def _onnx(source: ModelSource, folder: Path) -> Graph:
    return _lower(source.file, source)


def _pnnx(source: ModelSource, folder: Path) -> Graph:
    return pnnx.convert_file(source.file, source.inputs, folder)


def _classic(source: ModelSource, folder: Path) -> Graph:
    return _lower_module(export_classic(source.module, source.inputs, folder), source)


def _dynamo(source: ModelSource, folder: Path) -> Graph:
    return _lower_module(export_dynamo(source.module, source.inputs, folder), source)


def _lower_module(path: Path, source: ModelSource) -> Graph:
    """The network of an exported module. A module that quantises activations cannot be compared, so it is refused.

    Of an ONNX file, a form without that rounding is made when it is opened. Of a module, there is none.
    """
    made = _lower(path, source)
    if made.scales:
        raise ConvertError("the module quantises its activations", hint="export it to ONNX, and convert the file")
    return made


def _torchscript(source: ModelSource, folder: Path) -> Graph:
    return pnnx.convert_file(trace(source.module, source.inputs, folder), source.inputs, folder)


def _ncnn(source: ModelSource, folder: Path) -> Graph:
    return ncnnfile.load(source.file)


ROUTES: dict[Kind, dict[str, Route]] = {
    "onnx": {"onnx": _onnx, "pnnx": _pnnx},
    "torchscript": {"pnnx": _pnnx, "classic": _classic},
    "torch": {"classic": _classic, "dynamo": _dynamo, "torchscript": _torchscript},
    "ncnn": {"ncnn": _ncnn},
}
"""Kind of original -> its routes, in the order in which they are tried.

ncnnkit's own front end is tried first for ONNX files, because it converts more networks than pnnx. Of torch's exporters
``classic`` comes before ``dynamo``: both give equally exact networks, but ``classic`` takes a fifth to a seventh of the
time and needs no onnxscript. Measured on one busy machine: duration of the export, layers after optimising, SQNR:

==================  ===================  ====================
network             classic              dynamo
==================  ===================  ====================
MobileNetV3-Small   13 s, 113, 126.3 dB  99 s, 105, 126.1 dB
DeiT-Tiny           11 s, 312, 122.7 dB  61 s, 348, 122.7 dB
RegNetY-400MF       20 s, 200, 131.5 dB  141 s, 185, 131.7 dB
==================  ===================  ====================
"""
