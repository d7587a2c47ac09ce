"""Reads an ONNX file as a model with fixed shapes, in float32, with folded constants.

A quantised model becomes a model in floating point that keeps the scales: see :mod:`.quantized`.

One run of ONNX Runtime gives the shapes of all values, and the values that do not depend on the inputs. So ncnnkit
needs no shape inference and no constant folding of its own. For values that depend on the inputs, the run returns only
the shapes, to save memory.
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
from ..forked import ServerError
from ..model import say
from ..onnx_data import check_model
from ..sessions import OnnxSession, inferred_types
from .control import RANDOM, resolve
from .einsums import write_out
from .quantized import dequantize

Array = NDArray[Any]

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
"""The types that become float32. What is stored in 16 bits is decided later, by ncnn's precisions."""

_COUNTING = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))
_VALUES_A_RUN = 200  # the most values that one run returns, to limit the memory


_NO_TENSOR = "sequence"
QUANTISED = "ncnnkit.quantised"


@dataclass(frozen=True)
class Reading:
    """A model that is ready to be lowered.

    Attributes:
        model: with functions inlined, and in float32.
        shapes: of every value, including the batch axis.
        constants: the values that do not depend on the inputs, and the empty ones.
        kinds: numpy's letter for the type of every value: f, i, u or b.
    """

    model: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]
    kinds: Mapping[str, str]

    @property
    def numbers(self) -> list[str]:
        """The names of scalar integer inputs: options such as a sample rate, or a count."""
        names = (str(value.name) for value in fed(self.model.graph))
        return [name for name in names if self.kinds[name] in "iu" and math.prod(self.shapes[name]) == 1]


def read(path: Path, shapes: Sequence[tuple[int, ...]]) -> Reading:
    """Read an ONNX file for inputs of these shapes.

    Args:
        path: a model; external data is read, too.
        shapes: of the inputs that are fed, in the model's order, including the batch axis.

    Raises:
        ConvertError: the file cannot be read, or ONNX Runtime cannot run it with inputs of these shapes.
    """
    return evaluate(load(path), shapes)


def load(path: Path) -> ir.Model:
    """Load an ONNX file as a model in float32: functions are inlined, and all values have names.

    Returns:
        The model. If it was quantised, it is dequantised, and ``meta[QUANTISED]`` is a
        :class:`~.quantized.QuantisedModel`.

    Raises:
        ConvertError: the file cannot be read.
    """
    try:
        check_model(path)
        model = ir.load(path)
        common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        ir.external_data.load_to_model(model)  # only loads initializers, so constants were made initializers before
        common.RemoveUnusedNodesPass()(model)
    except ModelError as error:
        raise ConvertError(error.what, where=error.where, hint=error.hint) from None
    except Exception as error:  # onnx-ir and protobuf have exceptions of their own
        raise ConvertError(f"the ONNX file cannot be read: {say(error)}", where=str(path)) from None
    _widen(model)
    write_out(model.graph)
    common.NameFixPass()(model)  # files written by hand may lack names
    try:
        quantised = dequantize(model)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # such as four scales for three channels
        what = f"the quantisation in the ONNX file contradicts itself: {say(error)}"
        raise ConvertError(what, where=str(path)) from None
    if quantised:
        model.meta[QUANTISED] = quantised
    return model


def evaluate(model: ir.Model, shapes: Sequence[tuple[int, ...]]) -> Reading:
    """Find the shapes and constants of a loaded model for inputs of these shapes.

    Raises:
        ConvertError: the model contradicts itself, or ONNX Runtime cannot run it with inputs of these shapes.
    """
    inputs = fed(model.graph)
    if len(inputs) != len(shapes):  # torch's older exporter leaves inputs out
        raise ConvertError(
            f"the ONNX file has {len(inputs)} of the model's {len(shapes)} inputs; the model does not use the others",
            hint="export it without those inputs",
        )
    feeds = {str(value.name): example(shape, value.dtype) for value, shape in zip(inputs, shapes)}
    constants: dict[str, Array] = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    try:
        proto = ir.serde.serialize_model(model)
        types = _types(proto)
    except ServerError as error:
        what = error.what if error.died else f"the ONNX file contradicts itself: {error.what}"
        raise ConvertError(what, hint=error.hint) from None
    except Exception as error:  # ONNX and onnx-ir raise exceptions of their own for contradictory models
        raise ConvertError(f"the ONNX file contradicts itself: {say(error)}") from None
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
    # An empty tensor is a constant, unless it may have elements for other samples.
    empty = {name: shape for name, shape in measured.items() if 0 in shape and name not in counted}
    constants |= {name: np.zeros(shape, kinds[name]) for name, shape in empty.items()}
    return Reading(model, found, constants, kinds)


