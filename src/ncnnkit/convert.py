"""A model file -> ncnn's graph, by pnnx's own binary."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import ncnnfile, ops
from .errors import ConvertError, FormatError
from .graph import Graph
from .images import InputSpec
from .source import ModelSource, open_model

INSTALL_HINT = "pip install --no-deps pnnx"
TIMEOUT = 1800.0  # seconds; the largest networks take a few minutes

# pnnx's letters for types, after a shape.
_DTYPES = {
    "float32": "f32", "float64": "f64", "float16": "f16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """What pnnx made of a model.

    Attributes:
        graph: fp32; inputs have the shapes it was converted with.
        log: what pnnx printed.
        seconds: how long it took.
    """

    graph: Graph
    log: str
    seconds: float


def find_pnnx() -> Path:
    """pnnx's binary: that of the Python package, or one on the PATH.

    Raises:
        ConvertError: there is none.
    """
    package = importlib.util.find_spec("pnnx")
    if package is not None and package.submodule_search_locations:
        # Importing the package would import torch, which its binary does not need.
        for folder in package.submodule_search_locations:
            for path in (Path(folder, "pnnx"), Path(folder, "pnnx.exe")):
                if path.is_file():
                    return path
    on_path = shutil.which("pnnx")
    if on_path is None:
        raise ConvertError("pnnx, which converts models to ncnn, is not installed", hint=INSTALL_HINT)
    return Path(on_path)


def convert(model: str, *, shapes: Sequence[tuple[int, ...]] = (), weights: str = "default") -> Graph:
    """A model to ncnn's graph, fp32, not yet optimised.

    Args:
        model: a reference, as :func:`ncnnkit.source.open_model` takes it.
        shapes: of the inputs without the batch axis, where the model does not fix them.
        weights: for models built by code.

    Raises:
        ModelError: the model, its weights or its shapes cannot be used.
        ConvertError: pnnx is missing, fails, or leaves operators that ncnn does not have.
    """
    with tempfile.TemporaryDirectory(prefix="ncnnkit-") as folder:
        source = open_model(model, shapes=shapes, weights=weights, workdir=folder)
        return convert_source(source, Path(folder)).graph


def convert_source(source: ModelSource, workdir: Path) -> Conversion:
    """An opened model to ncnn's graph. pnnx works in a folder of its own below ``workdir``.

    Raises:
        ConvertError: pnnx is missing, fails, or leaves operators that ncnn does not have.
        FormatError: an ncnn model is corrupt.
    """
    if source.kind == "ncnn":
        return Conversion(ncnnfile.load(source.path), "the model is ncnn's own: nothing to convert\n", 0.0)
    start = time.perf_counter()
    pnnx = find_pnnx()
    with tempfile.TemporaryDirectory(prefix="pnnx-", dir=workdir) as name:
        folder = Path(name)
        # A plain name: pnnx cuts paths at dots and takes commas and brackets for lists.
        model = folder / f"model{'.onnx' if source.kind == 'onnx' else '.pt'}"
        os.symlink(source.path.resolve(), model)
        for data in source.path.parent.glob(f"{source.path.name}*data"):  # ONNX weights beside the file
            os.symlink(data.resolve(), folder / data.name)
        log = _run_pnnx(pnnx, model, source.inputs)
        graph = _read_result(folder, log)
        # pnnx does not write them, and everything that runs the model later needs them.
        graph.set_input_shapes([spec.shape for spec in source.inputs])
    return Conversion(graph, log, time.perf_counter() - start)


def _run_pnnx(pnnx: Path, model: Path, inputs: Sequence[InputSpec]) -> str:
    shapes = ",".join(
        f"[{','.join(map(str, (1, *spec.shape)))}]{_DTYPES.get(spec.dtype, spec.dtype)}" for spec in inputs
    )
    # fp16=0: pnnx stores weights as fp16 by default, and fp32 would not be fp32.
    command = [str(pnnx), model.name, f"inputshape={shapes}", "fp16=0"]
    try:
        done = subprocess.run(
            command,
            cwd=model.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
        )
    except OSError as error:
        raise ConvertError(f"cannot be started: {error.strerror}", where=str(pnnx), hint=INSTALL_HINT) from None
    except subprocess.TimeoutExpired:
        raise ConvertError(f"pnnx did not finish within {TIMEOUT / 60:.0f} minutes", where=model.name) from None
    log = f"$ {' '.join(['pnnx', *command[1:]])}\n{done.stdout.decode('utf-8', 'replace')}"
    if done.returncode:
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise ConvertError(f"pnnx failed ({how}): {_last_line(log)}", hint="does --shape fit the model?")
    return log


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith(("#", "$"))]
    telling = [line for line in lines if re.search(r"error|fail|not supported|unsupported|terminate", line, re.I)]
    return (telling or lines or ["it printed nothing"])[-1][:200]


def _read_result(folder: Path, log: str) -> Graph:
    param, bin_file = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    for path in (param, bin_file):
        if not path.is_file():
            raise ConvertError(f"pnnx wrote no {path.name}: {_last_line(log)}", hint="does --shape fit the model?")
    types = [
        line.split()[0] for line in param.read_text(encoding="utf-8", errors="replace").splitlines()[2:] if line.strip()
    ]
    unsupported = sorted(set(types) - ops.OPS.keys())
    if unsupported:
        raise ConvertError(
            f"ncnn has no layer for: {', '.join(unsupported)}",
            hint="replace these operators in the model, or cut the model before them",
        )
    try:
        return ncnnfile.load(param)  # the weights stay mapped when the folder goes
    except FormatError as error:
        raise ConvertError(f"pnnx wrote a model that cannot be read: {error}") from None
