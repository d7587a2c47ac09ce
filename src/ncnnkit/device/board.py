"""A device behind a transport. It gets Python with ncnn, files by their hash, and jobs that survive a lost connection.

Everything is in one folder there, ``~/.cache/ncnnkit``; :meth:`Board.clean` removes it. See ``onboard/agent.py``.
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeviceError
from ..older import Self
from ..onboard import agent
from ..onboard.child import Child
from ..onboard.engines import ENGINES
from ..onboard.engines.base import Engine
from ..onboard.facts import Platform
from ..onboard.protocol import NCNN, Ended, Job, MeasureJob, Notify, R
from ..onboard.rows import Rows
from ..onboard.scratch import Scratch
from .base import GOODBYE, RECORD, ignore, job_files, measured, read_result
from .link import Link, digest
from .serving import CheckedChild
from .transport import TIMEOUT, Lost, Transport
from .wheels import fetch_wheels

OUTPUTS = "outputs"  # the folder of outputs in a job's folder
OLDEST_PYTHON = (3, 9)
SETUP_TIMEOUT = 600.0  # seconds; unpacking and compiling may be slow on an SD card

_ONBOARD = Path(agent.__file__).parent
PROGRAM = {str(path.relative_to(_ONBOARD)): path for path in sorted(_ONBOARD.rglob("*.py"))}
"""The files of ``onboard/``, which run on a board: path relative to the program's folder there -> the file here."""

# Find a Python, make the folder, and print what $2 finds there, after a mark (a login shell may print more).
_HELLO = """
umask 077
for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 \
        /data/data/com.termux/files/usr/bin/python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info < ({oldest}))' 2>/dev/null && break
    python=
done
folder={cache}
mkdir -p "$folder" && cd "$folder" || exit 1
found=$([ -z "$python" ] || "$python" -c "$2" "$1")
printf '\\036%s\\037%s\\037%s\\036' "$python" "$PWD" "$found"
"""
# Print why the folder cannot be trusted, or the hash of the program in it. Whoever can write there could run anything.
_LOOK = """
import hashlib, os, sys
found, program = os.stat("."), sys.argv[1]
if found.st_uid != os.getuid():
    sys.exit(print("it belongs to another user"))
if found.st_mode & 0o022:
    sys.exit(print("others may write there"))
os.chmod(".", 0o700)
paths = [os.path.join(folder, name) for folder, _, names in os.walk(program) for name in names if name[-3:] == ".py"]
names = sorted(os.path.relpath(path, program) for path in paths)
files = {name: open(os.path.join(program, name), "rb").read() for name in names}
print("=" + hashlib.sha256(repr(files).encode()).hexdigest())
"""
# Unpack the program next to its final folder, and let it take the place of what is there.
_UNPACK = """
import os, shutil, sys, tarfile
os.umask(0o077)
folder = sys.argv[1]
part = "%s.%d.part" % (folder, os.getpid())
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
    archive.extractall(part)
try:
    if os.path.lexists(folder):
        os.rename(folder, part + ".old")
    os.rename(part, folder)
except OSError:  # another process has done so meanwhile
    shutil.rmtree(part)
shutil.rmtree(part + ".old", ignore_errors=True)
"""


@dataclass(frozen=True)
class _There:
    """The answer to the first request to a board."""

    python: str
    folder: str
    program: str  # the name of the program's folder


@dataclass
class _Asked:
    """A job of this client that runs on the board, or is being started.

    Attributes:
        number: identifies this request to start it; ``asked`` in ``onboard/agent.py``.
        follower: the request that follows it.
    """

    number: str
    follower: subprocess.Popen[bytes] | None = None


