"""Jobs: the results of measuring, also if a variant dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from networks import job_variant, samples, small

from ncnnkit.device.board import PROGRAM
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard import variants
from ncnnkit.onboard.child import Child
from ncnnkit.onboard.measuring import measure
from ncnnkit.onboard.protocol import MeasureJob, Step
from ncnnkit.onboard.sampler import Sampler


@pytest.fixture
def model(tmp_path: Path) -> Path:
    param = tmp_path / "model.param"
    ncnnfile.save(small(), param)
    return param


def job(folder: Path, param: Path, precisions: list[str], **how: Any) -> MeasureJob:
    np.save(folder / "input.npy", samples(3))
    variants = [job_variant(param, precision, **how) for precision in precisions]
    return MeasureJob(variants, [str(folder / "input.npy")], str(folder), rounds=2, seconds=0.05, slow_seconds=0.1)


def test_measuring_interleaves_and_keeps_every_output(tmp_path: Path, model: Path) -> None:
    told: list[Any] = []
    first, second = measure(job(tmp_path, model, ["fp32", "bf16"]), told.append).variants
    assert [(v.status, v.reason) for v in (first, second)] == [("ok", ""), ("ok", "")]
    assert np.load(first.outputs["out0"]).shape == (3, 10)
    assert not np.array_equal(np.load(first.outputs["out0"]), np.load(second.outputs["out0"]))
    assert len(first.samples) >= 4
    assert min(first.samples) > 0
    assert first.load_ms is not None
    assert first.load_ms.cold > 0
    assert first.peak_memory_mb is not None
    assert first.peak_memory_mb >= 0
    assert [step.stage for step in told] == ["evaluate", "evaluate", "time", "time"]


def test_conditions_and_the_sustained_run_are_reported(tmp_path: Path, model: Path) -> None:
    told: list[Any] = []
    plain = job(tmp_path, model, ["fp32"], cpus=[min(os.sched_getaffinity(0))])
    result = measure(replace(plain, fix_clocks=True, sustained=0.3, journal=str(tmp_path / "j")), told.append)
    (variant,) = result.variants
    assert variant.first_ms is not None
    assert (variant.status, variant.first_ms > 0) == ("ok", True)
    assert result.clocks is not None
    assert not (tmp_path / "j").exists()
    assert variant.conditions is not None
    assert variant.sustained is not None
    assert variant.sustained.seconds >= 0.3
    assert variant.sustained.samples > 10
    assert min(variant.sustained.first_ms, variant.sustained.last_ms) > 0
    assert told[-1] == Step("sustain", "fp32", 0, 0.3)


def test_the_board_is_watched_while_a_variant_is_timed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(boards.jetson_orin(tmp_path / "board"))
    monkeypatch.setattr(variants, "Sampler", lambda **options: Sampler(root, **options))
    (variant,) = measure(job(tmp_path, model, ["fp32"]), lambda step: None).variants
    conditions = variant.conditions
    assert conditions is not None
    assert conditions.looks >= 2, "once in each round"
    assert conditions.clocks_mhz["all"].median == 1510.0
    assert conditions.energy_mj == pytest.approx(6.048 * np.mean(variant.samples))


@pytest.mark.parametrize(("free_mb", "together"), [(50.0, 1), (None, 3)])
def test_as_many_processes_are_open_as_the_memory_allows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, free_mb: float | None, together: int
) -> None:
    alive: set[Child] = set()
    most = 0
    order: list[dict[str, bool]] = []

    class Counted(Child):
        def __init__(self, **options: Any) -> None:
            nonlocal most
            super().__init__(**options)
            alive.add(self)
            most = max(most, len(alive))

        def close(self) -> None:
            alive.discard(self)
            super().close()

        def ask(self, op: str, *rest: Any, **fields: Any) -> Any:
            self.options = fields.get("options", getattr(self, "options", {}))
            order.extend([self.options] if op == "time" else [])
            return super().ask(op, *rest, **fields)

    monkeypatch.setattr(variants, "Child", Counted)
    monkeypatch.setattr(variants, "system_memory_mb", lambda field: free_mb)
    rows = measure(job(tmp_path, model, ["fp32", "bf16", "fp16"]), lambda step: None).variants
    assert [row.status for row in rows] == ["ok"] * 3
    assert all(len(row.samples) >= 4 and row.peak_memory_mb is not None for row in rows)
    assert (most, alive) == (together, set())
    assert order == [PRECISIONS[name].options for name in ("fp32", "bf16", "fp16")] * 2, (
        "rounds take turns all the same"
    )


def test_a_variant_that_dies_is_a_row_and_the_others_go_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Child] = []

    class Dying(Child):
        def __init__(self, **options: Any) -> None:
            super().__init__(None if started else ["sh", "-c", "kill -SEGV $$"], **options)
            started.append(self)

    monkeypatch.setattr(variants, "Child", Dying)
    dead, alive = measure(job(tmp_path, model, ["fp32", "bf16"]), lambda step: None).variants
    assert dead.status == "crashed"
    assert "SIGSEGV" in dead.reason
    assert alive.status == "ok"


def test_a_board_only_needs_the_folder(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "anywhere"
    folder.mkdir()
    for name, path in PROGRAM.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / name)
    (tmp_path / "job.json").write_text(job(tmp_path, model, ["fp32"]).text())
    command = [sys.executable, str(folder), "job", "job.json", "result.json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert [json.loads(line)["step"]["stage"] for line in done.stdout.splitlines()] == ["evaluate", "time", "time"]
    (variant,) = json.loads((tmp_path / "result.json").read_text())["variants"]
    assert variant["status"] == "ok"
    assert not (tmp_path / "result.json.part").exists()


def test_vulkan_without_a_device_is_called_a_fallback(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ncnn then runs on the CPU without a message."""
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent")
    request = job(tmp_path, model, ["fp32"], backend="vulkan")
    (variant,) = measure(request, lambda step: None).variants
    assert (variant.status, variant.device) == ("fallback", None)
    assert "no Vulkan device" in variant.reason


@pytest.mark.vulkan
def test_a_software_device_is_called_a_fallback(tmp_path: Path, model: Path) -> None:
    request = job(tmp_path, model, ["fp32"], backend="vulkan")
    (variant,) = measure(request, lambda step: None).variants
    assert variant.device is not None, "no Vulkan device: install mesa-vulkan-drivers and libvulkan1"
    expected = "fallback" if variant.device.type == "cpu" else "ok"
    assert variant.status == expected
    assert variant.device.name in variant.reason or expected == "ok"
