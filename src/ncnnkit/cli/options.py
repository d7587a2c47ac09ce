"""The options that several commands take, each declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_origin

import typer

from ..model.precision import PRECISIONS
from ..model.targets import KERNELS, TARGETS
from ..recipe import KEYS, key_types
from .values import preprocess_field, recipe_field

F = TypeVar("F", bound=Callable[..., Any])

RECIPE = {
    "Model": {
        "shapes": "C,H,W", "shape_too": "C,H,W", "weights": "FILE", "outputs": "NAME", "fix": "NAME=N",
        "route": "ROUTE", "force": "",
    },
    "Images": {"images": "PATH", "eval_images": "PATH", "labels": "PATH", "preset": "NAME"},
    "Task": {"task": "NAME", "metric": "MODULE:NAME", "require": "FIGURE>=X", "max_latency": "TIME"},
    "Precision": {"precisions": "NAME", "method": "NAME", "effort": "LEVEL", "target": "NAME"},
    "Measuring": {
        "on": "DEVICE", "backends": "NAME", "engines": "NAME", "threads": "N", "cluster": "CORES", "fix_clocks": "",
        "scheduler": "ADDRESS", "seconds": "S", "rounds": "N", "sustained": "S",
    },
}  # fmt: skip
"""Panel -> the fields of a recipe that are its options, each with the metavar of its value; empty for a flag."""

_PLACES = {name: (panel, metavar) for panel, rows in RECIPE.items() for name, metavar in rows.items()}


def option(panel: str, metavar: str, help: str, *flags: str, **settings: Any) -> Any:
    """An option in a panel of the help. ``metavar`` is the word for its value, empty for a flag."""
    return typer.Option(*flags, help=help, metavar=metavar, rich_help_panel=panel, **settings)


def asked_for(name: str, *flags: str, **settings: Any) -> Any:
    """The option of a field of a recipe. The field has its help, its bounds and its allowed words."""
    key, (panel, metavar) = KEYS[name], _PLACES[name]
    if key.allowed:
        settings["autocompletion"] = completing(key.allowed)
    return option(panel, metavar, key.help, *(flags or (flag_of(name),)), **settings)


def flag_of(name: str) -> str:
    """``eval_images`` -> ``--eval-images``. Options for lists are singular: ``precisions`` -> ``--precision``."""
    several = get_origin(key_types()[name]) is tuple and name not in ("outputs", "engines")
    return f"--{name.removesuffix('s') if several else name}".replace("_", "-")


def completing(words: Sequence[str]) -> Callable[[str], list[str]]:
    """A function for shell completion: the words that begin with the typed text; after a comma, with the text after
    it."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{word}" for word in words if word and word.startswith(last)]

    return complete


Shape = Annotated[list[str] | None, asked_for("shapes")]
ShapeToo = Annotated[list[str] | None, asked_for("shape_too")]
Outputs = Annotated[list[str] | None, asked_for("outputs")]
Fix = Annotated[list[str] | None, asked_for("fix")]
Weights = Annotated[str | None, asked_for("weights")]
RouteName = Annotated[str | None, asked_for("route")]
TaskName = Annotated[str | None, asked_for("task")]
Force = Annotated[bool, asked_for("force")]
Images = Annotated[list[str], asked_for("images")]
ImagesToCompare = Annotated[list[str], option("Images", "PATH", "Samples, in the same forms as for `run`.", "--images")]
Method = Annotated[str | None, asked_for("method")]
Effort = Annotated[str | None, asked_for("effort")]
Target = Annotated[
    str | None,
    option(
        "Precision", "NAME",
        f"Kernels to make int8 for: {', '.join(KERNELS)}, or a board or chip, such as rk3588. Default: arm.",
        "--target", autocompletion=completing(tuple(TARGETS)),
    ),
]  # fmt: skip
Skip = Annotated[list[str] | None, option("Precision", "LAYER", "Layers that stay in floating point.", "--skip")]
Precision = Annotated[
    list[str] | None,
    option(
        "Precision", "NAME", f"Precisions to run in: {', '.join(PRECISIONS)}. Default: all that the model supports.",
        "--precision",
    ),
]  # fmt: skip
OnePrecision = Annotated[
    str | None,
    option("Precision", "NAME", f"Precision: {', '.join(PRECISIONS)}. Default: that of the model.", "--precision"),
]
On = Annotated[list[str] | None, asked_for("on")]
OnOne = Annotated[
    str | None, option("Measuring", "DEVICE", "Device: ssh://user@board, adb://serial or a name.", "--on")
]
Backend = Annotated[list[str] | None, asked_for("backends")]
OneBackend = Annotated[str, option("Measuring", "NAME", "Backend: cpu or vulkan.", "--backend")]
Threads = Annotated[
    int | None, option("Measuring", "N", "Number of CPU threads. Default: all cores.", "--threads", min=1)
]
Scheduler = Annotated[str | None, asked_for("scheduler")]
FixClocks = Annotated[bool, asked_for("fix_clocks")]

