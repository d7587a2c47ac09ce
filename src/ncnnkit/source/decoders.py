"""Chooses the decoder of an opened model that has none."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..device.session import Session
from ..errors import NcnnkitError, RecipeError
from ..model import ncnnfile
from ..samples.finding import text_lines
from ..samples.items import image_input
from ..samples.stream import ArraySamples
from ..tasks import TASKS, Decoder
from ..tasks.guess import fitting_heads, guess
from ..tasks.ncnn_heads import detection_layer
from ..tasks.table import Asked
from .model import Array, ModelSource, example_arrays


def with_decoder(source: ModelSource, task: str = "") -> ModelSource:
    """Give a model a decoder, if its head is known.

    The user's choice comes first, then the decoder that came with the file: from a card or from a cut. Otherwise the
    model runs on one sample of noise, and the decoder is guessed; see :func:`ncnnkit.tasks.guess.guess`.

    Args:
        source: an opened model.
        task: as the user gives it; see :class:`~ncnnkit.tasks.table.Asked`.

    Returns:
        The model with its decoder; ``decoder_origin`` gives the evidence for a guess. ``source`` itself if no head is
        certain.

    Raises:
        RecipeError: there is no such task or head, the outputs are not those of the head, or the alphabet does not fit.
    """
    asked = Asked.of(task)
    if asked.head:
        return _as_head(source, asked)
    if asked.alphabet:
        return _as_text(source, asked)
    axes = image_input(source.inputs)
    if source.decoder is not None or source.tail or axes is None:
        return source
    size = (axes.height, axes.width)
    if source.kind == "ncnn":
        layer = detection_layer(ncnnfile.load_param(source.file), size)
        if layer and layer.after:
            return replace(source, decoder=layer.after, decoder_origin=f"its layer {layer.type} {layer.name}")
    outputs = _example_outputs(source)
    found = guess(source.known([outputs]), asked.name if asked.name in TASKS else "") if outputs else None
    if found is None or not isinstance(found[0], Decoder):
        return source
    return replace(source, decoder=found[0], decoder_origin=found[1])


def _as_head(source: ModelSource, asked: Asked) -> ModelSource:
    """The model with the head that the user names."""
    known = source.known([_example_outputs(source)])
    found = guess(known, head=asked.head)
    if found is None or not isinstance(found[0], Decoder):
        shapes = ", ".join("x".join(map(str, shape)) for shape in known.shapes) or "not known"
        fitting = ", ".join(fitting_heads(known))
        raise RecipeError(
            f"the outputs are not those of the head {asked.head}: their shapes are {shapes}",
            where=f"task {asked.name}",
            hint=f"heads of these shapes: {fitting}" if fitting else "a class of your own can decode them",
        )
    return replace(source, decoder=found[0], decoder_origin=f"--task {asked.name}:head={asked.head} was given")


def _as_text(source: ModelSource, asked: Asked) -> ModelSource:
    """The model as a text reader with the characters of a file."""
    lines = [line.rstrip("\r\n") for line in text_lines(Path(asked.alphabet))]
    known = replace(source.known([_example_outputs(source)]), labels=lines)
    found = guess(known, "text")
    if found is None or not isinstance(found[0], Decoder) or not found[0].alphabet:
        classes = f"{known.shapes[0][-1]} classes" if known.shapes and known.shapes[0] else "outputs of unknown shape"
        hint = "the network needs one class more, or two: the blank comes first, and a space may come last"
        what = f"has {len(lines)} characters, but the network has {classes}"
        raise RecipeError(what, where=asked.alphabet, hint=hint)
    return replace(source, decoder=found[0], decoder_origin=f"its characters are those of {asked.alphabet}")


def _example_outputs(source: ModelSource) -> list[Array]:
    """The outputs for a sample of noise. Empty for a classifier, and if they cannot be computed."""
    if source.classes is not None:
        return []
    arrays = example_arrays(source.inputs)
    # A model that fails here fails again when its outputs are needed, and that error is reported.
    with suppress(NcnnkitError):
        if source.run is not None:
            return list(next(source.reference_outputs(ArraySamples(tuple(array[None] for array in arrays)))))
        if source.kind == "ncnn" and _is_no_classifier(source):
            with Session(ncnnfile.load(source.file), precision="fp32") as net:
                return list(net.blobs(*arrays, names=net.outputs))
    return []


def _is_no_classifier(source: ModelSource) -> bool:
    """Whether an ncnn network may have outputs other than one vector. If not, loading it is not worth the time."""
    graph = ncnnfile.load_param(source.file)
    try:
        known = graph.infer_shapes([spec.shape for spec in source.inputs])
    except NcnnkitError:
        return False
    shapes = [known[blob] for blob in graph.outputs]
    if len(shapes) != 1 or shapes[0] is None:
        return True
    return int(np.sum([side != 1 for side in shapes[0]])) > 1
