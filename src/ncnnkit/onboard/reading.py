"""Reads what a process prints after its mark, with deadlines. Uses only the standard library."""

from __future__ import annotations

import os
import select
import time

from . import MARK

LONGEST_LINE = 1 << 24  # bytes
_CHUNK = 1 << 20  # bytes that are read at once


class ProtocolError(Exception):
    """The received data does not follow the protocol."""


class Reader:
    """Reads the output of a process after the mark.

    Args:
        descriptor: the file descriptor of a pipe.

    Raises:
        TimeoutError: every method: no more data came before the deadline (a time of ``time.monotonic``).
        ProtocolError: every method: a line, or the text before the mark, is too long.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._after_mark = False

    def readline(self, deadline: float) -> bytes:
        """The next line, with its newline. At the end of the pipe: the rest, which may be empty."""
        self._pass_mark(deadline)
        return self._through(b"\n", deadline)

    def readinto(self, view: memoryview, deadline: float) -> int:
        """Fill a view of bytes. Returns how many there were: fewer if the pipe ends."""
        self._pass_mark(deadline)
        done = min(len(view), len(self._buffer))
        view[:done] = self._buffer[:done]
        del self._buffer[:done]
        while done < len(view):
            self._wait(deadline)
            count = os.readv(self._descriptor, [view[done : done + _CHUNK]])
            if not count:
                break
            done += count
        return done

    def _pass_mark(self, deadline: float) -> None:
        if not self._after_mark:
            self._after_mark = self._through(MARK, deadline).endswith(MARK)

    def _through(self, end: bytes, deadline: float) -> bytes:
        searched = 0
        while (start := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end))
            if searched > LONGEST_LINE:
                raise ProtocolError("it prints more than is allowed")
            if not self._fill(deadline):
                return self._take(len(self._buffer))
        return self._take(start + len(end))

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _fill(self, deadline: float) -> bool:
        self._wait(deadline)
        chunk = os.read(self._descriptor, _CHUNK)
        self._buffer += chunk
        return bool(chunk)

    def _wait(self, deadline: float) -> None:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
