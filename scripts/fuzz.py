#!/usr/bin/env python3
"""Change files of the formats that ncnnkit reads, and read them: each is read, or refused with an error of ncnnkit.

    scripts/fuzz.py                             every format, 1000 changed files of each
    scripts/fuzz.py param npz --count 100000    some formats
    scripts/fuzz.py --seconds 60 --seed 7       at most a minute for each format, other files
    scripts/fuzz.py onnx --coverage             guided by the lines that run; needs `pip install atheris`
    scripts/fuzz.py param --replay FILE…        read these files

The formats are in tests/fuzzing, the changes in tests/mutations.py. A fault is another exception, a reading
that takes more than 2 seconds of the processor, one that takes more memory than the file justifies, or the death of the
process. Files that show a fault are saved in --out, under the name of the fault, the seed and the number of the file:
the same command makes the same files. Files with a new kind of error are changed further.

The result is a table as in docs/security.md. The exit status is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "src"))
import mutations  # noqa: E402

SLOW = 2.0
"""Seconds of the processor that reading a file may take."""
HUNG = 30.0
"""Seconds after which a process that reads one file is ended."""
TIMES_THE_FILE = 100
"""Reading may take so many times the size of the file, beside the room of its format."""
ADDRESSES = 2 << 30
"""Bytes of address space that a process may take while it reads."""
POOL = 400
"""Files with new kinds of errors that are kept to be changed further."""
SAVED = 3
"""Files of each fault that are saved."""

fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Fault:
    """What went wrong with a file.

    Attributes:
        name: what and where, such as ``ZeroDivisionError in shapes.py:312``; files with one name have one cause.
        index: the number of the file.
        data: the file.
        text: the exception, or what was measured.
    """

    name: str
    index: int
    data: bytes
    text: str


@dataclass
class Result:
    """The result for a format.

    Attributes:
        format: its name.
        files: number of files that were read.
        refused: how many of them were refused with an error of ncnnkit.
        seconds: of the whole.
        slowest: the longest time of the processor for one file, s.
        most_mb: the largest growth of the process's memory while it read one file, MB of 10⁶ bytes.
        times: this growth over the size of that file; the format's ``room`` is not subtracted.
        faults: the name of each fault, with its number of files.
        examples: files that show them.
    """

    format: str
    files: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    most_mb: float = 0.0
    times: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    examples: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        self.faults[fault.name] = self.faults.get(fault.name, 0) + 1
        if self.faults[fault.name] <= SAVED:
            self.examples.append(fault)


class Slow(BaseException):
    """Reading took too long. No reader catches it."""


class Reader:
    """Reads files of a format in this process, and measures it.

    Args:
        name: the format.
        folder: an empty folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from fuzzing import FORMATS

        self.format, self.folder = FORMATS[name], folder
        self.slowest = self.most = self.times = 0.0
        self.refused = False

    def read(self, data: bytes) -> tuple[str, str, str]:
        """(name of the fault, empty if there is none; its text; where an error of ncnnkit comes from)."""
        started = time.process_time()
        before = _reset_peak()
        fault = text = origin = ""
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        try:
            self.format.read(self.folder, data)
        except self.format.raises as error:
            origin = _place(error)
        except (Exception, Slow) as error:
            fault = f"{type(error).__name__} in {_place(error).partition(' ')[0]}"
            text = "".join(traceback.format_exception(error, limit=-12))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self.refused = bool(origin)
        took, grew = time.process_time() - started, max(0, _peak() - before)
        self.slowest = max(self.slowest, took)
        if grew > self.most:
            self.most, self.times = grew, grew / max(len(data), 1)
        if not fault and took > SLOW:
            fault, text = "slow", f"{took:.1f} s"
        if not fault and grew > self.format.room + TIMES_THE_FILE * len(data):
            fault, text = "memory", f"{grew / 1e6:.0f} MB for {len(data)} bytes"
        return fault, text, origin


