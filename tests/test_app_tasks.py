"""How apps decode outputs: C++ does the same as Python, and Python the same as ncnnkit's own tasks."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import app_lines
import numpy as np
import pytest
from app_parts import app_part
from ncnn_library import build, run
from networks import network
from numpy.typing import NDArray
from PIL import Image

from ncnnkit.app import make_app
from ncnnkit.app.examples import answer
from ncnnkit.app.facts import facts_of
from ncnnkit.app.models import shipment
from ncnnkit.app.python_parts.selftest import read_example
from ncnnkit.app.python_tasks.common import Tile
from ncnnkit.artifact import Artifact, Tensor
from ncnnkit.device.session import Session
from ncnnkit.model.graph import Graph
from ncnnkit.onboard.picture import Fit, Placement, Tiles
from ncnnkit.record.examples import Example
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.presets import PRESETS
from ncnnkit.tasks import Decoder, Table, decode, presets
from ncnnkit.tasks.decoder import Grid
from ncnnkit.tasks.detection import Detection

Array = NDArray[Any]
SIZE = (64, 64)
LETTERBOX = Placement((90, 120), (48, 64), 8, 0, SIZE)
TILES = [Placement((64, 100), (64, 100), 0, left, SIZE) for left in (0, -18, -36)]
WHOLE, SQUEEZED = Placement(SIZE, SIZE, 0, 0, SIZE), Placement((30, 200), SIZE, 0, 0, SIZE)


@dataclass(frozen=True)
class Case:
    """A task, the shapes of its outputs, and the range of their random values."""

    task: str
    decoder: Decoder | None
    shapes: tuple[tuple[int, ...], ...]
    low: float = -3.0
    high: float = 3.0


def columns(decoder: Decoder, table: Table) -> int:
    return sum(decoder.width(part) for part in table.parts)


def detector(decoder: Decoder, task: str = "detection", rows: int = 40, **numbers: float) -> Case:
    """A detector with one box for each anchor, or with ``rows`` boxes."""
    shapes: list[tuple[int, ...]] = []
    levels: dict[Any, int] = {}
    for table in decoder.tables:
        level = levels[table.parts] = levels.get(table.parts, -1) + 1
        wide = columns(decoder, table)
        if table.parts == ("prototypes",):
            shapes.append((wide, 16, 16))
            continue
        if table.parts == ("priors",):
            shapes.append((2, rows * 4))
            continue
        grid = decoder.anchors[level] if level < len(decoder.anchors) else Grid(1, rows, (1, 1), (0, 0), ((1, 1),))
        each = len(grid.sizes)
        levelled = sum(other.parts == table.parts for other in decoder.tables) > 1
        count = grid.count if levelled or not decoder.anchors else sum(g.count for g in decoder.anchors)
        shapes.append(
            {
                "rows": (count, wide), "columns": (wide, count), "maps": (each * wide, grid.rows, grid.columns),
                "planes": (wide * each, grid.rows, grid.columns), "stacks": (each, grid.rows, grid.columns, wide),
            }[table.layout]
        )  # fmt: skip
    return Case(task, decoder, tuple(shapes), **numbers)


TWO = (Table(0, ("boxes",)), Table(1, ("scores",)))
POINTS = (*TWO, Table(2, ("keypoints",)))
LEVELS = tuple(Table(level, ("boxes", "scores")) for level in range(3))
SSD = Decoder(
    "boxes", (Table(0, ("boxes",)), Table(1, ("scores",)), Table(2, ("priors",))), 3, boxes="deltas", background=0,
    score_threshold=0.3, iou_threshold=0.45, candidates=7, group="class", multi_label=True, most=12, scores="softmax",
)  # fmt: skip
YOLOV3 = Decoder(
    "boxes", (Table(0, ("boxes", "objectness", "scores"), "maps"),), 3, boxes="yolov3", combination="ncnn",
    scores="sigmoid", first_label=1, anchors=(Grid(4, 4, (0.25, 0.25), (0.125, 0.125), ((0.2, 0.3), (0.5, 0.4))),),
    score_threshold=0.4, iou_threshold=0.45, agnostic=True, scale=(64.0, 64.0),
)  # fmt: skip
GRID = presets.pyramid(SIZE)
CASES = {
    "ultralytics": detector(presets.ultralytics(3), low=0, high=40),
    "poses": detector(presets.ultralytics(1, (4, 3)), "pose", low=0, high=40),
    "masks": detector(presets.with_masks(presets.ultralytics(2), 4), "instances", low=-8, high=40),
    "logits": detector(presets.ultralytics_logits(SIZE, 2, LEVELS)),
    "end_to_end": detector(presets.found_rows(), low=0, high=2),
    "yolov5": detector(presets.yolov5(3), low=0, high=30),
    "yolov5_maps": detector(presets.yolov5_maps(SIZE, 2)),
    "yolov5_stacks": detector(presets.yolov5_maps(SIZE, 2, layout="stacks")),
    "planes": detector(replace(presets.yolov5_maps(SIZE, 2), tables=tuple(
        Table(level, ("boxes", "objectness", "scores"), "planes") for level in range(3)))),
    "yolox": detector(presets.yolox(SIZE, 2), low=-1, high=1.5),
    "nanodet": detector(presets.nanodet(SIZE, 2, LEVELS, (8, 16, 32), plus=True), low=0, high=1),
    "scrfd": detector(presets.scrfd(SIZE, POINTS), "pose", low=-2, high=2),
    "retinaface": detector(presets.retinaface(SIZE, POINTS), "pose", low=0, high=1),
    "mtcnn": detector(presets.mtcnn_proposals((20, 20), TWO), low=0, high=1),
    "onet": detector(presets.mtcnn_crop(SIZE, POINTS), "pose", low=0, high=1),
    "ssd": detector(SSD, low=0.1, high=3),
    "yolov3": detector(YOLOV3),
    "levels": detector(
        Decoder("boxes", LEVELS, 2, boxes="distances", scores="sigmoid", anchors=GRID, candidates=5, group="level",
                score_threshold=0.3, iou_threshold=0.5, most_per_class=4, combination="root")),
    "layouts": detector(Decoder(
        "boxes", (Table(0, ("boxes", "other")), Table(1, ("scores",), "columns")), 3, scores="sigmoid",
        iou_threshold=0.5, score_threshold=0.6), low=0, high=40),
    "grids": detector(replace(YOLOV3, tables=(
        Table(0, ("boxes", "objectness"), "planes"), Table(1, ("scores",), "stacks")), scores="softmax")),
    "segmentation": Case("segmentation", None, ((5, 32, 32),)),
    "last_axis": Case("segmentation:axis=2", None, ((64, 64, 3),)),
    "one_map": Case("segmentation:axis=-1,threshold=0.4", None, ((1, 16, 16),)),
    "landmarks": Case("landmarks", None, ((1, 10),), 0, 64),
    "apart": Case("landmarks:apart=1,dims=3", None, ((15,),), 0, 64),
    "points": Case("landmarks", Decoder(
        "points", (Table(0, ("keypoints",)),), keypoints=(5, 2), origin="corner", scale=(2.0, 0.5),
        anchors=(Grid(1, 1, SIZE, (32, 32), ((64, 64),)),)), ((10,),), 0, 1),
    "image": Case("image", None, ((3, 128, 128),), -0.2, 1.2),
    "grey": Case("image:low=-1", None, ((1, 64, 64),), -1, 1),
    "text": Case("text", Decoder("ctc", (Table(0),), 5, axis=-1, alphabet=("", "a", "é", '"', "\\")), ((30, 5),)),
    "steps": Case("text:axis=0,blank=2", Decoder("ctc", (Table(0),), 5, scores="softmax"), ((5, 30),)),
    "embedding": Case("embedding", None, ((1, 32),)),
    "classification": Case("classification", None, ((2,),)),
    "tensor": Case("tensor", None, ((3, 4, 5), (7,))),
}  # fmt: skip
WHOLES = tuple(f"{name}_whole" for name in ("ultralytics", "poses", "masks", "ssd", "levels", "segmentation", "image"))
"""Cases for which the app is also made for images without tiles."""
PLACES = {"letterbox": [LETTERBOX], "whole": [WHOLE], "squeezed": [SQUEEZED], "tiles": TILES}


def model(case: Case) -> Artifact:
    """A network with the same number of outputs, but of other shapes. Only the card matters here."""
    count = len(case.shapes)
    names = [f"o{i}" for i in range(count)]
    splits = [] if count == 1 else [f"Split split 1 {count} in0 {' '.join(f's{i}' for i in range(count))}"]
    lines = [f"ReLU r{i} 1 1 {'in0' if count == 1 else f's{i}'} {name}" for i, name in enumerate(names)]
    graph: Graph = network("\n".join(["Input in0 0 1 in0 0=64 1=64 2=3", *splits, *lines]))
    outputs = tuple(Tensor(name, shape) for name, shape in zip(names, case.shapes))
    return replace(Artifact.made(graph, "fp32", decoder=case.decoder, task=case.task), outputs=outputs)


def outputs_of(case: Case, seed: int) -> list[Array]:
    """Random outputs. Columns of labels or corners have valid values."""
    rng = np.random.default_rng(seed)
    made = [rng.uniform(case.low, case.high, shape).astype(np.float32) for shape in case.shapes]
    if case.decoder is None:
        return made
    decoder = case.decoder
    for table, values in zip(decoder.tables, made):
        if table.layout == "columns" and "scores" in table.parts and case.high > 4:  # pixels; scores from 0 to 1
            values[4 : 4 + decoder.classes] = rng.random(values[4 : 4 + decoder.classes].shape)
            if "keypoints" in table.parts:
                values[4 + decoder.classes :] %= 64
        if table.parts == ("boxes", "objectness", "scores") and case.high > 4:
            values[:, 4:] = rng.random(values[:, 4:].shape)
        if "label" in table.parts:
            values[:, :4] = np.sort(rng.uniform(0, 64, (len(values), 2, 2)), 1).reshape(-1, 4)
            values[:, 5] = rng.integers(0, 3, len(values))
        if table.parts == ("priors",):
            low = rng.uniform(0, 40, (values.shape[1] // 4, 2))
            values[0] = np.concatenate([low, low + rng.uniform(5, 24, low.shape)], 1).reshape(-1)
            values[1] = 0.2
    return made


def facts(case: Case) -> dict[str, Any]:
    """The facts as the Python app reads them."""
    return dict(json.loads(json.dumps(asdict(facts_of(shipment(model(case)))))))


def answers(case: Case, tiles: list[Tile]) -> tuple[dict[str, Any], Any]:
    """The answer of the Python app, and its image."""
    known = facts(case)
    module = importlib.import_module(f"ncnnkit.app.python_tasks.{known['task']['kind']}")
    found = module.answer(tiles, known)
    assert module.lines(found, ("first", "second"), 5)
    return json.loads(json.dumps(module.describe(found, ("first", "second"), 5))), module.picture(found)


def samples(case: Case) -> Iterator[tuple[str, list[Tile]]]:
    for place, tiles in PLACES.items():
        kind = facts(case)["task"]["kind"]
        if len(tiles) == 1 or importlib.import_module(f"ncnnkit.app.python_tasks.{kind}").JOINS_TILES:
            for seed in range(3):
                yield f"{place} {seed}", [Tile(outputs_of(case, seed + 10 * i), at) for i, at in enumerate(tiles)]


def line(tiles: list[Tile], folder: Path) -> str:
    words: list[Any] = [folder / "picture.png", len(tiles)]
    for number, tile in enumerate(tiles):
        p = tile.place
        words += [*p.resized, p.top, p.left, *p.input, *p.image, len(tile.outputs)]
        for index, values in enumerate(tile.outputs):
            squeezed = values[0] if values.ndim > 1 and len(values) == 1 else values  # ncnn drops axes of length 1
            np.save(folder / f"{number}-{index}.npy", squeezed)
            words += [folder / f"{number}-{index}.npy", squeezed.ndim, *squeezed.shape]
    return " ".join(map(str, words)) + "\n"


ANSWER = """
std::string answer(const std::vector<Tile>& tiles, const std::string& picture)
{
    std::vector<Part> parts;
    for (const Tile& tile : tiles)
        parts.push_back({tile.outputs, tile.place});
    const Prediction found = decode(parts);
    if (agreement(found, found) < 0.999)
        throw Failure("a prediction does not agree with itself");
    WRITTEN(picture);
    Json json;
    describe(found, {"first", "second"}TOP, json);
    return json.text();
}
"""
"""A case of tests/app/decode.cpp."""
OWN = ("preprocess.h", "model.h", "task.h", "decoder.h", "draw.h", "draw.cpp", "task.cpp")
"""Files that differ between apps."""


def code_of(name: str, app: Path, folder: Path) -> str:
    """The decoding of an app, in a namespace."""
    folder.mkdir()
    own = [file for file in OWN if (app / "src" / file).is_file()]
    for file in own:  # equal headers would be included once
        (folder / file).write_text(f"// {name}\n{(app / 'src' / file).read_text()}")
    shutil.copy(app / "tests/task_test.cpp", folder)
    classes, pictures = "int top" in (folder / "task.h").read_text(), "Image image;" in (folder / "task.h").read_text()
    answer = ANSWER.replace("TOP", ", 5" if classes else "")
    answer = answer.replace("WRITTEN(picture)", "write_image(picture, found.image)" if pictures else "(void)picture")
    test = f'#define main unit_test\n#include "{folder}/task_test.cpp"\n#undef main\n'
    included = "".join(f'#include "{folder / file}"\n' for file in own)
    return f"namespace {name} {{\n{included}{answer}namespace of_test {{\n{test}}}\n}}\n"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with the decoding of all cases, most of them for images with tiles."""
    folder = tmp_path_factory.mktemp("tasks")
    code, rows = [], []
    for name in (*CASES, *WHOLES):
        made = model(CASES[name.removesuffix("_whole")])
        tiles = name in CASES and facts_of(shipment(made)).task.joins_tiles
        how = Preprocess(crop=Tiles(SIZE)) if tiles else Preprocess()
        make_app(replace(made, preprocess=how), folder / "app")
        code.append(code_of(name, folder / "app", folder / name))
        rows.append(f'{{"{name}", {{{name}::answer, {name}::of_test::unit_test}}}},\n')
    make_app(replace(model(CASES["masks"]), preprocess=Preprocess()), folder / "app", extras=("arrays",))
    table = f"const std::map<std::string, Case> kCases = {{\n{''.join(rows)}}};\n"
    (folder / "cases.inc").write_text("".join(code) + table)
    options = ["-DPROGRAM=decode", f"-DAPP={folder / 'app'}", f"-DCASES={folder / 'cases.inc'}", "-DCMAKE_BUILD_TYPE="]
    return build(Path(__file__).parent / "app", folder / "build", *options) / "decode"


