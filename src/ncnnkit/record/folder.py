"""The run folder. It always holds one complete run, even if the process that writes it is killed.

While :func:`staging` works in a folder, it keeps these files there:

======================  ==========================================================
``.ncnnkit.lock``       locked by the process that writes into the folder
``.ncnnkit/new/``       the files of the new run
``.ncnnkit/old/``       files of the old run that were moved out of the way
``.ncnnkit/moves.json`` the moves of a commit that has begun; see :class:`_Moves`
======================  ==========================================================

The kernel releases the lock when its process ends, even if it is killed. A process that gets the lock and finds a
``.ncnnkit`` therefore knows that a dead process left it. :func:`recover` then completes the new run if there is a
``moves.json``. Without that file the old run was never changed, and only ``.ncnnkit`` is removed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ..codec import decode, encode
from ..errors import FormatError, StorageError, is_full, reading
from ..onboard.scratch import Scratch
from ..onboard.userfiles import LINES, read_bytes, read_text
from .run import SCHEMA, Run

RUN = "run.json"
REPORT = "report.html"
RECIPE = "recipe.toml"
LOG = "pnnx.log"
LABELS = "labels.txt"
"""The class names of a run's model, one per line; missing if there are none."""

_LOCK = ".ncnnkit.lock"
_WORK = ".ncnnkit"
_OWN = {_LOCK, _WORK}
_MOVES = "moves.json"

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
_MOMENT = 0.02  # s; renaming the files of a run takes about this long
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF}


