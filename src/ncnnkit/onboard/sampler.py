"""Samples clocks, temperatures, power and throttling during a run."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import threading
from pathlib import Path
from typing import Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .clusters import clusters
from .facts import Cluster, Conditions, Quantity
from .sensors import powers, temperatures
from .sysfs import (
    GPU_CLOCK,
    MEMORY_CLOCK,
    by_number,
    devfreq,
    policies,
    policy_cpus,
    read_number,
    read_text,
)

_SLOWING = re.compile(r"cpufreq|devfreq|^Processor$|powerclamp|throttle|thermal-idle", re.IGNORECASE)
"""Types of cooling devices that cool by reducing clocks (a fan does not)."""

_RASPBERRY_BITS = {0: "the supply's voltage is too low", 1: "the firmware caps the clock", 2: "the firmware throttles",
                   3: "the soft temperature limit is active"}  # fmt: skip
"""Bits of the firmware's ``get_throttled``. The same bits shifted by 16 mean that it happened since the last read."""


class Sampler:
    """Samples clocks, temperatures and power during runs: ``with sampler: run()``, as often as you like.

    A thread reads them every ``interval`` seconds during the run, because clocks and power fall immediately after it.
    The measured network runs in another process (:mod:`ncnnkit.onboard.network`), so neither waits for the other's
    GIL. If possible, the thread runs on CPUs that are not measured. If there is nothing to read, there is no thread.

    Args:
        root: as for :func:`~ncnnkit.onboard.machine.this_board`.
        cpus: the CPUs that the load is pinned to; by default it may run on all.
        on_gpu: whether the load runs on the GPU. Then slower CPUs do not matter.
        interval: seconds between two reads. A read opens some dozens of small files and takes about a millisecond.
    """

    FIRST = 0.05  # seconds until the first read: clocks have risen, and a short run is sampled at least once

    def __init__(
        self, root: str = "/", cpus: Optional[Collection[int]] = None, on_gpu: bool = False, interval: float = 0.2
    ) -> None:
        top = Path(root)
        self._interval = interval
        self._pinned = set(cpus or ())
        self._clocks = _clocks(top, clusters(root))
        self._temperatures, self._powers = temperatures(top), powers(top)
        self._throttling = _Throttling(top, self._clocks, self._pinned, on_gpu)
        self._seen: Dict[str, Dict[str, List[float]]] = {"clocks_mhz": {}, "temperatures": {}, "power_w": {}}
        self._looks = 0
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> Sampler:
        if self._clocks or self._temperatures or self._powers or self._throttling.able:
            for sensor in self._powers:
                if sensor.counts:
                    sensor.read()  # start counting here
            self._throttling.begin()
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._throttling.end()

    def _watch(self) -> None:
        if self._pinned and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # 0 is the calling thread
                os.sched_setaffinity(0, set(os.sched_getaffinity(0)) - self._pinned)
        looked = False
        wait = self.FIRST
        while not self._stop.wait(wait) or not looked:
            self._look()
            looked, wait = True, self._interval

    def _look(self) -> None:
        self._looks += 1
        now: Dict[str, float] = {}
        rows = (("temperatures", self._temperatures), ("power_w", self._powers))
        for clock in self._clocks:
            value = clock.mhz()
            if value is not None:
                now[clock.name] = value
                self._seen["clocks_mhz"].setdefault(clock.name, []).append(value)
        for kind, sensors in rows:
            for sensor in sensors:
                value = sensor.read()
                if value is not None:
                    self._seen[kind].setdefault(sensor.name, []).append(value)
        self._throttling.look(now)

    def result(self, ms: Optional[float] = None) -> Conditions:
        """The conditions so far.

        Args:
            ms: the mean time of one inference, ms.
        """
        seen = {
            kind: {name: _quantity(values) for name, values in quantities.items()}
            for kind, quantities in self._seen.items()
        }
        power = seen["power_w"]
        source = next((s.name for s in self._powers if s.measures != "rail" and s.name in power), None)
        return Conditions(
            looks=self._looks,
            energy_mj=None if source is None or ms is None else power[source].mean * ms,
            energy_of=source,
            throttled=self._throttling.verdict(),
            throttled_by=list(self._throttling.reasons),
            **seen,
        )


def _quantity(values: Sequence[float]) -> Quantity:
    return Quantity(min(values), statistics.median(values), max(values), statistics.fmean(values))


class _Clock(NamedTuple):
    """A clock: of a cluster, of the GPU or of the memory."""

    name: str
    current: Tuple[Path, ...]  # a file for each cpufreq policy of a cluster
    caps: Tuple[Path, ...]
    governor: Path
    unit: float  # the unit of these files, in MHz
    cpus: Tuple[int, ...]

    def mhz(self) -> Optional[float]:
        """The clock, MHz. Of several policies of a cluster the fastest, because it carries the load."""
        return self._highest(self.current)

    def cap(self) -> Optional[float]:
        return self._highest(self.caps)

    def _highest(self, paths: Sequence[Path]) -> Optional[float]:
        values = [value for value in map(read_number, paths) if value is not None]
        return max(values) * self.unit if values else None


