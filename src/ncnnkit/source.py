"""Model references -> a file pnnx or ncnn reads, the inputs' shapes, and the original's outputs.

================================  ========================================================
``model.onnx``                    ONNX; the reference outputs come from ONNX Runtime
``model.pt`` .pth .torchscript    TorchScript; from torch where it is installed
``model.param``                   ncnn; there is no other original
``torchvision:resnet50``          torchvision's model; from torch, as for the next two
``timm:NAME``                     timm's model
``package.module:function``       what the function returns: a ``torch.nn.Module``
================================  ========================================================
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import json
import os
import pickle
import re
import sys
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import ncnnfile
from .errors import ModelError, NcnnkitError, StorageError
from .images import InputSpec, Preprocess, Progress, from_timm, from_torchvision

Array = NDArray[Any]
Run = Callable[[list[Array]], list[Any]]
"""One sample through the original: arrays with a batch axis of 1 in, its outputs out."""

_TORCH_HINT = "pip install 'ncnnkit[torch]'"
_DOWNLOAD_SECONDS = 10.0
_STATISTICS_BATCH = 16


@dataclass(frozen=True)
class ModelSource:
    """An original model, ready to be converted and to be run for its reference outputs.

    Attributes:
        reference: as the user typed it.
        name: short, safe in file names.
        kind: onnx, torchscript or ncnn.
        path: the file pnnx or ncnn reads.
        inputs: in the model's order.
        outputs: names, in the model's order.
        engine: what computes the reference outputs: torch, onnxruntime, or ncnn where there is no other original.
        preprocess: how images become its input, None where nothing says so.
        preprocess_origin: where that was found.
        labels: class names by index.
    """

    reference: str
    name: str
    kind: str
    path: Path
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    engine: str
    preprocess: Preprocess | None = None
    preprocess_origin: str = ""
    labels: tuple[str, ...] | None = None
    run: Run | None = field(default=None, repr=False, compare=False)

    def reference_outputs(self, inputs: Sequence[Array], progress: Progress | None = None) -> dict[str, Array]:
        """What the original computes, one sample at a time.

        Args:
            inputs: one array (N, ...) per input, in the order of ``self.inputs``; cast to the input's own type.
            progress: called with (done, N).

        Returns:
            Output name -> float32 array (N, ...), in the model's order; the model's own batch axis of 1 is folded away.

        Raises:
            ModelError: the original fails on a sample, its outputs are not arrays or change shape from sample to
                sample, or the engine is ncnn (run the converted graph instead).
        """
        if self.run is None:
            raise ModelError("there is no original to compare with but ncnn itself", where=self.reference)
        total = len(inputs[0])
        rows: list[list[NDArray[np.float32]]] = []
        for index in range(total):
            sample = [array[index : index + 1].astype(spec.dtype) for array, spec in zip(inputs, self.inputs)]
            rows.append([_fold_batch(value, name) for value, name in zip(self._one(sample, index), self.outputs)])
            if progress:
                progress(index + 1, total)
        columns = dict(zip(self.outputs, zip(*rows)))
        for name, column in columns.items():
            if len({value.shape for value in column}) > 1:
                raise ModelError(
                    f"output {name!r} changes its shape from sample to sample",
                    where=self.reference,
                    hint="export the model up to the layers whose outputs have a fixed shape",
                )
        return {name: np.stack(column) for name, column in columns.items()}

    def _one(self, sample: list[Array], index: int) -> list[Any]:
        assert self.run is not None
        try:
            return self.run(sample)
        except NcnnkitError:
            raise
        except Exception as error:  # torch and ONNX Runtime raise their own kinds
            raise ModelError(f"the original fails on sample {index}: {_say(error)}", where=self.reference) from None


def _fold_batch(value: Any, name: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise ModelError(f"output {name!r} is not an array of numbers") from None
    return array[0] if array.ndim and array.shape[0] == 1 else array


def _say(error: BaseException) -> str:
    """An exception of a library as one short clause."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:\s*)?", "", text)
    text = text if len(text) <= 300 else f"{text[:300]} …"
    return text or type(error).__name__