def _place(error: BaseException) -> str:
    """Where an exception comes from: the last line of ncnnkit, and all lines above it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "ncnnkit" in frame.filename]
    return " ".join((ours or [f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"])[::-1])


def _status(key: str) -> int:
    """Bytes of memory of this process, by its name in /proc."""
    with open("/proc/self/status", "rb") as file:
        found = re.search(rb"%s:\s+(\d+) kB" % key.encode(), file.read())
    return int(found[1]) * 1024 if found else 0


def _reset_peak() -> int:
    """Let the peak of this process's memory be what it holds now; returns that."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


# ---------------------------------------------------------------------------------------------------------- the process


class Shared:
    """The file that a process reads, where its parent sees it when the process dies."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 + 2 * mutations.LARGEST)

    def put(self, index: int, data: bytes) -> None:
        self._memory[16 : 16 + len(data)] = data
        self._memory[:16] = index.to_bytes(8, "little") + len(data).to_bytes(8, "little")

    @property
    def index(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @property
    def data(self) -> bytes:
        return self._memory[16 : 16 + int.from_bytes(self._memory[8:16], "little")]


@dataclass(frozen=True)
class Work:
    """What a process is to do.

    Attributes:
        format: the name of the format.
        seed: of the chance.
        first: number of the first file.
        count: number of files, the earlier ones included.
        until: a time of ``time.monotonic``.
        pool: files to change.
        coverage: whether atheris chooses them.
    """

    format: str
    seed: int
    first: int
    count: int
    until: float
    pool: list[bytes]
    coverage: bool


def _work(work: Work, shared: Shared, told: Connection) -> None:
    """Read changed files, and tell of each second, fault and new kind of error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    signal.signal(signal.SIGPROF, _too_slow)
    warnings.simplefilter("ignore")
    with _quiet(), tempfile.TemporaryDirectory(dir=_memory_folder()) as name:
        reader = Reader(work.format, Path(name))
        for seed in work.pool[:20]:  # what the libraries take once is nobody's fault
            reader.read(seed)
        reader.slowest = reader.most = reader.times = 0.0
        limit = _status("VmSize") + ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        teller = _Teller(work, reader, shared, told)
        if work.coverage:
            _guided(work, teller)
        else:
            for index in range(work.first, work.count):
                if not teller.go_on():
                    break
                random = Random(f"{work.format} {work.seed} {index}")
                base = random.choice(work.pool)
                teller.read(index, mutations.mutated(base, random, work.pool, reader.format.kinds))
        teller.tell()


class _Teller:
    def __init__(self, work: Work, reader: Reader, shared: Shared, told: Connection) -> None:
        self.work, self.reader, self.shared, self.told = work, reader, shared, told
        self.origins: set[str] = set()
        self.files = self.refused = 0
        self.next = time.monotonic() + 0.5

    def go_on(self) -> bool:
        now = time.monotonic()
        if now > self.next:
            self.tell()
            self.next = now + 0.5
        return now < self.work.until

    def read(self, index: int, data: bytes) -> None:
        self.shared.put(index, data)
        fault, text, origin = self.reader.read(data)
        self.files += 1
        self.refused += self.reader.refused
        if fault:
            self.told.send(Fault(fault, index, data, text))
        elif origin not in self.origins and len(self.work.pool) < POOL and len(data) < mutations.LARGEST // 8:
            self.work.pool.append(data)
            self.told.send(data)
        self.origins.add(origin)

    def tell(self) -> None:
        reader = self.reader
        self.told.send((self.files, self.refused, reader.slowest, reader.most, reader.times))
        self.files = self.refused = 0


