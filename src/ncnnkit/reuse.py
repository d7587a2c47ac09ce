"""What a run may take from an earlier run, instead of computing it again: :data:`RESULTS`.

A row says all that a result depends on, and the function gets nothing else: the fields of the recipe that the row
names, and inputs. The key of a result is a hash of these, of the code of ncnnkit that computes it, of the libraries and
of this machine. Inputs count by their content, so a result is found again if another option leads to the same inputs.

Latencies are never kept: the clock, the temperature and the load of a device are those of the moment. What boards
compute is not kept, either, because nobody knows whether a board is still the same.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

from .artifact import Artifact
from .batches import Workers
from .cache.packing import Unpackable, content, digest, pack, unpack
from .cache.store import Store
from .errors import FormatError, NcnnkitError
from .model.graph import Graph
from .model.work import Budget
from .onboard.process import available_cores
from .plan.sensitivity import Noise
from .progress import StepProgress, of_step
from .quantization import quantize_images
from .quantization.efforts import EFFORTS
from .quantization.stored import StoredQuantized
from .recipe import Recipe
from .record.conversion import ConversionCheck
from .record.folder import LOG
from .record.variant import LayerError
from .samples.stream import Samples
from .source import ModelSource
from .source.conversion import convert_source
from .source.onnx_data import inline_external_data
from .source.reference import reference_outputs
from .tasks import Task

T = TypeVar("T")

LEAST = (
    "artifact", "batches", "cache", "codec", "comparison", "device", "errors", "formatting", "importing", "model",
    "older", "onboard", "passes", "progress", "recipe", "record", "samples", "source", "tasks",
)  # fmt: skip
"""The modules and packages of ncnnkit that every result depends on."""

LIBRARIES = ("ncnn", "numpy", "Pillow")
ORIGINALS = ("onnx-ir", "onnxruntime", "pnnx", "torch", "torchvision", "timm", "onnxscript")


@dataclass(frozen=True)
class Tools:
    """What a function has to work with. It does not change the result.

    Attributes:
        folder: the folder for files.
        progress: called with (step, done, total).
    """

    folder: Path
    progress: StepProgress


@dataclass(frozen=True)
class Result(Generic[T]):
    """A result that may come from an earlier run.

    Attributes:
        what: what it is, for the user.
        make: computes it, from the declared fields of the recipe, tools, and the inputs by name. The value can be
            packed; see :mod:`ncnnkit.cache.packing`.
        reads: the fields of the recipe that it depends on. ``make`` cannot read others.
        code: the modules and packages of ncnnkit that it depends on.
        libraries: the packages of others, as PyPI names them.
        uncounted: inputs that are only a way to compute it.
        files: names of files, as patterns, that belong to it if ``make`` leaves them in its folder.
    """

    what: str
    make: Callable[..., T]
    reads: tuple[str, ...]
    code: tuple[str, ...] = LEAST
    libraries: tuple[str, ...] = LIBRARIES
    uncounted: tuple[str, ...] = ()
    files: str = ""


class Asked:
    """A recipe of which only some fields can be read.

    Args:
        recipe: the recipe.
        reads: the fields.
    """

    def __init__(self, recipe: Recipe, reads: Sequence[str]) -> None:
        self._values = {name: getattr(recipe, name) for name in reads}

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the row in RESULTS does not say that this reads {name!r}") from None


# --------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Converted:
    """The network in fp32, before it is optimised, and how it was made."""

    graph: Graph
    check: ConversionCheck


def _convert(asked: Any, tools: Tools, *, source: ModelSource, samples: Samples) -> Converted:
    conversion = convert_source(
        source, samples, tools.folder, route=asked.route, thorough=asked.effort == "best", force=asked.force,
        threads=asked.threads or None, gmac=EFFORTS[asked.effort].gmac, progress=tools.progress,
    )  # fmt: skip
    return Converted(conversion.graph, conversion.record())


def _reference(
    asked: Any, tools: Tools, *, source: ModelSource, converted: Graph, samples: Samples, quantised: bool
) -> list[str]:
    original = source.as_quantised if quantised else source
    assert original is not None
    progress, threads = of_step(tools.progress, ""), asked.threads or None
    return list(reference_outputs(original, converted, samples, tools.folder, progress, threads=threads).rows)


def _quantise(
    asked: Any, tools: Tools, *, graph: Graph, samples: Samples, target: str, effort: str, task: Task, budget: Budget,
    workers: Workers | None,
) -> StoredQuantized:  # fmt: skip
    made = quantize_images(
        graph, samples, target=target, method=asked.method, effort=effort, task=task, workers=workers,
        threads=asked.threads or None, budget=budget, progress=tools.progress,
    )  # fmt: skip
    return StoredQuantized.of(made)


def _measured(asked: Any, tools: Tools, *, measure: Callable[[], T], **inputs: Any) -> T:
    return measure()


CONVERTED = Result(
    "network", _convert, reads=("route", "effort", "force", "threads"), code=(*LEAST, "quantization", "reuse"),
    libraries=(*LIBRARIES, *ORIGINALS), files=LOG,
)  # fmt: skip
REFERENCE = Result(
    "outputs", _reference, reads=("threads",), code=(*LEAST, "quantization", "reuse"),
    libraries=(*LIBRARIES, *ORIGINALS), files="*.npy",
)  # fmt: skip
# The workers of a scheduler may have other processors, which round differently.
QUANTISED = Result(
    "int8 network", _quantise, reads=("method", "threads", "scheduler"), code=(*LEAST, "quantization", "reuse"),
    uncounted=("workers",),
)  # fmt: skip
SENSITIVITY: Result[Noise] = Result(
    "sensitivity",
    _measured,
    reads=("scheduler",),
    code=(*LEAST, "quantization", "plan", "reuse"),
    uncounted=("measure",),
)
LAYER_ERRORS: Result[list[LayerError]] = Result(
    "layer errors", _measured, reads=(), code=(*LEAST, "quantization", "reuse"), uncounted=("measure", "name")
)

RESULTS: tuple[Result[Any], ...] = (CONVERTED, REFERENCE, QUANTISED, SENSITIVITY, LAYER_ERRORS)


# ------------------------------------------------------------------------------------------------------ taking them


class Reuse:
    """The results of one run: those that are kept are taken, and the others are computed and kept.

    Args:
        recipe: the recipe.
        store: where results are kept; None: nothing is taken or kept.
        found: called with the name of the stage and what is reused there.
    """

    def __init__(self, recipe: Recipe, store: Store | None, found: Callable[[str, str], None]) -> None:
        self._recipe, self._store, self._found = recipe, store, found
        self._digests: dict[int, tuple[object, Any]] = {}

    def __call__(self, result: Result[T], stage: str, folder: Path, progress: StepProgress, **inputs: Any) -> T:
        """A result, from an earlier run or computed.

        Args:
            result: its row.
            stage: the stage that needs it.
            folder: the folder for its files.
            progress: called with (step, done, total).
            inputs: all that the result depends on, besides the recipe. If there are several results in a stage, their
                ``name`` says which it is.
        """
        key = self._key(result, inputs, progress)
        budgets = [value for value in inputs.values() if isinstance(value, Budget)]
        kept = self._store.value(key, folder) if self._store and key else None
        if kept is not None:
            try:
                value, reduced = unpack(kept)
            except FormatError:  # the hash is right, so another ncnnkit of the same code wrote it in another way
                pass
            else:
                for budget in budgets:
                    budget.reduced.update(reduced)
                self._found(stage, str(inputs.get("name", result.what)))
                return value  # type: ignore[no-any-return]
        progress(str(inputs.get("name", result.what)), 0, 0)
        made = result.make(Asked(self._recipe, result.reads), Tools(folder, progress), **inputs)
        if self._store and key:
            reduced = {what: counts for budget in budgets for what, counts in budget.reduced.items()}
            files = sorted(folder.glob(result.files)) if result.files else []
            with suppress(Unpackable):
                self._store.keep(key, result.what, pack((made, reduced)), files)
        return made

    def _key(self, result: Result[Any], inputs: Mapping[str, Any], progress: StepProgress) -> str:
        """The key of a result; empty if what it depends on cannot be told, such as the code of a user's network."""
        if self._store is None:
            return ""
        progress("look for an earlier result", 0, 0)
        try:
            counted = {name: self._digest(inputs[name]) for name in sorted(inputs.keys() - set(result.uncounted))}
            return key_of(result, self._recipe, counted)
        except Unpackable:
            return ""

    def _digest(self, value: Any) -> Any:
        """The content of an input. Those that take long are looked at once."""
        if not isinstance(value, Graph | ModelSource | Artifact) and not hasattr(value, "subset"):
            return (value.allowed, value.inference) if isinstance(value, Budget) else digest(value)
        known = self._digests.get(id(value))
        if known is None:  # the value is held, so that no other gets its id
            known = self._digests[id(value)] = (value, _content(value))
        return known[1]