# -------------------------------------------------------------------------------------------------------- opening


def open_model(
    reference: str,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    weights: str = "default",
    workdir: str | Path,
    statistics: NDArray[np.float32] | None = None,
) -> ModelSource:
    """Find out what a reference means and make it ready.

    Args:
        reference: see the table at the top of this module.
        shapes: one per input, in order: (3, 224, 224), or (1, 3, 224, 224) with the batch axis. Needed where the model
            does not fix them; torchvision's and timm's models have a size they were trained for.
        weights: for torch models: ``default`` (the library's best, downloaded where need be), ``none`` (random, the
            same every time), or a file with a state_dict (.pth, .safetensors).
        workdir: an existing folder; torch models are traced into it.
        statistics: float32 (N, 3, H, W), preprocessed images; with ``weights="none"`` the batch-norm statistics of the
            random network are set from them. See :func:`set_batchnorm_statistics`.

    Raises:
        ModelError: the reference, its weights or the shapes cannot be used.
        FormatError: a ``.param`` file is corrupt.
        StorageError: ``workdir`` cannot be written.
    """
    path = Path(reference)
    opener = _FILES.get(path.suffix.lower())
    shapes = [tuple(shape) for shape in shapes]
    if opener is not None:
        if not path.is_file():
            raise ModelError("no such file", where=reference)
        if weights != "default":
            raise ModelError("--weights is for torch models: this file holds its own", where=reference)
        return opener(reference, path, shapes)
    if path.exists():
        raise ModelError("is not a model ncnnkit reads", where=reference, hint=f"one of {', '.join(_FILES)}")
    library, colon, name = reference.partition(":")
    if not (colon and library and name):
        raise ModelError(
            "no such file or model", where=reference, hint="a path, torchvision:NAME, timm:NAME or package.module:function"
        )
    torch = _import_torch(reference)
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        found = _BUILDERS.get(library, _build_from_module)(reference, weights)
        return _trace(reference, found, shapes, Path(workdir), statistics if weights == "none" else None)


def _import_torch(reference: str) -> Any:
    try:
        import torch
    except ImportError:
        raise ModelError("torch is not installed", where=reference, hint=_TORCH_HINT) from None
    return torch


@contextmanager
def _quiet() -> Iterator[None]:
    # Deprecations inside torch are no news to someone converting a model; errors are raised all the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _file_safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


Dims = tuple[Any, ...]
"""An input's dimensions with the batch axis; what is not an integer above zero is dynamic."""


