"""The app that is written: what is in it, and what is refused. That it builds and runs is test_app_build's."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import ncnn
import numpy as np
import PIL
import pytest
from app_parts import app_part
from networks import SMALL, network, samples, small
from PIL import Image

from ncnnkit.app import make_app
from ncnnkit.app.bundling import standalone
from ncnnkit.app.facts import facts_of
from ncnnkit.app.models import shipment
from ncnnkit.app.writing import cpp_literal, float32_literal
from ncnnkit.artifact import Artifact
from ncnnkit.cli import app
from ncnnkit.device.session import Session
from ncnnkit.errors import FormatError, ModelError, NcnnkitError, RecipeError, StorageError
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard.picture import Fit, Tiles
from ncnnkit.pipeline import run
from ncnnkit.recipe import Recipe
from ncnnkit.record.examples import EXAMPLES, Examples
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS

PREPROCESS = Preprocess(resize=20, interpolation="bicubic", crop=(16, 16), color="bgr", mean=(0.485, 0.456, 0.406))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network whose inputs are 3x16x16, with preprocessing and ten class names."""
    home = tmp_path_factory.mktemp("run")
    ncnnfile.save(small(), home / "m.param")
    np.save(home / "x.npy", samples(10))
    run(
        Recipe(
            str(home / "m.param"), images=str(home / "x.npy"), backends=("cpu",), precisions=("fp32", "fp16", "int8"),
            threads=1, seconds=0.05, rounds=1, effort="fast",
        ),
        home / "out",
    )  # fmt: skip
    named = [f"name {i}" for i in range(10)]
    edit_cards(home / "out", preprocess=PREPROCESS.to_dict(), labels=named, task="classification")
    return home / "out"


def edit(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**document, **fields}))


