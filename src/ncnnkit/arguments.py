"""Arguments of the commands: the types of the options, and how their texts become values."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_origin

import typer

from .errors import RecipeError
from .model.precision import PRECISIONS
from .model.targets import TARGETS
from .recipe import KEYS, key_types

F = TypeVar("F", bound=Callable[..., Any])


def asked_for(name: str, *flags: str, **options: Any) -> Any:
    """The option of a field of a recipe; the field holds its help and its bounds."""
    return typer.Option(*flags, help=KEYS[name].help, **options)


Shape = Annotated[list[str] | None, asked_for("shapes", "--shape")]
ShapeToo = Annotated[list[str] | None, asked_for("shape_too", "--shape-too")]
Outputs = Annotated[str | None, asked_for("outputs", "--outputs")]
Fix = Annotated[list[str] | None, asked_for("fix", "--fix")]
Weights = Annotated[str | None, asked_for("weights")]
RouteName = Annotated[str | None, asked_for("route")]
TaskName = Annotated[str | None, asked_for("task")]
Force = Annotated[bool, asked_for("force", "--force")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads. Default: all cores.")]
Method = Annotated[str | None, asked_for("method")]
Target = Annotated[str | None, typer.Option(help=f"Kernels to make int8 for: {', '.join(TARGETS)}. Default: arm.")]
On = Annotated[list[str] | None, asked_for("on")]
Backend = Annotated[str | None, asked_for("backends", "--backend")]
Precision = Annotated[
    str | None,
    typer.Option(help=f"Precisions to run in: {','.join(PRECISIONS)}. Default: all that the model supports."),
]
OnePrecision = Annotated[
    str | None, typer.Option("--precision", help=f"Precision: {', '.join(PRECISIONS)}. Default: that of the model.")
]
Effort = Annotated[str | None, asked_for("effort")]
FixClocks = Annotated[bool, asked_for("fix_clocks", "--fix-clocks")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Images = Annotated[list[str], asked_for("images")]
OnOne = Annotated[str | None, typer.Option("--on", help="Device: ssh://user@board, adb://serial or a name.")]
Param = Annotated[Path, typer.Argument(help="A .param file with its .bin beside it.")]
Fp32Param = Annotated[Path, typer.Argument(help="The fp32 .param file, optimised.")]
ParamToWrite = Annotated[
    Path, typer.Option("-o", "--output", help="The .param file to write. The .bin file is written beside it.")
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder, or its run.json.")]

# Option -> its type, its help, and how its text becomes a field of Preprocess.
PREPROCESSING = {
    "mean": (str, "Subtracted after the division, one value per channel, such as 0.485,0.456,0.406.", float),
    "std": (str, "Divisor at the end, one value per channel, such as 0.229,0.224,0.225.", float),
    "resize": (
        str,
        "New size: 256 (the shorter side), 224,224 (height,width), none, or a way to keep the aspect ratio: letterbox, "
        "right or multiple, with settings as in letterbox:align=corner,fill=114.",
        int,
    ),
    "crop": (str, "Centre crop: height,width or none. Or tiles, such as tiles:overlap=16.", int),
    "color": (str, "Order of the channels: rgb, bgr, gray, rgba or bgra.", None),
    "divisor": (float, "First divisor of the pixels: 255 by default, 1 to keep 0 to 255.", None),
    "interpolation": (
        str, "Filter of the resizing: nearest, bilinear, bicubic, lanczos, box or hamming (Pillow's), or opencv.", None,
    ),
}  # fmt: skip


def takes(
    name: str, options: Mapping[str, Any], gather: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[[F], F]:
    """Give a command more options; it gets them gathered in one argument.

    Args:
        name: of the argument.
        options: name -> its annotation; None is an option that is not given.
        gather: makes the argument of what was given.
    """

    def widen(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)

        @functools.wraps(function)
        def gathering(**given: Any) -> None:
            found = {option: given.pop(option) for option in options}
            function(**given, **{name: gather({key: value for key, value in found.items() if value is not None})})

        kind = inspect.Parameter.KEYWORD_ONLY
        own = [p.replace(kind=kind) for p in signature.parameters.values() if p.name != name]
        added = [inspect.Parameter(key, kind, default=None, annotation=value) for key, value in options.items()]
        gathering.__signature__ = signature.replace(parameters=own + added)  # type: ignore[attr-defined]
        gathering.__annotations__ = {p.name: p.annotation for p in own + added}
        return cast(F, gathering)

    return widen


def takes_images(function: F) -> F:
    """Give a command the preprocessing options, gathered in ``prepared``: the fields of a recipe that they fill."""
    options: dict[str, Any] = {"preset": Annotated[str | None, asked_for("preset")]}
    options |= {n: Annotated[kind | None, typer.Option(help=text)] for n, (kind, text, _) in PREPROCESSING.items()}

    def gather(given: dict[str, Any]) -> dict[str, Any]:
        named = {name: value for name, value in given.items() if name == "preset"}
        fields = {name: preprocess_field(name, value) for name, value in given.items() if name != "preset"}
        return {**named, "preprocess": fields} if fields else named

    return takes("prepared", options, gather)(function)


def takes_recipe(function: F) -> F:
    """Give a command an option per field of a recipe, except those of other options, gathered in ``asked``."""
    options: dict[str, Any] = {}
    for name, kind in key_types().items():
        least = KEYS[name].least
        flag = f"--{name.removesuffix('s') if get_origin(kind) is tuple else name}".replace("_", "-")
        if name == "outputs":  # --output is the file that other commands write
            options[name] = Outputs
        elif name not in ("model", "preset", "preprocess"):
            # Of several words of a fixed set one text with commas; of free ones an option each.
            one = kind if kind in (str, int, float, bool) else str if KEYS[name].allowed else list[str]
            more = {} if least is None else {"min": least}
            options[name] = Annotated[one | None, asked_for(name, flag, **more)]

    def gather(given: dict[str, Any]) -> dict[str, Any]:
        # Typer gives False and an empty list for what is not there.
        return {name: _field(name, value) for name, value in given.items() if value is not False and value != []}

    return takes("asked", options, gather)(function)


def _field(name: str, value: Any) -> Any:
    """What an option's text means as a field of a recipe."""
    if name in ("shapes", "shape_too"):
        return to_shapes(value)
    if name in ("images", "eval_images"):
        return to_sources(value, name)
    if name == "fix":
        return to_numbers(value)
    return to_words(value) if get_origin(key_types()[name]) is tuple and isinstance(value, str) else value


