"""The parts of an app in Python, as modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def app_part(app: Path, name: str) -> ModuleType:
    """The module ``parts/NAME.py`` of an app. Modules of the same names from other apps are unloaded."""
    for each in [each for each in sys.modules if each.partition(".")[0] == "parts"]:
        del sys.modules[each]
    sys.path.insert(0, str(app))
    try:
        return importlib.import_module(f"parts.{name}")
    finally:
        sys.path.remove(str(app))