def edit_cards(folder: Path, **fields: Any) -> None:
    for path in folder.glob("m*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def own_run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------- what is there


def test_a_project_with_its_models(run_folder: Path, tmp_path: Path) -> None:
    chosen = make_app(run_folder, tmp_path / "app", variant="int8")
    assert chosen.name == "int8-cpu"
    for name in ("CMakeLists.txt", "CMakePresets.json", "README.md", "run.sh", "scripts/deploy.sh", "src/main.cpp"):
        assert (tmp_path / "app" / name).is_file(), name
    models = tmp_path / "app/models"
    for name in ("m-fp32", "m-fp16", "m-int8"):
        for ending in (".param", ".bin"):
            assert (models / (name + ending)).read_bytes() == (run_folder / (name + ending)).read_bytes()
    assert (models / "labels.txt").read_text().splitlines()[3] == "name 3"
    rows = [line.split() for line in (models / "variants.txt").read_text().splitlines()]
    assert [row[:4] for row in rows] == [[f"{p}-cpu", p, "cpu", f"m-{p}"] for p in ("fp32", "fp16", "int8")]
    # The bounds of the self-test: 3 dB less than was measured of the examples, 60 dB at most.
    measured = Examples.load(run_folder / EXAMPLES).sqnr_db
    assert measured is not None
    least = {row[1]: float(row[4]) for row in rows}
    assert least == {p: pytest.approx(min(measured[f"{p}-cpu"] - 3, 60), rel=1e-6) for p in ("fp32", "fp16", "int8")}
    assert [row[5] for row in rows] == ["0.9", "0.9", "0.5"]
    assert (tmp_path / "app/examples/1.npy").is_file()
    assert (tmp_path / "app/run.sh").stat().st_mode & 0o111
    assert not list((tmp_path / "app").rglob("*.jinja"))


def test_of_several_devices_the_variants_of_one(own_run: Path, tmp_path: Path) -> None:
    variants = json.loads((own_run / "run.json").read_text())["variants"]
    there = [{**v, "name": f"{v['name']}@my board", "device": "my board"} for v in variants]
    here = [{**v, "name": f"{v['name']}@local"} for v in variants]
    edit(own_run, variants=here + there, recommended=None)
    for name, variant in (("a", "int8"), ("b", "int8-cpu@my board")):
        assert make_app(own_run, tmp_path / name, variant=variant).name == "int8-cpu"
        rows = (tmp_path / name / "models/variants.txt").read_text().splitlines()
        assert [row.rsplit(" ", 2)[0] for row in rows] == [f"{p}-cpu {p} cpu m-{p}" for p in ("fp32", "fp16", "int8")]


def test_the_recommended_variant_by_default(own_run: Path, tmp_path: Path) -> None:
    edit(own_run, recommended="fp16-cpu")
    assert make_app(own_run, tmp_path / "app").name == "fp16-cpu"
    edit(own_run, recommended=None)
    with pytest.raises(RecipeError, match=r"the run recommends no variant \(--variant, one of fp32-cpu"):
        make_app(own_run, tmp_path / "app")


def test_the_program_knows_the_model(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="int8-cpu")
    header = (tmp_path / "app/src/model.h").read_text()
    assert '{"in0", {3, 16, 16}, {20, 16, 16}},' in header
    assert '{{"out0"}},' in header
    prepared = (tmp_path / "app/src/preprocess.cpp").read_text() + (tmp_path / "app/src/resize.cpp").read_text()
    for text in ("Bicubic", "2 - c; // blue comes first", "/ 255.0f", "{0.485f, 0.456f, 0.406f}", "{1.0f, 1.0f, 1.0f}"):
        assert text in prepared, text
    assert '{"fp32", false, false, false, false, false}' in header
    assert '{"int8", true, true, true, false, false}' in header
    options = re.search(r"bool (use_[^;]*);", header)
    assert options is not None
    assert options[1].split(", ") == list(PRECISIONS["fp32"].options)


def test_what_a_card_says_is_what_the_program_does(own_run: Path, tmp_path: Path) -> None:
    """The options, not what their precision's name stands for."""
    card = json.loads((own_run / "m-int8.json").read_text())
    card["options"]["int8"]["use_fp16_arithmetic"] = False
    (own_run / "m-int8.json").write_text(json.dumps(card))
    make_app(own_run, tmp_path / "cpp", variant="int8")
    assert '{"int8", true, true, false, false, false}' in (tmp_path / "cpp/src/model.h").read_text()
    make_app(own_run / "m-int8.param", tmp_path / "python", lang="python")
    said = json.loads((tmp_path / "python/infer.json").read_text())
    assert said["precisions"] == {"int8": card["options"]["int8"]}


def test_an_app_of_a_model_alone(tmp_path: Path) -> None:
    """Of a .param with its card, and of an Artifact or a Graph in memory."""
    made = Artifact.made(small(), "fp32", preprocess=PREPROCESS, labels=("a b", "c\nd"), ncnn="1.0.2", target="x86")
    made.save(tmp_path / "net.param")
    chosen = make_app(tmp_path / "net.param", tmp_path / "a")
    assert (chosen.name, chosen.stem) == ("fp32-cpu", "net")
    make_app(made, tmp_path / "b")
    for folder, stem in (("a", "net"), ("b", "model")):
        rows = (tmp_path / folder / "models/variants.txt").read_text().splitlines()
        least = {"fp32": 60, "fp16": 20, "bf16": 10}  # nothing was measured: what its precision must have
        assert rows == [f"{p}-cpu {p} cpu {stem} {db} 0.9" for p, db in least.items()]
        assert (tmp_path / folder / "models/labels.txt").read_text() == "a b\nc d\n"
        assert Artifact.load(tmp_path / folder / f"models/{stem}.param").preprocess == PREPROCESS
        header = (tmp_path / folder / "src/model.h").read_text()
        for text in ('"1.0.2"', "{3, 16, 16}, {20, 16, 16}"):
            assert text in header, text
        assert "{0.485f, 0.456f, 0.406f}" in (tmp_path / folder / "src/preprocess.cpp").read_text()
    bare = make_app(small(), tmp_path / "c", lang="python")
    assert bare.model.preprocess is None
    assert Artifact.load(tmp_path / "c/models/model.param").precision == bare.model.precision == "fp32"
    assert json.loads((tmp_path / "c/infer.json").read_text())["inputs"][0]["preprocess"] is None


def test_a_variant_is_a_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--variant names a variant of a run"):
        make_app(small(), tmp_path / "app", variant="int8")


def test_a_run_tells_what_a_card_of_edited_files_does_not(own_run: Path, tmp_path: Path) -> None:
    edit(own_run, preprocess=PREPROCESS.to_dict())
    param = own_run / "m-int8.param"
    param.write_text(param.read_text() + "\n")
    with pytest.warns(UserWarning, match="this card is ignored"):
        chosen = make_app(own_run, tmp_path / "app", variant="int8")
    assert chosen.model.preprocess == PREPROCESS
    assert not (tmp_path / "app/models/m-int8.json").exists()


def test_the_facts_of_layer_types_are_those_of_the_table(tmp_path: Path) -> None:
    make_app(Artifact.made(small(), "mixed"), tmp_path / "app")
    header = (tmp_path / "app/src/model.h").read_text()
    for row in (
        '{"Convolution", 8, true, true, 18, ""}', '{"ConvolutionDepthWise", 8, true, true, 18, ""}',
        '{"InnerProduct", 8, true, false, -1, "int8"}', '{"Gemm", 18, false, false, -1, ""}',
        '{"MultiHeadAttention", 18, false, false, -1, "bf16"}', 'kStorage = {"Cast", 0, 1, 2, 4, 3, 31, 2, 4};',
    ):  # fmt: skip
        assert row in header, row
    code = "".join(path.read_text() for path in (tmp_path / "app/src").glob("*.cpp"))
    assert not re.search(r'"(Convolution|InnerProduct|Deconvolution|Gemm|Cast|Split)"', code)


@pytest.mark.parametrize("value", [0.1, 0.485, 1 / 3, 255.0, 1e-7, 3e20, 58.395, 1.0])
def test_literals_are_the_nearest_float32(value: float) -> None:
    literal = float32_literal(value)
    assert literal.endswith("f")
    assert np.float32(literal[:-1]) == np.float32(value)
    assert "." in literal or "e" in literal


def test_a_run_on_arrays_takes_no_images(own_run: Path, tmp_path: Path) -> None:
    edit_cards(own_run, preprocess=None)
    make_app(own_run, tmp_path / "app", variant="fp32")
    assert not {"image.cpp", "preprocess.cpp", "resize.cpp", "draw.cpp"} & sources(tmp_path / "app")
    assert "arrays.cpp" in sources(tmp_path / "app")
    assert "An array of 3x16x16 float values" in (tmp_path / "app/README.md").read_text()


def test_without_class_names(own_run: Path, tmp_path: Path) -> None:
    edit_cards(own_run, labels=[])
    make_app(own_run, tmp_path / "app", variant="fp32")
    assert (tmp_path / "app/models/labels.txt").read_text() == ""


def test_embedded(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="int8", embed=True)
    cmake = (tmp_path / "app/CMakeLists.txt").read_text()
    assert "/models/m-int8)" in cmake
    assert "INFER_EMBED_BIN" in cmake
    assert ".incbin" in (tmp_path / "app/src/model_files.cpp").read_text()
    make_app(run_folder, tmp_path / "other", variant="int8")
    assert ".incbin" not in (tmp_path / "other/src/model_files.cpp").read_text()


def sources(folder: Path) -> set[str]:
    return {path.name for path in (folder / "src").iterdir()}


def test_a_part_is_there_where_it_is_asked_for(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "plain")
    make_app(run_folder, tmp_path / "full", extras=("streams", "camera"))
    assert sources(tmp_path / "full") - sources(tmp_path / "plain") == {
        "streams.cpp", "streams.h", "camera.cpp", "camera.h",
    }  # fmt: skip
    assert "--streams" not in (tmp_path / "plain/src/options.cpp").read_text()
    assert "--streams" in (tmp_path / "full/src/options.cpp").read_text()
    with pytest.raises(RecipeError, match="there is no part 'video' of an app"):
        make_app(run_folder, tmp_path / "x", extras=("video",))


def test_an_app_resizes_in_one_way(own_run: Path, tmp_path: Path) -> None:
    ways = {"bicubic": "2.0) * x - (a", "lanczos": "sinc(x / 3)", "nearest": "nearest_places(", "opencv": "neighbours("}
    for interpolation, word in ways.items():
        edit_cards(own_run, preprocess=replace(PREPROCESS, interpolation=interpolation).to_dict())
        make_app(own_run, tmp_path / interpolation)
        text = (tmp_path / interpolation / "src/resize.cpp").read_text()
        assert [found for found in ways.values() if found in text] == [word]


def test_writing_an_app_again_keeps_what_was_built(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="int8")
    (tmp_path / "app/build").mkdir()
    (tmp_path / "app/build/infer").write_text("a program")
    make_app(run_folder, tmp_path / "app", variant="fp32")
    assert (tmp_path / "app/build/infer").read_text() == "a program"
    assert '"m",\n    "fp32",' in (tmp_path / "app/src/model.h").read_text()


# --------------------------------------------------------------------------------------- a stranger's run folder


EVIL = 'x"; system("touch PWNED"); //\n#include <evil.h>\n\\ ??/ ${PWNED} $(touch PWNED) `touch PWNED` 🐈'


def code_of(folder: Path) -> str:
    """All of an app that a compiler, CMake or a shell reads."""
    files = [folder / name for name in ("CMakeLists.txt", "run.sh", "scripts/deploy.sh", "models/variants.txt")]
    return "".join(path.read_text() for path in (*files, *sorted((folder / "src").iterdir())))


@pytest.mark.parametrize("name", ["m$(touch PWNED)", "m`touch PWNED`", 'm"); system("x', "m\n", "../m", "/etc/m", "-m"])
def test_file_names_of_a_run_cannot_mean_anything(name: str, own_run: Path, tmp_path: Path) -> None:
    variants = json.loads((own_run / "run.json").read_text())["variants"]
    variants[0]["files"]["param"] = f"{name}.param"
    edit(own_run, variants=variants)
    refused(own_run, tmp_path, FormatError, r"variants\[0\]\.files\.param is ")


def test_the_models_name_cannot_mean_anything(own_run: Path, tmp_path: Path) -> None:
    for name in (EVIL, "m\nint evil();"):
        edit(own_run, model={**json.loads((own_run / "run.json").read_text())["model"], "name": name})
        refused(own_run, tmp_path, FormatError, r"model\.name is ")


def test_free_texts_of_a_run_do_not_reach_code(own_run: Path, tmp_path: Path) -> None:
    document = json.loads((own_run / "run.json").read_text())
    model = {**document["model"], "reference": EVIL}
    model["inputs"][0]["name"] = model["outputs"][0]["name"] = EVIL
    devices = [
        {**device, "machine": {**device["machine"], "cpu": EVIL}, "address": EVIL} for device in document["devices"]
    ]
    variants = [{**v, "device_name": EVIL, "reason": EVIL, "notes": [EVIL]} for v in document["variants"]]
    images = {**document["images"], "source": EVIL}
    edit(
        own_run, model=model, variants=variants, devices=devices, warnings=[EVIL], why=EVIL, images=images,
        preprocess_origin=EVIL,
    )  # fmt: skip
    make_app(own_run, tmp_path / "app", variant="int8")
    assert "PWNED" not in code_of(tmp_path / "app")
    assert "evil" not in code_of(tmp_path / "app")


def test_a_blobs_name_stays_within_its_literal(own_run: Path, tmp_path: Path) -> None:
    """Names of blobs come from the .param, which is the stranger's as well."""
    param = own_run / "m-int8.param"
    param.write_text(param.read_text().replace("in0", 'in";evil();//\\'))
    with pytest.warns(UserWarning, match="this card is ignored"):
        make_app(own_run, tmp_path / "app", variant="int8")
    header = (tmp_path / "app/src/model.h").read_text()
    assert '"in\\042;evil();//\\134"' in header


@pytest.mark.parametrize("name", ["m$(touch PWNED)", "m`touch PWNED`", 'm"); system("touch PWNED', "m\n", "-m", "é x"])
def test_the_name_of_a_models_file_cannot_mean_anything(name: str, tmp_path: Path) -> None:
    """Given directly, a model may have any name: its files in the app get a plain one."""
    Artifact.made(small(), "fp32").save(tmp_path / f"{name}.param")
    chosen = make_app(tmp_path / f"{name}.param", tmp_path / "app")
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", chosen.stem)
    assert (tmp_path / f"app/models/{chosen.stem}.bin").is_file()
    for text in ("$(touch", "`touch", "system("):
        assert text not in code_of(tmp_path / "app").replace("$(touch a)", "")


HOSTILE: dict[str, dict[str, Any]] = {
    "target": {"target": EVIL},
    "ncnn": {"ncnn": 'x"; evil(); //'},
    "pillow": {"pillow": "13\nint evil();"},
    "precision": {"precisions": [EVIL], "options": {EVIL: {}}},
    "option": {"options": {"fp32": {EVIL: True}, "fp16": {}, "bf16": {}}},
    "options that are not all": {"options": {"fp32": {}, "fp16": {}, "bf16": {}}},
    "filter": {"preprocess": {"interpolation": "bilinear, evil()"}},
    "colour": {"preprocess": {"color": EVIL}},
    "pixels": {"preprocess": {"resize": 1 << 40}},
    "crop": {"preprocess": {"crop": [1 << 40, 1]}},
    "mean": {"preprocess": {"mean": [1e300]}},
    "divisor": {"preprocess": {"divisor": 1e-300}},
    "shape": {"inputs": [{"name": "in0", "shape": [3, 16, 1 << 40]}]},
    "negative": {"inputs": [{"name": "in0", "shape": [3, 16, -16]}]},
    "twice": {"precisions": ["fp32", "fp32"]},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_card_is_not_believed(what: str, tmp_path: Path) -> None:
    param = tmp_path / "m.param"
    Artifact.made(small(), "fp32").save(param)
    card = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**card, **HOSTILE[what]}))
    with pytest.warns(UserWarning, match="this card is ignored"):
        make_app(param, tmp_path / "app")
    assert "evil" not in code_of(tmp_path / "app")
    assert "PWNED" not in code_of(tmp_path / "app")


