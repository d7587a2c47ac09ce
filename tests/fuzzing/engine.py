"""Reads changed files of a format in a process of their own, and watches it."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from mutations import LARGEST, mutated

import ncnnkit
from fuzzing import FORMATS

PACKAGE = os.path.dirname(ncnnkit.__file__)
SLOW = 2.0
"""Seconds of the processor that reading a file may take."""
HUNG = 30.0
"""Seconds after which a process that reads one file is ended."""
TIMES_THE_FILE = 100
"""Reading may take so many times the size of the file, beside the room of its format."""
ADDRESSES = 4 << 30
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
        self.format, self.folder = FORMATS[name], folder
        self.slowest = self.most = self.times = 0.0
        self.refused = False
        self._memory = _Memory()

    def address_space(self) -> int:
        """Bytes of it that this process has taken."""
        return self._memory.bytes("VmSize")

    def close(self) -> None:
        self._memory.close()

    def read(self, data: bytes) -> tuple[str, str, str]:
        """(name of the fault, empty if there is none; its text; where an error of ncnnkit comes from)."""
        self._memory.reset()
        started = time.process_time()
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
        took, grew = time.process_time() - started, self._memory.growth
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
    frames = traceback.walk_tb(error.__traceback__)
    lines = [(name, line) for frame, line in frames if (name := frame.f_code.co_filename) != __file__]
    ours = [(name, line) for name, line in lines if name.startswith(PACKAGE)] or lines[-1:] or [(__file__, 0)]
    return " ".join(f"{os.path.basename(name)}:{line}" for name, line in reversed(ours))


class _Memory:
    """The memory of this process, and its peak."""

    def __init__(self) -> None:
        self._c = ctypes.PyDLL(None)
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def close(self) -> None:
        for descriptor in (self._status, self._reset):
            os.close(descriptor)

    def reset(self) -> None:
        """Let the peak be what the process holds now.

        Free memory goes back to the kernel before, because a reader that took it would not raise the peak.
        """
        self._c.malloc_trim(0)
        os.pwrite(self._reset, b"5", 0)

    def bytes(self, key: str) -> int:
        found = re.search(rb"%s:\s+(\d+) kB" % key.encode(), os.pread(self._status, 1 << 14, 0))
        return int(found[1]) * 1024 if found else 0

    @property
    def growth(self) -> int:
        """How far the peak was above what the process holds now, bytes. Free memory is not held."""
        peak = self.bytes("VmHWM")
        self._c.malloc_trim(0)
        return max(0, peak - self.bytes("VmRSS"))


# ---------------------------------------------------------------------------------------------------------- the process


class Shared:
    """What a process reads, and how much it has read, where its parent sees it when the process dies."""

    _HEAD = struct.Struct("<4Q")  # the number of the file, its size, and the two counts

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._HEAD.size + 2 * LARGEST)

    @property
    def _head(self) -> tuple[int, ...]:
        return self._HEAD.unpack_from(self._memory)

    def begin(self, index: int) -> None:
        """A process starts with this file, if it does not die before."""
        _, _, files, refused = self._head
        self._HEAD.pack_into(self._memory, 0, index, 0, files, refused)

    def put(self, index: int, data: bytes) -> None:
        """A file that is read next."""
        _, _, files, refused = self._head
        self._memory[self._HEAD.size : self._HEAD.size + len(data)] = data
        self._HEAD.pack_into(self._memory, 0, index, len(data), files + 1, refused)

    def refuse(self) -> None:
        """That file was refused."""
        index, size, files, refused = self._head
        self._HEAD.pack_into(self._memory, 0, index, size, files, refused + 1)

    @property
    def index(self) -> int:
        return self._head[0]

    @property
    def data(self) -> bytes:
        return self._memory[self._HEAD.size : self._HEAD.size + self._head[1]]

    @property
    def counts(self) -> tuple[int, int]:
        """(files, how many of them were refused)."""
        return self._head[2], self._head[3]


@dataclass(frozen=True)
class Work:
    """What a process is to do.

    Attributes:
        format: the name of the format.
        seed: of the chance.
        first: number of the first file.
        count: number of files, the earlier ones included.
        until: a time of ``time.monotonic``.
        pool: files to change: the valid ones, then those with new kinds of errors.
        seeds: the number of the valid ones.
        coverage: whether atheris chooses them.
        folder: an empty folder.
    """

    format: str
    seed: int
    first: int
    count: int
    until: float
    pool: list[bytes]
    seeds: int
    coverage: bool
    folder: Path


def _work(work: Work, shared: Shared, told: Connection) -> None:
    """Read changed files, and tell of each second, fault and new kind of error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    signal.signal(signal.SIGPROF, _too_slow)
    warnings.simplefilter("ignore")
    _silence()
    place = work.folder / "files"
    place.mkdir()
    reader = Reader(work.format, place)
    for seed in work.pool[:20]:  # what the libraries take once is nobody's fault
        reader.read(seed)
    reader.slowest = reader.most = reader.times = 0.0
    limit = reader.address_space() + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    teller = _Teller(work, reader, shared, told)
    if work.coverage:
        _guided(work, teller)
    for index in range(work.first, work.count):
        if not teller.go_on():
            break
        random = Random(f"{work.format} {work.seed} {index}")
        base = random.choice(work.pool[: work.seeds] if random.random() < 0.7 else work.pool)
        teller.read(index, mutated(base, random, work.pool, reader.format.kinds))
    teller.tell()


