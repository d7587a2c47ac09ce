"""The interface of every device."""

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
from ..onboard.userfiles import read_bytes

GOODBYE = 1.2  # seconds that an interrupted job has to restore the clocks and end
RESULT, RECORD = "result.json", "record.json"
LARGEST_RESULT = 1 << 28  # bytes; timing a tiny network gives a megabyte per second


def ignore(step: Step) -> None:
    """Ignore a progress message."""


class Device(Protocol):
    """A machine that runs ncnn. A context manager; leaving it closes the connection.

    Attributes:
        name: the name that the user gave it.
        address: ``local``, ``ssh://…`` or ``adb://…``.
    """

    name: str
    address: str

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def cancel(self) -> None:
        """End everything that other threads wait for; each gets an error. Nothing can be started afterwards."""
        ...

    def child(self) -> Child:
        """Start a serving process on the device. Raises DeviceError."""
        ...

    def clean(self) -> None:
        """Remove everything that was copied to the device. Raises DeviceError."""
        ...

    def lacks(self, engine: Engine) -> str:
        """Why an engine other than ncnn cannot run on the device, as a clause; empty if it can."""
        ...

    def put(self, files: Sequence[Path]) -> list[str]:
        """Copy files to the device, unless it has them. Returns their paths there. Raises DeviceError."""
        ...

    def run_job(self, job: Job[R], notify: Notify = ignore) -> R:
        """Run a job on the device.

        Args:
            job: the job, with paths of this machine for its files and for the folder of its outputs.
            notify: called with the progress of the job.

        Returns:
            The result, with paths of this machine.

        Raises:
            WorkerError: ncnn failed, and the job cannot continue.
            DeviceError: the device cannot be reached, or lacks what is needed.
        """
        ...


def read_result(folder: Path, said: str, where: str, job: Job[R]) -> R:
    """Read the result of an ended job from its folder. If its process died, the result is incomplete.

    Args:
        folder: the folder of the job's files.
        said: the last line that the process printed.
        where: the name of the device, for errors.
        job: the job.

    Raises:
        WorkerError: ncnn failed, and the job could not continue.
        DeviceError: there is no result, or it is not valid. The error names the first wrong field.
    """
    died = f"the process that measured it died: {said or 'killed'}"
    path = next((folder / name for name in (RESULT, RECORD) if (folder / name).is_file()), None)
    if path is None:
        raise DeviceError(f"the job died: {said or 'killed'}", where=where)
    try:
        data = read_bytes(path, LARGEST_RESULT)
        failure = decode(data, Failure)
        if failure.error:
            raise WorkerError(failure.error, failure.crashed)
        result = cast(R, decode(data, job.result))
        job.check(result)
    except (FormatError, OSError, ValueError) as error:
        raise DeviceError(f"{path.name} is not what a job writes: {error}", where=where) from None
    if path.name == RECORD:
        for variant in measured(result):
            if variant.peak_memory_mb is None and variant.status == "ok":  # it is measured last
                variant.status, variant.reason = "crashed", died
    return result


def measured(result: Result) -> list[VariantResult]:
    """The variants in the result of a job; empty if the job measured none."""
    return result.variants if isinstance(result, MeasureResult) else []


def last_words(log: bytes) -> str:
    """The last line of a log."""
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
