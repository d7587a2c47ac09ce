"""A model file -> ncnn's graph, by pnnx's own binary."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Artifact
from ..errors import ConvertError, FormatError, ModelError, StorageError
from ..model import ncnnfile, ops
from ..model.graph import Graph, Layer, Names
from ..onboard.process import die_with_parent
from ..onboard.scratch import Scratch
from ..record.environment import installed
from ..record.folder import LOG
from ..record.run import Accuracy, ConversionCheck
from ..samples.items import InputSpec
from ..samples.stream import ArraySamples
from . import ModelSource, open_model
from .model import example_arrays, say
from .onnx_data import inline_external_data
from .opening import GUESS, choose_preprocess
from .reference import WRONG, check_outputs

INSTALL_HINT = "pip install --no-deps pnnx"
FAILURE_HINTS = {
    "onnx": "does the shape fit? else export the model in another way: from another opset, or as traced TorchScript",
    "torchscript": "does the shape fit? else trace the model (torch.jit.trace) instead of scripting it, freeze it "
    "(torch.jit.freeze), or export it to ONNX",
}
_CAST = "Tensor.to"  # what pnnx leaves of a type's conversion
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
        log: what pnnx printed; empty for a model that is ncnn's own.
        seconds: how long it took.
    """

    graph: Graph
    log: str
    seconds: float

    def record(self, errors: Accuracy) -> ConversionCheck:
        """The conversion as run.json holds it.

        Args:
            errors: of the converted network, see :func:`check_outputs`.
        """
        return ConversionCheck(
            sqnr_db=errors.sqnr_db,
            cosine=errors.cosine,
            max_error=errors.max_error,
            seconds=round(self.seconds, 3),
            pnnx_version=installed("pnnx"),
            log=LOG if self.log else None,
        )


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


