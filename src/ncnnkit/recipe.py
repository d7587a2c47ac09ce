"""Everything the user asked for, frozen: a run is a function of its :class:`Recipe`.

A recipe file is TOML with the fields' names as keys; what the command line gives goes before it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RecipeError
from .ncnnfile import atomic_write
from .preprocess import Preprocess

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BACKENDS = ("cpu", "vulkan")


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
        backends: where to run.
        precisions: what to make.
        threads: CPU threads; 0: all cores.
        target: the kernels int8 weights are made for; empty: this machine's.
        method: how int8 thresholds are chosen.
        seconds: of timing for each variant, spread over ``rounds`` interleaved rounds.
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
    backends: tuple[str, ...] = BACKENDS
    precisions: tuple[str, ...] = PRECISIONS
    threads: int = 0
    target: str = ""
    method: str = "mse"
    seconds: float = 3.0
    rounds: int = 5
    force: bool = False

    def __post_init__(self) -> None:
        _one_of("backend", self.backends, BACKENDS)
        _one_of("precision", self.precisions, PRECISIONS)
        _one_of("method", [self.method], ("mse", "kl", "aciq", "minmax"))
        _one_of("target", [self.target] if self.target else [], ("x86", "arm", "vulkan"))
        fields = {field.name for field in dataclasses.fields(Preprocess)}
        _one_of("preprocess", self.preprocess, sorted(fields))
        for name, low in (("threads", 0), ("rounds", 1), ("seconds", 0)):
            if getattr(self, name) < low:
                raise RecipeError(f"{name} is {getattr(self, name)}, it must be at least {low}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for JSON and TOML."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def _one_of(what: str, given: Any, allowed: Any) -> None:
    for value in given:
        if value not in allowed:
            raise RecipeError(f"unknown {what} {value!r}", hint="one of " + ", ".join(allowed))
    if what in ("backend", "precision") and not given:
        raise RecipeError(f"no {what} is asked for", hint="one of " + ", ".join(allowed))


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def make_recipe(options: Mapping[str, Any], file: str | Path | None = None) -> Recipe:
    """A recipe from options, completed by a recipe file.

    Args:
        options: field name -> value; None means not given.
        file: a TOML file with the same keys.

    Raises:
        RecipeError: a key or value that cannot be used, or no model.
    """
    values = _read(Path(file)) if file is not None else {}
    values.update({key: value for key, value in options.items() if value is not None})
    known = {field.name for field in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise RecipeError(f"unknown key {key!r}", where=str(file), hint="one of " + ", ".join(sorted(known)))
    if not values.get("model"):
        raise RecipeError("no model is given", hint="name one, or give a recipe with a model")
    try:
        return Recipe(**{key: _frozen(value) for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"cannot be used: {error}", where=str(file or "options")) from None


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"is not TOML: {error}", where=str(path)) from None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe file that makes the same run. Raises StorageError."""
    import tomli_w

    with atomic_write(path) as file:
        file.write(tomli_w.dumps(recipe.to_dict()).encode())
