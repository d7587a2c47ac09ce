"""What works on this machine, and how to fix what does not."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from .device import Board, addresses, open_device
from .device.looking import look_at
from .errors import NcnnkitError
from .model.targets import machine_target
from .onboard.facts import Machine, VulkanDevice
from .record.variant import EMULATED
from .source.pnnx import INSTALL_HINT, find_pnnx


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. ``level`` is ``ok``, ``note`` or ``problem``."""

    subject: str
    level: str
    text: str


# feature -> what it means for ncnn's speed; of each group, the first that the CPU has is reported
_MEANINGS = {
    "avx512-vnni": "fast int8", "avx-vnni": "fast int8", "int8-dot-product": "fast int8", "i8mm": "fast int8 matrices",
    "avx512-bf16": "fast bf16", "bf16": "fast bf16", "fp16-arithmetic": "fast fp16",
}  # fmt: skip


# (regular expression of the device's name, regular expression of its driver's version, level, what is known)
_DRIVERS: tuple[tuple[str, str, str, str], ...] = (
    (
        r"Mali.*Panfrost", r"(2[0-4]|25\.0)\.", "problem",
        "PanVK of Mesa before 25.1 does not conform to Vulkan on Valhall (Mali-G610, of the RK3588): wrong outputs, "
        "lost devices; Mesa 25.1 is the first that does",
    ),
    (
        r"Mali.*Panfrost", r"25\.", "note",
        "PanVK of Mesa 25: large compute jobs have been seen to hang it; trust rows only that ended `ok`, and try a "
        "newer Mesa",
    ),
    (
        r"Mali-G(31|52)\b(?!.*Panfrost)", r".", "note",
        "Arm's driver (libmali) for Bifrost often has no working Vulkan: vkCreateDevice fails with -8, and ncnn then "
        "runs on the CPU",
    ),
    (
        r"Mali(?!.*Panfrost)", r".", "note",
        "Arm's driver (libmali, the blob of the vendor's image): its release, as g13p0, must be the kernel driver's, "
        "else calls fail or hang (`strings libmali.so | grep -m1 -o 'g[0-9]*p[0-9]*'` and `dmesg | grep -i mali` tell "
        "both); wrong outputs have been seen with some releases: compare, as `ncnnkit run` does",
    ),
    (
        r"V3D", r".", "note",
        "the Raspberry Pi's GPU (v3dv): ncnn works there, but is slower than on the CPU",
    ),
)  # fmt: skip
"""Drivers with known problems (ncnn's issues 6684 and 6818, Mesa's release notes). The first row that matches
counts."""


def examine() -> list[Finding]:
    """Examine ncnn, the CPU, Vulkan, pnnx and the optional packages of this machine."""
    try:
        findings = _machine(look_at())
    except NcnnkitError as error:
        return [Finding("ncnn", "problem", error.line())]
    findings.append(_pnnx())
    for package, use in (
        ("onnxruntime", "ONNX reference outputs"),
        ("torch", "models from torchvision, timm and code"),
    ):
        there = find_spec(package) is not None
        findings.append(
            Finding(package, "ok" if there else "note", use if there else f"not installed; needed for {use}")
        )
    return findings


def examine_device(name: str) -> list[Finding]:
    """Examine a device, or each board of a fleet: what it is, and what works there. Copies ncnn there if necessary."""
    try:
        boards = addresses(name)
    except NcnnkitError as error:
        return [Finding(name, "problem", error.line())]
    return _examine_board(name) if len(boards) == 1 else [found for each in boards for found in _examine_board(each)]


def _examine_board(name: str) -> list[Finding]:
    try:
        with open_device(name) as device:
            machine = look_at(device)
            late = time.time() - device.about.time if isinstance(device, Board) else 0.0
    except NcnnkitError as error:
        return [Finding(name, "problem", error.line())]
    clock = [Finding("clock", "note", f"off by {abs(late) / 86400:.0f} days; this does not affect measurements")]
    return [*_board(name, machine), *(clock if abs(late) > 86400 else []), *_machine(machine)]


def _machine(machine: Machine) -> list[Finding]:
    runs = Finding("ncnn", "ok", f"{machine.ncnn}, Python {machine.python}")
    return [runs, _cpu(machine), *_vulkan(machine)]


def _board(name: str, machine: Machine) -> list[Finding]:
    board = machine.board
    kind = board.board or board.soc or machine.platform
    findings = [Finding(name, "ok", f"{kind}, int8 for target {machine_target(machine)}")]
    if board.emulated:
        findings.append(Finding(name, "note", EMULATED))
    for cluster in board.clusters:
        figures = [
            f"CPUs {', '.join(map(str, cluster.cpus))}",
            *([f"{cluster.max_mhz:.0f} MHz"] if cluster.max_mhz else []),
            *([f"governor {cluster.governor}"] if cluster.governor else []),
        ]
        findings.append(Finding(f"{cluster.name} cores", "ok", f"{cluster.core or 'unknown'}: {', '.join(figures)}"))
    if board.memory_mb:
        findings.append(Finding("memory", "ok", f"{board.memory_mb / 1000:.1f} GB"))
    if board.gpu:
        named = {"model": board.gpu.model, "driver": board.gpu.driver, "governor": board.gpu.governor}
        known = [f"{name} {value}" for name, value in named.items() if value]
        findings.append(Finding("GPU", "ok", ", ".join([board.gpu.name, *known])))
    watts = [f"{sensor.name} ({sensor.measures})" for sensor in board.power]
    for subject, sensors in (("temperature", board.temperatures), ("power", watts)):
        text = ", ".join(sensors) or "no sensor"
        findings.append(Finding(subject, "ok" if sensors else "note", text))
    return findings


def _cpu(machine: Machine) -> Finding:
    told = [f"{name} ({_MEANINGS[name]})" if name in _MEANINGS else name for name in machine.cpu_features]
    lacks = [] if any("fast fp16" in t for t in told) else ["no fp16 arithmetic: an fp16 model is smaller, not faster"]
    lacks += [] if any("fast int8" in t for t in told) else ["no int8 dot product: int8 may be no faster than fp32"]
    text = f"{machine.cpu}, {machine.cores} cores: " + ", ".join(told or ["no known features"])
    return Finding("CPU", "note" if lacks else "ok", "; ".join([text, *lacks]))


def _vulkan(machine: Machine) -> list[Finding]:
    if not machine.vulkan:
        text = "no device: ncnn would run on the CPU without a message; `ncnnkit run` marks such rows as fallback"
        return [Finding("Vulkan", "note", text + " (Debian: apt install libvulkan1 and the GPU's driver)")]
    findings = []
    for device in machine.vulkan:
        findings += _about_driver(device)
        text = f"{device.name} ({device.type}), driver {device.driver}, API {device.api}"
        software = device.type == "cpu"
        findings.append(
            Finding(
                "Vulkan", "note" if software else "ok", text + ("; a software device, not a GPU" if software else "")
            )
        )
    return findings


def _about_driver(device: VulkanDevice) -> list[Finding]:
    for name, driver, level, text in _DRIVERS:
        if re.search(name, device.name) and re.match(driver, device.driver):
            return [Finding("driver", level, text)]
    return []


def _pnnx() -> Finding:
    try:
        return Finding("pnnx", "ok", str(find_pnnx()))
    except NcnnkitError:
        use = "needed for TorchScript files, and a second way for ONNX and torch"
        return Finding("pnnx", "note", f"not installed; {use} ({INSTALL_HINT})")


def as_json(findings: list[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]
