"""An ONNX file, read: a model with fixed shapes, in float32, whose constants are known.

Two things are asked of ONNX Runtime rather than computed here: the shape of every value and the values of those that
do not depend on the inputs. One run that hands out every value tells both, whatever way the exporter took to write
them, and there is no second implementation of shape inference and of constant folding to keep right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from ...errors import ConvertError
from ..model import say

Array = NDArray[Any]

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
"""The types that become float32: ncnn's own precisions decide what is stored in 16 bits."""

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)
_VALUES_A_RUN = 200  # how many values one run hands out: their memory is taken at once


@dataclass(frozen=True)
class Reading:
    """A model that is ready to be lowered.

    Attributes:
        model: with functions inlined, and in float32.
        shapes: of every value, the batch axis included.
        constants: the values that do not depend on the inputs.
        kinds: of the numbers of every value, by numpy's letter: f, i, u or b.
    """

    model: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]
    kinds: Mapping[str, str]


def read(path: Path, shapes: Sequence[tuple[int, ...]]) -> Reading:
    """Read an ONNX file for inputs of these shapes.

    Args:
        path: a model; weights in other files are read, too.
        shapes: of the inputs that are fed, in the model's order, the batch axis included.

    Raises:
        ConvertError: the file cannot be read, or ONNX Runtime cannot run it with inputs of these shapes.
    """
    return evaluate(load(path), shapes)


def load(path: Path) -> ir.Model:
    """An ONNX file as a model with functions inlined, in float32, whose values all have names.

    Raises:
        ConvertError: the file cannot be read.
    """
    try:
        model = ir.load(path)
        common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        ir.external_data.load_to_model(model)  # of initializers alone: constants had to become some first
        common.RemoveUnusedNodesPass()(model)
    except Exception as error:  # onnx-ir and protobuf raise kinds of their own
        raise ConvertError(f"the ONNX file cannot be read: {say(error)}", where=str(path)) from None
    _widen(model)
    _name_values(model)
    return model


def evaluate(model: ir.Model, shapes: Sequence[tuple[int, ...]]) -> Reading:
    """A loaded model with the shapes and constants that it has for inputs of these shapes.

    Raises:
        ConvertError: ONNX Runtime cannot run it with inputs of these shapes.
    """
    feeds = {
        str(value.name): _example(shape, value.dtype) for value, shape in zip(fed(model.graph), shapes, strict=True)
    }
    names = [value.name for node in model.graph for value in node.outputs if value.name]
    found: dict[str, tuple[int, ...]] = {name: array.shape for name, array in feeds.items()}
    kinds = {name: array.dtype.kind for name, array in feeds.items()}
    constants: dict[str, Array] = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    folded = _independent(model.graph, constants.keys())
    for name, array in compute(model, names, feeds):
        found[name], kinds[name] = array.shape, array.dtype.kind
        if name in folded:
            constants[name] = array
    for name, array in constants.items():
        found[name], kinds[name] = array.shape, array.dtype.kind
    return Reading(model, found, constants, kinds)


def fed(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that are fed: old files list their weights among the inputs, too."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def _example(shape: tuple[int, ...], dtype: ir.DataType | None) -> Array:
    """An input that every network can run on: noise, and zeros where whole numbers are indices."""
    kind = np.dtype(np.float32 if dtype is None else dtype.numpy())
    return np.random.default_rng(0).random(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


def _widen(model: ir.Model) -> None:
    """Turn every value of 16 or 64 bits of floating point into float32."""
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype in HALVES:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=name)
            value.dtype = ir.DataType.FLOAT
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in HALVES:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
        for name in ("to", "dtype", "output_dtype"):
            if name in node.attributes and node.attributes[name].value in HALVES:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    for value in (*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)):
        if value.dtype in HALVES:
            value.dtype = ir.DataType.FLOAT


def _name_values(model: ir.Model) -> None:
    """Give every value and node a name: files written by hand leave some out."""
    common.NameFixPass()(model)


def _independent(graph: ir.Graph, constants: Any) -> set[str]:
    """Names of the values that do not depend on the inputs' values; a shape depends on none."""
    known = set(constants)
    for node in graph:
        if node.op_type in _RANDOM or any(a.type in (ir.AttributeType.GRAPH,) for a in node.attributes.values()):
            continue
        if node.op_type in ("Shape", "Size") or all(v is None or v.name in known for v in node.inputs):
            known.update(value.name for value in node.outputs if value.name)
    return known


def compute(model: ir.Model, names: Sequence[str], feeds: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Values of a network for one sample, a part of them at a time.

    Args:
        model: as :func:`load` gives it.
        names: of the values.
        feeds: an array for each input, with the batch axis and of the input's type.

    Raises:
        ConvertError: ONNX Runtime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    asked = list(graph.outputs)
    try:
        graph.outputs[:] = [values[name] for name in names]
        session = onnxruntime.InferenceSession(
            ir.serde.serialize_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for start in range(0, len(names), _VALUES_A_RUN):
            part = list(names[start : start + _VALUES_A_RUN])
            yield from zip(part, session.run(part, dict(feeds)), strict=True)
    except Exception as error:  # a family of its own, derived from Exception
        raise ConvertError(f"ONNX Runtime cannot run it: {say(error)}", hint="does --shape fit?") from None
    finally:
        graph.outputs[:] = asked
