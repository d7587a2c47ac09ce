"""Models built by code: models of torchvision and timm, and the user's own."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, NcnnkitError, meant
from ..formatting import shape_option
from ..importing import NotThere, imported
from ..samples.items import fit
from ..samples.preprocess import Preprocess
from ..samples.presets import from_timm, from_torchvision
from .model import ModelSource, file_safe, listed, say, settle_inputs
from .torchrun import TORCH_HINT, example_inputs, forward_names, torch_run, watched_outputs
from .weights import load_weights, only_tensors, require_reachable

_STATISTICS_BATCH = 16


@dataclass(frozen=True)
class Built:
    """A module, and what its library knows about it.

    Attributes:
        module: a ``torch.nn.Module``.
        name: safe in file names.
        preprocess: of its images; None if unknown.
        origin: where the preprocessing was found; empty if unknown.
        labels: class names by index; None if unknown.
        shape: of its only input, without the batch axis; None if unknown.
        classifies: whether the library knows it as a classifier.
    """

    module: Any
    name: str
    preprocess: Preprocess | None = None
    origin: str = ""
    labels: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    classifies: bool = False


def _build_from_torchvision(reference: str, weights: str) -> Built:
    try:
        from torchvision import models
    except ImportError:
        raise ModelError("torchvision is not installed", where=reference, hint=TORCH_HINT) from None
    name = reference.partition(":")[2]
    try:
        builder, members = models.get_model_builder(name), models.get_model_weights(name)
    except ValueError:
        raise _unknown("torchvision", reference, models.list_models()) from None
    best = getattr(members, "DEFAULT", None)
    # A file with the name of one of torchvision's checkpoints needs the preprocessing of that checkpoint.
    member = next((m for m in members if Path(m.url).name == Path(weights).name), best)
    # Segmentation networks download weights for their backbone even if weights=None.
    fixed: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(builder).parameters:
        fixed["weights_backbone"] = None
    # The trained weights of these need a second normalisation, inside the network. torchvision switches it on only for
    # weights that it loads itself.
    if name in ("googlenet", "inception_v3"):
        fixed.update(transform_input=True, init_weights=weights == "none")

    def build(**changes: Any) -> Any:
        return builder(weights=None, **fixed, **changes)

    if weights == "default":
        if best is None:
            raise ModelError(
                "torchvision has no weights for it", where=reference, hint="--weights none or --weights FILE"
            )
        module = _download_torchvision(reference, builder, best)
    else:
        module = build() if weights == "none" else load_weights(build, Path(weights))
    preprocess = from_torchvision(member)
    labels = tuple(member.meta.get("categories", ())) if member is not None else ()
    return Built(
        module,
        name,
        preprocess,
        f"torchvision's preset for {member}" if preprocess else "",
        labels or None,
        _default_shape(preprocess),
        member is not None and "Classification" in type(member.transforms()).__name__,
    )


def _default_shape(preprocess: Preprocess | None) -> tuple[int, ...]:
    size: Any = preprocess and (preprocess.crop or preprocess.resize)
    return (3, *((size, size) if isinstance(size, int) else size or (224, 224)))


def _download_torchvision(reference: str, builder: Any, member: Any) -> Any:
    import torch

    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / Path(member.url).name
    if not file.is_file():
        require_reachable(
            reference,
            member.url,
            f"the weights {file.name}",
            f"put the file into {folder}, or give --weights FILE or none",
        )
    try:
        with only_tensors():
            return builder(weights=member)
    except Exception as error:  # a broken download: URL, hash and pickle errors
        raise ModelError(
            f"the weights {file.name} cannot be loaded: {say(error)}",
            where=reference,
            hint=f"delete {file} and try again",
        ) from None


def _build_from_timm(reference: str, weights: str) -> Built:
    try:
        import timm
    except ImportError:
        raise ModelError("timm is not installed", where=reference, hint=TORCH_HINT) from None
    name = reference.partition(":")[2]
    if not timm.is_model(name):
        raise _unknown("timm", reference, timm.list_models())

    def build(**changes: Any) -> Any:
        return timm.create_model(name, **changes)

    try:
        if weights == "default":
            found = _find_timm_weights(reference, timm.get_pretrained_cfg(name).to_dict())
            with only_tensors():
                module = build(pretrained=True, pretrained_cfg_overlay=found)
        else:
            module = build() if weights == "none" else load_weights(build, Path(weights))
    except NcnnkitError:
        raise
    except Exception as error:  # bad tags, removed checkpoints, failed downloads
        raise ModelError(f"timm cannot build it: {say(error)}", where=reference) from None
    config = timm.data.resolve_model_data_config(module)
    preprocess = from_timm(config)
    return Built(
        module,
        file_safe(name),
        preprocess,
        f"timm's data config for {name}" if preprocess else "",
        _timm_labels(timm, module),
        tuple(config["input_size"]),
        bool(getattr(module, "num_classes", 0)),
    )


def _find_timm_weights(reference: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Changes to timm's pretrained config: the path of the cached file, so that no request is made for it."""
    import huggingface_hub

    repo, url = config.get("hf_hub_id"), config.get("url")
    file = config.get("hf_hub_filename") or "model.safetensors"
    if repo:
        for candidate in (file, "model.safetensors", "pytorch_model.bin"):
            cached = huggingface_hub.try_to_load_from_cache(repo, candidate)
            if isinstance(cached, str):
                return {"file": cached}
        # Without a network, the hub's client retries for most of a minute. One request is enough to know.
        require_reachable(
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
            require_reachable(reference, url, f"the weights {checkpoint.name}", hint)
    else:
        raise ModelError("timm has no weights for it", where=reference, hint="--weights none or --weights FILE")
    return {}


def _timm_labels(timm: Any, module: Any) -> tuple[str, ...] | None:
    subset = timm.data.infer_imagenet_subset(module)
    if not subset:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(str(info.index_to_description(i)) for i in range(info.num_classes()))


def build_from_module(reference: str, weights: str) -> Built:
    """The module that ``package.module:name`` names. A function or class is called without arguments to make it.

    Args:
        reference: ``package.module:name``.
        weights: ``default`` or ``none`` (the module as it is), or a file with a state_dict.

    Raises:
        ModelError: it cannot be imported or made, is not a ``torch.nn.Module``, or the weights do not fit it.
    """
    import torch

    try:
        found = imported(reference)

        def build() -> Any:
            return found if isinstance(found, torch.nn.Module) else found()

        module = build() if weights in ("default", "none") else load_weights(build, Path(weights))
    except NcnnkitError:
        raise
    except NotThere as error:
        raise ModelError(str(error), where=reference, hint=meant(error.name, error.known)) from None
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{type(error).__name__}: {say(error)}", where=reference) from None
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"gives {type(module).__name__}, not a torch.nn.Module", where=reference)
    return Built(module, file_safe(reference.partition(":")[2]))


