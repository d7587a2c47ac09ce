"""What a process can say of itself and do to itself: its CPUs, its memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import List, Optional, Sequence


def usable_cpus() -> Optional[List[int]]:
    """The CPUs this process may use; None where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def pin(cpus: Optional[Sequence[int]]) -> None:
    """Keep this process, and threads it will start, on these CPUs."""
    if not cpus:
        return
    usable = usable_cpus()
    if usable is None or not set(cpus) <= set(usable):
        raise RuntimeError("cannot pin to the CPUs %s: usable are %s" % (list(cpus), usable or "unknown"))
    os.sched_setaffinity(0, cpus)


def own_memory_mb(field: str) -> float:
    """A field of /proc/self/status in MB (10^6 bytes); 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def reset_peak() -> None:
    """Let VmHWM start again from the present memory, where the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def drop_file_cache(path: str) -> None:
    """Ask the kernel to forget a file's pages, so that the next load reads the disk."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