def files_of_run(out: Path) -> set[str]:
    """The files of the run in a folder: the files that its run.json lists.

    It does not check the rest of run.json, so a run of another version of ncnnkit can be replaced, too.

    Returns:
        File names; empty if there is no run.json, or if it does not list files.
    """
    try:
        listed = json.loads(read_text(out / RUN, LINES))["files"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return set()
    names = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    # A run.json may come from anyone, so it may only name files in its own folder.
    return {name for name in names if os.path.basename(name) == name and not (out / name).is_dir()} - _OWN


@contextmanager
def staging(
    out: Path, record: str = RUN, owned: Callable[[Path], set[str]] = files_of_run, reads: Iterable[str] = ()
) -> Iterator[Path]:
    """Give a folder in which to build a run. After success, all its files replace the run in ``out`` together.

    The folder is hidden in ``out``. So an ``out`` that cannot be written is detected at once, and files are moved by
    renaming, even if ``out`` is a mount point. After an error or Ctrl-C, ``out`` is as it was before. After ``kill -9``
    the next process that opens ``out`` completes or discards the new run (:func:`recover`).

    ``record`` is moved out first and moved in last. So if it exists, every file that it lists exists, too.

    Args:
        out: the folder to write into. It is created if it does not exist.
        record: the file that lists what belongs to a run (or to an app).
        owned: gives the files and folders in ``out`` that belong to the old run. Only these are removed or replaced.
            May raise StorageError.
        reads: the input files of the new run. None of them may belong to the old run.

    Raises:
        StorageError: another process writes into ``out``, a file of the user would be replaced, the folder cannot be
            created or written, or the disk is full.
    """
    out = Path(os.path.realpath(out))
    made: list[Path] = []
    try:
        _make_folders(out, made)
        with _locked(out):
            _settle(out)
            _refuse_to_remove(out, owned(out), reads)
            new = out / _WORK / "new"
            try:
                new.mkdir(parents=True)
                with _nameable(new) as folder:
                    yield folder
                _commit(out, owned(out), record)
            finally:
                _clear(out)
        made.clear()
    except OSError as error:
        explained = _explain(error, out)
        if explained is None:
            raise
        raise explained from error
    finally:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _nameable(folder: Path) -> Iterator[Path]:
    """The folder under a path in UTF-8. ncnn and torch cannot open a file if its path is not UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        with Scratch() as home:
            link = Path(home) / "out"
            link.symlink_to(folder)
            yield link
    else:
        yield folder


@contextmanager
def replacing(out: Path, name: str) -> Iterator[Path]:
    """Give a path to which a file is written. The file then replaces the one of this name in a run folder.

    Raises:
        StorageError: another process writes into ``out``, the file there is the user's own, or it cannot be written.
    """
    out = Path(os.path.realpath(out))
    try:
        with _locked(out):
            _settle(out)
            refuse_to_replace(out, [name])
            draft = out / _WORK / name
            try:
                draft.parent.mkdir()
                yield draft
                os.replace(draft, out / name)
            finally:
                _clear(out)
    except OSError as error:
        raise _explain(error, out) or error from error


def recover(out: Path) -> None:
    """Complete a run if its process was killed while it moved files into ``out``. Otherwise it does nothing.

    If a process is moving its files at the moment, this waits for it.

    Raises:
        StorageError: the folder cannot be written.
    """
    out = Path(os.path.realpath(out))
    while os.path.exists(out / _WORK / _MOVES):
        try:
            with _locked(out):
                _settle(out)
        except _Busy:
            time.sleep(_MOMENT)
        except OSError as error:
            raise _explain(error, out) or error from error


def content(out: Path) -> list[Path]:
    """The files and folders in a folder, without those that :func:`staging` keeps there while it works."""
    return [path for path in out.iterdir() if path.name not in _OWN]


def refuse_to_replace(out: Path, names: Iterable[str], owned: Callable[[Path], set[str]] = files_of_run) -> None:
    """Raise StorageError if a file of one of these names is the user's own, because no record in ``out`` lists it."""
    ours = owned(out)
    for name in names:
        if name not in ours and os.path.lexists(out / name):
            raise StorageError(
                f"contains {name}, which ncnnkit did not write",
                where=str(out),
                hint="choose another --out, or move the file away",
            )


def _refuse_to_remove(out: Path, ours: set[str], reads: Iterable[str]) -> None:
    """Raise StorageError if the old run, which will be removed, contains a file that the new run needs."""
    for read in filter(None, reads):
        path = Path(os.path.realpath(read))
        if path.parent == out and path.name in ours:
            raise StorageError(
                f"{path.name} is an input of this run, but belongs to the run that it would replace",
                where=str(out),
                hint="choose another --out",
            )


def _make_folders(out: Path, made: list[Path]) -> None:
    """Create ``out`` and the folders above it. The folders that it created are appended to ``made``."""
    for path in reversed([out, *out.parents]):
        if path.is_dir():
            continue
        if os.path.lexists(path):  # also a link that leads nowhere, or to itself
            raise StorageError("is not a folder", where=str(path), hint="choose another --out")
        path.mkdir()
        made.append(path)


# -------------------------------------------------------------------------------------------------------- the lock


class _Busy(StorageError):
    """Another process writes into the folder."""


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a folder. Raises StorageError at once if another process holds it."""
    path = out / _LOCK
    while True:
        with open(path, "a", opener=_open_no_link) as file:  # closing it releases the lock
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "wait for it, or choose another --out"
                raise _Busy("another ncnnkit is writing here", where=str(out), hint=hint) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                hint = "choose an --out on another file system"
                raise StorageError(f"cannot be locked: {error.strerror}", where=str(out), hint=hint) from None
            if not _is_at(path, file):
                continue  # the previous holder removed the file after it was opened here
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
            return


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but none that a link in a stranger's folder points to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------------------------------------------ the commit


@dataclass(frozen=True)
class _Moves:
    """The moves of a commit, by file name. After they are written to a file, any process can complete the commit.

    The files alone show whether a move is done. So :meth:`forward` and :meth:`back` can start from any state between
    the two runs, and can be repeated.

    Attributes:
        out: names that go from the folder to ``.ncnnkit/old``, in this order.
        into: names that go from ``.ncnnkit/new`` to the folder, in this order.
    """

    out: list[str]
    into: list[str]

    def forward(self, home: Path) -> None:
        """Do all moves that are not done, so that the folder holds the new run."""
        new, old = home / _WORK / "new", home / _WORK / "old"
        for name in self.out:
            if not os.path.lexists(old / name) and os.path.lexists(home / name):
                os.replace(home / name, old / name)
        for name in self.into:
            if os.path.lexists(new / name):
                os.replace(new / name, home / name)

    def back(self, home: Path) -> None:
        """Undo all moves that are done, so that the folder holds the old run again."""
        new, old = home / _WORK / "new", home / _WORK / "old"
        for name in reversed(self.into):
            if not os.path.lexists(new / name):
                os.replace(home / name, new / name)
        for name in reversed(self.out):
            if os.path.lexists(old / name):
                os.replace(old / name, home / name)


def _commit(home: Path, ours: set[str], record: str) -> None:
    """Replace the files of the old run by the staged files. If that fails, undo all moves."""
    work = home / _WORK
    (work / "old").mkdir()
    names = sorted(path.name for path in (work / "new").iterdir())
    refuse_to_replace(home, names, lambda _: ours)
    moves = _Moves(
        out=sorted((name for name in ours if os.path.lexists(home / name)), key=lambda name: (name != record, name)),
        into=sorted(names, key=lambda name: (name == record, name)),
    )
    for path in (work / "new").rglob("*"):
        if path.is_file():
            _sync(path)
    draft = work / f"{_MOVES}.part"
    draft.write_text(json.dumps(asdict(moves)), encoding="utf-8")
    _sync(draft)
    try:
        os.replace(draft, work / _MOVES)  # from now on, any process can complete the new run
        _sync(work)
        moves.forward(home)
        _sync(home)
    except BaseException:
        moves.back(home)  # if this fails, too, the next process completes the new run
        (work / _MOVES).unlink(missing_ok=True)
        raise
    (work / _MOVES).unlink()


def _settle(home: Path) -> None:
    """Complete or discard the run that a dead process left. The caller must hold the lock.

    Raises:
        FormatError: ncnnkit did not leave it.
    """
    work = home / _WORK
    with suppress(FileNotFoundError):
        _read_moves(work).forward(home)
        _sync(home)
        (work / _MOVES).unlink()
    _clear(home)


def _read_moves(work: Path) -> _Moves:
    """The commit in a work folder. A stranger's run folder may have one, so it may move files in that folder only."""
    path = work / _MOVES
    try:
        moves = decode(path.read_bytes(), _Moves)
    except FormatError as error:
        raise FormatError(f"is damaged: {error}", where=str(path), hint=f"remove {work}") from None
    if any(os.path.basename(name) != name or name in ("", ".", "..", *_OWN) for name in moves.out + moves.into):
        raise FormatError("names files outside of its folder", where=str(path), hint=f"remove {work}")
    linked = next((folder for folder in (work, work / "new", work / "old") if folder.is_symlink()), None)
    if linked is not None:
        raise FormatError("is a link, which ncnnkit does not make", where=str(linked), hint=f"remove {work}")
    return moves


def _clear(home: Path) -> None:
    """Remove the work folder, unless it holds an incomplete commit."""
    if not (home / _WORK / _MOVES).exists():
        shutil.rmtree(home / _WORK, ignore_errors=True)


def _sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _explain(error: OSError, out: Path) -> StorageError | None:
    """The error as one with a hint for the user; None if it does not concern ``out``."""
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else out
    if is_full(error):
        return StorageError("the disk is full", where=str(where), hint="free some space and run again")
    if error.errno in _REFUSED and (out in (where, *where.parents) or where in out.parents):
        return StorageError(f"cannot be written: {error.strerror}", where=str(out), hint="choose another --out")
    return None


# ------------------------------------------------------------------------------------------------------- the files


def save_run(run: Run, path: Path) -> None:
    """Write run.json."""
    path.write_bytes(encode(run))


def save_labels(labels: Iterable[str], path: Path) -> None:
    """Write class names, one per line."""
    path.write_text("".join(" ".join(name.split()) + "\n" for name in labels), encoding="utf-8")


def load_labels(path: Path) -> tuple[str, ...]:
    """Read class names; none if there is no such file. Raises FormatError."""
    if not path.is_file():
        return ()
    with reading(path, FormatError):
        return tuple(path.read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class _Version:
    schema: int | None = None


def load_run(out: Path) -> Run:
    """Read and check a run folder's run.json.

    Args:
        out: the run folder, or its run.json. If a killed run left it half replaced, it is completed first.

    Raises:
        FormatError: there is no run.json, or it is not valid, or what was left half replaced is not ncnnkit's.
        StorageError: the run there must be completed, and the folder cannot be written.
    """
    path = out / RUN if os.path.isdir(out) else out
    recover(path.parent)
    with reading(path, FormatError):
        try:
            data = read_bytes(path, LINES)
        except FileNotFoundError:
            hint = "give the folder that `ncnnkit run --out` made"
            raise FormatError(f"no {RUN} here", where=str(out), hint=hint) from None
    try:
        version = decode(data, _Version).schema
        if version != SCHEMA:
            newer = version is not None and version > SCHEMA
            hint = "it was written by a newer ncnnkit" if newer else "is this a run.json?"
            raise FormatError(f"schema is {version}, but {SCHEMA} is expected", hint=hint)
        return decode(data, Run)
    except FormatError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        hint = error.hint or "it was edited, or another version of ncnnkit wrote it: make the run again"
        raise FormatError(what, where=str(path), hint=hint) from None
