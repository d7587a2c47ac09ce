"""Work in a copy of this process, so that a crash or a hang there is an error here."""

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
    """Do work in a child process made by a fork, which has this process's objects. Its results must be files.

    The child is silent, computes with one thread, and makes its temporary files in ``folder``.

    Args:
        work: is called in the child; what it returns is lost.
        folder: where it may write.
        limit: seconds until the child is killed.
        what: the worker's name in errors.
        limits: is called in the child first, to bound what it may take.

    Raises:
        ConvertError: ``work`` raised an exception, the child crashed, or it did not finish. A killed child's peak
            memory is part of the text.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child uses none of them
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
    """What comes until the other end is closed; None if it is still open after ``limit`` seconds."""
    until, answer = time.monotonic() + limit, b""
    while select.select([descriptor], [], [], max(until - time.monotonic(), 0))[0]:
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return answer
        answer += piece
    return None


def _work(work: Callable[[], object], limits: Callable[[], object], answer: int, folder: Path) -> NoReturn:
    """The child. It ends here, whatever happens: nothing of the parent's is cleaned up or flushed a second time."""
    status = 1
    try:
        faulthandler.disable()  # the parent reports a crash
        gc.freeze()  # the parent's garbage: a session of ONNX Runtime would wait here for threads that it has there
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
