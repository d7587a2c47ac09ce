"""ncnnkit: trained networks to edge boards with ncnn, converted, quantised, measured and explained."""

# Importing this loads numpy and nothing heavier: torch, onnxruntime, Pillow and plotly wait in the functions that
# need them.
from .app import make_app
from .artifact import Artifact, save
from .device.session import Session
from .errors import NcnnkitError
from .model.graph import Graph, Layer
from .model.ncnnfile import load
from .passes import optimize
from .pipeline import run
from .quantization import correct_bias, quantize
from .quantization.calibration import ActivationStats, calibrate
from .recipe import Recipe
from .samples.images import open_images
from .samples.items import InputSpec
from .samples.preprocess import Preprocess, preset
from .source.conversion import convert

__all__ = [
    "ActivationStats",
    "Artifact",
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
    "make_app",
    "open_images",
    "optimize",
    "preset",
    "quantize",
    "run",
    "save",
]
