"""Downloads wheels for a board's Python on this machine, so the board needs no internet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ..cache.store import cache_folder
from ..errors import DeviceError
from ..onboard.facts import Platform
from ..onboard.scratch import Scratch
from .begun import Begun

OLDEST_GLIBC = 17  # 2.17: manylinux2014


def fetch_wheels(board: Platform, where: str, begun: Begun, packages: Sequence[str] = ()) -> list[Path]:
    """The wheels for a board, from the cache or downloaded with pip.

    Args:
        board: the facts about the board.
        where: the name of the board, for errors.
        begun: gets pip's process, so that it can be ended.
        packages: the requirements for pip; by default numpy, and the version of ncnn on this machine, because models
            were quantised and verified with it.

    Raises:
        DeviceError: pip is missing, or finds no wheels for such a board.
    """
    major, minor = board.python[:2]
    packages = packages or [f"ncnn=={version('ncnn')}", "numpy"]
    folder = cache_folder() / "wheels" / f"{packages[0].replace('==', '-')}-py{major}{minor}-{_platform(board)}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Scratch(str(folder.parent)) as scratch:
            part = Path(scratch) / "wheels"
            part.mkdir()
            _download(board, where, part, begun, packages)
            try:
                part.replace(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process has fetched them meanwhile
                    raise
    return sorted(folder.glob("*.whl"))


def _download(board: Platform, where: str, folder: Path, begun: Begun, packages: Sequence[str]) -> None:
    major, minor = board.python[:2]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    there = ["--only-binary=:all:", "--implementation", "cp", "--python-version", f"{major}.{minor}"]
    # pip compares platform tags by name only, so it needs the tags of all older glibc versions, too.
    there += [word for tag in _tags(board) for word in ("--platform", tag)]
    command = [*pip, *there, "--dest", str(folder), *packages]
    with begun.add(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as process:
        try:
            _, errors = process.communicate()
        finally:
            process.kill()
    if process.returncode:
        said = [line for line in errors.splitlines() if line.strip()] or ["pip failed"]
        raise DeviceError(
            f"no wheels of {' and '.join(packages)} for Python {major}.{minor} on {_platform(board)}: {said[-1]}",
            where=where, hint="the first connection needs pip and a package index on this machine",
        )  # fmt: skip


def _tags(board: Platform) -> list[str]:
    machine = board.machine
    if board.libc != "glibc":
        return [f"musllinux_1_2_{machine}", f"musllinux_1_1_{machine}"]
    newest = int(board.libc_version.split(".")[1])
    return [f"manylinux_2_{m}_{machine}" for m in range(newest, OLDEST_GLIBC - 1, -1)] + [f"manylinux2014_{machine}"]


def _platform(board: Platform) -> str:
    return f"{board.libc or 'libc'}{board.libc_version}-{board.machine}"
