"""The processes that a test has started, as Linux shows them under /proc.

Threads and processes may end while they are listed. The kernel then has no file of that name any more, or it answers
that there is no such process. Neither is a failure of a test: what has ended has no children.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ENDED = (FileNotFoundError, ProcessLookupError)


def children(pid: int | None = None) -> list[int]:
    """The processes that the threads of a process have started, by default of this process."""
    tasks, found = Path(f"/proc/{pid or os.getpid()}/task"), []
    with suppress(*ENDED):
        for task in os.listdir(tasks):
            with suppress(*ENDED):
                found += [int(child) for child in (tasks / task / "children").read_text().split()]
    return found


def descendants(pid: int | None = None) -> list[int]:
    """The children of a process, their children, and so on."""
    found = children(pid)
    for child in found:  # the list grows while it is read
        found += children(child)
    return found


def open_processes(pids: Iterable[int]) -> dict[int, int]:
    """Descriptors of the processes that have not ended, by number. ``select`` says when one ends."""
    found = {}
    for pid in pids:
        with suppress(*ENDED):
            found[pid] = os.pidfd_open(pid)
    return found
