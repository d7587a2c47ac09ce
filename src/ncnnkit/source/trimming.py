"""Trims an ONNX original to the part that ncnn can compute.

Its inputs become what ncnnkit feeds (float32, channels first). Its end is cut off before operators that ncnn cannot
compute. A quantised original becomes a model in floating point that keeps the scales.

The trimmed model then serves as the original: ONNX Runtime computes the reference outputs with it, and every route
converts it. So both sides of a comparison end at the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConvertError, ModelError
from ..formatting import counted, first_few
from ..model.shapes import without_batch
from ..onboard.scratch import Scratch
from ..samples.items import InputSpec, image_input, times
from ..samples.presets import stretched
from ..tasks import Decoder, Prediction
from ..tasks.known import told_keypoints
from .exporting import export_classic
from .files import READERS, onnx_run, onnx_session
from .model import Array, ModelSource, QuantisedOriginal

if TYPE_CHECKING:
    from .onnx.cutting import Cut
    from .onnx.quantized import QuantisedModel
    from .onnx.reading import Reading

_MOST_NAMED = 6  # operators of a tail in one sentence
DEQUANTISED = "the model is quantised; the fp32 network has its dequantised weights, and does not round activations"
PIXELS = "the model takes pixels without scaling (uint8)"


def trim(source: ModelSource, outputs: Sequence[str] = ()) -> ModelSource:
    """Fit an original to what ncnn can compute.

    Args:
        source: an original. A torch module that sorts or searches is exported to ONNX first.
        outputs: names of the tensors that become the outputs; by default the model's own outputs, or the last tensors
            that ncnn can compute.

    Returns:
        The trimmed original, with a sentence for each change in ``changes``; ``source`` itself if nothing had to
        change.

    Raises:
        ModelError: there is no tensor of such a name, a name is given twice, the model's tensors have no names, or a
            module must be cut, but cannot be.
    """
    twice = next((name for index, name in enumerate(outputs) if name in outputs[:index]), None)
    if twice is not None:
        raise ModelError(f"--outputs names {twice!r} twice", where=source.reference)
    if source.kind == "torch" and (source.searches or outputs):
        return _trim_module(source, outputs)
    if source.kind != "onnx":
        if outputs:
            raise ModelError(
                "--outputs needs a model whose tensors have names", where=source.reference, hint="export it to ONNX"
            )
        return source
    return _trim_file(source, outputs)


def _trim_file(source: ModelSource, outputs: Sequence[str]) -> ModelSource:
    """Read, trim and write an ONNX file. Returns ``source`` itself if nothing had to change."""
    # onnx-ir is slow to import, and other kinds of models do not need it.
    import onnx_ir as ir

    from .onnx.heads import fold_head
    from .onnx.reading import QUANTISED, fed, load

    try:
        model = load(source.file)
        folded = tuple(fold_head(model, value, spec) for value, spec in zip(fed(model.graph), source.inputs))
        quantised = model.meta.get(QUANTISED)
        ending = _find_ending(model, folded, outputs, source.reference)
    except ConvertError:
        if outputs:
            raise
        return source  # a route may be able to read it; if not, the routes report the fault
    if ending is None and folded == source.inputs and quantised is None:
        return source
    model = ending.model if ending else model
    inputs = _fed_inputs(folded, fed(model.graph))
    scratch = Scratch()
    path = Path(scratch.name, source.file.name)
    ir.save(model, path)
    decoder = ending.decoder if ending else None
    return replace(
        _with_pixels(source, inputs),
        labels=_fitting_labels(source.labels, decoder),
        path=path,
        inputs=inputs,
        outputs=ending.cut.outputs if ending else source.outputs,
        run=onnx_run(onnx_session(path)),
        changes=(*source.changes, *_changes(source.inputs, folded, inputs, ending, quantised)),
        tail=ending.cut.tail if ending else (),
        quantised=_quantised(source, inputs, ending.cut.outputs if ending else (), quantised) if quantised else None,
        decoder=decoder,
        predict=ending.predict if ending else None,
        scratch=scratch,
    )


@dataclass(frozen=True)
class _Ending:
    """Where a model is cut.

    Attributes:
        cut: the tensors, and the operators that come after them.
        shapes: of these tensors, including the batch axis.
        model: the part before the cut.
        decoder: a decoder that computes the same as the operators after the cut; None if there is none.
        predict: computes the original's prediction from these tensors; None without a decoder.
    """

    cut: Cut
    shapes: Sequence[tuple[int, ...]]
    model: Any
    decoder: Decoder | None
    predict: Callable[[Sequence[Array]], Prediction] | None


def _find_ending(model: Any, inputs: Sequence[InputSpec], outputs: Sequence[str], where: str) -> _Ending | None:
    """Find where to cut a loaded model: at the tensors that the user names, or at the last that ncnn can compute.

    Args:
        model: it is changed.
        inputs: of the model.
        outputs: names of tensors. If there are none, the model is cut only if ncnn cannot compute all of it.
        where: the original's name, for errors.

    Returns:
        None if the model need not be cut.
    """
    from .onnx.cutting import cut_at, cut_model, may_need_cut
    from .onnx.reading import evaluate

    if not (outputs or may_need_cut(model)):
        return None
    reading = evaluate(model, [spec.original_shape for spec in inputs])
    cuts = [cut_at(reading, outputs, where)] if outputs else _cuts(reading)
    if not cuts:
        return None
    keypoints = told_keypoints(model.metadata_props) or (0, 2)
    cut, decoder, predict = _recognised(reading, cuts, inputs, keypoints)
    shapes = [reading.shapes[name] for name in cut.outputs]
    return _Ending(cut, shapes, cut_model(reading, cut), decoder, predict)


def _recognised(
    reading: Reading, cuts: Sequence[Cut], inputs: Sequence[InputSpec], keypoints: tuple[int, int]
) -> tuple[Cut, Decoder | None, Callable[[Sequence[Array]], Prediction] | None]:
    """(the first cut with a tail that is a known decoder, the decoder, the tail's prediction).

    If no tail is a known decoder: (the first cut, None, None).
    """
    from .onnx.tails import Tail

    axes = image_input(inputs)
    size = (axes.height, axes.width) if axes else (0, 0)
    for cut in cuts:
        with suppress(ConvertError):  # a tail that cannot be run cannot be recognised
            tail = Tail(reading, cut, keypoints)
            if decoder := tail.recognise(size):
                return cut, decoder, tail.predict
    return cuts[0], None, None


def _fed_inputs(inputs: Sequence[InputSpec], values: Sequence[Any]) -> tuple[InputSpec, ...]:
    """The inputs that are left after a cut, with the types that they have in the model."""
    names = [value.name for value in values]
    left = [spec for spec in inputs if spec.name in names]
    return tuple(replace(spec, dtype=_type(value)) for spec, value in zip(left, values, strict=True))


def _with_pixels(source: ModelSource, inputs: Sequence[InputSpec]) -> ModelSource:
    """Set the preprocessing of an original that takes uint8, unless its preprocessing is known."""
    axes = image_input(inputs)
    if source.preprocess is not None or axes is None or "uint8" not in {spec.dtype for spec in source.inputs}:
        return source
    return replace(source, preprocess=stretched(axes, divisor=1.0), preprocess_origin=PIXELS)


def _fitting_labels(labels: tuple[str, ...] | None, decoder: Decoder | None) -> tuple[str, ...] | None:
    """The labels; None if there are not as many as the decoder has classes."""
    return None if decoder and decoder.classes and len(labels or ()) != decoder.classes else labels


def _changes(
    original: Sequence[InputSpec],
    folded: Sequence[InputSpec],
    left: Sequence[InputSpec],
    ending: _Ending | None,
    quantised: QuantisedModel | None,
) -> list[str]:
    """What trimming changed, a sentence for each change."""
    names = [spec.name for spec in left]
    said = [DEQUANTISED] if quantised else []
    said += [change for old, new in zip(original, folded) for change in _said_of_input(old, new)]
    said += [f"input {spec.name!r} is not needed before the cut" for spec in folded if spec.name not in names]
    if ending:
        said.append(_said_of_cut(ending.cut, ending.shapes))
    if ending and ending.decoder:
        said.append(f"the program can decode them: {ending.decoder.kind}, as the card says")
    return said


def _quantised(
    source: ModelSource, inputs: Sequence[InputSpec], outputs: Sequence[str], found: QuantisedModel
) -> QuantisedOriginal:
    """The quantised original with the same outputs as the network. It cannot be run if the network has other inputs."""
    run = None
    if tuple(inputs) == source.inputs:
        with suppress(ModelError):  # no value of the quantised model has the name of an output
            run = onnx_run(onnx_session(source.file, outputs, optimised=False))
    return QuantisedOriginal(run, found.layers, found.lost)


def _trim_module(source: ModelSource, outputs: Sequence[str]) -> ModelSource:
    """Export a torch module to ONNX and trim that file. Returns ``source`` itself if ncnn can compute all of it."""
    scratch = Scratch()
    try:
        path = export_classic(source.module, source.inputs, Path(scratch.name), detects=source.searches)
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
    if trimmed.path == path:  # for example, the module uses only the values of max(), not the indices
        return replace(source, labels=source.labels if len(source.labels or ()) == source.classes else None)
    said = f"torch exported it to ONNX; its tensors are named as in that file, and its inputs {_names(trimmed)}"
    return replace(trimmed, changes=(said, *trimmed.changes))


def _names(source: ModelSource) -> str:
    return ", ".join(spec.name for spec in source.inputs)


def _cuts(reading: Reading) -> list[Cut]:
    """Candidates for the cut: at the fewest tensors, and at a few other tensors that a decoder may be able to read."""
    from .onnx.cutting import find_cut

    first = find_cut(reading)
    if first is None or first.weighted:  # a tail with weights cannot be a decoder
        return [first] if first else []
    more = (find_cut(reading, latest=True), find_cut(reading, whole=True))
    few = (cut for cut in more if cut and len(cut.outputs) <= _MOST_OUTPUTS)
    return list(dict.fromkeys((first, *few)))


_MOST_OUTPUTS = 3  # of a network that a decoder reads


def _type(value: Any) -> str:
    """numpy's name of the type of an input. float16 became float32 when the model was loaded."""
    return "float32" if value.dtype is None else str(value.dtype.numpy())


def _said_of_input(old: InputSpec, new: InputSpec) -> list[str]:
    said = []
    if new.channels_last:
        said.append(
            f"input {new.name!r} is height x width x channels in the model's file ({times(old.shape)}); "
            f"the ncnn network takes the channels first ({times(new.shape)}), and ncnnkit transposes arrays"
        )
    if new.dtype != old.dtype:
        said.append(f"input {new.name!r} is {old.dtype} in the model's file; the ncnn network takes float32")
    return said


def _said_of_cut(cut: Cut, shapes: Sequence[tuple[int, ...]]) -> str:
    """A sentence that says where the network ends, and why."""
    outputs, causes, tail = cut.outputs, cut.causes, cut.tail
    ends = ", ".join(f"{name!r} ({times(without_batch(shape))})" for name, shape in zip(outputs, shapes))
    kinds = list(dict.fromkeys(tail))
    why = f"ncnn cannot compute {', '.join(causes)}; " if causes else ""
    rest = f"; the operators after that are left to the program: {first_few(kinds, _MOST_NAMED)}" if kinds else ""
    second = (
        f"; {counted(cut.weighted, 'operator')} among them {'has' if cut.weighted == 1 else 'have'} weights: "
        "convert this second stage as a network of its own"
        if cut.weighted
        else ""
    )
    return f"{why}the network ends at {ends}{rest}{second}"
