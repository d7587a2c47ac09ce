"""The run folder: all of a run or nothing of it, whatever goes wrong and whenever."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_schema import sample_run

from ncnnkit import errors
from ncnnkit.errors import FormatError, StorageError
from ncnnkit.record import store
from ncnnkit.record.store import load_run, save_run, staging

OLD = {"run.json": "old run", "report.html": "old report", "net-int8.param": "old net", "notes.txt": "the user's own"}
NEW = {"run.json": "new run", "report.html": "new report", "net-fp16.param": "new net", "aaa.log": "new log"}


def content(folder: Path) -> dict[str, Any]:
    """Name -> text, or the content of a folder; hidden files too."""
    return {path.name: content(path) if path.is_dir() else path.read_text() for path in folder.iterdir()}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def attempt(out: Path, work: Callable[[Path], Any]) -> None:
    """A run that makes the new files and then does this in its folder."""
    with staging(out) as folder:
        fill(folder, NEW)
        work(folder)


def raising(error: BaseException) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        raise error

    return work


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run folder with an older run in it."""
    folder = tmp_path / "out"
    folder.mkdir()
    fill(folder, OLD)
    return folder


# --------------------------------------------------------------------------------------------------- all goes well


@pytest.mark.parametrize("place", ["out", "deep/er/out"])
def test_everything_appears_at_the_end(place: str, tmp_path: Path) -> None:
    target = tmp_path / place
    with staging(target) as folder:
        fill(folder, NEW)
        (folder / "sub").mkdir()
        fill(folder / "sub", {"x": "y"})
        assert [path.name for path in target.iterdir() if not path.name.startswith(".")] == []
    assert content(target) == {**NEW, "sub": {"x": "y"}}
    assert content(tmp_path).keys() == {place.split("/")[0]}


def test_new_files_replace_old_ones_and_leave_the_others(out: Path) -> None:
    with staging(out) as folder:
        fill(folder, NEW)
    assert content(out) == {**OLD, **NEW}


def test_files_and_folders_replace_each_other(out: Path) -> None:
    (out / "a").mkdir()
    fill(out / "a", {"x": "y"})
    with staging(out) as folder:
        fill(folder, {"a": "a file now"})
        (folder / "report.html").mkdir()
    assert content(out)["a"] == "a file now"
    assert content(out)["report.html"] == {}


def test_an_older_run_json_does_not_outlive_its_run(out: Path) -> None:
    with staging(out) as folder:
        fill(folder, {"report.html": "new report"})
    assert "run.json" not in content(out)


def test_the_old_run_json_goes_first_and_the_new_one_comes_last(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[str, str]] = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        replace(source, target)
        moves.append((source.parent.name, source.name))

    with staging(out) as folder:
        fill(folder, NEW)
        monkeypatch.setattr(os, "replace", watch)
    assert moves[0] == ("out", "run.json")
    assert moves[-1] == ("new", "run.json")
    assert {name for place, name in moves if place == "new"} == NEW.keys()


def test_out_may_be_a_link_or_relative(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = out.parent / "link"
    link.symlink_to(out)
    with staging(link) as folder:
        fill(folder, NEW)
    assert link.is_symlink()
    assert content(out) == {**OLD, **NEW}
    monkeypatch.chdir(out.parent)
    with staging(Path("here")) as folder:
        monkeypatch.chdir("/")  # a step may change it
        fill(folder, NEW)
    assert content(out.parent / "here") == NEW


def test_the_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    fill(tmp_path / "plain", {"run.json": ""})
    with staging(tmp_path / "out") as folder:
        fill(folder, NEW)
    for usual, ours in (("plain", "out"), ("plain/run.json", "out/run.json")):
        assert (tmp_path / usual).stat().st_mode == (tmp_path / ours).stat().st_mode


# ------------------------------------------------------------------------------------------------ something goes wrong


@pytest.mark.parametrize(
    "failure", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3), StorageError("full")], ids=repr
)
def test_a_failure_leaves_the_old_run(failure: BaseException, out: Path) -> None:
    with pytest.raises(type(failure)) as raised:
        attempt(out, raising(failure))
    assert raised.value is failure
    assert content(out) == OLD
    assert os.listdir(out.parent) == ["out"]


def test_a_failure_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "deep" / "er" / "out", raising(KeyboardInterrupt()))
    assert content(tmp_path) == {}


