"""The content of a written app, and refused requests. test_app_build.py builds and runs apps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import network, small
from small_run import PREPROCESS, edit, edit_cards, refused

from ncnnkit.app import make_app
from ncnnkit.artifact import Artifact
from ncnnkit.cli import app
from ncnnkit.errors import FormatError, ModelError, RecipeError, StorageError
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.quoting import float32
from ncnnkit.record.examples import EXAMPLES, Examples

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
    # The bounds of the self-test: 3 dB below the measured SQNR of the examples, and at most 60 dB.
    measured = Examples.load(run_folder / EXAMPLES).sqnr_db
    assert measured is not None
    least = {row[1]: float(row[4]) for row in rows}
    assert least == {p: pytest.approx(min(measured[f"{p}-cpu"] - 3, 60), rel=1e-6) for p in ("fp32", "fp16", "int8")}
    assert [row[5] for row in rows] == ["0.9", "0.9", "0.5"]
    assert (tmp_path / "app/examples/1.npy").is_file()
    assert (tmp_path / "app/run.sh").stat().st_mode & 0o111
    assert not list((tmp_path / "app").rglob("*.jinja"))


def test_an_app_has_the_variants_of_one_device(own_run: Path, tmp_path: Path) -> None:
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
    with pytest.raises(
        RecipeError,
        match=r"the run recommends no variant \(give --variant NAME, in Python variant=NAME, one of fp32-cpu",
    ):
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


def test_the_program_obeys_the_card(own_run: Path, tmp_path: Path) -> None:
    """The program uses the options of the card, not those of the precision's name."""
    card = json.loads((own_run / "m-int8.json").read_text())
    card["options"]["int8"]["use_fp16_arithmetic"] = False
    (own_run / "m-int8.json").write_text(json.dumps(card))
    make_app(own_run, tmp_path / "cpp", variant="int8")
    assert '{"int8", true, true, false, false, false}' in (tmp_path / "cpp/src/model.h").read_text()
    make_app(own_run / "m-int8.param", tmp_path / "python", lang="python")
    said = json.loads((tmp_path / "python/infer.json").read_text())
    assert said["precisions"] == {"int8": card["options"]["int8"]}


def test_an_app_of_a_model_without_a_run(tmp_path: Path) -> None:
    """From a .param with its card, and from an Artifact or a Graph in memory."""
    made = Artifact.made(small(), "fp32", preprocess=PREPROCESS, labels=("a b", "c\nd"), ncnn="1.0.2", target="x86")
    made.save(tmp_path / "net.param")
    chosen = make_app(tmp_path / "net.param", tmp_path / "a")
    assert (chosen.name, chosen.stem) == ("fp32-cpu", "net")
    make_app(made, tmp_path / "b")
    for folder, stem in (("a", "net"), ("b", "model")):
        rows = (tmp_path / folder / "models/variants.txt").read_text().splitlines()
        least = {"fp32": 60, "fp16": 20, "bf16": 10}  # nothing was measured, so the bound is that of the precision
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


def test_a_variant_can_only_be_named_for_a_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--variant names a variant of a run, and this is a model"):
        make_app(small(), tmp_path / "app", variant="int8")


def test_a_run_supplies_facts_missing_in_the_card_of_edited_files(own_run: Path, tmp_path: Path) -> None:
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
    literal = float32(value)
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
    assert 'set(stem "m-int8")' in cmake
    assert "INFER_EMBED_BIN" in cmake
    assert ".incbin" in (tmp_path / "app/src/model_files.cpp").read_text()
    make_app(run_folder, tmp_path / "other", variant="int8")
    assert ".incbin" not in (tmp_path / "other/src/model_files.cpp").read_text()


def sources(folder: Path) -> set[str]:
    return {path.name for path in (folder / "src").iterdir()}


def test_a_part_is_included_on_request(run_folder: Path, tmp_path: Path) -> None:
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


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("change", ["src/main.cpp", "src/mine.cpp", "README.md"])
def test_a_users_changes_are_not_lost(change: str, run_folder: Path, tmp_path: Path) -> None:
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


def test_an_app_does_not_replace_files_of_the_user(run_folder: Path, tmp_path: Path) -> None:
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
