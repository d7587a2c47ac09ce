"""Boards of one type as one device. Each board here is this machine behind a shell, as in ``test_device.py``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import job_variant, samples, small
from test_device import Shell

import ncnnkit as nk
from ncnnkit.device import Board, Fleet, Lost, fleet, link, open_device
from ncnnkit.device.fleet import divided
from ncnnkit.device.looking import look_at
from ncnnkit.device.names import add_name, check_address
from ncnnkit.errors import DeviceError, RecipeError
from ncnnkit.onboard.protocol import MeasureJob, MeasureResult, VariantResult
from ncnnkit.onboard.rows import Rows

SAMPLES = 11


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Board]]:
    """Three boards with this Python, so nothing is downloaded."""
    monkeypatch.setattr(Board, "python", sys.executable)
    monkeypatch.setattr(link, "PATIENCE", (0.1, 0.2))
    made = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        shell = Shell(tmp_path / name)
        shell.address = f"ssh://{name}"
        made.append(Board(shell, name))
    yield made
    for board in made:
        board.__exit__()


def job(folder: Path, count: int = SAMPLES, precisions: tuple[str, ...] = ("fp32", "bf16")) -> MeasureJob:
    nk.save(small(), folder / "model.param")
    np.save(folder / "in.npy", samples(count))
    variants = [job_variant(folder / "model.param", precision, f"{precision}-cpu") for precision in precisions]
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return MeasureJob(variants, [str(folder / "in.npy")], str(out), rounds=2, seconds=0.1, slow_seconds=1.0)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, int]]]:
    """The number of samples and of rounds of each job that a board gets."""
    found: dict[str, list[tuple[int, int]]] = {}
    run_job = Board.run_job

    def run(self: Board, job: Any, *rest: Any) -> Any:
        found.setdefault(self.name, []).append((len(Rows(job.inputs[0])), job.rounds))
        return run_job(self, job, *rest)

    monkeypatch.setattr(Board, "run_job", run)
    return found


@given(samples=st.integers(0, 200), count=st.integers(1, 9))
def test_every_sample_is_evaluated_once_and_the_last_one_everywhere(samples: int, count: int) -> None:
    shares = divided(samples, count)
    assert [index for share in shares for index in share] == list(range(max(samples - 1, 0)))
    assert len(shares) <= count
    assert len(shares) == 1 or max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_outputs_are_those_of_one_board(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(tmp_path)
    alone = boards[0].run_job(asked)
    seen = counted(monkeypatch)
    together = Fleet(boards, "shelf").run_job(asked)
    assert seen == {"one": [(5, 2)], "two": [(4, 0)], "three": [(4, 0)]}
    for one, all_ in zip(alone.variants, together.variants):
        assert all_.status == "ok"
        assert len(all_.samples) >= 2
        assert all_.outputs.keys() == one.outputs.keys()
        for blob in one.outputs:
            first, second = Rows(one.outputs[blob]), Rows(all_.outputs[blob])
            assert len(second) == SAMPLES
            assert [row.tobytes() for row in first] == [row.tobytes() for row in second]
    assert not list((tmp_path / "out").glob("*/input-*")), "the parts of the inputs are removed"


def test_few_samples_are_not_divided(boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    found = Fleet(boards, "shelf").run_job(job(tmp_path, count=2))
    assert seen == {"one": [(2, 2)]}
    assert len(Rows(next(iter(found.variants[0].outputs.values())))) == 2


def test_the_samples_of_a_lost_board_run_on_another(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(tmp_path)
    alone = boards[0].run_job(asked)
    shelf = Fleet(boards, "shelf")
    shelf._check_alike()
    run_job = Board.run_job

    def run(self: Board, job: Any, *rest: Any) -> Any:
        if self.name == "two":
            raise Lost("the power failed", where=self.name)
        return run_job(self, job, *rest)

    monkeypatch.setattr(Board, "run_job", run)
    seen = counted(monkeypatch)
    together = shelf.run_job(asked)
    assert sorted(count for jobs in seen.values() for count, _ in jobs) == [4, 4, 4, 5]
    for one, all_ in zip(alone.variants, together.variants):
        for blob in one.outputs:
            assert [row.tobytes() for row in Rows(one.outputs[blob])] == [
                row.tobytes() for row in Rows(all_.outputs[blob])
            ]


def test_the_first_board_cannot_be_replaced(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Fleet(boards, "shelf")
    shelf._check_alike()
    transport = boards[0]._link.transport
    assert isinstance(transport, Shell)
    transport.cut.set()
    with pytest.raises(Lost, match=r"^one: "):
        shelf.run_job(job(tmp_path))


def test_if_all_boards_are_lost_the_job_ends(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first board has timed, and is lost while it evaluates the samples of another."""
    shelf = Fleet(boards, "shelf")
    shelf._check_alike()
    run_job, asked = Board.run_job, list[str]()

    def run(self: Board, job: Any, *rest: Any) -> Any:
        asked.append(self.name)
        if self.name != "one" or asked.count("one") > 1:
            raise Lost("the power failed", where=self.name)
        return run_job(self, job, *rest)

    monkeypatch.setattr(Board, "run_job", run)
    with pytest.raises(Lost, match="the power failed"):
        shelf.run_job(job(tmp_path))
    assert asked.count("one") == 2


