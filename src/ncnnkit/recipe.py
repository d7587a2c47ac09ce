"""Everything the user asked for, as an immutable record: a run is a function of its :class:`Recipe`.

A recipe file is TOML with the names of the fields as keys. Options of the command line replace its values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from .batches import check_scheduler
from .codec import check_numbers, readable
from .errors import FormatError, RecipeError, meant, reading
from .model.ncnnfile import atomic_write
from .model.precision import PRECISIONS
from .model.targets import KERNELS, TARGETS
from .older import tomllib
from .onboard.engines import ENGINES
from .onboard.userfiles import read_text
from .samples.preprocess import Preprocess
from .samples.presets import PRESETS
from .tasks.table import TASKS

METHODS = ("mse", "kl", "aciq", "minmax")
EFFORTS = ("fast", "default", "best")
BACKENDS = ("cpu", "vulkan")
CLUSTERS = ("all", "big", "middle", "little")
ROUTES = ("onnx", "pnnx", "classic", "dynamo", "torchscript", "ncnn")
MANY = 20
"""If a key allows this many words or more, an error suggests similar ones instead of listing all."""
ALL = "all"
"""The value ``all`` of engines: all that are installed."""
AUTO = "auto"
"""The value ``auto``: the target of the device, the model's routes in order, the method that suits the model."""
OWN = "own"
"""The method that uses the scales of a quantised original."""


@dataclass(frozen=True)
class Key:
    """The meaning and bounds of a field of a recipe, for errors, the command line, the JSON Schema and the documents.

    Attributes:
        help: what it means.
        expects: the expected type, in words.
        allowed: the words allowed for the value, or for each of its items; empty: any.
        least: the smallest number allowed.
    """

    help: str
    expects: str = "text"
    allowed: tuple[str, ...] = ()
    least: float | None = None


