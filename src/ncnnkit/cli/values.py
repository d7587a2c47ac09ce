"""Converts the texts of options to values."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

from ..errors import RecipeError, StorageError
from ..recipe import key_types

_NUMBERS = {"mean": float, "std": float, "resize": int, "crop": int}
"""Field of a Preprocess that holds numbers -> their type."""


def listed(texts: Sequence[str] | None) -> tuple[str, ...] | None:
    """The items of an option that takes a list. Each text may contain several items, separated by commas.

    ``["fp32,int8", "mixed"]`` -> ``("fp32", "int8", "mixed")``; None if nothing is given.
    """
    if not texts:
        return None
    return tuple(item.strip() for text in texts for item in text.split(",") if item.strip())


def recipe_field(name: str, value: Any) -> Any:
    """The value of an option as a field of a recipe. Raises RecipeError."""
    if name in ("shapes", "shape_too"):
        return to_shapes(value, name.removesuffix("s").replace("_", "-"))
    if name in ("images", "eval_images"):
        return to_sources(value, name)
    if name == "fix":
        return to_numbers(value)
    # A requirement and an address are free texts, which may contain commas.
    return listed(value) if get_origin(key_types()[name]) is tuple and name not in ("require", "on") else value


def preprocess_field(name: str, value: Any) -> Any:
    """The value of an option in the form of a Preprocess field in a recipe. Raises RecipeError."""
    kind = _NUMBERS.get(name)
    if kind is None:
        return value
    text = value if isinstance(value, str) else ",".join(listed(value) or ())
    if text == "none":
        return None
    way, _, settings = text.partition(":")
    if name in ("resize", "crop") and way.isalpha():
        return _record_of(name, way, settings)
    numbers = _numbers(text, name, kind)
    return numbers[0] if name == "resize" and len(numbers) == 1 else numbers


def _record_of(name: str, way: str, settings: str) -> dict[str, Any]:
    """``letterbox`` and ``align=corner,fill=114`` -> the fields of a Fit; ``tiles`` -> those of Tiles."""
    if name == "crop" and way != "tiles":
        raise RecipeError(f"unknown --crop {way!r}", hint="height,width, tiles or none")
    found: dict[str, Any] = {"way": way} if name == "resize" else {}
    for setting in settings.split(",") if settings else ():
        key, given, text = setting.partition("=")
        if not given:
            hint = "such as letterbox:align=corner,fill=114"
            raise RecipeError(f"--{name}: {setting!r} is not NAME=VALUE", hint=hint)
        found[key] = _setting(key, text)
    return found


def _setting(key: str, text: str) -> Any:
    """A setting's text as a value: a size 640x480, pixels 114 or 104/117/123, yes or no, or a word."""
    words: dict[str, Any] = {"none": None, "yes": True, "no": False, "true": True, "false": False}
    try:
        numbers = tuple(int(part) for part in text.replace("x", "/").split("/"))
    except ValueError:
        return words.get(text, text)
    return numbers if key in ("size", "fill") else numbers[0]


def _numbers(text: str, what: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        example = {int: "224,224", float: "0.5,0.5,0.5"}[kind]
        raise RecipeError(f"--{what} {text!r} is not a list of numbers", hint=f"such as {example}") from None


def to_shapes(shape: Sequence[str] | None, option: str = "shape") -> tuple[tuple[int, ...], ...] | None:
    """``("3,224,224",)`` -> ``((3, 224, 224),)``; None if nothing is given. Raises RecipeError."""
    return tuple(_numbers(text, option, int) for text in shape) if shape else None


def to_numbers(texts: Sequence[str] | None) -> dict[str, float] | None:
    """``["sr=16000"]`` -> ``{"sr": 16000.0}``; None if nothing is given. Raises RecipeError."""
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RecipeError(f"--fix {text!r} is not NAME=NUMBER", hint="such as sr=16000")
        if found.setdefault(name, value) != value:
            raise RecipeError(f"--fix gives {name!r} two numbers")
    return found or None


def to_sources(texts: Sequence[str] | None, option: str = "images") -> str | dict[str, str] | None:
    """``["calib/"]`` -> ``"calib/"``; ``["left=a/", "right=b/"]`` -> ``{"left": "a/", "right": "b/"}``.

    None if nothing is given. Raises RecipeError.
    """
    if not texts:
        return None
    if len(texts) == 1:
        return texts[0]
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            flag = f"--{option.replace('_', '-')}"
            raise RecipeError(f"{flag} {text!r} is not NAME=FOLDER", hint=f"one {flag}, or one for each input")
        if name in found:
            raise RecipeError(f"two sources are given for input {name!r}")
        found[name] = path
    return found


def check_param(output: Path, model: str | Path) -> None:
    """Raise StorageError before the work begins if a model cannot be written, or would replace a file that is not a
    model."""
    if output.suffix != ".param":
        hint = "a .bin and a .json file are written beside it"
        raise StorageError("does not end in .param", where=str(output), hint=hint)
    check_file(output, model)
    weights = output.with_suffix(".bin")
    if weights.exists() and not output.exists():
        raise StorageError(
            "would be replaced, but there is no .param that it belongs to", where=str(weights),
            hint="give another name with -o, or remove the file",
        )  # fmt: skip


def check_file(output: Path, model: str | Path) -> None:
    """Raise StorageError before the work begins if a file cannot be written. Its folder is created when it is
    written."""
    if output.exists() and Path(model).exists() and output.samefile(model):
        raise StorageError("is the model itself", where=str(output), hint="give another name with -o")
    check_folder(output.parent)


def check_folder(folder: Path) -> None:
    """Raise StorageError if a folder cannot be created or written."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise StorageError("is not a folder", where=str(nearest), hint="choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError("cannot be written: Permission denied", where=str(nearest), hint="choose another folder")
