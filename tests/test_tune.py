"""The search of run settings: candidates, halving, wrong outputs, and the explanation of the winner."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import samples, small

import ncnnkit
from ncnnkit.artifact import Artifact
from ncnnkit.device.looking import look_at
from ncnnkit.errors import ModelError, RuntimeFailure
from ncnnkit.measure.tune import BASE, Placement, candidates, judge, placements, tune
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import FLOATS
from ncnnkit.onboard import tuning
from ncnnkit.onboard import variants as job_variants
from ncnnkit.onboard.child import Child, WorkerError
from ncnnkit.onboard.clusters import clusters as list_clusters
from ncnnkit.onboard.facts import Cluster, Conditions, DeviceType, Machine
from ncnnkit.onboard.jobs import run_job
from ncnnkit.onboard.machine import this_board
from ncnnkit.onboard.network import SWITCHES
from ncnnkit.onboard.protocol import (
    CandidateResult,
    ClocksReport,
    Final,
    JobModel,
    JobVariant,
    Rung,
    Settings,
    TuneJob,
    TuneResult,
)
from ncnnkit.onboard.tuning import _paired, differences, halve, put_back, worst_cosine, worst_sqnr_db

MODELS = {name: replace(Artifact.of(small()), param=Path("m.param")) for name in FLOATS}


def machine(root: Path, **fields: Any) -> Machine:
    board = this_board(str(root), machine="aarch64")
    cores = sum(len(cluster.cpus) for cluster in board.clusters)
    features = ["neon", "fp16-arithmetic"]
    return boards.machine(cores=cores, default_threads=4, cpu_features=features, board=board, **fields)


# ------------------------------------------------------------------------------------------------------ candidates


def test_on_big_and_little_cores_each_is_tried_and_all(tmp_path: Path) -> None:
    clusters = list_clusters(str(boards.rk3588(tmp_path)))
    assert list(map(str, placements(clusters))) == [
        "4 threads on little", "1 thread on big", "2 threads on big", "4 threads on big", "8 threads",
    ]  # fmt: skip
    assert placements(clusters)[1] == Placement(1, "big", (4, 5, 6, 7))


def test_three_clusters_also_without_the_little_one(tmp_path: Path) -> None:
    found = placements(list_clusters(str(boards.android(tmp_path))))
    assert list(map(str, found)) == [
        "4 threads on little", "2 threads on middle", "1 thread on big", "2 threads on big",
        "4 threads on all but little", "8 threads",
    ]  # fmt: skip
    assert found[4].cpus == (4, 5, 6, 7)


def test_a_board_of_one_cluster_is_left_to_the_system(tmp_path: Path) -> None:
    found = placements(list_clusters(str(boards.raspberry_pi_5(tmp_path))))
    assert found == [Placement(1), Placement(2), Placement(4)]


def test_hyperthreads_are_used_last(tmp_path: Path) -> None:
    found = placements(list_clusters(str(boards.laptop(tmp_path))))
    assert found[1:4] == [Placement(1, "big", (0, 2)), Placement(2, "big", (0, 2)), Placement(4, "big", (0, 1, 2, 3))]
    alone = [Cluster("all", cpus=[0, 1, 2, 3], cores=[0, 1])]
    assert placements(alone) == [Placement(1, "cores", (0, 1)), Placement(2, "cores", (0, 1)), Placement(4)]


def test_the_grid_begins_with_ncnns_defaults_and_has_nothing_twice(tmp_path: Path) -> None:
    rows = candidates(MODELS, machine(boards.rk3588(tmp_path)))
    first = rows[0]
    assert (first.name, first.model.precision, first.threads, first.cpus) == (BASE, "fp16", 4, [])
    assert len(rows) == 1 + 5 * (6 + 7 + 6), "fp16 arithmetic can be switched off"
    assert len({row.name for row in rows}) == len(rows)
    assert all(set(row.switches) <= set(SWITCHES) for row in rows)
    assert "bf16, 4 threads on big, no winograd, no sgemm" in {row.name for row in rows}
    pi = machine(boards.raspberry_pi_5(tmp_path / "5"))
    assert len(candidates(MODELS, pi)) == 3 * (6 + 7 + 6), "the defaults are one of them"


def test_vulkan_is_tried_on_a_gpu_only(tmp_path: Path) -> None:
    root = boards.rk3588(tmp_path)
    kinds: dict[DeviceType, int] = {"cpu": 0, "integrated": 9}
    for kind, count in kinds.items():
        rows = candidates(MODELS, machine(root, vulkan=[boards.vulkan(kind)]))
        assert sum(row.backend == "vulkan" for row in rows) == count
    only = candidates(MODELS, machine(root, vulkan=[boards.vulkan("integrated")]), backends=["vulkan"])
    assert {row.backend for row in only[1:]} == {"vulkan"}


# --------------------------------------------------------------------------------------------------------- halving


@given(st.integers(1, 100), st.randoms())
@settings(max_examples=50, deadline=None)
def test_halving_finds_the_best_within_its_time(count: int, random: Any) -> None:
    truth = {str(i): float(i) for i in range(count)}
    names = list(truth)
    random.shuffle(names)
    spent = []

    def score(left: list[str], seconds: float) -> dict[str, float]:
        spent.append(len(left) * seconds)
        return {name: truth[name] for name in left}

    left, rungs = halve(names, score, 60.0)
    assert left == ["0"]
    assert len(rungs) == max(1, math.ceil(math.log2(count)))
    assert sum(spent) == pytest.approx(60.0)
    assert spent == pytest.approx([spent[0]] * len(spent)), "each rung costs the same"
    assert [rung.seconds for rung in rungs] == sorted(rung.seconds for rung in rungs)


def test_halving_times_the_good_ones_longest() -> None:
    names = [str(i) for i in range(8)]
    _, rungs = halve(names, lambda left, seconds: {name: float(name) for name in left}, 24.0)
    assert [(rung.seconds, rung.kept) for rung in rungs] == [
        (1.0, ["0", "1", "2", "3"]), (2.0, ["0", "1"]), (4.0, ["0"]),
    ]  # fmt: skip


def test_halving_goes_on_if_candidates_are_dropped() -> None:
    def score(left: list[str], seconds: float) -> dict[str, float]:
        return {name: float(name) for name in left if name not in "0123"}

    left, rungs = halve([str(i) for i in range(8)], score, 8.0)
    assert left == ["4"]
    assert rungs[0].kept == ["4", "5", "6", "7"]
    assert halve(["a", "b"], lambda left, seconds: {}, 8.0)[0] == []


# ------------------------------------------------------------------------------------------------------- the final


def test_one_part_at_a_time_is_reset() -> None:
    base = JobVariant("base", JobModel(["a", "b"], "fp16", {"a": True}, 1.0), threads=4)
    int8 = JobModel(["q", "r"], "int8", {"a": False}, 1.0)
    best = replace(base, model=int8, cpus=[4, 5], switches={"winograd": False, "sgemm": False})
    assert differences(base.settings, base.settings) == []
    parts = differences(best.settings, base.settings)
    assert parts == ["cpus", "precision", "winograd", "sgemm"]
    assert put_back(best, base, "winograd") == replace(best, switches={"sgemm": False})
    assert put_back(best, base, "precision") == replace(best, model=base.model)
    for part in parts:
        best = put_back(best, base, part)
    assert best == base


@pytest.mark.parametrize(
    ("found", "right", "cosine"),
    [
        ([[1.0, 0.0]], [[2.0, 0.0]], 1.0),
        ([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], 0.0),
        ([[np.nan, 0.0]], [[1.0, 0.0]], None),
        ([[np.inf, 0.0]], [[1.0, 0.0]], None),
        ([[0.0, 0.0]], [[0.0, 0.0]], 1.0),
        ([[0.0, 0.0]], [[1.0, 0.0]], 0.0),
        ([[1.0]], [[1.0, 0.0]], 0.0),
    ],
)
def test_the_worst_output_decides(found: list[list[float]], right: list[list[float]], cosine: float | None) -> None:
    assert worst_cosine(list(map(np.array, found)), list(map(np.array, right))) == cosine


def test_detections_are_compared_row_by_row() -> None:
    """Rounding moves a score across the threshold, or past another score. A candidate is not wrong because of this."""
    right = np.array([[1, 0.9, 10, 10, 20, 20], [2, 0.8, 40, 10, 60, 20], [1, 0.5, 10, 70, 20, 90]], np.float32)
    fewer, swapped, other = right[:2], right[[1, 0, 2]], right + 30
    for found in (fewer, swapped, np.concatenate([right, right[:1] + 1])):
        assert worst_sqnr_db(*_paired([found], [right])) == math.inf
    assert worst_sqnr_db(*_paired([other], [right])) < 5
    assert worst_sqnr_db(*_paired([right[:1]], [right])) == -math.inf
    assert worst_sqnr_db([fewer], [right]) == -math.inf


# ---------------------------------------------------------------------------------------------------------- tuning


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ncnnfile.save(small(), tmp_path / "m.param")
    return tmp_path / "m.param"


def few(job: TuneJob) -> TuneResult:
    """A function that does the job with a few of its candidates."""
    chosen = {"fp32, 1 thread", "fp32, 1 thread, no packing", "fp32, 1 thread, no winograd", BASE, "int8, 1 thread"}
    return run_job(replace(job, candidates=[row for row in job.candidates if row.name in chosen]))


def fast(**fields: Any) -> dict[str, Any]:
    return {"seconds": 0.5, "final_seconds": 0.1, "rounds": 4, **fields}


def test_tuning_on_this_machine(model: Path) -> None:
    here = look_at()
    found = tune(model, few, here, **fast())
    rows = {row.name: row for row in found.candidates}
    assert set(rows) >= {BASE, "fp32, 1 thread", "fp32, 1 thread, no packing"}
    assert {row.status for row in rows.values()} == {"ok"}
    assert rows["fp32, 1 thread"].cosine == 1.0
    assert all((row.ms or 0) > 0 and (row.ratio or 0) > 0 for row in rows.values())
    assert found.base.threads == here.default_threads
    # The settings after the final may be another candidate of the grid, or new ones.
    grid = {row.name for row in candidates(MODELS, here)}
    assert found.settings.name in grid or found.settings.name.endswith("simplified")
    assert found.ms["settings"] <= found.ms["base"] * 1.5
    assert "ncnn's defaults (fp16, " in found.why
    assert found.clocks is None


def test_int8_is_a_candidate_and_its_own_reference_if_alone(model: Path, tmp_path: Path) -> None:
    stats = ncnnkit.calibrate(small(), samples(2))
    ncnnfile.save(ncnnkit.quantize(small(), stats, target="x86"), tmp_path / "q.param")
    found = tune(model, few, look_at(), int8=tmp_path / "q.param", sample=[samples(1)[0]], **fast())
    cosine = next(row.cosine for row in found.candidates if row.name == "int8, 1 thread")
    assert cosine is not None
    assert 0.9 < cosine < 1.0
    alone = tune(tmp_path / "q.param", few, look_at(), **fast())
    assert alone.base.precision == "int8"
    assert alone.cosine == pytest.approx(1.0, abs=1e-4)


def test_a_wrong_candidate_and_one_that_dies_are_dropped_with_the_reason(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Child.ask

    def spoiled(self: Child, op: str, arrays: Any = (), timeout: float = 60.0, **fields: Any) -> Any:
        if op == "load":
            self.switches = fields["switches"]  # type: ignore[attr-defined]
            if "packing" in self.switches:  # type: ignore[attr-defined]
                raise WorkerError("signal 11 (SIGSEGV) during 'load'", crashed=True)
        message, results = real(self, op, arrays, timeout, **fields)
        if op == "run" and "winograd" in self.switches:  # type: ignore[attr-defined]
            results = [-result for result in results]
        return message, results

    monkeypatch.setattr(Child, "ask", spoiled)
    found = {row.name: row for row in tune(model, few, look_at(), **fast()).candidates}
    assert found["fp32, 1 thread, no packing"].reason == "signal 11 (SIGSEGV) during 'load'"
    wrong = found["fp32, 1 thread, no winograd"]
    assert (wrong.status, wrong.reason) == ("dropped", "wrong outputs: SQNR -6.0 dB against the reference")
    assert found["fp32, 1 thread"].status == "ok"


@pytest.mark.parametrize(("free_mb", "together"), [(50.0, 1), (None, 3)])
def test_as_many_processes_are_open_as_the_memory_allows(
    model: Path, monkeypatch: pytest.MonkeyPatch, free_mb: float | None, together: int
) -> None:
    """The same rule as for measuring: on a small board, each process is started again for its turn."""
    alive: set[Child] = set()
    most = 0

    class Counted(Child):
        def __init__(self, **options: Any) -> None:
            nonlocal most
            super().__init__(**options)
            alive.add(self)
            most = max(most, len(alive))

        def close(self) -> None:
            alive.discard(self)
            super().close()

    for module in (tuning, job_variants):
        monkeypatch.setattr(module, "Child", Counted)
    monkeypatch.setattr(job_variants, "system_memory_mb", lambda field: free_mb)

    def two(job: TuneJob) -> TuneResult:
        return few(replace(job, candidates=[row for row in job.candidates if row.name in ("fp32, 1 thread", BASE)]))

    found = tune(model, two, look_at(), seconds=0.1, final_seconds=0.1, rounds=1)
    assert {row.status for row in found.candidates} == {"ok"}
    assert (most, alive) == (together, set())


def test_a_search_without_defaults_fails(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(job: TuneJob) -> TuneResult:
        base, *others = job.candidates
        return few(replace(job, candidates=[replace(base, switches={"unheard": True}), *others]))

    with pytest.raises(RuntimeFailure, match="tuning: ncnn's defaults do not run here: no switch 'unheard'"):
        tune(model, spoiled, look_at(), **fast())


def test_an_unavailable_precision_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="cannot run in int8"):
        tune(model, few, look_at(), precisions=["int8"])


def result(rows: list[Settings], winner: Settings, ratio: list[float], **without: float) -> TuneResult:
    return TuneResult(
        winner=winner,
        candidates=[CandidateResult(row.name, cosine=1.0, ms=1.0, ratio=1.0) for row in rows],
        rungs=[Rung(1.0, {}, [winner.name])],
        together=2,
        final=Final(
            winner=[10.0] * 4,
            base=[10.0 * r for r in ratio],
            ratio=ratio,
            without={part: [times] * 4 for part, times in without.items()},
        ),
        cosine=0.9999,
        conditions=Conditions(throttled=True, throttled_by=["the firmware throttles"]),
        clocks=ClocksReport([], {"policy0": "only root may change it"}),
    )


def test_a_final_that_is_too_noisy_recommends_nothing(tmp_path: Path) -> None:
    here = machine(boards.rk3588(tmp_path))
    rows = [row.settings for row in candidates(MODELS, here)]
    found = judge(rows, result(rows, rows[5], [1.1, 1.3, 3.1, 3.4]), here)
    assert found.settings == rows[0], "though each round was faster"
    assert found.why.startswith("too noisy to recommend other settings than ncnn's defaults (")
    assert "2.20 times as fast (the middle half of the 4 rounds: 1.25 to 3.17)" in found.why


def test_a_noisy_effect_of_a_setting_is_not_stated(tmp_path: Path) -> None:
    here = machine(boards.rk3588(tmp_path))
    rows = [row.settings for row in candidates(MODELS, here)]
    best = next(row for row in rows if row.name == "bf16, 4 threads on big, no winograd")
    done = result(rows, best, [2.0, 2.1, 2.2, 2.1], cpus=1.3, winograd=1.1)
    done.final.without["precision"] = [1.2, 3900.0, 3800.0, 1.1]
    found = judge(rows, done, here)
    assert found.settings == best
    assert found.why.endswith("effect of each setting: pinning to [4, 5, 6, 7] 1.30×, no winograd 1.10×")
    assert "too noisy to say what each setting gains: bf16" in found.notes
    assert list(found.without) == ["cpus", "winograd"]


def test_ties_and_outliers_of_a_search_are_named(tmp_path: Path) -> None:
    here = machine(boards.rk3588(tmp_path))
    rows = [row.settings for row in candidates(MODELS, here)]
    best, near, far = rows[5], rows[6], rows[7]
    done = result(rows, best, [2.0, 2.1, 2.2, 2.1])
    done.rungs[:] = [Rung(1.0, {best.name: 0.5, near.name: 0.505, far.name: 0.6}, [best.name])]
    done.final.base[0] = 17000.0
    notes = judge(rows, done, here).notes
    assert f"as fast within the spread: {near.name}" in notes
    assert any(note.startswith("ncnn's defaults: one round of 4 took up to ") for note in notes)
    assert not any(far.name in note for note in notes)


def test_the_winner_is_explained_by_the_effect_of_each_setting(tmp_path: Path) -> None:
    here = machine(boards.rk3588(tmp_path))
    here = replace(here, board=replace(here.board, emulated=True))
    rows = [row.settings for row in candidates(MODELS, here)]
    best = next(row for row in rows if row.name == "bf16, 4 threads on big, no winograd")
    found = judge(rows, result(rows, best, [2.0, 2.1, 2.2, 2.1], cpus=1.3, precision=1.5, winograd=1.1), here)
    assert found.ratio == pytest.approx(2.1)
    assert found.why == (
        "2.10 times as fast as ncnn's defaults (fp16, 4 threads) (the middle half of the 4 rounds: 2.08 to 2.12); "
        "effect of each setting: bf16 1.50×, pinning to [4, 5, 6, 7] 1.30×, no winograd 1.10×"
    )
    assert list(found.notes) == [
        "emulated: timings are not real", "throttled: the firmware throttles",
        "the clock of policy0 was not fixed: only root may change it",
    ]  # fmt: skip
    assert found.candidates[0].name == best.name


def test_within_noise_the_defaults_stay(tmp_path: Path) -> None:
    here = machine(boards.rk3588(tmp_path))
    rows = [row.settings for row in candidates(MODELS, here)]
    found = judge(rows, result(rows, rows[5], [0.9, 1.3, 1.1, 0.8]), here)
    assert (found.settings.name, found.ratio) == (BASE, 1.0)
    assert found.why == (
        "nothing is clearly faster than ncnn's defaults (fp16, 4 threads); "
        "the fastest other settings were 1.00 times as fast (the middle half of the 4 rounds: 0.88 to 1.15), which is "
        "within noise"
    )
    assert "within" not in judge(rows, result(rows, rows[0], [1.0] * 4), here).why


def test_reset_settings_name_the_winner(tmp_path: Path) -> None:
    here = machine(boards.rk3588(tmp_path))
    rows = [row.settings for row in candidates(MODELS, here)]
    best = next(row for row in rows if row.name == "bf16, 4 threads on big, no winograd")
    there = replace(best, switches={})
    assert judge(rows, result(rows, there, [2.0] * 4), here).settings.name == "bf16, 4 threads on big"
    there = replace(best, switches={"winograd23": False})
    assert judge(rows, result(rows, there, [2.0] * 4), here).settings.name.endswith("no winograd, simplified")
