"""This machine, as a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..onboard.child import Child
from ..onboard.jobs import run_job
from .base import Tell


class Local:
    """See :class:`ncnnkit.device.Device`."""

    name = address = "local"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def child(self) -> Child:
        return Child()

    def clean(self) -> None:
        """Nothing is brought here."""

    def put(self, files: Sequence[Path]) -> list[str]:
        return [str(path) for path in files]

    def run_job(self, job: Mapping[str, Any], tell: Tell = lambda message: None) -> dict[str, Any]:
        return run_job(dict(job), tell)


LOCAL = Local()
