"""The CPU cores of a board, grouped by type and clock."""

from __future__ import annotations

from pathlib import Path
from typing import Collection, Dict, List, NamedTuple, Optional

from .facts import Cluster
from .sysfs import (
    cpu_list,
    cpuinfo,
    policies,
    policy_cpus,
    read_number,
    read_text,
)

CORE_TYPES: Dict[int, Dict[int, str]] = {
    # MIDR_EL1: implementer (bits 31-24) -> part (bits 15-4) -> the core's name. Sources: the manuals of Arm's cores,
    # and for other cores Linux' arch/arm64/include/asm/cputype.h and util-linux' lscpu-arm.c.
    0x41: {
        0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9", 0xC0D: "Cortex-A17", 0xC0E: "Cortex-A17",
        0xC0F: "Cortex-A15", 0xD01: "Cortex-A32", 0xD02: "Cortex-A34", 0xD03: "Cortex-A53", 0xD04: "Cortex-A35",
        0xD05: "Cortex-A55", 0xD06: "Cortex-A65", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72", 0xD09: "Cortex-A73",
        0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77", 0xD0E: "Cortex-A76AE",
        0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD43: "Cortex-A65AE", 0xD44: "Cortex-X1",
        0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4A: "Neoverse-E1",
        0xD4B: "Cortex-A78C", 0xD4C: "Cortex-X1C", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4", 0xD84: "Neoverse-V3", 0xD85: "Cortex-X925",
        0xD87: "Cortex-A725", 0xD88: "Cortex-A520AE", 0xD89: "Cortex-A720AE", 0xD8E: "Neoverse-N3",
    },
    0x46: {0x001: "A64FX"},
    0x48: {0xD01: "TaiShan-v110", 0xD02: "TaiShan-v120"},
    0x4E: {0x000: "Denver", 0x003: "Denver 2", 0x004: "Carmel", 0x010: "Olympus"},
    0x51: {
        # These Kryo cores of Qualcomm are derived from Arm's designs, so ncnn's kernels for those suit them.
        0x001: "Oryon", 0x205: "Kryo", 0x211: "Kryo", 0x800: "Cortex-A73", 0x801: "Cortex-A53", 0x802: "Cortex-A75",
        0x803: "Cortex-A55", 0x804: "Cortex-A76", 0x805: "Cortex-A55",
    },
    0x61: {
        0x020: "Icestorm (A14)", 0x021: "Firestorm (A14)", 0x022: "Icestorm (M1)", 0x023: "Firestorm (M1)",
        0x032: "Blizzard (M2)", 0x033: "Avalanche (M2)",
    },
    0x70: {0x303: "FTC310", 0x661: "FTC661", 0x662: "FTC662", 0x663: "FTC663", 0x664: "FTC664", 0x862: "FTC862"},
    0xC0: {0xAC3: "Ampere-1", 0xAC4: "Ampere-1a"},
}  # fmt: skip

SIMILAR = 1.1
"""Cores of one type are one cluster if their highest clocks differ by less than this factor: single cores of a chip
may be limited to slightly lower clocks."""


def clusters(root: str = "/", usable: Optional[Collection[int]] = None) -> List[Cluster]:
    """The clusters of cores, from the slowest to the fastest.

    A cluster holds the cores of one type with about the same clock (:data:`SIMILAR`). A single cluster is called
    ``all``; several are called ``little``, ``middle`` (then ``middle2``, …) and ``big``.
    """
    groups: List[List[_Cpu]] = []
    cpus = _cpus(Path(root), usable)
    for core in dict.fromkeys(cpu.core for cpu in cpus):
        alike = sorted((cpu for cpu in cpus if cpu.core == core), key=lambda cpu: cpu.max_mhz or 0.0)
        groups.append([alike[0]])
        for cpu in alike[1:]:
            if (cpu.max_mhz or 0.0) > SIMILAR * (groups[-1][0].max_mhz or float("inf")):
                groups.append([])
            groups[-1].append(cpu)
    groups.sort(key=lambda group: max((cpu.capacity, cpu.max_mhz or 0.0, -cpu.number) for cpu in group))
    middle = ["middle" + (str(n) if n > 1 else "") for n in range(1, len(groups) - 1)]
    names = ["all"] if len(groups) == 1 else ["little", *middle, "big"]
    return [
        Cluster(
            name=name,
            cpus=sorted(cpu.number for cpu in group),
            cores=sorted(cpu.number for cpu in group if cpu.leads),
            core=group[0].core,
            max_mhz=max((cpu.max_mhz for cpu in group if cpu.max_mhz), default=None),
            governor=", ".join(dict.fromkeys(cpu.governor for cpu in group if cpu.governor)) or None,
        )
        for name, group in zip(names, groups)
    ]


class _Cpu(NamedTuple):
    number: int
    core: Optional[str]
    max_mhz: Optional[float]
    capacity: int  # relative speed, as Linux' scheduler knows it; 0: unknown
    governor: Optional[str]
    leads: bool  # whether it is the first thread of its core


def _cpus(root: Path, usable: Optional[Collection[int]]) -> List[_Cpu]:
    folder = root / "sys/devices/system/cpu"
    told = {int(c["processor"]): c for c in cpuinfo(root) if c.get("processor", "").isdigit()}
    online = cpu_list(read_text(folder / "online")) or sorted(told)
    policy_of = {cpu: policy for policy in policies(root) for cpu in policy_cpus(policy)}
    found = []
    for number in online:
        if usable is not None and number not in usable:
            continue
        own, policy = folder / f"cpu{number}", policy_of.get(number)
        hertz = read_number(policy / "cpuinfo_max_freq") if policy else None
        siblings = [n for n in cpu_list(read_text(own / "topology/thread_siblings_list")) if n in online]
        found.append(
            _Cpu(
                number,
                _core_type(read_text(own / "regs/identification/midr_el1"), told.get(number, {})),
                hertz / 1000 if hertz else None,
                read_number(own / "cpu_capacity") or 0,
                (read_text(policy / "scaling_governor") or None) if policy else None,
                not siblings or number == min(siblings),
            )
        )
    return found


def _core_type(midr: str, told: Dict[str, str]) -> Optional[str]:
    """The name of a core, from the register MIDR_EL1 as Linux shows it, otherwise from /proc/cpuinfo."""
    try:
        register = int(midr, 16)
        implementer, part = register >> 24 & 0xFF, register >> 4 & 0xFFF
    except ValueError:
        try:
            implementer, part = int(told["CPU implementer"], 16), int(told["CPU part"], 16)
        except (KeyError, ValueError):
            return told.get("model name") or told.get("uarch") or None
    return CORE_TYPES.get(implementer, {}).get(part, f"implementer {implementer:#x} part {part:#x}")