def _key(default: Any, help: str, expects: str = "text", *, allowed: Any = (), least: float | None = None) -> Any:
    metadata = {"key": Key(help, expects, tuple(allowed), least)}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """One run."""

    model: str = _key(
        dataclasses.MISSING,
        "A .onnx, .param or TorchScript file (.pt, .pth, .jit, .torchscript), a folder of Ultralytics' ncnn export, "
        "torchvision:NAME, timm:NAME or package.module:function.",
    )
    images: str | Mapping[str, str] = _key(
        "",
        "Calibration samples: a folder or a list file (.txt) of images, recordings (.wav) or arrays, or one such file. "
        "For several inputs: NAME=FOLDER once per input, a .csv file with a column per input, or .npz files.",
        'a path, or a table of paths by the names of the inputs, such as {left = "left/", right = "right/"}',
    )
    eval_images: str | Mapping[str, str] = _key(
        "",
        "Evaluation samples, in the same forms. Empty: every fifth of the samples is held out.",
        "a path, or a table of paths by the names of the inputs",
    )
    labels: str = _key(
        "",
        "The truth about the evaluation samples. Classes: a file with lines 'file class'. Boxes: a .json file as COCO "
        "writes it, or a folder with a .txt (YOLO) or .xml (Pascal VOC) file for each image. Masks, or images to make: "
        "a folder of pictures with the names of the images. Texts: a file with lines 'file<tab>text'. Empty: none.",
    )
    shapes: tuple[tuple[int, ...], ...] = _key(
        (),
        "Shape of an input without the batch axis, such as 3,224,224; once per input. Empty: the shape in the model.",
        "one shape per input, sizes from 1, such as [[3, 224, 224]]",
    )
    shape_too: tuple[tuple[int, ...], ...] = _key(
        (),
        "Another shape that the network must take; once per input, then the next set. The network is compared with the "
        "original and timed at each.",
        "one shape per input for each set, sizes from 1, such as [[3, 640, 640]]",
    )
    weights: str = _key("default", "Weights of a model built by code: default, none (random) or a file.")
    route: str = _key(
        AUTO,
        "How to convert: onnx or pnnx for a file; classic, dynamo (torch's two ONNX exporters) or torchscript for a "
        "network built by code; auto: try these in order until one is exact.",
        allowed=(AUTO, *ROUTES),
    )
    outputs: tuple[str, ...] = _key(
        (),
        "Names of tensors of an ONNX file that become the outputs. Empty: its own outputs, or the last tensors that "
        "ncnn can compute.",
        'a list, such as ["boxes", "scores"]',
    )
    fix: Mapping[str, float] = _key(
        {},
        "NAME=NUMBER: an input of an ONNX file that always is this number, such as sr=16000. The network has no such "
        "input then, and branches that depend on it are chosen.",
        "a table of numbers, such as {sr = 16000}",
    )
    preset: str = _key(
        "",
        f"Name of a preprocessing: {', '.join(PRESETS)}, torchvision:NAME or timm:NAME. Empty: the model's own.",
    )
    preprocess: Mapping[str, Any] = _key(
        {},
        "Single fields of the preprocessing, which replace those of the preset or the model.",
        "a table of single fields",
        allowed=sorted(field.name for field in dataclasses.fields(Preprocess)),
    )  # fmt: skip
    on: tuple[str, ...] = _key(
        (),
        "Device to measure on: ssh://user@board, adb://serial or a name from `ncnnkit devices`. Several devices are "
        "measured at the same time. Empty: this machine.",
        'a list, such as ["ssh://board"]',
    )
    backends: tuple[str, ...] = _key(
        BACKENDS, f"Backends to run on: {','.join(BACKENDS)}.", 'a list, such as ["cpu"]', allowed=BACKENDS
    )
    precisions: tuple[str, ...] = _key(
        tuple(PRECISIONS),
        f"Precisions to make: {','.join(PRECISIONS)}.",
        'a list, such as ["fp32", "int8"]', allowed=PRECISIONS
    )  # fmt: skip
    engines: tuple[str, ...] = _key(
        (),
        f"Other engines to measure beside ncnn, in the same rounds: {', '.join(ENGINES)}, or {ALL} that are installed. "
        "Each makes its own models from the original, int8 by its own quantiser. Empty: none.",
        'a list, such as ["onnxruntime"]', allowed=("", *ENGINES, "all"),
    )  # fmt: skip
    threads: int = _key(
        0, "Number of CPU threads. 0: all cores, or all cores of the cluster.", "a whole number", least=0
    )  # fmt: skip
    cluster: str = _key(
        "",
        "Cores to run on: big, middle, little, all, or a list such as 4-7. Empty: the system chooses.",
    )
    fix_clocks: bool = _key(
        False, "Hold the clocks at their maximum during the measurement, if that is permitted.", "true or false"
    )
    sustained: float = _key(
        0.0, "Seconds that each variant runs without a pause after the measurement, to show throttling.",
        "a number", least=0,
    )  # fmt: skip
    target: str = _key(
        "",
        f"Kernels to make int8 for: {', '.join(KERNELS)}, or a board or chip, such as rk3588 (docs/boards.md lists "
        f"them). Empty or {AUTO}: those of the device.",
        allowed=("", AUTO, *TARGETS),
    )
    method: str = _key(
        AUTO,
        f"Method to choose int8 scales: {OWN} (those of a quantised original, and nothing is fitted), "
        f"{', '.join(METHODS)}. {AUTO}: {OWN} if the original is quantised, otherwise mse.",
        allowed=(AUTO, OWN, *METHODS),
    )
    effort: str = _key(
        "default",
        "Time for quantisation: fast (seconds), default (about a minute), best (minutes). best also tries every route. "
        "For a heavy network, fast and default also take fewer samples and time it less often.",
        allowed=EFFORTS,
    )
    task: str = _key(
        "",
        f"What the network is for: {', '.join(TASKS)}, or package.module:Name, a class of your own. Attributes follow "
        "a colon: segmentation:threshold=0.3, detection:head=yolox, text:alphabet=FILE. Empty: a guess from what is "
        "known of the network.",
    )
    metric: str = _key(
        "",
        "package.module:function: a figure of your own, score. The function gets the outputs of the model and those of "
        "the original for one sample, and returns a number: 1 where they are equal, less where they are worse.",
    )
    require: tuple[str, ...] = _key(
        (),
        "FIGURE>=VALUE or FIGURE<=VALUE that a model must satisfy, such as kept>=95% for a detector; may be repeated. "
        "Every network has cosine, sqnr, mse and max_error; the rest depends on the task. The mixed model is the "
        "fastest that satisfies all. Empty: what the task asks for.",
        'a list, such as ["cosine>=0.999"]',
    )
    max_latency: str = _key(
        "",
        "The longest latency, such as 20ms. The mixed model is then the most accurate within it. Empty: no limit.",
    )
    scheduler: str = _key(
        "",
        "Where images are evaluated and calibrated: local for a Dask cluster on this machine, or the address of a Dask "
        "scheduler, such as tcp://10.0.0.5:8786. Latencies are not measured there. Needs ncnnkit[cluster]. Empty: "
        "processes on this machine.",
    )
    seconds: float = _key(3.0, "Seconds of timing per variant, over all rounds.", "a number", least=0)
    rounds: int = _key(5, "Rounds of timing. Each round measures every variant.", "a whole number", least=1)
    force: bool = _key(False, "Continue even if the converted model differs from the original.", "true or false")

    def __post_init__(self) -> None:
        for name, key in KEYS.items():
            value = _frozen(getattr(self, name))
            object.__setattr__(self, name, value)
            if not _is_of_type(name, value):
                raise RecipeError(f"{name} must be {key.expects}, not {_shown(value)}")
            _check(name, value, key)
        if self.cluster not in ("", *CLUSTERS) and not parse_cpus(self.cluster):
            hint = f"one of {', '.join(CLUSTERS)}, or cores such as 4-7 or 0,2"
            raise RecipeError(f"unknown cluster {self.cluster!r}", hint=hint)
        parse_latency(self.max_latency)
        check_scheduler(self.scheduler)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for JSON and TOML."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclass(frozen=True)
