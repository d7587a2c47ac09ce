"""Jobs: what is to be done with networks where they will run, by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Dict

from .measuring import measure
from .messages import Message
from .profiling import profile
from .tuning import tune
from .variants import Tell, write_whole

JOBS: Dict[str, Callable[[Message, Tell], Message]] = {"measure": measure, "profile": profile, "tune": tune}
"""Kind of a job -> what does it."""


def run_job(job: Message, tell: Tell = lambda step: None) -> Message:
    """Do a job of any kind on this machine."""
    return JOBS[job.get("kind", "measure")](job, tell)


def main(job_file: str, result_file: str) -> None:
    result = run_job(json.loads(Path(job_file).read_text()), lambda step: print(json.dumps(step), flush=True))
    write_whole(result_file, result)
