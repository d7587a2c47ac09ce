"""Everything the user asked for, frozen: a run is a function of its :class:`Recipe`.

A recipe file is TOML with the fields' names as keys; what the command line gives goes before it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from .errors import RecipeError
from .model.ncnnfile import atomic_write
from .model.precision import PRECISIONS
from .model.targets import TARGETS
from .samples.preprocess import Preprocess

EFFORTS = ("fast", "default", "best")
BACKENDS = ("cpu", "vulkan")
CLUSTERS = ("all", "big", "middle", "little")
AUTO = "auto"
"""The target of whatever device is measured on."""


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        model: the model's reference.
        images: folder or file to calibrate with, and to evaluate with where ``eval_images`` is empty.
        eval_images: folder or file to evaluate with; empty: every fifth of ``images`` is held out.
        labels: file with the evaluation images' classes; empty: none.
        shapes: shape of each network input without the batch axis; empty: as the model says.
        weights: ``default``, ``none`` or a file, for models built by code.
        preset: name of a preprocessing; empty: the model's own.
        preprocess: single fields of the preprocessing that replace the preset's or the model's.
        on: the devices to measure on, as ``ssh://user@board`` or a name of ``ncnnkit devices``; empty: this machine.
        backends: what to run on there.
        precisions: what to make.
        threads: CPU threads; 0: all cores, of the cluster where one is named.
        cluster: of the CPU, to be pinned to: ``big``, ``middle``, ``little``, or cores as ``4-7``; ``all`` or empty:
            wherever the system puts the threads.
        fix_clocks: hold the clocks at their highest while measuring, where that is permitted.
        sustained: seconds that each variant runs alone without a rest, after the others are measured.
        target: the kernels int8 weights are made for, or a board that has them; empty or ``auto``: those of the device
            that is measured on.
        method: how int8 thresholds are chosen.
        effort: how long quantising may take: ``fast`` (seconds), ``default`` (a minute), ``best`` (minutes).
        require: what a model must keep to, against the original: ``cosine>=0.999``, ``sqnr>=30``, ``mse<=0.01``,
            ``max_error<=0.1``, ``top1_agreement>=99%`` or, with labels, ``top1>=75%``; all of them must hold. The mixed
            model is the fastest that does.
        max_latency: the longest a model may take, such as ``20ms``; the mixed model is then the most exact that keeps
            to it.
        seconds: of timing for each variant, all rounds together.
        rounds: turns that the variants take in being timed.
        force: go on where the converted model differs from the original.
    """

    model: str
    images: str = ""
    eval_images: str = ""
    labels: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    weights: str = "default"
    preset: str = ""
    preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on: tuple[str, ...] = ()
    backends: tuple[str, ...] = BACKENDS
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    threads: int = 0
    cluster: str = ""
    fix_clocks: bool = False
    sustained: float = 0.0
    target: str = ""
    method: str = "mse"
    effort: str = "default"
    require: tuple[str, ...] = ("cosine>=0.999",)
    max_latency: str = ""
    seconds: float = 3.0
    rounds: int = 5
    force: bool = False

    def __post_init__(self) -> None:
        for name, (check, words) in _KINDS.items():
            value = _frozen(getattr(self, name))
            object.__setattr__(self, name, value)
            if not check(value):
                raise RecipeError(f"{name} must be {words}, not {_shown(value)}")
        _one_of("backend", self.backends, BACKENDS)
        _one_of("precision", self.precisions, PRECISIONS)
        for what in (self.backends, self.precisions):
            twice = [value for value in what if what.count(value) > 1]
            if twice:
                raise RecipeError(f"{twice[0]} is asked for twice")
        if self.cluster not in ("", *CLUSTERS) and not parse_cpus(self.cluster):
            hint = f"one of {', '.join(CLUSTERS)}, cores as 4-7 or 0,2"
            raise RecipeError(f"unknown cluster {self.cluster!r}", hint=hint)
        _one_of("method", [self.method], ("mse", "kl", "aciq", "minmax"))
        _one_of("effort", [self.effort], EFFORTS)
        _one_of("target", [self.target] if self.target else [], (AUTO, *TARGETS))
        fields = {field.name for field in dataclasses.fields(Preprocess)}
        _one_of("preprocess", self.preprocess, sorted(fields))
        for name, low in (("threads", 0), ("rounds", 1), ("seconds", 0), ("sustained", 0)):
            if getattr(self, name) < low:
                raise RecipeError(f"{name} is {getattr(self, name)}, it must be at least {low}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for JSON and TOML."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _is_text(value: Any) -> bool:
    # A path that is not UTF-8 comes as lone surrogates, which no recipe file could hold.
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_shapes(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(shape, tuple) and shape and all(_is_whole(side) and side > 0 for side in shape) for shape in value
    )


_TEXT = (_is_text, "text")
_TRUTH = (lambda value: isinstance(value, bool), "true or false")
_TABLE = (lambda value: isinstance(value, Mapping) and all(map(_is_text, value)), "a table of single fields")
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            "model",
            "images",
            "eval_images",
            "labels",
            "weights",
            "preset",
            "target",
            "method",
            "effort",
            "max_latency",
            "cluster",
        ),
        _TEXT,
    ),
    "shapes": (_is_shapes, "a list of one shape an input, as [[3, 224, 224]]"),
    "preprocess": _TABLE,
    "on": (_is_texts, 'a list, as ["ssh://board"]'),
    "require": (_is_texts, 'a list, as ["cosine>=0.999"]'),
    "backends": (_is_texts, 'a list, as ["cpu"]'),
    "precisions": (_is_texts, 'a list, as ["fp32", "int8"]'),
    "threads": (_is_whole, "a whole number"),
    "seconds": (_is_number, "a number"),
    "sustained": (_is_number, "a number"),
    "fix_clocks": _TRUTH,
    "rounds": (_is_whole, "a whole number"),
    "force": _TRUTH,
}
"""Field -> what it must be, as a test and in words: a recipe file can hold anything."""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return str(_plain(value))[:60]


def _one_of(what: str, given: Any, allowed: Any) -> None:
    for value in given:
        if value not in allowed:
            raise RecipeError(f"unknown {what} {value!r}", hint="one of " + ", ".join(allowed))
    if what in ("backend", "precision") and not given:
        raise RecipeError(f"no {what} is asked for", hint="one of " + ", ".join(allowed))


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
    known = {field.name for field in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise RecipeError(f"unknown key {key!r}", hint="one of " + ", ".join(sorted(known)))
    return Recipe(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    """A copy nobody else can change, equal to what a saved file brings back: tuples for lists, text for paths."""
    if isinstance(value, Mapping):
        # TOML has no null: a file says "none" for no resizing and no cropping.
        return {key: None if v == "none" else _frozen(v) for key, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
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
