"""Parts of the standard library that Python 3.10 lacks. Ubuntu 22.04 and JetPack 6 have Python 3.10.

Import from here instead of ``tomllib``, ``typing.Self``, ``datetime.UTC`` and ``hashlib.file_digest``.
"""

from __future__ import annotations

import hashlib
import sys
from datetime import timezone
from typing import IO, Any

if sys.version_info >= (3, 11):
    from typing import Self

    import tomllib
else:
    import tomli as tomllib
    from typing_extensions import Self

__all__ = ["UTC", "Self", "file_digest", "tomllib"]

UTC = timezone.utc

_PART = 1 << 16  # bytes read at a time


def file_digest(file: IO[bytes]) -> Any:
    """The SHA-256 of the rest of an open file, as a :mod:`hashlib` object.

    Example:
        >>> import io
        >>> file_digest(io.BytesIO(b"ncnn")).hexdigest()[:8]
        '3a92dd5e'
    """
    digest = hashlib.sha256()
    while part := file.read(_PART):
        digest.update(part)
    return digest
