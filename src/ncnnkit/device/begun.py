"""The processes that are running for a device, so that another thread can end all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar
from weakref import WeakSet


class Killable(Protocol):
    """An object with a process that can be killed."""

    def kill(self) -> None: ...


T = TypeVar("T", bound=Killable)


class Begun:
    """The processes that a device has started.

    Attributes:
        cancelled: an event that is set when everything is to end. Code that waits or retries checks it.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._processes: WeakSet[Killable] = WeakSet()

    def add(self, process: T) -> T:
        """Add a process, which is ended together with the others."""
        with self._lock:
            self._processes.add(process)
            closed = self._closed
        if closed:
            process.kill()
        return process

    def cancel(self, goodbye: Callable[[], None] = lambda: None) -> None:
        """End all processes, and any that are added later. A caller that waits for one gets its error.

        Args:
            goodbye: called first, while new processes can still be started.
        """
        self.cancelled.set()
        goodbye()
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        for process in processes:
            process.kill()
