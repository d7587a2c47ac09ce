"""What works on this machine, and what to do about what does not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from .convert import find_pnnx
from .errors import NcnnkitError
from .session import probe


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. ``level`` is ``ok``, ``note`` or ``problem``."""

    subject: str
    level: str
    text: str


# feature -> what it means to ncnn's speed; the first of each group that the CPU has is told
_MEANINGS = {
    "avx512-vnni": "fast int8", "avx-vnni": "fast int8", "int8-dot-product": "fast int8", "i8mm": "fast int8 matrices",
    "avx512-bf16": "fast bf16", "bf16": "fast bf16", "fp16-arithmetic": "fast fp16",
}  # fmt: skip


def examine() -> list[Finding]:
    """Look at ncnn, the CPU, Vulkan, pnnx and the optional packages."""
    findings = []
    try:
        machine = probe()
    except NcnnkitError as error:
        return [Finding("ncnn", "problem", error.line())]
    findings.append(Finding("ncnn", "ok", f"{machine['ncnn']}, Python {machine['python']}"))
    findings.append(_cpu(machine))
    findings += _vulkan(machine)
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


def _cpu(machine: dict[str, Any]) -> Finding:
    told = [f"{name} ({_MEANINGS[name]})" if name in _MEANINGS else name for name in machine["cpu_features"]]
    lacks = [] if any("fast fp16" in t for t in told) else ["no fp16 arithmetic: an fp16 model is smaller, not faster"]
    lacks += [] if any("fast int8" in t for t in told) else ["no int8 dot product: int8 may be no faster than fp32"]
    text = f"{machine['cpu']}, {machine['cores']} cores: " + ", ".join(told or ["no known features"])
    return Finding("CPU", "note" if lacks else "ok", "; ".join([text, *lacks]))


def _vulkan(machine: dict[str, Any]) -> list[Finding]:
    if not machine["vulkan"]:
        text = "no device: with use_vulkan_compute ncnn would run on the CPU and say nothing; rows are marked fallback"
        return [Finding("Vulkan", "note", text + " (Debian: apt install libvulkan1 and the GPU's driver)")]
    findings = []
    for device in machine["vulkan"]:
        text = f"{device['name']} ({device['type']}), driver {device['driver']}, API {device['api']}"
        software = device["type"] == "cpu"
        findings.append(
            Finding("Vulkan", "note" if software else "ok", text + ("; a software device, no GPU" if software else ""))
        )
    return findings


def _pnnx() -> Finding:
    try:
        return Finding("pnnx", "ok", str(find_pnnx()))
    except NcnnkitError as error:
        return Finding("pnnx", "problem", error.line())


def as_json(findings: list[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]