def test_free_texts_of_a_card_do_not_reach_code(tmp_path: Path) -> None:
    tensor = {"name": EVIL, "shape": [3, 16, 16]}
    Artifact.made(small(), "fp32").save(tmp_path / "m.param")
    card = json.loads((tmp_path / "m.json").read_text())
    card |= {"labels": [EVIL, "a\r\nb", "c\u2028d"], "inputs": [tensor], "outputs": [tensor]}
    (tmp_path / "m.json").write_text(json.dumps(card))
    make_app(tmp_path / "m.param", tmp_path / "app")
    assert "PWNED" not in code_of(tmp_path / "app")
    assert len((tmp_path / "app/models/labels.txt").read_text().splitlines()) == 3, "a class a line"


def test_a_card_with_the_shape_of_another_network_is_refused(tmp_path: Path) -> None:
    Artifact.made(small(), "fp32").save(tmp_path / "m.param")
    card = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**card, "inputs": [{"name": "in0", "shape": [5, 16, 16]}]}))
    with pytest.raises(ModelError, match="layer Convolution c1 expects 3 channels, but gets 5x16x16"):
        make_app(tmp_path / "m.param", tmp_path / "app")


def test_a_blobs_name_is_no_path() -> None:
    """Each of several outputs gets a file; blobs may be called anything but have no spaces."""
    text = """
        Split s 1 2 in0 a b
        ReLU r 1 1 a ../../up
        ReLU t 1 1 b detection/boxes:0
    """
    facts = facts_of(shipment(network(text)))
    assert [(output.blob, output.file) for output in facts.outputs] == [
        ("../../up", "up"), ("detection/boxes:0", "detection-boxes-0"),
    ]  # fmt: skip
    alike = facts_of(shipment(network("Split s 1 2 in0 a/b a:b")))
    assert [output.file for output in alike.outputs] == ["0", "1"]


