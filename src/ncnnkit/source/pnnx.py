"""Converts an ONNX or TorchScript file to ncnn's graph with pnnx's binary.

pnnx runs in a folder of its own, and its result is checked: it may crash, hang, or write a file that is not a valid
network. Its output is appended to :data:`~ncnnkit.record.folder.LOG` in the caller's folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConvertError, FormatError, ModelError, StorageError, printable
from ..model import ncnnfile, ops
from ..model.graph import Graph
from ..onboard.process import die_with_parent, limit_self
from ..record.folder import LOG
from ..samples.items import InputSpec
from .model import say
from .onnx_data import inline_external_data

INSTALL_HINT = "pip install --no-deps pnnx"
FAILURE_HINTS = {
    ".onnx": "does the shape fit? Otherwise export the model from another opset, or as traced TorchScript",
    ".pt": "does the shape fit? Otherwise trace the model (torch.jit.trace) instead of scripting it, freeze it "
    "(torch.jit.freeze), or export it to ONNX",
}
"""Suffix of the file that pnnx reads -> what to do if pnnx fails."""

LEAST_SECONDS = 60.0
SECONDS_PER_MB = 2.0
"""Time limit of pnnx: so many seconds, and so many more for each MB of the model. It normally takes a tenth of that."""

FILE_BYTES, FILES_PER_MODEL = 64 << 20, 8
"""pnnx may write files of so many bytes, plus so many times the size of the model."""

_CAST = "Tensor.to"  # the layer type that pnnx writes for a cast

# pnnx's letters for types, after a shape.
_DTYPES = {
    "float32": "f32", "float64": "f64", "float16": "f16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8",
}  # fmt: skip


def find_pnnx() -> Path:
    """The path of pnnx's binary: in the Python package, or on the PATH.

    Raises:
        ConvertError: there is none.
    """
    package = importlib.util.find_spec("pnnx")
    if package is not None and package.submodule_search_locations:
        # The package is not imported: that would import torch, which the binary does not need.
        for folder in package.submodule_search_locations:
            for path in (Path(folder, "pnnx"), Path(folder, "pnnx.exe")):
                if path.is_file():
                    return path
    on_path = shutil.which("pnnx")
    if on_path is None:
        raise ConvertError("pnnx is not installed", hint=INSTALL_HINT)
    return Path(on_path)


def convert_file(path: Path, inputs: Sequence[InputSpec], folder: Path) -> Graph:
    """Convert a file to ncnn's graph in fp32, not yet optimised.

    Args:
        path: ONNX (``.onnx``) or TorchScript (any other suffix).
        inputs: in the model's order, with their shapes without the batch axis.
        folder: pnnx runs in a temporary folder inside it; the log is written here.

    Returns:
        The graph. Its inputs are called in0, in1 and so on, its outputs out0, out1. A blob that no layer reads is an
        output, too.

    Raises:
        ConvertError: pnnx is missing or fails, its network cannot be read, or ncnn has no layer for an operator.
        StorageError: the folder cannot be written.
    """
    pnnx = find_pnnx()
    with tempfile.TemporaryDirectory(prefix="pnnx-", dir=folder) as name:
        model = _place(path, Path(name))
        printed = _run(pnnx, model, inputs, folder / LOG)
        return _read_result(model, printed, inputs)


def _place(path: Path, folder: Path) -> Path:
    """Link or copy the model into a folder under a plain name: pnnx cuts paths at dots, and commas mean a list."""
    onnx = path.suffix.lower() == ".onnx"
    model = folder / ("model.onnx" if onnx else "model.pt")
    try:
        whole = inline_external_data(path) if onnx else None
    except ModelError as error:
        raise ConvertError(error.what, where=error.where, hint=error.hint) from None
    try:
        if whole is None:
            os.symlink(path.resolve(), model)
        else:
            model.write_bytes(whole)
    except OSError as error:
        raise StorageError(f"cannot be written: {say(error)}", where=str(model)) from None
    return model


def _run(pnnx: Path, model: Path, inputs: Sequence[InputSpec], log: Path) -> str:
    """Run pnnx and return its output. Raises ConvertError if it fails."""
    shapes = ",".join(
        f"[{','.join(map(str, spec.original_shape))}]{_DTYPES.get(spec.dtype, spec.dtype)}" for spec in inputs
    )
    # fp16=0: by default, pnnx stores weights as fp16, and the network would not be fp32.
    command = [str(pnnx), model.name, f"inputshape={shapes}", "fp16=0"]
    shown = " ".join(["pnnx", *command[1:]])
    limit = LEAST_SECONDS + SECONDS_PER_MB * model.stat().st_size / 1e6
    largest = int(FILE_BYTES + FILES_PER_MODEL * model.stat().st_size)

    def limited() -> None:
        die_with_parent()  # it may take minutes, which nobody waits for when this process is killed
        limit_self(largest)

    try:
        done = subprocess.run(
            command,
            cwd=model.parent,
            env={**os.environ, "TMPDIR": str(model.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            preexec_fn=limited,
        )
        status, output = done.returncode, done.stdout
    except OSError as error:
        raise ConvertError(f"{pnnx} cannot be started: {error.strerror}", hint=INSTALL_HINT) from None
    except subprocess.TimeoutExpired as error:
        status, output = None, error.stdout or b""
    printed = output.decode("utf-8", "replace")
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(printable(f"$ {shown}\n{printed}\n"))
    except OSError as error:
        raise StorageError(f"cannot be written: {say(error)}", where=str(log)) from None
    if status is None:
        raise ConvertError(f"pnnx did not finish within {limit:.0f} s")
    hint = f"{FAILURE_HINTS[model.suffix]}. `{shown}` shows all that pnnx prints"
    if status:
        how = f"crashed with signal {-status}" if status < 0 else f"exit status {status}"
        raise ConvertError(f"pnnx failed ({how}): {_error_line(printed)}", hint=hint)
    if "FATAL ERROR" in printed:  # pnnx continues after such an error, but its files cannot be used
        raise ConvertError(f"pnnx failed: {_error_line(printed)}", hint=hint)
    return printed


def _error_line(log: str) -> str:
    """The last line of pnnx's output that looks like an error, or else its last line."""
    log = re.sub(r"\x1b\[[\d;]*m.*?(\x1b\[m|$)", "", log, flags=re.M)  # ONNX Runtime's coloured warnings
    lines = [line.strip() for line in log.splitlines()]
    # Leave out headings, rules, and the options that pnnx repeats.
    lines = [line for line in lines if re.search(r"[^\W\d_]", line) and not re.match(r"[#$]|\w+ =", line)]
    errors = [line for line in lines if re.search(r"error|fail|not supported|unsupported|terminate", line, re.I)]
    return (errors or lines or ["it printed nothing"])[-1][:200]


def _read_result(model: Path, printed: str, inputs: Sequence[InputSpec]) -> Graph:
    param, bin_file = model.with_name("model.ncnn.param"), model.with_name("model.ncnn.bin")
    for path in (param, bin_file):
        if not path.is_file():
            what = f"pnnx wrote no {path.name}: {_error_line(printed)}"
            raise ConvertError(what, hint=FAILURE_HINTS[model.suffix])
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()[2:]
    unsupported = sorted({line.split()[0] for line in lines if line.strip()} - ops.OPS.keys())
    if unsupported:
        hint = "replace these operators in the model, or cut the model before them"
        if unsupported == [_CAST] and {spec.dtype for spec in inputs} != {"float32"}:
            hint = "export the model with float32 inputs and weights"
        raise ConvertError(f"ncnn has no layer for: {', '.join(unsupported)}", hint=hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pnnx uses some names twice
            return ncnnfile.load(param)  # the mapping of the weights stays valid after the folder is deleted
    except FormatError as error:
        raise ConvertError(f"pnnx wrote a model that cannot be read: {error}") from None
