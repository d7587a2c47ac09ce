"""The emulated board of scripts/emulated-board: the properties on which other tests rely."""

from __future__ import annotations

import subprocess

import pytest
from conftest import BOARD

pytestmark = pytest.mark.board

ASIMDDP = 1 << 20
"""The bit of Linux's AT_HWCAP with which ncnn selects its kernels with dot products."""


def on_board(command: str, user: str = "board") -> str:
    return subprocess.run(
        ["ssh", "-o", "BatchMode=yes", f"{user}@{BOARD}", command],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()


def test_the_address_answers_for_a_user_without_rights() -> None:
    assert on_board("whoami; id -u").split() == ["board", "1000"]


def test_it_runs_the_kernels_of_a_cortex_a76() -> None:
    assert on_board("uname -m") == "aarch64"
    auxiliary = dict(line.split(":", 1) for line in on_board("LD_SHOW_AUXV=1 /bin/true").splitlines())
    assert int(auxiliary["AT_HWCAP"], 16) & ASIMDDP
    assert int(auxiliary["AT_HWCAP2"], 16) == 0, "more than a Cortex-A76 has: QEMU_CPU did not reach the session"
    about = on_board("cat /proc/cpuinfo").splitlines()
    assert "CPU part\t: 0xd0b" in about
    assert all("asimddp" in line.split() for line in about if line.startswith("Features"))


def test_its_python_makes_virtual_environments_and_has_no_packages() -> None:
    check = "import ensurepip, sys, venv; assert (3, 9) <= sys.version_info; import numpy"
    assert "No module named 'numpy'" in on_board(f'python3 -c "{check}" 2>&1 || true')


def test_it_cannot_download() -> None:
    assert "Name or service not known" in on_board(
        """python3 -c "import socket; socket.getaddrinfo('python.org', 443)" 2>&1 || true"""
    )


def test_a_user_with_a_small_disk() -> None:
    assert "No space left" in on_board("head -c 17000000 /dev/zero 2>&1 >full || rm full", "small")


def test_a_user_without_python() -> None:
    assert on_board("command -v python3 || echo none; command -v sh", "bare").split()[0] == "none"
