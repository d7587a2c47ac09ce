"""The command ``agent``: keeps files by their hash on a board, and jobs that outlive a connection.

Only the standard library: it runs before ncnn and numpy are there. ``agent REQUEST ARG…`` answers one request, with a
line of JSON. Data comes over stdin and goes over stdout, after the mark; a failure is one line on stderr and exit
status 1.

Everything lies in one folder, in which this program's folder is:

    program-HASH/         this program
    venv-HASH/            Python with ncnn and numpy
    files/SHA256          what was sent, by content: sent once, whoever needs it
    jobs/ID/              one job: job.json, progress (a JSON line a step), log, result.json, pid
    given-up/ASKED        a job that was forgotten, by the number of who asked for it
    lock                  locked by the request that starts or ends a job
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Set

from . import MARK
from .facts import Platform
from .protocol import Ended, Line

PROGRAM = Path(__file__).resolve().parent
HOME = PROGRAM.parent
FILES, JOBS, GIVEN_UP = HOME / "files", HOME / "jobs", HOME / "given-up"

KEEP_BYTES = 2 << 30
"""Of files that were sent and that neither this request nor a job needs; those used last are kept. Never more than a
quarter of the disk."""
KEEP_JOBS = 8  # that have ended and that nobody asked for: those begun last
KEEP_VENVS = 2  # those used last
KEEP_GIVEN_UP = 100  # those forgotten last: a request is late by seconds

POLL = 0.1  # seconds between two looks at a job's progress
PATIENCE = 1.0  # seconds for a job to put the clocks back and end; what is left fixed, the next start puts back
BEAT = 5.0  # seconds of silence after which a line is sent all the same: a dead connection shows by it


def missing(*_: str) -> None:
    """Of the hashes on stdin, those that are not here. Room is made for them."""
    hashes = json.load(sys.stdin)
    here = [name for name in hashes if (FILES / name).is_file()]
    for name in here:
        os.utime(FILES / name)
    _evict_files(set(hashes))
    print(json.dumps(sorted(set(hashes) - set(here))))


def _evict_files(needed: Set[str]) -> None:
    """Remove the files that were used least recently, so that at most :data:`KEEP_BYTES` of unused files are kept."""
    for path in JOBS.glob("*/job.json"):
        needed |= set(re.findall("[0-9a-f]{64}", path.read_text()))
    left = min(KEEP_BYTES, shutil.disk_usage(str(HOME)).total // 4)
    for path in _last_used_first(FILES):
        if path.name not in needed:
            left -= path.stat().st_size
            if left < 0:
                path.unlink()


def _last_used_first(folder: Path, pattern: str = "*") -> List[Path]:
    return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)


def receive(*_: str) -> None:
    """Keep the files of the tar on stdin, each named by its hash."""
    FILES.mkdir(exist_ok=True)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None or not _is_hash(member.name):
                raise ValueError("%r is not a file by its hash" % member.name)
            digest = hashlib.sha256()
            with _whole(FILES / member.name) as part:
                with open(part, "wb") as file:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
                        file.write(chunk)
                if digest.hexdigest() != member.name:
                    raise ValueError("%s was damaged on its way" % member.name)


def venv(name: str) -> None:
    """Whether the virtual environment ``name`` is there."""
    folder = HOME / name
    there = (folder / "complete").is_file()
    if there:
        os.utime(folder)
    print(json.dumps(there))


def install(name: str, *wheels: str) -> None:
    """Make the virtual environment ``name`` of wheels that were sent, each given by its hash.

    A wheel is a zip of what goes into site-packages, so neither pip nor ensurepip is needed, which boards often lack.
    """
    folder = HOME / name
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        python = str(folder / "bin" / "python")
        _say(subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], capture_output=True))
        asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
        packages = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        for wheel in wheels:
            with zipfile.ZipFile(FILES / wheel) as archive:
                archive.extractall(packages)
        _say(subprocess.run([python, "-c", "import ncnn, numpy"], capture_output=True))
        (folder / "complete").touch()
        for old in _last_used_first(HOME, "venv-*")[KEEP_VENVS:]:
            shutil.rmtree(old, ignore_errors=True)


def job_name(program: str, python: str, text: bytes) -> str:
    """What a job is called: a hash of the program that does it, of the Python it runs in, and of the job."""
    return hashlib.sha256(b"\0".join((program.encode(), python.encode(), text))).hexdigest()[:24]


def start(job: str, asked: str, python: str) -> None:
    """Start the job on stdin in the background, unless it is there.

    It is not started where it was forgotten for the same ``asked`` already: who sent this gave up meanwhile, and this
    came too late.
    """
    folder, text = _job(job), sys.stdin.buffer.read()
    if job_name(PROGRAM.name, python, text) != job:
        raise ValueError("the job was damaged on its way")
    with _one_at_a_time():
        if (GIVEN_UP / _plain(asked)).exists():
            raise ValueError("the job was given up")
        if (folder / "pid").is_file():
            return  # begun before the connection broke: follow it
        for old in [path for path in _last_used_first(JOBS) if not _runs(path)][KEEP_JOBS:]:
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "outputs").mkdir()
        (folder / "job.json").write_bytes(text)
        with open(folder / "progress", "wb") as progress, open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                [python, str(PROGRAM), "job", "job.json", "result.json"],
                cwd=str(folder), stdin=subprocess.DEVNULL, stdout=progress, stderr=log, start_new_session=True,
            )  # fmt: skip
        with _whole(folder / "pid") as part:
            part.write_text(json.dumps([process.pid, _started(process.pid)]))


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Jobs are started and ended by one request at a time."""
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def follow(job: str, asked: str, line: str) -> None:
    """Hand the lines of a job's progress on, from ``line`` on, until it has ended; a last one says how.

    A line on stdin forgets the job: no other request is answered as fast. The end of stdin ends the following alone:
    the connection broke.
    """
    folder = _job(job)
    if not (folder / "pid").is_file():
        raise FileNotFoundError("no such job here")
    skip, spoke = int(line), time.monotonic()
    with open(folder / "progress") as progress:
        partial = ""
        while True:
            running = _runs(folder)  # asked first: what it wrote before it ended is then all there
            for text in iter(progress.readline, ""):
                partial += text
                if not partial.endswith("\n"):
                    break
                if skip > 0:
                    skip -= 1
                else:
                    sys.stdout.write(partial)
                partial = ""
                spoke = time.monotonic()
            if time.monotonic() - spoke > BEAT:
                sys.stdout.write("{}\n")
                spoke = time.monotonic()
            sys.stdout.flush()
            if not running:
                done = (folder / "result.json").is_file()
                said = (folder / "log").read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
                _print_end(done, said[-1] if said else "")
                return
            if select.select([0], [], [], POLL)[0]:
                if os.read(0, 1 << 10):
                    forget(job, asked)
                    _print_end(False, "stopped")
                return


