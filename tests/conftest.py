"""What every test file shares: which tests can run here, and which must."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from ncnn_library import installed

from ncnnkit.session import probe


def _has_vulkan() -> bool:
    return bool(probe()["vulkan"])


def _has_torch() -> bool:
    return all(find_spec(package) for package in ("torch", "torchvision", "timm"))


def _has_library() -> bool:
    return installed("native") is not None


NEEDS = {
    "vulkan": (_has_vulkan, "no Vulkan device (Debian: mesa-vulkan-drivers libvulkan1)"),
    "torch": (_has_torch, "torch, torchvision or timm is missing"),
    "app": (_has_library, "ncnn's C++ library is missing (scripts/ncnn-library)"),
}
"""Marker -> whether its tests can run here, and what is missing where they cannot."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", default="", help=f"markers whose tests must not be skipped: {','.join(NEEDS)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    required = [name for name in config.getoption("--require").split(",") if name]
    for marker, (available, reason) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if (marked or marker in required) and not available():
            if marker in required:
                raise pytest.UsageError(f"--require {marker}: {reason}")
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
