"""ncnnkit: trained networks to edge boards with ncnn, converted, quantised, measured and explained."""

# Importing this loads numpy and nothing heavier: torch, onnxruntime, Pillow and plotly wait in the functions that
# need them.
from .calibrate import ActivationStats, calibrate
from .convert import convert
from .errors import NcnnkitError
from .graph import Graph, Layer
from .images import InputSpec, open_images
from .ncnnfile import load, save
from .passes import optimize
from .pipeline import run
from .preprocess import Preprocess, preset
from .quantize import correct_bias, quantize
from .recipe import Recipe
from .session import Session

__all__ = [
    "ActivationStats",
    "Graph",
    "InputSpec",
    "Layer",
    "NcnnkitError",
    "Preprocess",
    "Recipe",
    "Session",
    "calibrate",
    "convert",
    "correct_bias",
    "load",
    "open_images",
    "optimize",
    "preset",
    "quantize",
    "run",
    "save",
]
