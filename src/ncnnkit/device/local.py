"""This machine, as a device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..codec import decode
from ..older import Self
from ..onboard.child import PROGRAM, Child
from ..onboard.engines.base import Engine
from ..onboard.protocol import Job, Line, MeasureJob, Notify, R
from ..onboard.scratch import Scratch
from .base import GOODBYE, RECORD, RESULT, ignore, last_words, read_result
from .begun import Begun
from .serving import CheckedChild


class Local:
    """See :class:`ncnnkit.device.Device`."""

    name = address = "local"

    def __init__(self) -> None:
        self._begun = Begun()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cancel(self) -> None:
        self._begun.cancel()

    def child(self) -> Child:
        return self._begun.add(CheckedChild())

    def clean(self) -> None:
        """Do nothing: no files are copied to this machine."""

    def lacks(self, engine: Engine) -> str:
        return "" if engine.version() else f"{engine.package} is not installed"

    def put(self, files: Sequence[Path]) -> list[str]:
        return [str(path) for path in files]

    def run_job(self, job: Job[R], notify: Notify = ignore) -> R:
        with Scratch() as name, open(f"{name}/log", "w+b") as log:
            folder = Path(name)
            sent: Job[Any] = replace(job, record=str(folder / RECORD)) if isinstance(job, MeasureJob) else job
            (folder / "job.json").write_text(sent.text(), encoding="utf-8")
            process = self._begun.add(_Job(folder, log))
            try:
                for line in process.progress:
                    step = decode(line, Line).step
                    if step is not None:
                        notify(step)
                process.wait()
            finally:
                process.kill()
            log.seek(0)
            return read_result(folder, last_words(log.read()), self.name, job)


LOCAL = Local()


class _Job:
    """A process that does the job in a folder."""

    def __init__(self, folder: Path, log: IO[bytes]) -> None:
        command = [sys.executable, PROGRAM, "job", str(folder / "job.json"), str(folder / RESULT)]
        pipe = subprocess.PIPE
        # Ctrl-C goes to this process only, which ends the child.
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True)
        assert self._process.stdout is not None
        self.progress: IO[bytes] = self._process.stdout

    def wait(self) -> None:
        self._process.wait()

    def kill(self) -> None:
        """End it with SIGTERM, because it may have clocks to restore, then kill it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(GOODBYE)
