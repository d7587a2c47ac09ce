"""Models of jobs."""

from __future__ import annotations

from ..artifact import Artifact
from ..model.precision import PRECISIONS
from ..onboard.protocol import JobModel


def job_model(model: Artifact) -> JobModel:
    """The model in the form that a job takes. ``model`` must be stored in files. It runs at its precision."""
    assert model.param is not None
    return JobModel(
        files=[str(model.param), str(model.param.with_suffix(".bin"))],
        precision=model.precision,
        options=model.options,
        least_sqnr_db=PRECISIONS[model.precision].least_sqnr_db,
    )
