"""An ONNX original, trimmed: it begins with what ncnnkit feeds, and ends where ncnn can compute no further.

A quantised original becomes one in floating point, which keeps its scales.

The trimmed model is an original of its own. ONNX Runtime computes the reference outputs with it, and every route
converts it, so that both sides of a comparison end at the same tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConvertError, ModelError
from ..formatting import counted
from ..onboard.scratch import Scratch
from ..samples.items import InputSpec, takes_image, times
from ..samples.preprocess import Preprocess
from ..tasks import Decoder
from .exporting import export_classic
from .files import READERS, onnx_run, onnx_session
from .model import ModelSource, QuantisedOriginal, example_arrays

if TYPE_CHECKING:
    from .onnx.cutting import Cut
    from .onnx.quantized import QuantisedModel
    from .onnx.reading import Reading

_MOST_NAMED = 6  # operators of a tail in one sentence
DEQUANTISED = "the model is quantised; the fp32 network has the weights of its codes, and does not round activations"
PIXELS = "the model takes pixels as they are (uint8)"
ULTRALYTICS_SCORE, ULTRALYTICS_IOU, ULTRALYTICS_MOST = 0.25, 0.7, 300
"""What Ultralytics' ``predict`` uses by default."""


def trim(source: ModelSource, outputs: Sequence[str] = ()) -> ModelSource:
    """Fit an original to what ncnn can compute.

    Args:
        source: an original. A torch module that sorts or searches is exported to ONNX first, and trimmed in that form.
        outputs: names of the tensors to end at; by default the model's own outputs, where ncnn can compute them.

    Returns:
        ``source`` itself where nothing had to change. ``changes`` says what did.

    Raises:
        ModelError: there is no tensor of such a name, or the model's tensors have no names, or it is a module whose
            outputs may be empty and that cannot be cut.
    """
    if source.kind == "torch" and (source.searches or outputs):
        return _trim_module(source, outputs)
    if source.kind != "onnx":
        if outputs:
            raise ModelError(
                "--outputs needs a model whose tensors have names", where=source.reference, hint="export it to ONNX"
            )
        return source
    # onnx-ir takes a moment to import, and other kinds of models do not need it.
    import onnx_ir as ir

    from .onnx.cutting import cut_at, cut_model, may_need_cut
    from .onnx.heads import fold_head
    from .onnx.reading import QUANTISED, evaluate, fed, load
    from .onnx.tails import Tail

    try:
        model = load(source.file)
        quantised = model.meta.get(QUANTISED)
        inputs = tuple(fold_head(model, value, spec) for value, spec in zip(fed(model.graph), source.inputs))
        cut, tail, decoder = None, None, None
        if outputs or may_need_cut(model):
            reading = evaluate(model, [spec.original_shape for spec in inputs])
            cuts = [cut_at(reading, outputs, source.reference)] if outputs else _cuts(reading)
            cut = cuts[0] if cuts else None
            size = (inputs[0].shape[1], inputs[0].shape[2]) if takes_image(inputs) else (0, 0)
            for possible in cuts:
                with suppress(ConvertError):  # a tail that cannot be run is not recognised
                    tail = Tail(reading, possible)
                    decoder = tail.recognise(size)
                    if decoder:
                        cut = possible
                        break
            model = cut_model(reading, cut) if cut else model
    except ConvertError:
        if outputs:
            raise
        return source  # the routes say what is wrong with it, or one of them reads it
    if cut is None and inputs == source.inputs and quantised is None:
        return replace(source, decoder=_ultralytics(source, model.metadata_props))
    changes = [DEQUANTISED] if quantised else []
    changes += [change for old, new in zip(source.inputs, inputs) for change in _said_of_input(old, new)]
    if cut:
        left = [value.name for value in fed(model.graph)]
        changes += [f"input {spec.name!r} is not needed before the cut" for spec in inputs if spec.name not in left]
        inputs = tuple(spec for spec in inputs if spec.name in left)
        shapes = [reading.shapes[name] for name in cut.outputs]
        changes.append(_said_of_cut(cut, shapes))
    inputs = tuple(replace(spec, dtype=_type(value)) for spec, value in zip(inputs, fed(model.graph), strict=True))
    scratch = Scratch()
    path = Path(scratch.name, source.file.name)
    ir.save(model, path)
    preprocess, origin = source.preprocess, source.preprocess_origin
    if preprocess is None and takes_image(inputs) and "uint8" in {spec.dtype for spec in source.inputs}:
        _, height, width = inputs[0].shape
        preprocess, origin = Preprocess(resize=(height, width), divisor=1.0), PIXELS
    run = onnx_run(onnx_session(path))
    if decoder:
        changes.append(f"the program can decode them: {decoder.kind}, as the card says")
    decoder = _ultralytics(source, model.metadata_props) if cut is None else decoder
    known = source.labels if not (decoder and decoder.classes) or len(source.labels or ()) == decoder.classes else None
    return replace(
        source,
        labels=known,
        path=path,
        inputs=inputs,
        outputs=cut.outputs if cut else source.outputs,
        run=run,
        preprocess=preprocess,
        preprocess_origin=origin,
        changes=(*source.changes, *changes),
        tail=cut.tail if cut else (),
        quantised=_quantised(source, inputs, cut.outputs if cut else (), quantised) if quantised else None,
        decoder=decoder,
        predict=tail.predict if tail and decoder else None,
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


def _trim_module(source: ModelSource, outputs: Sequence[str]) -> ModelSource:
    """A torch module as the trimmed ONNX file that torch's exporter writes; itself where ncnn computes all of it."""
    scratch = Scratch()
    try:
        path = export_classic(source.module, source.inputs, Path(scratch.name))
        exported = READERS[".onnx"](source.reference, path, [spec.shape for spec in source.inputs])
        known = replace(
            exported,
            name=source.name,
            preprocess=source.preprocess,
            preprocess_origin=source.preprocess_origin,
            labels=source.labels,
            classes=source.classes,
        )
        trimmed = trim(known, outputs)
    except ConvertError as error:
        if outputs:
            raise
        raise ModelError(f"it must be cut, but {error.what}", where=source.reference, hint=error.hint) from None
    if trimmed.path == path:
        return source
    said = f"torch exported it to ONNX; its tensors are named as in that file, and its inputs {_names(trimmed)}"
    return replace(trimmed, changes=(said, *trimmed.changes))


def _names(source: ModelSource) -> str:
    return ", ".join(spec.name for spec in source.inputs)


def _cuts(reading: Reading) -> list[Cut]:
    """Where a model may be cut: at the fewest tensors, and, if these are others, at the last few that ncnn computes."""
    from .onnx.cutting import find_cut

    first = find_cut(reading)
    if first is None or first.weighted:  # no decoder has weights
        return [first] if first else []
    last = find_cut(reading, latest=True)
    return [first, last] if last and last != first and len(last.outputs) <= _MOST_OUTPUTS else [first]


_MOST_OUTPUTS = 3  # of a network that a decoder reads


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


def _ultralytics(source: ModelSource, metadata: Mapping[str, str]) -> Decoder | None:
    """The decoder of an Ultralytics detector whose file ends at boxes and scores; None where it is none."""
    if metadata.get("task") != "detect" or not (source.labels and takes_image(source.inputs) and source.run):
        return None
    (output, *rest) = source.run([s.as_original(a) for s, a in zip(source.inputs, example_arrays(source.inputs))])
    if rest or np.ndim(output) != 3 or output.shape[1] != 4 + len(source.labels):
        return None
    return Decoder(
        "yolo",
        (0,),
        len(source.labels),
        layout="columns",
        boxes="cxcywh",
        score_threshold=ULTRALYTICS_SCORE,
        iou_threshold=ULTRALYTICS_IOU,
        most=ULTRALYTICS_MOST,
    )


def _said_of_cut(cut: Cut, shapes: Sequence[tuple[int, ...]]) -> str:
    """Where the network ends, and why."""
    outputs, causes, tail = cut.outputs, cut.causes, cut.tail
    bodies = (shape[1:] if shape[:1] == (1,) else shape for shape in shapes)
    ends = ", ".join(f"{name!r} ({times(body)})" for name, body in zip(outputs, bodies))
    kinds = list(dict.fromkeys(tail))
    more = f" and {len(kinds) - _MOST_NAMED} more" if len(kinds) > _MOST_NAMED else ""
    why = f"ncnn cannot compute {', '.join(causes)}; " if causes else ""
    rest = f"; what comes after is left to the program: {', '.join(kinds[:_MOST_NAMED])}{more}" if kinds else ""
    second = (
        f"; {counted(cut.weighted, 'operator')} with weights of the network {'is' if cut.weighted == 1 else 'are'} "
        "among that: ncnn would have to compute them on a number of boxes that is not known before, so this second "
        "stage is a network of its own"
        if cut.weighted
        else ""
    )
    return f"{why}the network ends at {ends}{rest}{second}"
