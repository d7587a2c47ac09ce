"""Work in forks of this process, so that a crash, a hang or a lack of memory there becomes an exception here.

:func:`run_forked` does some work once. A :class:`Server` answers requests until it is closed.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import json
import os
import re
import select
import signal
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..codec import as_dataclass
from ..errors import ConvertError, FormatError, NcnnkitError
from ..onboard.answers import Arrays
from ..onboard.child import DYING, Within
from ..onboard.messages import Message, answer_requests, receive, send
from ..onboard.process import die_with_parent
from ..onboard.reading import ProtocolError, Reader
from .model import Array, say

T = TypeVar("T")

_PIECE = 1 << 16
_PIPE = 1 << 20  # bytes that a server can send before it waits; what Linux allows everyone
_OUT_OF_MEMORY = "is there enough memory?"


def run_forked(work: Callable[[], object], folder: Path, *, limit: float, what: str) -> None:
    """Run a function in a forked child process, which has a copy of this process's objects. Results must be files.

    The child prints nothing, computes with one thread, and writes its temporary files to ``folder``.

    Args:
        work: called in the child. Its return value is lost.
        folder: the folder for temporary files.
        limit: seconds until the child is killed.
        what: name of the work in errors.

    Raises:
        ConvertError: ``work`` raised an exception, the child crashed, or it did not finish in time. The message gives
            the peak memory of a child that was killed.
    """
    reading, writing = os.pipe()
    child = _Child(_fork(lambda: _work(work, writing, folder)), (reading,))
    os.close(writing)
    try:
        answer = _read(reading, limit)
    except BaseException:
        child.end()
        raise
    if answer is None:
        child.end()
        raise ConvertError(f"{what} did not finish within {limit:g} s; {child.used}")
    child.end(DYING)
    cause, hint = child.cause
    if cause and not answer:
        raise ConvertError(f"{what} {cause}", hint=hint)
    if answer:
        raise ConvertError(**json.loads(answer))


def _read(descriptor: int, limit: float) -> bytes | None:
    """All bytes until the other end is closed; None if it is still open after ``limit`` seconds."""
    until, answer = time.monotonic() + limit, b""
    while select.select([descriptor], [], [], max(until - time.monotonic(), 0))[0]:
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return answer
        answer += piece
    return None


def _work(work: Callable[[], object], answer: int, folder: Path) -> None:
    die_with_parent()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        work()
    except NcnnkitError as error:
        os.write(answer, json.dumps({"what": error.what, "hint": error.hint}).encode())
    except BaseException as error:
        os.write(answer, json.dumps({"what": f"{type(error).__name__}: {say(error)}"}).encode())


# --------------------------------------------------------------------------------------------------------- a server


class ServerError(Exception):
    """A request to a :class:`Server` failed.

    Attributes:
        what: the reason, a clause.
        died: whether the process crashed, hung or broke the protocol. ``what`` then begins with its name. Otherwise it
            refused the request.
        hint: what the user can do about it.
    """

    def __init__(self, server: str, what: str, *, died: bool = False, hint: str = "") -> None:
        self.what, self.died, self.hint = f"{server} {what}" if died else what, died, hint
        self._server = server
        super().__init__(self.what)

    def said(self, doing: str) -> str:
        """The failure as a clause.

        Args:
            doing: what the process was asked to do, such as ``load it``.
        """
        return self.what if self.died else f"{self._server} cannot {doing}: {self.what}"


class Server:
    """A forked child process that answers requests. A context manager; leaving it ends the process.

    The process also ends when this object is deleted, and when its parent ends or is killed. In a fork of the parent,
    this object is closed, and the process goes on.

    Args:
        make: called in the child. It makes the object whose methods answer the requests, as in
            :func:`ncnnkit.onboard.messages.serve`.
        what: name of the process in errors.
        limits: called in the child first, to limit the resources of the process.

    Raises:
        OSError: there are too many open files or processes.
    """

    def __init__(self, make: Callable[[], object], *, what: str, limits: Callable[[], object] = lambda: None) -> None:
        self.what = what
        (requests, ours), (theirs, answers), (held, holding) = _pipes(3)
        parents, childs = (ours, theirs, holding), (requests, answers, held)

        def work() -> None:
            _close(parents)
            _end_with(held)
            os.setsid()  # Ctrl-C goes to the parent only, which ends its children
            _close_all_but(childs)
            limits()
            answer_requests(lambda _: make(), os.fdopen(requests, "rb"), os.fdopen(answers, "wb"))

        try:
            self._child = _Child(_fork(work), parents)
        except OSError:
            _close(parents)
            raise
        finally:
            _close(childs)
        self._requests, self._answers = ours, Reader(theirs)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # the user has many such pipes
                fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, _PIPE)
        os.set_blocking(ours, False)  # a process that has stopped reading must not block its parent
        weakref.finalize(self, self._child.end)
        _CHILDREN.add(self._child)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._child.end()

    def ask(
        self, op: str, kind: type[T], arrays: Sequence[Array] = (), *, limit: float, **fields: Any
    ) -> tuple[T, Arrays]:
        """Send a request, and wait for its answer.

        Args:
            op: the method that answers it.
            kind: the dataclass of the answer.
            arrays: of the request.
            limit: seconds until the process is killed.
            **fields: of the request.

        Raises:
            ServerError: the process refuses the request, crashes, is not ready in time, or answers nonsense.
        """
        if not self._child.pid:
            raise ServerError(self.what, "was ended before, or by another process", died=True)
        deadline = time.monotonic() + limit
        try:
            send(Within(self._requests, deadline), dict(fields, op=op), arrays)  # type: ignore[arg-type]
            answer = self._receive(deadline)
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self.close()
            what = f"did not finish within {limit:.3g} s; {self._child.used}"
            raise ServerError(self.what, what, died=True) from None
        except ProtocolError as error:
            raise self.broken(say(error)) from None
        except MemoryError:
            self.close()
            raise ServerError(self.what, "gave more than fits into the memory", died=True) from None
        except BaseException:
            self.close()
            raise
        if answer is None:
            self._child.end(DYING)
            cause, hint = self._child.cause
            raise ServerError(self.what, cause or "closed its output", died=True, hint=hint)
        message, results = answer
        if "error" in message:
            what = say(RuntimeError(message["error"]))
            raise ServerError(self.what, what, hint=_OUT_OF_MEMORY if re.search(_MEMORY, what) else "")
        try:
            return as_dataclass(message, kind), results
        except FormatError as error:
            raise self.broken(error.line()) from None

    def _receive(self, deadline: float) -> tuple[Message, Arrays] | None:
        return receive(lambda view: self._answers.readinto(view, deadline), lambda: self._answers.readline(deadline))

    def broken(self, how: str) -> ServerError:
        """End the process because of an invalid answer. Returns the error."""
        self.close()
        return ServerError(self.what, f"broke the protocol: {how}", died=True)


_MEMORY = "bad_alloc|MemoryError|allocate"
"""What a library says if there is too little memory."""


def _pipes(count: int) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    try:
        while len(made) < count:
            made.append(os.pipe())
    except OSError:
        _close(end for pipe in made for end in pipe)
        raise
    return made


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------- the child process


@dataclass(eq=False)
class _Child:
    """A child process.

    Attributes:
        pid: its number; 0 after it ended, and in forks of its parent.
        ends: the parent's ends of its pipes.
        status: as ``os.wait4`` gives it; None if another part of the program waited for it.
        used: a clause that says how much memory it used.
    """

    pid: int
    ends: tuple[int, ...]
    status: int | None = None
    used: str = "how much memory it used is unknown"

    def end(self, patience: float = 0.0) -> None:
        """Wait until it ends, and kill it after so many seconds. Safe to call twice."""
        child, self.pid = self.pid, 0
        if not child:
            return
        until = time.monotonic() + patience
        ended = 0
        with suppress(ChildProcessError):
            while not ended:
                late = time.monotonic() >= until
                if late:
                    os.kill(child, signal.SIGKILL)
                ended, status, usage = os.wait4(child, 0 if late else os.WNOHANG)
                if ended:
                    self.status, self.used = status, _used(usage.ru_maxrss)
                else:
                    time.sleep(_PAUSE)
        _close(self.ends)

    def disown(self) -> None:
        """Close the pipes in a fork of the parent, which would keep the process alive."""
        if self.pid:
            self.pid = 0
            _close(self.ends)

    @property
    def cause(self) -> tuple[str, str]:
        """(why it ended, a clause; what the user can do about it). Both are empty if it ended in order."""
        if not self.status:
            return "", ""
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            hint = _OUT_OF_MEMORY if number == signal.SIGKILL else ""
            return f"crashed ({signal.Signals(number).name}); {self.used}", hint
        return f"ended with status {os.waitstatus_to_exitcode(self.status)}; {self.used}", ""


def _used(kib: int) -> str:
    return f"it used {kib / 1e6:.1f} GB of memory at most"


_PAUSE = 0.001  # seconds between two looks whether a child has ended
_CHILDREN: weakref.WeakSet[_Child] = weakref.WeakSet()
"""Those of all servers."""


def _disown_all() -> None:
    for child in list(_CHILDREN):
        child.disown()


os.register_at_fork(after_in_child=_disown_all)


def _fork(work: Callable[[], object]) -> int:
    """Do some work in a forked child process. Returns its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads and fork: the child uses no parent's thread
        child = os.fork()
    if not child:
        _begin_and_end(work)
    return child


