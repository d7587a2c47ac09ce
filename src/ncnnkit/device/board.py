"""A device behind a transport: gets Python with ncnn, files by their hash, and jobs that outlive the connection.

Everything lies below one folder there, ``~/.cache/ncnnkit``; :meth:`Board.clean` removes it. See ``agent.py``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..errors import DeviceError
from ..onboard import agent
from ..onboard.child import Child
from .base import Tell, job_files, map_files
from .transport import Lost, Refused, Transport
from .wheels import fetch_wheels

RECORD = "record.json"
OLDEST_PYTHON = (3, 9)
SETUP_TIMEOUT = 600.0  # seconds: unpacking and compiling on a slow card
SILENCE = 4 * agent.BEAT  # seconds without a line from a job's follower: the connection is gone
PATIENCE = (1, 2, 4, 8, 15, 30)  # seconds between attempts at a broken connection

PROGRAM = tuple(sorted(Path(agent.__file__).parent.glob("*.py")))
"""What runs on a board: all of ``onboard/``."""

# Find a Python, make the folder, and say whether the agent is there. Markers: a login shell may print a greeting.
_HELLO = """
umask 077
for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 \
        /data/data/com.termux/files/usr/bin/python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info < ({oldest}))' 2>/dev/null && break
    python=
done
folder={cache}
mkdir -p "$folder" && cd "$folder" || exit 1
[ -f "$1" ] && agent=yes || agent=no
printf '\\036%s\\037%s\\037%s\\036' "$python" "$PWD" "$agent"
"""
# Of a command that a signal kills, ssh tells no more than that the connection is over.
_SHOWING_SIGNALS = '"$@"; exit $?'
_UPLOAD = 'umask 077; cat > "$1.$$.part" && mv "$1.$$.part" "$1"'


@dataclass(frozen=True)
class _There:
    """What the first words with a board told."""

    python: str
    folder: str
    agent: str


class Board:
    """See :class:`ncnnkit.device.Device`. Nothing is done there before it is asked for something."""

    def __init__(self, transport: Transport, name: str = "") -> None:
        self._transport = transport
        self.address = transport.address
        self.name = name or transport.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    # ------------------------------------------------------------------------------------------- Python and programs

    @cached_property
    def _there(self) -> _There:
        """Brings the agent there. Raises DeviceError."""
        program = Path(agent.__file__).read_bytes()
        name = f"agent-{hashlib.sha256(program).hexdigest()[:16]}.py"
        hello = _HELLO.format(oldest=", ".join(map(str, OLDEST_PYTHON)), cache=f'"{self._transport.cache}"')
        said = self._run(["sh", "-c", hello, "sh", name]).decode(errors="replace").split("\x1e")
        if len(said) < 3 or said[1].count("\x1f") != 2:
            raise DeviceError("no shell of Unix answers there", where=self.name)
        python, folder, has_agent = said[1].split("\x1f")
        if not python:
            oldest = ".".join(map(str, OLDEST_PYTHON))
            raise DeviceError(
                f"no Python {oldest} or newer is there", where=self.name, hint="Debian: apt install python3"
            )
        path = f"{folder}/{name}"
        if has_agent == "no":
            self._run(["sh", "-c", _UPLOAD, "sh", path], program)
        return _There(python, folder, path)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Its Python, machine, C library, free disk space and clock. Raises DeviceError."""
        return dict(self._ask("describe"))

    @cached_property
    def python(self) -> str:
        """The Python there that has ncnn and numpy, brought there where it was not. Raises DeviceError."""
        wheels = fetch_wheels(self.description, self.name)
        hashes = self._send(wheels)
        name = "venv-" + hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        return str(self._ask("install", name, *hashes, timeout=SETUP_TIMEOUT))

    @cached_property
    def _program(self) -> str:
        """The folder there that holds :data:`PROGRAM`, below ours."""
        hashes = self._send(PROGRAM)
        name = "program-" + hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        self._ask("place", name, *(f"{path.name}={digest}" for path, digest in zip(PROGRAM, hashes)))
        return name

    def clean(self) -> None:
        """Remove everything of ours there. Raises DeviceError."""
        self._ask("clean")
        for name in ("_there", "python", "_program"):
            self.__dict__.pop(name, None)

    # --------------------------------------------------------------------------------------------------------- device

    def child(self) -> Child:
        words = [self.python, f"{self._there.folder}/{self._program}", "serve"]
        return Child(self._transport.command(["sh", "-c", _SHOWING_SIGNALS, "sh", *words]))

    def put(self, files: Sequence[Path]) -> list[str]:
        return [f"{self._there.folder}/files/{digest}" for digest in self._send(files)]

    def run_job(self, job: Mapping[str, Any], tell: Tell = lambda message: None) -> dict[str, Any]:
        """See :meth:`ncnnkit.device.Device.run_job`.

        A job goes by what is in it: one whose connection was lost goes on there, and asking for the same again takes
        it up, or what it made.
        """
        python, program = self.python, self._program
        files = job_files(job)
        there = dict(zip(map(str, files), self.put(files)))
        sent = {**map_files(job, lambda path: there[path]), "folder": "outputs", "record": RECORD}
        text = json.dumps(sent, sort_keys=True).encode()
        name = hashlib.sha256(text).hexdigest()[:24]
        self._persist(lambda: self._run_agent(["start", name, python, program], text))
        try:
            ended = self._follow(name, tell)
            result = self._fetch(name, job.get("folder"), ended)
        except Lost:
            raise  # it goes on there
        except BaseException:
            with suppress(DeviceError):
                self._run_agent(["forget", name])
            raise
        with suppress(DeviceError):
            self._run_agent(["forget", name])
        return result

    # ----------------------------------------------------------------------------------------------------------- jobs

    def _follow(self, name: str, tell: Tell) -> dict[str, Any]:
        """Hand on what a job says until it has ended; returns its last line."""
        seen = 0

        def lines() -> dict[str, Any]:
            nonlocal seen
            for message in self._lines(["follow", name, str(seen)]):
                if "ended" in message:
                    return message
                seen += 1
                tell(message)
            raise Lost("the connection broke while a job ran", where=self.name)

        return dict(self._persist(lines))

    def _lines(self, words: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The JSON lines of an agent's request, as they come."""
        with self._transport.popen([self._there.python, self._there.agent, *words]) as process:
            try:
                assert process.stdout is not None
                buffer = b""
                while True:
                    ready, _, _ = select.select([process.stdout], [], [], SILENCE)
                    chunk = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
                    if not ready:
                        raise Lost(f"nothing was heard for {SILENCE:.0f} s", where=self.name)
                    if not chunk:
                        break
                    *whole, buffer = (buffer + chunk).split(b"\n")
                    yield from (message for message in map(json.loads, whole) if message)
                status = process.wait()
                if status:
                    assert process.stderr is not None
                    said = process.stderr.read().decode(errors="replace")
                    raise self._transport.explained(words, status, said)
            finally:
                process.kill()

    def _fetch(self, name: str, folder: str | None, ended: Mapping[str, Any]) -> dict[str, Any]:
        """Bring what a job made: its result, and into ``folder``, where there is one, its files."""
        data = self._persist(lambda: self._run_agent(["fetch", name], timeout=SETUP_TIMEOUT))
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="ncnnkit-") as passing:
                return self._unpack(data, Path(passing), ended)
        return self._unpack(data, Path(tempfile.mkdtemp(prefix="job-", dir=folder)), ended)

    def _unpack(self, data: bytes, where: Path, ended: Mapping[str, Any]) -> dict[str, Any]:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(where, filter="data")
        if (where / "result.json").is_file():
            result = json.loads((where / "result.json").read_text(encoding="utf-8"))
        elif (where / RECORD).is_file():
            result = json.loads((where / RECORD).read_text(encoding="utf-8"))
            _mark_unfinished(result["variants"], f"the process that measured it died: {ended['said'] or 'killed'}")
        else:
            raise DeviceError(f"the job died there: {ended['said'] or 'killed'}", where=self.name)
        return dict(_placed(result, where))

    def _persist(self, attempt: Callable[[], Any]) -> Any:
        """Try again while the connection is what fails."""
        for pause in (*PATIENCE, None):
            try:
                return attempt()
            except Lost as error:
                if pause is None:
                    hint = error.hint or "what ran there goes on: run again to take it up"
                    raise Lost(error.what, where=self.name, hint=hint) from None
                time.sleep(pause)
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------------------------------------------- requests

    def _send(self, files: Sequence[Path]) -> list[str]:
        """Send files that are not there yet; returns the hash of each."""
        hashes = [_digest(path) for path in files]
        missing = set(self._ask("missing", data=json.dumps(sorted(set(hashes))).encode()))
        if missing:
            paths = {digest: path for digest, path in zip(hashes, files) if digest in missing}
            words = [self._there.python, self._there.agent, "receive"]
            with self._translated(), self._transport.popen(words) as process:
                try:
                    self._stream(process, paths, words)
                finally:
                    process.kill()
        return hashes

    def _stream(self, process: subprocess.Popen[bytes], paths: Mapping[str, Path], words: Sequence[str]) -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        # A pipe that breaks: it ended, and its last words say why.
        with suppress(BrokenPipeError), tarfile.open(fileobj=process.stdin, mode="w|") as archive:
            for digest, path in paths.items():
                archive.add(path, digest)
        with suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stderr.read().decode(errors="replace")
        status = process.wait()
        if status:
            raise self._transport.explained(words, status, said)

    def _ask(self, *request: str, data: bytes = b"", timeout: float = 60.0) -> Any:
        """The answer of a request to the agent, JSON on the last line it prints."""
        lines = self._run_agent(list(request), data, timeout).decode().strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def _run_agent(self, request: Sequence[str], data: bytes = b"", timeout: float = 60.0) -> bytes:
        return self._run([self._there.python, self._there.agent, *request], data, timeout)

    def _run(self, words: Sequence[str], data: bytes = b"", timeout: float = 60.0) -> bytes:
        with self._translated():
            return self._transport.run(words, data, timeout)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors by the board's name, and with what to do."""
        try:
            yield
        except (Lost, Refused) as error:
            for said, what, hint in _CAUSES:
                if said in error.what:
                    raise DeviceError(what, where=self.name, hint=hint) from None
            raise type(error)(error.what, where=self.name, hint=error.hint) from None


_CAUSES = (
    ("No space left on device", "its disk is full", "ncnnkit devices clean removes what ncnnkit keeps there"),
    ("Disk quota exceeded", "its disk is full", "ncnnkit devices clean removes what ncnnkit keeps there"),
    ("Read-only file system", "its disk cannot be written", ""),
    ("No module named venv", "its Python lacks the venv module", "Debian: apt install python3-venv"),
)
"""What is said there -> what it means, and what to do."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mark_unfinished(variants: Sequence[dict[str, Any]], reason: str) -> None:
    """Say of variants that were not measured to the end that they were not."""
    for variant in variants:
        if "peak_memory_mb" not in variant and variant["status"] == "ok":  # the last that is asked of each
            variant.update(status="crashed", reason=reason)


def _placed(result: Any, folder: Path) -> Any:
    """A result whose ``outputs`` are files of this machine."""
    if isinstance(result, Mapping):
        return {
            key: {blob: str(folder / path) for blob, path in value.items()}
            if key == "outputs"
            else _placed(value, folder)
            for key, value in result.items()
        }
    return [_placed(value, folder) for value in result] if isinstance(result, list) else result
