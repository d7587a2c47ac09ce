"""What a machine reports about itself and about a timing: dataclasses, which are JSON objects in a file.

``run.json`` holds the same classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, List, Literal, Optional

DeviceType = Literal["discrete", "integrated", "virtual", "cpu", "unknown"]
Status = Literal["ok", "fallback", "crashed", "skipped"]


@dataclass(frozen=True)
class Cluster:
    """Cores of one type and about the same clock.

    Attributes:
        name: ``little``, ``middle`` (then ``middle2``, …), ``big``, or ``all`` if there is only one cluster.
        cpus: the numbers of its CPUs.
        cores: the number of one CPU of each core (without hyperthreads).
        core: the type of its cores; null if unknown.
        max_mhz: the highest clock, MHz; null if unknown.
        governor: what sets the clock; null if unknown.
    """

    name: str
    cpus: List[int]
    cores: List[int]
    core: Optional[str] = None
    max_mhz: Optional[float] = None
    governor: Optional[str] = None


@dataclass(frozen=True)
class PowerSensor:
    """A sensor of power.

    Attributes:
        name: the sensor's name.
        measures: ``board`` (the whole board), ``package`` (a whole chip) or ``rail`` (one supply).
    """

    name: str
    measures: str


@dataclass(frozen=True)
class Gpu:
    """A GPU as Linux's driver shows it.

    Attributes:
        name: the device's name in ``/sys``.
        driver: the kernel's driver.
        model: the driver's name of the GPU; null if unknown.
        max_mhz: the highest clock, MHz; null if unknown.
        governor: what sets the clock; null if unknown.
    """

    name: str
    driver: str
    model: Optional[str] = None
    max_mhz: Optional[float] = None
    governor: Optional[str] = None


@dataclass(frozen=True)
class Board:
    """A board as Linux shows it.

    Attributes:
        board: its name; null if unknown.
        soc: the name of its chip; null if unknown.
        compatible: the ``compatible`` list of the device tree.
        memory_mb: MB of memory, 10⁶ bytes each; null if unknown.
        clusters: the clusters of cores, from the slowest.
        temperatures: the names of the temperature sensors.
        power: the power sensors.
        gpu: the GPU; null if there is none.
        emulated: whether programs are emulated on another type of processor, as with qemu-user. Timings then mean
            nothing.
        virtual: the evidence for a virtual machine; null if there is none.
    """

    board: Optional[str] = None
    soc: Optional[str] = None
    compatible: List[str] = field(default_factory=list)
    memory_mb: Optional[float] = None
    clusters: List[Cluster] = field(default_factory=list)
    temperatures: List[str] = field(default_factory=list)
    power: List[PowerSensor] = field(default_factory=list)
    gpu: Optional[Gpu] = None
    emulated: bool = False
    virtual: Optional[str] = None


@dataclass(frozen=True)
class VulkanDevice:
    """A Vulkan device that ncnn finds.

    Attributes:
        name: the name that the driver gives the device.
        type: the type of the device; ``cpu`` is a software device, such as llvmpipe, not a GPU.
        driver: the version of the driver.
        api: the version of Vulkan.
        index: the number of the device in ncnn.
    """

    name: str
    type: DeviceType
    driver: str
    api: str
    index: int = 0


@dataclass(frozen=True)
class Platform:
    """The facts about a machine that are needed to choose Python packages for it.

    Attributes:
        python: its version, three numbers.
        machine: the processor, as ``uname`` names it.
        system: the kernel, as ``uname`` names it.
        libc: the C library: ``glibc``, or empty for another.
        libc_version: its version; empty if unknown.
        free_bytes: free bytes on its disk.
        time: the time of its clock, seconds since 1970.

    Raises:
        ValueError: one of the texts cannot be part of a file name, or a version is not valid.
    """

    python: List[int]
    machine: str
    system: str
    libc: str
    libc_version: str
    free_bytes: int
    time: float

    def __post_init__(self) -> None:
        require_plain(self.machine, self.system, self.libc, self.libc_version)
        if len(self.python) != 3 or not all(0 <= number < 1000 for number in self.python):
            raise ValueError("%r is not a version of Python" % self.python)
        if self.libc == "glibc" and not re.fullmatch(r"2\.[0-9]{1,3}(\.[0-9]+)*", self.libc_version):
            raise ValueError("%r is not a version of glibc" % self.libc_version)


def require_plain(*texts: str) -> None:
    """Raise ValueError unless each text can be part of a file name."""
    for text in texts:
        if not re.fullmatch(r"[A-Za-z0-9._+-]*", text):
            raise ValueError("%r has characters other than letters, digits and ._+-" % text)


@dataclass(frozen=True)
class Machine:
    """A machine and its software, as ncnn and Linux report them.

    Attributes:
        ncnn: the version of ncnn.
        python: the version of Python.
        numpy: the version of NumPy.
        platform: operating system, kernel and C library, as Python names them.
        machine: the processor, as ``uname`` names it: ``x86_64``, ``aarch64``.
        cpu: the processor's name.
        cpu_features: the instruction sets for which ncnn has kernels.
        cores: CPU cores that this process may use, within its container's CPU quota.
        default_threads: the number of threads that ncnn uses by default, at most ``cores``.
        vulkan: the Vulkan devices that ncnn finds, in ncnn's order; empty: none.
        board: what Linux reports about the board.
    """

    ncnn: str
    python: str
    numpy: str
    platform: str
    machine: str
    cpu: str
    cpu_features: List[str]
    cores: int
    default_threads: int
    vulkan: List[VulkanDevice]
    board: Board

    def __post_init__(self) -> None:
        require_plain(self.ncnn, self.python, self.numpy, self.machine)

    @property
    def has_gpu(self) -> bool:
        """Whether there is a Vulkan device that is not a software device."""
        return any(device.type != "cpu" for device in self.vulkan)


@dataclass(frozen=True)
class Quantity:
    """A clock, a temperature or a power during a timing.

    Attributes:
        min: the lowest value.
        median: the median of the values.
        max: the highest value.
        mean: the mean of the values.
    """

    min: float
    median: float
    max: float
    mean: float


@dataclass(frozen=True)
class Conditions:
    """Clocks, temperatures, power and throttling during a timing.

    Attributes:
        looks: number of times that clocks and sensors were read.
        clocks_mhz: the clock of each cluster, of ``gpu`` and of ``memory``, MHz, by its name.
        temperatures: the temperature of each sensor, °C, by its name.
        power_w: the power of each sensor, W, by its name.
        energy_mj: the energy of one inference, mJ, including the energy of the idle board; null if no sensor measures
            the board or a whole chip.
        energy_of: the sensor that measured the energy; null if there is none.
        throttled: whether the machine throttled; null if it has no indicator of throttling that can be read.
        throttled_by: the reasons, as texts.
    """

    looks: int = 0
    clocks_mhz: Dict[str, Quantity] = field(default_factory=dict)
    temperatures: Dict[str, Quantity] = field(default_factory=dict)
    power_w: Dict[str, Quantity] = field(default_factory=dict)
    energy_mj: Optional[float] = None
    energy_of: Optional[str] = None
    throttled: Optional[bool] = None
    throttled_by: List[str] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """The time to load a model.

    Attributes:
        cold: the first load in a new process, ms. The weights are not in the file cache, and GPU pipelines are not
            compiled.
        warm: the second load, ms.
    """

    cold: float
    warm: float


@dataclass(frozen=True)
class Sustained:
    """A long run without pauses.

    Attributes:
        seconds: the duration of the run.
        samples: the number of inferences.
        first_ms: the median of the first tenth, ms.
        last_ms: the median of the last tenth, ms.
        conditions: as for the variant.
    """

    seconds: float
    samples: int
    first_ms: float
    last_ms: float
    conditions: Conditions
