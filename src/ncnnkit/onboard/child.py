"""The parent's side of a serving process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Optional, Sequence, Tuple, Type

import numpy as np

from .answers import ANSWERS, Answer, Arrays
from .messages import SO_FAR, Message, Tell, receive, send, untold
from .reading import ProtocolError, Reader
from .records import from_json
from .scratch import Scratch

PROGRAM = os.path.dirname(os.path.abspath(__file__))
"""This folder: Python runs it as a program, see ``__main__.py``."""

LOAD_TIMEOUT = 600.0  # seconds; the first load on a GPU compiles every pipeline
RUN_TIMEOUT = 120.0
DYING = 5.0  # seconds that a process has to end after it closed its output
PRINTING = 0.1  # seconds
MOST_WORDS = 3  # lines of ncnn's output in an error


class WorkerError(Exception):
    """A request failed.

    Attributes:
        crashed: whether the process died; otherwise it refused the request.
        native: whether it died of a signal or hung, as native code does; a Python program exits with a status.
    """

    def __init__(self, message: str, crashed: bool = False, native: bool = False) -> None:
        super().__init__(message)
        self.crashed, self.native = crashed, native

    @property
    def sentence(self) -> str:
        """The failure as a sentence that says which program failed."""
        return "ncnn%s: %s" % (" died" if self.crashed else "", self)


class Child:
    """A serving process. A context manager; leaving it ends the process.

    The process also ends when its parent ends or is killed.

    Args:
        command: the command that starts it; by default a :class:`~ncnnkit.onboard.network.Network` on this machine.
        caches: a folder for compiled shaders. By default it is a new folder, so that a cold load compiles all shaders,
            even if the machine has compiled them before.
        engine: the engine of the default command.
    """

    def __init__(
        self, command: Optional[Sequence[str]] = None, caches: Optional[str] = None, engine: str = "ncnn"
    ) -> None:
        self._scratch = Scratch()
        shaders = dict.fromkeys(("MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"), caches or self._scratch.name)
        # Open until the process ends.
        self._log = open(os.path.join(self._scratch.name, "log"), "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command or [sys.executable, PROGRAM, "serve", engine]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=dict(os.environ, **shaders),
            start_new_session=True,  # Ctrl-C goes to the parent only, which ends its children
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin.fileno(), Reader(self._process.stdout.fileno())
        os.set_blocking(self._requests, False)  # a process that has stopped reading must not block its parent

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """End the process. A thread that waits for its answer gets a WorkerError."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """End the process and remove its files. Safe to call twice."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._scratch.cleanup()

    def ask(
        self, op: str, arrays: Sequence[np.ndarray[Any, Any]] = (), timeout: float = RUN_TIMEOUT,
        progress: Tell = untold, **fields: Any,
    ) -> Tuple[Any, Arrays]:  # fmt: skip
        """Send a request and wait for its answer, an object of the class in :data:`ANSWERS`.

        ``progress`` is called with (done, total) if the process reports its progress.

        Raises:
            WorkerError: the process refuses the request, does not answer in time, gives an invalid answer, or dies.
        """
        deadline = time.monotonic() + timeout
        heard = self._log_size()
        try:
            send(Within(self._requests, deadline), dict(fields, op=op), arrays)  # type: ignore[arg-type]
            answer = self._receive(deadline)
            while answer is not None and SO_FAR in answer[0]:
                progress(*_counts(answer[0][SO_FAR]))
                answer = self._receive(deadline)
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self.kill()
            raise WorkerError("hung: no answer to %r in %.0f s" % (op, timeout), crashed=True, native=True) from None
        except ProtocolError as error:
            raise self._broken(op, error) from None
        if answer is None:
            raise self._cause_of_death(op)
        message, results = answer
        if "error" in message:
            raise WorkerError(": ".join(filter(None, (str(message["error"]), self._words(heard)))))
        try:
            record = self._read(message, ANSWERS.get(op, Answer))
            record.check(fields, results)
        except (ProtocolError, ValueError) as error:
            raise self._broken(op, error) from None
        return record, results

    def _receive(self, deadline: float) -> Optional[Tuple[Message, Arrays]]:
        return receive(lambda view: self._answers.readinto(view, deadline), lambda: self._answers.readline(deadline))

    def _read(self, message: Message, kind: Type[Answer]) -> Answer:
        """A message as an answer. Raises ProtocolError if it is not a valid one."""
        record: Answer = from_json(message, kind)
        return record

    def _broken(self, op: str, error: Exception) -> WorkerError:
        self.kill()
        return WorkerError("broke the protocol during %r: %s" % (op, error), crashed=True)

    def _cause_of_death(self, op: str) -> WorkerError:
        try:
            status = self._process.wait(DYING)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerError("closed its output during %r" % op, crashed=True)
        number = status - 128 if status > 128 else -status  # a shell reports a signal as a status above 128
        tail = self.log().strip().splitlines()[-1:]
        said = "; last words: " + tail[0] if tail else ""
        if number == signal.SIGKILL:
            return WorkerError("killed during %r, probably out of memory%s" % (op, said), crashed=True)
        if number in set(signal.Signals):
            name = signal.Signals(number).name
            return WorkerError("signal %d (%s) during %r%s" % (number, name, op, said), crashed=True, native=True)
        return WorkerError("exit status %d during %r%s" % (status, op, said), crashed=True)

    def log(self) -> str:
        """What ncnn and the driver have printed so far."""
        return self._log_from(0)

    def _words(self, start: int) -> str:
        """The lines printed since the log had this size, each once. Over SSH they may arrive just after the answer."""
        end = time.monotonic() + PRINTING
        while self._log_size() == start and time.monotonic() < end:
            time.sleep(PRINTING / 10)
        lines = filter(None, map(str.strip, self._log_from(start).splitlines()))
        return "; ".join(list(dict.fromkeys(lines))[-MOST_WORDS:])

    def _log_size(self) -> int:
        return os.fstat(self._log.fileno()).st_size

    def _log_from(self, start: int) -> str:
        return os.pread(self._log.fileno(), self._log_size(), start).decode(errors="replace")


def _counts(found: object) -> Tuple[int, int]:
    """(done, total) of a message. Raises ProtocolError if it is not valid."""
    if not (isinstance(found, list) and [type(each) for each in found] == [int, int] and 0 <= found[0] <= found[1]):
        raise ProtocolError("its progress is %r" % (found,))
    return found[0], found[1]


class Within:
    """A pipe for writing that raises TimeoutError if the data is not written by a deadline."""

    def __init__(self, descriptor: int, deadline: float) -> None:
        self._descriptor, self._deadline = descriptor, deadline

    def write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._descriptor], [], max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._descriptor, view) :]

    def flush(self) -> None:
        pass
