"""What every device can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from ..codec import decode
from ..errors import DeviceError, FormatError
from ..older import Self
from ..onboard.child import Child, WorkerError
from ..onboard.engines.base import Engine
from ..onboard.protocol import Failure, Job, MeasureResult, Notify, R, Result, Step, VariantResult

GOODBYE = 1.2  # seconds that an interrupted job is waited for, while it puts the clocks back and ends
RESULT, RECORD = "result.json", "record.json"
LARGEST_RESULT = 1 << 28  # bytes; a second of timing a tiny network makes a megabyte


def ignore(step: Step) -> None:
    """Do nothing about progress."""


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

    def cancel(self) -> None:
        """End what other threads wait for here; each gets an error. Nothing can be begun afterwards."""
        ...

    def child(self) -> Child:
        """A serving process there. Raises DeviceError."""
        ...

    def clean(self) -> None:
        """Remove all that was brought there. Raises DeviceError."""
        ...

    def lacks(self, engine: Engine) -> str:
        """Why an engine other than ncnn cannot run there, as a clause; empty where it can."""
        ...

    def put(self, files: Sequence[Path]) -> list[str]:
        """Bring files there, as far as they are not; returns their paths there. Raises DeviceError."""
        ...

    def run_job(self, job: Job[R], notify: Notify = ignore) -> R:
        """Run a job there.

        Args:
            job: its files are files of this machine, and so is the folder that gets its outputs.
            notify: called with what the job says of its progress.

        Returns:
            What the job made; its files are files of this machine.

        Raises:
            WorkerError: ncnn failed where the job cannot do without.
            DeviceError: the device cannot be reached, or lacks what is needed.
        """
        ...


def read_result(folder: Path, said: str, where: str, job: Job[R]) -> R:
    """The result of a job that has ended, from its folder: as far as it came, where its process died.

    Args:
        job: what was asked for.
        said: the last words of that process.
        where: the device's name, for errors.

    Raises:
        WorkerError: ncnn failed where the job cannot do without.
        DeviceError: there is nothing, or what no job writes. It names the first wrong field.
    """
    died = f"the process that measured it died: {said or 'killed'}"
    path = next((folder / name for name in (RESULT, RECORD) if (folder / name).is_file()), None)
    if path is None:
        raise DeviceError(f"the job died: {said or 'killed'}", where=where)
    try:
        if path.stat().st_size > LARGEST_RESULT:
            raise ValueError(f"it has more than {LARGEST_RESULT} bytes")
        data = path.read_bytes()
        failure = decode(data, Failure)
        if failure.error:
            raise WorkerError(failure.error, failure.crashed)
        result = cast(R, decode(data, job.result))
        job.check(result)
    except (FormatError, ValueError) as error:
        raise DeviceError(f"{path.name} is not what a job writes: {error}", where=where) from None
    if path.name == RECORD:
        for variant in measured(result):
            if variant.peak_memory_mb is None and variant.status == "ok":  # the last that is asked of each
                variant.status, variant.reason = "crashed", died
    return result


def measured(result: Result) -> list[VariantResult]:
    """The variants of a job that measured some."""
    return result.variants if isinstance(result, MeasureResult) else []


def last_words(log: bytes) -> str:
    """The last line of a log, without the rest of it."""
    lines = log[-2000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def job_files(job: Job[Any]) -> list[Path]:
    """The files that a job reads."""
    found: list[Path] = []

    def note(path: str) -> str:
        found.append(Path(path))
        return path

    job.with_files(note)
    return found
