"""Runs this folder as a program, under any path and name: ``python FOLDER serve``, ``job …``, ``agent …``."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import import_module

PACKAGE = "onboard"


def _make_package() -> None:
    """Make the folder a package with its own name, so that its modules do not shadow others as top-level modules."""
    folder = os.path.dirname(os.path.abspath(__file__))
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(PACKAGE, init, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACKAGE])


COMMANDS = {"serve": "serving", "job": "jobs", "agent": "agent", "make": "engines.making"}
"""Command -> the module that has its ``main``, which takes the other arguments of the command line."""

if __name__ == "__main__":
    _make_package()
    sys.exit(import_module(PACKAGE + "." + COMMANDS[sys.argv[1]]).main(*sys.argv[2:]))
