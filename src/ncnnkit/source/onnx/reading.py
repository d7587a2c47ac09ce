"""Reads an ONNX file as a model with fixed shapes, in float32, and with known constants.

A quantised model becomes one in floating point that keeps the scales: see :mod:`.quantized`.

Two things are asked of ONNX Runtime rather than computed here: the shape of every value and the values of those that
do not depend on the inputs. One run gives both, whatever way the exporter took to write them, and there is no second
implementation of shape inference and of constant folding to keep right. That run hands out shapes only of what depends
on the inputs: handing out the values themselves takes as much memory as all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx_ir.passes import common

from ...errors import ConvertError, ModelError
from ..model import say
from ..onnx_data import check_model
from ..sessions import run_session
from .control import RANDOM, resolve
from .einsums import write_out
from .quantized import dequantize

Array = NDArray[Any]

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
"""The types that become float32: ncnn's own precisions decide what is stored in 16 bits."""

_COUNTING = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))
_VALUES_A_RUN = 200  # how many values one run hands out: their memory is taken at once


_NO_TENSOR = "sequence"
QUANTISED = "ncnnkit.quantised"


@dataclass(frozen=True)
class Reading:
    """A model that is ready to be lowered.

    Attributes:
        model: with functions inlined, and in float32.
        shapes: of every value, the batch axis included.
        constants: the values that do not depend on the inputs, and those of no elements.
        kinds: of the numbers of every value, by numpy's letter: f, i, u or b.
    """

    model: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]
    kinds: Mapping[str, str]

    @property
    def numbers(self) -> list[str]:
        """The inputs of one whole number: options such as a sampling rate, or a count."""
        names = (str(value.name) for value in fed(self.model.graph))
        return [name for name in names if self.kinds[name] in "iu" and math.prod(self.shapes[name]) == 1]


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
    """An ONNX file as a model with functions inlined, in float32 and not quantised, whose values all have names.

    Returns:
        The model. Where it was quantised, its ``meta`` holds a :class:`~.quantized.QuantisedModel` as ``QUANTISED``.

    Raises:
        ConvertError: the file cannot be read.
    """
    try:
        check_model(path)
        model = ir.load(path)
        common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        ir.external_data.load_to_model(model)  # of initializers alone: constants had to become some first
        common.RemoveUnusedNodesPass()(model)
    except ModelError as error:
        raise ConvertError(error.what, where=error.where, hint=error.hint) from None
    except Exception as error:  # onnx-ir and protobuf raise kinds of their own
        raise ConvertError(f"the ONNX file cannot be read: {say(error)}", where=str(path)) from None
    _widen(model)
    write_out(model.graph)
    common.NameFixPass()(model)  # files written by hand leave names out
    if quantised := dequantize(model):
        model.meta[QUANTISED] = quantised
    return model


def evaluate(model: ir.Model, shapes: Sequence[tuple[int, ...]]) -> Reading:
    """A loaded model with the shapes and constants that it has for inputs of these shapes.

    Raises:
        ConvertError: ONNX Runtime cannot run it with inputs of these shapes.
    """
    feeds = {
        str(value.name): example(shape, value.dtype) for value, shape in zip(fed(model.graph), shapes, strict=True)
    }
    constants: dict[str, Array] = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    proto = ir.serde.serialize_model(model)
    types = _types(proto)
    counted = _counted(model.graph, constants.keys())
    independent = _independent(model.graph, constants.keys(), counted)
    made = [str(value.name) for node in model.graph for value in node.outputs if value.name]
    folded = [name for name in made if name in independent and types.get(name) != _NO_TENSOR]
    tensors = [name for name in made if name not in independent and types.get(name) != _NO_TENSOR]
    values, measured = _values_and_shapes(proto, folded, tensors, feeds)
    constants |= values
    found = {name: array.shape for name, array in (feeds | constants).items()} | measured
    if resolve(model.graph, constants, found):
        common.NameFixPass()(model)
        return evaluate(model, shapes)
    kinds = dict.fromkeys(found, "f") | types | {name: array.dtype.kind for name, array in (feeds | constants).items()}
    # A tensor of no elements is known, whatever it is computed from, unless it has some for other samples.
    empty = {name: shape for name, shape in measured.items() if 0 in shape and name not in counted}
    constants |= {name: np.zeros(shape, kinds[name]) for name, shape in empty.items()}
    return Reading(model, found, constants, kinds)


