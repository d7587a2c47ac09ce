"""The record of the software that converts and quantises in run.json."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ..onboard.facts import Machine


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine that converted and quantised, and its software.

    Attributes:
        ncnnkit: its version.
        pillow: its version. The rounding of resized images depends on it.
        machine: the machine, and its software.
    """

    ncnnkit: str
    pillow: str
    machine: Machine


def installed(package: str) -> str:
    """The version of an installed package, or ``unknown``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def environment(machine: Machine) -> Environment:
    """This machine and its software.

    Args:
        machine: what :func:`ncnnkit.device.looking.look_at` returned for it.
    """
    return Environment(ncnnkit=installed("ncnnkit"), pillow=installed("Pillow"), machine=machine)
