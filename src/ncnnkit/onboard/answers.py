"""The answers of a serving process: dataclasses, which are sent as JSON objects.

:meth:`Answer.check` of each class checks what the types of the fields do not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Type

import numpy as np

from .facts import Machine, VulkanDevice

Arrays = List["np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Answer:
    """The base class: an answer with arrays only."""

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        """Check that this answers the request with the fields ``asked``. Raises ValueError."""


@dataclass(frozen=True)
class Done(Answer):
    """An answer that only says that the request is done."""

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        _same(len(arrays), 0, "arrays")


@dataclass(frozen=True)
class MachineAnswer(Done):
    """What ncnn and Linux report about the machine."""

    machine: Machine


@dataclass(frozen=True)
class Loaded(Done):
    """A network that is loaded.

    Attributes:
        load_ms: the time to load it, ms.
        device: the Vulkan device that holds it; None on the CPU.
        threads: the number of CPU threads.
        inputs, outputs: the names of the network's blobs.
        without_vulkan: types of layers that run on the CPU although Vulkan was requested.
        instead: what computes instead of what was requested, and why; empty if it runs as requested.
    """

    load_ms: float
    device: Optional[VulkanDevice]
    threads: int
    inputs: List[str]
    outputs: List[str]
    without_vulkan: List[str]
    instead: str

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        super().check(asked, arrays)
        _positive([self.load_ms, self.threads], "times and threads")
        if self.device is not None and asked["backend"] != "vulkan":
            raise ValueError("it is on a GPU, but the CPU was requested")


@dataclass(frozen=True)
class Ran(Answer):
    """One inference. Its arrays are the blobs.

    Attributes:
        ms: the time of the inference.
        names: the names of the blobs.
    """

    ms: float
    names: List[str]

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        _positive([self.ms], "times")
        if asked.get("blobs") and list(asked["blobs"]) != self.names:
            raise ValueError("these are not the requested blobs")
        _same(len(arrays), len(self.names), "blobs")
        _of_kind(arrays, np.float32)


@dataclass(frozen=True)
class Timed(Done):
    """Latencies of consecutive inferences.

    Attributes:
        samples: the latency of each inference, ms.
    """

    samples: List[float]

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        super().check(asked, arrays)
        _positive(self.samples, "times")
        if not asked["min_samples"] <= len(self.samples) <= asked["max_samples"]:
            raise ValueError("there are %d samples" % len(self.samples))


@dataclass(frozen=True)
class TallyRow:
    """The histogram of a blob.

    Attributes:
        batch: the number of the batch.
        blob: its name.
        width: the width of a bin.
        absmax: the largest absolute value.
        count: the number of values.
    """

    batch: int
    blob: str
    width: float
    absmax: float
    count: int


@dataclass(frozen=True)
class Tallied(Answer):
    """The histograms of blobs.

    Its arrays are: the ranges, if requested, float64 (samples, 1 + blobs), where column 0 is the number of the sample;
    the largest values of each of ``channels``, float64 (samples, channels); a histogram for each row, int64 (bins,).
    """

    rows: List[TallyRow]
    channels: List[str]

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        first = 1 + len(self.channels)
        _same(len(arrays), first + len(self.rows), "arrays")
        _of_kind(arrays[:1], np.float64, 2)
        _of_kind(arrays[1:first], np.float64, 2)
        _of_kind(arrays[first:], np.int64, 1)


@dataclass(frozen=True)
class Means(Answer):
    """Means of channels. Its arrays are the means, float64 (samples, channels), one array for each of ``blobs``."""

    blobs: List[str]

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        _same(len(arrays), len(self.blobs), "blobs")
        _of_kind(arrays, np.float64, 2)


@dataclass(frozen=True)
class Memory(Done):
    """Peak resident memory.

    Attributes:
        peak_mb: the peak since the last load, minus the memory before the first load, MB of 10⁶ bytes.
    """

    peak_mb: float

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        super().check(asked, arrays)
        if self.peak_mb < 0:
            raise ValueError("the memory is negative")


@dataclass(frozen=True)
class Layers(Done):
    """The layers of the loaded network.

    Attributes:
        storages: name of a layer -> the storages that it can read in addition to fp32.
        vulkan: the names of the layers that Vulkan can run.
    """

    storages: Dict[str, List[str]]
    vulkan: List[str]


@dataclass(frozen=True)
class Profiled(Done):
    """Times of the layers inside their network; see :meth:`ncnnkit.onboard.network.Network.profile`.

    Attributes:
        whole: the time of an inference, ms.
        measuring: the time of an inference whose layers are timed, ms.
        layers: the time of each layer, ms.
        bits: the bits of an output value of each layer.
    """

    whole: float
    measuring: float
    layers: List[float]
    bits: List[int]

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        super().check(asked, arrays)
        _positive([self.whole, self.measuring], "times")
        _same(len(self.layers), len(asked["taps"]), "layers")
        _same(len(self.bits), len(asked["taps"]), "layers")


@dataclass(frozen=True)
class NetTime:
    """The time of a small network.

    Attributes:
        ms: the median, ms.
        undisturbed: the lowest decile, ms.
        spread: the interquartile range divided by the median.
        ready: the bits of a value in each blob that was computed before the timing.
        made: the bits of a value in each output.
    """

    ms: float
    undisturbed: float
    spread: float
    ready: List[int]
    made: List[int]


@dataclass(frozen=True)
class NetTimes(Done):
    """Times of small networks, in the order of the request."""

    nets: List[NetTime]

    def check(self, asked: Mapping[str, Any], arrays: Arrays) -> None:
        super().check(asked, arrays)
        _same(len(self.nets), len(asked["nets"]), "networks")
        _positive([net.undisturbed for net in self.nets], "times")
        for net, row in zip(self.nets, asked["nets"]):
            _same(len(net.ready), len(row["ready"]), "blobs")
            _same(len(net.made), len(row["outputs"]), "blobs")


ANSWERS: Mapping[str, Type[Answer]] = {
    "machine": MachineAnswer,
    "load": Loaded,
    "run": Ran,
    "time": Timed,
    "tally": Done,
    "tally_so_far": Tallied,
    "means": Done,
    "means_so_far": Means,
    "memory": Memory,
    "layers": Layers,
    "profile": Profiled,
    "time_nets": NetTimes,
}
"""Request (a method of :class:`ncnnkit.onboard.network.Network`) -> the class of its answer."""


def _same(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ValueError("there are %d %s, not %d" % (found, what, wanted))


def _positive(values: Sequence[float], what: str) -> None:
    if any(value <= 0 for value in values):
        raise ValueError("%s must be above 0" % what)


def _of_kind(arrays: Arrays, dtype: Any, axes: Optional[int] = None) -> None:
    for array in arrays:
        if array.dtype != dtype or axes not in (None, array.ndim):
            raise ValueError("there is an array of %s of shape %s" % (array.dtype, list(array.shape)))