@pytest.mark.app
@pytest.mark.slow  # it compiles C++
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*CASES, *WHOLES])
def test_decoding_in_c_equals_decoding_in_python(name: str, program: Path, tmp_path: Path) -> None:
    case = CASES[name.removesuffix("_whole")]
    for what, tiles in samples(case):
        if len(tiles) > 1 and name in WHOLES:
            continue
        said, picture = answers(case, tiles)
        found = json.loads(run(program, input=f"{name} {line(tiles, tmp_path)}"))
        same(found, said, f"{name} {what}")
        if picture is not None:
            with Image.open(tmp_path / "picture.png") as image:
                drawn = np.asarray(image).astype(int)
            assert drawn.shape == picture.shape, what
            wrong = np.abs(drawn - picture) > (1 if case.task.startswith("image") else 0)
            # If a sum of products is nearly zero, its sign depends on the order of adding.
            assert wrong.mean() <= (1e-3 if case.task == "instances" else 0), what


def same(ours: Any, theirs: Any, what: str) -> None:
    """Check that two answers have equal texts and similar numbers: pixels within a hundredth."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), what
        for key in theirs:
            same(ours[key], theirs[key], f"{what} {key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), what
        for one, other in zip(ours, theirs):
            same(one, other, what)
    elif isinstance(theirs, float):
        assert math.isclose(
            ours, theirs, rel_tol=1e-5, abs_tol=0.005 if what[-2:] in ("x1", "y1", "x2", "y2") else 1e-5
        ), (what, ours, theirs)
    else:
        assert ours == theirs, what


@pytest.mark.app
@pytest.mark.slow  # it compiles the app
@pytest.mark.timeout(900)
def test_a_detector_on_images_of_many_sizes(tmp_path: Path) -> None:
    """The complete apps at fp32 find the same boxes, within a hundredth of a pixel."""
    graph = network(
        """
        Input       in0 0 1 in0 0=64 1=64 2=3
        Convolution c1  1 1 in0 b1 0=8 1=8 3=8 5=1 6=1536 9=1
        Convolution c2  1 1 b1 b2 0=7 1=1 5=1 6=56
        Reshape     r   1 1 b2 out0 0=64 1=7
        """
    )
    table = (Table(0, ("boxes", "scores"), "columns"),)
    decoder = replace(presets.yolox(SIZE, 3, (8,)), tables=table, scores="sigmoid", score_threshold=0.6)
    how = replace(PRESETS["yolo"].fitted(*SIZE), std=(1.0,), divisor=1.0)
    made = Artifact.made(
        graph, "fp32", decoder=decoder, task="detection", preprocess=how, labels=("cat", "dog", "red bus")
    )
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(200):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(500), 2)))
        ramp = np.linspace(0, 255, width)[None, :, None] + rng.normal(0, 60, (height, width, 3))
        Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    for lang in ("cpp", "python"):
        make_app(made, tmp_path / lang, lang=lang)
    build(tmp_path / "cpp", tmp_path / "build")
    run("ctest", "--test-dir", tmp_path / "build")
    files = [tmp_path / f"cpp/models/model{ending}" for ending in (".param", ".bin")]
    said = [json.loads(row) for row in run(tmp_path / "build/infer", *files, folder, "--json").splitlines()]
    found = {row["input"]: row["boxes"] for row in said if "boxes" in row}
    assert len(found) == 200
    inputs, task = app_part(tmp_path / "python", "inputs"), app_part(tmp_path / "python", "task")
    known = json.loads((tmp_path / "python/infer.json").read_text())
    total = 0
    with Session(made, precision="fp32", threads=1) as net:
        for path, boxes in found.items():
            given = inputs.read_inputs({"in0": Path(path)}, known)
            (place,) = given.places
            outputs = [np.asarray(net.run(*given.tiles[0]))]
            expected = task.describe(task.answer([Tile(outputs, place)], known), made.labels, 5)["boxes"]
            assert [(row["label"], row["index"]) for row in boxes] == [(r["label"], r["index"]) for r in expected], path
            for ours, theirs in zip(boxes, expected):
                corners = [[row[key] for key in ("x1", "y1", "x2", "y2")] for row in (ours, theirs)]
                np.testing.assert_allclose(corners[0], corners[1], atol=0.01, err_msg=path)
                assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
            total += len(boxes)
    assert total > 500


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.decoder and case.decoder.kind == "boxes"]
)
def test_boxes_in_the_app_are_those_of_the_task(name: str) -> None:
    """If the image is the input itself, the boxes are those of ncnnkit, clipped to the image."""
    case = CASES[name]
    several = 0
    for seed in range(3):
        outputs = outputs_of(case, seed)
        purpose = model(case).purpose
        assert isinstance(purpose, Detection)
        expected: Any = decode(replace(purpose.decoder, score_threshold=purpose.threshold), outputs)
        corners = np.clip(expected.xyxy, 0, 64)
        kept = (corners[:, 2:] > corners[:, :2]).all(1)
        said, mask = answers(case, [Tile(outputs, WHOLE)])
        found = [[row[key] for key in ("x1", "y1", "x2", "y2")] for row in said["boxes"]]
        np.testing.assert_allclose(np.reshape(found, (-1, 4)), corners[kept], atol=1e-4)
        assert [row["index"] for row in said["boxes"]] == expected.labels[kept].tolist()
        assert [row["label"] for row in said["boxes"][:1]] == [
            ("first", "second")[i] if i < 2 else f"class {i}" for i in expected.labels[kept].tolist()[:1]
        ]
        several += len(found)
        if expected.masks is not None:
            best = expected.masks[kept][0].repeat(4, 0).repeat(4, 1)
            np.testing.assert_array_equal(mask == 1, best)
    assert several > 1, "the case shows nothing"


def test_a_task_that_a_user_wrote_prints_numbers() -> None:
    known = facts(Case("my.tasks:Defects", None, ((3,),)))
    assert known["task"]["kind"] == "tensor"


@pytest.mark.parametrize("name", ["segmentation", "last_axis", "one_map"])
def test_masks_have_the_classes_of_the_task(name: str) -> None:
    case = CASES[name]
    (outputs,) = outputs_of(case, 0)
    purpose = model(case).purpose
    assert purpose is not None
    classes = purpose.predict([outputs]).classes.reshape(-1, outputs.shape[1])
    scale = 64 // classes.shape[0]
    _, mask = answers(case, [Tile([outputs], WHOLE)])
    np.testing.assert_array_equal(mask, classes.repeat(scale, 0).repeat(scale, 1))
    _, cut = answers(case, [Tile([outputs], LETTERBOX)])
    assert cut.shape == LETTERBOX.image
    row, column = 45, 60  # the middle of the image is that of the input
    assert cut[row, column] == mask[32, 32]


def test_tiles_of_an_image_become_one_without_seams() -> None:
    """The tiles of one picture are blended to the same picture."""
    case = CASES["image"]
    whole = np.linspace(0, 1, 3 * 128 * 200, dtype=np.float32).reshape(3, 128, 200)
    tiles = [Tile([whole[:, :, -2 * at.left : -2 * at.left + 128]], at) for at in TILES]
    _, picture = answers(case, tiles)
    expected = (whole.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
    assert picture.shape == (128, 200, 3)
    np.testing.assert_allclose(picture.astype(int), expected, atol=1)


def test_a_letterboxed_image_is_cut_out() -> None:
    case = CASES["image"]
    values = np.zeros((3, 128, 128), np.float32)
    values[:, 16:112] = 1.0  # the image; the rest is padding
    _, picture = answers(case, [Tile([values], LETTERBOX)])
    assert picture.shape == (96, 128, 3)
    assert picture.min() == 255


def test_text_and_vectors_equal_the_tasks() -> None:
    case = CASES["text"]
    values = np.zeros((4, 5), np.float32)
    values[[0, 1, 2, 3], [1, 1, 0, 2]] = 0.75
    assert answers(case, [Tile([values], WHOLE)])[0] == {"text": "aé", "score": 0.75, "codes": [1, 2]}
    vector = np.zeros(32, np.float32)
    vector[:2] = 3, 4
    said, _ = answers(CASES["embedding"], [Tile([vector], WHOLE)])
    np.testing.assert_allclose(said["embedding"][:3], [0.6, 0.8, 0], atol=1e-7)


def test_points_equal_the_decoders() -> None:
    case = CASES["points"]
    assert case.decoder is not None
    (values,) = outputs_of(case, 1)
    expected: Any = decode(case.decoder, [values])
    said, _ = answers(case, [Tile([values], SQUEEZED)])
    points = expected.points * (200 / 64, 30 / 64)
    np.testing.assert_allclose([row[:2] for row in said["points"]], points, rtol=1e-5)


WORDS = {
    "boxes": "box", "segmentation": "picture", "image": "picture", "landmarks": "points", "text": "score",
    "embedding": "embedding", "classification": "score",
}  # fmt: skip
"""Kind of task -> the beginning of a line of an example."""


@pytest.mark.parametrize("name", CASES)
def test_the_python_app_agrees_with_its_examples(name: str, tmp_path: Path) -> None:
    """The agreement is 1, and lower with other outputs."""
    case = CASES[name]
    known = facts_of(shipment(model(case)))
    if known.task.kind == "tensor":
        return
    place = Placement((48, 64), (48, 64), 8, 0, (64, 64))
    module = importlib.import_module(f"ncnnkit.app.python_tasks.{known.task.kind}")
    agreed = []
    for seed in (0, 1):
        example = Example((("", b""),), tuple(outputs_of(case, seed)), place)
        lines = ["file 1.jpg", *answer(example, known, tmp_path / "1-answer.png")]
        (tmp_path / "1.txt").write_text("".join(f"{line}\n" for line in lines))
        found = module.answer([Tile(outputs_of(case, 0), place)], facts(case))
        agreed.append(module.agreement(found, read_example(tmp_path / "1.txt").found))
    assert agreed[0] == pytest.approx(1, abs=1e-6)
    assert agreed[1] < 0.95 or name == "classification"


@pytest.mark.parametrize("name", ["ultralytics", "text"])
def test_an_example_without_findings_is_compared_too(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    known = facts_of(shipment(model(case)))
    nothing = [np.zeros_like(each) for each in outputs_of(case, 0)]
    if name == "text":
        nothing[0][:, 0] = 1.0  # blank
    said = list(answer(Example(((".jpg", b""),), tuple(nothing), WHOLE), known, tmp_path / "a.png"))
    assert said == ["nothing"]
    (tmp_path / "1.txt").write_text("file 1.jpg\nnothing\n")
    wanted = read_example(tmp_path / "1.txt").found
    assert wanted
    module = importlib.import_module(f"ncnnkit.app.python_tasks.{known.task.kind}")
    for outputs, expected in ((nothing, 1), (outputs_of(case, 0), 0)):
        assert module.agreement(module.answer([Tile(outputs, WHOLE)], facts(case)), wanted) == expected


@pytest.mark.parametrize("name", CASES)
def test_examples_contain_the_findings_of_the_original(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    known = facts_of(shipment(model(case)))
    place = Placement((48, 64), (48, 64), 8, 0, (64, 64))
    found = list(answer(Example(((".jpg", b""),), tuple(outputs_of(case, 0)), place), known, tmp_path / "1-answer.png"))
    if known.task.kind == "tensor":
        assert found == []
        return
    assert {line.split()[0] for line in found} - {"picture"} <= {WORDS[known.task.kind]}
    assert found
    if "picture 1-answer.png" in found:
        with Image.open(tmp_path / "1-answer.png") as image:
            assert image.mode in ("L", "RGB")


MOST_LINES = {
    "detection": 2900, "pose": 2950, "instances": 2975, "segmentation": 2725, "classification": 2725,
    "landmarks": 2700, "image": 2650, "text": 2750, "embedding": 2475, "tensor": 2500,
}  # fmt: skip
"""Task -> the largest number of lines of C++ in its app, because the owner of an app reads all of them."""


@pytest.mark.parametrize("task", MOST_LINES)
def test_the_lines_that_an_apps_owner_reads(task: str) -> None:
    count = sum(map(len, app_lines.files_of(task).values()))
    assert MOST_LINES[task] - 100 < count <= MOST_LINES[task], "lower the bound if it became shorter"


def test_the_page_says_how_many_lines_an_app_has() -> None:
    page = (Path(__file__).parents[1] / "docs/app.md").read_text()
    assert app_lines.table() in page, "run scripts/app_lines.py, and put its table into docs/app.md"


def test_only_requested_parts_are_included(tmp_path: Path) -> None:
    made = replace(model(CASES["ultralytics"]), preprocess=Preprocess(resize=Fit("letterbox", size=(64, 64))))
    make_app(made, tmp_path / "app")
    make_app(made, tmp_path / "full", extras=("streams", "camera", "gpu", "arrays"))
    files = {name: {path.name for path in (tmp_path / name / "src").iterdir()} for name in ("app", "full")}
    assert files["full"] - files["app"] == {
        f"{name}.{ending}" for name in ("streams", "camera", "vulkan", "arrays") for ending in ("cpp", "h")
    }
    text = "".join(path.read_text() for path in (tmp_path / "app/src").iterdir()).lower()
    for word in ("gpu", "--top", "--tile", "--self-test", "softmax", "sigmoid", "anchor", "bicubic", "int8_type"):
        assert word not in text, word
    included = {
        path.name: {line.split('"')[1] for line in path.read_text().splitlines() if line.startswith('#include "')}
        for path in (tmp_path / "full/src").glob("*.h")
    }
    left = dict(included)
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert left == {}, "headers include each other in a circle"
