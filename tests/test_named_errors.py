"""Malformed inputs and a hostile machine end a command with one line that says what is wrong, and where."""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import network, samples, small
from onnx import TensorProto, helper
from typer.testing import CliRunner

from ncnnkit import source
from ncnnkit.cli import BUG_SAID, app
from ncnnkit.codec import decode
from ncnnkit.errors import (
    BUG,
    UNREAD,
    FormatError,
    InputError,
    NcnnkitError,
    StorageError,
    ToolError,
    of_machine,
    reading,
)
from ncnnkit.model import ncnnfile
from ncnnkit.record.variant import Files
from ncnnkit.samples.boxes import read_boxes
from ncnnkit.samples.classes import read_classes

DIGITS = "1" * 5000
DEEP = "[" * 100_000
LONG = "x" * 300


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, samples, and a link to itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    ncnnfile.save(small(), tmp_path / "m.param")
    np.save(tmp_path / "x.npy", samples(4))
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def failed(line: str) -> str:
    """What a command that fails prints: one line, and no traceback."""
    result = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "1000"})
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (3, 4, 5), result.output
    (said,) = [said for said in result.stderr.splitlines() if said.startswith("error: ")]
    return said


# -------------------------------------------------------------------------------------------------- files and options

OPTIONS: dict[str, tuple[str, str]] = {
    "a path of 300 characters": (f"optimize {LONG}.param -o b.param", f"{LONG}.param: .*File name too long"),
    "a model's path of 300 characters": (f"convert {LONG}.onnx -o b.param", f"{LONG}.onnx: .*File name too long"),
    "a reference of 300 characters": (f"convert {LONG} -o b.param", f"{LONG}"),
    "an output's path of 300 characters": (f"optimize m.param -o {LONG}.param", "File name too long"),
    "images' path of 300 characters": (f"calibrate m.param --images {LONG} -o t", f"{LONG}: .*File name too long"),
    "a run's path of 300 characters": (f"report {LONG}", f"{LONG}"),
    "an app's path of 300 characters": (f"verify {LONG}", f"{LONG}: contains no app"),
    "a table's path of 300 characters": (f"quantize m.param --table {LONG} -o q.param", f"{LONG}: .*too long"),
    "a table that is a loop of links": ("quantize m.param --table loop -o q.param", "loop: cannot be read: Too many"),
    "a table that is a folder": ("quantize m.param --table . -o q.param", "is not a calibration table"),
    "a recipe that is a loop of links": ("run --recipe loop", "loop: cannot be read: Too many levels"),
    "an output that is a loop of links": ("optimize m.param -o loop/b.param", "loop"),
    "a run folder that is a loop of links": ("run m.param --images x.npy -o loop", "loop"),
    "an app in a loop of links": ("app m.param -o loop", "loop: .*not a folder"),
    "a size of many digits": (f"convert m.param --shape 3,{DIGITS} -o b.param", "shape .*is not a list of numbers"),
    "a size of 1e9": ("bench m.param --shape 3,1000000000,1000000000", "1000000000"),
    "a crop of many digits": (f"run m.param --images x.npy --crop {DIGITS}", "crop"),
    "a mean of 400 digits": (f"run m.param --images x.npy --mean {'1' * 400}", "mean"),
    "a fit of many digits": (f"run m.param --images x.npy --resize letterbox:fill={DIGITS}", "fill"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_an_option_that_cannot_be_used_is_named(what: str, home: Path) -> None:
    line, match = OPTIONS[what]
    assert re.search(match, failed(line))


CONTENTS: dict[str, tuple[str, str, str]] = {
    "a recipe of many digits": ("r.toml", f"threads = {DIGITS}", "run --recipe r.toml"),
    "a nested recipe": ("r.toml", f"threads = {DEEP}", "run --recipe r.toml"),
    "a recipe with a mean of 400 digits": (
        "r.toml", f"model = 'm.param'\nimages = 'x.npy'\n[preprocess]\nmean = [{'1' * 400}]", "run --recipe r.toml",
    ),
    "a recipe with threads of 400 digits": (
        "r.toml", f"model = 'm.param'\nimages = 'x.npy'\nthreads = {'1' * 400}", "run --recipe r.toml",
    ),
    "names of devices with many digits": ("ncnnkit/devices.toml", f"a = {DIGITS}", "devices"),
    "nested names of devices": ("ncnnkit/devices.toml", f"a = {DEEP}", "devices"),
    "a nested run.json": ("run/run.json", DEEP, "report run"),
    "a run.json that is a number": ("run/run.json", DIGITS, "report run"),
    "a run.json that is not UTF-8": ("run/run.json", '"\udcff"', "report run"),
    "a nested app.json": ("app.json", DEEP, "verify ."),
    "a table of many digits": ("t", f"c1 {'9' * 5000}\n", "quantize m.param --table t -o q.param"),
    "a table that is not UTF-8": ("t", "\udcff", "quantize m.param --table t -o q.param"),
    "a .param of many digits": ("p.param", f"7767517\n{DIGITS} 1\n", "optimize p.param -o b.param"),
    "an id of many digits": ("p.param", f"7767517\n1 1\nInput a 0 1 a {DIGITS}=1\n", "optimize p.param -o b.param"),
    "a .param that is not UTF-8": ("p.param", "\udcff", "optimize p.param -o b.param"),
    "a nested metadata.yaml": ("metadata.yaml", DEEP, "convert m.param -o b.param"),
    "a metadata.yaml of many digits": ("metadata.yaml", f"a: {DIGITS}", "convert m.param -o b.param"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTENTS)
def test_a_file_that_cannot_be_read_is_named(what: str, home: Path) -> None:
    name, content, line = CONTENTS[what]
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert Path(name).name in failed(line) or name == "app.json"


# ------------------------------------------------------------------------------------------------------------ networks

LAYERS: dict[str, str] = {
    "stride 0": "Convolution c 1 1 in0 out0 0=4 1=3 3=0 6=144",
    "kernel 0": "Convolution c 1 1 in0 out0 0=4 1=0 6=0",
    "a negative stride": "Pooling p 1 1 in0 out0 1=2 2=-1",
    "dilation 0": "Convolution c 1 1 in0 out0 0=4 1=3 2=0 6=144",
    "a pooling without a kernel": "Pooling p 1 1 in0 out0 1=0",
    "a deconvolution with stride 0": "Deconvolution c 1 1 in0 out0 0=4 1=3 3=0 6=144",
    "a reorg of 0": "Reorg r 1 1 in0 out0 0=0",
    "a pixel shuffle of 0": "PixelShuffle r 1 1 in0 out0 0=0",
    "a scale of 1e38": "Interp r 1 1 in0 out0 1=1e38 2=1e38",
    "a scale of 0": "Interp r 1 1 in0 out0 1=0.0 2=1.0",
    "a tile of 1e9": "Tile t 1 1 in0 out0 -23302=3,1000000000,1000000000,1000000000",
    "a negative tile": "Tile t 1 1 in0 out0 0=0 1=-1",
    "a negative order": "Permute p 1 1 in0 out0 0=-30",
    "padding of 1e9": "Padding p 1 1 in0 out0 0=1000000000 1=1000000000 2=1000000000 3=1000000000",
    "five axes by an expression": 'Reshape r 1 1 in0 out0 6="1,1,1,1,120"',
    "numbers of many digits in an expression": f'Reshape r 1 1 in0 out0 6="{"9" * 200}"',
    "a crop of 0.5": "Crop c 1 1 in0 out0 -23309=1,0.5 -23310=1,1.5 -23311=1,0.5",
    "indices of 1e9": "Slice s 1 2 in0 a b -23302=1,1000000000",
    "a softmax along axis 9": "Softmax s 1 1 in0 out0 0=9",
    "a reduction along axis 9": "Reduction r 1 1 in0 out0 1=0 -23303=1,9",
    "no inputs": "ReLU r 0 1 out0",
    "no outputs": "ReLU r 1 0 in0",
    "an addition of three": "BinaryOp b 3 1 in0 in1 in2 out0",
    "a product of one": "MatMul m 1 1 in0 out0",
    "six states": "LSTM l 1 6 in0 a b c d e f 0=4 1=96",
    "a concatenation of nothing": "Concat c 0 1 out0",
    "an input that reads": "Input i 1 1 in0 out0",
    "a normalisation of 1e9 channels": "BatchNorm b 1 1 in0 out0 0=1000000000",
}
INPUTS = {
    "usual sizes": "Input in{i} 0 1 in{i} 0=6 1=5 2=4",
    "sizes of 1e9": "Input in{i} 0 1 in{i} 0=1000000000 1=1000000000 2=1000000000",
    "no sizes": "Input in{i} 0 1 in{i}",
}


@pytest.mark.parametrize("sizes", INPUTS)
@pytest.mark.parametrize("what", LAYERS)
def test_a_layer_that_cannot_be_is_optimised_or_named(what: str, sizes: str, tmp_path: Path) -> None:
    """ncnn's format says little of what a layer must be; whatever it holds is read, or refused by its layer."""
    lines = [INPUTS[sizes].format(i=i) for i in range(3 if "in2" in LAYERS[what] else 1)] + [LAYERS[what]]
    blobs = sum(int(line.split()[3]) for line in lines)
    (tmp_path / "p.param").write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""]))
    graph = None
    try:
        graph = ncnnfile.load_param(tmp_path / "p.param")
        weights = sum(int(np.prod(shape)) for layer in graph.layers for _, shape in layer.slots())
        if weights < 1 << 20:
            (tmp_path / "p.bin").write_bytes(bytes(4 * weights + 4 * sum(len(la.op.weights) for la in graph.layers)))
    except FormatError:
        pass
    result = CliRunner().invoke(app, ["optimize", str(tmp_path / "p.param"), "-o", str(tmp_path / "b.param")])
    assert result.exit_code in (0, 3), result.exc_info
    assert result.exit_code == 0 or "error: " in result.stderr


