"""The command ``make``: makes an engine's model from an ONNX file, in its own process.

The tools of engines may need much memory, print to stdout, or crash. OpenVINO's and NNCF's send usage statistics to a
server by default; the environment variable ``CI`` prevents that.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from . import ENGINES
from .base import Calibration

SILENT = {"CI": "true"}
"""Environment variables that stop tools from sending usage statistics, beside :data:`ncnnkit.onboard.SILENT`."""


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
