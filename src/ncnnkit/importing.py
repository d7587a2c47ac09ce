"""What a user names as ``package.module:name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def imported(reference: str) -> Any:
    """The object that ``package.module:name`` names; modules in the current folder are found, as by ``python -m``.

    The folder stays in ``sys.path``, because the module may import more later. Whatever the module raises comes out.

    Example:
        >>> imported("math:pi") > 3
        True
    """
    module, _, name = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
