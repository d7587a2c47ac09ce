"""The folder as a program, wherever it lies and whatever its name: ``python FOLDER serve``, ``job …``, ``agent …``."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import import_module

PACKAGE = "onboard"


def _make_package() -> None:
    """Let the folder be a package under a name of its own, whose modules are not found under their bare names."""
    folder = os.path.dirname(os.path.abspath(__file__))
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(PACKAGE, init, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACKAGE])


COMMANDS = {"serve": "serving", "job": "jobs", "agent": "agent", "make": "engines.making"}
"""What the program can do -> the module whose ``main`` does it, with the other words of the command."""

if __name__ == "__main__":
    _make_package()
    sys.exit(import_module(PACKAGE + "." + COMMANDS[sys.argv[1]]).main(*sys.argv[2:]))
