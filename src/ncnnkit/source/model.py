"""The class of opened models, and what all ways to open one share: shapes, metadata, names."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Tensor
from ..codec import readable
from ..errors import ModelError, NcnnkitError, meant_path, reading, reason
from ..formatting import shape_option
from ..model.graph import Graph
from ..model.shapes import natural
from ..onboard.scratch import Scratch
from ..onboard.sysfs import system_memory_mb
from ..onboard.userfiles import check_regular
from ..record.environment import installed
from ..record.run import Engine, Kind, Model, Reference
from ..samples.items import InputSpec, fit, image_input
from ..samples.preprocess import Preprocess
from ..samples.presets import stretched, ultralytics
from ..samples.stream import Samples
from ..tasks import Decoder, Prediction
from ..tasks.known import Known

Array = NDArray[Any]
Original = Callable[[list[Array]], list[Any]]
"""A function that runs the original on one sample: input arrays of the original's shapes and types -> outputs."""


@dataclass(frozen=True)
class QuantisedOriginal:
    """A quantised original. Its ``ModelSource`` is the same model in floating point.

    Attributes:
        run: runs it on one sample; None if its outputs cannot be compared with those of the ``ModelSource``.
        layers: names of the operators that keep their scales.
        lost: reason -> names of the operators whose quantisation ncnn's int8 cannot represent.
    """

    run: Original | None
    layers: Sequence[str]
    lost: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ModelSource:
    """An original model. It can be converted, and run to get its reference outputs.

    Attributes:
        reference: as the user typed it.
        name: short, safe in file names.
        kind: onnx, torchscript, torch (a module made by code) or ncnn.
        path: its file; None for a module made by code.
        inputs: in the model's order.
        outputs: names, in the model's order.
        engine: the engine that computes the reference outputs: torch, onnxruntime, or ncnn if there is no other
            original.
        preprocess: how images become its input; None if unknown.
        preprocess_origin: where the preprocessing was found.
        labels: class names by index.
        run: runs the original on one sample; None if there is no original but ncnn itself.
        classes: the number of classes, if the library that built it knows it as a classifier.
        module: the ``torch.nn.Module``, if torch loaded or made one.
        searches: whether the module sorts or searches, which ncnn cannot do.
        changes: how it differs from the user's file, one sentence each: where it was cut, how its inputs changed.
        tail: types of the operators of the user's file that come after its outputs, if it was cut.
        quantised: the user's file, if it is quantised; ``path`` and ``run`` are then the same in floating point.
        metadata: of its file, as texts; empty for a module made by code.
        decoder: how its outputs become a prediction; None if unknown.
        decoder_origin: the evidence for a guessed decoder, a clause; empty if it was not guessed.
        predict: computes the prediction of the user's file from the outputs; None if only ``decoder`` can.
        scratch: the temporary folder of ``path``, if the file was changed. It is deleted with this object.
        others: the same original for inputs of other shapes, which the network must accept, too.
    """

    reference: str
    name: str
    kind: Kind
    path: Path | None
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    engine: Engine
    preprocess: Preprocess | None = None
    preprocess_origin: str = ""
    labels: tuple[str, ...] | None = None
    run: Original | None = field(default=None, repr=False, compare=False)
    classes: int | None = None
    module: Any = field(default=None, repr=False, compare=False)
    searches: bool = False
    changes: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    quantised: QuantisedOriginal | None = field(default=None, repr=False, compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    decoder: Decoder | None = None
    decoder_origin: str = ""
    predict: Callable[[Sequence[Array]], Prediction] | None = field(default=None, repr=False, compare=False)
    scratch: Scratch | None = field(default=None, repr=False, compare=False)
    others: tuple[ModelSource, ...] = ()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the inputs, without the batch axis."""
        return [spec.shape for spec in self.inputs]

    def at(self, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
        """The same original for inputs of other shapes. Whether it accepts them is known only when it runs.

        Raises:
            ModelError: a shape has another number of axes, or there is too little memory for it.
        """
        for spec, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(spec.shape) or spec.original is not None:
                raise ModelError(f"input {spec.name!r} cannot have the shape {listed(shape)}", where=self.reference)
        _check_room(self.reference, shapes)
        specs = tuple(replace(spec, shape=tuple(shape)) for spec, shape in zip(self.inputs, shapes))
        return replace(self, inputs=specs, preprocess=fit(self.preprocess, specs), others=())

    @property
    def as_quantised(self) -> ModelSource | None:
        """The quantised original; None if the original is not quantised, or cannot be run as it is."""
        return replace(self, run=self.quantised.run) if self.quantised and self.quantised.run else None

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def file(self) -> Path:
        """The path of the original's file. Only for originals that are files."""
        assert self.path is not None, self.kind
        return self.path

    def known(self, samples: Sequence[Sequence[Array]] = (), *, labelled: bool = False) -> Known:
        """The facts from which the task of the network is guessed.

        Args:
            samples: its outputs for some samples.
            labelled: whether the class of each image is given.
        """
        axes, shape = image_input(self.inputs), self.shapes[0] if len(self.inputs) == 1 else ()
        size, channels = ((axes.height, axes.width), axes.channels) if axes else ((0, 0), 0)
        if not axes and len(shape) == 3:  # for example, several images stacked along the channels
            channels, size = shape[0], (shape[1], shape[2])
        return Known(
            samples, size, self.metadata, self.labels or (), self.name, channels, self.classes, labelled,
            self.decoder, self.decoder_origin,
        )  # fmt: skip

    def record(self, graph: Graph, outputs: Mapping[str, tuple[int, ...]], classes: int) -> Model:
        """The network as run.json holds it.

        Args:
            graph: the optimised network.
            outputs: name of an output of the original -> its shape.
            classes: see :class:`ncnnkit.record.run.Model`.
        """
        return Model(
            reference=self.reference,
            name=self.name,
            kind=self.kind,
            inputs=[Tensor(spec.name, spec.shape) for spec in self.inputs],
            outputs=[Tensor(name, shape) for name, shape in outputs.items()],
            layers=len(graph.layers),
            parameters=graph.parameters,
            labels=len(self.labels or ()),
            classes=classes,
        )

    def engine_record(self) -> Reference:
        """The engine that computes the reference outputs, as run.json holds it."""
        return Reference(engine=self.engine, version=installed(self.engine), origin=_ORIGINS[self.engine])

    def reference_outputs(self, samples: Samples) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Run the original on each sample, one at a time.

        Args:
            samples: arrays in the order of ``self.inputs``; each is cast to the input's own type.

        Yields:
            A float32 array for each of ``self.outputs``, without the model's batch axis of 1.

        Raises:
            ModelError: the original fails on a sample, its outputs are not arrays, or the engine is ncnn (run the
                converted graph instead).
        """
        if self.run is None:
            raise ModelError("the original is an ncnn model itself, so nothing else can run it", where=self.reference)
        for index, sample in enumerate(samples):
            batch = [spec.as_original(array) for array, spec in zip(sample, self.inputs, strict=True)]
            yield tuple(_fold_batch(value, name) for value, name in zip(self._one(batch, index), self.outputs))

    def _one(self, sample: list[Array], index: int) -> list[Any]:
        assert self.run is not None
        try:
            return self.run(sample)
        except NcnnkitError:
            raise
        except Exception as error:  # torch and ONNX Runtime raise their own kinds
            what, hint = f"the original fails on sample {index}: {say(error)}", getattr(error, "hint", "")
            raise ModelError(what, where=self.reference, hint=hint) from None


_ORIGINS: dict[Engine, str] = {
    "torch": "the original network in PyTorch",
    "onnxruntime": "the original ONNX file in ONNX Runtime",
    "ncnn": "ncnn itself in fp32, before optimising: the original is not known",
}


def _fold_batch(value: Any, name: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise ModelError(f"output {name!r} is not an array of numbers") from None
    return array[0] if array.ndim and array.shape[0] == 1 else array


def example_arrays(inputs: Sequence[InputSpec]) -> list[Array]:
    """An array for each input, of its shape and type; the same every time. Integers are zero: always a valid index."""
    noise = np.random.default_rng(0)
    return [
        noise.random(spec.shape).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else np.zeros(spec.shape, spec.dtype)
        for spec in inputs
    ]


def require_file(path: Path, hint: str = "") -> None:
    """Raise ModelError if a path of the user's is no regular file. If there is nothing, the hint is this one, or
    similar names."""
    with reading(path, ModelError):
        try:
            check_regular(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null in the name
            raise ModelError("no such file", where=str(path), hint=hint or meant_path(path)) from None


def say(error: BaseException) -> str:
    """The message of a library's exception as one short clause."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:\s*)?", "", reason(error))
    return text or type(error).__name__


# -------------------------------------------------------------------------------------------------------- opening


def file_safe(name: str) -> str:
    """A name that is safe in file names on every system, and that run.json may hold (``record.names.PLAIN_NAME``)."""
    # A file name may have 255 bytes; precision, device and ending are appended.
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:_LONGEST_NAME].strip("-.") or "model"