def _settle_inputs(
    reference: str, names: Sequence[str], dims: Sequence[Dims | None], dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> tuple[InputSpec, ...]:
    """The inputs with the shapes the user gave; ``dims`` is None where not even the rank is known."""
    if shapes and len(shapes) != len(names):
        raise ModelError(
            f"{len(shapes)} shapes are given for {len(names)} inputs ({', '.join(names)})",
            where=reference,
            hint="one --shape per input, in this order",
        )
    given: Sequence[tuple[int, ...] | None] = shapes or [None] * len(names)
    return tuple(
        InputSpec(name, _settle_shape(f"{reference}: input {name!r}", known, shape), dtype)
        for name, known, dtype, shape in zip(names, dims, dtypes, given)
    )


def _settle_shape(where: str, known: Dims | None, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None and not (given and all(size > 0 for size in given)):
        raise ModelError(f"shape {_list(given)} is not usable", where=where)
    if known is None:
        if given is None:
            raise ModelError("its shape is not in the file", where=where, hint="give it, as in --shape 3,224,224")
        # Without a rank to compare with, only four dimensions say that the first is the batch axis.
        return given[1:] if len(given) == 4 and given[0] == 1 else given
    fixed = [size if isinstance(size, int) and size > 0 else None for size in known]
    shown = _list("?" if size is None else size for size in fixed)
    if not fixed or fixed[0] not in (None, 1):
        raise ModelError(
            f"is {shown or 'a scalar'}; the first dimension must be a batch axis of 1 or dynamic",
            where=where,
            hint="export the model with a batch of 1",
        )
    body = fixed[1:]
    if given is None:
        if None in body:
            example = _list(224 if size is None else size for size in body)
            raise ModelError(f"has dynamic dimensions ({shown})", where=where, hint=f"give them, as in --shape {example}")
        return tuple(size for size in body if size is not None)
    shape = given[1:] if len(given) == len(fixed) and given[0] == 1 else given
    if len(shape) != len(body) or any(size not in (None, ours) for size, ours in zip(body, shape)):
        raise ModelError(
            f"--shape {_list(given)} contradicts the model, which takes {_list(shown.split(',')[1:])}", where=where
        )
    return shape


def _list(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))


# -------------------------------------------------------------------------------------------------------- metadata

_PREPROCESS_KEY = "ncnnkit.preprocess"
_LABELS_KEY = "ncnnkit.labels"


def _read_metadata(
    reference: str, metadata: Mapping[str, str], inputs: tuple[InputSpec, ...]
) -> tuple[Preprocess | None, str, tuple[str, ...] | None]:
    """(preprocessing, where it was found, class names) from a model file's own metadata."""
    labels = None
    try:
        if _LABELS_KEY in metadata:
            labels = tuple(str(name) for name in json.loads(metadata[_LABELS_KEY]))
        elif "names" in metadata:  # Ultralytics writes a Python dict, class index -> name
            names = ast.literal_eval(metadata["names"])
            labels = tuple(str(names[i]) for i in range(len(names)))
        if _PREPROCESS_KEY in metadata:
            found = Preprocess.from_dict(json.loads(metadata[_PREPROCESS_KEY]))
            return _fit(found, inputs), f"the model's own metadata ({_PREPROCESS_KEY})", labels
    except (ValueError, SyntaxError, TypeError, AttributeError, LookupError, NcnnkitError) as error:
        raise ModelError(f"its metadata cannot be read: {_say(error)}", where=reference) from None
    if {"names", "task"} <= metadata.keys() and _takes_image(inputs):
        size = (inputs[0].shape[1], inputs[0].shape[2])
        if metadata["task"] == "classify":
            return Preprocess(resize=min(size), crop=size), "Ultralytics' metadata in the model", labels
        return Preprocess(resize=size), "Ultralytics' metadata in the model, stretching where it letterboxes", labels
    return None, "", labels


def _takes_image(inputs: Sequence[InputSpec]) -> bool:
    return len(inputs) == 1 and len(inputs[0].shape) == 3 and inputs[0].shape[0] in (1, 3)


def _fit(preprocess: Preprocess | None, inputs: Sequence[InputSpec]) -> Preprocess | None:
    if preprocess is None or not _takes_image(inputs):
        return preprocess
    return preprocess.fitted(inputs[0].shape[1], inputs[0].shape[2])


# ------------------------------------------------------------------------------------------------------------ files


def _open_onnx(reference: str, path: Path, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
    session = _onnx_session(path)
    given = session.get_inputs()
    names, outputs = [i.name for i in given], tuple(o.name for o in session.get_outputs())
    dtypes = [_onnx_dtype(reference, i.name, i.type) for i in given]
    inputs = _settle_inputs(reference, names, [tuple(i.shape) for i in given], dtypes, shapes)
    metadata = session.get_modelmeta().custom_metadata_map
    preprocess, origin, labels = _read_metadata(reference, metadata, inputs)

    def run(sample: list[Array]) -> list[Any]:
        return list(session.run(None, dict(zip(names, sample))))

    return ModelSource(
        reference, _file_safe(path.stem), "onnx", path, inputs, outputs, "onnxruntime", preprocess, origin, labels, run
    )


def _onnx_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4  # 3 prints every error to stderr beside raising it
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a family of its own, derived from Exception
        raise ModelError(f"ONNX Runtime cannot load it: {_say(error)}", where=str(path)) from None


def _onnx_dtype(reference: str, name: str, kind: str) -> str:
    """``tensor(float)`` -> ``float32``."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(inner, inner)
    try:
        return np.dtype(dtype).name if inner != "string" else ""[1]
    except (TypeError, IndexError):
        raise ModelError(f"input {name!r} takes {kind}, which ncnn cannot", where=reference) from None


def _open_torchscript(reference: str, path: Path, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
    metadata, traced = _read_archive(reference, path)
    try:
        module = _load_torchscript(path)
    except ImportError:
        module = None
    # The inputs have no names that can be read without torch: pnnx's own are used.
    if traced:
        dims: list[Dims | None] = [shape for shape, _ in traced]
        dtypes = [dtype for _, dtype in traced]
    else:
        count = _forward_inputs(module) or max(1, len(shapes))
        dims, dtypes = [None] * count, ["float32"] * count
    names = [f"in{i}" for i in range(len(dims))]
    inputs = _settle_inputs(reference, names, dims, dtypes, shapes)
    preprocess, origin, labels = _read_metadata(reference, metadata, inputs)
    run = None if module is None else _torch_run(module)
    # Without torch nobody can say how many outputs there are until pnnx has read the file.
    outputs = tuple(_named_outputs(reference, module, _example(inputs))) if module is not None else ()
    return ModelSource(
        reference,
        _file_safe(path.stem),
        "torchscript",
        path,
        inputs,
        outputs,
        "ncnn" if module is None else "torch",
        preprocess,
        origin,
        labels,
        run,
    )


def _load_torchscript(path: Path) -> Any:
    import torch

    try:
        with _quiet():
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"torch cannot load it: {_say(error)}", where=str(path)) from None


def _forward_inputs(module: Any) -> int:
    return 0 if module is None else len(list(module.graph.inputs())) - 1


def _read_archive(reference: str, path: Path) -> tuple[dict[str, str], list[tuple[Dims, str]] | None]:
    """A TorchScript archive's extra files, and the shapes and types it was traced with, where it was; without torch."""
    metadata: dict[str, str] = {}
    traced = None
    try:
        with zipfile.ZipFile(path) as archive:
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
                with archive.open(names["traced_inputs.pkl"]) as file:
                    traced = _TracedInputs(file).shapes()
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, NotImplementedError):
        raise ModelError(
            "is not a TorchScript file, or is damaged", where=reference, hint="save it with torch.jit.trace(...).save(...)"
        ) from None
    if "config.txt" in metadata:  # Ultralytics keeps its metadata there
        try:
            more = json.loads(metadata["config.txt"])
            metadata.update({str(k): v if isinstance(v, str) else repr(v) for k, v in more.items()})
        except (ValueError, AttributeError):
            pass  # another program's file of that name
    return metadata, traced


class _TracedInputs(pickle.Unpickler):
    """Reads the shapes out of ``traced_inputs.pkl``; every name in it stands for one of these, so nothing is run."""

    _DTYPES: Mapping[str, str] = {
        "FloatStorage": "float32", "HalfStorage": "float16", "DoubleStorage": "float64", "LongStorage": "int64",
        "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "_rebuild_tensor_v2": lambda storage, offset, size, *rest: (tuple(size), storage),
            "restore_type_tag": lambda value, tag: value,
            "OrderedDict": dict,
            **self._DTYPES,
        }
        if name not in known:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return known[name]

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]  # ('storage', type, key, device, count)

    def shapes(self) -> list[tuple[Dims, str]] | None:
        """(dimensions with batch axis, type) of each input; None where something other than tensors was traced."""
        try:
            return [(tuple(map(int, shape)), str(dtype)) for shape, dtype in self.load()["forward"]] or None
        except (pickle.UnpicklingError, TypeError, ValueError, LookupError):
            return None