def test_a_variants_name_holds_no_line_ends(own_run: Path, tmp_path: Path) -> None:
    variants = json.loads((own_run / "run.json").read_text())["variants"]
    variants[0]["name"] = "fp32-cpu\nint evil();"
    edit(own_run, variants=variants, recommended=None)
    refused(own_run, tmp_path, FormatError, "holds no control characters")


@pytest.mark.parametrize("text", [EVIL, "", "plain", "é\u202e", "\ud800", "a\0b"])
def test_a_literal_is_read_back_as_it_was(text: str) -> None:
    literal = cpp_literal(text)
    assert re.fullmatch(r'"([A-Za-z0-9 .,:;_\-+/()\[\]@=]|\\[0-7]{3})*"', literal)
    octal = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), literal[1:-1].encode())
    assert octal == text.encode("utf-8", "replace")


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("change", ["src/main.cpp", "src/mine.cpp", "README.md"])
def test_what_a_user_wrote_is_not_lost(change: str, run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="int8")
    (tmp_path / "app" / change).write_text("my own")
    with pytest.raises(StorageError, match=f"{change} was changed since"):
        make_app(run_folder, tmp_path / "app", variant="int8")
    assert (tmp_path / "app" / change).read_text() == "my own"


def test_a_users_folder_is_left_alone(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="contains no app"):
        make_app(run_folder, tmp_path, variant="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def refused(run_folder: Path, tmp_path: Path, kind: type[NcnnkitError], match: str, **options: Any) -> None:
    with pytest.raises(kind, match=match):
        make_app(run_folder, **{"variant": "int8", "folder": tmp_path / "app", **options})
    assert not (tmp_path / "app").exists()


def test_an_unknown_variant(run_folder: Path, tmp_path: Path) -> None:
    refused(run_folder, tmp_path, RecipeError, "no variant 'int4'.*fp32-cpu, fp16-cpu, int8-cpu", variant="int4")


def test_an_unknown_language(run_folder: Path, tmp_path: Path) -> None:
    refused(run_folder, tmp_path, RecipeError, "unknown language 'rust'", lang="rust")
    refused(run_folder, tmp_path, RecipeError, "--embed is for C", lang="python", embed=True)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, FormatError, r"no run\.json here")


