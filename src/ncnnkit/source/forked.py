"""Runs work in a fork of this process, so that a crash or a hang becomes an exception here."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import select
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ..errors import ConvertError, NcnnkitError
from ..onboard.process import die_with_parent
from .model import say

_PIECE = 1 << 16


def run_forked(
    work: Callable[[], object], folder: Path, *, limit: float, what: str, limits: Callable[[], object] = lambda: None
) -> None:
    """Run a function in a forked child process, which has a copy of this process's objects. Results must be files.

    The child prints nothing, computes with one thread, and writes its temporary files to ``folder``.

    Args:
        work: called in the child. Its return value is lost.
        folder: the folder for temporary files.
        limit: seconds until the child is killed.
        what: name of the work in errors.
        limits: called in the child first, to limit the resources of the process.

    Raises:
        ConvertError: ``work`` raised an exception, the child crashed, or it did not finish in time. The message gives
            the peak memory of a child that was killed.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads and fork: the child uses no parent's thread
        child = os.fork()
    if not child:
        _work(work, limits, writing, folder)
    os.close(writing)
    try:
        answer = _read(reading, limit)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    if answer is None:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    used = f"it used {usage.ru_maxrss / 1e6:.1f} GB of memory at most"  # Linux counts in KiB
    if answer is None:
        raise ConvertError(f"{what} did not finish within {limit:g} s; {used}")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = "is there enough memory?" if number == signal.SIGKILL else ""
        raise ConvertError(f"{what} crashed ({signal.Signals(number).name}); {used}", hint=hint)
    if answer:
        raise ConvertError(**json.loads(answer))
    if status:
        raise ConvertError(f"{what} ended with status {os.waitstatus_to_exitcode(status)}; {used}")


def _read(descriptor: int, limit: float) -> bytes | None:
    """All bytes until the other end is closed; None if it is still open after ``limit`` seconds."""
    until, answer = time.monotonic() + limit, b""
    while select.select([descriptor], [], [], max(until - time.monotonic(), 0))[0]:
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return answer
        answer += piece
    return None


def _work(work: Callable[[], object], limits: Callable[[], object], answer: int, folder: Path) -> NoReturn:
    """The child process. It exits here in any case, so that the parent's exit handlers do not run a second time."""
    status = 1
    try:
        faulthandler.disable()  # the parent reports a crash
        # The parent's garbage must not be collected here: ONNX Runtime would wait for threads that a fork lacks.
        gc.freeze()
        die_with_parent()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            limits()
            work()
        except NcnnkitError as error:
            os.write(answer, json.dumps({"what": error.what, "hint": error.hint}).encode())
        except BaseException as error:
            os.write(answer, json.dumps({"what": f"{type(error).__name__}: {say(error)}"}).encode())
        status = 0
    finally:
        os._exit(status)