def _open_ncnn(reference: str, path: Path, shapes: Sequence[tuple[int, ...]]) -> ModelSource:
    graph = ncnnfile.load_param(path)
    dims: list[Dims | None] = [(1, *shape) if shape else None for shape in graph.input_shapes()]
    inputs = _settle_inputs(reference, graph.inputs, dims, ["float32"] * len(dims), shapes)
    return ModelSource(reference, _file_safe(path.stem), "ncnn", path, inputs, tuple(graph.outputs), "ncnn")


_FILES: dict[str, Callable[[str, Path, Sequence[tuple[int, ...]]], ModelSource]] = {
    ".onnx": _open_onnx,
    ".pt": _open_torchscript,
    ".pth": _open_torchscript,
    ".torchscript": _open_torchscript,
    ".param": _open_ncnn,
}


# ------------------------------------------------------------------------------------------------------------ torch


@dataclass(frozen=True)
class _Built:
    """A module and what its library knows about it."""

    module: Any
    name: str
    preprocess: Preprocess | None = None
    origin: str = ""
    labels: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None  # of its one input, where the library knows


def _build_from_torchvision(reference: str, weights: str) -> _Built:
    try:
        from torchvision import models
    except ImportError:
        raise ModelError("torchvision is not installed", where=reference, hint=_TORCH_HINT) from None
    name = reference.partition(":")[2]
    try:
        builder, members = models.get_model_builder(name), models.get_model_weights(name)
    except ValueError:
        raise _unknown("torchvision", reference, models.list_models()) from None
    best = getattr(members, "DEFAULT", None)
    # A checkpoint under the name torchvision gave it was trained with that checkpoint's preprocessing.
    member = next((m for m in members if Path(m.url).name == Path(weights).name), best)
    # Segmentation networks would download weights for their backbone even where weights=None.
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}

    def build(**changes: Any) -> Any:
        return builder(weights=None, **backbone, **changes)

    if weights == "default":
        if best is None:
            raise ModelError("torchvision has no weights for it", where=reference, hint="--weights none or --weights FILE")
        module = _download_torchvision(reference, builder, best)
    else:
        module = build() if weights == "none" else _load_weights(reference, build, Path(weights))
    preprocess = from_torchvision(member)
    labels = tuple(member.meta.get("categories", ())) if member is not None else ()
    return _Built(
        module,
        name,
        preprocess,
        f"torchvision's preset for {member}" if preprocess else "",
        labels or None,
        _default_shape(preprocess),
    )


