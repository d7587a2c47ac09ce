"""The run folder: it contains a complete run or nothing of it, whatever fails at any time."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_schema import as_run, sample_run

from ncnnkit import errors
from ncnnkit.errors import FormatError, StorageError
from ncnnkit.record import folder
from ncnnkit.record.folder import content as folder_content
from ncnnkit.record.folder import load_run, recover, refuse_to_replace, replacing, save_run, staging


def run_of(name: str, *files: str) -> dict[str, str]:
    """File name -> text of a run's files, run.json included."""
    record = json.dumps({"run": name, "files": sorted([*files, "run.json"])})
    return {**{file: f"{name} {file}" for file in files}, "run.json": record}


USERS = {"notes.txt": "the user's own", "net-fp32.param": "the user's own"}
OLD_RUN = run_of("old", "report.html", "net-int8.param")
OLD = {**OLD_RUN, **USERS}
NEW_RUN = run_of("new", "report.html", "net-fp16.param", "aaa.log")
NEW = {**NEW_RUN, **USERS}


def content(folder: Path) -> dict[str, Any]:
    """Name -> text, or the content of a folder; including hidden files."""
    return {path.name: content(path) if path.is_dir() else path.read_text() for path in folder.iterdir()}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def attempt(out: Path, work: Callable[[Path], Any]) -> None:
    """A run that writes the new files and then calls this function in its folder."""
    with staging(out) as folder:
        fill(folder, NEW_RUN)
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
        fill(folder, NEW_RUN)
        (folder / "sub").mkdir()
        fill(folder / "sub", {"x": "y"})
        assert folder_content(target) == []
    assert content(target) == {**NEW_RUN, "sub": {"x": "y"}}
    assert content(tmp_path).keys() == {place.split("/")[0]}


def test_a_new_run_replaces_the_old_one_and_keeps_the_users_files(out: Path) -> None:
    with staging(out) as folder:
        fill(folder, NEW_RUN)
    assert content(out) == NEW


def test_a_run_of_another_version_is_replaced_too(out: Path) -> None:
    fill(out, {"run.json": json.dumps({"schema": 99, "files": [*OLD_RUN]})})
    with staging(out) as folder:
        fill(folder, NEW_RUN)
    assert content(out) == NEW


def test_run_json_is_moved_out_first_and_moved_in_last(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[str, str]] = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        replace(source, target)
        moves.append((source.parent.name, source.name))

    with staging(out) as folder:
        fill(folder, NEW_RUN)
        monkeypatch.setattr(os, "replace", watch)
    assert moves[0][1] == "moves.json.part"
    assert moves[1] == ("out", "run.json")
    assert moves[-1] == ("new", "run.json")
    assert {name for place, name in moves if place == "new"} == NEW_RUN.keys()


def test_a_folder_whose_name_is_not_utf8_has_a_path_that_is(tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"out\xe9")
    with staging(target) as folder:
        str(folder).encode()
        fill(folder, NEW)
    assert content(target) == NEW
    assert not folder.exists()


def test_out_may_be_a_link_or_relative(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = out.parent / "link"
    link.symlink_to(out)
    with staging(link) as folder:
        fill(folder, NEW_RUN)
    assert link.is_symlink()
    assert content(out) == NEW
    monkeypatch.chdir(out.parent)
    with staging(Path("here")) as folder:
        monkeypatch.chdir("/")  # a step may change it
        fill(folder, NEW_RUN)
    assert content(out.parent / "here") == NEW_RUN


def test_the_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    fill(tmp_path / "plain", {"run.json": ""})
    with staging(tmp_path / "out") as folder:
        fill(folder, NEW_RUN)
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


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "deep" / "er" / "out", raising(KeyboardInterrupt()))
    assert content(tmp_path) == {}