@pytest.mark.parametrize("what", ["stride 0", "a scale of 1e38", "a tile of 1e9", "a reorg of 0"])
def test_shapes_of_a_layer_that_cannot_be_name_it(what: str) -> None:
    kind, name = LAYERS[what].split()[:2]
    with pytest.raises(NcnnkitError, match=f"{kind} {name}"):
        network(LAYERS[what]).infer_shapes()


def write_onnx(path: Path, name: str = "in0", **metadata: str) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", [name], ["out0"])], "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("out0", TensorProto.FLOAT, [1, 3, 8, 8])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_an_onnx_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", "INPUT")
    path.write_bytes(path.read_bytes().replace(b"INPUT", b"\xff\xfe\xfd\xfc\xfb"))
    with pytest.raises(NcnnkitError, match=r"m\.onnx"):
        source.open_model(path)


METADATA: dict[str, dict[str, str]] = {
    "nested labels": {"ncnnkit.labels": DEEP},
    "a nested preprocessing": {"ncnnkit.preprocess": '{"mean": ' + DEEP},
    "a preprocessing of many digits": {"ncnnkit.preprocess": f'{{"resize": {DIGITS}}}'},
    "a mean of 400 digits": {"ncnnkit.preprocess": f'{{"mean": [{"1" * 400}]}}'},
    "nested names of Ultralytics": {"names": DEEP, "task": "detect"},
    "names of many digits": {"names": f"{{{DIGITS}: 'a'}}", "task": "detect"},
    "a name that is no text": {"ncnnkit.labels": "3"},
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata_that_cannot_be_read_is_named(what: str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", **METADATA[what])
    with pytest.raises(NcnnkitError, match=r"m\.onnx: its metadata cannot be read"):
        source.open_model(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch OWNED",)


def nested_tuples() -> bytes:
    return b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."


PICKLES: dict[str, bytes] = {
    "code": pickle.dumps({"forward": Bomb()}),
    "nothing": b"",
    "an unknown opcode": b"\x80\x02\xff",
    "a number of 400 digits": pickle.dumps({"forward": [((int("1" * 400),), "float32")]}),
    "an index that was never stored": b"\x80\x02h\x05.",
    "a nested tuple": nested_tuples(),
    "a mark that is missing": b"\x80\x02t.",
    "a list for a dict": pickle.dumps([1]),
    "a size of 1e18": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
}


@pytest.mark.parametrize("what", PICKLES)
def test_shapes_of_a_trace_that_cannot_be_read_are_not_known(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert source.files._TracedInputs(io.BytesIO(PICKLES[what])).shapes() in (None, [((int("1" * 400),), "float32")])
    assert not Path("OWNED").exists()
    with zipfile.ZipFile("m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/traced_inputs.pkl", PICKLES[what])
    with pytest.raises(NcnnkitError, match=r"m\.pt"):
        source.open_model("m.pt")


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("label", ["9223372036854775808", DIGITS, "-1", "1" * 25])
def test_a_class_beyond_all_is_named(label: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(f"a.png {label}\n")
    with pytest.raises(NcnnkitError, match=r"labels\.txt:1: class .* is out of range"):
        read_classes(tmp_path / "labels.txt", ["a.png"])


BOXES: dict[str, tuple[str, str]] = {
    "a class of many digits": ("a.txt", f"{DIGITS} 0.5 0.5 0.1 0.1"),
    "a class beyond 64 bits": ("a.txt", "9223372036854775808 0.5 0.5 0.1 0.1"),
    "nested": ("c.json", DEEP),
    "a number of many digits": ("c.json", DIGITS),
    "a list of texts": ("c.json", '{"images": ["a"], "categories": [], "annotations": []}'),
    "a corner of 400 digits": (
        "c.json",
        '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "x"}], '
        f'"annotations": [{{"bbox": [{"1" * 400}, 0, 1, 1], "category_id": 1, "image_id": 1}}]}}',
    ),
    "an infinite corner": (
        "c.json",
        '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "x"}], '
        '"annotations": [{"bbox": [Infinity, 0, 1, 1], "category_id": 1, "image_id": 1}]}',
    ),
    "an annotation that is a text": (
        "c.json", '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [], "annotations": ["a"]}'
    ),
    "an infinite corner in XML": (
        "a.xml", "<a><object><name>x</name><bndbox><xmin>inf</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
        "</bndbox></object></a>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BOXES)
def test_labelled_boxes_that_cannot_be_are_named(what: str, tmp_path: Path) -> None:
    from ncnnkit.onboard.picture import Placement

    name, content = BOXES[what]
    (tmp_path / name).write_text(content)
    path = tmp_path / name if name.endswith(".json") else tmp_path
    place = Placement((8, 8), (8, 8), 0, 0, (8, 8))
    with pytest.raises(NcnnkitError, match=re.escape(str(path))):
        read_boxes(path, ["a.png"], [place], ["x"] if name.endswith(".xml") else None)


# ----------------------------------------------------------------------------------------------------------- mechanism


@pytest.mark.parametrize(
    "raises",
    [
        OSError(36, "File name too long"), RecursionError("deep"), MemoryError(), OverflowError("big"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), KeyError("a"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_goes_wrong_while_a_file_is_read_names_it(raises: Exception) -> None:
    with (
        pytest.raises(FormatError, match=r"^the file: cannot be read: [^\n]+ \(do this\)$"),
        reading("the file", FormatError, KeyError, hint="do this"),
    ):
        raise raises


@pytest.mark.parametrize(
    "raises", [ValueError("ours"), AssertionError(), OSError(28, "No space left"), OSError(24, "x")]
)
def test_what_is_not_of_the_file_passes(raises: Exception) -> None:
    with pytest.raises(type(raises)) as caught, reading("the file", FormatError):
        raise raises
    assert caught.value is raises


MACHINE: dict[str, tuple[Exception, type[NcnnkitError], str]] = {
    "the disk is full": (OSError(28, "No space left on device", "/a"), StorageError, "/a: the disk is full"),
    "too many files": (OSError(24, "Too many open files"), ToolError, "ulimit -n"),
    "a limit of files": (OSError(27, "File too large"), StorageError, "ulimit -f"),
    "no memory": (MemoryError(), StorageError, "not enough memory"),
    "no threads": (RuntimeError("can't start new thread"), ToolError, "ulimit -u"),
    "no temporary folder": (
        FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), StorageError, "TMPDIR"
    ),
    "read-only": (OSError(30, "Read-only file system", "/a"), StorageError, "/a: Read-only file system"),
    "a long name": (OSError(36, "File name too long", "/a"), InputError, "/a: File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("what", MACHINE)
def test_what_the_machine_causes_is_named(what: str) -> None:
    raised, kind, said = MACHINE[what]
    found = of_machine(raised)
    assert type(found) is kind
    assert said in found.line()


@pytest.mark.parametrize(
    "raised", [ValueError("x"), KeyError("x"), ZeroDivisionError(), RecursionError(), RuntimeError()]
)
def test_a_bug_is_not_taken_for_the_machines(raised: Exception) -> None:
    assert of_machine(raised) is None


@dataclass
class Rows:
    rows: list[int]


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 400])
def test_whole_numbers_of_json_fit_into_64_bits(number: str) -> None:
    with pytest.raises(FormatError, match=r"rows\[1\]: does not fit into 64 bits"):
        decode(f'{{"rows": [1, {number}]}}', Rows)
    assert decode('{"param": "a", "bin": "1111111111111111111111"}', Files).bin.startswith("1")


# ----------------------------------------------------------------------------------------- the machine and the terminal


def typed(
    line: str, cwd: Path, before: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command typed in a shell; $NK is the command."""
    values = {**os.environ, "NK": f"{shlex.quote(sys.executable)} -m ncnnkit", **environment}
    values["XDG_CONFIG_HOME"] = str(cwd)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("NK", values["NK"])], cwd=cwd, env=values, capture_output=True,
        text=True, timeout=120, preexec_fn=before,
    )  # fmt: skip


def test_a_full_stdout_is_named(tmp_path: Path) -> None:
    for words in ("devices", "--version", "run --help"):
        done = typed(f"NK {words} >/dev/full", tmp_path)
        assert (done.returncode, done.stderr.strip()) == (
            StorageError.exit_code, "error: stdout: cannot be written: No space left on device"
        )  # fmt: skip


def test_a_reader_that_ends_ends_the_command_silently(tmp_path: Path) -> None:
    done = typed("NK run --help | head -1", tmp_path)
    assert (done.returncode, done.stderr) == (UNREAD, "")


def test_closed_streams_are_no_files(tmp_path: Path) -> None:
    assert typed("NK devices >&-", tmp_path).returncode == 0
    done = typed("NK devices add a nonsense 2>&- >&- <&-", tmp_path)
    assert done.returncode == 3
    assert not done.stdout + done.stderr


def test_a_terminal_without_utf8_or_columns_gets_the_text(tmp_path: Path) -> None:
    typed("NK devices add 'naïve-🐈' ssh://a", tmp_path)
    done = typed(
        "NK devices remove 'naïve-🐈' && NK devices remove 'x🐈' ", tmp_path, PYTHONIOENCODING="ascii", COLUMNS="0"
    )
    assert done.returncode == 3
    assert "error: no device is called 'x?'" in done.stderr


def test_a_bug_is_shown_with_how_to_report_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import ncnnkit.device.names as n\ndef broken():\n    return {}['ours']\nn.load_names = broken\n"
    )
    done = typed("NK devices", tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == BUG
    assert "KeyError" in done.stderr
    assert done.stderr.rstrip().endswith(BUG_SAID)


def test_a_temporary_folder_that_cannot_be_written_is_named(home: Path) -> None:
    """As root any folder can be written, so it is one that is not there, in a list without another."""
    broken = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']"
    (home / "sitecustomize.py").write_text(broken)
    done = typed(
        "NK calibrate m.param --images x.npy -o t", home, PYTHONPATH=f"{home}:{os.environ.get('PYTHONPATH', '')}"
    )
    assert done.returncode == StorageError.exit_code
    assert "error: no folder for temporary files can be written (free some space, or set TMPDIR" in done.stderr


def test_few_open_files_are_enough_or_named(home: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    done = typed("NK bench m.param --backend cpu --precision fp32 --threads 64 --seconds 0.1", home, few)
    assert done.returncode in (0, ToolError.exit_code), done.stderr
    assert "Traceback" not in done.stderr