def _default_shape(preprocess: Preprocess | None) -> tuple[int, ...]:
    size: Any = preprocess and (preprocess.crop or preprocess.resize)
    return (3, *((size, size) if isinstance(size, int) else size or (224, 224)))


def _download_torchvision(reference: str, builder: Any, member: Any) -> Any:
    import torch

    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / Path(member.url).name
    if not file.is_file():
        _require_reachable(
            reference, member.url, f"the weights {file.name}", f"put the file into {folder}, or give --weights FILE or none"
        )
    try:
        return builder(weights=member)
    except Exception as error:  # a broken download: URL, hash and pickle errors
        raise ModelError(
            f"the weights {file.name} cannot be loaded: {_say(error)}", where=reference, hint=f"delete {file} and try again"
        ) from None


def _build_from_timm(reference: str, weights: str) -> _Built:
    try:
        import timm
    except ImportError:
        raise ModelError("timm is not installed", where=reference, hint=_TORCH_HINT) from None
    name = reference.partition(":")[2]
    if not timm.is_model(name):
        raise _unknown("timm", reference, timm.list_models())

    def build(**changes: Any) -> Any:
        return timm.create_model(name, **changes)

    try:
        if weights in ("default", "none"):
            module = build()
        else:
            module = _load_weights(reference, build, Path(weights))
        if weights == "default":
            module = build(pretrained=True, pretrained_cfg_overlay=_find_timm_weights(reference, module.pretrained_cfg))
    except NcnnkitError:
        raise
    except Exception as error:  # bad tags, removed checkpoints, failed downloads
        raise ModelError(f"timm cannot build it: {_say(error)}", where=reference) from None
    config = timm.data.resolve_model_data_config(module)
    preprocess = from_timm(config)
    return _Built(
        module,
        _file_safe(name),
        preprocess,
        f"timm's data config for {name}" if preprocess else "",
        _timm_labels(timm, module),
        tuple(config["input_size"]),
    )