def _begin_and_end(work: Callable[[], object]) -> NoReturn:
    """The child process. It exits here in any case, so that the parent's exit handlers do not run a second time."""
    status = 1
    try:
        faulthandler.disable()  # the parent reports a crash
        # The parent's garbage must not be collected here: a destructor may wait for threads that a fork lacks.
        gc.freeze()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        _PARENTS.extend((sys.stdin, sys.stdout, sys.stderr))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115
        work()
        status = 0
    finally:
        os._exit(status)


_PARENTS: list[Any] = []
"""The parent's streams. If a child deleted them, what is in their buffers would be written twice."""


def _end_with(pipe: int) -> None:
    """Make the kernel kill this process when the other end of a pipe is closed. Nothing may be written to the pipe.

    Unlike :func:`~ncnnkit.onboard.process.die_with_parent`, this does not depend on the thread that forked the process.
    Linux only; elsewhere the process ends when it next reads.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it was closed before
        os._exit(1)


def _close_all_but(kept: Sequence[int]) -> None:
    """Close the descriptors of the parent: the locks of its scratch folders, and pipes of other children."""
    with suppress(OSError):
        for descriptor in map(int, os.listdir("/dev/fd")):
            if descriptor > 2 and descriptor not in kept:
                with suppress(OSError):
                    os.close(descriptor)