def convert(
    model: str | Path | Any,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    weights: str = "default",
    outputs: Sequence[str] = (),
    preset: str = "",
    preprocess: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Artifact:
    """Convert a model to ncnn, fp32, without optimisation, and compare it with the original on a sample of noise.

    Args:
        model: a reference, as :func:`ncnnkit.source.open_model` takes it, or a ``torch.nn.Module``.
        shapes: shapes of the inputs without the batch axis, such as ``[(3, 224, 224)]``; only if the model does not fix
            them.
        weights: ``default``, ``none`` (random) or a file; only for models built by code.
        outputs: names of tensors of an ONNX file that become the outputs. By default its own outputs, or the last
            tensors that ncnn can compute.
        preset: name of the preprocessing; see :func:`ncnnkit.preset`. By default that of the model.
        preprocess: fields of :class:`ncnnkit.Preprocess` that replace those of the preset or the model.
        tell: called with a sentence for each difference between the network and the model's file: where it was cut,
            and what it is fed with.

    Returns:
        The model in memory. It holds the preprocessing, if the model or the caller gives it, and the names of the
        classes, if the model has them; :func:`ncnnkit.save` writes both into its card.

    Raises:
        ModelError: the model, its weights or its shapes cannot be used.
        RecipeError: an unknown preset, or a field that cannot be used.
        ConvertError: pnnx is missing, fails, or leaves operators that ncnn does not have.
        VerificationError: ncnn computes something other than the original.
        RuntimeFailure: ncnn cannot run what pnnx made.

    Example:
        >>> model = convert(torch.nn.Conv2d(3, 8, 3), shapes=[(3, 32, 32)])  # doctest: +SKIP
        >>> save(model, "conv.param")  # doctest: +SKIP
    """
    with Scratch() as folder:
        source = open_model(model, shapes=shapes, weights=weights, outputs=outputs, workdir=folder)
        for change in source.changes:
            tell(change)
        found, origin = choose_preprocess(source, preset, preprocess or {})
        graph = convert_source(source, Path(folder)).graph
        if source.run is not None:
            _check_on_noise(source, graph)
    facts: dict[str, Any] = {
        "preprocess": None if origin == GUESS else found,
        "labels": source.labels or (),
        "ncnn": installed("ncnn"),
    }
    start = Artifact.load(source.path) if source.kind == "ncnn" else Artifact.made(graph, "fp32")
    return start.having(graph, **facts)


def _check_on_noise(source: ModelSource, graph: Graph) -> None:
    """Refuse a network that is not the original: pnnx takes some axes for the batch axis, and others the wrong way."""
    samples = ArraySamples(tuple(array[None] for array in example_arrays(source.inputs)))
    check_outputs(graph, samples, list(source.reference_outputs(samples)), where=source.reference, hint=WRONG)


def convert_source(source: ModelSource, workdir: Path) -> Conversion:
    """An opened model to ncnn's graph. pnnx works in a folder of its own below ``workdir``.

    Raises:
        ConvertError: pnnx is missing, fails, or leaves operators that ncnn does not have.
        FormatError: an ncnn model is corrupt.
        ModelError: an input has more dimensions than ncnn knows, or the files with an ONNX model's weights cannot be
            read.
        StorageError: ``workdir`` cannot be written.
    """
    start = time.perf_counter()
    for spec in source.inputs:
        if not 1 <= len(spec.shape) <= 4:
            raise ModelError(
                f"input {spec.name!r} has {len(spec.shape)} dimensions besides the batch axis, but ncnn takes 1 to 4",
                where=source.reference,
            )
    if source.kind == "ncnn":
        graph, log = ncnnfile.load(source.path), ""
    else:
        pnnx = find_pnnx()
        with tempfile.TemporaryDirectory(prefix="pnnx-", dir=workdir) as name:
            model = _place(source, Path(name))
            log = _run_pnnx(pnnx, model, source)
            graph = _read_result(model.parent, log, source)
        _check_inputs(graph, source.inputs)
        _order_outputs(graph)
    if any(layer.type == "Embed" for layer in graph.layers):
        raise ConvertError(
            "ncnn's Embed layer reads integers, and ncnnkit feeds networks with float32",
            hint="cut the model after its embedding, and give the embedded vectors as arrays",
        )
    # pnnx does not write them, and everything that runs the model later needs them.
    graph.set_input_shapes([spec.shape for spec in source.inputs])
    try:
        graph.infer_shapes()
    except ModelError as error:
        raise ConvertError(f"pnnx made a network that cannot run: {error.what}", hint=WRONG) from None
    return Conversion(graph, log, time.perf_counter() - start)


def _place(source: ModelSource, folder: Path) -> Path:
    """The model in a folder of its own, under a plain name: pnnx cuts paths at dots and takes commas for lists."""
    model = folder / f"model{'.onnx' if source.kind == 'onnx' else '.pt'}"
    try:
        whole = inline_external_data(source.path) if source.kind == "onnx" else None
    except OSError as error:
        raise ModelError(f"its weights cannot be read: {say(error)}", where=source.reference) from None
    try:
        if whole is None:
            os.symlink(source.path.resolve(), model)
        else:
            model.write_bytes(whole)
    except OSError as error:
        raise StorageError(f"cannot be written: {say(error)}", where=str(model)) from None
    return model


def _run_pnnx(pnnx: Path, model: Path, source: ModelSource) -> str:
    shapes = ",".join(
        f"[{','.join(map(str, (1, *spec.shape)))}]{_DTYPES.get(spec.dtype, spec.dtype)}" for spec in source.inputs
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
            preexec_fn=die_with_parent,  # it may take minutes, which nobody waits for when this process is killed
        )
    except OSError as error:
        raise ConvertError(f"cannot be started: {error.strerror}", where=str(pnnx), hint=INSTALL_HINT) from None
    except subprocess.TimeoutExpired:
        raise ConvertError(f"pnnx did not finish within {TIMEOUT / 60:.0f} minutes", where=model.name) from None
    log = f"$ {' '.join(['pnnx', *command[1:]])}\n{done.stdout.decode('utf-8', 'replace')}"
    if done.returncode:
        how = f"crashed with signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise _failure(f"pnnx failed ({how}): {_telling_line(log)}", log, FAILURE_HINTS[source.kind])
    if "FATAL ERROR" in log:  # it goes on all the same, and what it writes cannot be used
        raise _failure(f"pnnx failed: {_telling_line(log)}", log, FAILURE_HINTS[source.kind])
    return log


def _failure(what: str, log: str, hint: str) -> ConvertError:
    """An error that names the file with the whole log: what fails makes no run folder to keep it in."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="ncnnkit-pnnx-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.write(log)
    return ConvertError(what, hint=f"{hint}; the log: {file.name}")


def _telling_line(log: str) -> str:
    log = re.sub(r"\x1b\[[\d;]*m.*?(\x1b\[m|$)", "", log, flags=re.M)  # ONNX Runtime's coloured warnings
    lines = [line.strip() for line in log.splitlines()]
    # Neither headings and rules nor the options pnnx repeats.
    lines = [line for line in lines if re.search(r"[^\W\d_]", line) and not re.match(r"[#$]|\w+ =", line)]
    telling = [line for line in lines if re.search(r"error|fail|not supported|unsupported|terminate", line, re.I)]
    return (telling or lines or ["it printed nothing"])[-1][:200]


def _read_result(folder: Path, log: str, source: ModelSource) -> Graph:
    param, bin_file = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    for path in (param, bin_file):
        if not path.is_file():
            raise _failure(f"pnnx wrote no {path.name}: {_telling_line(log)}", log, FAILURE_HINTS[source.kind])
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()[2:]
    unsupported = sorted({line.split()[0] for line in lines if line.strip()} - ops.OPS.keys())
    if unsupported:
        hint = "replace these operators in the model, or cut the model before them"
        if unsupported == [_CAST] and {spec.dtype for spec in source.inputs} != {"float32"}:
            hint = "export the model with float32 inputs and weights"
        raise _failure(f"ncnn has no layer for: {', '.join(unsupported)}", log, hint)
    try:
        return ncnnfile.load(param)  # the weights stay mapped when the folder goes
    except FormatError as error:
        raise ConvertError(f"pnnx wrote a model that cannot be read: {error}") from None


def _check_inputs(graph: Graph, inputs: Sequence[InputSpec]) -> None:
    expected = [f"in{index}" for index in range(len(inputs))]
    if graph.inputs != expected:
        raise ConvertError(f"pnnx gave the network the inputs {graph.inputs}, but the model has {len(inputs)}")
    for blob, spec in zip(expected, inputs):
        if blob in graph.outputs:
            raise ConvertError(f"the model does not use its input {spec.name!r}", hint="export it without that input")


def _order_outputs(graph: Graph) -> None:
    """Make the outputs' order in the file, which is ncnn's order, the model's: out0, out1 and so on.

    What layers compute and nobody reads, as the other half of a chunk, counts as output to ncnn; it comes last.
    """

    def rank(blob: str) -> float:
        match = re.fullmatch(r"out(\d+)", blob)
        return int(match[1]) if match else math.inf

    ordered = sorted(graph.outputs, key=rank)
    if graph.outputs == ordered:
        return
    makers = {blob: layer for layer in graph.layers for blob in layer.outputs}
    names = Names(graph)
    for blob in ordered:
        # A Split of one costs nothing, and stands where an output that others are computed from cannot.
        maker, early = makers[blob], names.new(blob, "early")
        maker.outputs = [early if name == blob else name for name in maker.outputs]
        graph.layers.append(Layer("Split", names.new(blob, "order"), [early], [blob]))