def preprocess_field(name: str, value: Any) -> Any:
    """An option's text as a field of Preprocess, as a recipe holds it. Raises RecipeError."""
    kind = PREPROCESSING[name][2]
    if kind is None:
        return value
    if value == "none":
        return None
    way, _, settings = value.partition(":")
    if name in ("resize", "crop") and way.isalpha():
        return _record_of(name, way, settings)
    numbers = _numbers(value, name, kind)
    return numbers[0] if name == "resize" and len(numbers) == 1 else numbers


def _record_of(name: str, way: str, settings: str) -> dict[str, Any]:
    """``letterbox`` and ``align=corner,fill=114`` -> the fields of a Fit; ``tiles`` -> those of Tiles."""
    if name == "crop" and way != "tiles":
        raise RecipeError(f"unknown --crop {way!r}", hint="height,width, tiles or none")
    found: dict[str, Any] = {"way": way} if name == "resize" else {}
    for setting in settings.split(",") if settings else ():
        key, given, text = setting.partition("=")
        if not given:
            raise RecipeError(f"--{name}: {setting!r} is not NAME=VALUE", hint="as letterbox:align=corner,fill=114")
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
        raise RecipeError(f"--{what} {text!r} is not a list of numbers", hint=f"as {example}") from None


def to_shapes(shape: Sequence[str] | None, option: str = "shape") -> tuple[tuple[int, ...], ...] | None:
    """``("3,224,224",)`` -> ``((3, 224, 224),)``; None where nothing is given. Raises RecipeError."""
    return tuple(_numbers(text, option, int) for text in shape) if shape else None


def to_numbers(texts: Sequence[str] | None) -> dict[str, float] | None:
    """``["sr=16000"]`` -> ``{"sr": 16000.0}``; None where nothing is given. Raises RecipeError."""
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RecipeError(f"--fix {text!r} is not NAME=NUMBER", hint="as sr=16000")
        if found.setdefault(name, value) != value:
            raise RecipeError(f"--fix gives {name!r} two numbers")
    return found or None


def to_sources(texts: Sequence[str] | None, option: str = "images") -> str | dict[str, str] | None:
    """``["calib/"]`` -> ``"calib/"``; ``["left=a/", "right=b/"]`` -> ``{"left": "a/", "right": "b/"}``.

    None where nothing is given. Raises RecipeError.
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


def to_words(text: str | None) -> tuple[str, ...] | None:
    """``"fp32, int8"`` -> ``("fp32", "int8")``; None where nothing is given."""
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text is not None else None
