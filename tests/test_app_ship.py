"""What was measured is what ships: the version of ncnn, the files of the model, how a program starts."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncnn_library import build, installed, native
from networks import samples, small

from ncnnkit.app import make_app
from ncnnkit.app.facts import RELEASE
from ncnnkit.artifact import Artifact

pytestmark = [pytest.mark.app, pytest.mark.slow]

OLD, NEW = "1.0.20230719", "1.0.20261020"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app of a small network, measured with a newer ncnn than it is built with."""
    folder = tmp_path_factory.mktemp("ship") / "app"
    make_app(replace(Artifact.of(small()), ncnn=NEW), folder)
    build(folder, folder / "build/native")
    np.save(folder.parent / "x.npy", samples(1)[0])
    return folder


def infer(app: Path, *words: str | Path) -> Done:
    line = [app / "build/native/infer", *words]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)


def answer(app: Path, *words: str | Path) -> dict[str, Any]:
    done = infer(app, app.parent / "x.npy", "--json", *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def configure(app: Path, folder: Path, *options: str) -> Done:
    line = ["cmake", "-S", str(app), "-B", str(folder), "-G", "Ninja", *options]
    return subprocess.run(line, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------------ the same ncnn


def test_an_older_ncnn_is_refused_with_both_versions(app: Path, tmp_path: Path) -> None:
    done = configure(app, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={native()}")
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert f"ncnn {OLD} in" in said
    assert f"is older than {NEW}, with which the model was measured" in said
    assert f"-DINFER_NCNN={OLD} builds with this one" in said


def test_no_older_release_is_fetched_than_was_measured(app: Path, tmp_path: Path) -> None:
    no_ncnn = "-DCMAKE_DISABLE_FIND_PACKAGE_ncnn=ON"
    done = configure(app, tmp_path / "build", no_ncnn, "-DINFER_NCNN=1.0.20991231")
    assert done.returncode != 0
    assert f"the release that would be fetched, {RELEASE.version}, is older than 1.0.20991231" in " ".join(
        done.stderr.split()
    )


def test_the_fetched_release_is_no_older_than_the_package_that_measures() -> None:
    import ncnn

    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert parts(RELEASE.version) >= parts(ncnn.__version__)
    assert f"ncnn-{RELEASE.version}.tar.gz" in RELEASE.source


def test_an_older_ncnn_is_named_by_the_program(app: Path) -> None:
    said = answer(app)
    assert (said["ncnn"], said["measured_ncnn"]) == (OLD, NEW)
    note = f"this ncnn, {OLD}, is older than {NEW}, with which the model was measured: answers and times may differ"
    assert said["notes"] == [note]
    assert f"note: {note}\n" in infer(app, app.parent / "x.npy").stdout


# -------------------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("name", ["model.bin", "model.param"])
def test_an_altered_file_is_refused(name: str, app: Path, tmp_path: Path) -> None:
    models = Path(shutil.copytree(app / "models", tmp_path / "models"))
    altered = bytearray((models / name).read_bytes())
    if name == "model.bin":
        altered[100:2100] = np.random.default_rng(0).bytes(2000)
    else:
        altered.extend(b"\n")  # ncnn reads it as before
    (models / name).write_bytes(altered)
    line: list[str | Path] = [models / "model.param", models / "model.bin", app.parent / "x.npy", "--loop=1"]
    done = infer(app, *line)
    assert done.returncode == 1
    assert f"{name}: is not the file that was written: its CRC-32 is " in done.stderr
    assert "copy it again, or give --no-check" in done.stderr
    assert done.stderr.count("\n") == 1
    if name == "model.param":
        assert infer(app, *line, "--no-check").returncode == 0


def test_the_model_need_not_be_named(app: Path) -> None:
    named = answer(app, "--top=1")
    files = [app / f"models/model{ending}" for ending in (".param", ".bin")]
    done = infer(app, *files, app.parent / "x.npy", "--json", "--top", "1")
    assert json.loads(done.stdout)["top"] == named["top"]


def test_a_value_may_be_a_word_of_its_own(app: Path) -> None:
    assert answer(app, "--loop", "2")["latency_ms"]["runs"] == 2
    done = infer(app, app.parent / "x.npy", "--loop")
    assert done.returncode == 2
    assert "--loop needs a value: --loop=VALUE" in done.stderr


# --------------------------------------------------------------------------------------------------------- fast starts


@pytest.mark.vulkan
def test_a_gpus_pipelines_are_compiled_once(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an ncnn that can store them."""
    if installed("current") is None:
        pytest.skip("needs scripts/ncnn-library current")
    program = build(app, tmp_path / "build", library="current") / "infer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def start() -> dict[str, Any]:
        line = [program, *(app / f"models/model{e}" for e in (".param", ".bin")), app.parent / "x.npy", "--gpu=any"]
        done = subprocess.run([*map(str, line), "--json", "--loop=1"], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    first, second = start(), start()
    assert (first["warm"], second["warm"]) == (False, True)
    assert first["top"] == second["top"]
    (stored,) = (tmp_path / "cache/ncnn-infer").iterdir()
    stored.write_bytes(stored.read_bytes()[:-100])
    assert start()["warm"] is False, "a damaged file is not used"
    assert start()["warm"] is True, "and replaced"