@pytest.mark.filterwarnings("ignore:.*this card is ignored")
@pytest.mark.parametrize("name", ["m-fp16.bin", "m-int8.param"])
def test_a_missing_file_leaves_nothing(name: str, own_run: Path, tmp_path: Path) -> None:
    (own_run / name).unlink()
    refused(own_run, tmp_path, FormatError, name)


def test_a_variant_without_a_model(own_run: Path, tmp_path: Path) -> None:
    variants = json.loads((own_run / "run.json").read_text())["variants"]
    variants[2].update(files=None, status="skipped", reason="no layer for it")
    edit(own_run, variants=variants)
    refused(own_run, tmp_path, ModelError, "int8-cpu has no model: no layer for it")


def test_a_variant_that_its_card_contradicts(own_run: Path, tmp_path: Path) -> None:
    card = json.loads((own_run / "m-int8.json").read_text())
    card["precisions"], card["options"] = ["mixed"], {"mixed": PRECISIONS["mixed"].options}
    (own_run / "m-int8.json").write_text(json.dumps(card))
    refused(own_run, tmp_path, FormatError, "run.json says int8: cannot run in int8")


def test_several_inputs(tmp_path: Path) -> None:
    two = network("Input in0 0 1 in0 0=4\nInput in1 0 1 in1 0=4\nBinaryOp add 2 1 in0 in1 out0 0=0")
    made = replace(Artifact.of(two), fed=("left", 'right"'))
    make_app(made, tmp_path / "app")
    assert '{"left", "in0", {4}},' in (tmp_path / "app/src/model.h").read_text()
    assert '"right\\042"' in (tmp_path / "app/src/model.h").read_text()
    assert "frames.cpp" not in sources(tmp_path / "app")


