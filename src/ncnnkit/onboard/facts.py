"""What a machine tells of itself and of what was timed on it: dataclasses here, objects where they cross a file.

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
    """Cores of one type and about one clock.

    Attributes:
        name: ``little``, ``middle`` (then ``middle2``, …), ``big``, or ``all`` where there is one cluster.
        cpus: the numbers of its CPUs.
        cores: of these one for each core: CPUs without their hyperthreads.
        core: the type of its cores; null where it is not known.
        max_mhz: the highest clock, MHz; null where it is not known.
        governor: what sets the clock; null where it is not known.
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
        measures: ``board`` (all that it takes), ``package`` (a whole chip) or ``rail`` (one supply).
    """

    name: str
    measures: str


@dataclass(frozen=True)
class Gpu:
    """A GPU as Linux's driver shows it.

    Attributes:
        name: the device's name in ``/sys``.
        driver: the kernel's driver.
        model: what the driver calls the GPU; null where it does not tell.
        max_mhz: the highest clock, MHz; null where it is not known.
        governor: what sets the clock; null where it is not known.
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
        board: its name; null where it is not known.
        soc: the name of its chip; null where it is not known.
        compatible: what the device tree says that it is compatible with.
        memory_mb: MB of memory, 10⁶ bytes each; null where it is not known.
        clusters: the clusters of cores, from the slowest.
        temperatures: the names of the sensors of temperature.
        power: the sensors of power.
        gpu: the GPU; null where there is none.
        emulated: whether programs run on another processor than they are made for, as with qemu-user. Timings mean
            nothing then.
        virtual: what tells of a virtual machine; null where nothing does.
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
    """A Vulkan device that ncnn sees.

    Attributes:
        name: the device, as its driver names it.
        type: ``cpu`` is a software device, such as llvmpipe: no GPU.
        driver: version of the driver.
        api: version of Vulkan.
        index: the number of the device in ncnn.
    """

    name: str
    type: DeviceType
    driver: str
    api: str
    index: int = 0


@dataclass(frozen=True)
class Platform:
    """What must be known of a machine to choose Python packages for it.

    Attributes:
        python: its version, three numbers.
        machine: what ``uname`` calls the processor.
        system: what ``uname`` calls the kernel.
        libc: the C library: ``glibc``, or empty for another.
        libc_version: its version; empty where it is not known.
        free_bytes: what is free on its disk.
        time: of its clock, seconds since 1970.

    Raises:
        ValueError: one of the texts cannot be part of a file's name, or a version is none.
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
            raise ValueError("%r is no version of Python" % self.python)
        if self.libc == "glibc" and not re.fullmatch(r"2\.[0-9]{1,3}(\.[0-9]+)*", self.libc_version):
            raise ValueError("%r is no version of glibc" % self.libc_version)


def require_plain(*texts: str) -> None:
    """Raise ValueError unless each of the texts may be part of a file's name."""
    for text in texts:
        if not re.fullmatch(r"[A-Za-z0-9._+-]*", text):
            raise ValueError("%r holds other characters than letters, digits and ._+-" % text)


@dataclass(frozen=True)
class Machine:
    """A machine and its software, as ncnn and Linux tell.

    Attributes:
        ncnn: version.
        python: version.
        numpy: version.
        platform: operating system, kernel and C library, as Python names them.
        machine: what ``uname`` calls the processor: ``x86_64``, ``aarch64``.
        cpu: the processor's name.
        cpu_features: the instruction sets that ncnn has kernels for.
        cores: CPU cores that ncnn counts.
        default_threads: threads that ncnn takes by itself.
        vulkan: Vulkan devices that ncnn sees, in its order; empty: none.
        board: what Linux tells.
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
        """Whether it has a Vulkan device that is no software."""
        return any(device.type != "cpu" for device in self.vulkan)


@dataclass(frozen=True)
class Quantity:
    """A clock, a temperature or a power while something was timed.

    Attributes:
        min: the lowest that was seen.
        median: half of what was seen was lower.
        max: the highest that was seen.
        mean: the mean of what was seen.
    """

    min: float
    median: float
    max: float
    mean: float


@dataclass(frozen=True)
class Conditions:
    """What was seen while something was timed.

    Attributes:
        looks: how often clocks and sensors were read.
        clocks_mhz: cluster, ``gpu`` or ``memory``: its clock, MHz.
        temperatures: sensor: its temperature, °C.
        power_w: sensor: its power, W.
        energy_mj: the energy of one inference, mJ, that of the idle board included; null where no sensor sees the board
            or a whole chip.
        energy_of: the sensor that the energy was read from; null where there is none.
        throttled: whether the machine slowed down to save itself; null where nothing would tell.
        throttled_by: the reasons, for a person.
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
    """The time that loading a model takes.

    Attributes:
        cold: the first load in a new process, ms: weights out of the file cache, nothing compiled for a GPU.
        warm: the load after it, ms.
    """

    cold: float
    warm: float


@dataclass(frozen=True)
class Sustained:
    """A long run without a rest.

    Attributes:
        seconds: how long it ran.
        samples: inferences.
        first_ms: median of the first tenth of them, ms.
        last_ms: median of the last tenth, ms.
        conditions: as for the variant.
    """

    seconds: float
    samples: int
    first_ms: float
    last_ms: float
    conditions: Conditions
