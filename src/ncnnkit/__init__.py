"""ncnnkit: convert trained networks for edge boards with ncnn, quantise, measure and explain them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import onboard as _onboard  # noqa: F401  # it keeps libraries from reporting their use; they come later

if TYPE_CHECKING:
    from .app import make_app
    from .artifact import Artifact, save
    from .device.session import Session
    from .errors import NcnnkitError
    from .model.graph import Graph, Layer
    from .model.ncnnfile import load
    from .onboard.picture import Fit, Tiles
    from .passes import optimize
    from .quantization import correct_bias, quantize
    from .quantization.calibration import ActivationStats, calibrate
    from .result import Result, open_run
    from .runs import run
    from .samples.finding import open_images
    from .samples.items import InputSpec
    from .samples.preprocess import Preprocess
    from .samples.presets import preset
    from .source.conversion import convert

    __version__: str

__all__ = [
    "ActivationStats",
    "Artifact",
    "Fit",
    "Graph",
    "InputSpec",
    "Layer",
    "NcnnkitError",
    "Preprocess",
    "Result",
    "Session",
    "Tiles",
    "calibrate",
    "convert",
    "correct_bias",
    "load",
    "make_app",
    "open_images",
    "open_run",
    "optimize",
    "preset",
    "quantize",
    "run",
    "save",
]

# Module -> the names that come from it. A module is imported when one of its names is used, so that `import ncnnkit`
# costs next to nothing. No module loads anything heavier than numpy: functions import torch, onnxruntime and Pillow
# when they need them.
_HOMES = {
    ".app": ("make_app",),
    ".artifact": ("Artifact", "save"),
    ".device.session": ("Session",),
    ".errors": ("NcnnkitError",),
    ".model.graph": ("Graph", "Layer"),
    ".model.ncnnfile": ("load",),
    ".onboard.picture": ("Fit", "Tiles"),
    ".passes": ("optimize",),
    ".quantization": ("correct_bias", "quantize"),
    ".quantization.calibration": ("ActivationStats", "calibrate"),
    ".result": ("Result", "open_run"),
    ".runs": ("run",),
    ".samples.finding": ("open_images",),
    ".samples.items": ("InputSpec",),
    ".samples.preprocess": ("Preprocess",),
    ".samples.presets": ("preset",),
    ".source.conversion": ("convert",),
}


if not TYPE_CHECKING:  # type checkers refuse a name that is not there

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # takes as long as half of numpy

            globals()[name] = version("ncnnkit")
            return globals()[name]
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(home, __name__), name)
        return found


def __dir__() -> list[str]:
    return ["__doc__", "__version__", *__all__]  # what this file imports for itself is no part of it
