"""Files of strangers: pipes, devices, archives of gigabytes, models that name other files, names that control
a terminal. Each is refused in one line, without waiting, without running anything and without taking memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from app_parts import app_part
from networks import samples, small
from onnx import TensorProto, helper
from PIL import EpsImagePlugin, Image
from test_device import Shell

import ncnnkit as nk
from ncnnkit.app import make_app
from ncnnkit.app.verify import written_files
from ncnnkit.codec import encode
from ncnnkit.device import Board, crew
from ncnnkit.device.names import load_names
from ncnnkit.device.serving import CheckedChild
from ncnnkit.errors import DeviceError, FormatError, ImageError, ModelError, NcnnkitError, printable
from ncnnkit.onboard import SILENT, process
from ncnnkit.onboard.picture import eight_bits
from ncnnkit.onboard.process import available_cores, side_by_side
from ncnnkit.onboard.userfiles import open_regular, opened_image, read_bytes, read_npz, read_text
from ncnnkit.printing import PlainConsole
from ncnnkit.quantization.table import load_table
from ncnnkit.recipe import make_recipe
from ncnnkit.record.examples import Examples
from ncnnkit.record.folder import load_run
from ncnnkit.samples.finding import open_images, text_lines
from ncnnkit.samples.items import InputSpec, open_arrays
from ncnnkit.samples.pictures import _Turns
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.sounds import read_recording
from ncnnkit.samples.targets import LabelPicture
from ncnnkit.source import open_model
from ncnnkit.source.files import _TracedInputs, read_export
from ncnnkit.source.model import read_metadata
from ncnnkit.source.onnx_data import check_model, inline_external_data
from ncnnkit.source.weights import COMPRESSED, load_weights, only_tensors

ROOT = Path(__file__).parents[1]
X = InputSpec("x", (3, 8, 8))
RESIZE = Preprocess((8, 8))
DEMO = Path(nk.__file__).parent / "data" / "efficientnet-lite0.onnx"


@contextmanager
def soon(seconds: int = 30) -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def late(*_: object) -> None:
        raise AssertionError(f"it still waits after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------------- images

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(pwned) (w) file closefile\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once Ghostscript was started."""
    started = tmp_path / "bin" / "started"
    started.parent.mkdir()
    program = started.with_name("gs")
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch '{started}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return started


def test_pillow_itself_starts_ghostscript(ghostscript: Path, tmp_path: Path) -> None:
    """Otherwise the next test proves nothing."""
    (tmp_path / "photo.jpg").write_bytes(POSTSCRIPT)
    with suppress(OSError), Image.open(tmp_path / "photo.jpg") as image:
        image.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps"])
def test_a_photograph_runs_no_postscript(name: str, ghostscript: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / name).write_bytes(POSTSCRIPT)
    images = open_images(folder, RESIZE, [X])
    assert (images.names, images.skipped) == (("good.png",), ((name, "is not an image"),))
    placement = images.placement(0)
    assert placement is not None
    with pytest.raises(ImageError, match="its content is none of PNG, JPEG"):
        LabelPicture(str(folder / name), placement, "nearest").mask(2)
    nk.save(small(), tmp_path / "m.param")
    make_app(tmp_path / "m.param", tmp_path / "app", lang="python")
    part = app_part(tmp_path / "app", "images")
    with pytest.raises(part.Failure, match="is not an image"):
        part.read_image(folder / name)
    assert not ghostscript.exists()


def test_images_are_opened_in_one_place() -> None:
    found = [
        path.name
        for folder in ("src", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"Image\.open\(", path.read_text(encoding="utf-8"))
    ]
    # The two scripts read what they made, or a download whose checksum they compared.
    assert sorted(found) == ["make_demo_images.py", "screenshots.py", "userfiles.py"]


@pytest.mark.parametrize("ending", ["png", "jpg", "ppm", "bmp", "gif", "tif", "webp"])
def test_usual_formats_are_read_whatever_their_name_is(ending: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"x.{ending}")
    (tmp_path / f"x.{ending}").rename(tmp_path / "x")
    with opened_image(tmp_path / "x") as image:
        assert image.convert("RGB").size == (5, 6)


