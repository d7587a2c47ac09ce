"""Temporary folders that are removed even if their process was killed. Uses only the standard library."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Optional

PREFIX = "ncnnkit-scratch-"


class Scratch:
    """A temporary folder. It is removed at the end of its ``with`` block, or when this object is deleted.

    Its process holds a lock on it. The kernel releases the lock when the process ends, even if it is killed. The next
    process that makes such a folder finds the folders without a lock and removes them.

    Args:
        home: the folder to make it in. By default that of the system for temporary files.

    Attributes:
        name: its path.

    Example:
        >>> with Scratch() as folder:
        ...     Path(folder, "x").touch()
    """

    def __init__(self, home: Optional[str] = None) -> None:
        home = home or tempfile.gettempdir()
        remove_left(home)
        while True:
            self.name = tempfile.mkdtemp(prefix=PREFIX, dir=home)
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(self.name, os.O_RDONLY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.path.isdir(self.name):
                    break
                os.close(lock)
            # Another process removed it before it was locked.
        self._end = weakref.finalize(self, _end, self.name, lock)

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder. Safe to call twice."""
        self._end()


def _end(name: str, lock: int) -> None:
    shutil.rmtree(name, ignore_errors=True)
    os.close(lock)


@lru_cache(maxsize=None)
def remove_left(home: str) -> None:
    """Remove the folders of dead processes, once for each parent folder."""
    for path in Path(home).glob(PREFIX + "*"):
        if re.fullmatch(PREFIX + "[a-z0-9_]{8}", path.name):
            with contextlib.suppress(OSError):
                _remove_if_left(str(path))


def _remove_if_left(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its process is alive
            shutil.rmtree(path)
    finally:
        os.close(descriptor)
