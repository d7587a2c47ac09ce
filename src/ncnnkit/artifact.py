"""A model as it ships (:class:`Artifact`): a network, and how to run it, which its card (:class:`Card`) says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .codec import decode
from .errors import FormatError, ModelError, RecipeError, StorageError, printable
from .formatting import counted
from .model import ncnnfile
from .model.graph import Graph
from .model.precision import PRECISIONS, derive, is_int8, served
from .model.scales import LayerScales
from .older import file_digest
from .onboard.facts import require_plain
from .onboard.scratch import Scratch
from .onboard.userfiles import SETTINGS, open_regular, read_bytes
from .samples.items import times
from .samples.preprocess import Preprocess
from .tasks import TASKS, Decoder, Task, named_task
from .tasks.table import decoded_task

SCHEMA = "ncnnkit-card/1"
_LARGEST_SIDE = 1 << 24


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network.

    Attributes:
        name: its name in the model; in an ncnn model, the name of the blob.
        shape: without a batch axis, (channels, height, width) for an image; empty if unknown.
    """

    name: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a ``.param`` does not say: how the model must be run. It is the file ``NAME.json`` beside ``NAME.param``.

    Attributes:
        precisions: the precisions at which the files can run; they were made for the first.
        options: precision -> the fields of ``ncnn::Option`` to set before loading.
        inputs: the network's inputs, in order.
        outputs: the network's outputs, in order.
        sha256: ``param`` and ``bin`` -> the SHA-256 of that file, in hexadecimal.
        target: the kernels that int8 weights are made for; empty if there are none.
        preprocess: how an image becomes the input; None if unknown.
        labels: the names of the classes; empty if there are none.
        ncnn: the version of ncnn that it was made or measured with; empty if unknown.
        pillow: the version of Pillow that prepared the images; empty if unknown.
        scales: layer name -> how a quantised original quantised that layer; empty if there is nothing to keep.
        decoder: how the outputs become a prediction; None if unknown.
        task: what the network is for, as :func:`ncnnkit.tasks.named_task` takes it; empty if unknown.
        fed: the names of the inputs in the original. Users give samples by these names. Empty: the names of the blobs.
        schema: the format of this file.
    """

    precisions: tuple[str, ...]
    options: dict[str, dict[str, bool]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sha256: dict[str, str]
    target: str = ""
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    ncnn: str = ""
    pillow: str = ""
    scales: dict[str, LayerScales] = field(default_factory=dict)
    decoder: Decoder | None = None
    task: str = ""
    fed: tuple[str, ...] = ()
    schema: str = SCHEMA

    def fault(self) -> str:
        """What is wrong with the card, as a clause; "" if nothing is."""
        if self.schema != SCHEMA:
            return f"its schema is {self.schema!r}, not {SCHEMA!r}"
        unknown = [name for name in self.precisions if name not in PRECISIONS]
        if unknown or not self.precisions:
            return f"unknown precision {unknown[0]!r}" if unknown else "it names no precision"
        if len(set(self.precisions)) < len(self.precisions):
            return "it names a precision twice"
        if self.options.keys() != set(self.precisions):
            return "options must have each of the precisions"
        fields = PRECISIONS["fp32"].options.keys()
        strange = sorted({name for options in self.options.values() for name in options if name not in fields})
        if strange:
            return f"unknown option {strange[0]!r}"
        missing = sorted({name for options in self.options.values() for name in fields - options.keys()})
        if missing:
            return f"it does not say option {missing[0]!r}"
        try:
            require_plain(self.target, self.ncnn, self.pillow)
        except ValueError as error:
            return str(error)
        if not all(scales.usable for scales in self.scales.values()):
            return "the scales of a layer cannot be those of a quantised original"
        sides = [side for tensor in (*self.inputs, *self.outputs) for side in tensor.shape]
        if not all(0 < side <= _LARGEST_SIDE for side in sides):
            return f"a side of a shape must be from 1 to {_LARGEST_SIDE}"
        if self.fed and (len(self.fed) != len(self.inputs) or len(set(self.fed)) < len(self.fed)):
            return "it names other inputs in the original"
        if self.decoder and (fault := self.decoder.fault(len(self.outputs))):
            return fault
        try:
            if self.task.partition(":")[0] in TASKS:
                task = named_task(self.task, self.decoder)
                if not 0 <= getattr(task, "output", 0) < len(self.outputs):
                    return f"its task: there is no output {getattr(task, 'output', 0)}"
        except RecipeError as error:
            return f"its task: {error.what}"
        return ""


@dataclass(frozen=True, eq=False, repr=False)
class Artifact:
    """A model and how to run it. Every command takes one. ``print`` shows a summary.

    Attributes:
        precision: the precision at which it runs.
        precisions: the precisions at which it can run; see :meth:`at`.
        param: its ``.param``, with the ``.bin`` beside it; None for a network in memory.
        how: where the precision comes from, as a clause for the user.
        derived: whether the precision was derived from the network, because there is no card.
        inputs, outputs, target, preprocess, labels, ncnn, pillow, decoder, task, fed: as in :class:`Card`.
        settings: precision -> the fields of ``ncnn::Option``.

    Example:
        >>> model = nk.Artifact.load("model.param")
        >>> model.precision, model.inputs[0].shape
        ('fp32', (3, 224, 224))
    """

    precision: str
    precisions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    settings: Mapping[str, Mapping[str, bool]]
    param: Path | None = None
    how: str = ""
    derived: bool = False
    target: str = ""
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    ncnn: str = ""
    pillow: str = ""
    decoder: Decoder | None = None
    task: str = ""
    fed: tuple[str, ...] = ()
    given: Graph | None = field(default=None, repr=False)

    @classmethod
    def load(cls, param: str | Path) -> Artifact:
        """The model in a ``.param`` and the ``.bin`` beside it.

        The card says how to run it. If there is no card, or the card belongs to other files (then there is a warning),
        :func:`~ncnnkit.model.precision.derive` derives this from the network.

        Raises:
            FormatError: the ``.param`` is missing or corrupt.
        """
        param = Path(param)
        structure = ncnnfile.load_param(param)
        card = read_card(param)
        if card is None:
            return cls._derived(structure, param=param.absolute())
        return cls(
            card.precisions[0], card.precisions, card.inputs, card.outputs, card.options, param.absolute(),
            f"its card says {card.precisions[0]}", False, card.target, card.preprocess, card.labels, card.ncnn,
            card.pillow, card.decoder, card.task, card.fed,
        )  # fmt: skip

    @classmethod
    def of(cls, model: Artifact | Graph | str | Path) -> Artifact:
        """The artifact of a model that a user gives: a path, a Graph, or an artifact."""
        if isinstance(model, Artifact):
            return model
        return cls._derived(model, given=model) if isinstance(model, Graph) else cls.load(model)

    @classmethod
    def made(cls, graph: Graph, precision: str, **facts: Any) -> Artifact:
        """An artifact of a network in memory that was made for a precision; ``facts`` are further attributes."""
        return cls._with(graph, served(precision), f"it was made for {precision}", given=graph, **facts)

    @classmethod
    def _derived(cls, graph: Graph, **facts: Any) -> Artifact:
        precision, why = derive(graph)
        return cls._with(
            graph, served(precision), f"it has no card and is run in {precision}: {why}", derived=True, **facts
        )

    @classmethod
    def _with(cls, graph: Graph, precisions: tuple[str, ...], how: str, **facts: Any) -> Artifact:
        found: dict[str, Any] = {
            "inputs": tuple(map(Tensor, graph.inputs, graph.input_shapes())),
            "outputs": tuple(map(Tensor, graph.outputs)),
            "settings": {name: PRECISIONS[name].options for name in precisions},
        }
        return cls(precisions[0], precisions, **{**found, **facts}, how=how)

    @property
    def purpose(self) -> Task | None:
        """What the network is for; None if unknown, or if the task is a class that a user wrote."""
        shapes = tuple(tensor.shape for tensor in self.outputs)
        if self.task.partition(":")[0] in TASKS:
            return replace(named_task(self.task, self.decoder), shapes=shapes)
        found = decoded_task(self.decoder, shapes) if self.decoder and not self.task else None
        return replace(found, shapes=shapes) if found else None

    def having(self, graph: Graph, precision: str | None = None, **facts: Any) -> Artifact:
        """An artifact of a network in memory that was made from this one. It keeps the preprocessing, the classes and
        so on.

        Args:
            graph: the network.
            precision: what it was made for; by default this model's.
            facts: further attributes that change.
        """
        kept = ("target", "preprocess", "labels", "ncnn", "pillow", "decoder", "task", "fed")
        return Artifact.made(graph, precision or self.precision, **{**{n: getattr(self, n) for n in kept}, **facts})

    @cached_property
    def graph(self) -> Graph:
        """The network. It is read at the first access, which may raise FormatError."""
        if self.given is not None:
            return self.given
        assert self.param is not None
        graph = ncnnfile.load(self.param)
        card = None if self.derived else read_card(self.param)
        if card is not None:
            graph.scales = card.scales
        return graph

    @property
    def options(self) -> dict[str, bool]:
        """The fields of ``ncnn::Option`` to set before loading, for its precision."""
        return dict(self.settings[self.precision])

    @property
    def size(self) -> int:
        """Bytes of its two files; 0 for a network in memory."""
        files = () if self.param is None else (self.param, self.param.with_suffix(".bin"))
        return sum(path.stat().st_size for path in files if path.is_file())

    @property
    def refused_by_vulkan(self) -> str:
        """Why no GPU can run it, as a clause; "" if a GPU can.

        ncnn's Vulkan pads int8 blobs with zeros only, whatever ``pad_value`` says.
        """
        if not PRECISIONS[self.precision].vulkan:
            return f"the {self.precision} model is made for the CPU's kernels"
        padding = [layer.name for layer in self.graph.layers if is_int8(layer) and layer.params.get("pad_value")]
        if padding:
            return f"this int8 model is made for CPUs: layer {padding[0]} pads with another value than 0"
        return ""

    def __repr__(self) -> str:
        """A summary: precisions, file, inputs, outputs, preprocessing, labels."""
        others = [name for name in self.precisions if name != self.precision]
        tensors = [
            ", ".join(f"{t.name} {times(t.shape)}" if t.shape else t.name for t in each)
            for each in (self.inputs, self.outputs)
        ]
        lines = [
            f"Artifact in {self.precision}" + (f", also {', '.join(others)}" if others else ""),
            f"file: {self.param or 'none, it is in memory'}",
            f"inputs: {tensors[0]}",
            f"outputs: {tensors[1]}",
            *(f"{step}: {said}" for step, said in (self.preprocess.in_words() if self.preprocess else {}).items()),
            *([f"labels: {counted(len(self.labels), 'class name')}"] if self.labels else []),
        ]
        return "\n  ".join(lines)

    def on(self, backend: str) -> Artifact:
        """This model, if the backend (``cpu`` or ``vulkan``) can run it.

        Raises:
            RecipeError: there is no such backend.
            ModelError: the backend cannot run this model.
        """
        if backend not in ("cpu", "vulkan"):
            raise RecipeError(f"unknown backend {backend!r}", hint="cpu or vulkan")
        if backend == "vulkan" and self.refused_by_vulkan:
            hint = "run it on the CPU, or quantise for --target vulkan"
            raise ModelError(self.refused_by_vulkan, where=self.name, hint=hint)
        return self

    @property
    def name(self) -> str:
        """How errors name the model: by its file, if it has one."""
        return str(self.param) if self.param else "the network"

    def at(self, precision: str | None) -> Artifact:
        """The same model, to run at another of its :attr:`precisions`. None leaves the precision as it is.

        Raises:
            RecipeError: there is no such precision.
            ModelError: the model cannot be run at it.
        """
        if precision is None or precision == self.precision:
            return self
        if precision not in PRECISIONS:
            raise RecipeError(f"unknown precision {precision!r}", hint=", ".join(PRECISIONS))
        if precision not in self.precisions:
            hint = f"it runs in {', '.join(self.precisions)}; {self.how}"
            raise ModelError(f"cannot run in {precision}", where=self.name, hint=hint)
        made = replace(self, precision=precision)
        if "graph" in self.__dict__:
            made.__dict__["graph"] = self.graph
        return made

    def save(self, param: str | Path) -> Artifact:
        """Write ``.param``, ``.bin`` and the card; returns the artifact of these files.

        Raises:
            StorageError: the disk is full or not writable, or a file that is not a card has the name of the card.
            ModelError: the card could not be read again, for example because its precision is unknown.
        """
        param = Path(param)
        place = card_of(param)
        if place.exists() and _raw_card(place) is None:
            hint = "move it away, or give the model another name"
            raise StorageError(
                "exists, but ncnnkit did not write it; the card of the model needs this name",
                where=str(place),
                hint=hint,
            )
        own = (self.precision, *(name for name in self.precisions if name != self.precision))
        card = Card(
            own, {name: dict(self.settings[name]) for name in own}, self.inputs, self.outputs, {},
            self.target, self.preprocess, self.labels, self.ncnn, self.pillow, self.graph.scales, self.decoder,
            self.task, self.fed,
        )  # fmt: skip
        if fault := card.fault():
            raise ModelError(f"its card cannot be written: {fault}", where=str(param))
        ncnnfile.save(self.graph, param)
        card = replace(card, sha256=_hashes(param))
        with ncnnfile.atomic_write(place) as file:
            file.write((json.dumps(asdict(card), indent=2) + "\n").encode())
        return Artifact.load(param)

    @contextmanager
    def files(self) -> Iterator[tuple[Path, Path]]:
        """Its ``.param`` and ``.bin``. For a network in memory these are temporary files, deleted after the block."""
        if self.param is not None:
            yield self.param, self.param.with_suffix(".bin")
            return
        with Scratch() as folder:
            param = Path(folder) / "model.param"
            ncnnfile.save(self.graph, param)
            yield param, param.with_suffix(".bin")


def save(model: Artifact | Graph, param: str | Path) -> None:
    """Write a model: ``.param``, the ``.bin`` beside it, and the card with how to run it (see :class:`Card`).

    Args:
        model: an Artifact or a Graph.
        param: the ``.param`` file to write; the other two files take its name.

    Raises:
        StorageError: the disk is full or not writable, or a file that is not a card has the name of the card.

    Example:
        >>> nk.save(nk.optimize(nk.convert("model.onnx")), "small.param")
        >>> nk.Artifact.load("small.param").how
        'its card says fp32'
    """
    Artifact.of(model).save(param)


# --------------------------------------------------------------------------------------------------------------- cards


def card_of(param: Path) -> Path:
    """The path of the card of a ``.param``."""
    return param.with_suffix(".json")


def read_card(param: Path) -> Card | None:
    """The card of a ``.param``; None if there is none. If it cannot be used: a warning and None."""
    place = card_of(param)
    raw = _raw_card(place)
    if raw is None:
        return None
    card, fault = _decode(raw)
    if card is not None and card.sha256 != _hashes(param):
        fault = f"it describes other files than {param.name} and {param.with_suffix('.bin').name} are now"
    if fault:
        warnings.warn(printable(f"{place}: this card is ignored: {fault}"), stacklevel=3)
        return None
    return card


def _raw_card(place: Path) -> bytes | None:
    """The bytes of a card; None if there is no file, or if it is a JSON file of another program."""
    import msgspec

    try:
        if not place.is_file() or place.stat().st_size > SETTINGS:
            return None
        raw = read_bytes(place, SETTINGS)
        schema = msgspec.json.decode(raw, type=dict[str, Any]).get("schema")
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(place)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return raw  # not JSON: most likely a truncated card
    return raw if isinstance(schema, str) and schema.startswith("ncnnkit-card/") else None


def _decode(raw: bytes) -> tuple[Card | None, str]:
    """Either the card, or what is wrong with it."""
    try:
        card = decode(raw, Card)
    except FormatError as error:
        return None, error.line()
    fault = card.fault()
    return (None, fault) if fault else (card, "")


def _hashes(param: Path) -> dict[str, str]:
    found = {}
    for key in ("param", "bin"):
        path = param.with_suffix(f".{key}")
        if path.is_file():  # a network without weights may have no .bin
            with open_regular(path) as file:
                found[key] = file_digest(file).hexdigest()
    return found


def floating(model: Artifact | Graph | str | Path, what: str) -> Graph:
    """The network of a floating-point model, which ``what`` needs. Raises ModelError if the model is int8 or mixed."""
    artifact = Artifact.of(model)
    if PRECISIONS[artifact.precision].int8:
        hint = f"{artifact.how}; start from the fp32 model"
        raise ModelError(f"{what} needs a floating point model", where=artifact.name, hint=hint)
    return artifact.graph
