"""Finds the first layer of a converted network whose output differs from the original.

Inner tensors of the original are compared with ncnn's blobs, for one sample. The tensors of an ONNX file come from ONNX
Runtime, those of a torch module from forward hooks. ncnnkit's own front end knows which blob holds which tensor. For
other networks this is not known, so each blob is compared with the most similar tensor of the same size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..comparison.layers import OUTSTANDING
from ..comparison.noise import sqnr_db
from ..device.session import Session
from ..errors import ConvertError, ModelError, NcnnkitError
from ..model.graph import Graph
from .model import Array, ModelSource
from .reference import LEAST_SQNR_DB

_LEAST = 10 ** (-LEAST_SQNR_DB / 10)  # the largest noise over signal (power) of a correct layer in fp32
_ALIKE = 0.01  # noise over signal (20 dB) up to which a blob is matched with a tensor whose place is not recorded


@dataclass(frozen=True)
class InnerTensor:
    """A tensor inside the original.

    Attributes:
        name: in the file; for torch, the module's name.
        maker: type and name of the operator that computes it, or the module's class.
        values: its values for the sample, with the batch axis.
    """

    name: str
    maker: str
    values: Array


@dataclass(frozen=True)
class LayerCheck:
    """The comparison of a layer's output with the original.

    Attributes:
        layer: name of the layer.
        type: type of the layer.
        blob: the output that is compared.
        shape: of the blob.
        tensor: the tensor of the original that it must equal.
        noise: noise over signal of the blob (power, no unit); infinite if the blob contains NaN or infinity.
        wrong: whether the noise is much larger than that of the layer's inputs and than fp32 rounding.
    """

    layer: str
    type: str
    blob: str
    shape: tuple[int, ...]
    tensor: InnerTensor
    noise: float
    wrong: bool

    @property
    def sqnr_db(self) -> float | None:
        """Signal over noise, dB; None if there is no noise."""
        return sqnr_db(self.noise)

    @property
    def said(self) -> str:
        """The layer and the tensor, as text for an error message."""
        shapes = f"{list(self.shape)} for {list(self.tensor.values.shape)}"
        return f"{self.type} {self.layer!r}, which must be {self.tensor.name!r} of {self.tensor.maker} ({shapes})"


@dataclass(frozen=True)
class Bisection:
    """The comparison of all layers of a network with the original, in the order in which they run.

    Attributes:
        graph: the network.
        layers: the layers with outputs that can be compared.
        exact: whether it is known which tensor a blob holds. If not, the most similar tensor was taken.
    """

    graph: Graph
    layers: Sequence[LayerCheck]
    exact: bool

    @property
    def first_wrong(self) -> LayerCheck | None:
        """The first layer whose output is wrong although its inputs are right."""
        return next((layer for layer in self.layers if layer.wrong), None)


def bisect(source: ModelSource, graph: Graph, sample: Sequence[Array]) -> Bisection:
    """Compare every layer of a converted network with the original.

    Args:
        source: the original.
        graph: the network as it was converted, not optimised.
        sample: an array for each input, without the batch axis.

    Raises:
        ModelError: the tensors inside the original cannot be read.
        ConvertError, RuntimeFailure: the original or ncnn cannot be run.
    """
    tensors, places = _onnx_tensors(source, graph, sample) if source.kind == "onnx" else (_hooked(source, sample), {})
    blobs = [blob for layer in graph.layers for blob in layer.outputs if layer.type == "Input" or not layer.op.copies]
    with Session(graph, precision="fp32", keep_blobs=True) as net:
        made = dict(zip(blobs, net.blobs(*sample, names=blobs)))
    found = _recorded(tensors, places, made) if places else _most_similar(tensors, graph, made)
    carried: dict[str, float] = {}  # blob -> its noise over signal; if unknown, that of the blobs it is computed from
    rows = []
    for layer in graph.layers:
        read = max((carried[blob] for blob in layer.inputs), default=0.0)
        for blob in layer.outputs:
            carried[blob] = read
            if blob in found and layer.type != "Input":
                tensor, noise = tensors[found[blob]], _noise(made[blob], tensors[found[blob]].values)
                wrong = noise > _LEAST and noise > OUTSTANDING * read
                rows.append(LayerCheck(layer.name, layer.type, blob, made[blob].shape, tensor, noise, wrong))
                carried[blob] = noise
    return Bisection(graph, rows, bool(places))


def said_of_first_wrong(source: ModelSource, graph: Graph | None, sample: Sequence[Array]) -> str:
    """The first wrong layer, as text to append to an error; empty if there is no network, or if it is not known."""
    try:
        check = bisect(source, graph, sample).first_wrong if graph is not None else None
    except NcnnkitError:
        return ""
    return "" if check is None else f", and its first wrong layer is {check.said}"


def _noise(ours: Array, theirs: Array) -> float:
    """Noise over signal. Infinite if only ours has values that are not finite, or if all should be zero but are not."""
    ours, theirs = ours.reshape(-1).astype(np.float64), theirs.reshape(-1).astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.isfinite(ours[finite]).all():
        return float("inf")
    noise, signal = float(np.sum((ours - theirs)[finite] ** 2)), float(np.sum(theirs[finite] ** 2))
    return 0.0 if noise == 0 else noise / signal if signal else float("inf")


def _recorded(tensors: Sequence[InnerTensor], places: Mapping[str, str], made: Mapping[str, Array]) -> dict[str, int]:
    """Blob -> index of its tensor, as the front end recorded it."""
    index = {tensor.name: place for place, tensor in enumerate(tensors)}
    return {blob: index[places[blob]] for blob in made if places.get(blob) in index}


def _most_similar(tensors: Sequence[InnerTensor], graph: Graph, made: Mapping[str, Array]) -> dict[str, int]:
    """Blob -> index of the most similar tensor of its size, or of the next tensor of its size if none is similar.

    A blob that equals no tensor need not have a counterpart in the original. If a correct blob is computed from it, it
    is left out.
    """
    of_size: dict[int, list[int]] = {}
    for place, tensor in enumerate(tensors):
        of_size.setdefault(tensor.values.size, []).append(place)
    found: dict[str, int] = {}
    right: set[str] = set()
    after: dict[str, int] = {}  # blob -> index of its tensor, or of the last tensor that it is computed from
    for layer in graph.layers:
        last = max((after[blob] for blob in layer.inputs), default=-1)
        for blob in layer.outputs:
            places = of_size.get(made[blob].size, []) if blob in made and layer.type != "Input" else []
            noises = {place: _noise(made[blob], tensors[place].values) for place in places}
            best = min(noises, key=noises.__getitem__, default=None)
            if best is not None and noises[best] <= _LEAST:
                right.add(blob)
            elif best is not None and noises[best] > _ALIKE:
                best = next((place for place in places if place > last), None)
            if best is not None:
                found[blob] = best
            after[blob] = last if best is None else best
    leads = set(right)
    for layer in reversed(graph.layers):
        if not leads.isdisjoint(layer.outputs):
            leads.update(layer.inputs)
    return {blob: place for blob, place in found.items() if blob in right or blob not in leads}


# ------------------------------------------------------------------------------------------------- inside the original


def _onnx_tensors(
    source: ModelSource, graph: Graph, sample: Sequence[Array]
) -> tuple[list[InnerTensor], dict[str, str]]:
    """(every tensor of numbers in the file, blob -> name of its tensor). The dict is empty for other front ends."""
    from .onnx import lower_reading
    from .onnx.reading import compute, evaluate, fed, load

    reading = evaluate(load(source.file), [spec.original_shape for spec in source.inputs])
    model = reading.model
    makers = {
        str(value.name): f"{node.op_type} {node.name!r}"
        for node in model.graph
        for value in node.outputs
        if value.name in reading.shapes and value.name not in reading.constants
    }
    feeds = {
        str(value.name): spec.as_original(array).astype(value.dtype.numpy() if value.dtype is not None else np.float32)
        for value, spec, array in zip(fed(model.graph), source.inputs, sample, strict=True)
    }
    tensors = [
        InnerTensor(name, makers[name], array)
        for name, array in compute(model, list(makers), feeds)
        if array.dtype.kind in "fiub" and array.size
    ]
    try:
        lowered = lower_reading(reading)
    except ConvertError:
        return tensors, {}
    ours = {(layer.type, layer.name, *layer.outputs) for layer in graph.layers}
    if not all((layer.type, layer.name, *layer.outputs) in ours for layer in lowered.graph.layers):
        return tensors, {}
    places: dict[str, str] = {}
    for value, blob in lowered.places.items():
        places.setdefault(blob.name, value)  # several values may be views of one blob; the layer computes the first
    return tensors, places


def _hooked(source: ModelSource, sample: Sequence[Array]) -> list[InnerTensor]:
    """The tensors that the submodules of a torch network return, in order of execution."""
    module = source.module
    if module is None or source.run is None or hasattr(module, "_c"):  # the parts of a ScriptModule call no hooks
        raise ModelError(
            "gives no tensors inside the network to compare with",
            where=source.reference,
            hint="give the original as ONNX",
        )
    found: list[InnerTensor] = []
    hooks = []
    for name, part in module.named_modules():

        def keep(part: Any, inputs: Any, output: Any, name: str = name) -> None:
            for tensor in output if isinstance(output, tuple | list) else [output]:
                if hasattr(tensor, "detach"):
                    values = np.array(tensor.detach().float().cpu().numpy())
                    found.append(InnerTensor(name or "the whole module", type(part).__name__, values))

        hooks.append(part.register_forward_hook(keep))
    try:
        source.run([spec.as_original(array) for array, spec in zip(sample, source.inputs, strict=True)])
    finally:
        for hook in hooks:
            hook.remove()
    return found
