"""Opens models in files: ONNX, TorchScript and ncnn."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Artifact, card_of
from ..errors import ModelError, reading
from ..formatting import shape_option
from ..model.precision import PRECISIONS
from ..onboard.userfiles import open_regular, read_text
from ..samples.items import InputSpec
from .forked import ServerError
from .model import Array, Dims, ModelSource, Original, file_safe, listed, read_metadata, say, settle_inputs
from .onnx_data import check_model
from .sessions import OnnxSession
from .torchrun import example_inputs, named_outputs, quiet, torch_run
from .weights import require_stored

# torch's name of a storage class -> numpy's name of the type.
_DTYPES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "DoubleStorage": "float64", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool",
}  # fmt: skip


def _open_onnx(reference: str, path: Path, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
    session = onnx_session(path)
    given = session.inputs
    names, outputs = [i.name for i in given], tuple(session.outputs)
    dtypes = [_onnx_dtype(reference, i.name, i.type) for i in given]
    for found, dtype in zip(given, dtypes):
        if not (found.shape or shapes or dtype.startswith("float")):
            hint = f"give it: --fix {found.name}=NUMBER, in Python fix={{{found.name!r}: number}}"
            raise ModelError(f"input {found.name!r} is one whole number", where=reference, hint=hint)
    # ONNX Runtime also gives an empty shape if the rank is unknown.
    inputs = settle_inputs(reference, names, [tuple(i.shape) or None for i in given], dtypes, shapes)
    preprocess, origin, labels = read_metadata(reference, session.metadata, inputs)
    return ModelSource(
        reference, file_safe(path.stem), "onnx", path, inputs, outputs, "onnxruntime", preprocess, origin, labels,
        onnx_run(session), metadata=session.metadata,
    )  # fmt: skip


def onnx_run(session: OnnxSession) -> Original:
    """A function that runs a session on one sample."""
    names = [given.name for given in session.inputs]

    def run(sample: list[Array]) -> list[Any]:
        return session.run(dict(zip(names, sample)))

    return run


def onnx_session(path: Path, outputs: Sequence[str] = (), *, optimised: bool = True) -> OnnxSession:
    """A model loaded in ONNX Runtime, with two threads.

    Args:
        path: the model.
        outputs: names of values that become its outputs; by default its own.
        optimised: whether ONNX Runtime may fuse operators. Its fused int8 kernels may differ from the operators of a
            quantised model: on a CPU without VNNI, the SQNR of EfficientNet-Lite0 against the unfused model was 7 dB.

    Raises:
        ModelError: ONNX Runtime cannot load it, crashes or hangs, or the model has no value of such a name.
    """
    check_model(path)
    try:
        model = _ending_at(path, outputs) if outputs else path
    except Exception as error:  # protobuf has exceptions of its own
        raise ModelError(f"cannot be read: {say(error)}", where=str(path)) from None
    try:
        return OnnxSession(model, optimised=optimised, threads=THREADS)
    except ServerError as error:
        raise ModelError(error.said("load it"), where=str(path), hint=error.hint) from None


THREADS = 2
"""Of ONNX Runtime, when it computes reference outputs."""


def _ending_at(path: Path, outputs: Sequence[str]) -> bytes:
    """The bytes of a model with these outputs instead of its own."""
    import onnx

    model = onnx.load(str(path))
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    found: bytes = model.SerializeToString()
    return found


def _onnx_dtype(reference: str, name: str, kind: str) -> str:
    """``tensor(float)`` -> ``float32``."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(inner, inner)
    if dtype not in _DTYPES.values():
        raise ModelError(f"input {name!r} takes {kind}, which ncnn does not support", where=reference)
    return dtype


