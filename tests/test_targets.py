"""The named boards, and the kernels that run on them."""

from __future__ import annotations

import dataclasses

import pytest

from ncnnkit.device.looking import look_at
from ncnnkit.model.targets import BOARDS, CORES, KERNELS, TARGETS, features_of, machine_target
from ncnnkit.onboard.clusters import CORE_TYPES


@pytest.mark.parametrize(
    ("board", "kernels"),
    [
        ("rk3588", "arm-dotprod"), ("rk3566", "arm-dotprod"), ("rk3576", "arm"), ("rk3399", "arm"), ("rk3328", "arm"),
        ("sg2002", "riscv"), ("raspberrypi4", "arm"), ("raspberrypi5", "arm-dotprod"), ("jetson-nano", "arm"),
        ("jetson-xavier", "arm"), ("cix-p1", "arm-dotprod"),
    ],
)  # fmt: skip
def test_a_board_runs_the_kernels_of_its_slowest_core(board: str, kernels: str) -> None:
    """ncnn's int8 Winograd runs if a core has no dot product. With a wrong row, models lose accuracy or overflow."""
    assert TARGETS[board].name == kernels
    assert TARGETS[board].int8_winograd is (kernels == "arm")


def test_features_are_those_that_all_cores_have() -> None:
    assert features_of("rk3588") == {"fp16", "dotprod"}
    assert features_of("rk3576") == set()
    assert features_of("jetson-xavier") == {"fp16"}
    assert "i8mm" in features_of("cix-p1")


def test_every_core_is_one_that_boards_report() -> None:
    """The names are those that `onboard` reads from a board's registers. RISC-V cores have no such names."""
    known = {name for parts in CORE_TYPES.values() for name in parts.values()}
    used = {core for cores in BOARDS.values() for core in cores}
    assert used <= CORES.keys()
    assert {core for core in CORES if "riscv" not in CORES[core]} <= known
    assert not set(KERNELS) & BOARDS.keys()


def test_a_machine_of_riscv_runs_its_kernels() -> None:
    machine = dataclasses.replace(look_at(), machine="riscv64", cpu_features=[])
    assert machine_target(machine) == "riscv"