class Objects:
    """The Python objects that a caller passed. The recipe only names them, for example as ``<DataLoader>``.

    Attributes:
        model: a ``torch.nn.Module``. None, here and below, means that the recipe has the value.
        images, eval_images: samples; see :func:`ncnnkit.samples.given.find_samples`.
        task: a subclass of :class:`ncnnkit.tasks.Task`.
        metric: a function.
    """

    model: Any = None
    images: Any = None
    eval_images: Any = None
    task: Any = None
    metric: Any = None

    def filled(self, recipe: Recipe) -> Objects:
        """These objects; those that were not given are taken from the recipe.

        Raises:
            RecipeError: the recipe names an object that was not given. The recipe of an earlier run may do so.
        """
        values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(self)}
        given = {name: value for name in values if (value := getattr(self, name)) is not None}
        for name in values.keys() - given.keys():
            if names_object(values[name]):
                what = f"{name} {values[name]} was an object in Python, which a recipe cannot hold"
                raise RecipeError(what, hint=f"give {name}")
        return Objects(**{**values, **given})


NO_OBJECTS = Objects()
"""No objects: the recipe has all values."""


def names_object(value: Any) -> bool:
    """Whether a value of a recipe is the name of an object."""
    return isinstance(value, str) and value.startswith("<") and value.endswith(">")


KEYS: dict[str, Key] = {field.name: field.metadata["key"] for field in dataclasses.fields(Recipe)}
"""Field of a recipe -> its meaning and bounds."""

if Recipe.__doc__:  # python -OO removes docstrings
    Recipe.__doc__ += "\n\nAttributes:\n" + "".join(f"    {name}: {key.help}\n" for name, key in KEYS.items())


@functools.cache
def key_types() -> dict[str, Any]:
    """The type of each field of a recipe."""
    return get_type_hints(Recipe)


def _is_of_type(name: str, value: Any) -> bool:
    """Whether a value has the type of a field and could be stored in a recipe file."""
    import msgspec

    try:
        msgspec.convert(value, key_types()[name])
    except msgspec.ValidationError:
        return False
    if name in ("shapes", "shape_too"):
        return all(shape and min(shape) > 0 for shape in value)
    # Python represents a path that is not UTF-8 with lone surrogates, which TOML cannot hold.
    return all(
        math.isfinite(part) if isinstance(part, float) else not isinstance(part, str) or part == readable(part)
        for part in _parts(value)
    )


