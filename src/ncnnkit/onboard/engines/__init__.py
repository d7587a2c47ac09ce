"""Engines other than ncnn, which compute the same network on the same samples.

An engine is a module here and a row of :data:`ENGINES`. Its class makes a model from an ONNX file where the engine's
tools are installed, and opens the model where it will run. The folder is sent to a board with the rest of ``onboard``,
so a module imports its engine within its methods.

==========  ===============================================================
module      what is in it
==========  ===============================================================
base        what every engine can do
making      the command make: a model in a process of its own
network     what a serving process answers with such an engine
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
"""Name of an engine -> it."""
