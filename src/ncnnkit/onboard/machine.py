"""Reads the facts about this machine: the board as Linux shows it, and what ncnn reports."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Collection, Dict, List, Optional, Sequence

from .clusters import clusters
from .facts import Board, Cluster, DeviceType, Gpu, Machine, PowerSensor, VulkanDevice
from .process import available_cores, usable_cpus
from .sensors import powers, temperatures
from .sysfs import (
    GPU_CLOCK,
    by_number,
    cpuinfo,
    devfreq,
    read_number,
    read_text,
    system_memory_mb,
)

GPU_TYPES: Dict[int, DeviceType] = {0: "discrete", 1: "integrated", 2: "virtual", 3: "cpu"}
"""Names of the values of ncnn's GpuInfo.type(). "cpu" is a software device such as llvmpipe."""

_CPU_FEATURES = {
    # flag in /proc/cpuinfo -> what it means for ncnn's kernels
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512f": "avx512", "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni", "avx_vnni_int8": "avx-vnni-int8", "avx512_bf16": "avx512-bf16",
    "asimd": "neon", "asimdhp": "fp16-arithmetic", "asimddp": "int8-dot-product",
    "asimdfhm": "fp16-fml", "bf16": "bf16", "i8mm": "i8mm", "sve": "sve",
}  # fmt: skip

ELF_MACHINES = {3: "x86", 62: "x86", 40: "arm", 183: "arm", 243: "riscv", 258: "loongarch", 8: "mips", 21: "ppc"}
"""``e_machine`` of an ELF file -> family of processors; 32-bit and 64-bit processors are one family."""

_FAMILIES = ("x86", "arm", "riscv", "loongarch", "mips", "ppc")
_NAMES_OF_X86 = ("i386", "i486", "i586", "i686", "amd64")
_NAMES_OF_ARM = ("aarch64",)


def this_machine() -> Machine:
    """What ncnn and Linux report about this machine."""
    import ncnn
    import numpy

    board = this_board(usable=usable_cpus())
    return Machine(
        ncnn=ncnn.__version__,
        python=platform.python_version(),
        numpy=numpy.__version__,
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=cpu_name(board.clusters),
        cpu_features=cpu_features(),
        cores=min(ncnn.get_cpu_count(), available_cores()),
        default_threads=min(ncnn.Option().num_threads, available_cores()),
        vulkan=vulkan_devices(),
        board=board,
    )


def this_board(root: str = "/", usable: Optional[Collection[int]] = None, machine: str = "") -> Board:
    """What Linux reports about this board.

    Args:
        root: the folder that contains ``proc`` and ``sys``.
        usable: the CPUs that this process may use (``os.sched_getaffinity``); by default all that are online.
        machine: the processor, as ``uname`` names it; by default that of this machine.
    """
    top = Path(root)
    compatible = [name for name in read_text(top / "proc/device-tree/compatible").split("\0") if name]
    return Board(
        board=_board(top),
        soc=compatible[-1].partition(",")[2] or compatible[-1] if compatible else None,
        compatible=compatible,
        memory_mb=system_memory_mb("MemTotal", root),
        clusters=clusters(root, usable),
        temperatures=[sensor.name for sensor in temperatures(top)],
        power=[PowerSensor(sensor.name, sensor.measures) for sensor in powers(top)],
        gpu=_gpu(top),
        emulated=_emulated(top, machine or platform.machine()),
        virtual=_virtual(top, compatible),
    )


def _board(root: Path) -> Optional[str]:
    tree = read_text(root / "proc/device-tree/model")
    dmi = root / "sys/class/dmi/id"
    maker, product = read_text(dmi / "sys_vendor"), read_text(dmi / "product_name")
    # The name of a product often begins with its maker's name.
    named = product if product.startswith(maker) else f"{maker} {product}"
    return tree or named.strip() or None


def _emulated(root: Path, machine: str) -> bool:
    """Whether an emulator runs this program on a processor of another type.

    qemu-user makes ``/proc/self/exe`` point to the emulated program. It does not do so in the folder of the calling
    thread, where the kernel shows what really runs: the emulator, an ELF file for the host's processor.
    """
    mine = _family(machine)
    try:
        with open(root / "proc/thread-self/exe", "rb") as file:
            head = file.read(20)
    except OSError:
        head = b""
    if len(head) == 20 and head.startswith(b"\x7fELF"):
        order = "little" if head[5] == 1 else "big"
        running = ELF_MACHINES.get(int.from_bytes(head[18:20], order))  # type: ignore[arg-type]  # a Literal
        if running and mine and running != mine:
            return True
    # If that cannot be read: Linux (since 6.1) names its own processor, and older emulators show the host's cpuinfo.
    hosts = _family(read_text(root / "proc/sys/kernel/arch"))
    if hosts and mine and hosts != mine:
        return True
    return mine not in ("", "x86") and any("vendor_id" in cpu and "flags" in cpu for cpu in cpuinfo(root))


