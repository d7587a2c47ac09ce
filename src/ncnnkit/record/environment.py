"""A machine and its software, as run.json holds them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from .run import Environment, VulkanDevice


def installed(package: str) -> str:
    """The version of an installed package, or ``unknown``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def environment(machine: Mapping[str, Any]) -> Environment:
    """This machine and its software.

    Args:
        machine: what :func:`ncnnkit.device.session.probe` tells of it.
    """
    return Environment(
        ncnnkit=installed("ncnnkit"),
        ncnn=machine["ncnn"],
        python=platform.python_version(),
        numpy=np.__version__,
        pillow=installed("Pillow"),
        platform=machine["platform"],
        cpu=machine["cpu"],
        cpu_features=list(machine["cpu_features"]),
        cores=machine["cores"],
        vulkan=vulkan_devices(machine),
    )


def vulkan_devices(machine: Mapping[str, Any]) -> list[VulkanDevice]:
    """The Vulkan devices of a probed machine."""
    return [VulkanDevice(name=d["name"], type=d["type"], driver=d["driver"], api=d["api"]) for d in machine["vulkan"]]