def _parts(value: Any) -> Iterator[Any]:
    """The numbers and texts in a value, keys included."""
    if isinstance(value, Mapping):
        yield from value
        value = tuple(value.values())
    if isinstance(value, tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield value


def _check(name: str, value: Any, key: Key) -> None:
    """Raise RecipeError if a value of the right type is not allowed."""
    word = name.removesuffix("s") if isinstance(value, tuple) else name
    items = [value] if isinstance(value, str) else value
    choices = [choice for choice in key.allowed if choice]
    if key.allowed:
        for item in items:
            if item not in key.allowed:
                near = meant(item, choices) if len(choices) > MANY else ""
                hint = near or "one of " + ", ".join(choices)
                raise RecipeError(f"unknown {word} {item!r}", hint=hint)
    if key.allowed and isinstance(value, tuple):
        if not value and "" not in key.allowed:
            raise RecipeError(f"no {word} is given", hint="one of " + ", ".join(choices))
        twice = [item for item in value if value.count(item) > 1]
        if twice:
            raise RecipeError(f"{word} {twice[0]} is given twice")
    if key.least is not None and value < key.least:
        raise RecipeError(f"{name} is {value}, but must be at least {key.least}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return str(_plain(value))[:60]


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPUs in a list in Linux' format, such as ``0,4-7``; empty if the text is not such a list."""
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text, re.ASCII):
        return ()
    ends = (part.partition("-") for part in text.split(","))
    return tuple(sorted({cpu for first, _, last in ends for cpu in range(int(first), int(last or first) + 1)}))


def parse_latency(text: str) -> float | None:
    """The milliseconds of a latency such as ``20ms``; None for an empty text. Otherwise raises RecipeError."""
    if not text:
        return None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(ms)?\s*", text, re.ASCII)
    if not match or not 0 < float(match[1]) < math.inf:
        raise RecipeError(f"{text[:40]!r} is not a latency", where="max_latency", hint="such as 20ms")
    return float(match[1])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def make_recipe(options: Mapping[str, Any], file: str | Path | None = None) -> Recipe:
    """Make a recipe from options and a recipe file. Options replace values of the file.

    Args:
        options: field name -> value; None means not given.
        file: a TOML file with the same keys.

    Raises:
        RecipeError: a key or value cannot be used, or there is no model. An error in the file is raised even if an
            option replaces that value, and names the file.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read(Path(file))
        try:
            _build({"model": "", **values})
        except RecipeError as error:
            raise RecipeError(error.what, where=str(file), hint=error.hint) from None
    recipe = _build({"model": "", **values, **{key: value for key, value in options.items() if value is not None}})
    if not recipe.model:
        raise RecipeError("no model is given", hint="give a model, or give a recipe with a model")
    return recipe


def _build(values: Mapping[str, Any]) -> Recipe:
    for name in values:
        if name not in KEYS:
            raise RecipeError(f"unknown key {name!r}", hint="one of " + ", ".join(sorted(KEYS)))
    return Recipe(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    """An immutable copy: tuples for lists, text for paths. It equals the value that is read back from a saved file."""
    if isinstance(value, Mapping):
        # TOML has no null: a file says "none" for no resizing and no cropping.
        return {key: None if v == "none" else _frozen(v) for key, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return float(value)  # NumPy's float64 is a float, but msgspec does not accept it
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, Any]:
    with reading(path, RecipeError, ValueError, FormatError, what="is not TOML"):
        values = tomllib.loads(read_text(path))
        check_numbers(values, most_real=math.inf)
        return values


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe file that repeats the run, except for Python objects. Raises StorageError."""
    import tomli_w

    values = recipe.to_dict()
    values["preprocess"] = _without_null(values["preprocess"])
    objects = [name for name, value in values.items() if names_object(value)]
    note = f"# Objects in Python, which this file only names: {', '.join(objects)}.\n" if objects else ""
    with atomic_write(path) as file:
        file.write((note + tomli_w.dumps(values)).encode())


def _without_null(value: Any) -> Any:
    """A value for TOML, which has no null. :func:`_frozen` reads it back."""
    if isinstance(value, Mapping):
        return {key: _without_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return "none" if value is None else value