def fed(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that are fed. Old files list initializers among the inputs, too."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def example(shape: tuple[int, ...], dtype: ir.DataType | None) -> Array:
    """An array that is a valid input of every network: noise, or zeros for integers, which may be indices."""
    kind = np.dtype(np.float32 if dtype is None else dtype.numpy())
    return np.random.default_rng(0).random(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


def _widen(model: ir.Model) -> None:
    """Convert all floating-point values of 16 or 64 bits to float32."""
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
    """Name of a value -> numpy's letter for its type, if ONNX can infer it; _NO_TENSOR for a sequence."""
    types = inferred_types(proto.SerializeToString())
    return {name: _NO_TENSOR if kind is None else ir.DataType(kind).numpy().kind for name, kind in types.items()}


def _counted(graph: ir.Graph, constants: Any) -> set[str]:
    """Names of the values whose shapes depend on the input's values, such as the result of a NonZero."""
    known: set[str] = set(constants)
    found: set[str] = set()
    for node in graph:
        names = {str(value.name) for value in node.inputs if value is not None}
        if not found.isdisjoint(names) or (node.op_type in _COUNTING and not names <= known):
            found.update(str(value.name) for value in node.outputs)
    return found


def _independent(graph: ir.Graph, constants: Any, counted: set[str]) -> set[str]:
    """Names of the values that do not depend on the inputs' values. Shapes do not, except those in ``counted``."""
    known = set(constants)
    for node in graph:
        if node.op_type in RANDOM or any(a.type in (ir.AttributeType.GRAPH,) for a in node.attributes.values()):
            continue
        if any(str(value.name) in counted for value in node.outputs):
            continue
        if node.op_type in ("Shape", "Size") or all(v is None or v.name in known for v in node.inputs):
            known.update(value.name for value in node.outputs if value.name)
    return known


def run_operator(
    operator: str, inputs: Mapping[str, Array], order: Sequence[str], attributes: Mapping[str, Any], opset: int
) -> Array:
    """Run one operator in ONNX Runtime.

    Args:
        operator: its name.
        inputs: name -> array. The names are free.
        order: the names of the operator's inputs in order, "" for one that is left out.
        attributes: of the operator.
        opset: the version of the operator.

    Returns:
        The operator's first output.
    """
    graph = helper.make_graph(
        [helper.make_node(operator, order, ["result"], **attributes)],
        "one operator",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return next(_run(model, ["result"], inputs))[1]


def _values_and_shapes(
    proto: onnx.ModelProto, names: Sequence[str], measured: Sequence[str], feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, tuple[int, ...]]]:
    """Some values of the network for one sample, and the shapes of others. Shape nodes are added to ``proto``."""
    sides = {name: f"ncnnkit's shape of {name}" for name in measured}  # no exporter writes such names
    proto.graph.node.extend(helper.make_node("Shape", [name], [shape]) for name, shape in sides.items())
    asked = [*names, *sides.values()]
    answers = dict(_run(proto, asked, feeds, at_once=max(len(asked), 1)))
    shapes = {name: tuple(int(side) for side in answers[shape]) for name, shape in sides.items()}
    return {name: answers[name] for name in names}, shapes


def compute(model: ir.Model, names: Sequence[str], feeds: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Compute values of a network for one sample, in several runs to save memory.

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
    """Compute values of a network in ONNX Runtime. They become the outputs of ``proto``."""
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with session(proto) as running:
        for start in range(0, len(names), at_once):
            part = list(names[start : start + at_once])
            try:
                found = running.run(feeds, part)
            except ServerError as error:
                raise _failed(error) from None
            yield from zip(part, found, strict=True)


def session(proto: onnx.ModelProto) -> OnnxSession:
    """Load a model in ONNX Runtime without optimisation.

    Raises:
        ConvertError: ONNX Runtime cannot load it, crashes or hangs, or the model is larger than protobuf allows.
    """
    try:
        model = proto.SerializeToString()
    except Exception as error:  # protobuf has exceptions of its own
        raise ConvertError(f"ONNX Runtime cannot run it: {say(error)}") from None
    try:
        return OnnxSession(model, optimised=False)
    except ServerError as error:
        raise _failed(error) from None


def _failed(error: ServerError) -> ConvertError:
    return ConvertError(error.said("run it"), hint=error.hint or ("" if error.died else "does --shape fit?"))
