"""Ctrl-C, SIGTERM and SIGHUP in every kind of stage of real commands: they end soon, and leave no process."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from networks import samples, small
from processes import descendants, open_processes

from ncnnkit.model import ncnnfile

BOUND = 5.0
"""Seconds. Two are promised, but other processes also need the CPUs."""

TELLING = """
    import sys
    import ncnnkit.cli, ncnnkit.device.sites, ncnnkit.measure.variants as variants
    from ncnnkit.cli import measuring, models, runs
    from contextlib import contextmanager
    from ncnnkit.device import local, board

    def telling(run_job):
        def wrapped(self, job, tell):
            def step(message):
                print(message.stage, flush=True)
                tell(message)
            return run_job(self, job, step)
        return wrapped

    @contextmanager
    def progress(plain):
        yield lambda stage, done, total: print(stage, done, flush=True)

    local.Local.run_job = telling(local.Local.run_job)
    board.Board.run_job = telling(board.Board.run_job)
    runs.shown_stages = models.shown_progress = measuring.shown_progress = progress
    ncnnkit.cli.main()
"""
"""The command line, changed to print its stage."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def not_ignored() -> None:
    """A shell's background job ignores Ctrl-C, and nohup ignores SIGHUP. Children inherit this."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


def begin(home: Path, arguments: str, stage: str, telling: str = TELLING) -> subprocess.Popen[str]:
    """A command that has reached this stage."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(telling), *shlex.split(arguments)],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=not_ignored,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if said[-1].startswith(stage):
            return process
    raise AssertionError(f"it never came to {stage!r}: {said}\n{process.communicate()[1]}")


def assert_it_ends(process: subprocess.Popen[str], how: signal.Signals) -> str:
    """Check that it ends soon after a signal, with all its processes. Returns its output."""
    while not (at_work := descendants(process.pid)):  # between two steps there may be no process
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.01)
    ends = open_processes(at_work)
    start = time.monotonic()
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    took = time.monotonic() - start
    assert process.returncode == 130, errors
    for pid, end in ends.items():
        assert select.select([end], [], [], BOUND)[0], f"{pid} is left"
        os.close(end)
    assert took < BOUND
    return errors


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ncnnfile.save(small(), tmp_path / "m.param")
    np.save(tmp_path / "x.npy", samples(10))
    (tmp_path / "recipe.toml").write_text(
        'model = "m.param"\nimages = "x.npy"\nbackends = ["cpu"]\nprecisions = ["fp32", "int8"]\nseconds = 0.1\n'
        'rounds = 1\nsustained = 60\neffort = "fast"\n'
    )
    return tmp_path


@pytest.mark.parametrize("how", ENDING)
def test_a_run_that_measures(home: Path, how: signal.Signals) -> None:
    """It measures in the thread of a device."""
    process = begin(home, "run --recipe recipe.toml --out o", "sustain")
    errors = assert_it_ends(process, how)
    assert "interrupted; no file is half-written" in errors
    assert not (home / "o").exists()


def test_a_search_for_settings(home: Path) -> None:
    process = begin(home, "tune m.param --seconds 600", "tune")
    assert_it_ends(process, signal.SIGINT)


def test_a_run_whose_threads_wait_for_many_processes(home: Path) -> None:
    np.save(home / "x.npy", samples(400))
    process = begin(home, "run --recipe recipe.toml --effort default --out o", "quantise: calibrate 1")
    assert_it_ends(process, signal.SIGTERM)
    assert not (home / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["connect to the workers", "compare"])
def test_a_cluster_on_this_machine(stage: str, home: Path) -> None:
    """Ctrl-C goes to all processes of a terminal. A worker that is still starting may say that its parent is gone."""
    pytest.importorskip("distributed")
    np.save(home / "x.npy", samples(2000))
    arguments = "compare m.param m.param --images x.npy --scheduler local"
    process = begin(home, arguments, stage)
    while len(descendants(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    process.wait(60)
    assert process.returncode == 130
    assert time.monotonic() - start < BOUND
    _, errors = process.communicate(timeout=60)
    assert "interrupted; " in errors
    assert "KeyboardInterrupt" not in errors
    assert stage != "compare" or "Traceback" not in errors


ON_A_BOARD = """
    import sys
    from ncnnkit.device import board
    board.Board.python = sys.executable  # nothing is downloaded
"""


def test_a_job_on_a_board(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The board is this machine behind a stand-in for ssh. Its processes are not descendants of ours."""
    there = home / "there"
    there.mkdir()
    program = home / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nfor last; do :; done\nHOME={there} XDG_CACHE_HOME= exec sh -c "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    arguments = "run --recipe recipe.toml --precision fp32 --on ssh://here --out o"
    process = begin(home, arguments, "sustain", textwrap.dedent(ON_A_BOARD) + textwrap.dedent(TELLING))
    (folder,) = (there / ".cache/ncnnkit/jobs").iterdir()
    leader, _ = json.loads((folder / "pid").read_text())
    ends = open_processes([leader, *descendants(leader)])
    assert len(ends) == 3, "the job, a serving process, and what watches it"
    assert_it_ends(process, signal.SIGINT)
    for end in ends.values():
        assert select.select([end], [], [], BOUND)[0]
        os.close(end)
    assert not folder.exists()


STUCK = """
    import time
    import ncnnkit.cli

    def work(**_):
        try:
            print("at work 0", flush=True)
            time.sleep(600)
        finally:
            time.sleep(600)

    ncnnkit.cli.app = work
    ncnnkit.cli.main()
"""


def test_a_hanging_cleanup_is_stopped(tmp_path: Path) -> None:
    process = begin(tmp_path, "", "at work", STUCK)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # a second one does not matter
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "interrupted; cleaning up took too long\n"


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + textwrap.dedent(TELLING)
    code = code.replace(
        "ncnnkit.cli.main()", "ncnnkit.cli.app = lambda **_: print(signal.getsignal(signal.SIGHUP))\n"
    ) + ("ncnnkit.cli.main()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n" or "SIG_IGN" in done.stdout
