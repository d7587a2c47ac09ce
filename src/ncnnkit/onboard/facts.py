"""What a machine tells of itself and of what was timed on it: dataclasses here, objects where they cross a file.

``run.json`` holds the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Literal, Optional

DeviceType = Literal["discrete", "integrated", "virtual", "cpu", "unknown"]


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
