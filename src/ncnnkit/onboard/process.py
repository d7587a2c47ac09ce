"""The CPUs, the memory and the signals of this process."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator, List, NoReturn, Optional, Sequence

from .sysfs import system_memory_mb

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that ask a process to end."""


def usable_cpus() -> Optional[List[int]]:
    """The CPUs that this process may use; None if the system does not report them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def available_cores(root: str = "/") -> int:
    """The number of threads that can run at the same time: the CPUs of this process, within its container's CPU quota.

    Args:
        root: the folder that contains ``sys``.

    Source: the kernel's ``admin-guide/cgroup-v2.rst``, ``cpu.max``.
    """
    cpus = usable_cpus()
    count = len(cpus) if cpus else os.cpu_count() or 1
    try:
        quota, period = (Path(root) / "sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no quota
        pass
    return max(1, count)


def side_by_side(threads: Optional[int], most: int) -> int:
    """How many processes of one thread share some work: one for each core, and no more than there is work for.

    Args:
        threads: how many threads are asked for; None: as many as cores.
        most: how many parts the work has.
    """
    cores = available_cores()
    return max(1, min(threads or cores, cores, most))


def pin(cpus: Optional[Sequence[int]]) -> None:
    """Pin this process, and the threads that it will start, to these CPUs."""
    if not cpus:
        return
    usable = usable_cpus()
    if usable is None or not set(cpus) <= set(usable):
        raise RuntimeError("cannot pin to the CPUs %s; the usable CPUs are %s" % (list(cpus), usable or "unknown"))
    os.sched_setaffinity(0, cpus)


def own_memory_mb(field: str) -> float:
    """A field of /proc/self/status in MB (10^6 bytes); 0 if there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def limit_self(file_bytes: Optional[int] = None, memory: str = "MemAvailable") -> None:
    """Bound what this process and its children may take from now on, because they read what a stranger wrote.

    They may have :data:`MOST_FILES` open, and leave no core dumps.

    Args:
        file_bytes: the largest file that may be written. None: any.
        memory: the field of ``/proc/meminfo`` that says how much memory may be taken: what is free now, or ``MemTotal``
            for a process that lives for long.
    """
    free = system_memory_mb(memory)
    # RLIMIT_DATA counts private memory that can be written, so neither reserved addresses nor mapped files.
    wanted = {resource.RLIMIT_NOFILE: MOST_FILES, resource.RLIMIT_CORE: 0}
    if free:
        wanted[resource.RLIMIT_DATA] = int((own_memory_mb("VmData") + max(free, LEAST_FREE_MB)) * 1e6)
    if file_bytes is not None:
        wanted[resource.RLIMIT_FSIZE] = file_bytes
    for kind, most in wanted.items():
        soft, hard = (math.inf if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(kind))
        least = min(most, soft, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (int(least), int(least)))


MOST_FILES = 1024
LEAST_FREE_MB = 1000.0  # what is in the kernel's caches is not always counted as free


def reset_peak() -> None:
    """Reset the peak memory, VmHWM, to the present memory, where the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def drop_file_cache(path: str) -> None:
    """Ask the kernel to drop a file's pages from the cache, so that the next load reads the disk."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def guarded(work: Callable[[], None]) -> NoReturn:
    """Do the work in a child process. It is killed when stdin ends, because nobody needs its result then.

    ncnn's Python module holds the GIL while it computes, so a working process cannot watch stdin. This process watches
    it, and ends with the exit status of its child. Like a shell it reports a signal as an exit status above 128.
    """
    ours, childs = os.pipe()  # only the child holds the other end, so the pipe breaks when the child ends
    child = os.fork()
    if not child:
        os.close(ours)
        die_with_parent()
        work()
        sys.exit()
    os.close(childs)
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    if _first_broken(ours, 0) != ours:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise an exception instead of ending the program at once. Existing handlers stay."""
    changed: List[signal.Signals] = []

    def end(number: int, _: object) -> None:
        for other in changed:  # a second signal must not disturb the cleaning up
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        changed += [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def end_with_stdin() -> None:
    """Send this process a SIGTERM when its stdin ends."""

    def watch() -> None:
        _first_broken(0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _first_broken(*descriptors: int) -> int:
    """Wait until the other end of one of these pipes or sockets is closed. Returns which one."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, getattr(select, "POLLRDHUP", 0))  # POLLHUP is always reported
    return poll.poll()[0][0]


def die_with_parent() -> None:
    """Make the kernel kill this process when the thread that forked it ends (Linux only)."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
