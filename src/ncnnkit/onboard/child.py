"""A serving process, seen from outside."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Optional, Sequence, Tuple

import numpy as np

from .messages import Arrays, Message, receive, send

PROGRAM = os.path.dirname(os.path.abspath(__file__))
"""This folder: Python runs it as a program, see ``__main__.py``."""

LOAD_TIMEOUT = 600.0  # seconds; the first load on a GPU compiles every pipeline
RUN_TIMEOUT = 120.0


class WorkerError(Exception):
    """A request failed. ``crashed`` tells a dead process from a refusal."""

    def __init__(self, message: str, crashed: bool = False) -> None:
        super().__init__(message)
        self.crashed = crashed


class Child:
    """A serving process, seen from outside. A context manager; leaving it ends the process.

    Args:
        command: what starts it; by default a :class:`~ncnnkit.onboard.network.Network` on this machine.
        caches: a folder for compiled shaders. By default one of its own, empty at first, so that a cold load compiles
            whatever ran on this machine before.
    """

    def __init__(self, command: Optional[Sequence[str]] = None, caches: Optional[str] = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="ncnnkit-")
        shaders = dict.fromkeys(("MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"), caches or self._scratch.name)
        # Open as long as the process lives.
        self._log = open(os.path.join(self._scratch.name, "log"), "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command or [sys.executable, PROGRAM, "serve"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=dict(os.environ, **shaders),
            start_new_session=True,  # a Ctrl-C is for the parent, which ends the children itself
        )
        self._buffer = bytearray()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """End the process, also while another thread waits for its answer: that one gets a WorkerError."""
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
        self, op: str, arrays: Sequence[np.ndarray[Any, Any]] = (), timeout: float = RUN_TIMEOUT, **fields: Any
    ) -> Tuple[Message, Arrays]:
        """Send a request and wait for its answer. Raises WorkerError if it is refused, late, or kills the process."""
        assert self._process.stdin is not None
        deadline = time.monotonic() + timeout
        try:
            stream: Any = _Unbuffered(self._process.stdin)
            send(stream, dict(fields, op=op), arrays)
            answer = receive(lambda n: self._read(n, deadline), lambda: self._readline(deadline))
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self._process.kill()
            raise WorkerError("hung: no answer to %r in %.0f s" % (op, timeout), crashed=True) from None
        if answer is None:
            raise WorkerError(self._cause_of_death(op), crashed=True)
        message, results = answer
        if "error" in message:
            raise WorkerError(message["error"])
        return message, results

    def _readline(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            if not self._fill(deadline):
                return b""
        end = self._buffer.index(b"\n") + 1
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def _read(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count and self._fill(deadline):
            pass
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _fill(self, deadline: float) -> bool:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), 1 << 20)
        self._buffer += chunk
        return bool(chunk)

    def _cause_of_death(self, op: str) -> str:
        code = self._process.wait()
        code = 128 - code if code > 128 else code  # as a shell tells of a signal
        tail = self.log().strip().splitlines()[-1:]
        said = "; last words: " + tail[0] if tail else ""
        if code == -signal.SIGKILL:
            return "killed during %r, probably out of memory%s" % (op, said)
        if code < 0:
            return "signal %d (%s) during %r%s" % (-code, signal.Signals(-code).name, op, said)
        return "exit status %d during %r%s" % (code, op, said)

    def log(self) -> str:
        """What ncnn and the driver printed so far."""
        self._log.flush()
        with open(self._log.name, "rb") as file:
            return file.read().decode(errors="replace")


class _Unbuffered:
    """A pipe whose writes are complete."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._fd = stream.fileno()

    def write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def flush(self) -> None:
        pass
