"""A machine and its software, as run.json holds them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ..onboard.facts import Machine
from .run import Environment


def installed(package: str) -> str:
    """The version of an installed package, or ``unknown``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def environment(machine: Machine) -> Environment:
    """This machine and its software.

    Args:
        machine: what :func:`ncnnkit.device.session.probe` tells of it.
    """
    return Environment(
        ncnnkit=installed("ncnnkit"),
        ncnn=machine.ncnn,
        python=platform.python_version(),
        numpy=np.__version__,
        pillow=installed("Pillow"),
        platform=machine.platform,
        cpu=machine.cpu,
        cpu_features=machine.cpu_features,
        cores=machine.cores,
        vulkan=machine.vulkan,
    )