def _find_timm_weights(reference: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What to change in timm's pretrained config: the cached file, so that nothing asks the network about it."""
    import huggingface_hub

    repo, url = config.get("hf_hub_id"), config.get("url")
    file = config.get("hf_hub_filename") or "model.safetensors"
    if repo:
        for candidate in (file, "model.safetensors", "pytorch_model.bin"):
            cached = huggingface_hub.try_to_load_from_cache(repo, candidate)
            if isinstance(cached, str):
                return {"file": cached}
        # The hub's client retries a dead network for most of a minute; one request settles it.
        _require_reachable(
            reference,
            huggingface_hub.hf_hub_url(repo, file),
            f"the weights {file} of {repo}",
            f"download {file} of {repo} from the Hugging Face hub and give --weights FILE, or --weights none",
        )
    elif url:
        import torch

        checkpoint = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        if not checkpoint.is_file():
            hint = f"put the file into {checkpoint.parent}, or give --weights FILE or none"
            _require_reachable(reference, url, f"the weights {checkpoint.name}", hint)
    else:
        raise ModelError("timm has no weights for it", where=reference, hint="--weights none or --weights FILE")
    return {}


def _timm_labels(timm: Any, module: Any) -> tuple[str, ...] | None:
    subset = timm.data.infer_imagenet_subset(module)
    if not subset:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(str(info.index_to_description(i)) for i in range(info.num_classes()))


def _build_from_module(reference: str, weights: str) -> _Built:
    import torch

    module_name, _, attribute = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does; it stays, the function may import more later
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)

        def build() -> Any:
            return found if isinstance(found, torch.nn.Module) else found()

        module = build() if weights in ("default", "none") else _load_weights(reference, build, Path(weights))
    except NcnnkitError:
        raise
    except Exception as error:  # the user's own code: whatever it raises is the message
        raise ModelError(f"{type(error).__name__}: {_say(error)}", where=reference) from None
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"gives {type(module).__name__}, not a torch.nn.Module", where=reference)
    return _Built(module, _file_safe(attribute))


_BUILDERS: dict[str, Callable[[str, str], _Built]] = {"torchvision": _build_from_torchvision, "timm": _build_from_timm}


def _unknown(library: str, reference: str, names: Iterable[str]) -> ModelError:
    close = difflib.get_close_matches(reference.partition(":")[2], list(names), 3)
    hint = f"did you mean {', '.join(close)}?" if close else ""
    return ModelError(f"{library} has no such model", where=reference, hint=hint)


