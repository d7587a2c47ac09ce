"""Reads files of ``/proc`` and ``/sys`` below a ``root``. In tests, ``root`` is a copy of a board's files.

A file that is absent, unreadable or invalid gives "unknown", never an error, because the kernels of vendors differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional

GPU_CLOCK = re.compile(r"gpu|mali|kgsl|v3d|ga10b|gv11b|gp10b", re.IGNORECASE)
MEMORY_CLOCK = re.compile(r"^dmc|[.:-]dmc|memory-controller|devfreq_mif|\bemc\b", re.IGNORECASE)


def read_text(path: Path) -> str:
    """The text of a file, without surrounding whitespace and NULs; empty if it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip().strip("\0").strip()
    except OSError:
        return ""


def read_number(path: Path) -> Optional[int]:
    """The whole number in a file; None if there is none."""
    try:
        return int(read_text(path))
    except ValueError:
        return None


def cpu_list(text: str) -> List[int]:
    """The CPUs in a list in Linux' format: ``0-3,6`` or ``0 1 2``."""
    found: List[int] = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.extend(range(int(first), int(last or first) + 1))
    return found


def by_number(paths: Iterator[Path]) -> List[Path]:
    """Paths sorted by the numbers in their names: policy4 before policy10."""
    return sorted(paths, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.name)], p.name))


def cpuinfo(root: Path) -> List[Dict[str, str]]:
    """The paragraphs of ``/proc/cpuinfo``: one for each CPU, and possibly others."""
    paragraphs: List[Dict[str, str]] = []
    for block in re.split(r"\n\s*\n", read_text(root / "proc/cpuinfo")):
        rows = (line.partition(":") for line in block.splitlines())
        paragraphs.append({name.strip(): value.strip() for name, _, value in rows})
    return paragraphs


def system_memory_mb(field: str, root: str = "/") -> Optional[float]:
    """A field of ``/proc/meminfo`` in MB (10^6 bytes)."""
    found = re.search(field + r":\s+(\d+) kB", read_text(Path(root) / "proc/meminfo"))
    return int(found[1]) * 1024 / 1e6 if found else None


def policies(root: Path) -> List[Path]:
    """The folders of the cpufreq policies, in order of their numbers."""
    return by_number((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))


def policy_cpus(policy: Path) -> List[int]:
    """The CPUs of a cpufreq policy, which sets their clock."""
    return cpu_list(read_text(policy / "related_cpus") or read_text(policy / "affected_cpus"))


def devfreq(root: Path, kind: re.Pattern[str]) -> Optional[Path]:
    """The devfreq folder of the GPU or the memory; the first if there are several."""
    return next((p for p in by_number((root / "sys/class/devfreq").glob("*")) if kind.search(p.name)), None)