def _guided(work: Work, teller: _Teller) -> None:
    """Let atheris choose the files, by the lines of ncnnkit that they run."""
    import atheris

    index = work.first

    def change(data: bytes, most: int, seed: int) -> bytes:
        return mutations.mutated(data, Random(seed), work.pool, teller.reader.format.kinds)[:most]

    def once(data: bytes) -> None:
        nonlocal index
        teller.read(index, data)
        index += 1
        if not teller.go_on() or index >= work.count:
            teller.tell()
            os._exit(0)

    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(work.pool):
            (Path(seeds) / str(number)).write_bytes(seed)
        limits = [f"-max_len={mutations.LARGEST}", "-rss_limit_mb=0", f"-timeout={HUNG:.0f}", "-verbosity=0"]
        atheris.Setup([sys.argv[0], f"-seed={work.seed + work.first + 1}", *limits, seeds], once, custom_mutator=change)
        atheris.Fuzz()


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise Slow(f"more than {SLOW:g} s")


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that libraries print is shown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    yield


def _memory_folder() -> str | None:
    """A folder in memory, where there is one: files are written for each reading."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# ----------------------------------------------------------------------------------------------------------- the parent

Progress = Callable[[Result], None]


def fuzz(
    name: str,
    count: int,
    seed: int = 0,
    seconds: float = 1e9,
    *,
    coverage: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Read changed files of a format in a process of their own, which is started again where it dies.

    Args:
        name: the format.
        count: number of files.
        seed: of the chance. The same seed makes the same files.
        seconds: end after so many seconds.
        coverage: whether atheris chooses the files.
        progress: called about twice a second.
    """
    from fuzzing import FORMATS

    result, shared = Result(name), Shared()
    pool = [*FORMATS[name].seeds(), *(path.read_bytes() for path in corpus(name))]
    begun = time.monotonic()
    first = 0
    while first < count and time.monotonic() - begun < seconds:
        work = Work(name, seed, first, count, begun + seconds, list(pool), coverage)
        first = _one_process(work, shared, pool, result, progress)
        result.seconds = time.monotonic() - begun
    return result


def _one_process(work: Work, shared: Shared, pool: list[bytes], result: Result, progress: Progress | None) -> int:
    """The number of the file after the last one."""
    ours, theirs = fork.Pipe(duplex=False)
    shared.put(work.first, b"")
    child = fork.Process(target=_work, args=(work, shared, theirs), daemon=True)
    child.start()
    theirs.close()
    at, since, begun = shared.index, time.monotonic(), time.monotonic() - result.seconds
    hung = False
    try:
        while True:
            if ours.poll(0.2):
                try:
                    _take(ours.recv(), pool, result)
                except EOFError:
                    break
            if shared.index != at:
                at, since = shared.index, time.monotonic()
            elif time.monotonic() - since > HUNG and not hung:
                hung = True
                child.kill()
            result.seconds = time.monotonic() - begun
            if progress:
                progress(result)
    finally:
        child.kill()
        child.join()
    if not hung and child.exitcode == 0:
        return work.count
    died = "hangs" if hung else f"process died, {_ending(child.exitcode)}"
    result.add(Fault(died, shared.index, shared.data, died))
    return shared.index + 1


def _take(message: Any, pool: list[bytes], result: Result) -> None:
    if isinstance(message, Fault):
        result.add(message)
    elif isinstance(message, bytes):
        pool.append(message)
    else:
        files, refused, slowest, most, times = message
        result.files += files
        result.refused += refused
        result.slowest = max(result.slowest, slowest)
        if most / 1e6 > result.most_mb:
            result.most_mb, result.times = most / 1e6, times


def _ending(status: int | None) -> str:
    try:
        return signal.Signals(-(status or 0)).name
    except ValueError:
        return f"status {status}"


def corpus(name: str) -> list[Path]:
    """Files that failed once."""
    return sorted(path for path in (ROOT / "tests" / "corpus" / name).glob("*") if path.is_file())


def replay(name: str, files: Sequence[bytes]) -> list[tuple[str, str]]:
    """(fault, text) of each of these files, which are read one after the other in this process."""
    previous = signal.signal(signal.SIGPROF, _too_slow)
    try:
        with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = Reader(name, Path(folder))
            for seed in reader.format.seeds()[:3]:
                reader.read(seed)
            return [reader.read(data)[:2] for data in files]
    finally:
        signal.signal(signal.SIGPROF, previous)


