"""Runs on a board, for the machine that measures on it: keeps files by their hash, and jobs that outlive a connection.

Only the standard library, Python 3.9 or newer; nothing else of ncnnkit. One call a request: ``agent.py REQUEST ARG…``.
What is data comes over stdin and goes over stdout; a failure is one line on stderr and exit status 1.

Everything lies in one folder, the one this file was put in:

    files/SHA256          what was sent, by content: sent once, whoever needs it
    venv-…/               Python with ncnn and numpy
    program-…/            what jobs run, files by their names
    jobs/ID/              one job: job.json, progress (a JSON line a step), log, result.json, pid
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Callable, Dict, Iterator

HOME = Path(__file__).resolve().parent
FILES, JOBS = HOME / "files", HOME / "jobs"

POLL = 0.1  # seconds between two looks at a job's progress
BEAT = 5.0  # seconds of silence after which a line is sent all the same: a dead connection shows by it


def missing(*_: str) -> None:
    """Of the hashes on stdin, those that are not here."""
    hashes = json.load(sys.stdin)
    print(json.dumps([h for h in hashes if not (FILES / h).is_file()]))


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


def install(name: str, *wheels: str) -> None:
    """Make the virtual environment ``name`` of wheels that were sent, each given by its hash; prints its Python.

    A wheel is a zip of what goes into site-packages, so neither pip nor ensurepip is needed, which boards often lack.
    """
    folder = HOME / name
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _say(subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], capture_output=True))
        asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]
        packages = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        for wheel in wheels:
            with zipfile.ZipFile(FILES / wheel) as archive:
                archive.extractall(packages)
        _say(subprocess.run([str(python), "-c", "import ncnn, numpy"], capture_output=True))
        (folder / "complete").touch()
    print(json.dumps(str(python)))


def place(name: str, *files: str) -> None:
    """Make the folder ``name`` of files that were sent, each given as NAME=SHA256; prints where it is."""
    folder = HOME / name
    if not folder.is_dir():
        part = folder.with_name("%s.%d.part" % (name, os.getpid()))
        part.mkdir()
        for file, _, digest in (text.rpartition("=") for text in files):
            shutil.copy(str(FILES / digest), str(part / file))
        with contextlib.suppress(OSError):  # somebody else made it meanwhile
            part.replace(folder)
        shutil.rmtree(part, ignore_errors=True)
    print(json.dumps(str(folder)))


def start(job: str, python: str, program: str) -> None:
    """Start ``PROGRAM job job.json result.json`` in the background, the job being on stdin, unless it is there."""
    folder = _job(job)
    if (folder / "pid").is_file():
        return  # begun before the connection broke: follow it
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "outputs").mkdir()
    (folder / "job.json").write_bytes(sys.stdin.buffer.read())
    with open(folder / "progress", "wb") as progress, open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [python, str(HOME / program), "job", "job.json", "result.json"],
            cwd=str(folder), stdin=subprocess.DEVNULL, stdout=progress, stderr=log, start_new_session=True,
        )  # fmt: skip
    with _whole(folder / "pid") as part:
        part.write_text(json.dumps([process.pid, _started(process.pid)]))


def follow(job: str, line: str) -> None:
    """Hand the lines of a job's progress on, from ``line`` on, until it has ended; a last one says how."""
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
                print(json.dumps({"ended": done, "said": said[-1] if said else ""}), flush=True)
                return
            time.sleep(POLL)


def fetch(job: str) -> None:
    """What a job made, as a tar on stdout."""
    folder = _job(job)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.add(str(path), str(path.relative_to(folder)), recursive=False)


def stop(job: str) -> None:
    """End a job, with all its processes, politely first: it has clocks to restore."""
    folder = _job(job)
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        if not _runs(folder):
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(json.loads((folder / "pid").read_text())[0], number)
        end = time.monotonic() + patience
        while _runs(folder) and time.monotonic() < end:
            time.sleep(POLL)


def forget(job: str) -> None:
    """End a job and remove what it made."""
    if _job(job).is_dir():
        stop(job)
        shutil.rmtree(_job(job), ignore_errors=True)


def clean(*_: str) -> None:
    """Remove everything, this file too."""
    for job in JOBS.iterdir() if JOBS.is_dir() else []:
        forget(job.name)
    shutil.rmtree(HOME, ignore_errors=True)


def describe(*_: str) -> None:
    """What must be known to choose wheels for this machine."""
    import platform

    print(
        json.dumps(
            {
                "python": list(sys.version_info[:3]),
                "machine": platform.machine(),
                "system": platform.system(),
                "libc": list(platform.libc_ver()),
                "free_bytes": shutil.disk_usage(str(HOME)).free,
                "time": time.time(),
            }
        )
    )


def _job(job: str) -> Path:
    if not job.isalnum():
        raise ValueError("%r is not a job's name" % job)
    return JOBS / job


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
    f.__name__: f for f in (missing, receive, install, place, start, follow, fetch, stop, forget, clean, describe)
}


def main(*arguments: str) -> int:
    try:
        REQUESTS[arguments[0]](*arguments[1:])
    except Exception as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