def test_boards_of_two_kinds_are_refused(boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fleet, "look_at", lambda board: replace(look_at(board), cores=64 if board.name == "three" else 2)
    )
    with pytest.raises(
        DeviceError, match=r"three: it is not of the same type as one: the number of cores is 64, not 2"
    ):
        Fleet(boards, "shelf").run_job(job(tmp_path))


def spoiled(change: Callable[[VariantResult], None]) -> Callable[..., MeasureResult]:
    """Board.run_job, with a change to what the board called two returns."""
    run_job = Board.run_job

    def run(self: Board, job: Any, *rest: Any) -> Any:
        found = run_job(self, job, *rest)
        if self.name == "two":
            change(found.variants[0])
        return found

    return run


def test_a_board_with_other_outputs_is_an_error(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(found: VariantResult) -> None:
        for path in found.outputs.values():
            data = bytearray(Path(path).read_bytes())
            data[-1] ^= 1  # the last bit of the last sample's output
            Path(path).write_bytes(data)

    monkeypatch.setattr(Board, "run_job", spoiled(change))
    with pytest.raises(DeviceError, match=r"two: fp32-cpu has other outputs there than on one, for the same sample"):
        Fleet(boards, "shelf").run_job(job(tmp_path))


def test_a_variant_that_crashes_on_one_board_has_crashed(
    boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(found: VariantResult) -> None:
        found.status, found.reason, found.outputs = "crashed", "signal 11 (SIGSEGV)", {}

    monkeypatch.setattr(Board, "run_job", spoiled(change))
    first, second = Fleet(boards, "shelf").run_job(job(tmp_path)).variants
    assert (first.status, first.reason, first.outputs) == ("crashed", "on two: signal 11 (SIGSEGV)", {})
    assert (second.status, len(Rows(next(iter(second.outputs.values()))))) == ("ok", SAMPLES)


def test_a_missing_result_is_an_error(boards: list[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Board, "run_job", spoiled(lambda found: setattr(found, "name", "another")))
    with pytest.raises(DeviceError, match="two: returned no result for fp32-cpu"):
        Fleet(boards, "shelf").run_job(job(tmp_path))


def test_a_name_for_several_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    add_name("shelf", "ssh://rock@a ssh://rock@b")
    with open_device("shelf") as device:
        assert isinstance(device, Fleet)
        assert [board.address for board in device.boards] == ["ssh://rock@a", "ssh://rock@b"]
        assert (device.name, device.address) == ("shelf", "ssh://rock@a ssh://rock@b")


@pytest.mark.parametrize("address", ["ssh://a ssh://a", "local ssh://a", "ssh://a rock", "ssh://a  ssh://b"])
def test_addresses_that_are_no_fleet(address: str) -> None:
    with pytest.raises(RecipeError):
        check_address(address)


def test_cleaning_cleans_every_board(boards: list[Board], tmp_path: Path) -> None:
    shelf = Fleet(boards, "shelf")
    shelf.run_job(job(tmp_path))
    folders = [tmp_path / name / ".cache" / "ncnnkit" for name in ("one", "two", "three")]
    assert all(folder.is_dir() for folder in folders)
    shelf.clean()
    assert not any(folder.exists() for folder in folders)
    shutil.rmtree(tmp_path / "out")
