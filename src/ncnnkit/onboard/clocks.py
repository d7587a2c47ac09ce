"""Hold the clocks of a board at their maximum during a measurement, and always restore them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from pathlib import Path
from typing import IO, Iterator, List, NamedTuple, Optional

from .messages import Message
from .process import ENDING, ending_in_order
from .protocol import ClocksReport
from .sysfs import (
    GPU_CLOCK,
    MEMORY_CLOCK,
    devfreq,
    policies,
    read_text,
)


class _Knob(NamedTuple):
    """The file that sets the governor of a clock."""

    name: str
    chosen: Path
    possible: Path


def _knobs(root: Path) -> List[_Knob]:
    """The knobs of every cluster, the GPU and the memory."""
    found = [_Knob(p.name, p / "scaling_governor", p / "scaling_available_governors") for p in policies(root)]
    for clock in (devfreq(root, GPU_CLOCK), devfreq(root, MEMORY_CLOCK)):
        if clock is not None:
            found.append(_Knob(clock.name, clock / "governor", clock / "available_governors"))
    return found


@contextlib.contextmanager
def fixed_clocks(journal: Path, root: str = "/") -> Iterator[ClocksReport]:
    """Hold the clocks of CPU, GPU and memory at their maximum, if permitted, and restore them afterwards.

    They are also restored after an exception, Ctrl-C, SIGTERM and SIGHUP (a lost connection). If the process is killed,
    the ``journal`` helps: this file records the original settings before any is changed, and :func:`restore_clocks`, or
    the next call of this function, restores them.

    Args:
        journal: the file to write; its folder is created. It is locked, so that only one of two concurrent runs
            changes the clocks.
        root: as for :func:`~ncnnkit.onboard.machine.this_board`.

    Yields:
        Which clocks are fixed, and why others are not.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_in_order())
        report = ClocksReport()
        knobs = _knobs(Path(root))
        try:
            file = _lock(journal) if knobs else None
            if file is not None:
                stack.callback(file.close)
                _put_back(file, root)  # restore the settings that a killed run changed
                _record(file, {"boot": _boot(root), "governors": {knob.name: read_text(knob.chosen) for knob in knobs}})
                stack.callback(_forget, file, journal, root)
            reason = "another run holds the clocks" if file is None else ""
        except OSError as error:
            reason = f"no journal can be written: {error.strerror}"
        for knob in knobs:
            refused = reason or _fix(knob)
            if refused:
                report.refused[knob.name] = refused
            else:
                report.fixed.append(knob.name)
        yield report


def restore_clocks(journal: Path, root: str = "/") -> List[str]:
    """Restore the clocks that a killed run left fixed. Does nothing if there are none, or if a run is active.

    Returns:
        The names of the clocks that could not be restored. If there are any, the journal stays.
    """
    try:
        file = _lock(journal) if journal.exists() else None
    except OSError:
        return []  # it belongs to another user
    if file is None:
        return []
    with file:
        return _forget(file, journal, root)


def _fix(knob: _Knob) -> str:
    """Set the governor. Returns why that failed, or ""."""
    if read_text(knob.chosen) == "performance":
        return ""
    possible = read_text(knob.possible).split()
    if "performance" not in possible:
        return f"the kernel has no governor performance here, only {', '.join(possible) or 'none'}"
    return _write(knob.chosen, "performance")


def _write(path: Path, value: str) -> str:
    """Write to a file of the kernel. Returns what went wrong, or ""."""
    try:
        with open(path, "w") as file:
            file.write(value)
    except PermissionError:
        return "only root may change it"
    except OSError as error:
        return error.strerror or str(error)
    return "" if read_text(path) == value else f"the kernel kept {read_text(path)}"


def _boot(root: str) -> str:
    return read_text(Path(root) / "proc/sys/kernel/random/boot_id")


def _lock(journal: Path) -> Optional[IO[str]]:
    """The journal, locked until it is closed or this process ends; None if another process has locked it."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(os.open(journal, os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: SIM115  # it stays open
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(journal)):
                return file
        except FileNotFoundError:
            pass  # its last holder removed it between our open and our lock
        except OSError:
            file.close()
            return None
        file.close()


def _record(file: IO[str], content: Message) -> None:
    """Write the journal to the disk. If the power fails before this returns, no clock has been changed yet."""
    file.seek(0)
    file.truncate()
    json.dump(content, file)
    file.flush()
    os.fsync(file.fileno())


def _put_back(file: IO[str], root: str) -> List[str]:
    """Set the governors of the journal again. Returns the names of the clocks for which that failed."""
    file.seek(0)
    try:
        content = json.load(file)
        boot, governors = content["boot"], content["governors"]
    except (ValueError, KeyError, TypeError):
        return []
    if boot != _boot(root):
        return []  # the machine was rebooted since, which restored them
    # Only names are taken from the journal, not paths: a forged journal cannot make us write other files.
    return [
        knob.name
        for knob in _knobs(Path(root))
        if governors.get(knob.name) and read_text(knob.chosen) != governors[knob.name]
        if _write(knob.chosen, governors[knob.name])
    ]


def _forget(file: IO[str], journal: Path, root: str) -> List[str]:
    """Restore the clocks and remove the journal, with signals blocked."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        failed = _put_back(file, root)
        if not failed:
            journal.unlink()
        return failed
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
