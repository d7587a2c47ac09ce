"""What Linux tells of a board: cores, clocks, temperatures, power. Only the standard library, Python 3.9 or newer.

Everything is read from files of ``/proc`` and ``/sys`` under a ``root``, so that a folder can stand for a board. A file
that is absent, may not be read or holds nonsense is nothing known, never an error: vendors' kernels differ.

:func:`describe` says what there is, :func:`fixed_clocks` holds the clocks while something is measured, and a
:class:`Sampler` watches meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Collection, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

Message = Dict[str, Any]

# ------------------------------------------------------------------------------------------------------- the tables

CORE_TYPES: Dict[int, Dict[int, str]] = {
    # MIDR_EL1: implementer (bits 31-24) -> part (bits 15-4) -> the core's name. Arm's are in its cores' manuals, the
    # others in Linux's arch/arm64/include/asm/cputype.h and util-linux' lscpu-arm.c.
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
        # Qualcomm's Kryo of these years are Arm's designs, and ncnn's kernels for these fit them.
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

ELF_MACHINES = {3: "x86", 62: "x86", 40: "arm", 183: "arm", 243: "riscv", 258: "loongarch", 8: "mips", 21: "ppc"}
"""``e_machine`` of an ELF file -> family of processors, each with its 32 bits."""

_FAMILIES = ("x86", "arm", "riscv", "loongarch", "mips", "ppc")
_NAMES_OF_X86 = ("i386", "i486", "i586", "i686", "amd64")
_NAMES_OF_ARM = ("aarch64",)

_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "psys")
"""Labels of power sensors that see everything the board takes; Jetsons', and Intel's counter of the platform."""

_CHANNELS = {"ina3221": 3}
"""Chips of hwmon -> how many of their currents have the voltage of the same number; further ones are sums."""

_CPU_THERMOMETERS = ("coretemp", "k10temp", "zenpower", "amdgpu", "scpi_sensors")
"""Chips of hwmon worth watching; others there watch disks and radios, or repeat a thermal zone."""

_SLOWING = re.compile(r"cpufreq|devfreq|^Processor$|powerclamp|throttle|thermal-idle", re.IGNORECASE)
"""Types of cooling devices that cool by slowing down; fans cool, too, and harm nobody."""

_RASPBERRY_BITS = {0: "the supply's voltage is too low", 1: "the firmware caps the clock", 2: "the firmware throttles",
                   3: "the soft temperature limit is active"}  # fmt: skip
"""Bits of the firmware's ``get_throttled``; the same bits 16 higher say that it has happened since they were read."""

_GPU = re.compile(r"gpu|mali|kgsl|v3d|ga10b|gv11b|gp10b", re.IGNORECASE)
_MEMORY = re.compile(r"^dmc|[.:-]dmc|memory-controller|devfreq_mif|\bemc\b", re.IGNORECASE)

SIMILAR = 1.1
"""Cores of one type whose highest clocks differ by less than this factor are one cluster: chips are binned."""

# -------------------------------------------------------------------------------------------------------- the files