def key_of(result: Result[Any], recipe: Recipe, inputs: Mapping[str, Any]) -> str:
    """The key of a result.

    Args:
        result: its row.
        recipe: the recipe.
        inputs: name -> its content, or a hash of that.
    """
    fields = {name: getattr(recipe, name) for name in result.reads}
    return digest((result.what, fields, inputs, code_of(result.code), _versions(result.libraries), _host()))


def _content(value: Any) -> Any:
    if isinstance(value, Graph):
        return digest(value)
    if isinstance(value, ModelSource):
        return _content_of_source(value)
    if isinstance(value, Artifact):
        return digest((value.graph, value.precision, value.options))
    raw = [item.digest(True) for item in getattr(value, "items", ())]  # images may be resized to further shapes
    return content(value), raw


def _content_of_source(source: ModelSource) -> Any:
    """All that an original's outputs and its conversion depend on.

    Raises:
        Unpackable: it is a module of a user's code, which nobody can compare with that of an earlier run.
    """
    known: list[Any] = [source.kind, source.engine, source.inputs, source.outputs, source.searches, source.decoder]
    if source.path is None:
        if source.reference.partition(":")[0] not in ("torchvision", "timm"):
            raise Unpackable(source.reference)
        known += [repr(source.module), _weights(source.module)]
    for path in {str(path): path for path in (source.path, Path(source.reference)) if path is not None}.values():
        known.append(_content_of_files(path))
    if source.quantised:
        known += [source.quantised.run is None, list(source.quantised.layers), dict(source.quantised.lost)]
    return digest((*known, [_content_of_source(other) for other in source.others]))


