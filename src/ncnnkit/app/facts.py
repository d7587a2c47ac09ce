"""The facts about a model that are written into its program: ``src/model.h`` in C++, ``infer.json`` in Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

from ..artifact import Artifact
from ..errors import ModelError
from ..model.ops import CAST_TYPES, OPS, Mask
from ..onboard.network import FOUND_NOTHING
from ..onboard.storages import REQUANTISED, WIDENS
from ..samples.axes import image_axes
from ..samples.items import InputSpec, fed, fit
from ..samples.preprocess import NO_IMAGE, Preprocess
from ..source.model import file_safe
from .models import Shipment
from .purpose import Purpose, purpose_of


@dataclass(frozen=True)
class Input:
    """An input of the network.

    Attributes:
        blob: its name in ncnn; any characters.
        name: its name in the original, which the user of the program types.
        shape: without a batch axis.
        preprocess: how an image or an array is prepared; None if the input takes arrays, which are fed unchanged.
    """

    blob: str
    name: str
    shape: tuple[int, ...]
    preprocess: Preprocess | None

    @property
    def takes_images(self) -> bool:
        """Whether the input takes images."""
        return self.preprocess is not None and self.preprocess.color != NO_IMAGE


@dataclass(frozen=True)
class Output:
    """An output of the network.

    Attributes:
        blob: its name in ncnn; any characters.
        file: suffix of the name of its file, which distinguishes it from those of other outputs.
        row: the number of values in a row, if the output has no rows when nothing is detected; 0 if it always has
            values.
    """

    blob: str
    file: str
    row: int


@dataclass(frozen=True)
class Int8Type:
    """A type of layer that can have 8-bit weights. Integers are ids of params; -1 if there is no such param.

    Attributes:
        name: the type.
        term: the param that says whether the weights have 8 bits.
        calibrated: whether its input is int8, too.
        chains: whether its output is int8 (requantised) if ``term`` is above ``Facts.requantised``.
        pad_value: the param with the padding value of an int8 blob.
        widens: the storage in which it computes although its output is fp32; empty if there is none.
    """

    name: str
    term: int
    calibrated: bool
    chains: bool
    pad_value: int
    widens: str


@dataclass(frozen=True)
class StorageIds:
    """Ids and values with which a ``.param`` gives the storage types of blobs; see ``onboard/storages.py``.

    Attributes:
        cast: the type of layer that converts.
        type_from, type_to: ids of its params.
        fp16, bf16, int8: values of these params.
        featmask: id of the param of any layer that switches features off.
        no_fp16, no_bf16: bits of that param.
    """

    cast: str
    type_from: int
    type_to: int
    fp16: int
    bf16: int
    int8: int
    featmask: int
    no_fp16: int
    no_bf16: int


@dataclass(frozen=True)
class Release:
    """A release of the source of ncnn's Python package, which a C++ app can build.

    Attributes:
        version: of ncnn.
        sha256: of the archive of its source.
    """

    version: str
    sha256: str


RELEASE = Release("1.0.20261020", "ad8cdd63e9755cfa8e23b9b6d9ce46156077d80298a89e7c3ba325ffccfca200")
"""The ncnn that a C++ app builds if none is installed: the release that ncnnkit is tested with. pip downloads it."""


@dataclass(frozen=True)
class Facts:
    """The facts about a model that its program needs.

    Attributes:
        model: the network's name.
        variant: precision and backend.
        precision: the precision at which it runs by default.
        stem: name of its files in ``models/``, without suffix.
        ncnn: the version of ncnn with which it was measured; empty if unknown.
        target: the kernels for which it was made; empty for any.
        inputs: in the model's order.
        main: index of the input that the answer is about: the first that takes images, or else the first.
        outputs: in the model's order.
        task: what the program does with the outputs.
        may_swap: whether resizing may do the vertical pass first, as Pillow does from version 13 on.
        precisions: precision -> ncnn's options, for all models in the app.
        int8_types: the types of layers that can have 8-bit weights.
        requantised: see :class:`Int8Type`.
        storage: how a ``.param`` gives the storage types of blobs.
    """

    model: str
    variant: str
    precision: str
    stem: str
    ncnn: str
    target: str
    inputs: tuple[Input, ...]
    main: int
    outputs: tuple[Output, ...]
    task: Purpose
    may_swap: bool
    precisions: dict[str, dict[str, bool]]
    int8_types: tuple[Int8Type, ...]
    requantised: int
    storage: StorageIds


def facts_of(shipped: Shipment) -> Facts:
    """Collect the facts about a model that its program needs.

    Raises:
        FormatError: the model's files are corrupt.
        ModelError: the shape of an input is not known or does not fit.
    """
    chosen, model = shipped.chosen, shipped.chosen.model
    inputs = inputs_of(model)
    # ncnn counts every blob that no layer reads as an output. Such blobs come after the model's own outputs.
    outputs = model.graph.outputs[: len(model.outputs)]
    names, uses = [file_safe(blob) for blob in outputs], model.graph.uses()
    unique = len(set(names)) == len(names)
    return Facts(
        shipped.name, chosen.name, model.precision, chosen.stem, model.ncnn, model.target, inputs,
        next((i for i, each in enumerate(inputs) if each.takes_images), 0),
        tuple(
            Output(blob, name if unique else str(i), FOUND_NOTHING.get(uses.producer(blob).type, 0))
            for i, (blob, name) in enumerate(zip(outputs, names))
        ),
        purpose_of(model),
        may_swap_passes(model.pillow),
        # The chosen model comes last, so that its options replace those of other models with its precision.
        {row.model.precision: row.model.options for row in (*shipped.models, chosen)},
        tuple(int8_types()), REQUANTISED, storage_ids(),
    )  # fmt: skip


def inputs_of(model: Artifact) -> tuple[Input, ...]:
    """The network's inputs, with the shapes of the card. If there are several, images are resized to each.

    Raises:
        ModelError: the shape of an input is not known or does not fit.
    """
    blobs = model.graph.inputs
    shapes = [tensor.shape for tensor in model.inputs] or [()] * len(blobs)
    for blob, shape in zip(blobs, shapes):
        if not shape:
            hint = "ncnnkit convert --shape writes it into the .param"
            raise ModelError(f"the shape of the input {blob} is not known", where=model.name, hint=hint)
    model.graph.check_input_shapes(shapes)
    specs = [InputSpec(name, shape) for name, shape in zip(model.fed or blobs, shapes)]
    return tuple(Input(blob, spec.name, spec.shape, how_of(model, spec)) for blob, spec in zip(blobs, specs))


def how_of(model: Artifact, spec: InputSpec) -> Preprocess | None:
    """The preprocessing of an input. Of several inputs, only those with its number of channels have it."""
    how, axes = model.preprocess, image_axes(spec.shape)
    if how is None or len(model.graph.inputs) == 1:
        return fit(how, (spec,)) if how and how.waits_for_size else how
    return fed(how, spec) if axes is not None and axes.channels == how.channels else None


def may_swap_passes(pillow: str) -> bool:
    """Whether a version of Pillow may do the vertical pass first, which rounds differently. Empty: the installed."""
    major = pillow.partition(".")[0]
    return int(major if major.isdecimal() else version("Pillow").partition(".")[0]) >= 13


def int8_types() -> Iterator[Int8Type]:
    """The types of layers that can have 8-bit weights, from ``ops.py``."""
    for op in OPS.values():
        terms = [op.by_name[name].id for name in ("int8_scale_term", "quantize_term") if name in op.by_name]
        if terms:
            padding = op.by_name["pad_value"].id if "pad_value" in op.by_name else -1
            yield Int8Type(
                op.name, terms[0], op.int8 is not None, op.chains_int8, padding, WIDENS.get(op.name, "")
            )  # fmt: skip


def storage_ids() -> StorageIds:
    """How a ``.param`` gives the storage types of blobs, from ``ops.py``."""
    cast = OPS["Cast"].by_name
    return StorageIds(
        "Cast", cast["type_from"].id, cast["type_to"].id, CAST_TYPES["fp16"], CAST_TYPES["bf16"], CAST_TYPES["int8"],
        cast["featmask"].id, Mask.NO_FP16_STORAGE, Mask.NO_BF16,
    )  # fmt: skip