def require_defined(reference: str) -> None:
    """Check that the name in ``package.module:name`` is defined, without running the module.

    Only a file in the current folder is checked. Nothing is checked if it has a ``*`` import or a ``__getattr__``.

    Raises:
        ModelError: the file defines no such name.
    """
    module, _, name = reference.partition(":")
    try:
        body = ast.parse(Path(*module.split(".")).with_suffix(".py").read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    nodes = [node for statement in body for node in ast.walk(statement)]
    known = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    known |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    taken = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    known |= {(alias.asname or alias.name).partition(".")[0] for alias in taken}
    first = name.partition(".")[0]
    if not {first, "*", "__getattr__"} & known:
        raise ModelError(str(NotThere(module, first, [])), where=reference, hint=meant(first, known))


def builder_in(path: Path) -> str:
    """A guess of the reference that builds the network in a Python file, such as ``nets.mynet:build``.

    It names the first public function that needs no arguments; if there is none, the first public class; if there is
    none either, or the file cannot be parsed, ``build``.
    """
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        body = []
    functions = [
        node.name for node in body
        if isinstance(node, ast.FunctionDef) and len(node.args.args) <= len(node.args.defaults)
        and None not in node.args.kw_defaults
    ]  # fmt: skip
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    public = [name for name in (*functions, *classes) if not name.startswith("_")]
    inside = path.resolve().is_relative_to(Path.cwd())
    module = path.resolve().relative_to(Path.cwd()).with_suffix("") if inside else Path(path.stem)
    return f"{'.'.join(module.parts)}:{public[0] if public else 'build'}"


BUILDERS: dict[str, Callable[[str, str], Built]] = {"torchvision": _build_from_torchvision, "timm": _build_from_timm}


def _unknown(library: str, reference: str, names: Iterable[str]) -> ModelError:
    hint = meant(reference.partition(":")[2], names)
    return ModelError(f"{library} has no such model", where=reference, hint=hint)


def set_batchnorm_statistics(module: Any, batches: Iterable[Any]) -> None:
    """Set the batch-norm statistics of a network with random weights from real inputs, in place.

    An untrained deep network maps all images to nearly the same outputs, because the means and variances of its
    activations are not those that its batch-norm layers assume. The first steps of training would correct that.

    Args:
        module: a ``torch.nn.Module``. Only its batch-norm layers change; it is left in evaluation mode.
        batches: float32 arrays or tensors (B, 3, H, W), each with two samples or more. The new statistics are the mean
            of the statistics of the batches (cumulative, without momentum).
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    module.eval()  # only batch-norm layers are in training mode: no dropout, no auxiliary outputs
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


def open_module(
    reference: str,
    built: Built,
    shapes: Sequence[tuple[int, ...]],
    statistics: NDArray[np.float32] | None,
) -> ModelSource:
    """Make an original from a module. The module is run once, to learn its outputs; a route exports it later.

    Args:
        reference: as the user typed it.
        built: the module.
        shapes: of the inputs; empty for the library's default.
        statistics: float32 (N, 3, H, W), see :func:`set_batchnorm_statistics`; None to keep the module's.

    Raises:
        ModelError: the shapes are missing or do not fit, or the module fails on them.
    """
    module = built.module.eval()
    given = shapes or ([built.shape] if built.shape else [])
    if not given:
        raise ModelError(
            "the shape of its input is unknown", where=reference, hint=f"give it, such as {shape_option(3, 224, 224)}"
        )
    names = forward_names(module, len(given))
    inputs = settle_inputs(reference, names, [None] * len(given), ["float32"] * len(given), given)
    try:
        if statistics is not None:
            set_batchnorm_statistics(module, _batches(statistics))
        outputs, searches = watched_outputs(module, example_inputs(inputs))
    except NcnnkitError:
        raise
    except Exception as error:
        shown = " and ".join(listed(spec.shape) for spec in inputs)
        raise ModelError(f"torch cannot run it with input {shown}: {say(error)}", where=reference) from None
    empty = [name for name, tensor in outputs.items() if not tensor.numel()]
    if (empty or not outputs) and not searches:
        raise ModelError(
            f"returns {'an empty ' + repr(empty[0]) if empty else 'no tensor'} for a sample of noise",
            where=reference,
            hint="wrap it in a module that returns the tensors from which its outputs are computed",
        )
    sizes = [int(tensor.numel()) // max(1, len(tensor) if tensor.ndim else 1) for tensor in outputs.values()]
    preprocess = fit(built.preprocess, inputs)
    scaled = "" if preprocess == built.preprocess else f", scaled to {inputs[0].shape[1]}x{inputs[0].shape[2]}"
    return ModelSource(
        reference,
        built.name,
        "torch",
        None,
        inputs,
        tuple(outputs),
        "torch",
        preprocess,
        built.origin + scaled,
        built.labels if searches else _labels_that_fit(built.labels, sizes),
        torch_run(module),
        classes=sizes[0] if built.classifies and len(sizes) == 1 else None,
        module=module,
        searches=searches,
    )


def _labels_that_fit(labels: tuple[str, ...] | None, sizes: Sequence[int]) -> tuple[str, ...] | None:
    """The labels, if their number fits the only output. A fine-tuned network has other classes than its library."""
    return labels if labels and sizes == [len(labels)] else None