# ------------------------------------------------------------------------------------------------ pipes and devices

READS: dict[str, Callable[[Path], object]] = {
    "x.npy": lambda path: open_arrays(path, (X,)),
    "x.npz": lambda path: open_arrays(path, (X,)),
    "list.txt": text_lines,
    "recipe.toml": lambda path: make_recipe({}, path),
    "m.param": nk.load,
    "weights.param": nk.load,
    "table": load_table,
    "run.json": load_run,
    "x.jpg": lambda path: opened_image(path).__enter__(),
    "x.wav": lambda path: read_recording(str(path)),
    "m.onnx": lambda path: open_model(str(path)),
    "checked.onnx": check_model,
    "m.pt": lambda path: open_model(str(path)),
    "weights.pth": lambda path: load_weights(lambda: None, path),
    "app.json": lambda path: written_files(path.parent),
    "devices.toml": lambda path: load_names(),
}
"""A file's name -> what reads it."""


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_only_files_are_opened(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncnnkit.device.names.names_file", lambda: tmp_path / "devices.toml")
    path = tmp_path / name
    if name == "weights.param":
        kind = "pipe" if kind == "socket" else kind
        nk.save(small(), path)
        path = path.with_suffix(".bin")
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as ours:
            ours.bind(name)
    with soon(), pytest.raises((NcnnkitError, OSError)) as found:
        READS[name](tmp_path / name)
    said = str(found.value)
    assert re.search(rf"it is a {kind}, not a file|contains no app", said), said


def test_a_pipe_among_images_is_skipped(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with soon():
        images = open_images(tmp_path, RESIZE, [X])
    assert images.names == ("good.png",)
    assert [name for name, _ in images.skipped] == ["pipe.npy", "pipe.png", "zero.png"]
    assert all("not a file" in why for _, why in images.skipped), images.skipped


def test_what_is_read_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room
    with soon(), pytest.raises(NcnnkitError, match="it has 1099512 MB, and at most 17 MB are read"):
        make_recipe({}, path)
    with soon(), pytest.raises(ImageError, match="at most 134 MB are read"):
        text_lines(path)
    assert read_text(__file__, 1 << 20).startswith('"""Files of strangers')
    with pytest.raises(OSError, match="at most"):
        read_bytes(__file__, 100)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


# ---------------------------------------------------------------------------------------------- files that models name


def outside(location: str) -> onnx.TensorProto:
    """A tensor whose values are in another file."""
    tensor = TensorProto(name="unused", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def hiding(location: str, where: str) -> onnx.ModelProto:
    """A model that squares its input, with a tensor in another file that nothing needs."""
    tensor = outside(location)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Mul", ["x", "x"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], values[1:])
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "constant":
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    elif where == "branch":
        model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    elif where == "list":
        attribute = onnx.AttributeProto(name="them", type=onnx.AttributeProto.TENSORS, tensors=[tensor])
        model.graph.node[0].attribute.append(attribute)
    elif where == "sparse":
        model.graph.sparse_initializer.add(dims=[4]).values.CopyFrom(tensor)
    elif where == "training":
        model.training_info.add().initialization.initializer.append(tensor)
    else:
        model.functions.append(helper.make_function("own", "f", [], ["c"], inner.node, []))
    return model


WHERE = ("initializer", "constant", "branch", "list", "sparse", "training", "function")


@pytest.mark.parametrize("where", WHERE)
def test_a_model_reads_no_file_outside_its_folder(where: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    path = folder / "m.onnx"
    for location in (str(secret), "../secret", "link", "up/secret", "a/../../secret"):
        (folder / "a").mkdir(exist_ok=True)
        path.write_bytes(hiding(location, where).SerializeToString())
        with pytest.raises(ModelError, match=r"are outside the model's folder.*copy them there"):
            check_model(path)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("pipe", "it is a pipe"), ("zero", "outside the model's folder"), (".", "Is a directory"),
        ("none", "No such file"), ("*/_ORT_MEM_ADDR_/*", "No such file"), ("a\0b", "are no file"),
        ("", "Is a directory"),
    ],
)  # fmt: skip
def test_the_weights_of_a_model_are_files(location: str, said: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    path = tmp_path / "m.onnx"
    path.write_bytes(hiding(location, "initializer").SerializeToString())
    with soon(), pytest.raises(ModelError, match=said):
        open_model(str(path))


@pytest.mark.parametrize(
    ("offset", "length", "said"),
    [
        ("17", None, "have 16 bytes, but a tensor is .* bytes from byte 17"), ("0", "17", "is 17 bytes from byte 0"),
        ("8", "16", "is 16 bytes from byte 8"), (str(2**63 - 1), "16", "from byte 9223372036854775807"),
        (str(2**70), "16", "offset that is no number"), ("-4", "16", "no number of bytes: '-4'"),
        ("0", "-1", "length that is no number"), ("x", "16", "no number of bytes"), ("٣", "4", "no number of bytes"),
        ("1_0", "4", "no number of bytes"), (" 4", "4", "no number of bytes"), ("1" * 5000, "4", "no number of bytes"),
    ],
)  # fmt: skip
def test_weights_are_within_their_file(offset: str, length: str | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(16))
    model = hiding("w", "initializer")
    (tensor,) = [each for each in model.graph.initializer if each.external_data]
    for key, value in (("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with soon(), pytest.raises(ModelError, match=said):
        open_model(str(path))
    with pytest.raises(ModelError, match=said):
        inline_external_data(path)


def test_weights_in_the_folder_are_read(tmp_path: Path) -> None:
    """Also through links, as the cache of the Hugging Face hub has them."""
    (tmp_path / "blobs" / "deep").mkdir(parents=True)
    (tmp_path / "blobs" / "deep" / "w").write_bytes(bytes(16))
    (tmp_path / "blobs" / "1234").write_bytes(hiding("deep/w", "initializer").SerializeToString())
    check_model(tmp_path / "blobs" / "1234")
    snapshot = tmp_path / "snapshots" / "1"
    (snapshot / "deep").mkdir(parents=True)
    (snapshot / "m.onnx").symlink_to("../../blobs/1234")
    (snapshot / "deep" / "w").symlink_to("../../../blobs/deep/w")
    check_model(snapshot / "m.onnx")
    assert open_model(str(snapshot / "m.onnx")).outputs == ("y",)


def test_a_model_of_damaged_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for data in (b"\x3a\xff\xff\xff\xff\x0flocation", b"\x0blocation", b"\x80" * 100 + b"location"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"damaged|cannot load"):
            open_model(str(path))


# ------------------------------------------------------------------------------------------------- nobody phones home


def loaded_in(home: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Load a model in a new process with a home of its own."""
    home.mkdir()
    code = "import ncnnkit as nk, sys\nfrom ncnnkit.source import open_model\nopen_model(sys.argv[1])"
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), **more}
    words = [*command, sys.executable, "-B", "-c", code, str(DEMO)]
    return subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, timeout=120, check=True)


def test_loading_a_model_leaves_no_file(tmp_path: Path) -> None:
    """ONNX Runtime keeps what it wants to report, and a number for this machine, in files of the user."""
    loaded_in(tmp_path / "home", [])
    assert list((tmp_path / "home").rglob("*")) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing")
def test_loading_a_model_uses_no_network(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    done = subprocess.run([*strace, "true"], capture_output=True)
    if done.returncode:
        pytest.skip("processes must not be traced here")
    loaded_in(tmp_path / "home", strace)
    assert not [line for line in trace.read_text().splitlines() if "AF_INET" in line]


def test_children_and_boards_are_silent_too(tmp_path: Path) -> None:
    """The program of a board imports the same package first."""
    program = Path(process.__file__).parent
    code = f"import runpy, sys, os; sys.argv = ['x', 'agent', 'about']; sys.path.insert(0, {str(program)!r})\n"
    code += "try:\n runpy.run_path(sys.path[0], run_name='__main__')\n"
    code += "except SystemExit:\n print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("1\n")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == SILENT["ORT_DISABLE_TELEMETRY"]


# ------------------------------------------------------------------------------------------------------------- memory


def bomb(path: Path, shape: tuple[int, ...], name: str = "x.npy", **more: Any) -> Path:
    """A ``.npz`` that declares an array of this shape, and holds only its header."""
    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape, **more}
    np.lib.format.write_array_header_1_0(header, fields)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, header.getvalue())
    return path


NPZ: dict[str, Callable[[Path], object]] = {
    "samples": lambda path: open_arrays(path, (X,)),
    "examples": Examples.load,
    "any": read_npz,
}


@pytest.mark.parametrize("reads", NPZ)
def test_an_archive_of_arrays_is_measured_before_it_is_unpacked(reads: str, tmp_path: Path) -> None:
    path = bomb(tmp_path / "x.npz", (1 << 20, 1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises((NcnnkitError, ValueError), match=r"its arrays have 4398047 MB, and at most 1074 MB"):
            NPZ[reads](path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_an_app_measures_arrays_too(tmp_path: Path) -> None:
    nk.save(small(), tmp_path / "m.param")
    make_app(tmp_path / "m.param", tmp_path / "app", lang="python")
    inputs = app_part(tmp_path / "app", "inputs")
    with pytest.raises(Exception, match="at most 1074 MB"):
        inputs.read_array(bomb(tmp_path / "x.npz", (1 << 20, 1 << 20)))
    os.mkfifo(tmp_path / "x.txt")
    with soon(), pytest.raises(Exception, match="it is a pipe"):
        inputs.read_array(tmp_path / "x.txt")


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    """NumPy reads it whole and refuses it then: 3 GB for an archive of 7 MB."""
    begin = b"\x93NUMPY\x02\x00" + struct.pack("<I", 256 << 20)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", begin + bytes(256 << 20))
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(begin)
        file.truncate(300 << 20)
    tracemalloc.start()
    with pytest.raises(ValueError, match="its header is damaged: it has 268435456 bytes"):
        read_npz(tmp_path / "a.npz")
    for name in ("a.npz", "a.npy"):
        with pytest.raises(ImageError, match="header"):
            open_arrays(tmp_path / name, (InputSpec("x", (3, 8, 8)),))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 << 20


def test_an_archive_of_many_arrays_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for index in range(10_001):
            archive.writestr(f"{index}.npy", b"")
    with pytest.raises(ValueError, match="it has 10001 arrays, and at most 10000 are read"):
        read_npz(tmp_path / "a.npz")


def test_arrays_are_of_numbers_and_compressed_as_numpy_does(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Python objects"):
        read_npz(bomb(tmp_path / "x.npz", (2,), descr="|O"))
    with zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(ValueError, match="compressed in a way"):
        read_npz(tmp_path / "y.npz")
    rows = np.arange(6.0).reshape(2, 3)
    np.savez_compressed(tmp_path / "z.npz", a=rows, b=rows[:1])
    assert {name: array.shape for name, array in read_npz(tmp_path / "z.npz").items()} == {"a": (2, 3), "b": (1, 3)}


def test_a_sparse_file_has_few_samples(tmp_path: Path) -> None:
    """It declares a billion samples, and takes no room on disk."""
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        fields = {"descr": "|u1", "fortran_order": False, "shape": (1 << 30, 1)}
        np.lib.format.write_array_header_1_0(file, fields)
        file.truncate(file.tell() + (1 << 30))
    with soon(), pytest.raises(ImageError, match="has 1073741824 samples, and at most"):
        open_images(path, None, [InputSpec("x", (1,))])


def test_settings_that_repeat_themselves_are_refused(tmp_path: Path) -> None:
    """Nine lists of nine of the list before: 400 million words as text."""
    lists = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    text = "\n".join([*lists, "names: *a9", "task: detect", "imgsz: 64"])
    (tmp_path / "metadata.yaml").write_text(text)
    with soon(), pytest.raises(ModelError, match="cannot be read: it refers to its own parts"):
        read_export(tmp_path / "metadata.yaml")


@pytest.mark.parametrize("key", ["names", "ncnnkit.labels", "ncnnkit.preprocess"])
def test_metadata_of_any_depth_is_an_error(key: str) -> None:
    with pytest.raises(ModelError, match="its metadata cannot be read"):
        read_metadata("m", {key: "[" * 100_000, "task": "detect"}, ())


@pytest.mark.parametrize("name", ["m.pt", "w.pth"])
def test_a_file_of_torch_is_measured_before_it_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/extra/config.txt", bytes(COMPRESSED + 1))
    assert path.stat().st_size < 1e6
    with pytest.raises(ModelError, match="would take 67 MB when it is unpacked"):
        open_model(str(path)) if name == "m.pt" else load_weights(lambda: None, path)


def test_shapes_in_a_pickle_take_no_memory() -> None:
    """Pickle in C makes room for what a number says: here 16 GB of bytes, and a list of 2^31 places."""
    for code in (
        b"\x80\x04\x8e" + (1 << 34).to_bytes(8, "little"),
        b"\x80\x04Nr" + (1 << 31).to_bytes(4, "little") + b".",
    ):
        tracemalloc.start()
        try:
            assert _TracedInputs(io.BytesIO(code)).shapes() is None
            assert tracemalloc.get_traced_memory()[1] < 20e6
        finally:
            tracemalloc.stop()


def plain_eight_bits(values: Any, white: float | None) -> Any:
    exact = np.nan_to_num(values.astype(np.float64))
    return np.clip((exact / 257.0 if white is None else exact * (255.0 / white)) + 0.5, 0, 255).astype(np.uint8)


def test_deep_images_are_reduced_in_bands() -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 1 << 16, (1500, 1501)).astype(np.uint16)
    assert np.array_equal(eight_bits(deep, "I;16"), plain_eight_bits(deep, None))
    assert np.array_equal(eight_bits(deep.astype(np.int32), "I"), plain_eight_bits(deep, 65535.0))
    real = rng.random((1500, 1501), np.float32)
    real[0, 0] = np.nan
    assert np.array_equal(eight_bits(real, "F"), plain_eight_bits(real, 1.0))
    large = np.zeros((4000, 4000), np.uint16)
    tracemalloc.start()
    try:
        eight_bits(large, "I;16")
        assert tracemalloc.get_traced_memory()[1] < 80e6  # the result has 16 MB; at once it took 400 MB
    finally:
        tracemalloc.stop()


def test_large_images_are_decoded_one_by_one() -> None:
    turns, most, inside, together = _Turns(100), 0, 0, threading.Lock()

    def decode(pixels: int) -> None:
        nonlocal most, inside
        for _ in range(20):
            with turns.take(pixels):
                with together:
                    inside += pixels
                    most = max(most, inside)
                with together:
                    inside -= pixels

    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in (30, 30, 60, 100, 250)]
    with soon(30):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most <= 250  # an image that is larger than all may have together is alone
    assert inside == 0


def test_processes_are_as_many_as_cores_and_samples_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert side_by_side(64, 10) <= min(10, available_cores())
    assert side_by_side(1, 10) == 1
    assert side_by_side(None, 0) == 1
    started = 0

    class Counted(CheckedChild):
        def __init__(self) -> None:
            nonlocal started
            started += 1
            super().__init__()

    monkeypatch.setattr(crew, "CheckedChild", Counted)
    nk.calibrate(small(), samples(3), threads=64)
    assert started <= min(3, available_cores())


# ----------------------------------------------------------------------------------------------------------- terminal

EVIL = "cat\x1b]0;pwned\x07\x1b[2J\x9b31m\r\u202egnp.exe"


def test_control_characters_become_signs() -> None:
    assert printable(EVIL) == "cat␛]0;pwned␇␛[2J\ufffd31m␍\ufffdgnp.exe"
    assert printable("a\tb\nc é 猫") == "a\tb\nc é 猫"
    assert str(ModelError(EVIL, where=EVIL, hint=EVIL)) == printable(str(ModelError(EVIL, where=EVIL, hint=EVIL)))


@pytest.mark.parametrize("style", [None, "bold"])
def test_what_is_printed_controls_no_terminal(style: str | None) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(Text(EVIL))
    for shown in (EVIL, Text(EVIL), table):
        file = io.StringIO()
        PlainConsole(file=file, width=200).print(shown, markup=False, style=style)
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]", file.getvalue())
        assert "␛]0;pwned" in file.getvalue()
    file = io.StringIO()
    PlainConsole(file=file, force_terminal=True, color_system="standard").print("[bold]x[/]")
    assert "\x1b[1m" in file.getvalue()  # colours of its own stay


def test_every_console_is_a_plain_one() -> None:
    found = [
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"(?<!Plain)Console\(", path.read_text(encoding="utf-8")) and path.name != "printing.py"
    ]
    assert found == []


def test_json_controls_no_terminal() -> None:
    data = encode({"name": EVIL + "\x7f"})
    assert not re.search(rb"[\0-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae", data)
    assert json.loads(data) == {"name": EVIL + "\x7f"}


def test_a_command_prints_no_name_as_it_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ncnnkit", "optimize", str(tmp_path / f"{EVIL}.param"), "-o", str(tmp_path / "x.param")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "no such file" in done.stderr
    assert not set("\x1b\x07\x9b\r") & set(done.stderr)


@pytest.mark.parametrize("scale", ["1e300", "1" + 400 * "0", "1e39", "1e-60", "inf", "nan", "-1", "0"])
@pytest.mark.parametrize("key", ["c1", "c1_param_0"])
def test_a_scale_is_a_number_in_float32(scale: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "table").write_text(f"{key} {scale}\nc2 1\n")
    if (scale, key) == ("inf", "c1_param_0"):  # ncnn2table's way to say that all weights of a channel are zero
        assert load_table(tmp_path / "table").weights[key].tolist() == [1.0]
        return
    with pytest.raises(FormatError, match=r"table:1: .* has the scale"):
        load_table(tmp_path / "table")


# ------------------------------------------------------------------------------------------------------------- boards


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "home").mkdir()
    return Shell(tmp_path / "home")


def cache(shell: Shell) -> Path:
    return shell.home / ".cache" / "ncnnkit"


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_of_a_board_that_others_may_write_is_not_trusted(mode: int, shell: Shell) -> None:
    with Board(shell, "the board") as board:
        assert board.about.machine
    assert cache(shell).stat().st_mode & 0o777 == 0o700
    cache(shell).chmod(mode)
    with Board(shell, "the board") as board, pytest.raises(DeviceError, match="not trusted: others may write there"):
        assert board.about


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_trusted(shell: Shell) -> None:
    cache(shell).mkdir(parents=True)
    os.chown(cache(shell), 12345, 12345)
    with Board(shell, "the board") as board, pytest.raises(DeviceError, match="it belongs to another user"):
        assert board.about


def test_a_planted_program_is_replaced(shell: Shell, tmp_path: Path) -> None:
    with Board(shell, "the board") as board:
        assert board.about.machine
    (program,) = cache(shell).glob("program-*")
    for planted in ("agent.py", "json.py"):
        (program / planted).write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
        with Board(shell, "the board") as board:
            assert board.about.machine
    assert not (tmp_path / "pwned").exists()
    assert not (program / "json.py").exists()
    assert len(list(cache(shell).glob("program-*"))) == 1


def test_a_file_of_a_board_is_sent_again_if_it_has_changed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    with Board(shell, "the board") as board:
        (there,) = board.put([tmp_path / "model"])
        Path(there).write_bytes(b"planted")
        assert board.put([tmp_path / "model"]) == [there]
        assert Path(there).read_bytes() == b"weights"
        Path(there).unlink()
        Path(there).symlink_to(tmp_path / "model")
        assert board.put([tmp_path / "model"]) == [there]
        assert not Path(there).is_symlink()


# ------------------------------------------------------------------------------------------------- pickles and children


@pytest.mark.torch
def test_no_library_reads_a_pickle(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save(Evil(), tmp_path / "x.pth")
    before = dict(os.environ)
    with only_tensors(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=False)
    assert dict(os.environ) == before
    with pytest.raises(ModelError, match="it holds more than tensors"):
        load_weights(lambda: None, tmp_path / "x.pth")
    assert not (tmp_path / "pwned").exists()


def test_settings_beside_a_model_are_files(tmp_path: Path) -> None:
    nk.save(small(), tmp_path / "m.param")
    (tmp_path / "m.json").unlink()
    os.mkfifo(tmp_path / "metadata.yaml")
    os.mkfifo(tmp_path / "m.json")
    with soon():
        assert read_export(tmp_path / "metadata.yaml") is None
        assert nk.Artifact.load(tmp_path / "m.param").graph.inputs == ["in0"]
