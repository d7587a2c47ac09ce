"""An ONNX original, trimmed: it begins with what ncnnkit feeds, and ends where ncnn can compute no further.

A quantised original becomes one in floating point, which keeps its scales.

The trimmed model is an original of its own. ONNX Runtime computes the reference outputs with it, and every route
converts it, so that both sides of a comparison end at the same tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConvertError, ModelError
from ..onboard.scratch import Scratch
from ..samples.items import InputSpec, takes_image, times
from ..samples.preprocess import Preprocess
from .files import onnx_run, onnx_session
from .model import ModelSource, QuantisedOriginal

if TYPE_CHECKING:
    from .onnx.quantized import QuantisedModel

_MOST_NAMED = 6  # operators of a tail in one sentence
DEQUANTISED = "the model is quantised; the fp32 network has the weights of its codes, and does not round activations"
PIXELS = "the model takes pixels as they are (uint8)"


def trim(source: ModelSource, outputs: Sequence[str] = ()) -> ModelSource:
    """Fit an original to what ncnn can compute.

    Args:
        source: an original; only an ONNX file can be trimmed.
        outputs: names of the tensors to end at; by default the model's own outputs, where ncnn can compute them.

    Returns:
        ``source`` itself where nothing had to change. ``changes`` says what did.

    Raises:
        ModelError: there is no tensor of such a name, or ``outputs`` are given and the model is no ONNX file.
    """
    if source.kind != "onnx":
        if outputs:
            raise ModelError(
                "--outputs needs a model whose tensors have names", where=source.reference, hint="export it to ONNX"
            )
        return source
    # onnx-ir takes a moment to import, and other kinds of models do not need it.
    import onnx_ir as ir

    from .onnx.cutting import cut_at, cut_model, find_cut, may_need_cut
    from .onnx.heads import fold_head
    from .onnx.reading import QUANTISED, evaluate, fed, load

    try:
        model = load(source.file)
        inputs = tuple(fold_head(model, value, spec) for value, spec in zip(fed(model.graph), source.inputs))
        cut = None
        if outputs or may_need_cut(model):
            reading = evaluate(model, [(1, *spec.shape) for spec in inputs])
            cut = cut_at(reading, outputs, source.reference) if outputs else find_cut(reading)
            model = cut_model(reading, cut) if cut else model
    except ConvertError:
        if outputs:
            raise
        return source  # the routes say what is wrong with it, or one of them reads it
    quantised = model.meta.get(QUANTISED)
    if cut is None and inputs == source.inputs and quantised is None:
        return source
    changes = [DEQUANTISED] if quantised else []
    changes += [change for old, new in zip(source.inputs, inputs) for change in _said_of_input(old, new)]
    if cut:
        left = [value.name for value in fed(model.graph)]
        changes += [f"input {spec.name!r} is not needed before the cut" for spec in inputs if spec.name not in left]
        inputs = tuple(spec for spec in inputs if spec.name in left)
        shapes = [reading.shapes[name] for name in cut.outputs]
        changes.append(_said_of_cut(cut.outputs, shapes, cut.causes, cut.tail))
    inputs = tuple(replace(spec, dtype=_type(value)) for spec, value in zip(inputs, fed(model.graph), strict=True))
    scratch = Scratch()
    path = Path(scratch.name, source.file.name)
    ir.save(model, path)
    preprocess, origin = source.preprocess, source.preprocess_origin
    if preprocess is None and takes_image(inputs) and "uint8" in {spec.dtype for spec in source.inputs}:
        _, height, width = inputs[0].shape
        preprocess, origin = Preprocess(resize=(height, width), divisor=1.0), PIXELS
    return replace(
        source,
        path=path,
        inputs=inputs,
        outputs=cut.outputs if cut else source.outputs,
        run=onnx_run(onnx_session(path)),
        preprocess=preprocess,
        preprocess_origin=origin,
        changes=tuple(changes),
        tail=cut.tail if cut else (),
        quantised=_quantised(source, inputs, cut.outputs if cut else (), quantised) if quantised else None,
        scratch=scratch,
    )


def _quantised(
    source: ModelSource, inputs: Sequence[InputSpec], outputs: Sequence[str], found: QuantisedModel
) -> QuantisedOriginal:
    """The quantised original, ending where the network does. It cannot be run where it is fed with something else."""
    run = None
    if tuple(inputs) == source.inputs:
        with suppress(ModelError):  # no value of the quantised model has the name of an output
            run = onnx_run(onnx_session(source.file, outputs, optimised=False))
    return QuantisedOriginal(run, found.layers, found.lost)


def _type(value: Any) -> str:
    """numpy's name of the type of an input: halves became float32 when the model was loaded."""
    return "float32" if value.dtype is None else str(value.dtype.numpy())


def _said_of_input(old: InputSpec, new: InputSpec) -> list[str]:
    said = []
    if new.channels_last:
        said.append(
            f"input {new.name!r} is height x width x channels in the model's file ({times(old.shape)}); "
            f"the ncnn network takes the channels first ({times(new.shape)}), and arrays are turned round"
        )
    if new.dtype != old.dtype:
        said.append(f"input {new.name!r} is {old.dtype} in the model's file; the ncnn network takes float32")
    return said


def _said_of_cut(
    outputs: Sequence[str], shapes: Sequence[tuple[int, ...]], causes: Sequence[str], tail: Sequence[str]
) -> str:
    """Where the network ends, and why."""
    bodies = (shape[1:] if shape[:1] == (1,) else shape for shape in shapes)
    ends = ", ".join(f"{name!r} ({times(body)})" for name, body in zip(outputs, bodies))
    kinds = list(dict.fromkeys(tail))
    more = f" and {len(kinds) - _MOST_NAMED} more" if len(kinds) > _MOST_NAMED else ""
    why = f"ncnn cannot compute {', '.join(causes)}; " if causes else ""
    rest = f"; what comes after is left to the program: {', '.join(kinds[:_MOST_NAMED])}{more}" if kinds else ""
    return f"{why}the network ends at {ends}{rest}"