def _clocks(root: Path, groups: Sequence[Cluster]) -> List[_Clock]:
    found = []
    cpus_of = {policy: policy_cpus(policy) for policy in policies(root)}
    for group in groups:
        own = [policy for policy, cpus in cpus_of.items() if set(cpus) & set(group.cpus)]
        if own:
            current = tuple(policy / "scaling_cur_freq" for policy in own)
            caps = tuple(policy / "scaling_max_freq" for policy in own)
            found.append(_Clock(group.name, current, caps, own[0] / "scaling_governor", 1e-3, tuple(group.cpus)))
    for name, kind in (("gpu", GPU_CLOCK), ("memory", MEMORY_CLOCK)):
        node = devfreq(root, kind)
        if node is not None:
            found.append(_Clock(name, (node / "cur_freq",), (node / "max_freq",), node / "governor", 1e-6, ()))
    return found


class _Throttling:
    """Whether a chip reduces its clocks because of heat or power.

    There are five signs: a lowered limit of a clock, a clock that fell although it was fixed or under a pinned load,
    an active cooling device that reduces clocks, the counters of x86 CPUs, and the Raspberry Pi's firmware.
    """

    FELL = 0.9  # share of the highest clock, in two consecutive reads: one read may be between two inferences

    def __init__(self, root: Path, clocks: Sequence[_Clock], pinned: Collection[int], on_gpu: bool) -> None:
        def loaded(clock: _Clock) -> bool:
            return clock.name == "gpu" if on_gpu else bool(clock.cpus and (not pinned or set(clock.cpus) & set(pinned)))

        self._clocks = [clock for clock in clocks if loaded(clock)]
        self._steady = bool(pinned) and not on_gpu
        self._cooling = [
            (device, read_text(device / "type"))
            for device in by_number((root / "sys/class/thermal").glob("cooling_device*"))
            if _SLOWING.search(read_text(device / "type"))
        ]
        self._counters = sorted((root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count"))
        self._firmware = next((root / "sys/devices/platform").glob("*soc*/*firmware/get_throttled"), None)
        self._caps = {clock.name: clock.cap() for clock in self._clocks}
        self._highest: Dict[str, float] = {}
        self._lower: Dict[str, int] = {}
        self._counted = 0
        self._told_before = 0  # the firmware's bits from before the run
        self.reasons: Dict[str, None] = {}
        self.able = bool(self._clocks or self._cooling or self._counters or self._firmware)

    def begin(self) -> None:
        """Call at the beginning of a run."""
        self._counted = self._count()
        self._told_before = self._told() >> 16
        for clock in self._clocks:
            # A clock that is not fixed may have been low before. Under a pinned load it rises during the run and stays
            # high.
            if read_text(clock.governor) != "performance":
                self._highest.pop(clock.name, None)
                self._lower.pop(clock.name, None)

    def look(self, mhz: Dict[str, float]) -> None:
        """Compare the present clocks with the earlier ones."""
        for clock in self._clocks:
            cap, first = clock.cap(), self._caps[clock.name]
            if cap is not None and first is not None and cap < first:
                self.reasons[f"the cap of the clock of {clock.name} was lowered from {first:.0f} MHz"] = None
            if clock.name in mhz and (self._steady or read_text(clock.governor) == "performance"):
                self._compare(clock.name, mhz[clock.name])
        for device, kind in self._cooling:
            if (read_number(device / "cur_state") or 0) > 0:
                self.reasons[f"the kernel cools by {kind}"] = None
        told = self._told()
        for bit, meaning in _RASPBERRY_BITS.items():
            if (told | (told >> 16 & ~self._told_before)) >> bit & 1:
                self.reasons[meaning] = None

    def _compare(self, name: str, mhz: float) -> None:
        highest = self._highest[name] = max(mhz, self._highest.get(name, 0.0))
        self._lower[name] = self._lower.get(name, 0) + 1 if mhz < self.FELL * highest else 0
        if self._lower[name] >= 2:
            self.reasons[f"the clock of {name} fell from {highest:.0f} MHz under load"] = None

    def end(self) -> None:
        """Call at the end of a run."""
        if self._count() > self._counted:
            self.reasons["the CPU counted thermal throttling"] = None

    def verdict(self) -> Optional[bool]:
        return bool(self.reasons) if self.able else None

    def _count(self) -> int:
        return sum(read_number(path) or 0 for path in self._counters)

    def _told(self) -> int:
        try:
            return int(read_text(self._firmware), 16) if self._firmware else 0
        except ValueError:
            return 0