RunFolderToWrite = Annotated[Path, option("Output", "FOLDER", "The run folder.", "-o", "--out")]
ParamToWrite = Annotated[
    Path, option("Output", "FILE", "The .param file to write. The .bin file is written beside it.", "-o", "--out")
]
Json = Annotated[bool, option("Output", "", "Print JSON.", "--json")]
NoCache = Annotated[
    bool,
    option(
        "Output", "", "Compute everything again. By default, results of earlier runs are taken where nothing that they "
        "depend on has changed; see `ncnnkit cache`.", "--no-cache",
    ),
]  # fmt: skip
Quiet = Annotated[
    bool, option("Output", "", "Print a plain line for each finished stage, no progress bar.", "-q", "--quiet")
]

Model = Annotated[str, typer.Argument(metavar="MODEL", help=KEYS["model"].help)]
ModelOrNone = Annotated[str | None, typer.Argument(metavar="MODEL", help=KEYS["model"].help)]
Param = Annotated[Path, typer.Argument(metavar="PARAM", help="A .param file with its .bin beside it.")]
Fp32Param = Annotated[Path, typer.Argument(metavar="PARAM", help="The fp32 .param file, optimised.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its run.json.")]

_PREPROCESSING: dict[str, tuple[Any, str, str]] = {
    "mean": (list[str], "X,X,X", "Subtracted after the division, one value per channel, such as 0.485,0.456,0.406."),
    "std": (list[str], "X,X,X", "Divisor at the end, one value per channel, such as 0.229,0.224,0.225."),
    "resize": (
        str,
        "SIZE",
        "New size: 256 (the shorter side), 224,224 (height,width), none, or a way to keep the aspect ratio: letterbox, "
        "right or multiple, with settings as in letterbox:align=corner,fill=114.",
    ),
    "crop": (str, "H,W", "Centre crop: height,width or none. Or tiles, such as tiles:overlap=16."),
    "color": (str, "ORDER", "Order of the channels: rgb, bgr, gray, rgba or bgra."),
    "divisor": (float, "X", "First divisor of the pixels: 255 by default, 1 to keep 0 to 255."),
    "interpolation": (
        str, "FILTER",
        "Filter of the resizing: nearest, bilinear, bicubic, lanczos, box or hamming (Pillow's), or opencv.",
    ),
}  # fmt: skip
"""Field of a Preprocess -> the type of its option, the metavar of its value, and its help."""


def takes(
    name: str, options: Mapping[str, Any], gather: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[[F], F]:
    """Add options to a command, which gets them gathered in one argument.

    Args:
        name: the name of the argument.
        options: name -> its annotation; the value None means that it was not given.
        gather: makes the argument from the given options.
    """

    def widen(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)

        @functools.wraps(function)
        def gathering(**given: Any) -> None:
            found = {option: given.pop(option) for option in options}
            # Typer gives False or an empty list for options that were not given.
            asked = {key: value for key, value in found.items() if not (value is None or value is False or value == [])}
            function(**given, **{name: gather(asked)})

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
    options |= {
        name: Annotated[kind | None, option("Images", metavar, help, f"--{name}")]
        for name, (kind, metavar, help) in _PREPROCESSING.items()
    }

    def gather(given: dict[str, Any]) -> dict[str, Any]:
        named = {name: value for name, value in given.items() if name == "preset"}
        fields = {name: preprocess_field(name, value) for name, value in given.items() if name != "preset"}
        return {**named, "preprocess": fields} if fields else named

    return takes("prepared", options, gather)(function)


def takes_recipe(function: F) -> F:
    """Give a command an option for each field of a recipe except model and preprocessing, gathered in ``asked``.

    A field that is a list or a table is an option that may be repeated.
    """
    options: dict[str, Any] = {}
    for name, kind in key_types().items():
        if name not in ("model", "preset", "preprocess"):
            one = kind if kind in (str, int, float, bool) else list[str]
            more = {} if KEYS[name].least is None else {"min": KEYS[name].least}
            options[name] = Annotated[one | None, asked_for(name, **more)]

    def gather(given: dict[str, Any]) -> dict[str, Any]:
        return {name: recipe_field(name, value) for name, value in given.items()}

    return takes("asked", options, gather)(function)
