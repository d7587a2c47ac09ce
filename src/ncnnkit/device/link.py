"""Requests to the agent of a board, and files in both directions. ``onboard/agent.py`` is the other side."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from ..codec import decode
from ..errors import DeviceError, FormatError, StorageError
from ..older import file_digest
from ..onboard import MARK
from ..onboard.agent import BEAT
from ..onboard.protocol import Ended, Line, Step
from ..onboard.reading import ProtocolError, Reader
from .transport import TIMEOUT, Lost, Refused, Transport

T = TypeVar("T")

SILENCE = 4 * BEAT  # seconds without a byte from a request that sends regularly, after which the connection is lost
BLOCK = 4096  # bytes that a file takes on the disk at least
PATIENCE = (1, 2, 4, 8, 15, 30)  # seconds between attempts to reconnect


class Link:
    """Requests to the agent. Errors have the name of the board. An invalid answer is a DeviceError.

    Args:
        transport: how commands run there.
        where: the name of the board, for errors.

    Raises:
        Lost: every method: the connection broke.
        DeviceError: every method: the request failed, or its answer is not valid.
    """

    def __init__(self, transport: Transport, where: str) -> None:
        self.transport = transport
        self.begun = transport.begun
        self.agent: list[str] = []
        """The words of a command that come before a request; set when it is known where the agent is."""
        self._where = where

    def run(self, words: Sequence[str], data: bytes = b"", timeout: float = TIMEOUT) -> bytes:
        """Run a command and return its stdout."""
        with self._translated():
            return self.transport.run(words, data, timeout)

    def ask(self, kind: type[T], *request: str, data: bytes = b"", timeout: float = TIMEOUT) -> T:
        """The answer to a request: its first line, JSON of this class."""
        _, mark, answer = self.run([*self.agent, *request], data, timeout).partition(MARK)
        with self.understanding(request[0]):
            if not mark:
                raise ValueError("no mark")
            return decode(answer.splitlines()[0], kind)

    def tell(self, *request: str, data: bytes = b"", timeout: float = TIMEOUT) -> None:
        """Send a request whose only answer is that it is done."""
        self.ask(type(None), *request, data=data, timeout=timeout)

    def lines(self, process: subprocess.Popen[bytes], request: str) -> Iterator[Step | Ended]:
        """The lines of a running request, as they come, until it ends."""
        with self._reading(process, request) as reader:
            while text := reader.readline(time.monotonic() + SILENCE):
                with self.understanding(request):
                    line = decode(text, Line)
                if said := line.ended or line.step:  # otherwise it is a sign of life
                    yield said

    def fetch(self, request: Sequence[str], folder: Path) -> None:
        """Unpack the answer, a tar of plain files, into ``folder``. It may use half of the free space there."""
        room = shutil.disk_usage(folder).free // 2
        with self.begin(request) as process, self._reading(process, request[0]) as reader:
            fileobj = cast("IO[bytes]", _Tar(reader))
            with self.understanding(request[0]), tarfile.open(fileobj=fileobj, mode="r|") as archive:
                for member in archive:
                    room -= max(member.size, BLOCK)
                    if not member.isfile() or room < 0:
                        raise ValueError(f"{member.name!r} is not a plain file, or is too large")
                    unpack(archive, member, folder)

    def send(self, files: Sequence[Path]) -> list[str]:
        """Send the files that the board does not have. Returns the hash of each file."""
        hashes = [digest(path) for path in files]
        with self.understanding("missing"):
            missing = set(self.ask(list[str], "missing", data=json.dumps(sorted(set(hashes))).encode()))
        if missing:
            with self.begin(["receive"]) as process, self._reading(process, "receive"):
                assert process.stdin is not None
                # If the pipe breaks, the process has ended, and its last line says why.
                with suppress(BrokenPipeError), tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                    for name in missing.intersection(hashes):
                        archive.add(files[hashes.index(name)], name)
                with suppress(BrokenPipeError):
                    process.stdin.close()
        return hashes

    @contextmanager
    def begin(self, request: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A context with a running request, which ends with the block."""
        with self._translated(), self.transport.popen([*self.agent, *request]) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def _reading(self, process: subprocess.Popen[bytes], request: str) -> Iterator[Reader]:
        """Read what a request prints, then wait for its end. Raises if it failed."""
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield Reader(process.stdout.fileno())
            if process.wait(TIMEOUT):
                said = process.stderr.read().decode(errors="replace")
                raise self.transport.explained([request], process.returncode, said)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise Lost(f"no answer for {SILENCE:.0f} s", where=self._where) from None
        except ProtocolError as error:
            raise self._broken(request, error) from None

    def persist(self, attempt: Callable[[], Any]) -> Any:
        """Try again as long as the connection fails."""
        for pause in (*PATIENCE, None):
            try:
                return attempt()
            except Lost as error:
                if pause is None or self.begun.cancelled.wait(pause):
                    hint = error.hint or "the work there continues: run again to resume it"
                    raise Lost(error.what, where=self._where, hint=hint) from None
        raise AssertionError("unreachable")

    @contextmanager
    def understanding(self, request: str) -> Iterator[None]:
        """A context for reading an answer. If the answer is not valid, it raises a DeviceError."""
        try:
            yield
        except _NONSENSE as error:
            raise self._broken(request, error) from None

    def _broken(self, request: str, error: Exception) -> DeviceError:
        return DeviceError(f"it broke the protocol at {request!r}: {error}", where=self._where)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A context that adds the board's name and a hint to errors."""
        try:
            yield
        except (Lost, Refused) as error:
            for said, what, hint in _CAUSES:
                if said in error.what:
                    raise DeviceError(what, where=self._where, hint=hint) from None
            raise type(error)(error.what, where=self._where, hint=error.hint) from None


_NONSENSE = (
    FormatError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, tarfile.TarError,
)  # fmt: skip
"""Exceptions from reading an answer that is not valid."""

_CAUSES = (
    ("No space left on device", "its disk is full", "ncnnkit devices clean removes what ncnnkit keeps there"),
    ("Disk quota exceeded", "its disk is full", "ncnnkit devices clean removes what ncnnkit keeps there"),
    ("Read-only file system", "its disk cannot be written", ""),
    ("No module named venv", "its Python lacks the venv module", "Debian: apt install python3-venv"),
)
"""Text in a message of the board -> (its meaning, what to do)."""


class _Tar:
    """A file object for tarfile."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, count: int) -> bytes:
        data = bytearray(count)
        done = self._reader.readinto(memoryview(data), time.monotonic() + SILENCE)
        return bytes(data[:done])


def unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a plain file of an archive into a folder. Older versions of Python lack tarfile's filter for that.

    Raises:
        ValueError: the file would be outside the folder.
        StorageError: the disk is full or not writable.
    """
    home, path = folder.resolve(), (folder / member.name).resolve()
    stream = archive.extractfile(member)
    if home not in path.parents or stream is None:
        raise ValueError(f"{member.name!r} is outside the folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise StorageError(f"cannot be written: {error.strerror}", where=str(folder)) from None
        # Its name is too long, or that of a folder, or a file is where its folder should be.
        raise ValueError(f"{member.name[:80]!r} cannot be the name of a file: {error.strerror}") from None


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return str(file_digest(file).hexdigest())