def _weights(module: Any) -> str:
    try:
        return digest({name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()})
    except (AttributeError, TypeError, RuntimeError) as error:
        raise Unpackable(f"weights: {error}") from None


def _content_of_files(path: Path) -> list[tuple[str, str]]:
    """The files of a model: (name, hash of the content)."""
    try:
        if path.is_dir():
            return [(each.name, _hashed(each.read_bytes())) for each in sorted(path.iterdir()) if each.is_file()]
        if not path.is_file():
            return []
        if path.suffix == ".param":
            beside = (path.with_suffix(end) for end in (".param", ".bin", ".json"))
            return [(each.suffix, _hashed(each.read_bytes())) for each in beside if each.is_file()]
        whole = inline_external_data(path) if path.suffix.lower() == ".onnx" else None
        return [(path.suffix, _hashed(path.read_bytes() if whole is None else whole))]
    except (OSError, LookupError, ValueError, NcnnkitError) as error:
        raise Unpackable(f"{path}: {error}") from None


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------ code, libraries, this machine


@functools.cache
def code_of(parts: tuple[str, ...]) -> str:
    """A hash of the text of modules and packages of ncnnkit."""
    home, found = Path(__file__).parent, hashlib.sha256()
    for part in sorted(set(parts)):
        files = sorted((home / part).rglob("*.py")) if (home / part).is_dir() else [home / f"{part}.py"]
        for file in files:
            found.update(f"{file.relative_to(home)} {_hashed(file.read_bytes())}\n".encode())
    return found.hexdigest()


@functools.cache
def _versions(packages: tuple[str, ...]) -> list[str | None]:
    """The versions of packages, and what distinguishes two builds of ncnn that have the same version."""
    built = importlib.util.find_spec("ncnn")
    folders = built.submodule_search_locations if built else None
    binaries = sorted(path for folder in folders or () for path in Path(folder).glob("*.so"))
    marks = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in binaries]
    return [*map(_version, packages), *marks]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_CPU = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant", "isa", "cpu model")


@functools.cache
def _host() -> list[str]:
    """What of this machine may change the last bits of a result: its processor, and how many cores may be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {line for line in lines if line.partition(":")[0].strip() in _CPU}
    return [platform.machine(), str(available_cores()), *sorted(facts)]
