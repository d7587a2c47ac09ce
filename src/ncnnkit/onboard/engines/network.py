"""A serving process with an engine other than ncnn. It answers the requests of :mod:`ncnnkit.onboard.measuring`."""

from __future__ import annotations

import time
from dataclasses import fields
from importlib import import_module
from typing import Any, List, Optional, Tuple

import numpy as np

from ..answers import Arrays, Done, Loaded, Memory, Ran, Timed
from ..facts import VulkanDevice
from ..machine import vulkan_devices
from ..messages import Message
from ..network import repeated
from ..process import drop_file_cache, limit_self, own_memory_mb, pin, reset_peak
from . import ENGINES
from .base import Opened, Running


class EngineNetwork:
    """The network of a serving process. Each public method answers one request, as in :class:`..network.Network`."""

    def __init__(self, name: str) -> None:
        self.engine = ENGINES[name]
        self.opened: Optional[Opened] = None
        self.outputs: List[str] = []
        self.last: List[Any] = []
        self.rss_before_mb = 0.0

    def load(self, request: Message, _: Arrays) -> Tuple[Loaded, Arrays]:
        """Load ``files``. The answer has the time in ms and the device."""
        pin(request.get("cpus"))  # threads that start later inherit the affinity
        import_module(self.engine.module)  # before the clock starts
        if request["backend"] == "cpu":  # drivers of GPUs reserve more memory than there is
            limit_self(memory="MemTotal")
        devices = vulkan_devices() if request["backend"] == "vulkan" else []
        if request.get("cold"):
            for file in request["files"]:
                drop_file_cache(file)
        self.opened = None
        reset_peak()
        if not self.rss_before_mb:
            self.rss_before_mb = own_memory_mb("VmRSS")
        how = Running(**{field.name: request[field.name] for field in fields(Running)})
        start = time.perf_counter()
        self.opened = self.engine.open(request["files"], how)
        elapsed = (time.perf_counter() - start) * 1000
        self.outputs = list(how.outputs)
        device: Optional[VulkanDevice] = devices[0] if devices and not self.opened.instead else None
        return Loaded(
            load_ms=elapsed,
            device=device,
            threads=how.threads,
            inputs=list(how.inputs),
            outputs=self.outputs,
            without_vulkan=[],
            instead=self.opened.instead,
        ), []

    def run(self, _: Message, arrays: Arrays) -> Tuple[Ran, Arrays]:
        """One inference. The answer has the outputs as float32, without a batch axis of 1."""
        opened = self._loaded()
        if arrays:
            self.last = [
                np.ascontiguousarray(array.reshape(shape).astype(kind))
                for array, (shape, kind) in zip(arrays, opened.inputs)
            ]
        start = time.perf_counter()
        found = opened.run(self.last)
        elapsed = (time.perf_counter() - start) * 1000
        return Ran(elapsed, self.outputs), [_without_batch(array) for array in found]

    def time(self, request: Message, _: Arrays) -> Tuple[Timed, Arrays]:
        """Time inferences of the last input for ``seconds``, at least ``min_samples`` and at most ``max_samples``."""
        opened = self._loaded()
        return repeated(request, lambda: opened.run(self.last)), []

    def memory(self, _: Message, __: Arrays) -> Tuple[Memory, Arrays]:
        """Peak resident memory since the last load minus the memory before the first load, MB (10^6 bytes)."""
        return Memory(max(0.0, own_memory_mb("VmHWM") - self.rss_before_mb)), []

    def machine(self, _: Message, __: Arrays) -> Tuple[Done, Arrays]:
        raise RuntimeError("only a process with ncnn answers this request")

    def _loaded(self) -> Opened:
        if self.opened is None:
            raise RuntimeError("no network is loaded")
        return self.opened


def _without_batch(value: Any) -> Any:
    array = np.array(value, np.float32)
    return array[0] if array.ndim and array.shape[0] == 1 else array