def fed(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that are fed: old files list their weights among the inputs, too."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def example(shape: tuple[int, ...], dtype: ir.DataType | None) -> Array:
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


def _types(proto: onnx.ModelProto) -> dict[str, str]:
    """Value -> its kind, as the letter of numpy, if ONNX can infer the type; _NO_TENSOR for a sequence."""
    found = {}
    graph = onnx.shape_inference.infer_shapes(proto).graph
    for value in (*graph.value_info, *graph.output):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            found[value.name] = _NO_TENSOR
        elif value.type.tensor_type.elem_type:
            found[value.name] = ir.DataType(value.type.tensor_type.elem_type).numpy().kind
    return found


def _counted(graph: ir.Graph, constants: Any) -> set[str]:
    """Names of the values that follow from how many values satisfy a condition: their shapes change with the sample."""
    known: set[str] = set(constants)
    found: set[str] = set()
    for node in graph:
        names = {str(value.name) for value in node.inputs if value is not None}
        if not found.isdisjoint(names) or (node.op_type in _COUNTING and not names <= known):
            found.update(str(value.name) for value in node.outputs)
    return found


def _independent(graph: ir.Graph, constants: Any, counted: set[str]) -> set[str]:
    """Names of the values that do not depend on the inputs' values; a shape depends on none, unless it is counted."""
    known = set(constants)
    for node in graph:
        if node.op_type in RANDOM or any(a.type in (ir.AttributeType.GRAPH,) for a in node.attributes.values()):
            continue
        if any(str(value.name) in counted for value in node.outputs):
            continue
        if node.op_type in ("Shape", "Size") or all(v is None or v.name in known for v in node.inputs):
            known.update(value.name for value in node.outputs if value.name)
    return known


def answer(
    operator: str, inputs: Mapping[str, Array], places: Sequence[str], attributes: Mapping[str, Any], opset: int
) -> Array:
    """What ONNX Runtime computes with one operator.

    Args:
        operator: its name.
        inputs: by any names.
        places: the names of the operator's inputs in their order, "" for one that is left out.
        attributes: of the operator.
        opset: which version of the operator.
    """
    graph = helper.make_graph(
        [helper.make_node(operator, places, ["answer"], **attributes)],
        "one operator",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return next(_run(model, ["answer"], inputs))[1]


def _values_and_shapes(
    proto: onnx.ModelProto, names: Sequence[str], measured: Sequence[str], feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, tuple[int, ...]]]:
    """What some values of the network are for one sample, and the shapes of others; ``proto`` gets Shape nodes."""
    sides = {name: f"ncnnkit's shape of {name}" for name in measured}  # no exporter gives such names
    proto.graph.node.extend(helper.make_node("Shape", [name], [shape]) for name, shape in sides.items())
    asked = [*names, *sides.values()]
    answers = dict(_run(proto, asked, feeds, at_once=max(len(asked), 1)))
    shapes = {name: tuple(int(side) for side in answers[shape]) for name, shape in sides.items()}
    return {name: answers[name] for name in names}, shapes


def compute(model: ir.Model, names: Sequence[str], feeds: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Values of a network for one sample, a part of them at a time.

    Args:
        model: as :func:`load` gives it.
        names: of the values.
        feeds: an array for each input, with the batch axis and of the input's type.

    Raises:
        ConvertError: ONNX Runtime cannot run it.
    """
    return _run(ir.serde.serialize_model(model), names, feeds)


def _run(
    proto: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, Array], at_once: int = _VALUES_A_RUN
) -> Iterator[tuple[str, Array]]:
    """Values of a network in ONNX Runtime; ``proto`` gets them as outputs."""
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    running = session(proto)
    try:
        for start in range(0, len(names), at_once):
            part = list(names[start : start + at_once])
            yield from zip(part, run_session(running, part, feeds), strict=True)
    except Exception as error:  # a family of its own, derived from Exception
        raise ConvertError(f"ONNX Runtime cannot run it: {say(error)}", hint="does --shape fit?") from None


def session(proto: onnx.ModelProto) -> Any:
    """A model in ONNX Runtime, as it is: nothing is optimised. Raises ConvertError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a family of its own, derived from Exception
        raise ConvertError(f"ONNX Runtime cannot run it: {say(error)}", hint="does --shape fit?") from None
