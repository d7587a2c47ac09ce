"""What is under way for a device, so that all of it can be ended at once from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar
from weakref import WeakSet


class Killable(Protocol):
    """A process, in whatever wrapping."""

    def kill(self) -> None: ...


T = TypeVar("T", bound=Killable)


class Begun:
    """The processes a device has begun.

    Attributes:
        cancelled: set when all is to end, for who waits for something else, or would try again.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._processes: WeakSet[Killable] = WeakSet()

    def add(self, process: T) -> T:
        """Have this process ended with the others."""
        with self._lock:
            self._processes.add(process)
            closed = self._closed
        if closed:
            process.kill()
        return process

    def cancel(self, goodbye: Callable[[], None] = lambda: None) -> None:
        """End all of them, and whatever is added later. Who waits for one gets its error.

        Args:
            goodbye: called before, while new ones can still be begun.
        """
        self.cancelled.set()
        goodbye()
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        for process in processes:
            process.kill()
