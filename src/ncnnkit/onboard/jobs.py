"""Jobs: work to do with networks on the machine where they will run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Mapping, Type, Union

from .child import WorkerError
from .measuring import measure
from .process import end_with_stdin, ending_in_order
from .profiling import profile
from .protocol import Failure, Job, Line, MeasureJob, Notify, ProfileJob, R, Step, TuneJob
from .records import from_json
from .tuning import tune
from .variants import write_whole

JOBS: Mapping[Type[Job[Any]], Callable[..., Any]] = {MeasureJob: measure, ProfileJob: profile, TuneJob: tune}
"""Kind of job -> the function that does it."""


def run_job(job: Job[R], notify: Notify = lambda step: None) -> R:
    """Do a job of any kind on this machine."""
    result: R = JOBS[type(job)](job, notify)
    return result


def read_job(text: str) -> Job[Any]:
    """The job with this text, which :meth:`Job.text` made."""
    fields = json.loads(text)
    kinds = {kind.kind: kind for kind in JOBS}
    job: Job[Any] = from_json(fields, kinds[fields.pop("kind")])
    return job


def main(job_file: str, result_file: str) -> None:
    """The command ``job``: do the job in a file. On SIGTERM, or when stdin ends, it ends together with its children."""
    # Progress has its own file descriptor, because libraries print to stdout.
    progress = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    end_with_stdin()

    def tell(step: Step) -> None:
        print(json.dumps(asdict(Line(step))), file=progress, flush=True)

    with ending_in_order():
        result: Union[Any, Failure]
        try:
            result = run_job(read_job(Path(job_file).read_text()), tell)
        except WorkerError as error:
            result = Failure(str(error), error.crashed)
        write_whole(result_file, asdict(result))
