"""The receipt: the self-test passes for a right program, and fails if anything differs from the measurement."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import BOARD
from ncnn_library import build, installed, library_options, native, run
from networks import network, small
from PIL import Image
from processes import open_processes
from program_faults import check_fault
from typer.testing import CliRunner

from ncnnkit.app import make_app
from ncnnkit.app.verify import Here, Receipt, machine_of, verify_app
from ncnnkit.artifact import Artifact
from ncnnkit.cli import app as command
from ncnnkit.codec import decode
from ncnnkit.device.transport import Lost
from ncnnkit.errors import DeviceError, FormatError, RecipeError
from ncnnkit.model.graph import Graph
from ncnnkit.samples.preprocess import Preprocess

slow = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(600)]

QUICK = "-DCMAKE_BUILD_TYPE=Debug"
"""Programs of these tests compute little."""
OLD, NEW = "1.0.20230719", "1.0.20261020"
HOW = Preprocess(resize=(16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def write_app(home: Path, graph: Graph | None = None, lang: str = "cpp") -> Path:
    """The app of a small classifier, with examples."""
    (home / "images").mkdir(parents=True)
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)):
        Image.fromarray(pixels).save(home / f"images/{i}.ppm")  # every program reads it
    labels = tuple(f"name {i}" for i in range(10))
    model = replace(Artifact.of(graph or small()), ncnn=OLD, preprocess=HOW, labels=labels, task="classification")
    make_app(model, home / "app", images=home / "images", lang=lang)
    return home / "app"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    app = write_app(tmp_path_factory.mktemp("verify"))
    build(app, app / "build/native", QUICK)
    return app


@contextmanager
def rebuilt(app: Path, file: str, before: str, after: str) -> Iterator[Path]:
    """The program with another text in a source file, within the block."""
    source = app / "src" / file
    text = source.read_text()
    assert before in text
    source.write_text(text.replace(before, after))
    try:
        run("cmake", "--build", app / "build/native")
        yield infer(app)
    finally:
        source.write_text(text)
        run("cmake", "--build", app / "build/native")


@pytest.fixture
def app(built: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(built, tmp_path / "app"))


def infer(app: Path) -> Path:
    return app / "build/native/infer"


def receipt_of(app: Path) -> Receipt:
    return decode((app / "receipt.json").read_bytes(), Receipt)


# ------------------------------------------------------------------------------------------------------- the self-test


class TestSelfTest:
    pytestmark = slow

    def test_a_right_program_passes(self, built: Path) -> None:
        done = subprocess.run([infer(built), "--self-test", "--json"], capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        assert (said["passed"], said["examples"]) == (True, 3)
        figures = {row["name"]: row for row in said["figures"]}
        assert set(figures) == {"SQNR of the outputs", "agreement of the answers", "ncnn as new as measured"}
        assert figures["SQNR of the outputs"]["value"] > 80
        assert figures["agreement of the answers"]["value"] == 1
        text = subprocess.run([infer(built), "--self-test"], capture_output=True, text=True, check=True).stdout
        assert text.splitlines()[-1] == "passed: 3 examples"
        assert text.count(" pass\n") == 3

    def test_other_answers_fail(self, app: Path) -> None:
        for path in (app / "examples").glob("*.txt"):
            lines = path.read_text().splitlines()
            score = next(line for line in lines if line.startswith("score "))
            other = (int(score.split()[1]) + 1) % 10
            path.write_text("\n".join(f"score {other} 1" if line == score else line for line in lines) + "\n")
        done = subprocess.run([infer(app), "--self-test"], capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAIL")] == ["agreement"]

    def test_damaged_examples_are_one_line(self, app: Path) -> None:
        (app / "examples/1.txt").write_text("file 1.ppm\nbox 1 2\n")
        done = subprocess.run([infer(app), "--self-test"], capture_output=True, text=True, check=False)
        check_fault(done, "1.txt: is damaged: 'box 1 2'")

    @pytest.mark.parametrize("line", ["nothing", "score", "points 1 2 3"])
    def test_a_classifiers_example_without_findings_is_damaged(self, line: str, app: Path) -> None:
        text = (app / "examples/1.txt").read_text().splitlines()
        kept = [each for each in text if not each.startswith("score")]
        (app / "examples/1.txt").write_text("\n".join([*kept, line, ""]))
        done = subprocess.run([infer(app), "--self-test"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"1.txt: is damaged: '{line}'" in done.stderr

    def test_without_examples(self, app: Path) -> None:
        shutil.rmtree(app / "examples")
        done = subprocess.run([infer(app), "--self-test"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "contains no examples: write the app from a run, or with --images" in done.stderr


# --------------------------------------------------------------------------------------------------------- the receipt


class TestReceipt:
    pytestmark = slow

    def test_output_of_the_self_test(self, app: Path) -> None:
        receipt = verify_app(app, program=infer(app), options=["--threads=1"])
        assert receipt == receipt_of(app)
        assert (receipt.passed, receipt.why, receipt.changed, receipt.built_there) == (True, "", [], False)
        assert receipt.test is not None
        assert (receipt.test.threads, receipt.test.examples) == (1, 3)
        assert receipt.versions["ncnn"] == receipt.versions["measured_ncnn"] == OLD
        written = json.loads((app / "app.json").read_text())
        assert receipt.sha256["models/model.bin"] == written["models/model.bin"]
        assert receipt.sha256["examples/1.ppm"] == written["examples/1.ppm"]
        assert len(receipt.sha256["infer"]) == 64
        assert "/proc/loadavg" in receipt.conditions["before"]

    def test_it_is_built_on_a_board_with_a_compiler(self, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CMAKE_PREFIX_PATH", str(native()))
        monkeypatch.setenv("XDG_CACHE_HOME", str(app.parent / "cache"))
        receipt = verify_app(app)
        assert (receipt.passed, receipt.built_there) == (True, True)

    def test_an_older_library_fails(self, built: Path, app: Path) -> None:
        """The same network, measured with a newer ncnn than the program was built with."""
        with rebuilt(built, "model.h", OLD, NEW) as program:
            receipt = verify_app(app, program=program)
        assert not receipt.passed
        assert receipt.why == "ncnn as new as measured is 0.0, below 1"
        assert receipt.versions["ncnn"] == OLD
        assert receipt.versions["measured_ncnn"] == NEW

    def test_a_corrupted_file_fails(self, app: Path) -> None:
        altered = bytearray((app / "models/model.bin").read_bytes())
        altered[100] ^= 1
        (app / "models/model.bin").write_bytes(altered)
        receipt = verify_app(app, program=infer(app))
        assert not receipt.passed
        assert receipt.changed == ["models/model.bin"]
        assert receipt.test is None
        assert "model.bin: was damaged or changed: its CRC-32 is " in receipt.why

    def test_a_wrong_preprocessing_fails(self, built: Path, app: Path) -> None:
        with rebuilt(built, "preprocess.cpp", "mean[] = {0.5f, 0.4f, 0.3f}", "mean[] = {0.3f, 0.4f, 0.5f}") as program:
            receipt = verify_app(app, program=program)
        assert not receipt.passed
        assert receipt.why.startswith("SQNR of the outputs is ")

    def test_a_changed_source_does_not_pass(self, app: Path) -> None:
        with (app / "src/main.cpp").open("a") as file:
            file.write("\n")
        receipt = verify_app(app, program=infer(app))
        assert (receipt.passed, receipt.why) == (False, "src/main.cpp was changed since ncnnkit wrote it")

    def test_the_command(self, app: Path) -> None:
        done = CliRunner().invoke(command, ["verify", str(app), "--infer", str(infer(app)), "--", "--loop=1"])
        assert done.exit_code == 0, done.output
        assert "SQNR of the outputs" in done.output
        assert "pass" in done.output
        (app / "models/model.bin").write_bytes(b"nothing")
        done = CliRunner().invoke(command, ["verify", str(app), "--infer", str(infer(app))])
        assert done.exit_code == 5
        assert "see receipt.json" in " ".join(done.output.split())


@pytest.mark.board
@pytest.mark.app
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_a_board_that_has_no_compiler(tmp_path: Path) -> None:
    """A program that was cross-compiled here."""
    if installed("aarch64") is None:
        pytest.skip("needs scripts/ncnn-library aarch64")
    # This old ncnn computes convolutions wrongly on the emulated board, where Linux has no /sys. The receipt shows it.
    text = """
        Input        in0 0 1 in0 0=16 1=16 2=3
        Pooling      p 1 1 in0 b 0=1 1=4 2=4
        InnerProduct fc 1 1 b out0 0=10 1=1 2=480
    """
    app = write_app(tmp_path, network(text))
    openmp = run("aarch64-linux-gnu-gcc", "-print-file-name=libgomp.a").strip()
    static = ["-DCMAKE_EXE_LINKER_FLAGS=-static", f"-DOpenMP_gomp_LIBRARY={openmp}", QUICK]  # the board has no libgomp1
    line = ["cmake", "--preset", "aarch64-linux", "-G", "Ninja", *static]
    run(*line, *library_options("aarch64"), cwd=app)
    run("cmake", "--build", "--preset", "aarch64-linux", cwd=app)
    assert machine_of(app / "build/aarch64-linux/infer") == "aarch64"
    receipt = verify_app(app, f"ssh://board@{BOARD}", options=["--threads=1", "--loop=1"])
    assert receipt.why == ""
    assert receipt.test is not None
    assert receipt.test.passed
    assert "aarch64" in receipt.system


# -------------------------------------------------------------------------------------------------------------- faults


def test_a_folder_without_an_app(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="contains no app"):
        verify_app(tmp_path)


class TestPython:
    """Apps in Python, which need no compiler."""

    @pytest.fixture
    def app(self, tmp_path: Path) -> Path:
        return write_app(tmp_path, lang="python")

    def test_content_of_the_receipt(self, app: Path) -> None:
        receipt = verify_app(app, options=["--threads=1", "--loop=1"])
        assert receipt == receipt_of(app)
        assert (receipt.passed, receipt.why, receipt.changed, receipt.built_there) == (True, "", [], False)
        assert receipt.test is not None
        assert (receipt.test.threads, receipt.test.examples) == (1, 3)
        written = json.loads((app / "app.json").read_text())
        for name in ("infer.py", "infer.json", "parts/task.py", "models/model.bin", "examples/1.ppm"):
            assert receipt.sha256[name] == written[name]
        assert "README.md" not in receipt.sha256

    def test_failures(self, app: Path) -> None:
        """A wrong preprocessing, a library that is too old, a corrupted file, a changed program."""
        facts = json.loads((app / "infer.json").read_text())
        facts["ncnn"] = "1.0.20991231"
        facts["inputs"][0]["preprocess"]["color"] = "bgr"
        (app / "infer.json").write_text(json.dumps(facts))
        receipt = verify_app(app)
        assert (receipt.passed, receipt.changed) == (False, ["infer.json"])
        assert re.match(r"SQNR of the outputs is .*; ncnn as new as measured is 0.0, below 1", receipt.why)
        (app / "models/model.bin").write_bytes(b"nothing")
        receipt = verify_app(app)
        assert (receipt.passed, receipt.test) == (False, None)
        assert "model.bin: was damaged or changed" in receipt.why

    @pytest.mark.parametrize("line", ["nothing", "score", "points 1 2 3"])
    def test_a_classifiers_example_without_findings_is_damaged(self, line: str, app: Path) -> None:
        text = (app / "examples/1.txt").read_text().splitlines()
        kept = [each for each in text if not each.startswith("score")]
        (app / "examples/1.txt").write_text("\n".join([*kept, line, ""]))
        program = [sys.executable, str(app / "infer.py"), "--self-test"]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "1.txt: is damaged" in done.stderr

    def test_a_changed_program_does_not_pass(self, app: Path) -> None:
        with (app / "parts/task.py").open("a") as file:
            file.write("\n")
        assert verify_app(app).why == "parts/task.py was changed since ncnnkit wrote it"

    def test_compiled_bytecode_does_not_count(self, app: Path) -> None:
        with pytest.raises(RecipeError, match="--infer is for an app in C"):
            verify_app(app, program=app / "infer.py")

    @pytest.mark.board
    @pytest.mark.slow  # ncnn's wheels go there
    @pytest.mark.timeout(600)
    def test_on_a_board(self, app: Path) -> None:
        receipt = verify_app(app, f"ssh://board@{BOARD}", options=["--threads=1", "--loop=1"])
        assert (receipt.passed, receipt.why) == (True, "")
        assert "aarch64" in receipt.system


def test_an_app_that_names_files_outside_it(tmp_path: Path) -> None:
    make_app(small(), tmp_path / "app")
    written = json.loads((tmp_path / "app/app.json").read_text())
    (tmp_path / "app/app.json").write_text(json.dumps({**written, "../secret": "0"}))
    with pytest.raises(FormatError, match="which is outside the app"):
        verify_app(tmp_path / "app")


def test_no_compiler_and_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_app(small(), tmp_path / "app")
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "mkdir", "uname", "sed", "head", "tr"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(DeviceError, match=f"no infer for {os.uname().machine}"):
        verify_app(tmp_path / "app")


def test_an_unknown_option(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["verify", str(tmp_path), "--", "/etc/passwd"])
    assert done.exit_code == RecipeError.exit_code
    assert "is not an option of infer" in done.output


def test_it_is_built_by_as_many_processes_as_there_are_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise make would start hundreds of compilers."""
    make_app(small(), tmp_path / "app")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cmake").write_text(f"#!/bin/sh\necho $* >>{tmp_path}/said\n")
    (tmp_path / "bin/cmake").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    verify_app(tmp_path / "app")  # without a program there is no answer
    _, built = (tmp_path / "said").read_text().splitlines()
    assert built == f"--build build --parallel {len(os.sched_getaffinity(0))}"


def test_with_a_command_on_this_machine_everything_ends_that_it_has_started(tmp_path: Path) -> None:
    with pytest.raises(Lost):
        Here().run(["sh", "-c", 'sleep 60 & echo $! >"$0"; wait', str(tmp_path / "number")], timeout=1.0)
    for end in open_processes([int((tmp_path / "number").read_text())]).values():
        assert select.select([end], [], [], 20)[0]
        os.close(end)