def test_an_input_of_unknown_shape(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the shape of the input in0 is not known"):
        make_app(network("Input in0 0 1 in0\nReLU r 1 1 in0 out0"), tmp_path / "app")


def test_files_of_the_users_that_an_app_would_replace(run_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "app"
    make_app(run_folder, home, variant="fp32", lang="python")
    (home / "CMakeLists.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"contains CMakeLists\.txt, which ncnnkit did not write"):
        make_app(run_folder, home, variant="fp32")
    assert (home / "CMakeLists.txt").read_text() == "mine"
    (home / "CMakeLists.txt").unlink()
    (home / "notes.txt").write_text("mine")
    make_app(run_folder, home, variant="fp32")
    assert not (home / "infer.py").exists(), "the other app's"
    assert (home / "notes.txt").read_text() == "mine"


def test_the_command(run_folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    words = ["app", str(run_folder), "--variant", "int8", "-o", str(tmp_path / "app")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "int8-cpu" in result.stdout
    assert CliRunner().invoke(app, [*words[:2], "--variant", "int9", *words[4:]]).exit_code == 3


# ------------------------------------------------------------------------------------------------------- the Python app


@pytest.fixture(scope="module")
def python_app(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python") / "app"
    make_app(run_folder, folder, variant="fp32", lang="python")
    return folder


def infer(folder: Path, *words: str | Path, model: str = "m-fp32") -> subprocess.CompletedProcess[str]:
    files = (folder / f"models/{model}.param", folder / f"models/{model}.bin")
    line = [sys.executable, folder / "infer.py", *files, *words]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True)


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def test_python_gives_the_same_answers(python_app: Path, run_folder: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    for precision in ("fp32", "int8"):
        done = infer(
            python_app, image, tmp_path / "y.npy", "--json", f"--precision={precision}", "--threads=1",
            model=f"m-{precision}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        with Session(run_folder / f"m-{precision}.param", precision=precision, threads=1) as net:
            expected = net.run(PREPROCESS.apply(Image.open(image)))
        assert isinstance(expected, np.ndarray)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
        best = [int(i) for i in np.argsort(-expected)[:5]]
        assert [row["label"] for row in said["top"]] == [f"name {i}" for i in best]
        assert said["backend"] == "cpu"
        assert 0 < said["latency_ms"]["min"] <= said["latency_ms"]["median"] <= said["latency_ms"]["p90"]


def test_python_runs_a_model_at_its_own_precision(python_app: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    for precision in ("fp32", "fp16", "int8"):
        assert infer(python_app, image, model=f"m-{precision}").stdout.startswith(f"m, {precision}, cpu")
    line = [sys.executable, python_app / "infer.py", python_app / "models/m-int8.param"]
    line += [python_app / "models/m-fp32.bin", image]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True)
    assert "m-fp32.bin: is another model's than " in done.stderr


def test_python_refuses_a_cast_of_what_is_not_handed_on(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="fp32", lang="python")
    path = tmp_path / "app/models/m-fp32.param"
    magic, counts, *layers = path.read_text().replace(" out0", " last").splitlines()
    layers.append("Cast cast 1 1 last out0 0=4 1=1 31=7")
    path.write_text("\n".join([magic, " ".join(str(int(n) + 1) for n in counts.split()), *layers]) + "\n")
    done = infer(tmp_path / "app", picture(tmp_path / "a.png"), "--no-check")
    assert done.returncode == 1
    for text in (
        "layer fc outputs float, but Cast cast reads bf16", f"here: ncnn {ncnn.__version__}, --precision=fp32",
        f"it needs: ncnn {ncnn.__version__} or newer, --precision=fp32",
    ):  # fmt: skip
        assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_refuses_an_altered_file(run_folder: Path, tmp_path: Path) -> None:
    make_app(run_folder, tmp_path / "app", variant="fp32", lang="python")
    path = tmp_path / "app/models/m-fp32.bin"
    altered = bytearray(path.read_bytes())
    altered[100] ^= 1
    path.write_bytes(altered)
    done = infer(tmp_path / "app", picture(tmp_path / "a.png"))
    assert done.returncode == 1
    assert "m-fp32.bin: is not the file that was written: its CRC-32 is " in done.stderr
    assert infer(tmp_path / "app", picture(tmp_path / "a.png"), "--no-check").returncode == 0


def test_python_names_an_older_ncnn(own_run: Path, tmp_path: Path) -> None:
    document = json.loads((own_run / "run.json").read_text())
    document["devices"][0]["machine"]["ncnn"] = "1.0.20991231"
    edit(own_run, devices=document["devices"])
    make_app(own_run, tmp_path / "app", variant="fp32", lang="python")
    said = infer(tmp_path / "app", picture(tmp_path / "a.png")).stdout
    assert f"note: this ncnn, {ncnn.__version__}, is older than 1.0.20991231, with which the model was measured" in said


def test_python_for_people(python_app: Path, tmp_path: Path) -> None:
    done = infer(python_app, picture(tmp_path / "a.jpg"), tmp_path / "y.txt", "--top=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m, fp32, cpu")
    assert done.stdout.count("name ") == 3
    assert len((tmp_path / "y.txt").read_text().split()) == 10


@pytest.fixture(scope="module")
def script(python_app: Path) -> ModuleType:
    """The part of the app that reads inputs."""
    return app_part(python_app, "inputs")


SWAPS = int(PIL.__version__.partition(".")[0]) >= 13
SIZES = [(1, 1), (7, 5), (16, 16), (64, 48), (47, 103), (300, 20), (224, 224)]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "I;16", "I", "F"])
def test_python_prepares_images_to_the_bit(mode: str, interpolation: str, script: ModuleType, tmp_path: Path) -> None:
    for number, size in enumerate(SIZES):
        how = Preprocess(
            resize=(None, 24, (31, 17))[number % 3], crop=((20, 22), None)[number % 2], interpolation=interpolation,
            color=("rgb", "bgr", "gray")[number % 3], mean=(0.4,), std=(0.3,),
        )  # fmt: skip
        path = tmp_path / ("a.tif" if mode in ("I", "F") else "a.png")
        if mode in ("I", "F"):
            white = (255, 65535, 1 if mode == "F" else 0x7FFFFFFF)[number % 3]
            deep = np.random.default_rng(number).random(size[::-1]) * white
            Image.fromarray(deep.astype(np.int32 if mode == "I" else np.float32)).save(path)
        elif mode == "I;16":
            noise = np.random.default_rng(number).integers(0, 65536, size[::-1], np.uint16)
            Image.fromarray(noise).save(path)
        else:
            picture(path, mode, size)
        with Image.open(path) as image:
            expected = how.apply(image)
        (found,), _ = script.prepare(script.read_image(path), {**how.to_dict(), "may_swap": SWAPS})
        np.testing.assert_array_equal(found, expected, err_msg=f"{size} {how}")


MODES = ["1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "F", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "keyed", "GIF"]


def image_of_mode(mode: str, path: Path) -> None:
    """A file that Pillow opens as an image of a mode; ``keyed`` and ``GIF`` have one transparent colour."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    if mode == "I;16B":
        path.write_bytes(big_endian_tiff(rng.integers(0, 65536, (9, 7), np.uint16)))
    elif mode in ("I", "I;16", "F"):
        kind, low, high = {"I": (np.int32, -5, 2**31), "I;16": (np.uint16, 0, 65536), "F": (np.float32, -20, 300)}[mode]
        Image.fromarray(rng.uniform(low, high, (9, 7)).astype(kind)).save(path, "TIFF")
    elif mode == "LAB":
        Image.frombytes("LAB", (7, 9), rng.bytes(7 * 9 * 3)).save(path, "TIFF")
    elif mode in ("keyed", "GIF"):
        image = colours.convert("P" if mode == "GIF" else "RGB")
        image.save(path, "GIF" if mode == "GIF" else "PNG", transparency=3 if mode == "GIF" else (1, 2, 3))
    elif mode in ("LA", "PA"):
        colours.putalpha(Image.fromarray(rng.integers(0, 256, (9, 7), np.uint8)))
        colours.convert("LA").convert(mode).save(path, "TIFF")
    else:
        colours.convert(mode).save(path, "TIFF")


def big_endian_tiff(values: np.ndarray[Any, Any]) -> bytes:
    height, width = values.shape
    data = values.astype(">u2").tobytes() + bytes(-values.size * 2 % 4)
    tags = ((256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height))
    rows = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in (*tags, (279, values.size * 2))]
    directory = struct.pack(">H", len(rows)) + b"".join(rows) + bytes(4)
    return b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + directory


@pytest.mark.parametrize("mode", MODES)
def test_python_reads_every_mode_as_the_host(mode: str, script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "image"
    image_of_mode(mode, path)
    with Image.open(path) as image:
        assert image.mode == {"keyed": "RGB", "GIF": "P"}.get(mode, mode)
    for color in ("rgb", "gray", "rgba"):
        how = Preprocess(color=color)
        with Image.open(path) as image:
            expected = how.apply(image)
        (found,), _ = script.prepare(script.read_image(path), {**how.to_dict(), "may_swap": SWAPS})
        np.testing.assert_array_equal(found, expected, err_msg=color)
        assert np.unique(found).size > 1


WAYS = [
    PRESETS["yolo"].fitted(48, 64), PRESETS["yolox"].fitted(48, 64), PRESETS["paddleocr-rec"], PRESETS["mtcnn"],
    PRESETS["paddleocr-det"], PRESETS["retinaface"].fitted(40, 40), Preprocess((20, 30), "opencv", color="rgba"),
    Preprocess((20, 30), "bicubic", color="bgra", layout="hwc"), Preprocess((20, 30), "opencv", color="gray"),
    Preprocess(Fit("letterbox", (40, 30), fill=(9, 8, 7), grow=False), layout="hwc"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P"])
def test_python_fits_images_to_the_bit(mode: str, script: ModuleType, tmp_path: Path) -> None:
    for size in SIZES:
        path = picture(tmp_path / "a.png", mode, size)
        if mode in ("RGBA", "LA"):
            with Image.open(path) as image:
                image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, size[::-1], np.uint8)))
                image.save(path)
        for how in WAYS:
            with Image.open(path) as image:
                expected = how.apply(image)
            card = json.loads(json.dumps(how.to_dict()))
            (found,), _ = script.prepare(script.read_image(path), {**card, "may_swap": SWAPS})
            np.testing.assert_array_equal(found, expected, err_msg=f"{size} {how}")


def test_python_cuts_tiles(script: ModuleType, tmp_path: Path) -> None:
    how = Preprocess(crop=Tiles((16, 16), overlap=2))
    path = picture(tmp_path / "a.png", "RGB", (40, 30))
    card = {**json.loads(json.dumps(how.to_dict())), "may_swap": SWAPS}
    with Image.open(path) as image:
        for tile in range(len(how.places(30, 40))):
            (found,), _ = script.prepare(script.read_image(path), card, tile)
            np.testing.assert_array_equal(found, how.apply(image, tile))
    for wrong in (None, 99):
        with pytest.raises(script.Failure, match="is cut into tiles: choose one with --tile=0 to --tile=5"):
            script.prepare(script.read_image(path), card, wrong)


def test_an_app_for_arrays_that_it_normalises(tmp_path: Path) -> None:
    how = Preprocess(color="array", mean=(1.0, 2.0, 3.0), std=(0.5,), arrays=True)
    made = Artifact.made(small(), "fp32", preprocess=how)
    values = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    np.save(tmp_path / "x.npy", values)
    make_app(made, tmp_path / "app", lang="python")
    done = infer(tmp_path / "app", tmp_path / "x.npy", tmp_path / "y.npy", model="model")
    assert done.returncode == 0, done.stderr
    with Session(made) as net:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net.run(how.apply_to_array(values)))
    picture(tmp_path / "a.png")
    assert "takes arrays" in infer(tmp_path / "app", tmp_path / "a.png", model="model").stderr
    make_app(made, tmp_path / "cpp")
    assert "mean[] = {1.0f, 2.0f, 3.0f}" in (tmp_path / "cpp/src/arrays.cpp").read_text()
    assert "Its values are prepared as above." in (tmp_path / "cpp/README.md").read_text()


FAULTS = {
    "no such image": (["nowhere.png"], "nowhere.png"),
    "no image": (["text.png"], "is not an image"),
    "a broken PPM": (["broken.ppm"], "ends too early"),
    "a wrong shape": (["wrong.npy"], "has shape 3x8x8, the network takes 3x16x16"),
    "NaN": (["nan.txt"], "holds NaN or infinity"),
    "words": (["words.txt"], "does not hold numbers"),
    "no GPU": (["good.npy", "--gpu"], "--gpu: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_python_faults_are_one_line(
    fault: str, python_app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path)
    words, match = FAULTS[fault]
    done = infer(python_app, *words)
    assert done.returncode == 1
    assert match in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def make_inputs(folder: Path) -> None:
    (folder / "text.png").write_text("no image")
    (folder / "broken.ppm").write_bytes(b"P6 40 30 255\n" + b"x" * 100)
    np.save(folder / "wrong.npy", samples(1, (3, 8, 8))[0])
    np.save(folder / "good.npy", samples(1)[0])
    (folder / "nan.txt").write_text("nan " * 768)
    (folder / "words.txt").write_text("one two")


def test_int8_made_for_cpus_is_not_run_on_a_gpu(python_app: Path, tmp_path: Path) -> None:
    network_part = app_part(python_app, "network")
    facts = json.loads((python_app / "infer.json").read_text())
    for text, refused in (
        ("Convolution c 1 1 a b 0=8 1=3 4=1 8=2 18=1.270000e+02", True),
        ("Convolution c 1 1 a b 0=8 1=3 4=1 8=2 18=0.000000e+00", False),
        ("Gemm c 1 1 a b 18=2", False),
    ):
        (tmp_path / "m.param").write_text(f"7767517\n1 1\n{text}\n")
        assert network_part.only_for_cpus(tmp_path / "m.param", facts) is refused, text
    ncnnfile.save(network(SMALL), tmp_path / "m.param")
    assert not network_part.only_for_cpus(tmp_path / "m.param", facts)


def test_the_python_app_needs_nothing_of_ncnnkit(python_app: Path) -> None:
    files = {path.relative_to(python_app).as_posix(): path.read_text() for path in python_app.rglob("*.py")}
    assert not any(re.search(r"^\s*(from|import) ncnnkit", text, re.MULTILINE) for text in files.values())
    assert "def check_storages(" in files["parts/storages.py"]
    assert "def picture(" in files["parts/task.py"]
    assert not {"parts/boxes.py", "parts/ctc.py"} & files.keys(), "of other tasks"


def test_python_files_hold_what_is_used() -> None:
    text = '''"""Main."""

from __future__ import annotations

from ncnnkit.onboard.picture import OPENCV, Placement

print(OPENCV, Placement((1, 1), (1, 1), 0, 0, (1, 1)).scale)
'''
    files = standalone(text, "tensor")
    assert files.keys() == {"", "parts/picture.py"}
    assert "from parts.picture import OPENCV, Placement\n" in files[""]
    part = files["parts/picture.py"]
    assert "def scale(" in part
    assert not re.search(r"def to_image|class Fit|import math|CHANNELS", part)
    assert files[""].startswith('"""Main."""\n\nfrom __future__ import annotations\n\nfrom parts')
