"""Temperature and power sensors of a board, as Linux shows them."""

from __future__ import annotations

import math
import re
import subprocess
import time
from pathlib import Path
from typing import Callable, Collection, Dict, List, NamedTuple, Optional, Tuple

from .sysfs import (
    by_number,
    read_number,
    read_text,
)

_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "psys")
"""Labels of sensors that measure the power of the whole board: those of Jetsons, and Intel's platform counter."""

_CHANNELS = {"ina3221": 3}
"""Chip of hwmon -> how many of its currents have a voltage with the same number; further currents are sums."""

_CPU_THERMOMETERS = ("coretemp", "k10temp", "zenpower", "amdgpu", "scpi_sensors")
"""Chips of hwmon to read. Others measure disks and radios, or repeat a thermal zone."""


class Sensor(NamedTuple):
    """A sensor. ``read`` returns its value, or None if it cannot be read at the moment."""

    name: str
    read: Callable[[], Optional[float]]
    measures: str = ""  # of power: board (the whole board), package (a whole chip) or rail (one supply)
    counts: bool = False  # whether a value is the mean since the last read


def temperatures(root: Path) -> List[Sensor]:
    """Temperature sensors, °C."""
    found: Dict[str, Sensor] = {}

    def add(name: str, path: Path) -> None:
        name = _unlike(found, name)

        def read() -> Optional[float]:
            value = read_number(path)
            # Millidegrees, but degrees with the kernels of some vendors.
            return None if value is None else value / 1000 if abs(value) > 1000 else float(value)

        found[name] = Sensor(name, read)

    for zone in by_number((root / "sys/class/thermal").glob("thermal_zone*")):
        add(re.sub(r"[-_]thermal$", "", read_text(zone / "type")) or zone.name, zone / "temp")
    for chip in by_number((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(chip / "name") in _CPU_THERMOMETERS:
            for path in by_number(chip.glob("temp*_input")):
                label = read_text(chip / path.name.replace("_input", "_label"))
                add(f"{read_text(chip / 'name')} {label}".strip(), path)
    return list(found.values())


def powers(root: Path) -> List[Sensor]:
    """Power sensors, W. Those that measure most of the board come first."""
    found: Dict[str, Sensor] = {}

    def add(name: str, read: Callable[[], Optional[float]], measures: str, counts: bool = False) -> None:
        name = _unlike(found, name)
        found[name] = Sensor(name, read, measures, counts)

    for chip in by_number((root / "sys/class/hwmon").glob("hwmon*")):
        for path in by_number(chip.glob("power*_input")) or by_number(chip.glob("power*_average")):
            label = read_text(chip / re.sub(r"_(input|average)$", "_label", path.name)) or read_text(chip / "name")
            add(label, _scaled(path, 1e-6), "board" if label in _WHOLE_BOARD else "rail")
        for path in by_number(chip.glob("curr*_input")):
            # An INA sensor numbers the rails; each number has a current (mA) and a voltage (mV).
            channel = path.name[len("curr") : -len("_input")]
            voltage = chip / f"in{channel}_input"
            known = _CHANNELS.get(read_text(chip / "name"), 1000)
            if (chip / f"power{channel}_input").exists() or not voltage.exists() or int(channel) > known:
                continue
            labels = (f"in{channel}_label", f"curr{channel}_label", "name")
            label = next(filter(None, (read_text(chip / name) for name in labels)), "")
            add(label, _product(path, voltage, 1e-6), "board" if label in _WHOLE_BOARD else "rail")
    for supply in by_number((root / "sys/class/power_supply").glob("*")):
        if read_text(supply / "type") == "Battery" and any((supply / f).exists() for f in ("power_now", "current_now")):
            add(supply.name, _battery(supply), "board")
    for zone in by_number((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(zone / "name")
        if name == "psys" or name.startswith("package"):  # the other counters are parts of these
            add(name, _rate(zone), "board" if name in _WHOLE_BOARD else "package", counts=True)
    tool = root / "usr/bin/vcgencmd"
    if "brcm,bcm2712" in read_text(root / "proc/device-tree/compatible").split("\0") and tool.exists():
        add("PMIC", _pmic(tool), "package")
    order = ("board", "package", "rail")
    return sorted(found.values(), key=lambda sensor: order.index(sensor.measures))


def _unlike(names: Collection[str], name: str) -> str:
    """The name, with a number appended if it is taken."""
    return next(n for n in (name, *(f"{name} {i}" for i in range(2, 1000))) if n not in names)


def _scaled(path: Path, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        value = read_number(path)
        return None if value is None else value * factor

    return read


def _product(current: Path, voltage: Path, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        amount, level = read_number(current), read_number(voltage)
        return None if amount is None or level is None else abs(amount * level) * factor

    return read


def _battery(supply: Path) -> Callable[[], Optional[float]]:
    """The battery's power while it discharges. Otherwise its current is that of the charger, not of the board."""
    power = _scaled(supply / "power_now", 1e-6)
    product = _product(supply / "current_now", supply / "voltage_now", 1e-12)

    def read() -> Optional[float]:
        if read_text(supply / "status") != "Discharging":
            return None
        given = power()
        return abs(given) if given is not None else product()

    return read


def _pmic(tool: Path) -> Callable[[], Optional[float]]:
    """The power of all rails of a Raspberry Pi 5, as its firmware reports them. USB devices are not included.

    It is read once a second, because starting a program disturbs a measurement more than reading a file.
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
    """The mean power since the last read, W, from a counter of microjoules that wraps around."""
    last: List[Tuple[float, int]] = []

    def read() -> Optional[float]:
        energy, now = read_number(zone / "energy_uj"), time.monotonic()
        if energy is None:
            return None
        before = last.pop() if last else None
        last.append((now, energy))
        if before is None or now <= before[0]:
            return None
        used = energy - before[1]
        used += (read_number(zone / "max_energy_range_uj") or 0) if used < 0 else 0
        return used * 1e-6 / (now - before[0])

    return read