def _family(machine: str) -> str:
    """The family of a processor: x86_64 -> x86, aarch64 -> arm, …; empty if unknown."""
    name = machine.lower()
    if name in _NAMES_OF_X86:
        return "x86"
    if name in _NAMES_OF_ARM:
        return "arm"
    return next((family for family in _FAMILIES if name.startswith(family)), "")


def _virtual(root: Path, compatible: Sequence[str]) -> Optional[str]:
    """The evidence for a virtual machine, which shares clocks and cores with others; None if there is none."""
    if "linux,dummy-virt" in compatible:
        return "the device tree is QEMU's"
    kind = read_text(root / "sys/hypervisor/type")
    if kind:
        return "runs under " + kind
    makers = " ".join(read_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    maker = re.search(r"QEMU|VMware|VirtualBox|KVM|Xen|Hyper-V|Virtual Machine|Firecracker|Google Compute", makers)
    if maker:
        return "DMI says " + maker[0]
    if any("hypervisor" in cpu.get("flags", "").split() for cpu in cpuinfo(root)):
        return "the CPU has the flag of a hypervisor"
    return None


def _gpu(root: Path) -> Optional[Gpu]:
    """The GPU as Linux's driver shows it; ncnn reports the Vulkan driver."""
    clock = devfreq(root, GPU_CLOCK)
    nodes = [clock] if clock else []
    nodes += by_number((root / "sys/class/drm").glob("renderD*"))
    for node in nodes:
        with contextlib.suppress(OSError):
            driver = os.path.basename(os.readlink(node / "device/driver"))
            hertz = read_number(clock / "max_freq") if clock else None
            return Gpu(
                name=node.name,
                driver=driver,
                # Arm's own driver names the Mali: "Mali-G610 4 cores r0p0 0xA867".
                model=read_text(root / "sys/class/misc/mali0/device/gpuinfo") or None,
                max_mhz=hertz / 1e6 if hertz else None,
                governor=(read_text(clock / "governor") or None) if clock else None,
            )
    return None


def vulkan_devices() -> List[VulkanDevice]:
    """The Vulkan devices that ncnn can use, in ncnn's order."""
    import ncnn

    devices = []
    for index in range(ncnn.get_gpu_count()):
        info = ncnn.get_gpu_info(index)
        api = info.api_version()
        devices.append(
            VulkanDevice(
                name=info.device_name(),
                type=GPU_TYPES.get(info.type(), "unknown"),
                driver=driver_version(info.vendor_id(), info.driver_version()),
                api="%d.%d.%d" % (api >> 22, api >> 12 & 0x3FF, api & 0xFFF),
                index=index,
            )
        )
    return devices


def driver_version(vendor: int, number: int) -> str:
    """A driver's version as text. NVIDIA packs the number in its own way; other drivers use Vulkan's."""
    if vendor == 0x10DE:
        return "%d.%d.%02d" % (number >> 22, number >> 14 & 0xFF, number >> 6 & 0xFF)
    return "%d.%d.%d" % (number >> 22, number >> 12 & 0x3FF, number & 0xFFF)


def cpu_features() -> List[str]:
    """The CPU features for which ncnn has kernels, as Linux lists them; empty on other systems."""
    words = _told("flags").split() or _told("Features").split()
    return [meaning for word, meaning in _CPU_FEATURES.items() if word in words]


def cpu_name(clusters: Sequence[Cluster]) -> str:
    """The name of the processor. If Linux has none, as on Arm, its cores: "4 × Cortex-A55 + …"."""
    cores = " + ".join(f"{len(c.cores)} × {c.core}" for c in clusters if c.core)
    return _told("model name") or _told("Hardware") or cores or platform.processor() or platform.machine()


def _told(key: str) -> str:
    """The first value of a key in ``/proc/cpuinfo``; empty if there is none."""
    return next((cpu[key] for cpu in cpuinfo(Path("/")) if cpu.get(key)), "")