_LONGEST_NAME = 100


Dims = tuple[Any, ...]
"""An input's dimensions with the batch axis. A dimension that is not an integer above zero is dynamic."""


def settle_inputs(
    reference: str,
    names: Sequence[str],
    dims: Sequence[Dims | None],
    dtypes: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
) -> tuple[InputSpec, ...]:
    """The inputs with the shapes that the user gave. An entry of ``dims`` is None if not even the rank is known."""
    if shapes and len(shapes) != len(names):
        raise ModelError(
            f"{len(shapes)} shapes are given, but the model has {len(names)} inputs ({', '.join(names)})",
            where=reference,
            hint="give one for each input, in this order",
        )
    given: Sequence[tuple[int, ...] | None] = shapes or [None] * len(names)
    settled = [_settle_shape(f"{reference}: input {name!r}", known, g) for name, known, g in zip(names, dims, given)]
    _check_room(reference, settled)
    return tuple(
        InputSpec(name, natural(shape), dtype, original=None if (1, *natural(shape)) == shape else shape)
        for name, dtype, shape in zip(names, dtypes, settled)
    )


_COPIES = 4  # of the inputs in memory, at least: the sample, the original, ncnn, and the first blob that is computed


def _check_room(reference: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse inputs that are too large for the memory before any is allocated."""
    needed = _COPIES * sum(np.dtype(np.float32).itemsize * math.prod(shape) for shape in shapes) / 1e6
    free = system_memory_mb("MemAvailable")
    if free is not None and needed > free:
        shown = " and ".join(map(listed, shapes))
        raise ModelError(
            f"inputs of {shown} need at least {needed / 1e3:.1f} GB of memory, and {free / 1e3:.1f} GB are free",
            where=reference,
        )


def _settle_shape(where: str, known: Dims | None, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of an input of the original. A first axis that is 1 or dynamic is the batch axis, and becomes 1."""
    if given is not None and not (given and all(size > 0 for size in given)):
        raise ModelError(f"shape {listed(given)} is not usable", where=where)
    if known is None:
        if given is None:
            raise ModelError(
                "the file does not contain its shape", where=where, hint=f"give it, such as {shape_option(3, 224, 224)}"
            )
        # The rank is unknown: a first dimension of 1 counts as the batch axis only if there are four or more.
        return given if len(given) >= 4 and given[0] == 1 else (1, *given)
    fixed = [size if isinstance(size, int) and size > 0 else None for size in known]
    shown = listed("?" if size is None else size for size in fixed)
    if not fixed:
        return ()
    first, body = fixed[0] or 1, fixed[1:]
    if given is None:
        if None in body:
            example = shape_option(*(224 if size is None else size for size in body))
            raise ModelError(f"has dynamic dimensions ({shown})", where=where, hint=f"give them, such as {example}")
        return (first, *(size for size in body if size is not None))
    shape = given[1:] if len(given) == len(fixed) and given[0] == first else given
    if len(shape) != len(body) or any(size not in (None, ours) for size, ours in zip(body, shape)):
        raise ModelError(
            f"the shape {listed(given)} contradicts the model, which takes {listed(shown.split(',')[1:])}", where=where
        )
    return (first, *shape)


def listed(values: Iterable[Any]) -> str:
    """A shape as the command line takes it: 3,224,224."""
    return ",".join(map(str, values))


# -------------------------------------------------------------------------------------------------------- metadata


_PREPROCESS_KEY = "ncnnkit.preprocess"
_LABELS_KEY = "ncnnkit.labels"
# JSON and Python's literals of any depth, and what is in them.
_UNREADABLE = (
    ValueError, SyntaxError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip


def read_metadata(
    reference: str, metadata: Mapping[str, str], inputs: tuple[InputSpec, ...]
) -> tuple[Preprocess | None, str, tuple[str, ...] | None]:
    """(preprocessing, where it was found, class names) from a model file's own metadata."""
    labels = None
    # YOLOv5's own files do not name the task. A file of another program may have "names", too.
    by_ultralytics = "names" in metadata and not metadata.keys().isdisjoint(("task", "stride"))
    faults = (ValueError, SyntaxError, TypeError, AttributeError, LookupError, NcnnkitError)
    with reading(reference, ModelError, *faults, what="its metadata cannot be read"):
        if _LABELS_KEY in metadata:
            labels = tuple(readable(str(name)) for name in json.loads(metadata[_LABELS_KEY]))
        elif by_ultralytics:  # a Python dict, class index -> name; the index is a string if it came through JSON
            given = ast.literal_eval(metadata["names"])
            names = dict(enumerate(given)) if isinstance(given, list) else given
            labels = tuple(readable(str(names[index])) for index in sorted(names, key=int))
        if _PREPROCESS_KEY in metadata:
            found = Preprocess.from_dict(json.loads(metadata[_PREPROCESS_KEY]))
            return fit(found, inputs), f"the model's own metadata ({_PREPROCESS_KEY})", labels
    axes = image_input(inputs)
    if by_ultralytics and axes:
        size = (axes.height, axes.width)
        classifies = metadata.get("task") == "classify"
        how = replace(stretched(axes), resize=min(size), crop=size) if classifies else ultralytics(axes)
        return how, "Ultralytics' metadata in the model", labels
    return None, "", labels