# ---------------------------------------------------------------------------------------------------------- the command


def table(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    rows = [
        "| format | files | refused | seconds | slowest, s | most memory, MB | faults |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results:
        share = row.refused / max(row.files, 1)
        rows.append(
            f"| {row.format} | {row.files:,} | {share:.0%} | {row.seconds:.0f} | {row.slowest:.2f} | {row.most_mb:.1f} "
            f"| {sum(row.faults.values()) or '–'} |"
        )
    files, seconds = (sum(getattr(row, name) for row in results) for name in ("files", "seconds"))
    faults = sum(sum(row.faults.values()) for row in results)
    rows.append(f"| all | {files:,} | | {seconds:.0f} | | | {faults or '–'} |")
    return "\n".join(rows)


def save(result: Result, seed: int, out: Path) -> None:
    """Write the files that show faults."""
    for fault in result.examples:
        out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9]+", "-", fault.name)
        path = out / f"{result.format}-{name}-{seed}-{fault.index}"
        path.write_bytes(fault.data)
        path.with_name(path.name + ".txt").write_text(fault.text, encoding="utf-8", errors="replace")


def _shows(total: int) -> Progress:
    """Shows how far a format is: one line of a terminal, or a line each half minute of a log."""
    terminal = sys.stderr.isatty()
    shown = 0.0

    def show(result: Result) -> None:
        nonlocal shown
        if time.monotonic() - shown < (0.5 if terminal else 30):
            return
        shown = time.monotonic()
        speed = result.files / max(result.seconds, 1e-3)
        text = (
            f"{result.format}: {result.files:,} of {total:,} files, {speed:.0f}/s, faults {sum(result.faults.values())}"
        )
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


def main() -> int:
    from fuzzing import FORMATS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"all by default: {', '.join(FORMATS)}")
    parser.add_argument("--count", type=int, default=1000, help="files of each format (default: 1000)")
    parser.add_argument("--seconds", type=float, default=1e9, help="end each format after so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="other files for another number (default: 0)")
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the files")
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"), help="folder for files with faults")
    parser.add_argument("--json", type=Path, help="append the results to this file, a line each")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="read these files of the one format")
    args = parser.parse_args()
    unknown = [name for name in args.formats if name not in FORMATS]
    if unknown:
        parser.error(f"no format {unknown[0]!r}; one of {', '.join(FORMATS)}")
    if args.replay:
        if len(args.formats) != 1:
            parser.error("--replay needs one format")
        found = replay(args.formats[0], [path.read_bytes() for path in args.replay])
        for path, (fault, text) in zip(args.replay, found):
            print(f"{path}: {fault or 'no fault'}\n{text}")
        return int(any(fault for fault, _ in found))
    if args.coverage:
        _instrument()
    results: list[Result] = []
    try:
        for name in args.formats or FORMATS:
            show = _shows(args.count)
            results.append(fuzz(name, args.count, args.seed, args.seconds, coverage=args.coverage, progress=show))
            save(results[-1], args.seed, args.out)
            print(file=sys.stderr)
            for fault, count in results[-1].faults.items():
                print(f"{name}: {fault} ({count})", file=sys.stderr)
            if args.json:
                with args.json.open("a") as file:
                    row = {key: value for key, value in asdict(results[-1]).items() if key != "examples"}
                    file.write(json.dumps(row) + "\n")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    print(table(results))
    return int(any(row.faults for row in results))


def _instrument() -> None:
    """Let atheris see the lines of ncnnkit that run. Must come before ncnnkit is imported."""
    import pkgutil

    import atheris

    for name in [name for name in sys.modules if name.partition(".")[0] in ("ncnnkit", "fuzzing")]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["ncnnkit"]):
        import ncnnkit

        for module in pkgutil.walk_packages(ncnnkit.__path__, "ncnnkit."):
            if (
                not module.name.startswith(("ncnnkit.onboard.engines.", "ncnnkit.app.python"))
                and "__main__" not in module.name
            ):
                __import__(module.name)
        import fuzzing  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
