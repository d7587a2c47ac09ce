"""The commands: their printed output, the files they write, and their errors for wrong inputs."""

from __future__ import annotations

import gc
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import PIL
import pytest
import typer
from networks import samples, small
from PIL import Image
from test_schema import sample_run
from typer.testing import CliRunner, Result

import ncnnkit
from ncnnkit.artifact import Artifact
from ncnnkit.cli import COMMANDS, app
from ncnnkit.codec import decode, encode
from ncnnkit.measure import tune as tuning
from ncnnkit.model import ncnnfile
from ncnnkit.recipe import Recipe, key_types
from ncnnkit.record.run import Run
from ncnnkit.report import LAYER_ORDERS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and samples, in which commands run."""
    monkeypatch.chdir(tmp_path)
    ncnnfile.save(small(), tmp_path / "m.param")
    np.save(tmp_path / "x.npy", samples(10))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no image")
    return tmp_path


def nk(line: str) -> Result:
    return CliRunner().invoke(app, line.split(), env={"COLUMNS": "200"})


def the(name: str) -> Any:
    """Run a command."""
    return typer.main.get_command(app).resolve_command(None, [name])[1]  # type: ignore[attr-defined]


def ok(line: str) -> str:
    result = nk(line)
    assert result.exit_code == 0, result.output
    return result.stdout


# ---------------------------------------------------------------------------------------------------- what they do


def test_requirements_of_a_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr("ncnnkit.cli.runs._run", lambda recipe, *_: asked.append(recipe))
    ok("run m.param --images x.npy --require sqnr>=30 --require cosine>=0.99 --max-latency 20ms")
    ok("run m.param --images x.npy")
    assert (asked[0].require, asked[0].max_latency) == (("sqnr>=30", "cosine>=0.99"), "20ms")
    assert (asked[1].require, asked[1].max_latency) == ((), "")


@pytest.mark.parametrize(
    ("line", "field", "values"),
    [
        ("--precision fp32 --precision int8", "precisions", ("fp32", "int8")),
        ("--precision fp32,mixed --precision int8", "precisions", ("fp32", "mixed", "int8")),
        ("--backend cpu --backend vulkan", "backends", ("cpu", "vulkan")),
        ("--outputs a,b --outputs c", "outputs", ("a", "b", "c")),
        ("--on a --on b", "on", ("a", "b")),
        ("--shape 3,8,8 --shape 3,4,4", "shapes", ((3, 8, 8), (3, 4, 4))),
        ("--fix a=1 --fix b=2", "fix", {"a": 1.0, "b": 2.0}),
        ("--mean 1,2 --mean 3", "preprocess", {"mean": (1.0, 2.0, 3.0)}),
    ],
)
def test_repeated_list_options_add_up(
    line: str, field: str, values: object, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr("ncnnkit.cli.runs._run", lambda recipe, *_: asked.append(recipe))
    ok(f"run m.param --images x.npy {line}")
    assert getattr(asked[0], field) == values


def test_every_field_of_a_recipe_that_is_a_list_takes_a_list() -> None:
    several = {name for name, kind in key_types().items() if get_origin(kind) is tuple}
    parameters = {parameter.name: parameter for parameter in the("run").params}
    assert several, "there are some"
    assert all(parameters[name].multiple for name in several)


def test_repeated_list_options_of_steps_add_up(home: Path) -> None:
    """They also create the folders into which they write."""
    ok("calibrate m.param --images x.npy -o tables/m.table")
    assert "3 of 9 layers in int8" in ok("quantize m.param --table tables/m.table --skip fc --skip c1 -o a/b/q.param")
    assert (home / "a/b/q.param").is_file()
    rows = json.loads(ok("bench m.param --backend cpu --precision fp32 --precision fp16 --seconds 0.1 --json"))
    assert [row["precision"] for row in rows] == ["fp32", "fp16"]


def test_the_cache_is_used_shown_and_cleared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    line = "run m.param --images x.npy --precision fp32,int8 --backend cpu --effort fast --seconds 0.02 --rounds 1"

    def reused(more: str) -> set[str]:
        stages = json.loads(ok(f"{line} --out o {more} --json"))["stages"]
        return {what for stage in stages for what in stage["reused"]}

    assert reused("--no-cache") == set()
    assert "0 results, 0 MB" in ok("cache")
    assert reused("") == set()
    assert reused("") == {"network", "outputs", "int8 network", "int8-cpu"}
    assert re.search(r"int8 network +0\.\d+ MB  used .* ago", ok("cache"))
    found = json.loads(ok("cache --json"))
    assert found["folder"] == str(home / "cache/ncnnkit/stages")
    assert {entry["what"] for entry in found["entries"]} == {"network", "outputs", "int8 network", "layer errors"}
    assert found["bytes"] == sum(entry["size"] for entry in found["entries"]) > 0
    assert "MB are free again" in ok("cache clear")
    assert json.loads(ok("cache --json"))["entries"] == []
    assert reused("") == set()


@pytest.mark.parametrize("name", ["run", "demo", "convert", "optimize", "calibrate", "quantize", "app"])
def test_output_options_have_the_same_name(name: str) -> None:
    (option,) = (parameter for parameter in the(name).params if parameter.name == "output")
    assert option.opts == ["-o", "--out"]


COMMAND_LINES = [
    pytest.param(name, line, id=line)
    for name in [row.name for row in COMMANDS]
    for line in the(name).epilog.splitlines()[1:]
]


def test_every_command_has_an_example() -> None:
    assert {parameter.values[0] for parameter in COMMAND_LINES} == {row.name for row in COMMANDS}
    assert all("Examples:" in ok(f"devices {name} --help") for name in ("add", "remove", "clean"))
    assert "Examples:" in ok("cache clear --help")


@pytest.mark.parametrize(("name", "line"), COMMAND_LINES)
def test_an_example_is_a_command_line(name: str, line: str) -> None:
    program, typed, *words = shlex.split(line)
    assert (program, typed) == ("ncnnkit", name)
    the(name).make_context(name, words)


@pytest.mark.parametrize("name", [row.name for row in COMMANDS])
def test_the_help_shows_every_word_of_the_help_texts(name: str) -> None:
    """Typer takes a word in brackets for markup, such as that of an extra: ncnnkit[cluster]."""
    shown = "".join(re.sub("[│╭╮╰╯]", "", ok(f"{name} --help")).split())
    for parameter in the(name).params:
        assert "".join((parameter.help or "").split()) in _without_defaults(shown), parameter.name
    assert not re.search(r"<(bool|str|path|list)", shown), "the words for values are enough"


def _without_defaults(help: str) -> str:
    return re.sub(r"\[(?:required|default:[^]]*)\]", "", help)


def test_paragraphs_of_a_help_are_wrapped_at_the_width_of_the_terminal() -> None:
    assert "and the reason. For one layer, it shows the other choices, too." in ok("explain-layer --help")


def test_the_help_of_a_run_is_in_panels() -> None:
    said = ok("run --help")
    heads = re.findall(r"^╭─ (\w+) ─", said, re.MULTILINE)
    assert heads == ["Arguments", "Model", "Images", "Task", "Precision", "Measuring", "Output"]
    assert not re.search(r"<(bool|list|int range|float range)", said), "short types"


def test_versions() -> None:
    assert re.fullmatch(r"ncnnkit \S+, ncnn \S+, Python \S+\n", ok("--version"))
    done = subprocess.run([sys.executable, "-m", "ncnnkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == ok("--version")


def test_shell_completion_knows_commands_and_words() -> None:
    assert completed("ncnnkit qua") == ["quantize"]
    assert completed("ncnnkit run m.param --effort ") == ["fast", "default", "best"]
    assert completed("ncnnkit run m.param --precision fp32,in") == ["fp32,int8"]


def completed(line: str) -> list[str]:
    """The completions that bash offers at the end of a line."""
    environment = {**os.environ, "_NCNNKIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "9"}
    environment["COMP_CWORD"] = str(len(line.split(" ")) - 1)
    code = "from ncnnkit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_an_invalid_requirement_ends_a_run_before_any_work(home: Path) -> None:
    result = nk("run missing.param --images x.npy --require psnrs>=30")
    assert result.exit_code == 3
    assert "unknown figure 'psnrs' (one of cosine, sqnr, mse, max_error, top1_agreement," in result.output


def test_from_table_to_int8_step_by_step(home: Path) -> None:
    assert "scales of 5 activations from 10 images (mse)" in ok("calibrate m.param --images x.npy -o m.table")
    assert "5 of 9 layers in int8" in ok("quantize m.param --table m.table -o q.param")
    assert "4 of 9 layers in int8" in ok("quantize m.param --table m.table --skip fc -o q2.param")
    assert "5 of 9 layers in int8" in ok("quantize m.param --images x.npy -o q3.param")
    plain, corrected = (
        json.loads(ok(f"compare m.param {name} --images x.npy --json"))["accuracy"] for name in ("q.param", "q3.param")
    )
    assert 15 < plain["sqnr_db"] < corrected["sqnr_db"], "from images the biases are corrected, too"
    layers = ok("compare m.param q3.param --images x.npy --layers")
    assert "over 10 images" in layers
    assert all(name in layers for name in ("c1", "d1", "c2", "c3", "fc"))


def test_a_card_contains_the_preprocessing_of_the_calibration(home: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    (home / "photos").mkdir()
    for i in range(3):
        Image.fromarray(np.roll(noise, i, 0)).save(home / f"photos/{i}.png")
    ok("quantize m.param --images photos --mean 0.5 --std 0.25 --effort fast -o prepared.param")
    found = Artifact.load(home / "prepared.param")
    assert found.preprocess is not None
    assert (found.preprocess.mean, found.preprocess.std) == ((0.5,) * 3, (0.25,) * 3)
    assert found.pillow == PIL.__version__


def test_no_work_is_silent(home: Path) -> None:
    """Each command says what it does from the first second on. In a log, each finished step is a line."""
    for line, first in (
        ("calibrate m.param --images x.npy -o m.table", "look at the images"),
        ("quantize m.param --images x.npy --effort fast -o q.param", "look at the images"),
        ("compare m.param m.param --images x.npy --json", "look at the images"),
        ("bench m.param --backend cpu --precision fp32 --seconds 0.1 --json", "look at this machine"),
        ("profile m.param --threads 1 --repeats 3", "look at this machine"),
        ("doctor --json", "look at this machine"),
    ):
        result = nk(line)
        assert result.exit_code in (0, 4), result.output
        ticks = [text for text in result.stderr.splitlines() if text.startswith("✓ ")]
        assert re.fullmatch(rf"✓ {first} \d+\.?\d* s", ticks[0]), (line, result.stderr)


def test_optimize(home: Path) -> None:
    said = ok("optimize m.param -o o.param --fp16")
    assert "o.param: 9 layers became" in said
    assert (home / "o.bin").stat().st_size < 0.6 * (home / "m.bin").stat().st_size


def test_convert(home: Path) -> None:
    said = ok(f"convert {Path(ncnnkit.__file__).parent}/data/efficientnet-lite0.onnx -o e.param")
    assert "4,6" in said, "parameters"
    assert ncnnfile.load(home / "e.param").input_shapes() == [(3, 224, 224)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("convert e.onnx -o e.onnx", "does not end in .param"),
        ("optimize m.param -o m.param", "is the model itself"),
        ("quantize m.param --images x.npy -o m.param", "is the model itself"),
        ("calibrate m.param --images x.npy -o m.param", "is the model itself"),
        ("optimize m.param -o other.param", "other.bin: would be replaced, but there is no .param"),
    ],
)
def test_a_command_replaces_no_file_that_it_did_not_write(line: str, says: str, home: Path) -> None:
    (home / "e.onnx").write_bytes(b"mine")
    (home / "other.bin").write_bytes(b"mine")
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    done = nk(line)
    assert done.exit_code == 4
    assert says in done.output
    assert {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()} == before


def test_bench(home: Path) -> None:
    (row,) = json.loads(ok("bench m.param --backend cpu --precision fp32 --seconds 0.1 --json"))
    assert row["latency_ms"]["samples"] > 2
    said = ok("bench m.param --backend cpu --precision fp32,fp16 --seconds 0.1")
    assert "fp32-cpu" in said
    assert "25–75 %" in said
    assert any(answer in said for answer in ("is the fastest", "are equally fast", "too noisy to say"))


def test_bench_of_a_missing_backend_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent")
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent")
    said = ok("bench m.param --precision fp32,fp16 --backend cpu,vulkan --seconds 0.1").splitlines()
    assert [line for line in said if "vulkan" in line] == [
        "skipped: fp32-vulkan, fp16-vulkan: there is no Vulkan device"
    ]


def test_tune(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = tuning.candidates
    monkeypatch.setattr(tuning, "candidates", lambda *args, **options: grid(*args, **options)[:3])
    line = "tune m.param --precision fp32 --backend cpu --seconds 0.2"
    found = json.loads(ok(line + " --json"))
    names = [row["name"] for row in found["candidates"]]
    assert len(names) == 3
    assert "ncnn's defaults" in names
    assert found["settings"]["name"] in names or "simplified" in found["settings"]["name"]
    said = " ".join(ok(line).split())  # a sentence may have a line break anywhere
    assert "ncnn's defaults (fp32, " in said
    assert all(name in said for name in names)


def test_profile(home: Path) -> None:
    found = json.loads(ok("profile m.param --threads 1 --repeats 3 --json"))
    assert [layer["name"] for layer in found["layers"]] == ["c1", "d1", "c2", "c3", "add", "gap", "fc"]
    said = ok("profile m.param --threads 1 --repeats 3")
    assert "ConvolutionDepthWise" in said
    assert "the layers add up to" in said
    assert nk("profile m.param --backend gpu").exit_code == 3
    assert nk("profile m.param --precision fp8").exit_code == 3


def test_run_and_report(home: Path) -> None:
    (home / "recipe.toml").write_text('images = "x.npy"\nbackends = ["cpu"]\nseconds = 0.05\nrounds = 2\nthreads = 1\n')
    said = ok("run m.param --recipe recipe.toml --precision fp32,int8")
    assert "Recommended: " in said
    assert "conversion by route ncnn: not verified, because there is no original that can be run" in said
    assert "ship: m-" in said
    assert "int8-cpu" in said
    assert "bf16-cpu" not in said
    assert "ncnnkit-out/report.html" in said
    page = (home / "ncnnkit-out/report.html").read_text()
    (home / "ncnnkit-out/report.html").unlink()
    assert "int8-cpu" in ok("report ncnnkit-out")
    assert (home / "ncnnkit-out/report.html").read_text() == page
    printed = decode(ok("run m.param --recipe recipe.toml --precision fp32 --out o2 --json"), Run)
    assert encode(printed) == (home / "o2/run.json").read_bytes()


def test_explain_layer(home: Path) -> None:
    (home / "run.json").write_text(json.dumps(sample_run()))
    shown = ok("explain-layer run.json --sort error").splitlines()
    assert shown[0].split() == ["layer", "type", "choice", "ms", "error", "why"]
    assert shown[1].startswith("conv_5")
    assert "int8-winograd *" in ok("explain-layer run.json conv_5")
    assert len(json.loads(ok("explain-layer run.json --json"))) == len(sample_run()["plan"]["layers"])
    result = nk("explain-layer run.json --sort colour")
    assert (result.exit_code, "one of network, name, type, choice, ms, error" in result.stderr) == (3, True)
    assert set(LAYER_ORDERS) == {"network", "name", "type", "choice", "ms", "error"}


def test_doctor(home: Path) -> None:
    said = ok("doctor")
    assert all(word in said for word in ("ncnn", "pnnx", "Vulkan", "CPU", "torch"))
    findings = json.loads(ok("doctor --json"))
    assert {"subject", "level", "text"} == findings[0].keys()


def test_doctor_without_pnnx_explains_how_and_why_to_install_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    (found,) = (finding for finding in json.loads(ok("doctor --json")) if finding["subject"] == "pnnx")
    assert found["level"] == "note", "an ONNX file needs none"
    assert "pip install --no-deps pnnx" in found["text"]
    assert "TorchScript" in found["text"]


def test_help_of_single_steps_lists_their_values(home: Path) -> None:
    """Its options for targets, threads and precisions differ from those of a run, which knows its devices."""
    shown = {name: " ".join(nk(f"{name} --help").stdout.split()) for name in ("run", "quantize", "bench")}
    assert "those of the device" in shown["run"]
    assert "those of the device" not in shown["quantize"]
    assert "0: all cores" not in shown["quantize"] + shown["bench"]
    assert "Precisions to make" not in shown["bench"]


def test_every_command_explains_itself() -> None:
    names = ["run", "convert", "optimize", "calibrate", "quantize", "compare", "bench", "report", "doctor", "demo"]
    listed = ok("--help")
    for name in names:
        assert name in listed
        assert "--help" in ok(f"{name} --help")
    assert "Exit codes" in listed
    for option in ("--eval-images", "--labels", "--preset", "--mean", "--std", "--resize", "--target", "--recipe"):
        assert option in ok("run --help")


# ------------------------------------------------------------------------------------------------------ bad input


def _truncate(home: Path) -> None:
    (home / "m.bin").write_bytes((home / "m.bin").read_bytes()[:-100])


def _remove(home: Path) -> None:
    (home / "m.bin").unlink()


def _edit(old: str, new: str) -> object:
    def edit(home: Path) -> None:
        text = (home / "m.param").read_text()
        assert old in text
        (home / "m.param").write_text(text.replace(old, new, 1))

    return edit


def _in_int8(home: Path) -> None:
    ok("quantize m.param --images x.npy --effort fast -o other.param")
    for end in ("param", "bin", "json"):
        (home / f"other.{end}").replace(home / f"m.{end}")


BAD = [
    ("optimize m.param -o o.param", _remove, 3, "m.bin"),
    ("optimize m.param -o o.param", _truncate, 3, "m.bin"),
    ("optimize m.param -o o.param", _edit("7767517", "7767516"), 3, "m.param:1"),
    ("optimize m.param -o o.param", _edit("0=8 1=3", "0=8 1=x"), 3, "m.param:4"),
    ("optimize m.param -o o.param", _edit("BinaryOp", "BinaryFoo"), 3, "BinaryFoo"),
    ("optimize absent.param -o o.param", None, 3, "absent.param"),
    ("optimize mm.param -o o.param", None, 3, "mm.param: no such file (did you mean m.param?)"),
    ("bench m.bin", None, 3, "m.bin: is not text (give m.param)"),
    ("convert absent.onnx -o o.param", None, 3, "absent.onnx: no such file"),
    ("convert nothing -o o.param", None, 3, "torchvision:NAME"),
    ("convert m.bin -o o.param", None, 3, "m.bin"),
    ("calibrate m.param --images text -o o.table", None, 3, "image"),
    ("calibrate m.param --images nowhere -o o.table", None, 3, "nowhere: no such file"),
    ("calibrate m.param --images x.npy --method guess -o o.table", None, 3, "unknown method 'guess'"),
    ("calibrate m.param --images x.npy --shape 3,8,8 -o o.table", None, 3, "takes N x 3x8x8"),
    ("calibrate m.param --images x.npy --mean a,b,c -o o.table", None, 3, "--mean 'a,b,c'"),
    ("quantize m.param -o o.param", None, 3, "give --table or --images"),
    ("quantize m.param --table absent.table -o o.param", None, 3, "absent.table: no such file"),
    ("quantize m.param --images x.npy --skip nothing -o o.param", None, 3, "no layer is called 'nothing'"),
    ("quantize m.param --images x.npy --target z80 -o o.param", None, 3, "unknown target 'z80'"),
    ("quantize m.param --images x.npy -o m.bin/q/o.param", None, 4, "m.bin: is not a folder"),
    ("quantize m.param --images x.npy -o o.param", _in_int8, 3, "its card says int8; start from the fp32 model"),
    ("compare m.param absent.param --images x.npy", None, 3, "absent.param"),
    ("bench absent.param", None, 3, "absent.param"),
    ("report text", None, 3, "no run.json here"),
    ("run", None, 3, "no model is given"),
    ("run m.param", None, 3, "no images are given"),
    ("run m.param --images x.npy --backend gpu", None, 3, "unknown backend 'gpu'"),
    ("run m.param --images x.npy --cluster 9998-9999 --out o", None, 3, "local has no 9998-9999 cores"),
    ("run m.param --images x.npy --precision fp8", None, 3, "unknown precision 'fp8'"),
    ("run m.param --images x.npy --preset nothing", None, 3, "unknown preset 'nothing'"),
    ("run m.param --images x.npy --recipe absent.toml", None, 3, "absent.toml"),
    ("run m.param --images text --out o", None, 3, "image"),
    ("run m.param --images x.npy --out m.bin", None, 4, "m.bin: is not a folder"),
    ("run m.param --images x.npy --weights none", None, 3, "--weights is only for torch models"),
    ("run m.param --images x.npy --on local --on local --out o", None, 3, "local is given twice"),
    ("run m.param --images x.npy --precision fp32,fp32", None, 3, "precision fp32 is given twice"),
    ("run m.param --images x.npy --eval-images x.npy", None, 3, "are also the calibration images"),
    ("quantize m.param --table a.table --method kl -o o.param", None, 3, "need --images"),
    ("calibrate m.bin --images x.npy -o o.table", None, 3, "is not an ncnn model"),
    ("run m.param --images x.npy --out /proc/x/y", None, 4, "cannot be written"),
    ("run no_such_package:net --images x.npy", None, 3, "no_such_package:net"),
]


@pytest.mark.parametrize(("line", "spoil", "code", "said"), BAD, ids=[f"{row[0]} ({row[3]})" for row in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(home: Path, line: str, spoil: object, code: int, said: str) -> None:
    if callable(spoil):
        spoil(home)
    before = sorted(path.relative_to(home) for path in home.rglob("*"))
    result = nk(line)
    errors = [text for text in result.stderr.splitlines() if not text.startswith(("preprocessing: ", "✓ ", "  "))]
    assert result.exit_code == code, result.output
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert said in errors[0]
    assert sorted(path.relative_to(home) for path in home.rglob("*")) == before


def test_a_wrong_command_line_is_exit_code_2(home: Path) -> None:
    assert nk("calibrate m.param").exit_code == 2
    assert nk("fly").exit_code == 2


# --------------------------------------------------------------------------------------- as a process of its own


def test_a_folder_whose_name_is_not_utf8_is_printed(home: Path) -> None:
    out = os.fsdecode(b"out\xe9")
    line = [sys.executable, "-m", "ncnnkit", "run", "m.param", "--images", "x.npy", "--backend", "cpu"]
    line += ["--precision", "fp32", "--out", out]
    done = subprocess.run(line, cwd=home, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"report: out?/report.html" in done.stdout


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    gc.collect()  # the frames of the failure hold mapped samples from that disk
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(home: Path, tiny_disk: Path) -> None:
    (home / "recipe.toml").write_text('images = "x.npy"\nbackends = ["cpu"]\nseconds = 0.05\nrounds = 1\n')
    result = nk(f"run m.param --recipe recipe.toml --out {tiny_disk}/o")
    assert result.exit_code == 4, result.output
    assert "free some space" in result.stderr
    assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ncnnkit", ("numpy", "ncnn", "typer")),
        ("import ncnnkit.cli; ncnnkit.cli.app(['--help'], standalone_mode=False)", ("numpy", "ncnn", "msgspec")),
        ("import ncnnkit.cli; ncnnkit.cli.app(['run', '--help'], standalone_mode=False)", ("PIL", "ncnn", "highspy")),
    ],
)
def test_unused_modules_are_not_imported(code: str, absent: tuple[str, ...]) -> None:
    """This keeps help and completion fast."""
    code += f"; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, ncnnkit, ncnnkit.onboard.child; all_of_it = [getattr(ncnnkit, n) for n in ncnnkit.__all__]; "
        "print([m for m in ('PIL', 'torch', 'onnxruntime', 'rich', 'ncnn', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
