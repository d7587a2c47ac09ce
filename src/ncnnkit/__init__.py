"""ncnnkit: convert trained networks for edge boards with ncnn, quantise, measure and explain them."""

# This import loads numpy and nothing heavier. Functions import torch, onnxruntime and Pillow when they need them.
from .app import make_app
from .artifact import Artifact, save
from .device.session import Session
from .errors import NcnnkitError
from .model.graph import Graph, Layer
from .model.ncnnfile import load
from .onboard.picture import Fit, Tiles
from .passes import optimize
from .pipeline import run
from .quantization import correct_bias, quantize
from .quantization.calibration import ActivationStats, calibrate
from .recipe import Recipe
from .samples.finding import open_images
from .samples.items import InputSpec
from .samples.preprocess import Preprocess
from .samples.presets import preset
from .source.conversion import convert

__all__ = [
    "ActivationStats",
    "Artifact",
    "Fit",
    "Graph",
    "InputSpec",
    "Layer",
    "NcnnkitError",
    "Preprocess",
    "Recipe",
    "Session",
    "Tiles",
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