def _require_reachable(reference: str, url: str, what: str, hint: str) -> None:
    """Ask once whether a file can be downloaded. Raises ModelError."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_DOWNLOAD_SECONDS).close()
    except (OSError, HTTPException, ValueError) as error:
        reason = _say(getattr(error, "reason", None) or error)
        raise ModelError(f"{what} cannot be downloaded ({reason})", where=reference, hint=hint) from None


def _load_weights(reference: str, build: Callable[..., Any], path: Path) -> Any:
    """A module with the state_dict of a file, built with as many classes as the file has."""
    state = _read_state(reference, path)
    module = build()
    own = module.state_dict()
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    if other and "num_classes" in inspect.signature(build).parameters or other and _takes_changes(build):
        # A fine-tuned checkpoint: the classifier, last in every library's state_dict, has its number of classes.
        module = build(num_classes=int(state[other[-1]].shape[0]))
        own = module.state_dict()
        other = [key for key in own if key in state and state[key].shape != own[key].shape]
    problems = [
        f"{len(keys)} {what} ({keys[0]} …)"
        for what, keys in (
            ("missing", [key for key in own if key not in state]),
            ("not of this model", [key for key in state if key not in own]),
            ("of another shape", other),
        )
        if keys
    ]
    if problems:
        raise ModelError(f"the weights do not fit the model: {', '.join(problems)}", where=str(path))
    module.load_state_dict(state)
    return module


def _takes_changes(build: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(build).parameters.values())


def _read_state(reference: str, path: Path) -> dict[str, Any]:
    import torch

    if not path.is_file():
        raise ModelError("no such file", where=str(path), hint="--weights default, none or a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise ModelError("safetensors is not installed", where=str(path), hint="pip install safetensors") from None
    except Exception as error:  # zip, pickle, safetensors: each its own
        reason = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else _say(error)
        raise ModelError(
            f"cannot be read as weights: {reason}", where=str(path), hint="save model.state_dict() alone"
        ) from None
    # What training scripts wrap it in.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError("does not hold a state_dict", where=str(path), hint="save model.state_dict() alone")
    for prefix in ("module.", "_orig_mod."):  # DataParallel, torch.compile
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def set_batchnorm_statistics(module: Any, batches: Iterable[Any]) -> None:
    """Give a network with random weights batch-norm statistics of real inputs, in place.

    Untrained, a deep network maps all images to nearly the same outputs: its layers' means and variances are not the
    ones its batch-norm layers assume. This is what the first epoch of training would mend first.

    Args:
        module: a ``torch.nn.Module``; only its batch-norm layers change, and it is left in evaluation mode.
        batches: float32 arrays or tensors (B, 3, H, W), each of two samples or more; the statistics are the plain mean
            over the batches' (cumulative, no momentum).
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    module.eval()  # only the batch-norm layers learn: no dropout, no auxiliary outputs
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            for batch in batches if norms else ():
                module(torch.as_tensor(batch))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        module.eval()


def _batches(samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    if len(samples) < 2:
        raise ModelError("random weights need two images or more to set the batch-norm statistics from")
    return np.array_split(samples, max(1, len(samples) // _STATISTICS_BATCH))


def _trace(
    reference: str,
    built: _Built,
    shapes: Sequence[tuple[int, ...]],
    workdir: Path,
    statistics: NDArray[np.float32] | None,
) -> ModelSource:
    """Write a module as TorchScript.

    Of the two ways into pnnx, tracing was chosen: over ResNet50, MobileNetV2, MobileNetV3, RegNetY and EfficientNet both
    give equally exact networks, but from a trace come Pooling and InnerProduct layers where the ONNX exporter's graph
    gives Reduction, Reshape and 1x1 Convolution, and it needs neither onnx nor onnxscript.
    """
    import torch

    module = built.module.eval()
    given = shapes or ([built.shape] if built.shape else [])
    if not given:
        raise ModelError("the shape of its input is not known", where=reference, hint="give it, as in --shape 3,224,224")
    names = _forward_names(module, len(given))
    inputs = _settle_inputs(reference, names, [None] * len(given), ["float32"] * len(given), given)
    example = _example(inputs)
    try:
        if statistics is not None:
            set_batchnorm_statistics(module, _batches(statistics))
        outputs = _named_outputs(reference, module, example)
        with torch.no_grad():
            # The traced network is compared with the original later, on real images: no check of torch's own here.
            traced = torch.jit.trace(_Flat(module), tuple(example), check_trace=False)
    except NcnnkitError:
        raise
    except Exception as error:
        shown = " and ".join(_list(spec.shape) for spec in inputs)
        raise ModelError(f"torch cannot trace it with input {shown}: {_say(error)}", where=reference) from None
    path = workdir / f"{built.name}.pt"
    try:
        traced.save(str(path))
    except (RuntimeError, OSError) as error:
        raise StorageError(f"cannot be written: {_say(error)}", where=str(path)) from None
    preprocess = _fit(built.preprocess, inputs)
    scaled = "" if preprocess == built.preprocess else f", scaled to {inputs[0].shape[1]}x{inputs[0].shape[2]}"
    return ModelSource(
        reference,
        built.name,
        "torchscript",
        path,
        inputs,
        tuple(outputs),
        "torch",
        preprocess,
        built.origin + scaled,
        _labels_that_fit(built.labels, outputs),
        _torch_run(module),
    )
