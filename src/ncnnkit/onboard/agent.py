"""The command ``agent``: stores files by their hash on a board, and runs jobs that survive a lost connection.

It uses only the standard library, because it runs before ncnn and numpy are installed. ``agent REQUEST ARG…`` answers
one request with a line of JSON. Data comes over stdin and goes over stdout, after the mark. A failure is one line on
stderr and exit status 1.

Everything is in one folder, which also contains the folder of this program:

    program-HASH/         this program
    venv-HASH/            Python with ncnn and numpy
    files/SHA256          the files that were sent, by the hash of their content; each is sent once
    jobs/ID/              one job: job.json, progress (a JSON line for each step), log, result.json, pid
    given-up/ASKED        a job that was forgotten, named by the number of the client
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
"""The number of bytes of files that are kept although no request or job needs them. The files used last are kept. They
never take more than a quarter of the disk."""
KEEP_JOBS = 8  # finished jobs with results that nobody fetched; the latest are kept
KEEP_VENVS = 2  # the ones used last
KEEP_GIVEN_UP = 100  # the ones forgotten last; a late request arrives within seconds

POLL = 0.1  # seconds between two reads of a job's progress
PATIENCE = 1.0  # seconds for a job to restore the clocks and end; if it fails, the next job restores them
BEAT = 5.0  # seconds of silence after which a line is sent anyway, to detect a dead connection


def missing(*_: str) -> None:
    """Print which hashes on stdin have no file here, and make room for these files.

    The content of each file is read and compared with its name: it may be damaged since it was received.
    """
    hashes = json.load(sys.stdin)
    here = [name for name in hashes if _is_whole(FILES / name)]
    for name in here:
        os.utime(FILES / name)
    _evict_files(set(hashes))
    print(json.dumps(sorted(set(hashes) - set(here))))


def _is_whole(path: Path) -> bool:
    """Whether a file has the hash that is its name. Anything else of that name is removed."""
    if not path.is_symlink() and path.is_file():
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() == path.name:
            return True
    with contextlib.suppress(OSError):
        path.unlink()
    return False


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
    """Store the files of the tar on stdin. Each is named by its hash."""
    FILES.mkdir(exist_ok=True)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None or not _is_hash(member.name):
                raise ValueError("%r is not the name of a file, which is its hash" % member.name)
            digest = hashlib.sha256()
            with _whole(FILES / member.name) as part:
                with open(part, "wb") as file:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
                        file.write(chunk)
                if digest.hexdigest() != member.name:
                    raise ValueError("%s was damaged during the transfer" % member.name)


def venv(name: str) -> None:
    """Whether the virtual environment ``name`` exists."""
    folder = HOME / name
    there = (folder / "complete").is_file()
    if there:
        os.utime(folder)
    print(json.dumps(there))


def install(name: str, *wheels: str) -> None:
    """Make the virtual environment ``name`` from wheels that were sent, which are given by their hashes.

    A wheel is a zip file of the files for site-packages. So this does not need pip or ensurepip, which boards often
    lack.
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
    """The name of a job: a hash of the program, of the Python that it runs in, and of the job's text."""
    return hashlib.sha256(b"\0".join((program.encode(), python.encode(), text))).hexdigest()[:24]


def start(job: str, asked: str, python: str) -> None:
    """Start the job on stdin in the background, unless it exists.

    It is not started if ``forget`` came before with the same ``asked``: the client has given up, and this request is
    late.
    """
    folder, text = _job(job), sys.stdin.buffer.read()
    if job_name(PROGRAM.name, python, text) != job:
        raise ValueError("the job was damaged during the transfer")
    with _one_at_a_time():
        if (GIVEN_UP / _plain(asked)).exists():
            raise ValueError("the job was cancelled")
        if (folder / "pid").is_file():
            return  # started before the connection broke: the client follows it
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
    """A lock: only one request at a time starts or ends jobs."""
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def follow(job: str, asked: str, line: str) -> None:
    """Print a job's progress from line ``line`` on, until the job ends. The last line says how it ended.

    A line on stdin makes the agent forget the job, which is faster than another request. The end of stdin means that
    the connection broke: following ends, and the job goes on.
    """
    folder = _job(job)
    if not (folder / "pid").is_file():
        raise FileNotFoundError("no such job here")
    skip, spoke = int(line), time.monotonic()
    with open(folder / "progress") as progress:
        partial = ""
        while True:
            running = _runs(folder)  # before reading, so that nothing is missed if it ends now
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
    """Write the results of a job as a tar to stdout."""
    folder = _job(job)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.add(str(path), str(path.relative_to(folder)), recursive=False)


def forget(job: str, asked: str) -> None:
    """End a job and remove its results. A late request to start it with the same ``asked`` is refused."""
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
    """End a job with SIGTERM, because it may have clocks to restore. Then kill its remaining processes."""
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
    """The descendants of a process."""
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
    """Remove everything, including this file."""
    for folder in JOBS.iterdir() if JOBS.is_dir() else []:
        _remove(folder)
    shutil.rmtree(HOME, ignore_errors=True)


def about(*_: str) -> None:
    """Print the facts that the host needs to choose wheels for this machine."""
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
        raise ValueError("%r is not a valid name" % name)
    return name


def _is_hash(name: str) -> bool:
    return len(name) == 64 and all(c in "0123456789abcdef" for c in name)


def _runs(folder: Path) -> bool:
    """Whether a job's process is alive. Another process that got the same number does not count."""
    try:
        pid, started = json.loads((folder / "pid").read_text())
    except OSError:
        return False
    return bool(started) and bool(started == _started(pid))


def _started(pid: int) -> str:
    """The start time of a process in kernel ticks; empty if it does not exist or is a zombie."""
    try:
        fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A new file to write. It is renamed to ``path`` when it is complete."""
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
"""Requests that only answer that they are done. A login shell may print more after the answer."""


def main(request: str, *arguments: str) -> int:
    """Answer one request. Returns the exit status."""
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
