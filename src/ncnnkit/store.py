"""The run folder: a run's files appear together, at its end, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import FormatError, StorageError


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder to build a run in; its files move into ``out`` when the block ends well.

    The folder lies beside ``out``, so that moving is renaming. Interrupted or failed, it disappears and ``out`` is as it
    was before. ``run.json`` moves last: where it stands, everything it names stands too.

    Raises:
        StorageError: the folder cannot be made or written, or the disk is full.
    """
    out = out.resolve()
    folder = None
    try:
        if out.exists() and not out.is_dir():
            raise StorageError("is not a folder", where=str(out), hint="choose another --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield folder
        out.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda p: p.name == "run.json"):
            os.replace(path, out / path.name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("the disk is full", where=str(out), hint="free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise StorageError(
                f"cannot be written: {error.strerror}", where=str(out), hint="choose another --out"
            ) from error
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def save_run(run: Any, path: Path) -> None:
    """Write run.json."""
    path.write_text(json.dumps(run, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_run(out: Path) -> Any:
    """Read and check a run folder's run.json. Raises FormatError."""
    from .schema import validate

    path = out / "run.json" if out.is_dir() else out
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(
            "no run.json here", where=str(out), hint="give the folder that `ncnnkit run --out` made"
        ) from None
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read: {error}", where=str(path)) from None
    return validate(run)