def _open_torchscript(reference: str, path: Path, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
    metadata, traced = _read_archive(reference, path)
    module = _load_torchscript(path)
    # Without torch, the names of the inputs cannot be read. pnnx's names are used.
    if traced:
        dims: list[Dims | None] = [shape for shape, _ in traced]
        dtypes = [dtype for _, dtype in traced]
    else:
        # The first input of a method's graph is the module itself.
        count = max(1, len(shapes)) if module is None else len(list(module.graph.inputs())) - 1
        dims, dtypes = [None] * count, ["float32"] * count
    names = [f"in{i}" for i in range(len(dims))]
    inputs = settle_inputs(reference, names, dims, dtypes, shapes)
    preprocess, origin, labels = read_metadata(reference, metadata, inputs)
    run = None if module is None else torch_run(module)
    outputs = _module_outputs(reference, module, inputs)
    return ModelSource(
        reference,
        file_safe(path.stem),
        "torchscript",
        path,
        inputs,
        outputs,
        "ncnn" if module is None else "torch",
        preprocess,
        origin,
        labels,
        run,
        module=module,
        metadata=metadata,
    )


def _module_outputs(reference: str, module: Any, inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Names of the outputs. Empty without torch: their number is unknown until pnnx reads the file."""
    if module is None:
        return ()
    try:
        return tuple(named_outputs(module, example_inputs(inputs)))
    except Exception as error:  # the code in the file may raise anything
        shown = " and ".join(listed(spec.shape) for spec in inputs)
        raise ModelError(
            f"does not run with input {shown}: {say(error)}",
            where=reference,
            hint=f"give its shapes, as in {shape_option(3, 224, 224)}",
        ) from None


def _load_torchscript(path: Path) -> Any:
    """The module; None if torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    try:
        with quiet():
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"torch cannot load it: {say(error)}", where=str(path)) from None


def _read_archive(reference: str, path: Path) -> tuple[dict[str, str], list[tuple[Dims, str]] | None]:
    """(texts of the extra files of a TorchScript archive, shapes and types of a traced module's inputs or None).

    The archive is read without torch.
    """
    metadata: dict[str, str] = {}
    traced = None
    faults = (zipfile.BadZipFile, EOFError, LookupError, RuntimeError, ValueError, zlib.error, NotImplementedError)
    what, hint = "is not a TorchScript file, or is damaged", "save it with torch.jit.trace(...).save(...)"
    with (
        reading(reference, ModelError, *faults, what=what, hint=hint),
        open_regular(path) as opened,
        zipfile.ZipFile(opened) as archive,
    ):
        require_stored(archive, path)
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" not in names:
            raise ModelError(
                "is not TorchScript"
                + (" but a saved state_dict or module" if "data.pkl" in names else " (a torch.export program?)"),
                where=reference,
                hint="give torchvision:NAME, timm:NAME or package.module:function with --weights FILE, "
                "or save torch.jit.trace(model, example)",
            )
        for name in names:
            if name.startswith("extra/"):
                metadata[name.removeprefix("extra/")] = archive.read(names[name]).decode("utf-8", "replace")
        if "traced_inputs.pkl" in names:
            traced = _TracedInputs(io.BytesIO(archive.read(names["traced_inputs.pkl"]))).shapes()
    if "config.txt" in metadata:  # Ultralytics' metadata
        try:
            more = json.loads(metadata["config.txt"])
            metadata.update({str(k): v if isinstance(v, str) else repr(v) for k, v in more.items()})
        except (ValueError, AttributeError, RecursionError):
            pass  # a file of that name by another program
    return metadata, traced


class _TracedInputs(pickle._Unpickler):
    """Reads the shapes in ``traced_inputs.pkl``. Only the names in ``find_class`` are allowed, so no code is run.

    The base class is pickle's Python version. The C version allocates as much memory as a damaged file declares.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "_rebuild_tensor_v2": lambda storage, offset, size, *rest: (tuple(size), storage),
            "restore_type_tag": lambda value, tag: value,
            "OrderedDict": dict,
            **_DTYPES,
        }
        if name not in known:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return known[name]

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]  # ('storage', type, key, device, count)

    def shapes(self) -> list[tuple[Dims, str]] | None:
        """(dimensions with batch axis, type) of each input; None if something other than tensors was traced."""
        try:
            return [(tuple(map(int, shape)), str(dtype)) for shape, dtype in self.load()["forward"]] or None
        except Exception:  # a damaged pickle raises almost any
            return None


def _without_precision(stem: str) -> str:
    """A file's name without the suffix for its precision. Models made from it get a suffix of their own."""
    name, _, last = stem.rpartition("-")
    return name if name and last in PRECISIONS else stem


def _open_ncnn(reference: str, path: Path, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
    model = Artifact.load(path)
    exported = read_export(path.with_name(EXPORT))
    names = model.fed or [tensor.name for tensor in model.inputs]
    known = [tensor.shape for tensor in model.inputs]
    if exported and len(known) == 1 and not known[0]:
        known = [exported.shape]
    # ncnn ignores the shapes in the file, so the user's shapes take precedence.
    dims: list[Dims | None] = [(1, *shape) if shape and not shapes else None for shape in known]
    inputs = settle_inputs(reference, names, dims, ["float32"] * len(dims), shapes)
    try:
        model.graph.check_input_shapes([spec.shape for spec in inputs])
    except ModelError as error:
        raise ModelError(error.what, where=reference, hint=error.hint) from None
    outputs = tuple(tensor.name for tensor in model.outputs)
    metadata = exported.metadata if exported else {}
    preprocess, origin, labels = read_metadata(reference, metadata, inputs)
    if model.preprocess:
        preprocess, origin = model.preprocess, f"its card ({card_of(path)})"
    return ModelSource(
        reference,
        file_safe(exported.name if exported else _without_precision(path.stem)),
        "ncnn",
        path,
        inputs,
        outputs,
        "ncnn",
        preprocess,
        origin,
        model.labels or labels,
        metadata=metadata,
        decoder=model.decoder,
    )


EXPORT = "metadata.yaml"
"""The file that Ultralytics' export to ncnn writes beside the model."""
EXPORT_BYTES = 1 << 20
"""Bytes of the largest such file: PyYAML is slow."""


@dataclass(frozen=True)
class Export:
    """Metadata that Ultralytics' export writes.

    Attributes:
        name: of the network, from the folder ``NAME_ncnn_model``.
        shape: of its input, (channels, height, width).
        metadata: as :func:`~ncnnkit.source.model.read_metadata` takes it.
    """

    name: str
    shape: tuple[int, int, int]
    metadata: Mapping[str, str]


_DEEPEST = 50  # collections within collections in an export; there are 3


def read_export(path: Path) -> Export | None:
    """Read a :data:`EXPORT` file. None if there is none, or if another program wrote it.

    Raises:
        ModelError: it is not YAML, or the model was exported for more than one image at a time.
    """
    if not path.is_file():
        return None
    import yaml

    with reading(path, ModelError, yaml.YAMLError, ValueError, LookupError, TypeError):
        text = read_text(path, EXPORT_BYTES)
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError("it refers to its own parts, which may be repeated without end")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # PyYAML's time grows with the square of the depth
                raise yaml.YAMLError("it is nested too deeply")
        found = yaml.safe_load(text)
    if not (isinstance(found, dict) and {"names", "task", "imgsz"} <= found.keys()):
        return None
    if not _is_small(found):
        raise ModelError("contains very many values", where=str(path), hint="export the model again")
    sides = found["imgsz"]
    height, width = sides if isinstance(sides, list) and len(sides) == 2 else (sides, sides)
    shape = (found.get("channels", 3), height, width)
    if not all(isinstance(side, int) and side > 0 for side in shape):
        raise ModelError(f"imgsz {sides!r} is not a size", where=str(path), hint="such as imgsz: [640, 640]")
    if found.get("batch", 1) != 1:
        raise ModelError(
            f"the model was exported for {found['batch']} images at a time", where=str(path), hint="export with batch=1"
        )
    texts = {str(key): value if isinstance(value, str) else repr(value) for key, value in found.items()}
    return Export(path.absolute().parent.name.removesuffix("_ncnn_model"), shape, texts)


def _is_small(value: Any) -> bool:
    """Whether the text of a value has a usual length. A few hundred bytes of YAML may stand for gigabytes, because a
    value may be part of itself or of others many times."""
    rest, size = [value], 0
    while rest and size < _MOST_CHARACTERS:
        part = rest.pop()
        size += 1 + (len(part) if isinstance(part, Sized) else 0)
        if size < _MOST_CHARACTERS and isinstance(part, Mapping):
            rest += [*part, *part.values()]
        elif size < _MOST_CHARACTERS and isinstance(part, list | tuple | set):
            rest += part
    return size < _MOST_CHARACTERS


_MOST_CHARACTERS = 1 << 20


def model_in(folder: Path) -> Path:
    """The path of the ``.param`` in a folder that Ultralytics' export to ncnn wrote.

    Raises:
        ModelError: it is not such a folder.
    """
    params = sorted(folder.glob("*.param"))
    if len(params) != 1 or not (folder / EXPORT).is_file():
        raise ModelError(
            "is a folder, not a model",
            where=str(folder),
            hint=f"give a file, or a folder of Ultralytics' ncnn export: one .param file and {EXPORT}",
        )
    return params[0]


READERS: dict[str, Callable[[str, Path, Sequence[tuple[int, ...]]], ModelSource]] = {
    ".onnx": _open_onnx,
    ".pt": _open_torchscript,
    ".pth": _open_torchscript,
    ".torchscript": _open_torchscript,
    ".jit": _open_torchscript,
    ".param": _open_ncnn,
}
