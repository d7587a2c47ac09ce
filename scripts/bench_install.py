#!/usr/bin/env python3
"""Measure the installation of ncnnkit for each Python: the time, the size, and the largest packages.

    scripts/bench_install.py [PYTHON ...]

Without arguments: each of python3.10 to python3.14 that is on the PATH and works.

The wheel is built once. Each Python gets a new virtual environment with it. There, ncnnkit is imported, prints its
help, and converts the network that comes with it. Sizes are sizes on the disk, without pip: as unpacked, and with the
bytecode that pip compiles. Times depend on the internet connection.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MB = 1 << 20
NOT_OURS = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
NAMES = [f"python3.{minor}" for minor in range(10, 15)]
LOCATE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def size(folder: Path, bytecode: bool) -> int:
    """Bytes that a file or folder takes on the disk, whole blocks."""
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return sum(512 * os.stat(path).st_blocks for path in files if bytecode or path.parent.name != "__pycache__")


def install(python: str, wheel: Path, folder: Path) -> None:
    """Install the wheel in a new environment, use it, and print a row for each figure."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    binaries = folder / "bin"
    start = time.perf_counter()
    subprocess.run([binaries / "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    seconds = time.perf_counter() - start
    shown = subprocess.run([binaries / "python", "-c", LOCATE], check=True, capture_output=True, text=True)
    packages = Path(shown.stdout.strip())
    ours = [each for each in packages.iterdir() if each.name.partition("-")[0] not in NOT_OURS]
    whole = {each.name: size(each, True) for each in ours}
    unpacked = sum(size(each, False) for each in ours)
    subprocess.run([binaries / "python", "-c", "import ncnnkit; ncnnkit.convert"], check=True)
    subprocess.run([binaries / "ncnnkit", "--help"], check=True, stdout=subprocess.DEVNULL)
    network = packages / "ncnnkit" / "data" / "efficientnet-lite0.onnx"
    subprocess.run(
        [binaries / "ncnnkit", "convert", network, "-o", folder / "m.param"], check=True, capture_output=True
    )
    largest = sorted(whole, key=lambda name: -whole[name])[:10]
    print(f"| {python} | {seconds:.0f} | {unpacked / MB:.0f} | {sum(whole.values()) / MB:.0f} |", end=" ")
    print(", ".join(f"{name} {whole[name] / MB:.0f}" for name in largest), "|", flush=True)


def found() -> Iterator[str]:
    """The Pythons on the PATH under which ncnnkit should work."""
    for name in NAMES:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([name, "-c", "import ensurepip, venv"], check=True, capture_output=True)
            yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    pythons = parser.parse_args().pythons or list(found()) or [sys.executable]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        # Debian's python3 has no pip of its own, but its environments do.
        subprocess.run([pythons[0], "-m", "venv", work / "build"], check=True)
        build: list[str | Path] = [work / "build/bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, ROOT]
        subprocess.run(build, check=True)
        (wheel,) = work.glob("*.whl")
        print(f"The wheel: {wheel.stat().st_size / MB:.1f} MB\n")
        print("| Python | s | MB | MB with bytecode | largest, MB with bytecode |\n| --- | --- | --- | --- | --- |")
        for index, python in enumerate(pythons):
            install(python, wheel, work / str(index))


if __name__ == "__main__":
    main()
