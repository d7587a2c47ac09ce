"""Which decoder an opened model gets, where nothing has told it yet."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from ..device.session import Session
from ..errors import NcnnkitError
from ..model import ncnnfile
from ..samples.items import image_input
from ..samples.stream import ArraySamples
from ..tasks.guess import Known, guess
from ..tasks.ncnn_heads import detection_layer
from .model import Array, ModelSource, example_arrays


def with_decoder(source: ModelSource, task: str = "") -> ModelSource:
    """The model with a decoder, where its head is one that is known.

    What came with the file stays: the decoder of a card, and that of a cut. Otherwise the model runs on one sample of
    noise; see :func:`ncnnkit.tasks.guess.guess`.

    Args:
        source: an opened model.
        task: as in :func:`~ncnnkit.tasks.guess.guess`.

    Returns:
        ``source`` itself where no head is certain. ``decoder_origin`` says what the guess rests on.
    """
    axes = image_input(source.inputs)
    if source.decoder is not None or source.tail or axes is None:
        return source
    size = (axes.height, axes.width)
    if source.kind == "ncnn":
        layer = detection_layer(ncnnfile.load_param(source.file), size)
        if layer and layer.after:
            return replace(source, decoder=layer.after, decoder_origin=f"its layer {layer.type} {layer.name}")
    outputs = _example_outputs(source)
    found = guess(Known(outputs, size, source.metadata, source.labels or (), source.name), task) if outputs else None
    if found is None:
        return source
    return replace(source, decoder=found[0], decoder_origin=found[1])


def _example_outputs(source: ModelSource) -> list[Array]:
    """The outputs for a sample of noise; none where they cannot be computed, or are those of a classifier."""
    if source.classes is not None:
        return []
    arrays = example_arrays(source.inputs)
    # A model that fails here fails again where its outputs are needed, and there it is said.
    with suppress(NcnnkitError):
        if source.run is not None:
            return list(next(source.reference_outputs(ArraySamples(tuple(array[None] for array in arrays)))))
        if source.kind == "ncnn" and _is_no_classifier(source):
            with Session(ncnnfile.load(source.file), precision="fp32") as net:
                return list(net.blobs(*arrays, names=net.outputs))
    return []


def _is_no_classifier(source: ModelSource) -> bool:
    """Whether a network of ncnn may have another output than one vector: loading it takes a moment."""
    graph = ncnnfile.load_param(source.file)
    try:
        known = graph.infer_shapes([spec.shape for spec in source.inputs])
    except NcnnkitError:
        return False
    shapes = [known[blob] for blob in graph.outputs]
    if len(shapes) != 1 or shapes[0] is None:
        return True
    return int(np.sum([side != 1 for side in shapes[0]])) > 1
