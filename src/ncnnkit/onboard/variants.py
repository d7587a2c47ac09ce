"""Loads a variant of a job in a process, and prepares and watches its timing."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Union

from .child import Child
from .clocks import fixed_clocks, restore_clocks
from .facts import VulkanDevice
from .messages import Message
from .protocol import NCNN, ClocksReport, JobVariant, MeasureJob, ProfileJob, TuneJob
from .sampler import Sampler
from .sysfs import system_memory_mb

SPARE = 2.0  # the free memory must be this many times what a process needs; a board with full memory swaps or kills
BARE_MB = 100.0  # MB of a process with Python, NumPy and ncnn


def room_for(network_mb: float) -> float:
    """How many more processes fit into the memory, if each has a network of this size in MB."""
    free = system_memory_mb("MemAvailable")
    return math.inf if free is None else free / (SPARE * (network_mb + BARE_MB))


class KeptOpen:
    """A serving process that stays open between steps if the memory has room for another one like it.

    On a small board it is started again for every step. A context manager; leaving it ends the process.

    Args:
        begin: starts the process and makes it ready for a step.

    Attributes:
        peak_mb: the largest memory of its network, MB.
    """

    def __init__(self, begin: Callable[[], Child]) -> None:
        self._begin = begin
        self._child: Optional[Child] = None
        self.peak_mb = 0.0

    def __enter__(self) -> KeptOpen:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextlib.contextmanager
    def step(self) -> Iterator[Child]:
        """The process, for one step. A process that failed is not used again."""
        child = self._child = self._child or self._begin()
        crowded = True
        try:
            yield child
            self.peak_mb = max(self.peak_mb, child.ask("memory")[0].peak_mb)
            crowded = room_for(self.peak_mb) < 1
        finally:
            if crowded:
                self._close()

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def begin(caches: str, *steps: Callable[[Child], object], engine: str = NCNN) -> Child:
    """A new serving process that has done these steps. If a step fails, the process is ended."""
    child = Child(caches=caches, engine=engine)
    try:
        for step in steps:
            step(child)
    except BaseException:
        child.close()
        raise
    return child


@contextlib.contextmanager
def held_clocks(job: Union[MeasureJob, ProfileJob, TuneJob]) -> Iterator[Optional[ClocksReport]]:
    """Hold the clocks, if the job asks for it. Clocks that a killed run left fixed are restored in any case."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    journal = Path(job.journal or os.path.join(cache, "ncnnkit", "clocks.json"))
    restore_clocks(journal)
    if not job.fix_clocks:
        yield None
        return
    with fixed_clocks(journal) as report:
        yield report


def watching(variant: JobVariant) -> Sampler:
    """The sampler for a variant."""
    return Sampler(cpus=variant.cpus or None, on_gpu=variant.backend == "vulkan")


def loading(variant: JobVariant) -> Message:
    """The fields of the request ``load`` for a variant."""
    model = variant.model
    common = {"backend": variant.backend, "threads": variant.threads, "cpus": variant.cpus}
    if model.engine == NCNN:
        param, weights = model.files
        return dict(common, param=param, bin=weights, options=model.options, switches=variant.switches)
    return dict(
        common, files=model.files, precision=model.precision, inputs=model.inputs, outputs=model.outputs,
        shapes=model.shapes,
    )  # fmt: skip


def on_the_cpu(variant: JobVariant, device: Optional[VulkanDevice]) -> bool:
    """Whether Vulkan was requested and there is no device, or only a software device."""
    return variant.backend == "vulkan" and (device is None or device.type == "cpu")


def write_whole(path: str, message: Any) -> None:
    """Write JSON to a file atomically."""
    partial = Path(path + ".part")
    partial.write_text(json.dumps(message))
    partial.replace(path)
