"""The command ``make``: an engine's model from an ONNX file, in a process of its own.

The tools of engines may take much memory, print to stdout, crash, or report their use to a server, as OpenVINO's and
NNCF's do by default. The environment variable ``CI`` keeps these two silent.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from . import ENGINES
from .base import Calibration

SILENT = {"CI": "true"}
"""Environment variables that keep tools from reporting their use, beside those of :data:`ncnnkit.onboard.SILENT`."""


def main(request: str) -> None:
    """Make a model.

    Args:
        request: JSON with ``engine``, ``onnx``, ``made``, and for an int8 model ``calibration`` with the fields of
            :class:`~.base.Calibration`.
    """
    os.environ.update(SILENT)
    os.dup2(2, 1)
    asked = json.loads(request)
    engine = ENGINES[asked["engine"]]
    onnx, made = Path(asked["onnx"]), Path(asked["made"])
    try:
        if asked["calibration"] is None:
            engine.convert(onnx, made)
        else:
            engine.quantise(onnx, made, Calibration(**asked["calibration"]))
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        sys.exit(1)
