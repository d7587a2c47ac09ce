"""Networks with several inputs, or with inputs that are not images: pairs, recordings, token ids."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image
from scipy.io import wavfile
from typer.testing import CliRunner

import ncnnkit as nk
from ncnnkit import pipeline
from ncnnkit.cli import app
from ncnnkit.cli.values import to_sources
from ncnnkit.errors import ImageError, RecipeError
from ncnnkit.onboard.picture import Tiles
from ncnnkit.recipe import Recipe, make_recipe, save_recipe
from ncnnkit.record.folder import load_run
from ncnnkit.record.run import Run
from ncnnkit.samples.finding import open_images
from ncnnkit.samples.given import as_samples
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.sets import open_image_sets
from ncnnkit.samples.stream import in_memory
from ncnnkit.source import open_model
from ncnnkit.source.opening import as_used, choose_preprocess

Array = NDArray[Any]
LEFT, RIGHT = InputSpec("left", (3, 8, 10)), InputSpec("right", (3, 8, 10))
PLAIN = Preprocess(resize=(8, 10))
RATE = 8000


def saved(
    path: Path, inputs: Mapping[str, tuple[type, tuple[int, ...]]], nodes: Sequence[Any], **weights: Array
) -> str:
    """An ONNX file with the output ``y``."""
    ins = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(d)), s)
        for n, (d, s) in inputs.items()
    ]
    out = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", ins, out, [numpy_helper.from_array(w, n) for n, w in weights.items()])
    onnx.save(onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ), path)  # fmt: skip
    return str(path)


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def stereo(folder: Path) -> str:
    """Two images go through the same convolution, and then through one of both."""
    nodes = [
        helper.make_node("Conv", ["left", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["right", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=1),
        helper.make_node("Relu", ["ab"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["c"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    images = dict.fromkeys(("left", "right"), (np.float32, (1, 3, 8, 10)))
    return saved(folder / "stereo.onnx", images, nodes, w=random(8, 3, 3, 3), v=random(6, 16, 3, 3, seed=1))


def pairs(folder: Path, count: int, sides: Sequence[str] = ("left", "right"), end: str = "png") -> None:
    for number, side in enumerate(sides):
        (folder / side).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng([number, index]).integers(0, 256, (9, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{index:02}.{end if number else 'png'}")


def recordings(folder: Path, count: int, samples: int = 1000, rate: int = RATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        wave = np.random.default_rng(index).normal(0, 8000, samples).clip(-32768, 32767)
        wavfile.write(folder / f"{index:02}.wav", rate, wave.astype(np.int16))
    return folder


def judged(document: Run, *, least_db: float) -> None:
    """Check that fp32 is exact, int8 is close, and every variant was measured."""
    assert {variant.status for variant in document.variants} == {"ok"}
    found = {variant.precision: variant.accuracy for variant in document.variants}
    assert document.conversion.sqnr_db is None or document.conversion.sqnr_db > 60
    int8 = found["int8"]
    assert int8 is not None
    assert int8.sqnr_db is not None
    assert int8.sqnr_db > least_db


QUICK: dict[str, Any] = {
    "seconds": 0.05,
    "rounds": 1,
    "backends": ("cpu",),
    "precisions": ("fp32", "int8"),
    "effort": "fast",
}


# ---------------------------------------------------------------------------------------------------------- pairs


def test_pairs_of_two_folders_are_matched_by_name(tmp_path: Path) -> None:
    pairs(tmp_path, 3, end="jpg")
    (tmp_path / "left/alone.png").write_bytes((tmp_path / "left/00.png").read_bytes())
    sources = {"right": str(tmp_path / "right"), "left": str(tmp_path / "left")}
    found = open_images(sources, PLAIN, [LEFT, RIGHT])
    assert found.names == ("00.png", "01.png", "02.png")
    assert found.skipped == (("alone.png", "has no file of the same name for input 'right'"),)
    left, right = found[1]
    assert np.array_equal(left, PLAIN.apply(Image.open(tmp_path / "left/01.png")))
    assert np.array_equal(right, PLAIN.apply(Image.open(tmp_path / "right/01.jpg")))
    place = found.placement(1)
    assert place is not None
    assert place.image == (9, 12)
    assert found.pictures


def test_each_input_gets_images_of_its_own_size(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    specs = [LEFT, InputSpec("right", (3, 4, 4))]
    found = open_images({name: str(tmp_path / name) for name in ("left", "right")}, PLAIN, specs)
    assert [array.shape for array in found[0]] == [(3, 8, 10), (3, 4, 4)]
    other, small = (Preprocess(resize=size, divisor=1.0) for size in ((8, 10), (4, 4)))
    pixels = small.apply(Image.open(tmp_path / "right/01.png"))
    assert np.array_equal(found.prepared(other)[1][1], pixels)


def test_tiles_of_a_pair_are_matched(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    specs = [InputSpec("left", (3, 9, 6)), InputSpec("right", (3, 9, 6))]
    how = Preprocess(crop=Tiles())
    found = open_images({name: str(tmp_path / name) for name in ("left", "right")}, how, specs)
    assert found.names == ("00.png[0]", "00.png[1]", "01.png[0]", "01.png[1]")
    right = np.asarray(Image.open(tmp_path / "right/01.png"))[:, 6:].transpose(2, 0, 1) / np.float32(255)
    assert found[3][1] == pytest.approx(right)
    calibration, evaluation = found.split(every=2)
    assert (calibration.names, evaluation.names) == (found.names[:2], found.names[2:])


def test_a_table_names_the_files_of_each_sample(tmp_path: Path) -> None:
    pairs(tmp_path, 3)
    np.save(tmp_path / "shift.npy", np.array([1, 2, 3, 4]))
    lines = [
        "right, note, left,shift",
        "right/00.png,x,left/02.png,shift.npy",
        "",
        '"right/01.png",,left/02.png,shift.npy',
    ]
    (tmp_path / "list.csv").write_text("\ufeff" + "\r\n".join(lines))
    found = open_images(tmp_path / "list.csv", PLAIN, [LEFT, RIGHT, InputSpec("shift", (4,))])
    assert found.names == ("right/00.png", "right/01.png"), "the left images are the same"
    left, right, shift = found[1]
    assert np.array_equal(left, PLAIN.apply(Image.open(tmp_path / "left/02.png")))
    assert np.array_equal(right, PLAIN.apply(Image.open(tmp_path / "right/01.png")))
    assert shift.tolist() == [1, 2, 3, 4]


def test_a_table_for_one_input_is_a_list(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    (tmp_path / "list.csv").write_text("class,left\ncat,left/01.png\ndog,left/00.png\n")
    found = open_images(tmp_path / "list.csv", PLAIN, [LEFT])
    assert found.names == ("left/01.png", "left/00.png")
    assert np.array_equal(found[1][0], PLAIN.apply(Image.open(tmp_path / "left/00.png")))


def test_a_single_file_goes_with_every_sample_and_arrays_go_in_order(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", random(3, 3, 8, 10))
    np.save(tmp_path / "state.npy", np.ones((1, 5), np.int64))
    pairs(tmp_path, 3)
    sources = {"left": "rows.npy", "right": "right", "state": "state.npy"}
    specs = [LEFT, RIGHT, InputSpec("state", (5,), "int64")]
    found = open_images({name: str(tmp_path / path) for name, path in sources.items()}, PLAIN, specs)
    assert len(found) == 3
    assert np.array_equal(found[2][0], random(3, 3, 8, 10)[2])
    assert np.array_equal(found[2][1], PLAIN.apply(Image.open(tmp_path / "right/02.png")))
    assert found[0][2].tolist() == [1] * 5


def wrong_sources(folder: Path) -> dict[str, tuple[Any, str]]:
    """A table or sources -> the error."""
    pairs(folder, 2)
    pairs(folder / "other", 2, ("left",))
    for index in range(2):
        (folder / f"other/left/{index:02}.png").rename(folder / f"other/left/x{index}.png")
    np.save(folder / "rows.npy", random(5, 3, 8, 10))
    left, right = str(folder / "left"), str(folder / "right")
    tables = {
        "no column": ("left,rigth\nleft/00.png,right/00.png", r"list\.csv:1: has no column 'right' .*left,right"),
        "no file": ("left,right\nleft/00.png,r/9.png", r"list\.csv:2: no such file: r/9\.png \(column right\)"),
        "short line": ("left,right\n\nleft/00.png\n", r"list\.csv:3: a cell is empty \(column right\)"),
        "long name": ("left,right\n" + "x" * 5000 + ",y", r"list\.csv:2: no such file: x{200} \(column left\)"),
        "long cell": ("left,right\n" + "x" * 200_000, r"list\.csv:2: is not a table: field larger"),
        "no line": ("left,right\n", "list.csv: contains no samples"),
    }  # fmt: skip
    return {
        **tables,
        "misspelt": ({"left": left, "rihgt": right}, r"the network has no input 'rihgt' \(its inputs: left, right\)"),
        "missing": ({"left": left}, "no source is given for the input 'right'"),
        "no partners": (
            {"left": str(folder / "other/left"), "right": right},
            r"no files of the same name; the first are x0\.png and 00\.png \(give a \.csv",
        ),
        "counts": (
            {"left": str(folder / "rows.npy"), "right": right}, r"numbers of samples \(left: 5, right: 2\)"
        ),
        "one folder": (
            left, r"images cannot feed a network with 2 inputs \(left, right\) \(--images left=FOLDER --images"
        ),
    }  # fmt: skip


@pytest.mark.parametrize("case", ["no column", "no file", "short line", "no line", "misspelt", "missing", "no partners",
                                  "counts", "one folder"])  # fmt: skip
def test_faults_of_several_sources_are_reported(case: str, tmp_path: Path) -> None:
    source, message = wrong_sources(tmp_path)[case]
    if isinstance(source, str) and "\n" in source:
        (tmp_path / "list.csv").write_text(source)
        source = tmp_path / "list.csv"
    with pytest.raises(ImageError, match=message):
        open_images(source, PLAIN, [LEFT, RIGHT])


def test_sources_on_the_command_line_and_in_recipes(tmp_path: Path) -> None:
    assert to_sources(["calib=1/"]) == "calib=1/"
    assert to_sources(["left=a=b/", "right=c/"]) == {"left": "a=b/", "right": "c/"}
    for texts, message in ((["left=a", "b"], "--images 'b' is not NAME=FOLDER"), (["l=a", "l=b"], "two sources")):
        with pytest.raises(RecipeError, match=message):
            to_sources(texts)
    recipe = make_recipe({"model": "m.onnx", "images": {"left": "a/", "right": "b/"}})
    save_recipe(recipe, tmp_path / "recipe.toml")
    assert make_recipe({}, tmp_path / "recipe.toml") == recipe
    with pytest.raises(RecipeError, match="images must be a path, or a table of paths"):
        make_recipe({"model": "m.onnx", "images": ["a/", "b/"]})


def test_a_network_for_pairs_is_made_measured_and_drawn(tmp_path: Path) -> None:
    pairs(tmp_path, 20)
    model, out = stereo(tmp_path), tmp_path / "out"
    words = [
        "run",
        model,
        "--images",
        f"left={tmp_path / 'left'}",
        "--images",
        f"right={tmp_path / 'right'}",
        "--out",
        out,
    ]
    options = ["--mean", "0.5", "--std", "0.25", "--precision", "fp32,int8", "--backend", "cpu", "--seconds", "0.05"]
    said = CliRunner().invoke(app, [*map(str, words), *options, "--rounds", "1", "--effort", "fast"])
    assert said.exit_code == 0, said.output
    document = load_run(out)
    judged(document, least_db=20)
    assert (document.images.calibration, document.images.evaluation) == (16, 4)
    assert document.images.source == f"left={tmp_path / 'left'}, right={tmp_path / 'right'}"
    assert document.preprocess is not None
    assert document.preprocess.mean == (0.5, 0.5, 0.5)
    assert document.preprocess_origin == "mean, std as given"

    # The single steps take the same sources.
    sides = [f"--images={name}={tmp_path / name}" for name in ("left", "right")]
    fp32 = out / "stereo-fp32.param"
    steps = [
        ["quantize", fp32, "-o", tmp_path / "q.param", *sides, "--effort", "fast", "--target", "x86"],
        ["calibrate", fp32, "-o", tmp_path / "t.table", *sides],
        ["compare", fp32, tmp_path / "q.param", *sides],
        ["bench", tmp_path / "q.param", "--seconds", "0.1", "--backend", "cpu"],
    ]
    for step in steps:
        result = CliRunner().invoke(app, [str(word) for word in step])
        assert result.exit_code == 0, result.output


def test_options_for_images_are_refused_where_all_samples_are_arrays(tmp_path: Path) -> None:
    source = open_model(stereo(tmp_path))
    np.savez(tmp_path / "x.npz", left=random(5, 3, 8, 10), right=random(5, 3, 8, 10, seed=1))
    preprocess, origin = choose_preprocess(source, "", {"mean": 0.5})
    images, evaluation = open_image_sets(str(tmp_path / "x.npz"), "", preprocess, source.inputs, 99, lambda *_: None)
    with pytest.raises(RecipeError, match="mean, std cannot be given to a network with 2 inputs that take arrays"):
        as_used(preprocess, origin, images, evaluation)
    assert as_used(*choose_preprocess(source, "", {}), images)[0] is None


def test_python_callers_may_give_paths_by_name(tmp_path: Path) -> None:
    pairs(tmp_path, 3)
    sides = {"in0": tmp_path / "left", "in1": tmp_path / "right"}  # a network in memory only has ncnn's names
    samples = as_samples(sides, nk.convert(stereo(tmp_path)).graph, PLAIN)
    assert [column.shape for column in in_memory(samples)] == [(3, 3, 8, 10)] * 2


# ----------------------------------------------------------------------------------------------------- recordings

SOUND = InputSpec("x", (1, 400))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [-1, 0, 127 / 128]),
        (np.array([-32768, 16384], np.int16), [-1, 0.5]),
        (np.array([-(2**31), 2**30], np.int32), [-1, 0.5]),
        (np.array([-0.25, 1.5], np.float32), [-0.25, 1.5]),
    ],
    ids=["8 bits", "16 bits", "32 bits", "floats"],
)
def test_samples_are_from_minus_one_to_one(values: Array, expected: list[float], tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, values)
    (sample,) = open_images(tmp_path / "a.wav", None, [InputSpec("x", (1, 1, 4))])[0]
    assert sample.tolist() == [[[*expected, *[0] * (4 - len(expected))]]]


def test_24_bits(tmp_path: Path) -> None:
    frames = b"".join(int(value).to_bytes(3, "little", signed=True) for value in (-(2**23), 2**22))
    header = b"fmt " + (16).to_bytes(4, "little") + b"\x01\0\x01\0" + (RATE).to_bytes(4, "little")
    header += (3 * RATE).to_bytes(4, "little") + b"\x03\0\x18\0" + b"data" + len(frames).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(b"RIFF" + (36 + len(frames)).to_bytes(4, "little") + b"WAVE" + header + frames)
    assert open_images(tmp_path / "a.wav", None, [InputSpec("x", (2,))])[0][0].tolist() == [-1, 0.5]


def test_recordings_are_cut_into_windows_that_stay_in_one_set(tmp_path: Path) -> None:
    found = open_images(recordings(tmp_path / "w", 3), None, [SOUND])
    assert found.names == tuple(f"{i:02}.wav[{w}]" for i in range(3) for w in range(2)), "200 samples are left over"
    _, values = wavfile.read(tmp_path / "w/01.wav")
    assert np.array_equal(found[3][0], values[None, 400:800].astype(np.float32) / 32768)
    calibration, evaluation = found.split(every=3)
    assert (calibration.names, evaluation.names) == (found.names[:4], found.names[4:])
    assert (found.rates, found.pictures, found.placement(0)) == ({RATE}, False, None)


def test_a_file_of_another_format_is_no_recording(tmp_path: Path) -> None:
    """41 bytes of FLAC may say that they hold 2^36 samples."""
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.zeros(4000, np.int16), RATE, format="FLAC")
    with pytest.raises(ImageError, match=r"is no \.wav file, but FLAC"):
        open_images(tmp_path / "a.wav", None, [InputSpec("x", (100,))])


def test_silent_and_equal_windows_of_different_files_are_copies_only_if_the_files_are(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "w", 2)
    (folder / "copy.wav").write_bytes((folder / "00.wav").read_bytes())
    assert len(open_images(folder, None, [SOUND]).distinct()) == 4


def test_recordings_that_do_not_fit(tmp_path: Path) -> None:
    folder = recordings(tmp_path / "w", 2)
    wavfile.write(folder / "stereo.wav", RATE, np.zeros((500, 2), np.int16))
    (folder / "torn.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    found = open_images(folder, None, [SOUND])
    assert [name for name, _ in found.skipped] == ["stereo.wav", "torn.wav"]
    assert found.skipped[0][1] == "has 2 channels, but input 'x' takes 1"
    assert open_images(folder / "stereo.wav", None, [InputSpec("x", (2, 250))])[1][0].shape == (2, 250)
    with pytest.raises(ImageError, match="a recording cannot feed input 'x', which takes 3x8x8"):
        open_images(folder, PLAIN, [InputSpec("x", (3, 8, 8))])
    recordings(tmp_path / "other", 1, rate=16000)
    (folder / "fast.wav").write_bytes((tmp_path / "other/00.wav").read_bytes())
    with pytest.raises(ImageError, match=r"fast\.wav has 16000 samples a second, and 00\.wav has 8000: .* resample"):
        open_images(folder, None, [SOUND])
    with pytest.raises(ImageError, match="the recordings have 8000 and 16000 samples a second"):
        as_used(None, "", found, open_images(tmp_path / "other", None, [SOUND]))


def test_a_network_for_recordings_is_made_and_measured(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[8]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"]),
    ]
    sound = {"x": (np.float32, (1, 1, 400))}
    model = saved(tmp_path / "sound.onnx", sound, nodes, w=random(8, 1, 16), v=random(8 * 49, 4, seed=1))
    folder = recordings(tmp_path / "w", 12)
    recipe = Recipe(model, images=str(folder), **QUICK)
    document = pipeline.run(recipe, tmp_path / "out")
    judged(document, least_db=15)
    assert document.preprocess_origin == "none: the inputs are recordings with 8000 samples a second, from -1 to 1"
    assert (document.images.calibration, document.images.evaluation) == (20, 4)


# ------------------------------------------------------------------------------------------------------ token ids


def transformer(folder: Path) -> str:
    """A layer of self-attention over 8 of 20 tokens, with a mask, and the mean of its outputs."""
    size = 16
    weights = {name: random(size, size, seed=seed) for seed, name in enumerate(("q", "k", "v", "o"), 1)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        *(helper.make_node("MatMul", ["e", name], [f"e{name}"]) for name in "qkv"),
        helper.make_node("Transpose", ["ek"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["eq", "kt"], ["raw"]),
        helper.make_node("Cast", ["mask"], ["seen"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "seen"], ["unseen"]),
        helper.make_node("Mul", ["unseen", "far"], ["penalty"]),
        helper.make_node("Unsqueeze", ["penalty", "axis"], ["penalty3"]),
        helper.make_node("Add", ["raw", "penalty3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "ev"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "o"], ["projected"]),
        helper.make_node("Add", ["projected", "e"], ["residual"]),
        helper.make_node("ReduceMean", ["residual"], ["y"], axes=[1], keepdims=0),
    ]
    return saved(
        folder / "tokens.onnx", {"ids": (np.int64, (1, 8)), "mask": (np.int64, (1, 8))}, nodes,
        table=random(20, size) * 4, one=np.array(1, np.float32), far=np.array(np.finfo(np.float32).min),
        axis=np.array([1], np.int64), **weights,
    )  # fmt: skip


def test_token_ids_and_masks(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    lengths = draws.integers(2, 9, 20)
    mask = (np.arange(8) < lengths[:, None]).astype(np.int64)
    ids = draws.integers(1, 20, (20, 8)) * mask
    np.savez(tmp_path / "samples.npz", ids=ids, mask=mask)
    wanted = {**QUICK, "precisions": ("fp32", "bf16", "int8")}
    recipe = Recipe(transformer(tmp_path), images=str(tmp_path / "samples.npz"), task="embedding", **wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the mask's factor is the lowest number of fp32
        document = pipeline.run(recipe, tmp_path / "out")
    judged(document, least_db=15)
    bf16 = document.variants[1].accuracy
    assert bf16 is not None
    assert bf16.sqnr_db is not None
    assert bf16.sqnr_db > 30
    assert document.preprocess_origin == "none: the inputs are arrays"
    fp32 = document.variants[0].accuracy
    assert fp32 is not None
    assert fp32.figures()["recall1"] == 1

    # The same from a folder for each input.
    for name, rows in (("ids", ids), ("mask", mask)):
        (tmp_path / name).mkdir()
        for index, row in enumerate(rows):
            np.save(tmp_path / name / f"{index:02}.npy", row)
    specs = open_model(recipe.model).inputs
    one, other = (
        in_memory(open_images(source, None, specs))
        for source in ({name: str(tmp_path / name) for name in ("ids", "mask")}, tmp_path / "samples.npz")
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other))
