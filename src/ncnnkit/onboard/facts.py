"""What a machine reports about itself and about a timing: dataclasses here, objects in a file.

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
        cores: one CPU per core, without hyperthreads.
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
        model: what the driver calls the GPU; null if unknown.
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
        temperatures: the names of the sensors of temperature.
        power: the sensors of power.
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
    """A Vulkan device that ncnn sees.

    Attributes:
        name: the device, as its driver names it.
        type: ``cpu`` is a software device, such as llvmpipe, not a GPU.
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
        libc_version: its version; empty if unknown.
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
    """A machine and its software, as ncnn and Linux report them.

    Attributes:
        ncnn: version.
        python: version.
        numpy: version.
        platform: operating system, kernel and C library, as Python names them.
        machine: what ``uname`` calls the processor: ``x86_64``, ``aarch64``.
        cpu: the processor's name.
        cpu_features: the instruction sets for which ncnn has kernels.
        cores: CPU cores that this process may use, within its container's CPU quota.
        default_threads: the number of threads that ncnn uses by default, at most ``cores``.
        vulkan: Vulkan devices that ncnn sees, in its order; empty: none.
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
        """Whether it has a Vulkan device that is no software."""
        return any(device.type != "cpu" for device in self.vulkan)


@dataclass(frozen=True)
class Quantity:
    """A clock, a temperature or a power during a timing.

    Attributes:
        min: the lowest value.
        median: half of the values were lower.
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
        looks: how often clocks and sensors were read.
        clocks_mhz: name of a cluster, ``gpu`` or ``memory``, with its clock, MHz.
        temperatures: name of a sensor, with its temperature, °C.
        power_w: name of a sensor, with its power, W.
        energy_mj: the energy of one inference, mJ, including that of the idle board; null if no sensor measures the
            board or a whole chip.
        energy_of: the sensor of the energy; null if there is none.
        throttled: whether the machine throttled; null if it gives no sign of throttling.
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
        cold: the first load in a new process, ms, without the weights in the file cache and without compiled GPU
            pipelines.
        warm: the next load, ms.
    """

    cold: float
    warm: float


@dataclass(frozen=True)
class Sustained:
    """A long run without a pause.

    Attributes:
        seconds: duration of the run.
        samples: number of inferences.
        first_ms: median of the first tenth, ms.
        last_ms: median of the last tenth, ms.
        conditions: as for the variant.
    """

    seconds: float
    samples: int
    first_ms: float
    last_ms: float
    conditions: Conditions
