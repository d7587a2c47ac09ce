"""Temporary folders: removed by their process, or by the next process if it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ncnnkit.onboard import scratch
from ncnnkit.onboard.child import Child
from ncnnkit.onboard.scratch import PREFIX, Scratch

WAITING = """
    from ncnnkit.onboard.child import Child
    child = Child()
    print(child._scratch.name, flush=True)
    input()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_removed_after_its_block(home: Path) -> None:
    with Scratch() as name:
        (Path(name) / "x").touch()
        assert Path(name).parent == home
    assert not list(home.iterdir())


def test_a_folder_is_removed_with_its_object(home: Path) -> None:
    made = Scratch()
    assert Path(made.name).is_dir()
    open_files = len(os.listdir("/proc/self/fd"))
    del made
    assert not list(home.iterdir())
    assert len(os.listdir("/proc/self/fd")) == open_files - 1, "the lock is let go"


def test_only_folders_of_killed_processes_are_removed_at_the_next_start(home: Path) -> None:
    foreign = [home / "ncnnkit-bench-abcdefgh", home / f"{PREFIX}x", home / f"{PREFIX}link_abc", home / "other"]
    for path in foreign[:2] + foreign[3:]:
        path.mkdir()
    foreign[2].symlink_to(foreign[3])
    command = [sys.executable, "-c", "\n".join(line.strip() for line in WAITING.splitlines())]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as killed,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as alive,
    ):
        assert killed.stdout is not None
        assert alive.stdout is not None
        left, kept = (Path(process.stdout.readline().strip()) for process in (killed, alive) if process.stdout)
        killed.kill()
        killed.wait()
        assert left.is_dir()
        scratch.remove_left.cache_clear()
        with Child():
            assert not left.exists()
            assert kept.is_dir(), "its process lives"
        alive.kill()
    assert all(os.path.lexists(path) for path in foreign)


def test_a_folder_removed_before_locking_is_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = tempfile.mkdtemp, []

    def taken(**options: str) -> str:
        made.append(real(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with Scratch() as name:
        assert [Path(path).is_dir() for path in made] == [False, True]
        assert name == made[1]