class Board:
    """See :class:`ncnnkit.device.Device`. Nothing happens on the board before the first request."""

    def __init__(self, transport: Transport, name: str = "") -> None:
        self.address = transport.address
        self.name = name or transport.address
        self._link = Link(transport, self.name)
        self._jobs: dict[str, _Asked] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.transport.close()

    def cancel(self) -> None:
        def forget_all() -> None:
            for name in list(self._jobs):
                self._forget(name)

        self._link.begun.cancel(forget_all)

    # ------------------------------------------------------------------------------------------- Python and programs

    @cached_property
    def _there(self) -> _There:
        """Copy the program to the board. Raises DeviceError."""
        files = {name: PROGRAM[name].read_bytes() for name in sorted(PROGRAM)}
        wanted = hashlib.sha256(repr(files).encode()).hexdigest()
        name = f"program-{wanted[:16]}"
        cache = self._link.transport.cache
        hello = _HELLO.format(oldest=", ".join(map(str, OLDEST_PYTHON)), cache=f'"{cache}"')
        said = self._link.run(["sh", "-c", hello, "sh", name, _LOOK]).decode(errors="replace").split("\x1e")
        if len(said) < 3 or said[1].count("\x1f") != 2:
            raise DeviceError("has no Unix shell", where=self.name)
        python, folder, found = said[1].split("\x1f")
        if not python:
            oldest = ".".join(map(str, OLDEST_PYTHON))
            raise DeviceError(f"has no Python {oldest} or newer", where=self.name, hint="Debian: apt install python3")
        if not found.startswith("="):
            hint = f"look at what is in it, then remove it, or make it yours alone: chmod 700 {folder}"
            raise DeviceError(f"its folder {folder} is not trusted: {found}", where=self.name, hint=hint)
        if found != f"={wanted}":
            self._link.run([python, "-c", _UNPACK, f"{folder}/{name}"], _tar(files))
        self._link.agent = [python, f"{folder}/{name}", "agent"]
        return _There(python, folder, name)

    @property
    def _agent(self) -> Link:
        """The link to the agent, which is copied to the board first."""
        assert self._there
        return self._link

    @cached_property
    def about(self) -> Platform:
        """Its Python, machine, C library, free disk space and clock. Raises DeviceError."""
        return self._agent.ask(Platform, "about")

    @cached_property
    def python(self) -> str:
        """The Python on the board with ncnn and numpy, which are installed if necessary. Raises DeviceError."""
        return self._python_with([])

    def _python_with(self, packages: Sequence[str]) -> str:
        """The Python on the board that also has these packages (requirements for pip). Raises DeviceError."""
        wheels = fetch_wheels(self.about, self.name, self._link.begun)
        for package in packages:
            wheels += fetch_wheels(self.about, self.name, self._link.begun, [package])
        hashes = [digest(path) for path in wheels]
        name = "venv-" + hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        if not self._agent.ask(bool, "venv", name):
            self._agent.send(wheels)
            self._agent.tell("install", name, *hashes, timeout=SETUP_TIMEOUT)
        return f"{self._there.folder}/{name}/bin/python"

    def clean(self) -> None:
        """Remove all files of ncnnkit from the board. Raises DeviceError."""
        self._agent.tell("clean")
        for name in ("_there", "python"):
            self.__dict__.pop(name, None)

    # --------------------------------------------------------------------------------------------------------- device

    def child(self) -> Child:
        words = [self.python, f"{self._there.folder}/{self._there.program}", "serve"]
        return self._link.begun.add(CheckedChild(self._link.transport.command(words)))

    def lacks(self, engine: Engine) -> str:
        try:
            fetch_wheels(self.about, self.name, self._link.begun, [_as_here(engine)])
        except Lost:
            raise
        except DeviceError as error:
            return error.what
        return ""

    def put(self, files: Sequence[Path]) -> list[str]:
        return [f"{self._there.folder}/files/{name}" for name in self._agent.send(files)]

    def run_job(self, job: Job[R], notify: Notify = ignore) -> R:
        """See :meth:`ncnnkit.device.Device.run_job`.

        The name of a job is a hash of the job, of the program and of its Python. If the connection is lost, the job
        goes on. The next call with the same job follows it, or fetches its result.
        """
        variants = job.variants if isinstance(job, MeasureJob) else []
        others = sorted({variant.model.engine for variant in variants} - {NCNN})
        python = self._python_with([_as_here(ENGINES[name]) for name in others]) if others else self.python
        files = job_files(job)
        there = dict(zip(map(str, files), self.put(files)))
        sent: Job[Any] = job.with_files(lambda path: there[path])
        if isinstance(sent, MeasureJob):
            sent = replace(sent, folder=OUTPUTS, record=RECORD)
        text = sent.text().encode()
        name = agent.job_name(self._there.program, python, text)
        asked = self._jobs[name] = _Asked(secrets.token_hex(8))
        try:
            # After the job is recorded: a thread that cancels either finds it, or has set ``cancelled`` before.
            if self._link.begun.cancelled.is_set():
                raise Lost("interrupted", where=self.name)
            self._link.persist(lambda: self._agent.tell("start", name, asked.number, python, data=text))
            said = self._follow(name, asked, notify)
            result = self._fetch(name, job, said)
        except Lost:
            self._jobs.pop(name, None)  # the job goes on
            raise
        except BaseException:
            self._forget(name)
            raise
        self._forget(name, TIMEOUT)
        return result

    # ----------------------------------------------------------------------------------------------------------- jobs

    def _follow(self, name: str, asked: _Asked, notify: Notify) -> str:
        """Pass on the progress of a job until it has ended. Returns the last line of its log."""
        seen = 0

        def follow() -> str:
            nonlocal seen
            with self._agent.begin(["follow", name, asked.number, str(seen)]) as process:
                asked.follower = process
                try:
                    for line in self._link.lines(process, "follow"):
                        if isinstance(line, Ended):
                            return line.said
                        seen += 1
                        notify(line)
                except Lost:
                    raise
                except BaseException:
                    self._forget(name)
                    raise
            raise Lost("the connection broke while a job ran", where=self.name)

        return str(self._link.persist(follow))

    def _fetch(self, name: str, job: Job[R], said: str) -> R:
        """Fetch the result of a job, and its files into the job's folder, if it has one."""
        home = job.folder if isinstance(job, MeasureJob) else ""
        if home:
            return self._unpack(name, job, Path(tempfile.mkdtemp(prefix="job-", dir=home)), said)
        with Scratch() as passing:
            return self._unpack(name, job, Path(passing), said)

    def _unpack(self, name: str, job: Job[R], folder: Path, said: str) -> R:
        self._link.persist(lambda: self._agent.fetch(["fetch", name], folder))
        result = read_result(folder, said, self.name, job)
        with self._link.understanding("fetch"):
            for variant in measured(result):
                variant.outputs = {blob: _own(path, folder) for blob, path in variant.outputs.items()}
        return result

    def _forget(self, name: str, patience: float = GOODBYE) -> None:
        """End a job, if it runs or is being started, and remove its results.

        If a request follows the job, it does this, because that is fastest.
        """
        asked = self._jobs.pop(name, None)
        if asked is None:
            return
        follower = asked.follower
        if follower is not None and follower.poll() is None:
            assert follower.stdin is not None
            with suppress(OSError, subprocess.TimeoutExpired):
                follower.stdin.write(b"stop\n")
                follower.stdin.flush()
                if follower.wait(patience) == 0:
                    return
        with suppress(DeviceError):
            self._agent.tell("forget", name, asked.number, timeout=patience)


def _as_here(engine: Engine) -> str:
    """A requirement for pip: an engine's package in the version on this machine, for which its models are made."""
    return f"{engine.package}=={engine.version()}"


def _tar(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def _own(path: str, folder: Path) -> str:
    """An output of a job, as a file on this machine.

    Raises:
        ValueError: it is another file (a board may send any name), or not a complete float32 array.
    """
    own = re.fullmatch(rf"{OUTPUTS}/([^/\0]+)", path)
    if own is None or own[1] in (".", "..") or not (folder / path).is_file() or (folder / path).is_symlink():
        raise ValueError(f"{path!r} is not an output of this job")
    rows = Rows(folder / path)
    if rows.dtype != np.float32 or rows.bytes != (folder / path).stat().st_size:
        raise ValueError(f"{path!r} is not a complete array of float32")
    return str(folder / path)
