"""What a program knows of its model: ``src/model.h`` in C++, ``infer.json`` in Python."""

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
        name: by which a user gives it: that in the original.
        shape: without a batch axis.
        preprocess: how an image or an array becomes it; None: it takes arrays, which are fed as they are.
    """

    blob: str
    name: str
    shape: tuple[int, ...]
    preprocess: Preprocess | None

    @property
    def takes_images(self) -> bool:
        """Whether an image can become it."""
        return self.preprocess is not None and self.preprocess.color != NO_IMAGE


@dataclass(frozen=True)
class Output:
    """An output of the network.

    Attributes:
        blob: its name in ncnn; any characters.
        file: what distinguishes its file from those of other outputs; safe in file names.
        row: the number of values in a row of an output that has no rows where nothing is detected; 0: it always has
            values.
    """

    blob: str
    file: str
    row: int


@dataclass(frozen=True)
class Int8Type:
    """A type of layer that can hold weights of 8 bits. Numbers are ids of params; -1: it has none.

    Attributes:
        name: the type.
        term: the param that says whether the weights have 8 bits.
        calibrated: whether it reads int8, too.
        chains: whether its output is int8 if ``term`` is above ``Facts.requantised``.
        pad_value: what an int8 blob is padded with.
        widens: the storage in which it computes although its output is fp32; empty: none.
    """

    name: str
    term: int
    calibrated: bool
    chains: bool
    pad_value: int
    widens: str


@dataclass(frozen=True)
class StorageIds:
    """How a ``.param`` says what is stored how; see ``onboard/storages.py``.

    Attributes:
        cast: the type of layer that converts.
        type_from, type_to: its params.
        fp16, bf16, int8: values of these.
        featmask: the param of any layer that masks features.
        no_fp16, no_bf16: bits of it.
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
"""What a C++ app builds if no ncnn is installed: the release that ncnnkit is tested with. pip downloads it."""


@dataclass(frozen=True)
class Facts:
    """What a program knows of its model.

    Attributes:
        model: the network's name.
        variant: precision and backend.
        precision: the precision at which it runs by default.
        stem: its files' name in ``models/``.
        ncnn: the version of ncnn that it was measured with; empty: not known.
        target: the kernels that it was made for; empty: any.
        inputs: in the model's order.
        main: index of the input that the answer is about: the first that takes images, else the first.
        outputs: in the model's order.
        task: what the program does with the outputs.
        may_swap: whether resizing swaps its passes as Pillow does from version 13 on.
        precisions: precision -> ncnn's options, of all models in the app.
        int8_types: the types of layers that can hold weights of 8 bits.
        requantised: see :class:`Int8Type`.
        storage: how a ``.param`` says what is stored how.
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
    """What a program must know of its model.

    Raises:
        FormatError: the model's files are corrupt.
        ModelError: the shape of an input is not known or does not fit.
    """
    chosen, model = shipped.chosen, shipped.chosen.model
    inputs = inputs_of(model)
    # Blobs that no layer reads count as outputs in ncnn, too; they come after the model's own.
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
        # The chosen model's options go before those of the others.
        {row.model.precision: row.model.options for row in (*shipped.models, chosen)},
        tuple(int8_types()), REQUANTISED, storage_ids(),
    )  # fmt: skip


def inputs_of(model: Artifact) -> tuple[Input, ...]:
    """The network's inputs: names as in the file, shapes as the card says; of several, images are scaled to each.

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
    """The preprocessing of an input; of several, those have it that take as many channels as it gives."""
    how, axes = model.preprocess, image_axes(spec.shape)
    if how is None or len(model.graph.inputs) == 1:
        return fit(how, (spec,)) if how and how.waits_for_size else how
    return fed(how, spec) if axes is not None and axes.channels == how.channels else None


def may_swap_passes(pillow: str) -> bool:
    """Whether a version of Pillow may resize by height first, which rounds otherwise. Empty: the installed version."""
    major = pillow.partition(".")[0]
    return int(major if major.isdecimal() else version("Pillow").partition(".")[0]) >= 13


def int8_types() -> Iterator[Int8Type]:
    """Of ``ops.py``, the types of layers that can hold weights of 8 bits."""
    for op in OPS.values():
        terms = [op.by_name[name].id for name in ("int8_scale_term", "quantize_term") if name in op.by_name]
        if terms:
            padding = op.by_name["pad_value"].id if "pad_value" in op.by_name else -1
            yield Int8Type(
                op.name, terms[0], op.int8 is not None, op.chains_int8, padding, WIDENS.get(op.name, "")
            )  # fmt: skip


def storage_ids() -> StorageIds:
    """Of ``ops.py``, how a ``.param`` says what is stored how."""
    cast = OPS["Cast"].by_name
    return StorageIds(
        "Cast", cast["type_from"].id, cast["type_to"].id, CAST_TYPES["fp16"], CAST_TYPES["bf16"], CAST_TYPES["int8"],
        cast["featmask"].id, Mask.NO_FP16_STORAGE, Mask.NO_BF16,
    )  # fmt: skip
