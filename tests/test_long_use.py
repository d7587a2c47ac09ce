"""Short forms of the measurements of memory and of long use. The long ones are in ``scripts``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench_memory import watch  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("work", ["calibrate", "evaluate"])
def test_the_memory_does_not_depend_on_the_number_of_samples(work: str) -> None:
    few, many = (
        watch([sys.executable, str(SCRIPTS / "bench_scale.py"), "inside", "--work", work, "--images", count])
        for count in ("100", "2000")
    )
    assert few.parent > 10
    assert few.largest_child > 5
    # A list of 1,900 float32 tensors of 3x32x32 takes 22 MB.
    assert many.parent < few.parent + 6, (few, many)
    assert many.largest_child < few.largest_child + 6, (few, many)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_inferences_leave_nothing_behind() -> None:
    """One run with every precision, each timed 400 times: its memory, descriptors, files and processes do not grow."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "soak.py", "variants", "--inferences", "400", "--engines", ""],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "descriptors" in done.stdout
