"""Everything the user asked for, frozen: a run is a function of its :class:`Recipe`.

A recipe file is TOML with the fields' names as keys; what the command line gives goes before it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from .codec import readable
from .errors import RecipeError
from .model.ncnnfile import atomic_write
from .model.precision import PRECISIONS
from .model.targets import TARGETS
from .samples.preprocess import Preprocess

METHODS = ("mse", "kl", "aciq", "minmax")
EFFORTS = ("fast", "default", "best")
BACKENDS = ("cpu", "vulkan")
CLUSTERS = ("all", "big", "middle", "little")
ROUTES = ("onnx", "pnnx", "classic", "dynamo", "torchscript", "ncnn")
AUTO = "auto"
"""The target of whatever device is measured on; all the routes that a model has."""


@dataclass(frozen=True)
class Key:
    """What a field of a recipe means and may be. Errors, the command line, the JSON Schema and the documents tell it.

    Attributes:
        help: what it means.
        expects: what a value of the right type is, in words.
        allowed: the words that it, or each item in it, may be; empty: any.
        least: the least number that it may be.
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
        "A .onnx, .param or TorchScript file (.pt, .pth, .jit, .torchscript), torchvision:NAME, timm:NAME or "
        "package.module:function.",
    )
    images: str = _key("", "Folder, list file, image, .npy or .npz to calibrate with.")
    eval_images: str = _key("", "The same to evaluate with; empty: every fifth of the images is held out.")
    labels: str = _key("", "File with the evaluation images' classes, lines 'file class'; empty: none.")
    shapes: tuple[tuple[int, ...], ...] = _key(
        (),
        "Shape of an input without the batch axis, as 3,224,224; one for each input. Empty: as the model says.",
        "a list of one shape an input, as [[3, 224, 224]]",
    )
    weights: str = _key("default", "default, none (random) or a file; for models built by code.")
    route: str = _key(
        AUTO,
        "The way from the model to ncnn: onnx (ncnnkit's own front end) or pnnx; for torch modules classic or dynamo "
        "(torch's ONNX exporters) or torchscript (pnnx); auto: the first that is exact, with effort best the best.",
        allowed=(AUTO, *ROUTES),
    )
    preset: str = _key(
        "",
        "Name of a preprocessing: imagenet, efficientnet-lite0, torchvision:NAME or timm:NAME; empty: the model's own.",
    )
    preprocess: Mapping[str, Any] = _key(
        {},
        "Single fields of the preprocessing, which replace the preset's or the model's.",
        "a table of single fields",
        allowed=sorted(field.name for field in dataclasses.fields(Preprocess)),
    )  # fmt: skip
    on: tuple[str, ...] = _key(
        (),
        "Where to measure: ssh://user@board, adb://serial or a name of `ncnnkit devices`; several are measured at "
        "once. Empty: this machine.",
        'a list, as ["ssh://board"]',
    )
    backends: tuple[str, ...] = _key(
        BACKENDS, f"What to run on: {','.join(BACKENDS)}.", 'a list, as ["cpu"]', allowed=BACKENDS
    )
    precisions: tuple[str, ...] = _key(
        tuple(PRECISIONS), f"What to make: {','.join(PRECISIONS)}.", 'a list, as ["fp32", "int8"]', allowed=PRECISIONS
    )  # fmt: skip
    threads: int = _key(
        0, "CPU threads; 0: all cores, of the cluster where one is named.", "a whole number", least=0
    )  # fmt: skip
    cluster: str = _key(
        "",
        "The cores to run on: big, middle, little, all, or cores as 4-7; empty: wherever the system puts the threads.",
    )
    fix_clocks: bool = _key(
        False, "Hold the clocks at their highest while measuring, where that is permitted.", "true or false"
    )
    sustained: float = _key(
        0.0, "Seconds that each variant runs alone without a rest, after all are measured: does it throttle?",
        "a number", least=0,
    )  # fmt: skip
    target: str = _key(
        "",
        f"The kernels int8 is made for: {', '.join((AUTO, *TARGETS))}; empty or {AUTO}: those of the device.",
        allowed=("", AUTO, *TARGETS),
    )
    method: str = _key("mse", f"How int8 thresholds are chosen: {', '.join(METHODS)}.", allowed=METHODS)
    effort: str = _key(
        "default", "How long quantising may take: fast (seconds), default (a minute), best (minutes; all routes are tried).", allowed=EFFORTS
    )
    require: tuple[str, ...] = _key(
        ("cosine>=0.999",),
        "FIGURE>=VALUE or FIGURE<=VALUE that a model must keep to against the original; of several, all. Figures: "
        "cosine, sqnr, mse, max_error, top1_agreement and, with labels, top1. The mixed model is the fastest that "
        "keeps to them.",
        'a list, as ["cosine>=0.999"]',
    )
    max_latency: str = _key(
        "",
        "The longest a model may take, as 20ms; the mixed model is then the most exact that keeps to it. "
        "Empty: no limit.",
    )
    seconds: float = _key(3.0, "Seconds of timing for each variant, all rounds together.", "a number", least=0)
    rounds: int = _key(5, "Turns that the variants take in being timed.", "a whole number", least=1)
    force: bool = _key(False, "Go on where the converted model differs from the original.", "true or false")

    def __post_init__(self) -> None:
        for name, key in KEYS.items():
            value = _frozen(getattr(self, name))
            object.__setattr__(self, name, value)
            if not _is_of_type(name, value):
                raise RecipeError(f"{name} must be {key.expects}, not {_shown(value)}")
            _check(name, value, key)
        if self.cluster not in ("", *CLUSTERS) and not parse_cpus(self.cluster):
            hint = f"one of {', '.join(CLUSTERS)}, cores as 4-7 or 0,2"
            raise RecipeError(f"unknown cluster {self.cluster!r}", hint=hint)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for JSON and TOML."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