def _print_end(done: bool, said: str) -> None:
    print(json.dumps(asdict(Line(ended=Ended(done, said)))), flush=True)


def fetch(job: str) -> None:
    """What a job made, as a tar on stdout."""
    folder = _job(job)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.add(str(path), str(path.relative_to(folder)), recursive=False)


def forget(job: str, asked: str) -> None:
    """End a job and remove what it made. A request to start it for the same ``asked`` may still come: it is refused."""
    with _one_at_a_time():
        GIVEN_UP.mkdir(exist_ok=True)
        (GIVEN_UP / _plain(asked)).touch()
        for old in _last_used_first(GIVEN_UP)[KEEP_GIVEN_UP:]:
            old.unlink()
        _remove(_job(job))


def _remove(folder: Path) -> None:
    """End a job and remove its folder."""
    if folder.is_dir():
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _stop(folder: Path) -> None:
    """End a job politely, as it has clocks to put back; then all processes it started that are left."""
    if not _runs(folder):
        return
    leader = json.loads((folder / "pid").read_text())[0]
    members = {pid: _started(pid) for pid in [leader, *_descendants(leader)]}
    for number, wait_for, patience in ((signal.SIGTERM, [leader], PATIENCE), (signal.SIGKILL, list(members), PATIENCE)):
        for pid in wait_for:
            if _started(pid) == members[pid] != "":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        end = time.monotonic() + patience
        while any(_started(pid) == members[pid] != "" for pid in wait_for) and time.monotonic() < end:
            time.sleep(POLL / 10)


def _descendants(pid: int) -> List[int]:
    """The processes a process has started, and those they have started."""
    parents: Dict[int, List[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found[1:]


def clean(*_: str) -> None:
    """Remove everything, this file too."""
    for folder in JOBS.iterdir() if JOBS.is_dir() else []:
        _remove(folder)
    shutil.rmtree(HOME, ignore_errors=True)


def about(*_: str) -> None:
    """What must be known to choose wheels for this machine."""
    import platform

    libc, libc_version = platform.libc_ver()
    found = Platform(
        python=list(sys.version_info[:3]),
        machine=platform.machine(),
        system=platform.system(),
        libc=libc,
        libc_version=libc_version,
        free_bytes=shutil.disk_usage(str(HOME)).free,
        time=time.time(),
    )
    print(json.dumps(asdict(found)))


def _job(job: str) -> Path:
    return JOBS / _plain(job)


def _plain(name: str) -> str:
    if not name.isalnum():
        raise ValueError("%r is no name here" % name)
    return name


def _is_hash(name: str) -> bool:
    return len(name) == 64 and all(c in "0123456789abcdef" for c in name)


def _runs(folder: Path) -> bool:
    """Whether a job's process is alive, and no other that got its number."""
    try:
        pid, started = json.loads((folder / "pid").read_text())
    except OSError:
        return False
    return bool(started) and bool(started == _started(pid))


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty for one that is gone or a zombie."""
    try:
        fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write that becomes ``path`` when it is complete."""
    part = path.with_name("%s.%d.part" % (path.name, os.getpid()))
    try:
        yield part
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _say(done: "subprocess.CompletedProcess[bytes]") -> None:
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise RuntimeError(said[-1] if said else "exit status %d" % done.returncode)


REQUESTS: Dict[str, Callable[..., None]] = {
    f.__name__: f for f in (missing, receive, venv, install, start, follow, fetch, forget, clean, about)
}

SILENT = ("install", "start", "forget", "clean")
"""Requests with nothing to tell but that it is done. A login shell may say goodbye after that."""


def main(request: str, *arguments: str) -> int:
    sys.stdout.buffer.write(MARK)
    sys.stdout.buffer.flush()
    try:
        REQUESTS[request](*arguments)
        if request in SILENT:
            print("null")
    except Exception as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0
