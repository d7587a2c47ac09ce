"""What every device can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from ..codec import decode
from ..errors import DeviceError, FormatError
from ..onboard.child import Child, WorkerError
from ..onboard.protocol import Failure, MeasureResult, ProfileResult, Result, TuneResult

Notify = Callable[[Mapping[str, Any]], None]
"""Gets a job's messages: one a step, see :func:`ncnnkit.onboard.measuring.measure`."""


GOODBYE = 1.2  # seconds that an interrupted job is waited for, while it puts the clocks back and ends
RESULT, RECORD = "result.json", "record.json"
RESULTS: Mapping[str, type[Result]] = {"measure": MeasureResult, "profile": ProfileResult, "tune": TuneResult}
"""Kind of a job -> what it answers with."""

R = TypeVar("R", bound=Result)


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

    def put(self, files: Sequence[Path]) -> list[str]:
        """Bring files there, as far as they are not; returns their paths there. Raises DeviceError."""
        ...

    def run_job(self, job: Mapping[str, Any], notify: Notify = lambda message: None) -> Any:
        """Run a job there.

        Args:
            job: see ``ncnnkit.onboard.jobs.JOBS``. Under ``param``, ``bin`` and ``inputs`` stand files of this machine,
                and ``folder`` is one of this machine, which gets the outputs.
            notify: called with the job's messages.

        Returns:
            What the job made, of the class that :data:`RESULTS` names; its files are files of this machine.

        Raises:
            WorkerError: ncnn failed where the job cannot do without.
            DeviceError: the device cannot be reached, or lacks what is needed.
        """
        ...


def read_result(folder: Path, said: str, where: str, kind: type[R]) -> R:
    """The result of a job that has ended, from its folder: as far as it came, where its process died.

    Args:
        kind: of :data:`RESULTS`.
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
        data = path.read_bytes()
        failure = decode(data, Failure)
        if failure.error:
            raise WorkerError(failure.error, failure.crashed)
        result = decode(data, kind)
    except FormatError as error:
        raise DeviceError(f"{path.name} is not what a job writes: {error.line()}", where=where) from None
    if path.name == RECORD and isinstance(result, MeasureResult):
        for variant in result.variants:
            if variant.peak_memory_mb is None and variant.status == "ok":  # the last that is asked of each
                variant.status, variant.reason = "crashed", died
    return result


def last_words(log: bytes) -> str:
    """The last line of a log, without the rest of it."""
    lines = log[-2000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


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
