"""Serving processes that batches take turns with: :class:`Net`.

A batch runs in a thread, here or in a worker of a cluster. It reads its samples there, and a serving process of one
thread runs the network. The process stays open for the next batch.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Artifact
from ..batches import WorkerLost, Workers
from ..model import ncnnfile
from ..model.graph import Graph
from ..onboard.child import LOAD_TIMEOUT, WorkerError
from ..onboard.process import available_cores
from ..onboard.scratch import Scratch
from .serving import CheckedChild

IDLE = 60.0
"""Seconds after which a process that no batch uses is ended. A worker of a cluster outlives the run that used it."""


class Net:
    """A network that batches run. When it is pickled, it takes its files with it.

    Args:
        model: the network.
        workers: run the batches.
        threads: the threads of each serving process. Outputs may differ in their last bits with the number of threads.
        keep_blobs: keep all blobs of an inference, so that they can be read.
    """

    def __init__(
        self, model: Artifact | Graph, workers: Workers, *, threads: int = 1, keep_blobs: bool = False
    ) -> None:
        artifact = Artifact.of(model)
        self.key, self.owner = uuid.uuid4().hex, workers.token
        self._load: dict[str, Any] = {
            "backend": "cpu", "options": artifact.options, "threads": threads, "keep_blobs": keep_blobs
        }  # fmt: skip
        self._folder = Scratch()
        ncnnfile.save(artifact.graph, self._param)
        workers.ends(end_processes)

    @property
    def _param(self) -> Path:
        return Path(self._folder.name) / "model.param"

    @property
    def _bin(self) -> Path:
        return self._param.with_suffix(".bin")

    def __getstate__(self) -> tuple[Any, ...]:
        return self.key, self.owner, self._load, self._param.read_bytes(), self._bin.read_bytes()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.key, self.owner, self._load, param, weights = state
        self._folder = Scratch()
        self._param.write_bytes(param)
        self._bin.write_bytes(weights)

    @contextmanager
    def process(self) -> Iterator[CheckedChild]:
        """A serving process that has loaded the network. It serves this batch alone until the block ends.

        Raises:
            WorkerLost: the process died.
            WorkerError: it refuses a request. It is then ended, because its state is unknown.
        """
        child = _PROCESSES.take(self.key, self.owner)
        try:
            if child.loaded != self.key:
                child.process.ask(
                    "load", timeout=LOAD_TIMEOUT, param=str(self._param), bin=str(self._bin), **self._load
                )
                child.loaded = self.key
            yield child.process
        except BaseException as error:
            _PROCESSES.drop(child)
            if isinstance(error, WorkerError) and error.crashed:
                raise WorkerLost(error.sentence) from None
            raise
        _PROCESSES.give_back(child)


@dataclass(eq=False)
class _Process:
    """A serving process, the network that it has loaded, and since when it is idle."""

    process: CheckedChild
    owner: str
    loaded: str = ""
    since: float = 0.0


class _Processes:
    """The serving processes that the batches in this Python process use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._ended: set[str] = set()
        self._timer: threading.Timer | None = None

    def take(self, key: str, owner: str) -> _Process:
        """An idle process with this network, otherwise an idle one of the same owner, otherwise a new one."""
        with self._lock:
            ours = [each for each in self._idle if each.owner == owner]
            found = next((each for each in ours if each.loaded == key), ours[0] if ours else None)
            if found is not None:
                self._idle.remove(found)
                self._busy.add(found)
                return found
        made = _Process(CheckedChild(), owner)
        with self._lock:
            over = owner in self._ended
            if not over:
                self._busy.add(made)
        if over:
            made.process.close()
            raise WorkerLost("the work was given up")
        return made

    def give_back(self, child: _Process) -> None:
        """Keep a process for the next batch."""
        child.since = time.monotonic()
        with self._lock:
            self._busy.discard(child)
            over = child.owner in self._ended
            if not over:
                self._idle.append(child)
            surplus = [child] if over else self._idle[: -available_cores()]
            self._idle = [each for each in self._idle if each not in surplus]
            self._watch()
        for each in surplus:
            each.process.close()

    def drop(self, child: _Process) -> None:
        """End a process."""
        with self._lock:
            self._busy.discard(child)
        child.process.close()

    def end(self, owner: str) -> None:
        """End all processes of an owner. Batches that wait for one get a WorkerLost."""
        with self._lock:
            self._ended.add(owner)
            for busy in self._busy:
                if busy.owner == owner:
                    busy.process.kill()  # its batch closes it
            idle = [each for each in self._idle if each.owner == owner]
            self._idle = [each for each in self._idle if each.owner != owner]
        for each in idle:
            each.process.close()

    def _watch(self) -> None:
        if self._timer is None and self._idle:
            self._timer = threading.Timer(IDLE, self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        with self._lock:
            late = [each for each in self._idle if time.monotonic() - each.since >= IDLE]
            self._idle = [each for each in self._idle if each not in late]
            self._timer = None
            self._watch()
        for each in late:
            each.process.close()


_PROCESSES = _Processes()


def end_processes(owner: str) -> None:
    """End the serving processes that belong to the workers with this token."""
    _PROCESSES.end(owner)