KEYS: dict[str, Key] = {field.name: field.metadata["key"] for field in dataclasses.fields(Recipe)}
"""What the fields of a recipe mean."""

if Recipe.__doc__:  # python -OO has none
    Recipe.__doc__ += "\n\nAttributes:\n" + "".join(f"    {name}: {key.help}\n" for name, key in KEYS.items())


@functools.cache
def key_types() -> dict[str, Any]:
    """The type of each field of a recipe."""
    return get_type_hints(Recipe)


def _is_of_type(name: str, value: Any) -> bool:
    """Whether a value has the type of a field, and a recipe file could hold it."""
    import msgspec

    try:
        msgspec.convert(value, key_types()[name])
    except msgspec.ValidationError:
        return False
    if name == "shapes":
        return all(shape and min(shape) > 0 for shape in value)
    if isinstance(value, float):
        return math.isfinite(value)
    # A path that is not UTF-8 comes as lone surrogates, which no recipe file could hold.
    texts = [value] if isinstance(value, str) else value if isinstance(value, tuple | Mapping) else ()
    return all(text == readable(text) for text in texts)


def _check(name: str, value: Any, key: Key) -> None:
    """Raises RecipeError where a value of the right type is not allowed."""
    word = name.removesuffix("s") if isinstance(value, tuple) else name
    items = [value] if isinstance(value, str) else value
    choices = [choice for choice in key.allowed if choice]
    if key.allowed:
        for item in items:
            if item not in key.allowed:
                raise RecipeError(f"unknown {word} {item!r}", hint="one of " + ", ".join(choices))
    if key.allowed and isinstance(value, tuple):
        if not value:
            raise RecipeError(f"no {word} is asked for", hint="one of " + ", ".join(choices))
        twice = [item for item in value if value.count(item) > 1]
        if twice:
            raise RecipeError(f"{twice[0]} is asked for twice")
    if key.least is not None and value < key.least:
        raise RecipeError(f"{name} is {value}, it must be at least {key.least}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return str(_plain(value))[:60]


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPUs of a list as Linux writes them, ``0,4-7``; none where it is no such list."""
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text, re.ASCII):
        return ()
    ends = (part.partition("-") for part in text.split(","))
    return tuple(sorted({cpu for first, _, last in ends for cpu in range(int(first), int(last or first) + 1)}))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def make_recipe(options: Mapping[str, Any], file: str | Path | None = None) -> Recipe:
    """A recipe from options, completed by a recipe file.

    Args:
        options: field name -> value; None means not given.
        file: a TOML file with the same keys.

    Raises:
        RecipeError: a key or value that cannot be used, or no model. What stands in the file is named with the file,
            even where an option would go before it.
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
        raise RecipeError("no model is given", hint="name one, or give a recipe with a model")
    return recipe


def _build(values: Mapping[str, Any]) -> Recipe:
    for name in values:
        if name not in KEYS:
            raise RecipeError(f"unknown key {name!r}", hint="one of " + ", ".join(sorted(KEYS)))
    return Recipe(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    """A copy nobody else can change, equal to what a saved file brings back: tuples for lists, text for paths."""
    if isinstance(value, Mapping):
        # TOML has no null: a file says "none" for no resizing and no cropping.
        return {key: None if v == "none" else _frozen(v) for key, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return float(value)  # numpy's float64 is a float, too, and none to msgspec
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"is not TOML: {error}", where=str(path)) from None
    except RecursionError:
        raise RecipeError("is nested too deeply", where=str(path)) from None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe file that makes the same run. Raises StorageError."""
    import tomli_w

    values = recipe.to_dict()
    values["preprocess"] = {key: "none" if v is None else v for key, v in values["preprocess"].items()}
    with atomic_write(path) as file:
        file.write(tomli_w.dumps(values).encode())
