"""Imports what a user names as ``package.module:name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


class NotThere(AttributeError):
    """A module, or an object in it, has no such name.

    Attributes:
        name: the name that was not found.
        known: the public names that exist.
    """

    name: str

    def __init__(self, owner: str, name: str, known: list[str]) -> None:
        super().__init__(f"{owner} has no {name!r}", name=name)
        self.known = known


def imported(reference: str) -> Any:
    """The object that ``package.module:name`` names. Modules in the current folder are found, as ``python -m`` does.

    The folder stays in ``sys.path``, because the module may import more later. Exceptions of the module are not caught.

    Raises:
        NotThere: the module was imported, and has no such name.

    Example:
        >>> imported("math:pi") > 3
        True
    """
    module, _, name = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            public = [each for each in dir(found) if not each.startswith("_")]
            raise NotThere(getattr(found, "__name__", module), part, public)
        found = getattr(found, part)
    return found
