"""Where a converted network parts from its original: the first layer that computes something else.

Inner tensors of the original are compared with ncnn's blobs, for one sample. The tensors of an ONNX file come from ONNX
Runtime, those of a torch module from forward hooks. ncnnkit's own front end knows which tensor lies in which blob. Of
other networks nobody knows it; there, a blob belongs to the tensor that is most like it among those of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..comparison.layers import OUTSTANDING
from ..comparison.noise import sqnr_db
from ..device.session import Session
from ..errors import ConvertError, ModelError
from ..model.graph import Graph
from .model import Array, ModelSource

LEAST_SQNR_DB = 60.0
"""What a layer in fp32 must have, dB, or be no noisier than what it reads."""

_ALIKE = 0.01  # noise over signal (20 dB) up to which a blob is taken for a tensor that nobody said it is

Match = Callable[[str, Array, int], tuple[int, float] | None]
"""(blob, its values, place of the last tensor before it) -> (place of the tensor it must equal, noise over signal)."""


@dataclass(frozen=True)
class InnerTensor:
    """A tensor inside the original.

    Attributes:
        name: in the file; the module's name in torch.
        maker: the operator that makes it and its name, or the module's class.
        values: for the sample, with the batch axis.
    """

    name: str
    maker: str
    values: Array


@dataclass(frozen=True)
class LayerCheck:
    """A layer of ncnn beside the original.

    Attributes:
        layer: its name.
        type: its type.
        blob: the output that is compared.
        shape: of the blob.
        tensor: the tensor of the original that it must equal.
        noise: noise over signal of the blob; infinite where it contains NaN or infinity.
        wrong: whether it is much noisier than what the layer reads, and than fp32 is.
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
        """Signal over noise, dB; None where there is no noise."""
        return sqnr_db(self.noise)

    @property
    def said(self) -> str:
        """The layer and the tensor, as an error names them."""
        shapes = f"{list(self.shape)} for {list(self.tensor.values.shape)}"
        return f"{self.type} {self.layer!r}, which must be {self.tensor.name!r} of {self.tensor.maker} ({shapes})"


@dataclass(frozen=True)
class Bisection:
    """All layers of a network beside the original, in the order in which they run.

    Attributes:
        graph: the network.
        layers: those whose outputs can be compared.
        exact: whether it is known which tensor a blob holds; else the likest one was taken.
    """

    graph: Graph
    layers: Sequence[LayerCheck]
    exact: bool

    @property
    def first_wrong(self) -> LayerCheck | None:
        """The first layer that is wrong although what it reads is right."""
        return next((layer for layer in self.layers if layer.wrong), None)


def bisect(source: ModelSource, graph: Graph, sample: Sequence[Array]) -> Bisection:
    """Compare every layer of a converted network with the original.

    Args:
        source: the original.
        graph: the network as it was converted, not optimised.
        sample: an array for each input, without the batch axis.

    Raises:
        ModelError: the original hands out no inner tensors.
        ConvertError, RuntimeFailure: the original or ncnn cannot be run.
    """
    tensors, places = _onnx_tensors(source, graph, sample) if source.kind == "onnx" else (_hooked(source, sample), {})
    blobs = [blob for layer in graph.layers for blob in layer.outputs if layer.type == "Input" or not layer.op.copies]
    with Session(graph, precision="fp32", keep_blobs=True) as net:
        made = dict(zip(blobs, net.blobs(*sample, names=blobs)))
    match = _known(tensors, places) if places else _likest(tensors)
    carried: dict[str, float] = {}  # blob -> its noise over signal; of what nobody can tell, that of what it is made of
    at: dict[str, int] = {}  # blob -> the place of its tensor in the original's order
    rows = []
    for layer in graph.layers:
        read = max((carried[blob] for blob in layer.inputs), default=0.0)
        after = max((at.get(blob, -1) for blob in layer.inputs), default=-1)
        for blob in layer.outputs:
            carried[blob], at[blob] = read, after
            found = match(blob, made[blob], after) if blob in made and layer.type != "Input" else None
            if found is None:
                continue
            at[blob], carried[blob] = found
            wrong = found[1] > 10 ** (-LEAST_SQNR_DB / 10) and found[1] > OUTSTANDING * read
            rows.append(LayerCheck(layer.name, layer.type, blob, made[blob].shape, tensors[found[0]], found[1], wrong))
    return Bisection(graph, rows, bool(places))


def _noise(ours: Array, theirs: Array) -> float:
    """Noise over signal. Infinite where only ours is not finite, and where there should be nothing but zeros."""
    ours, theirs = ours.reshape(-1).astype(np.float64), theirs.reshape(-1).astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.isfinite(ours[finite]).all():
        return float("inf")
    noise, signal = float(np.sum((ours - theirs)[finite] ** 2)), float(np.sum(theirs[finite] ** 2))
    return 0.0 if noise == 0 else noise / signal if signal else float("inf")


def _known(tensors: Sequence[InnerTensor], places: Mapping[str, str]) -> Match:
    """The tensor of a blob where the front end knows it."""
    index = {tensor.name: i for i, tensor in enumerate(tensors)}

    def match(blob: str, ours: Array, after: int) -> tuple[int, float] | None:
        if blob not in places or places[blob] not in index:
            return None
        place = index[places[blob]]
        return place, _noise(ours, tensors[place].values)

    return match


def _likest(tensors: Sequence[InnerTensor]) -> Match:
    """The tensor that is most like a blob; where none is like it, the next one of its size."""
    of_size: dict[int, list[int]] = {}
    for place, tensor in enumerate(tensors):
        of_size.setdefault(tensor.values.size, []).append(place)

    def match(blob: str, ours: Array, after: int) -> tuple[int, float] | None:
        places = of_size.get(ours.size, [])
        noises = {place: _noise(ours, tensors[place].values) for place in places}
        best = min(places, key=noises.__getitem__, default=None)
        if best is not None and noises[best] > _ALIKE:
            best = next((place for place in places if place > after), None)
        return None if best is None else (best, noises[best])

    return match


# ------------------------------------------------------------------------------------------------- inside the original


def _onnx_tensors(
    source: ModelSource, graph: Graph, sample: Sequence[Array]
) -> tuple[list[InnerTensor], dict[str, str]]:
    """Every tensor of floats, and, where the network is from our front end, blob -> tensor."""
    from .onnx import lower_reading
    from .onnx.reading import compute, evaluate, fed, load

    reading = evaluate(load(source.file), [(1, *spec.shape) for spec in source.inputs])
    model = reading.model
    makers = {
        str(value.name): f"{node.op_type} {node.name!r}"
        for node in model.graph
        for value in node.outputs
        if value.name in reading.shapes and value.name not in reading.constants
    }
    feeds = {
        str(value.name): array[None].astype(value.dtype.numpy() if value.dtype is not None else np.float32)
        for value, array in zip(fed(model.graph), sample, strict=True)
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
        places.setdefault(blob.name, value)  # of views of one blob the first: the layer made that one
    return tensors, places


def _hooked(source: ModelSource, sample: Sequence[Array]) -> list[InnerTensor]:
    """What the modules of a torch network return, in the order in which they do."""
    module = source.module
    if module is None or source.run is None or hasattr(module, "_c"):  # a ScriptModule's parts call no hooks
        raise ModelError(
            "hands out no inner tensors", where=source.reference, hint="give the module itself, or export it to ONNX"
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
        source.run([array[None].astype(spec.dtype) for array, spec in zip(sample, source.inputs, strict=True)])
    finally:
        for hook in hooks:
            hook.remove()
    return found
