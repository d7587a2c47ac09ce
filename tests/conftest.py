"""Shared by all test files: which tests can run here, which must run, and common fixtures."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from ncnn_library import CACHE, installed
from networks import samples, small
from small_run import PREPROCESS, edit_cards

from ncnnkit.cache.store import cache_folder
from ncnnkit.device.looking import look_at
from ncnnkit.model import ncnnfile
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from browser import NAMES as BROWSERS

# No deadline: on a busy machine a test may take long without being wrong.
settings.register_profile("ncnnkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ncnnkit")

# Tests compile the same programs again and again, each in a temporary folder of its own.
if shutil.which("ccache"):
    os.environ.setdefault("CMAKE_CXX_COMPILER_LAUNCHER", "ccache")
    os.environ.setdefault("CCACHE_DIR", str(CACHE / "ccache"))
    os.environ.setdefault("CCACHE_BASEDIR", tempfile.gettempdir())
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")
    os.environ.setdefault("CCACHE_MAXSIZE", "1G")

BOARD = "ncnnkit-board"
"""The host that scripts/emulated-board writes into ssh's configuration."""


def _has_vulkan() -> bool:
    return bool(look_at().vulkan)


def _has_torch() -> bool:
    return all(find_spec(package) for package in ("torch", "torchvision", "timm"))


def _has_board() -> bool:
    config = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config"  # ssh ignores HOME
    if not config.is_file() or f"Host {BOARD}" not in config.read_text():
        return False
    try:
        command = ["ssh", "-o", "BatchMode=yes", BOARD, "true"]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _has_library() -> bool:
    return installed("native") is not None


def _has_browser() -> bool:
    return any(map(shutil.which, BROWSERS))


NEEDS = {
    "vulkan": (_has_vulkan, "no Vulkan device (Debian: mesa-vulkan-drivers libvulkan1)"),
    "torch": (_has_torch, "torch, torchvision or timm is missing"),
    "board": (_has_board, "no emulated board (as root: scripts/emulated-board up)"),
    "app": (_has_library, "ncnn's C++ library is missing (scripts/ncnn-library)"),
    "browser": (_has_browser, "Chromium is missing (Debian: chromium)"),
}
"""Marker -> (whether its tests can run here, what is missing otherwise)."""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests take no results from the user's runs, and clear none of them. Wheels and built libraries are shared."""
    before, real = os.environ.get("XDG_CACHE_HOME"), cache_folder()
    home = tmp_path_factory.mktemp("cache")
    (home / "ncnnkit").mkdir()
    for shared in (*real.parent.glob("*"), *real.glob("*")):
        if shared.name not in ("ncnnkit", "stages"):
            (home / shared.relative_to(real.parent)).symlink_to(shared)
    os.environ["XDG_CACHE_HOME"] = str(home)
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", default="", help=f"markers whose tests must not be skipped: {','.join(NEEDS)}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("board"):  # one board; beside other tests its jobs sometimes died
            item.add_marker(pytest.mark.alone)
    required = [name for name in config.getoption("--require").split(",") if name]
    for marker, (available, reason) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if (marked or marker in required) and not available():
            if marker in required:
                raise pytest.UsageError(f"--require {marker}: {reason}")
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network with inputs of 3x16x16, preprocessing and ten class names."""
    home = tmp_path_factory.mktemp("run")
    ncnnfile.save(small(), home / "m.param")
    np.save(home / "x.npy", samples(10))
    run(
        Recipe(
            str(home / "m.param"), images=str(home / "x.npy"), backends=("cpu",), precisions=("fp32", "fp16", "int8"),
            threads=1, seconds=0.05, rounds=1, effort="fast",
        ),
        home / "out",
    )  # fmt: skip
    named = [f"name {i}" for i in range(10)]
    edit_cards(home / "out", preprocess=PREPROCESS.to_dict(), labels=named, task="classification")
    return home / "out"


@pytest.fixture
def own_run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))