def test_a_failure_leaves_what_others_put_into_a_new_folder(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        fill(tmp_path / "out", {"theirs": "x"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "out", work)
    assert content(tmp_path) == {"out": {"theirs": "x"}}


MOVES = len(NEW) + 2  # two of the old files are in the way


@pytest.mark.parametrize("before", [True, False], ids=["before the move", "after it"])
@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["EIO", "^C"])
@pytest.mark.parametrize("at", range(MOVES))
def test_a_failure_while_moving_takes_everything_back(
    at: int, failure: BaseException, before: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    count = iter(range(1000))

    def fail(source: Path, target: Path) -> None:
        now = next(count)
        if now == at and before:
            raise failure
        replace(source, target)
        if now == at:
            raise failure

    with pytest.raises(type(failure)):
        attempt(out, lambda folder: monkeypatch.setattr(os, "replace", fail))
    assert content(out) == OLD
    assert next(count) > at


def test_that_many_moves_there_are(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[Path] = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        moves.append(source)
        replace(source, target)

    attempt(out, lambda folder: monkeypatch.setattr(os, "replace", watch))
    assert len(moves) == MOVES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_full_disk_is_named(number: int, out: Path) -> None:
    with pytest.raises(StorageError) as error, staging(out):
        raise OSError(number, os.strerror(number))
    assert error.value.line() == f"{out}: the disk is full (free some space and run again)"
    assert content(out) == OLD


def test_a_full_disk_elsewhere_is_named(out: Path) -> None:
    with pytest.raises(StorageError, match=r"^/tmp/scratch: the disk is full"), staging(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/scratch")


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root, with the right to mount, can make a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "net.bin").write_bytes(b"\0" * 100_000),
        lambda folder: np.save(folder / "outputs.npy", np.zeros(100_000)),
    ],
    ids=["write", "numpy"],
)
def test_a_disk_that_is_really_full(write: Callable[[Path], Any], tiny: Path) -> None:
    fill(tiny, OLD)
    with pytest.raises(StorageError, match="the disk is full"):
        attempt(tiny, write)
    assert content(tiny) == OLD


def test_out_may_be_a_mount_point(tiny: Path) -> None:
    fill(tiny, OLD)
    with staging(tiny) as folder:
        fill(folder, NEW)
    assert content(tiny) == {**OLD, **NEW}


def test_numpy_tells_a_full_disk_in_words_only(out: Path) -> None:
    with pytest.raises(StorageError, match="the disk is full"), staging(out):
        raise OSError("100000 requested and 8144 written")


# -------------------------------------------------------------------------------------------- folders that are none


@pytest.mark.parametrize("place", ["file", "file/out", "file/deep/out"])
def test_a_file_is_no_run_folder(place: str, tmp_path: Path) -> None:
    fill(tmp_path, {"file": "x"})
    with pytest.raises(StorageError) as error, staging(tmp_path / place):
        pytest.fail("nothing may run")
    assert error.value.line() == f"{tmp_path / 'file'}: is not a folder (choose another --out)"
    assert content(tmp_path) == {"file": "x"}


def test_a_name_that_is_too_long_is_told_at_once(tmp_path: Path) -> None:
    says = r"cannot be written: .+ \(choose another --out\)"
    with pytest.raises(StorageError, match=says), staging(tmp_path / "new" / ("x" * 300)):
        pytest.fail("nothing may run")
    assert content(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_a_folder_that_may_not_be_written_is_told_at_once(
    number: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*, prefix: str, dir: Path) -> str:
        raise OSError(number, os.strerror(number), str(dir / prefix))

    monkeypatch.setattr(store.tempfile, "mkdtemp", refuse)  # type: ignore[attr-defined]
    with pytest.raises(StorageError) as error, staging(out):
        pytest.fail("nothing may run")
    assert error.value.line() == f"{out}: cannot be written: {os.strerror(number)} (choose another --out)"
    assert content(out) == OLD


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told_at_once(out: Path) -> None:
    out.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot be written: Permission denied"), staging(out):
            pytest.fail("nothing may run")
    finally:
        out.chmod(0o700)


def test_a_refusal_elsewhere_is_not_blamed_on_out(out: Path) -> None:
    refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/images/1.jpg")
    with pytest.raises(PermissionError) as error, staging(out):
        raise refusal
    assert error.value is refusal


# ---------------------------------------------------------------------------------------------------------- run.json


def test_a_run_comes_back(tmp_path: Path) -> None:
    run = sample_run()
    save_run(run, tmp_path / "run.json")
    assert load_run(tmp_path) == load_run(tmp_path / "run.json") == run
    assert (tmp_path / "run.json").read_text(encoding="utf-8").endswith("}\n")


def test_a_run_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_run({"mse": float("nan")}, tmp_path / "run.json")


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FormatError) as error:
            load_run(path)
        assert error.value.line() == f"{path}: no run.json here (give the folder that `ncnnkit run --out` made)"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "run.json: cannot be read: Expecting value"),
        (b"{", "run.json: cannot be read: Expecting property name"),
        (b"\xff", "run.json: cannot be read: 'utf-8' codec"),
        (b"[" * 100_000, "run.json: cannot be read: "),
        (b"[]", "run.json: run.json: expected an object, found a list"),
        (b"{}", "run.json: schema: expected 1, found null (is this a run.json?)"),
    ],
    ids=["empty", "cut", "not UTF-8", "deep", "list", "object"],
)
def test_a_broken_run_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(data)
    with pytest.raises(FormatError) as error:
        load_run(tmp_path)
    assert error.value.line().startswith(f"{tmp_path}/{says}")


def test_a_wrong_field_is_named_with_its_file(tmp_path: Path) -> None:
    run: Any = copy.deepcopy(sample_run())
    run["variants"][0]["threads"] = "two"
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(FormatError) as error:
        load_run(tmp_path)
    assert error.value.line() == (
        f"{tmp_path}/run.json: variants[0].threads: expected a whole number, found text 'two'"
    )


# -------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelError, 3),
        (errors.FormatError, 3),
        (errors.ImageError, 3),
        (errors.RecipeError, 3),
        (errors.ConvertError, 4),
        (errors.RuntimeFailure, 4),
        (errors.StorageError, 4),
        (errors.VerificationError, 5),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: type[errors.NcnnkitError], code: int) -> None:
    raised = error("went\n wrong", where="here", hint="do\tthis")
    assert str(raised) == raised.line() == "here: went wrong (do this)"
    assert error("went wrong").line() == "went wrong"
    assert error.exit_code == code


def test_a_file_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("mine")
    with pytest.raises(StorageError, match=r"there is a recipe\.toml that no run made"), staging(tmp_path) as folder:
        (folder / "recipe.toml").write_text("the run's")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("recipe.toml", "mine")]