def _text(path: Path) -> str:
    """A file's text without blanks and the NULs of the device tree; empty where it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip().strip("\0").strip()
    except OSError:
        return ""


def _number(path: Path) -> Optional[int]:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _cpu_list(text: str) -> List[int]:
    """The CPUs of a list as Linux writes it: ``0-3,6`` or ``0 1 2``."""
    found: List[int] = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.extend(range(int(first), int(last or first) + 1))
    return found


def _by_number(paths: Iterator[Path]) -> List[Path]:
    """Paths in the order of the numbers in their names: policy4 before policy10."""
    return sorted(paths, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.name)], p.name))


def _cpuinfo(root: Path) -> List[Dict[str, str]]:
    """The paragraphs of ``/proc/cpuinfo``, one for each CPU and perhaps others."""
    paragraphs: List[Dict[str, str]] = []
    for block in re.split(r"\n\s*\n", _text(root / "proc/cpuinfo")):
        rows = (line.partition(":") for line in block.splitlines())
        paragraphs.append({name.strip(): value.strip() for name, _, value in rows})
    return paragraphs


# ------------------------------------------------------------------------------------------------------ describing


def describe(root: str = "/", usable: Optional[Collection[int]] = None, machine: str = "") -> Message:
    """What this board is.

    Args:
        root: the folder in which ``proc`` and ``sys`` lie.
        usable: the CPUs this process may use (``os.sched_getaffinity``); by default all that are online.
        machine: what ``uname`` calls the processor; by default this machine's.

    Returns:
        ``board`` and ``soc`` (names, or None), ``compatible`` (the device tree's list), ``memory_mb`` (10^6 bytes),
        ``clusters`` (from the slowest; each ``name``, ``cpus``, ``cores`` (CPUs without their hyperthreads), ``core``
        (type), ``max_mhz``, ``governor``), ``temperatures`` (names of sensors), ``power`` (each ``name`` and what it
        ``measures``: board, package or rail), ``gpu`` (``name``, ``model``, ``driver``, ``max_mhz``, ``governor``, or
        None), ``emulated`` (whether the programs here run on another processor than they are made for, as
        qemu-user does it: no timing means anything then) and ``virtual`` (what tells of a virtual machine, or None).
    """
    top = Path(root)
    compatible = [name for name in _text(top / "proc/device-tree/compatible").split("\0") if name]
    return {
        "board": _board(top),
        "soc": compatible[-1].partition(",")[2] or compatible[-1] if compatible else None,
        "compatible": compatible,
        "memory_mb": memory_mb("MemTotal", root),
        "clusters": clusters(root, usable),
        "temperatures": [sensor.name for sensor in _temperatures(top)],
        "power": [{"name": sensor.name, "measures": sensor.measures} for sensor in _powers(top)],
        "gpu": _gpu(top),
        "emulated": _emulated(top, machine or platform.machine()),
        "virtual": _virtual(top, compatible),
    }


def memory_mb(field: str, root: str = "/") -> Optional[float]:
    """A field of ``/proc/meminfo`` in MB (10^6 bytes)."""
    found = re.search(field + r":\s+(\d+) kB", _text(Path(root) / "proc/meminfo"))
    return int(found[1]) * 1024 / 1e6 if found else None


def _board(root: Path) -> Optional[str]:
    tree = _text(root / "proc/device-tree/model")
    dmi = root / "sys/class/dmi/id"
    maker, product = _text(dmi / "sys_vendor"), _text(dmi / "product_name")
    # A product often begins with its maker's name.
    named = product if product.startswith(maker) else f"{maker} {product}"
    return tree or named.strip() or None


def _emulated(root: Path, machine: str) -> bool:
    """Whether the processor is another than this program's.

    qemu-user passes itself off as the program in ``/proc/self/exe`` but not in the calling thread's own folder, where
    the kernel shows what really runs: an emulator, an ELF file for the host's processor.
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
    # Where that cannot be read: Linux names its own processor (since 6.1), and older emulators show its cpuinfo.
    hosts = _family(_text(root / "proc/sys/kernel/arch"))
    if hosts and mine and hosts != mine:
        return True
    return mine not in ("", "x86") and any("vendor_id" in cpu and "flags" in cpu for cpu in _cpuinfo(root))


def _family(machine: str) -> str:
    """x86_64 -> x86, aarch64 -> arm, …; empty for what is not known."""
    name = machine.lower()
    if name in _NAMES_OF_X86:
        return "x86"
    if name in _NAMES_OF_ARM:
        return "arm"
    return next((family for family in _FAMILIES if name.startswith(family)), "")


def _virtual(root: Path, compatible: Sequence[str]) -> Optional[str]:
    """What tells that this is a virtual machine: its clocks and cores are shared with others."""
    if "linux,dummy-virt" in compatible:
        return "the device tree is QEMU's"
    kind = _text(root / "sys/hypervisor/type")
    if kind:
        return "runs under " + kind
    makers = " ".join(_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    maker = re.search(r"QEMU|VMware|VirtualBox|KVM|Xen|Hyper-V|Virtual Machine|Firecracker|Google Compute", makers)
    if maker:
        return "DMI says " + maker[0]
    if any("hypervisor" in cpu.get("flags", "").split() for cpu in _cpuinfo(root)):
        return "the CPU has the flag of a hypervisor"
    return None


class _Cpu(NamedTuple):
    number: int
    core: Optional[str]
    max_mhz: Optional[float]
    capacity: int  # relative strength as the scheduler has it; 0 unknown
    governor: Optional[str]
    leads: bool  # the first of the threads of its core


def clusters(root: str = "/", usable: Optional[Collection[int]] = None) -> List[Message]:
    """The clusters of cores, from the slowest to the fastest; see :func:`describe`.

    Cores are together that are of one type and, within :data:`SIMILAR`, equally fast. One cluster is called ``all``;
    several are ``little``, ``middle`` (then ``middle2``, …) and ``big``.
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
        {
            "name": name,
            "cpus": sorted(cpu.number for cpu in group),
            "cores": sorted(cpu.number for cpu in group if cpu.leads),
            "core": group[0].core,
            "max_mhz": max((cpu.max_mhz for cpu in group if cpu.max_mhz), default=None),
            "governor": ", ".join(dict.fromkeys(cpu.governor for cpu in group if cpu.governor)) or None,
        }
        for name, group in zip(names, groups)
    ]


def _cpus(root: Path, usable: Optional[Collection[int]]) -> List[_Cpu]:
    folder = root / "sys/devices/system/cpu"
    told = {int(c["processor"]): c for c in _cpuinfo(root) if c.get("processor", "").isdigit()}
    online = _cpu_list(_text(folder / "online")) or sorted(told)
    policies = {cpu: policy for policy in _policies(root) for cpu in policy_cpus(policy)}
    found = []
    for number in online:
        if usable is not None and number not in usable:
            continue
        own, policy = folder / f"cpu{number}", policies.get(number)
        hertz = _number(policy / "cpuinfo_max_freq") if policy else None
        siblings = [n for n in _cpu_list(_text(own / "topology/thread_siblings_list")) if n in online]
        found.append(
            _Cpu(
                number,
                _core_type(_text(own / "regs/identification/midr_el1"), told.get(number, {})),
                hertz / 1000 if hertz else None,
                _number(own / "cpu_capacity") or 0,
                (_text(policy / "scaling_governor") or None) if policy else None,
                not siblings or number == min(siblings),
            )
        )
    return found


def _core_type(midr: str, told: Dict[str, str]) -> Optional[str]:
    """From the register MIDR_EL1 as Linux shows it, else from what cpuinfo tells of the CPU."""
    try:
        register = int(midr, 16)
        implementer, part = register >> 24 & 0xFF, register >> 4 & 0xFFF
    except ValueError:
        try:
            implementer, part = int(told["CPU implementer"], 16), int(told["CPU part"], 16)
        except (KeyError, ValueError):
            return told.get("model name") or told.get("uarch") or None
    return CORE_TYPES.get(implementer, {}).get(part, f"implementer {implementer:#x} part {part:#x}")


def _policies(root: Path) -> List[Path]:
    return _by_number((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))


def policy_cpus(policy: Path) -> List[int]:
    """The CPUs whose clock a cpufreq policy sets."""
    return _cpu_list(_text(policy / "related_cpus") or _text(policy / "affected_cpus"))


def _devfreq(root: Path, kind: re.Pattern[str]) -> Optional[Path]:
    """The clock of the GPU or the memory; the first where there are several."""
    return next((p for p in _by_number((root / "sys/class/devfreq").glob("*")) if kind.search(p.name)), None)


def _gpu(root: Path) -> Optional[Message]:
    """The GPU as Linux's driver shows it; which Vulkan driver there is, ncnn tells."""
    clock = _devfreq(root, _GPU)
    nodes = [clock] if clock else []
    nodes += _by_number((root / "sys/class/drm").glob("renderD*"))
    for node in nodes:
        with contextlib.suppress(OSError):
            driver = os.path.basename(os.readlink(node / "device/driver"))
            hertz = _number(clock / "max_freq") if clock else None
            return {
                "name": node.name,
                # Arm's own driver says which Mali it is: "Mali-G610 4 cores r0p0 0xA867".
                "model": _text(root / "sys/class/misc/mali0/device/gpuinfo") or None,
                "driver": driver,
                "max_mhz": hertz / 1e6 if hertz else None,
                "governor": (_text(clock / "governor") or None) if clock else None,
            }
    return None


# --------------------------------------------------------------------------------------------------------- sensors


class Sensor(NamedTuple):
    """Something to be read again and again; ``read`` gives None where it cannot be had just now."""

    name: str
    read: Callable[[], Optional[float]]
    measures: str = ""  # of power: board (all it takes), package (a whole chip) or rail (one supply)
    counts: bool = False  # the mean since the last reading


def _scaled(path: Path, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        value = _number(path)
        return None if value is None else value * factor

    return read


def _unlike(names: Collection[str], name: str) -> str:
    """The name, with a number where it is taken."""
    return next(n for n in (name, *(f"{name} {i}" for i in range(2, 1000))) if n not in names)


def _temperatures(root: Path) -> List[Sensor]:
    """Sensors in °C."""
    found: Dict[str, Sensor] = {}

    def add(name: str, path: Path) -> None:
        name = _unlike(found, name)

        def read() -> Optional[float]:
            value = _number(path)
            # Millidegrees; some vendors' kernels give degrees.
            return None if value is None else value / 1000 if abs(value) > 1000 else float(value)

        found[name] = Sensor(name, read)

    for zone in _by_number((root / "sys/class/thermal").glob("thermal_zone*")):
        add(re.sub(r"[-_]thermal$", "", _text(zone / "type")) or zone.name, zone / "temp")
    for chip in _by_number((root / "sys/class/hwmon").glob("hwmon*")):
        if _text(chip / "name") in _CPU_THERMOMETERS:
            for path in _by_number(chip.glob("temp*_input")):
                label = _text(chip / path.name.replace("_input", "_label"))
                add(f"{_text(chip / 'name')} {label}".strip(), path)
    return list(found.values())


def _powers(root: Path) -> List[Sensor]:
    """Sensors in watts, those that see most of the board first."""
    found: Dict[str, Sensor] = {}

    def add(name: str, read: Callable[[], Optional[float]], measures: str, counts: bool = False) -> None:
        name = _unlike(found, name)
        found[name] = Sensor(name, read, measures, counts)

    for chip in _by_number((root / "sys/class/hwmon").glob("hwmon*")):
        for path in _by_number(chip.glob("power*_input")) or _by_number(chip.glob("power*_average")):
            label = _text(chip / re.sub(r"_(input|average)$", "_label", path.name)) or _text(chip / "name")
            add(label, _scaled(path, 1e-6), "board" if label in _WHOLE_BOARD else "rail")
        for path in _by_number(chip.glob("curr*_input")):
            # An INA gives each rail's current (mA) and voltage (mV) under one number.
            channel = path.name[len("curr") : -len("_input")]
            voltage = chip / f"in{channel}_input"
            known = _CHANNELS.get(_text(chip / "name"), 1000)
            if (chip / f"power{channel}_input").exists() or not voltage.exists() or int(channel) > known:
                continue
            label = _text(chip / f"in{channel}_label") or _text(chip / f"curr{channel}_label") or _text(chip / "name")
            add(label, _product(path, voltage, 1e-6), "board" if label in _WHOLE_BOARD else "rail")
    for supply in _by_number((root / "sys/class/power_supply").glob("*")):
        if _text(supply / "type") == "Battery" and any((supply / f).exists() for f in ("power_now", "current_now")):
            add(supply.name, _battery(supply), "board")
    for zone in _by_number((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = _text(zone / "name")
        if name == "psys" or name.startswith("package"):  # the others are parts of these
            add(name, _rate(zone), "board" if name in _WHOLE_BOARD else "package", counts=True)
    tool = root / "usr/bin/vcgencmd"
    if "brcm,bcm2712" in _text(root / "proc/device-tree/compatible").split("\0") and tool.exists():
        add("PMIC", _pmic(tool), "package")
    order = ("board", "package", "rail")
    return sorted(found.values(), key=lambda sensor: order.index(sensor.measures))


def _product(current: Path, voltage: Path, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        amount, level = _number(current), _number(voltage)
        return None if amount is None or level is None else abs(amount * level) * factor

    return read


def _battery(supply: Path) -> Callable[[], Optional[float]]:
    """Its power while it discharges: else its current is the charger's, not the board's."""
    power = _scaled(supply / "power_now", 1e-6)
    product = _product(supply / "current_now", supply / "voltage_now", 1e-12)

    def read() -> Optional[float]:
        if _text(supply / "status") != "Discharging":
            return None
        given = power()
        return abs(given) if given is not None else product()

    return read


def _pmic(tool: Path) -> Callable[[], Optional[float]]:
    """The Raspberry Pi 5's rails together, as its firmware tells a program; what USB takes is not among them.

    Once a second: starting a program disturbs more than reading a file.
    """
    asked = [-math.inf]

    def read() -> Optional[float]:
        if time.monotonic() - asked[0] < 1.0:
            return None
        asked[0] = time.monotonic()
        try:
            done = subprocess.run([str(tool), "pmic_read_adc"], capture_output=True, text=True, timeout=1.0)
        except (OSError, subprocess.SubprocessError):
            return None
        volts = dict(re.findall(r"(\S+)_V volt\(\d+\)=([\d.]+)V", done.stdout))
        amperes = dict(re.findall(r"(\S+)_A current\(\d+\)=([\d.]+)A", done.stdout))
        rails = [float(amperes[rail]) * float(volts[rail]) for rail in amperes if rail in volts]
        return sum(rails) if rails else None

    return read


def _rate(zone: Path) -> Callable[[], Optional[float]]:
    """Watts since the last reading, from a counter of microjoules that starts again when it is full."""
    last: List[Tuple[float, int]] = []

    def read() -> Optional[float]:
        energy, now = _number(zone / "energy_uj"), time.monotonic()
        if energy is None:
            return None
        before = last.pop() if last else None
        last.append((now, energy))
        if before is None or now <= before[0]:
            return None
        used = energy - before[1]
        used += (_number(zone / "max_energy_range_uj") or 0) if used < 0 else 0
        return used * 1e-6 / (now - before[0])

    return read


# ---------------------------------------------------------------------------------------------------------- clocks


class _Knob(NamedTuple):
    """Where the governor of a clock is chosen."""

    name: str
    chosen: Path
    possible: Path


def _knobs(root: Path) -> List[_Knob]:
    """Those of every cluster, the GPU and the memory."""
    found = [_Knob(p.name, p / "scaling_governor", p / "scaling_available_governors") for p in _policies(root)]
    for clock in (_devfreq(root, _GPU), _devfreq(root, _MEMORY)):
        if clock is not None:
            found.append(_Knob(clock.name, clock / "governor", clock / "available_governors"))
    return found


@contextlib.contextmanager
def fixed_clocks(journal: Path, root: str = "/") -> Iterator[Message]:
    """Keep the clocks of CPU, GPU and memory at their highest, where that is permitted, and put them back after.

    They are put back also after an exception, Ctrl-C, SIGTERM and SIGHUP (a connection that was cut). What nothing can
    catch, ``journal`` repairs: the file says how the clocks were before any is touched, and :func:`restore_clocks`, or
    the next use of this function, puts them back.

    Args:
        journal: a file to be written; its folder is made. Held locked, so that of two runs at once one fixes.
        root: as for :func:`describe`.

    Yields:
        ``fixed`` (names of clocks that stand still now) and ``refused`` (name -> why not).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_in_order())
        report: Message = {"fixed": [], "refused": {}}
        knobs = _knobs(Path(root))
        try:
            file = _lock(journal) if knobs else None
            if file is not None:
                stack.callback(file.close)
                _put_back(file, root)  # of a run that was killed
                _record(file, {"boot": _boot(root), "governors": {knob.name: _text(knob.chosen) for knob in knobs}})
                stack.callback(_forget, file, journal, root)
            reason = "another run holds the clocks" if file is None else ""
        except OSError as error:
            reason = f"no journal can be written: {error.strerror}"
        for knob in knobs:
            refused = reason or _fix(knob)
            if refused:
                report["refused"][knob.name] = refused
            else:
                report["fixed"].append(knob.name)
        yield report


def restore_clocks(journal: Path, root: str = "/") -> List[str]:
    """Put the clocks back that a killed run left fixed; nothing where none did, or where one is at work.

    Returns:
        The names of those that could not be put back; the journal then stays.
    """
    try:
        file = _lock(journal) if journal.exists() else None
    except OSError:
        return []  # another user's
    if file is None:
        return []
    with file:
        return _forget(file, journal, root)


def _fix(knob: _Knob) -> str:
    """Choose the governor; why not, else empty."""
    if _text(knob.chosen) == "performance":
        return ""
    possible = _text(knob.possible).split()
    if "performance" not in possible:
        return f"the kernel has no governor performance here, only {', '.join(possible) or 'none'}"
    return _write(knob.chosen, "performance")


def _write(path: Path, value: str) -> str:
    """Write to a file of the kernel's; what went wrong, else empty."""
    try:
        with open(path, "w") as file:
            file.write(value)
    except PermissionError:
        return "not permitted; as root it is"
    except OSError as error:
        return error.strerror or str(error)
    return "" if _text(path) == value else f"the kernel kept {_text(path)}"


def _boot(root: str) -> str:
    return _text(Path(root) / "proc/sys/kernel/random/boot_id")


def _lock(journal: Path) -> Optional[IO[str]]:
    """The journal, locked until it is closed or this process ends, however it ends; None where another has it."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(os.open(journal, os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: SIM115  # it stays open
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(journal)):
                return file
        except FileNotFoundError:
            pass  # its last holder removed it between our opening and locking
        except OSError:
            file.close()
            return None
        file.close()


def _record(file: IO[str], content: Message) -> None:
    """On the disk when this returns. A power cut before leaves half of it, and no clock touched."""
    file.seek(0)
    file.truncate()
    json.dump(content, file)
    file.flush()
    os.fsync(file.fileno())


def _put_back(file: IO[str], root: str) -> List[str]:
    """Choose the governors of the journal again; the names of those that would not."""
    file.seek(0)
    try:
        content = json.load(file)
        boot, governors = content["boot"], content["governors"]
    except (ValueError, KeyError, TypeError):
        return []
    if boot != _boot(root):
        return []  # a start of the machine has put them back, and its owner may have chosen anew
    # Of the journal only names count: whoever writes into it cannot have other files written.
    return [
        knob.name
        for knob in _knobs(Path(root))
        if governors.get(knob.name) and _text(knob.chosen) != governors[knob.name]
        if _write(knob.chosen, governors[knob.name])
    ]


def _forget(file: IO[str], journal: Path, root: str) -> List[str]:
    """Put the clocks back and remove the journal, undisturbed by signals."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        failed = _put_back(file, root)
        if not failed:
            journal.unlink()
        return failed
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a polite kill unwind the program instead of ending it at once. Handlers that somebody set stay."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    changed = []
    if threading.current_thread() is threading.main_thread():  # only it may
        changed = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


# -------------------------------------------------------------------------------------------------------- watching


class Sampler:
    """Watches clocks, temperatures and power while something runs: ``with sampler: run()``, as often as you like.

    A thread looks every ``interval`` seconds, because only under load is there anything to see: an instant after it,
    clocks and power have fallen. What is measured is another process (:mod:`ncnnkit.onboard.worker`), so that neither
    waits for the other's lock, and the thread keeps off the CPUs under measurement where there are others. Nothing
    to be watched, no thread.

    Args:
        root: as for :func:`describe`.
        cpus: those the load is pinned to; by default it may be anywhere.
        on_gpu: the load is the GPU's, so that CPUs that slow down tell nothing.
        interval: seconds; a look is some dozens of small files, about a millisecond.
    """

    FIRST = 0.05  # seconds until the first look: clocks rise, and a short run is seen once

    def __init__(
        self, root: str = "/", cpus: Optional[Collection[int]] = None, on_gpu: bool = False, interval: float = 0.2
    ) -> None:
        top = Path(root)
        self._interval = interval
        self._pinned = set(cpus or ())
        self._clocks = _clocks(top, clusters(root))
        self._temperatures, self._powers = _temperatures(top), _powers(top)
        self._throttling = _Throttling(top, self._clocks, self._pinned, on_gpu)
        self._seen: Dict[str, Dict[str, List[float]]] = {"clocks_mhz": {}, "temperatures": {}, "power_w": {}}
        self._looks = 0
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> Sampler:
        if self._clocks or self._temperatures or self._powers or self._throttling.able:
            for sensor in self._powers:
                if sensor.counts:
                    sensor.read()  # from here
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
            with contextlib.suppress(OSError):  # 0 is the calling thread alone
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

    def result(self, ms: Optional[float] = None) -> Message:
        """What was seen so far.

        Args:
            ms: what one inference took, in the mean.

        Returns:
            ``looks`` (how often), ``clocks_mhz``, ``temperatures`` (°C) and ``power_w``, each name -> ``min``,
            ``median``, ``max``, and for power ``mean``; ``energy_mj`` of one inference, what ``energy_of`` names takes
            in ``ms``, idle power included, None where no sensor sees the board or a package; ``throttled``, None where
            nothing here would tell, and ``throttled_by``, the reasons in words.
        """
        figures: Message = {"looks": self._looks}
        for kind, quantities in self._seen.items():
            figures[kind] = {
                name: {"min": min(values), "median": statistics.median(values), "max": max(values)}
                for name, values in quantities.items()
            }
        for name, values in self._seen["power_w"].items():
            figures["power_w"][name]["mean"] = statistics.fmean(values)
        source = next((s.name for s in self._powers if s.measures != "rail" and s.name in figures["power_w"]), None)
        watts = figures["power_w"][source]["mean"] if source else None
        figures.update(energy_mj=None if watts is None or ms is None else watts * ms, energy_of=source)
        figures.update(throttled=self._throttling.verdict(), throttled_by=list(self._throttling.reasons))
        return figures


class _Clock(NamedTuple):
    """A clock: a cluster's, the GPU's or the memory's."""

    name: str
    current: Tuple[Path, ...]  # of each policy of a cluster
    caps: Tuple[Path, ...]
    governor: Path
    unit: float  # of these files, in MHz
    cpus: Tuple[int, ...]

    def mhz(self) -> Optional[float]:
        """The fastest of a cluster's policies: it carries the load."""
        return self._highest(self.current)

    def cap(self) -> Optional[float]:
        return self._highest(self.caps)

    def _highest(self, paths: Sequence[Path]) -> Optional[float]:
        values = [value for value in map(_number, paths) if value is not None]
        return max(values) * self.unit if values else None


def _clocks(root: Path, groups: Sequence[Message]) -> List[_Clock]:
    found = []
    policies = {policy: policy_cpus(policy) for policy in _policies(root)}
    for group in groups:
        own = [policy for policy, cpus in policies.items() if set(cpus) & set(group["cpus"])]
        if own:
            current = tuple(policy / "scaling_cur_freq" for policy in own)
            caps = tuple(policy / "scaling_max_freq" for policy in own)
            found.append(_Clock(group["name"], current, caps, own[0] / "scaling_governor", 1e-3, tuple(group["cpus"])))
    for name, kind in (("gpu", _GPU), ("memory", _MEMORY)):
        node = _devfreq(root, kind)
        if node is not None:
            found.append(_Clock(name, (node / "cur_freq",), (node / "max_freq",), node / "governor", 1e-6, ()))
    return found


class _Throttling:
    """What tells that a chip has slowed down to save itself.

    Five witnesses: a cap of a clock that was lowered, a clock that fell although it was fixed or under a pinned load,
    a cooling device that slows something, counters of x86 CPUs, and the Raspberry Pi's firmware.
    """

    FELL = 0.9  # of the highest seen, twice running: a single look can fall between two inferences

    def __init__(self, root: Path, clocks: Sequence[_Clock], pinned: Collection[int], on_gpu: bool) -> None:
        def loaded(clock: _Clock) -> bool:
            return clock.name == "gpu" if on_gpu else bool(clock.cpus and (not pinned or set(clock.cpus) & set(pinned)))

        self._clocks = [clock for clock in clocks if loaded(clock)]
        self._steady = bool(pinned) and not on_gpu
        self._cooling = [
            (device, _text(device / "type"))
            for device in _by_number((root / "sys/class/thermal").glob("cooling_device*"))
            if _SLOWING.search(_text(device / "type"))
        ]
        self._counters = sorted((root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count"))
        self._firmware = next((root / "sys/devices/platform").glob("*soc*/*firmware/get_throttled"), None)
        self._caps = {clock.name: clock.cap() for clock in self._clocks}
        self._highest: Dict[str, float] = {}
        self._lower: Dict[str, int] = {}
        self._counted = 0
        self._told_before = 0  # what the firmware remembers of the time before
        self.reasons: Dict[str, None] = {}
        self.able = bool(self._clocks or self._cooling or self._counters or self._firmware)

    def begin(self) -> None:
        """A run begins."""
        self._counted = self._count()
        self._told_before = self._told() >> 16
        for clock in self._clocks:
            # Not fixed, a clock may have rested; pinned, it rises within the run and stays.
            if _text(clock.governor) != "performance":
                self._highest.pop(clock.name, None)
                self._lower.pop(clock.name, None)

    def look(self, mhz: Dict[str, float]) -> None:
        """The clocks just now."""
        for clock in self._clocks:
            cap, first = clock.cap(), self._caps[clock.name]
            if cap is not None and first is not None and cap < first:
                self.reasons[f"the cap of the clock of {clock.name} was lowered from {first:.0f} MHz"] = None
            if clock.name in mhz and (self._steady or _text(clock.governor) == "performance"):
                self._compare(clock.name, mhz[clock.name])
        for device, kind in self._cooling:
            if (_number(device / "cur_state") or 0) > 0:
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
        """The run ended."""
        if self._count() > self._counted:
            self.reasons["the CPU counted thermal throttling"] = None

    def verdict(self) -> Optional[bool]:
        return bool(self.reasons) if self.able else None

    def _count(self) -> int:
        return sum(_number(path) or 0 for path in self._counters)

    def _told(self) -> int:
        try:
            return int(_text(self._firmware), 16) if self._firmware else 0
        except ValueError:
            return 0
