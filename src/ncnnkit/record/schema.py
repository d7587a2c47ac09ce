"""What run.json holds: the contract with every program that reads it. ``docs/run-json.md`` tells what each field means.

:data:`SCHEMA` counts up when a field disappears or changes its meaning. Fields may be added without that, as
``NotRequired``: files written before stay valid, and a reader ignores what it does not know. :func:`validate` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from ..errors import FormatError

SCHEMA = 1
"""The version of run.json this ncnnkit writes and reads."""

Kind = Literal["onnx", "torchscript", "ncnn"]
Engine = Literal["torch", "onnxruntime", "ncnn"]
PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "mixed"]
Backend = Literal["cpu", "vulkan"]
Status = Literal["ok", "fallback", "crashed", "skipped"]
DeviceType = Literal["discrete", "integrated", "virtual", "cpu", "unknown"]


class Tensor(TypedDict):
    name: str
    shape: list[int]


class Model(TypedDict):
    reference: str
    name: str
    kind: Kind
    inputs: list[Tensor]
    outputs: list[Tensor]
    layers: int
    parameters: int
    labels: int


class RecipeFields(TypedDict):
    """The fields of :class:`ncnnkit.recipe.Recipe`."""

    model: str
    images: str
    eval_images: str
    labels: str
    shapes: list[list[int]]
    weights: str
    preset: str
    preprocess: dict[str, Any]
    on: NotRequired[list[str]]
    backends: list[Backend]
    precisions: list[PrecisionName]
    threads: int
    cluster: NotRequired[str]
    fix_clocks: NotRequired[bool]
    sustained: NotRequired[float]
    target: str
    method: str
    effort: NotRequired[str]
    max_error: NotRequired[str]
    max_latency: NotRequired[str]
    seconds: float
    rounds: int
    force: bool


class PreprocessFields(TypedDict):
    """The fields of :class:`ncnnkit.samples.images.Preprocess`, and where they come from."""

    resize: int | list[int] | None
    interpolation: str
    crop: list[int] | None
    color: str
    divisor: float
    mean: list[float]
    std: list[float]
    origin: str


class SkippedFile(TypedDict):
    name: str
    reason: str


class Images(TypedDict):
    source: str
    calibration: int
    evaluation: int
    skipped: list[SkippedFile]


class VulkanDevice(TypedDict):
    name: str
    type: DeviceType
    driver: str
    api: str


class Environment(TypedDict):
    ncnnkit: str
    ncnn: str
    python: str
    numpy: str
    pillow: NotRequired[str]
    platform: str
    cpu: str
    cpu_features: list[str]
    cores: int
    vulkan: list[VulkanDevice]


class Device(TypedDict):
    name: str
    address: str
    target: str
    emulated: bool
    ncnn: str
    python: str
    platform: str
    cpu: str
    cpu_features: list[str]
    cores: int
    vulkan: list[VulkanDevice]
    board: NotRequired[dict[str, Any] | None]
    recommended: str | None
    why: str


class Reference(TypedDict):
    engine: Engine
    version: str
    origin: str


class Conversion(TypedDict):
    sqnr_db: float | None
    cosine: float
    max_error: float
    seconds: float
    pnnx_version: str
    log: str


class Files(TypedDict):
    param: str
    bin: str


class Latency(TypedDict):
    min: float
    median: float
    p90: float
    spread: float
    samples: int


class Load(TypedDict):
    cold: float
    warm: float


class OutputError(TypedDict):
    name: str
    mse: float
    sqnr_db: float | None
    cosine: float
    max_error: float


class Accuracy(TypedDict):
    mse: float
    sqnr_db: float | None
    cosine: float
    max_error: float
    top1_agreement: float | None
    top5_agreement: float | None
    top1: float | None
    top5: float | None
    images: int
    outputs: list[OutputError]


class Sustained(TypedDict):
    seconds: float
    samples: int
    first_ms: float
    last_ms: float
    conditions: dict[str, Any]


class LayerError(TypedDict):
    name: str
    type: str
    sqnr_db: float | None


class Variant(TypedDict):
    name: str
    precision: PrecisionName
    backend: Backend
    device: str
    device_name: str
    threads: int
    status: Status
    reason: str
    files: Files | None
    size_bytes: int | None
    latency_ms: Latency | None
    load_ms: Load | None
    first_ms: NotRequired[float | None]
    cpus: NotRequired[list[int]]
    conditions: NotRequired[dict[str, Any] | None]
    sustained: NotRequired[Sustained | None]
    peak_memory_mb: float | None
    accuracy: Accuracy | None
    layers: list[LayerError]
    notes: list[str]


class Trial(TypedDict):
    method: str
    relative_error: float | None
    sqnr_db: float | None
    kept: bool
    seconds: float


class FittedLayer(TypedDict):
    name: str
    before: float
    after: float
    kept: str


class Count(TypedDict):
    images: int
    relative_error: float
    low: float
    high: float


class Stretch(TypedDict):
    image: str
    tensors: int
    factor: float


class Likeness(TypedDict):
    calibration: float
    evaluation: float


class Quantisation(TypedDict):
    effort: str
    used: int
    held_back: int
    trials: list[Trial]
    layers: list[FittedLayer]
    counts: list[Count]
    enough: int | None
    stretching: list[Stretch]
    likeness: Likeness | None


class FrontPoint(TypedDict):
    ms: float
    mse: float
    int8: int


class LayerOption(TypedDict):
    choice: str
    ms: float
    mse: float


class PlannedLayer(TypedDict):
    name: str
    type: str
    choice: str
    options: list[LayerOption]
    why: str


class Plan(TypedDict):
    limit: str
    holds: bool
    repairs: int
    predicted_ms: float
    measured_ms: float | None
    predicted_mse: float
    measured_mse: float
    front: list[FrontPoint]
    layers: list[PlannedLayer]


class Score(TypedDict):
    label: str
    score: float


class Guess(TypedDict):
    image: str
    reference: list[Score]
    recommended: list[Score]


class Stage(TypedDict):
    name: str
    seconds: float


class Run(TypedDict):
    """One run, as run.json holds it."""

    schema: int
    files: list[str]
    model: Model
    recipe: RecipeFields
    preprocess: PreprocessFields | None
    images: Images
    environment: Environment
    devices: NotRequired[list[Device]]
    reference: Reference
    conversion: Conversion
    passes: dict[str, int]
    quantisation: NotRequired[Quantisation | None]
    plan: NotRequired[Plan | None]
    variants: list[Variant]
    recommended: str | None
    why: str
    top5: NotRequired[list[Guess]]
    warnings: list[str]
    stages: list[Stage]


def validate(run: Any) -> Run:
    """Check that a value read from JSON, or about to become JSON, is a :class:`Run`.

    Fields that :class:`Run` does not know are let pass: a later ncnnkit may have added them.

    Returns:
        The same value, now known to be a Run.

    Raises:
        FormatError: naming the first field that is missing or wrong, as ``variants[2].latency_ms.median``.
    """
    if not isinstance(run, dict):
        raise FormatError(f"expected an object, found {_found(run)}", where="run.json")
    version = run.get("schema")
    if version != SCHEMA or isinstance(version, bool):
        newer = isinstance(version, int) and version > SCHEMA
        hint = "it was written by a newer ncnnkit" if newer else "is this a run.json?"
        raise FormatError(f"expected {SCHEMA}, found {_found(version)}", where="schema", hint=hint)
    _check(run, Run, "")
    checked = cast(Run, run)
    _check_names(checked)
    return checked


def fields() -> dict[str, str]:
    """Path of every field, as ``variants[].latency_ms.median``, -> what it holds, as ``a number or null``."""
    return dict(_walk(Run, ""))


# ------------------------------------------------------------------------------------------------------- the types

_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}


def _hints(kind: Any) -> Iterator[tuple[str, Any, bool]]:
    """(field, its type, whether it is required) of a TypedDict."""
    # Not __required_keys__: with annotations kept as strings it counts NotRequired fields as required.
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is NotRequired:
            yield name, get_args(hint)[0], False
        else:
            yield name, hint, True


def _choices(kind: Any) -> tuple[Any, ...]:
    """The members of a union; else the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _words(kind: Any) -> str:
    choices = _choices(kind)
    if len(choices) > 1:
        *firsts, last = map(_words, choices)
        return f"{', '.join(firsts)} or {last}"
    if get_origin(kind) is Literal:
        *firsts, last = get_args(kind)
        return f"{', '.join(firsts)} or {last}"
    if get_origin(kind) is list:
        return "a list"
    return _WORDS.get(kind, "an object")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, not looking into lists and objects."""
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (int, float):
        # True is an int to Python only; JSON has no NaN and no infinity.
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, float) and math.isfinite(value))
    if is_typeddict(kind):
        return isinstance(value, dict)
    return isinstance(value, get_origin(kind) or kind)


def _check(value: Any, kind: Any, path: str) -> None:
    fitting = next((choice for choice in _choices(kind) if _fits(value, choice)), None)
    if fitting is None:
        raise FormatError(f"expected {_words(kind)}, found {_found(value)}", where=path)
    if is_typeddict(fitting):
        for name, hint, required in _hints(fitting):
            inner = f"{path}.{name}" if path else name
            if name in value:
                _check(value[name], hint, inner)
            elif required:
                raise FormatError(f"is missing, expected {_words(hint)}", where=inner)
    elif get_origin(fitting) is list:
        for i, item in enumerate(value):
            _check(item, get_args(fitting)[0], f"{path}[{i}]")
    elif get_origin(fitting) is dict:
        for key, item in value.items():
            _check(key, str, f"{path}.{key}")
            _check(item, get_args(fitting)[1], f"{path}.{key}")


def _check_names(run: Run) -> None:
    """What the types cannot say: names are unique and known, files lie in the run folder."""
    names = [variant["name"] for variant in run["variants"]]
    for i, variant in enumerate(run["variants"]):
        where = f"variants[{i}]"
        if variant["name"] in names[:i]:
            raise FormatError(f"there are two variants {variant['name']!r}", where=f"{where}.name")
        for key, file in (variant["files"] or {}).items():
            posix, windows = PurePosixPath(str(file)), PureWindowsPath(str(file))
            if posix.is_absolute() or windows.anchor or ".." in windows.parts or not posix.name:
                raise FormatError(f"expected a file in the run folder, found {file!r}", where=f"{where}.files.{key}")
    if run["recommended"] is not None and run["recommended"] not in names:
        raise FormatError(f"expected the name of a variant, found {run['recommended']!r}", where="recommended")


def _found(value: Any) -> str:
    if isinstance(value, str):
        return f"text {value if len(value) <= 40 else value[:39] + '…'!r}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return str(value)
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def _walk(kind: Any, path: str) -> Iterator[tuple[str, str]]:
    for name, hint, required in _hints(kind):
        inner = f"{path}.{name}" if path else name
        yield inner, _words(hint) + ("" if required else ", or absent")
        for choice in _choices(hint):
            item = get_args(choice)[0] if get_origin(choice) is list else choice
            if is_typeddict(item):
                yield from _walk(item, inner + "[]" if get_origin(choice) is list else inner)