class _Teller:
    def __init__(self, work: Work, reader: Reader, shared: Shared, told: Connection) -> None:
        self.work, self.reader, self.shared, self.told = work, reader, shared, told
        self.origins: set[str] = set()
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
        if self.reader.refused:
            self.shared.refuse()
        if fault:
            self.told.send(Fault(fault, index, data, text))
        elif origin not in self.origins and len(self.work.pool) < POOL and len(data) < LARGEST // 8:
            self.work.pool.append(data)
            self.told.send(data)
        self.origins.add(origin)

    def tell(self) -> None:
        reader = self.reader
        self.told.send((reader.slowest, reader.most, reader.times))


def _guided(work: Work, teller: _Teller) -> None:
    """Let atheris choose the files, by the lines of ncnnkit that they run."""
    import atheris

    index = work.first

    def change(data: bytes, most: int, seed: int) -> bytes:
        return mutated(data, Random(seed), work.pool, teller.reader.format.kinds)[:most]

    def once(data: bytes) -> None:
        nonlocal index
        teller.read(index, data)
        index += 1
        if not teller.go_on() or index >= work.count:
            teller.tell()
            os._exit(0)

    seeds = work.folder / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(work.pool):
        (seeds / str(number)).write_bytes(seed)
    limits = [f"-max_len={LARGEST}", "-rss_limit_mb=0", f"-timeout={HUNG:.0f}", "-verbosity=0"]
    seed_option = f"-seed={work.seed + work.first + 1}"
    atheris.Setup([sys.argv[0], seed_option, *limits, str(seeds)], once, custom_mutator=change)
    atheris.Fuzz()  # never returns


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise Slow(f"more than {SLOW:g} s")


def _silence() -> None:
    """Nothing that libraries print is shown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


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
    result, shared = Result(name), Shared()
    seeds = FORMATS[name].seeds()
    pool = [*seeds, *(path.read_bytes() for path in corpus(name))]
    begun = time.monotonic()
    first = 0
    while first < count and time.monotonic() - begun < seconds:
        with tempfile.TemporaryDirectory(dir=_memory_folder(), ignore_cleanup_errors=True) as folder:
            work = Work(name, seed, first, count, begun + seconds, list(pool), len(seeds), coverage, Path(folder))
            first = _one_process(work, shared, pool, result, progress)
        result.seconds = time.monotonic() - begun
    return result


def _one_process(work: Work, shared: Shared, pool: list[bytes], result: Result, progress: Progress | None) -> int:
    """The number of the file after the last one."""
    ours, theirs = fork.Pipe(duplex=False)
    shared.begin(work.first)
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
            result.files, result.refused = shared.counts
            if progress:
                progress(result)
    finally:
        child.kill()
        child.join()
        result.files, result.refused = shared.counts
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
        slowest, most, times = message
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
    return sorted(path for path in (Path(__file__).parent.parent / "corpus" / name).glob("*") if path.is_file())


def replay(name: str, files: Sequence[bytes]) -> list[tuple[str, str]]:
    """(fault, text) of each of these files, which are read one after the other in this process."""
    previous = signal.signal(signal.SIGPROF, _too_slow)
    try:
        with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = Reader(name, Path(folder))
            for seed in reader.format.seeds()[:3]:
                reader.read(seed)
            found = [reader.read(data)[:2] for data in files]
            reader.close()
            return found
    finally:
        signal.signal(signal.SIGPROF, previous)
