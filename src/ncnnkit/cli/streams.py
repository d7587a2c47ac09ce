"""stdout and stderr of the command: what happens if they are closed or full, or if nobody reads them."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

from ..errors import UNREAD, NcnnkitError, StorageError, reason


class Unread(NcnnkitError):
    """Whatever read stdout has ended, such as ``head``. The command ends without a message, as Unix commands do."""

    exit_code = UNREAD


class _Stdout(io.FileIO):
    """Raises an error that names stdout, so that it is not taken for one of a file or of a child process.

    What is written afterwards is dropped. Otherwise Python would fail with it again when it ends.
    """

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            error: NcnnkitError = Unread("stdout has no reader")
        except BlockingIOError:
            raise
        except OSError as failed:
            error = StorageError(f"cannot be written: {reason(failed)}", where="stdout")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        raise error


class _Stderr(io.FileIO):
    """Drops what cannot be written: there is no other place where this could be said."""

    def write(self, data: Any) -> Any:
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare_streams() -> None:
    """Make stdout and stderr usable, whatever the shell has connected them to.

    A character that the encoding does not have is printed as a question mark; it does not end the command. A terminal
    that says it has no columns has an unknown number of them; Rich would print empty lines.
    """
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "1").strip("0"):
            del os.environ[name]
    while True:  # a closed one must not become the number of a file that is opened later
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    for name, number, kind in (("stdout", 1, _Stdout), ("stderr", 2, _Stderr)):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            encoding = getattr(stream, "encoding", None)
            raw = io.BufferedWriter(kind(number, "wb", closefd=False))
            lines = number == 2 or raw.isatty()
            setattr(sys, name, io.TextIOWrapper(raw, encoding, "replace", line_buffering=lines))
