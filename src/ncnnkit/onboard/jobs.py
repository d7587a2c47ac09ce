"""Jobs: what is to be done with networks where they will run, by kind."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Union

from .child import WorkerError
from .measuring import measure
from .messages import Message
from .process import end_with_stdin, ending_in_order
from .profiling import profile
from .protocol import Failure, Result
from .tuning import tune
from .variants import Notify, write_whole

JOBS: Dict[str, Callable[[Message, Notify], Result]] = {"measure": measure, "profile": profile, "tune": tune}
"""Kind of a job -> what does it."""


def run_job(job: Message, notify: Notify = lambda step: None) -> Any:
    """Do a job of any kind on this machine; the result is of the class of its kind."""
    return JOBS[job.get("kind", "measure")](job, notify)


def main(job_file: str, result_file: str) -> None:
    """The command ``job``: do the job of a file. Ends, with all it has opened, on SIGTERM and when stdin ends."""
    # Libraries print to stdout: the progress keeps a descriptor of its own.
    progress = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    end_with_stdin()
    with ending_in_order():
        try:
            result: Union[Result, Failure] = run_job(
                json.loads(Path(job_file).read_text()), lambda step: print(json.dumps(step), file=progress, flush=True)
            )
        except WorkerError as error:
            result = Failure(str(error), error.crashed)
        write_whole(result_file, asdict(result))