def test_a_failure_keeps_files_that_others_put_into_a_new_folder(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        fill(tmp_path / "out", {"theirs": "x"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "out", work)
    assert content(tmp_path) == {"out": {"theirs": "x"}}


MOVES = len(NEW_RUN) + len(OLD_RUN) + 1  # one decides


@pytest.mark.parametrize("before", [True, False], ids=["before the move", "after it"])
@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["EIO", "^C"])
@pytest.mark.parametrize("at", range(MOVES))
def test_a_failure_while_moving_is_undone_completely(
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


def test_the_number_of_moves_is_known(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        fill(folder, NEW_RUN)
    assert content(tiny) == NEW


def test_numpys_error_for_a_full_disk_has_no_number(out: Path) -> None:
    with pytest.raises(StorageError, match="the disk is full"), staging(out):
        raise OSError("100000 requested and 8144 written")


# ----------------------------------------------------------------------------------------------- what is the user's


@pytest.mark.parametrize("name", ["run.json", "report.html", "aaa.log", "net-fp16.param"])
@pytest.mark.parametrize("beside", [{}, OLD_RUN], ids=["no run there", "a run there"])
def test_a_file_of_the_users_is_not_replaced(name: str, beside: dict[str, str], tmp_path: Path) -> None:
    if name in beside:
        pytest.skip("the run lists it")
    before = {**beside, name: "mine"}
    fill(tmp_path, before)
    says = rf"contains {name}, which ncnnkit did not write \(choose another --out"
    with pytest.raises(StorageError, match=says):
        attempt(tmp_path, lambda folder: None)
    assert content(tmp_path) == before


def test_a_file_of_the_users_is_found_before_any_work(tmp_path: Path) -> None:
    fill(tmp_path, {"net-int8.param": "mine"})
    with pytest.raises(StorageError, match=r"contains net-int8\.param"):
        refuse_to_replace(tmp_path, ["net-fp32.param", "net-int8.param"])
    assert content(tmp_path) == {"net-int8.param": "mine"}


@pytest.mark.parametrize(
    "listed",
    ["a", ["../theirs", "/tmp/theirs", "", ".", "..", "folder", ".ncnnkit", 3, None], {"a": 1}, None],
    ids=["text", "no names of files", "object", "null"],
)
def test_an_untrusted_run_json_removes_no_other_files(listed: Any, tmp_path: Path) -> None:
    fill(tmp_path, {"theirs": "x"})
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    fill(home, {"a": "mine", "run.json": json.dumps({"files": listed})})
    assert folder.files_of_run(home) == set()
    with pytest.raises(StorageError, match=r"contains run\.json, which ncnnkit did not write"):
        attempt(home, lambda folder: None)
    assert content(home).keys() == {"a", "folder", "run.json"}
    assert (tmp_path / "theirs").exists()


@pytest.mark.parametrize("way", ["absolute", "relative", "link"])
def test_a_run_does_not_remove_what_it_reads(way: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)
    (out.parent / "link").symlink_to(out / "net-int8.param")
    model = {"absolute": str(out / "net-int8.param"), "relative": "net-int8.param", "link": "../link"}[way]
    says = r"net-int8\.param is an input of this run, but belongs to the run that it would replace"
    with pytest.raises(StorageError, match=says), staging(out, reads=["", model]):
        pytest.fail("nothing may run")
    assert content(out) == OLD
    with staging(out, reads=["net-fp32.param"]) as new:  # the user's own: it stays
        fill(new, NEW_RUN)


# ------------------------------------------------------------------------------------------------- killed, and together


def killed(work: Callable[[], Any], at: int, before: bool) -> bool:
    """Call this function in a child process that is killed at, or just before, one of its file system changes.

    Returns:
        Whether it was killed; False if there are fewer changes.
    """
    child = os.fork()
    if child == 0:
        count = itertools.count()

        def fatal(change: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*args: Any, **options: Any) -> Any:
                last = next(count) == at
                if last and before:
                    os._exit(9)
                try:
                    return change(*args, **options)
                finally:
                    if last:
                        os._exit(9)

            return changed

        for name in ("replace", "unlink", "rmdir", "mkdir", "fsync"):
            setattr(os, name, fatal(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the child failed by itself"
    return code == 9


@pytest.mark.parametrize("before", [True, False], ids=["before the change", "after it"])
def test_after_a_kill_at_any_moment_one_run_is_complete(before: bool, out: Path, tmp_path: Path) -> None:
    at, found = 0, []
    while killed(lambda: attempt(out, lambda folder: None), at, before):
        left = out.parent / f"left-{at}"
        shutil.copytree(out, left)

        recover(out)
        read = {name: text for name, text in content(out).items() if not name.startswith(".")}
        assert read in (OLD, NEW), f"killed at {at}"
        found.append(read == NEW)

        # Even if recovery is killed repeatedly, the next process still finds one of the two runs.
        for shift in range(100):
            shutil.rmtree(out)
            shutil.copytree(left, out)
            if not killed(lambda: recover(out), shift, before):
                break
            recover(out)
            again = {name: text for name, text in content(out).items() if not name.startswith(".")}
            assert again == read, f"killed at {at}, then at {shift}"

        # A later run succeeds, and nothing of the killed runs is left.
        third = run_of("third", "report.html", "net-bf16.param")
        with staging(out) as folder:
            fill(folder, third)
        assert content(out) == {**third, **USERS}

        shutil.rmtree(out)
        out.mkdir()
        fill(out, OLD)
        at += 1
    assert content(out) == NEW
    assert at > MOVES
    assert found == sorted(found), "there is one moment that decides"
    assert set(found) == {False, True}


def test_a_reader_completes_a_killed_run(out: Path) -> None:
    decided = 0
    run = {**sample_run(), "files": ["run.json"]}

    def work(folder: Path) -> None:
        (folder / "run.json").write_text(json.dumps(run))

    while True:
        killed(lambda: attempt(out, work), decided, False)
        if (out / ".ncnnkit" / "moves.json").exists() and not (out / "run.json").exists():
            break
        shutil.rmtree(out)
        out.mkdir()
        fill(out, OLD)
        decided += 1
    assert load_run(out) == as_run(run)
    assert not (out / "net-int8.param").exists()


def test_a_second_run_into_the_folder_is_refused_at_once(out: Path) -> None:
    (out.parent / "link").symlink_to(out)
    with staging(out) as folder:
        fill(folder, NEW_RUN)
        for same in (out, out.parent / "link"):
            with pytest.raises(StorageError) as error:
                attempt(same, lambda _: None)
            assert error.value.line() == (
                f"{out}: another ncnnkit is writing here (wait for it, or choose another --out)"
            )
        with pytest.raises(StorageError, match="another ncnnkit"), replacing(out, "report.html"):
            pytest.fail("nothing may be written")
        assert json.loads((out / "run.json").read_text())["run"] == "old", "reading goes on"
    assert content(out) == NEW


def test_runs_that_end_together_do_not_mix(tmp_path: Path) -> None:
    """Processes that write into one folder repeatedly. Each is refused, or replaces the whole run."""
    out, children = tmp_path / "out", []
    for number in range(4):
        child = os.fork()
        if child == 0:
            code = 0
            for turn in range(30):
                files = run_of(f"{number}.{turn}", "report.html", *(f"{number}-{i}.param" for i in range(3)))
                try:
                    with staging(out) as folder:
                        fill(folder, files)
                except StorageError as error:
                    code = code if "another ncnnkit is writing" in str(error) else 1
                except BaseException:
                    code = 2
            os._exit(code)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    files = content(out)
    record = json.loads(files["run.json"])
    assert sorted(files) == record["files"]
    assert {text for name, text in files.items() if name != "run.json"} == {
        f"{record['run']} {name}" for name in files if name != "run.json"
    }


def test_a_lock_and_a_folder_of_a_dead_process_do_not_block(out: Path) -> None:
    (out / ".ncnnkit" / "new").mkdir(parents=True)
    fill(out / ".ncnnkit" / "new", {"half.param": "torn"})
    fill(out, {".ncnnkit.lock": ""})
    with staging(out) as folder:
        assert content(folder) == {}
        fill(folder, NEW_RUN)
    assert content(out) == NEW


def test_a_folder_that_cannot_be_locked_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder.fcntl, "flock", refuse)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=r"cannot be locked: .*choose an --out on another file system"):
        attempt(out, lambda _: None)
    assert {name: text for name, text in content(out).items() if name != ".ncnnkit.lock"} == OLD


def test_if_undoing_fails_too_the_next_process_completes_the_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, count = os.replace, iter(range(1000))

    def fail(source: Path, target: Path) -> None:
        if next(count) >= 3:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as broken:
        with pytest.raises(OSError, match="Input/output error"):
            attempt(out, lambda _: broken.setattr(os, "replace", fail))
        assert "run.json" not in content(out)
    recover(out)
    assert content(out) == NEW


# -------------------------------------------------------------------------------------------------- one file, replaced


def test_one_file_of_a_run_is_replaced(out: Path) -> None:
    with replacing(out, "report.html") as path:
        path.write_text("again")
        assert (out / "report.html").read_text() == OLD["report.html"]
    assert content(out) == {**OLD, "report.html": "again"}


def test_one_file_stays_if_writing_it_fails(out: Path) -> None:
    def write() -> None:
        with replacing(out, "report.html") as path:
            path.write_text("hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert content(out) == OLD


def test_one_file_of_the_users_is_not_replaced(out: Path) -> None:
    with pytest.raises(StorageError, match=r"notes\.txt, which ncnnkit did not write"), replacing(out, "notes.txt"):
        pytest.fail("nothing may be written")


# -------------------------------------------------------------------------------------------- folders that are none


@pytest.mark.parametrize("place", ["file", "file/out", "file/deep/out"])
def test_a_file_is_not_a_run_folder(place: str, tmp_path: Path) -> None:
    fill(tmp_path, {"file": "x"})
    with pytest.raises(StorageError) as error, staging(tmp_path / place):
        pytest.fail("nothing may run")
    assert error.value.line() == f"{tmp_path / 'file'}: is not a folder (choose another --out)"
    assert content(tmp_path) == {"file": "x"}


def test_a_name_that_is_too_long_is_reported_at_once(tmp_path: Path) -> None:
    says = r"cannot be written: .+ \(choose another --out\)"
    with pytest.raises(StorageError, match=says), staging(tmp_path / "new" / ("x" * 300)):
        pytest.fail("nothing may run")
    assert content(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_a_folder_without_write_permission_is_reported_at_once(
    number: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError) as error, staging(out):
        pytest.fail("nothing may run")
    assert error.value.line() == f"{out}: cannot be written: {os.strerror(number)} (choose another --out)"
    assert content(out) == OLD


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_reported_at_once(out: Path) -> None:
    out.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot be written: Permission denied"), staging(out):
            pytest.fail("nothing may run")
    finally:
        out.chmod(0o700)


def test_an_error_elsewhere_is_not_attributed_to_out(out: Path) -> None:
    refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/images/1.jpg")
    with pytest.raises(PermissionError) as error, staging(out):
        raise refusal
    assert error.value is refusal


# ---------------------------------------------------------------------------------------------------------- run.json


def test_a_saved_run_is_loaded_again(tmp_path: Path) -> None:
    run = as_run(sample_run())
    save_run(run, tmp_path / "run.json")
    assert load_run(tmp_path) == load_run(tmp_path / "run.json") == run
    assert (tmp_path / "run.json").read_text(encoding="utf-8").endswith("}\n")


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FormatError) as error:
            load_run(path)
        assert error.value.line() == f"{path}: no run.json here (give the folder that `ncnnkit run --out` made)"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "run.json: is not JSON: "),
        (b"{", "run.json: is not JSON: "),
        (b"\xff", "run.json: is not JSON: "),
        (b'{"schema": ' + b"[" * 100_000, "run.json: schema: expected a whole number or null, found a list"),
        (b"[]", "run.json: expected an object, found a list"),
        (b"{}", "run.json: schema is None, but 1 is expected (is this a run.json?)"),
        (b'{"schema": 2}', "run.json: schema is 2, but 1 is expected (it was written by a newer ncnnkit)"),
        (b'{"schema": true}', "run.json: schema: expected a whole number or null, found true or false"),
        (b'{"schema": 1}', "run.json: files: is missing"),
    ],
    ids=["empty", "cut", "not UTF-8", "deep", "list", "object", "newer", "true", "nothing more"],
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
        f"{tmp_path}/run.json: variants[0].threads: expected a whole number, found text "
        "(it was edited, or another version of ncnnkit wrote it: make the run again)"
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
