"""Models built by code: torchvision's, timm's and the user's own."""

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
    """A module and what its library knows about it."""

    module: Any
    name: str
    preprocess: Preprocess | None = None
    origin: str = ""
    labels: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None  # of its one input, where the library knows
    classifies: bool = False  # as far as the library knows


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
    # A checkpoint under the name torchvision gave it was trained with that checkpoint's preprocessing.
    member = next((m for m in members if Path(m.url).name == Path(weights).name), best)
    # Segmentation networks would download weights for their backbone even where weights=None.
    fixed: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(builder).parameters:
        fixed["weights_backbone"] = None
    # Trained ones normalise once more inside; torchvision switches that on with its own weights only.
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
    """What ``package.module:function`` names: a module, or what a function or class without arguments makes.

    Raises:
        ModelError: it cannot be imported or made, is no ``torch.nn.Module``, or the weights do not fit it.
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
    except Exception as error:  # the user's own code: whatever it raises is the message
        raise ModelError(f"{type(error).__name__}: {say(error)}", where=reference) from None
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"gives {type(module).__name__}, not a torch.nn.Module", where=reference)
    return Built(module, file_safe(reference.partition(":")[2]))


def require_defined(reference: str) -> None:
    """See that the name in ``package.module:name`` is there, as far as the module's file tells without being run.

    A file in the current folder is read. Nothing is said of other modules, nor where the file imports all of another.

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
    """The reference of what most probably builds the network in a Python file, such as ``nets.mynet:build``.

    That is the first public function, or else class, that needs no arguments; ``build`` if there is none, or the file
    cannot be parsed.
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


def open_module(
    reference: str,
    built: Built,
    shapes: Sequence[tuple[int, ...]],
    statistics: NDArray[np.float32] | None,
) -> ModelSource:
    """A module as an original. It is run once, which names its outputs; a route exports it later.

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
            hint="wrap it in a module that returns what its outputs are computed from",
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
    """A fine-tuned network has other classes than the ones its library knows."""
    return labels if labels and sizes == [len(labels)] else None
