"""Names that are safe in files, shells and programs."""

from __future__ import annotations

import re
from typing import Annotated

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""The pattern of a name that may be used in a shell script, in CMake, in C++ or in a path."""


PlainName = Annotated[str, PLAIN_NAME]


def check_name(where: str, name: str) -> None:
    """Raise ValueError if a name could have a special meaning for a file system, a shell, CMake or C++."""
    if not PLAIN_NAME.fullmatch(name):
        allowed = "a name may have the characters A-Z a-z 0-9 . _ - and must not begin with . or -"
        raise ValueError(f"{where} is {name[:80]!r}: {allowed}")
