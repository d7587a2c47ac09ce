"""Engines other than ncnn. They compute the same network on the same samples.

An engine is a module here and a row of :data:`ENGINES`. Its class makes a model from an ONNX file on the machine that
has the engine's tools, and opens the model on the machine that runs it. The folder is sent to a board with the rest of
``onboard``, so a module imports its engine only inside methods.

==========  ===============================================================
module      content
==========  ===============================================================
base        the interface of an engine
making      the command ``make``: makes a model in its own process
network     the network of a serving process with such an engine
==========  ===============================================================
"""

from __future__ import annotations

from typing import Mapping

from .base import Engine
from .litert import LiteRT
from .mnn import Mnn
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (OnnxRuntime(), OpenVino(), Mnn(), LiteRT())}
"""Name of an engine -> the engine."""
