"""ncnn's C++ library and tools from ``scripts/ncnn-library``, and programs built with them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ncnnkit.cache.store import cache_folder

CACHE = cache_folder()


def installed(kind: str) -> Path | None:
    """The folder of a library, ``native``, ``aarch64`` or ``current``; None if it is not installed."""
    return next(iter(sorted(CACHE.glob(f"ncnn-*/{kind}"))), None)


def native() -> Path:
    found = installed("native")
    assert found is not None
    return found


def library_options(kind: str) -> list[str]:
    """CMake's options to build an app with a library, even with one that is older than the measured one."""
    prefix = installed(kind)
    assert prefix is not None
    return [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DINFER_NCNN=1.0.{prefix.parent.name.removeprefix('ncnn-')}"]


def build(source: Path, folder: Path, *options: str, library: str = "native") -> Path:
    """Configure and build a CMake project with a library, with warnings as errors. Returns the build folder."""
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    run("cmake", "-S", source, "-B", folder, "-G", "Ninja", *flags, *library_options(library), *options)
    run("cmake", "--build", folder)
    return folder


def run(*line: str | Path, **options: Any) -> str:
    """The stdout of a command. If it fails, the failure contains its output."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        list(map(str, line)), capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, line))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout
