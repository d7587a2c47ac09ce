"""What every device can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from ..onboard.child import Child

Tell = Callable[[Mapping[str, Any]], None]
"""Gets a job's messages: one a step, see :func:`ncnnkit.onboard.measuring.measure`."""


class Device(Protocol):
    """A machine that runs ncnn. A context manager; leaving it closes the connection.

    Attributes:
        name: what the user calls it.
        address: ``local``, ``ssh://…`` or ``adb://…``.
    """

    name: str
    address: str

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def child(self) -> Child:
        """A serving process there. Raises DeviceError."""
        ...

    def clean(self) -> None:
        """Remove all that was brought there. Raises DeviceError."""
        ...

    def put(self, files: Sequence[Path]) -> list[str]:
        """Bring files there, as far as they are not; returns their paths there. Raises DeviceError."""
        ...

    def run_job(self, job: Mapping[str, Any], tell: Tell = lambda message: None) -> dict[str, Any]:
        """Run a job of the worker there.

        Args:
            job: see ``ncnnkit.onboard.jobs.JOBS``. Under ``param``, ``bin`` and ``inputs`` stand files of this machine,
                and ``folder`` is one of this machine, which gets the outputs.
            tell: called with the job's messages.

        Returns:
            What the worker made of it; its files are files of this machine.

        Raises:
            DeviceError: the device cannot be reached, or lacks what is needed.
        """
        ...


FILE_KEYS = frozenset({"param", "bin"})


def job_files(job: Any) -> list[Path]:
    """The files a job names."""
    found: list[Path] = []

    def note(path: str) -> str:
        found.append(Path(path))
        return path

    map_files(job, note)
    return found


def map_files(job: Any, change: Callable[[str], str]) -> Any:
    """A job with every file it names changed: ``param``, ``bin``, and the list ``inputs``, at any depth."""
    if isinstance(job, Mapping):
        made: dict[str, Any] = {}
        for key, value in job.items():
            if key in FILE_KEYS:
                made[key] = change(value)
            elif key == "inputs" and all(isinstance(v, str) for v in value):
                made[key] = [change(v) for v in value]
            else:
                made[key] = map_files(value, change)
        return made
    if isinstance(job, (list, tuple)):
        return [map_files(value, change) for value in job]
    return job
