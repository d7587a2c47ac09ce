"""The run folder: a run's files appear together, at its end, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..codec import decode, encode
from ..errors import FormatError, StorageError
from .run import SCHEMA, Run

RUN = "run.json"
LABELS = "labels.txt"
"""The class names of a run's model, one a line, where it has any."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES,
    errno.ENOENT,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
}


@contextmanager
def staging(out: Path, record: str = RUN) -> Iterator[Path]:
    """A folder to build a run in, or anything with a record of itself; its files move into ``out`` when all went well.

    It is a hidden folder in ``out``: what may not be written or does not exist shows at once, and moving is renaming
    even where ``out`` is a mount point. Interrupted or failed, it disappears and ``out`` is as it was before.

    An older record goes first and the new one comes last: where one stands, everything it names stands too. Files of
    an older run that have other names stay: somebody may need them, and no run.json names them any more.

    Raises:
        StorageError: the folder cannot be made or written, the disk is full, or a file of the user's would be replaced.
    """
    out = Path(os.path.realpath(out))
    made: list[Path] = []
    folder = None
    try:
        _make_folders(out, made)
        _refuse_to_replace(out)
        folder = Path(tempfile.mkdtemp(prefix=".ncnnkit-", dir=out))
        new = folder / "new"
        new.mkdir()
        yield new
        _commit(new, out, folder / "old", record)
        made.clear()
    except OSError as error:
        explained = _explain(error, out)
        if explained is None:
            raise
        raise explained from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()


def _make_folders(out: Path, made: list[Path]) -> None:
    """Make ``out`` and the folders above it; those that did not exist come to ``made``."""
    for path in reversed([out, *out.parents]):
        if path.is_dir():
            continue
        if path.exists():
            raise StorageError("is not a folder", where=str(path), hint="choose another --out")
        path.mkdir()
        made.append(path)


def _refuse_to_replace(out: Path) -> None:
    """Files with a run's names in a folder without a run are the user's own. Raises StorageError."""
    for name in ("recipe.toml", "report.html", LABELS):
        if (out / name).exists() and not (out / RUN).exists():
            raise StorageError(f"there is a {name} that no run made", where=str(out), hint="choose another --out")


def _commit(new: Path, out: Path, old: Path, record: str) -> None:
    """Move what is in ``new`` into ``out``, and what must make room into ``old``; all of it or nothing."""
    old.mkdir()
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        # Noted first: an interrupt may come between the two.
        moved.append((source, target))
        os.replace(source, target)

    names = sorted((path.name for path in new.iterdir()), key=lambda name: (name == record, name))
    try:
        for name in dict.fromkeys((record, *names)):
            if os.path.lexists(out / name):
                move(out / name, old / name)
        for name in names:
            move(new / name, out / name)
    except BaseException:
        for source, target in reversed(moved):
            if not os.path.lexists(source):
                os.replace(target, source)
        raise


def _explain(error: OSError, out: Path) -> StorageError | None:
    """The error as one a user can act on; None where it has nothing to do with ``out``."""
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else out
    # numpy gives no number where the disk fills up while it writes an array, only "n requested and m written".
    if error.errno in _FULL or (error.errno is None and "requested and" in str(error)):
        return StorageError("the disk is full", where=str(where), hint="free some space and run again")
    if error.errno in _REFUSED and (out in (where, *where.parents) or where in out.parents):
        return StorageError(f"cannot be written: {error.strerror}", where=str(out), hint="choose another --out")
    return None


def save_run(run: Run, path: Path) -> None:
    """Write run.json."""
    path.write_bytes(encode(run))


def save_labels(labels: Iterable[str], path: Path) -> None:
    """Write class names, one a line."""
    path.write_text("".join(" ".join(name.split()) + "\n" for name in labels), encoding="utf-8")


@dataclass(frozen=True)
class _Version:
    schema: int | None = None


def load_run(out: Path) -> Run:
    """Read and check a run folder's run.json. Raises FormatError."""
    path = out / RUN if out.is_dir() else out
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = "give the folder that `ncnnkit run --out` made"
        raise FormatError(f"no {RUN} here", where=str(out), hint=hint) from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error}", where=str(path)) from None
    try:
        version = decode(data, _Version).schema
        if version != SCHEMA:
            newer = version is not None and version > SCHEMA
            hint = "it was written by a newer ncnnkit" if newer else "is this a run.json?"
            raise FormatError(f"schema is {version}, expected {SCHEMA}", hint=hint)
        return decode(data, Run)
    except FormatError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise FormatError(what, where=str(path), hint=error.hint) from None
