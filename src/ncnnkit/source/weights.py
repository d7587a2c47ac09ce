"""Weights of torch models: reads them from a file, and checks whether they can be downloaded."""

from __future__ import annotations

import inspect
import os
import pickle
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..onboard.userfiles import open_regular
from .model import require_file, say

_DOWNLOAD_SECONDS = 10.0


def require_reachable(reference: str, url: str, what: str, hint: str) -> None:
    """Check with one request that a file can be downloaded. Raises ModelError if not; ``what`` names the file."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_DOWNLOAD_SECONDS).close()
    except (OSError, HTTPException, ValueError) as error:
        reason = say(getattr(error, "reason", None) or error)
        raise ModelError(f"{what} cannot be downloaded ({reason})", where=reference, hint=hint) from None


def load_weights(build: Callable[..., Any], path: Path) -> Any:
    """Build a module and load the state_dict of a file into it.

    Args:
        build: makes the module. If the file has another number of classes and ``build`` has parameters, it is called
            with ``num_classes``.
        path: a file of ``torch.save`` or safetensors.

    Raises:
        ModelError: the file cannot be read, or does not fit the module.
    """
    state = _read_state(path)
    module = build()
    own = module.state_dict()
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    if other and inspect.signature(build).parameters:
        # A fine-tuned checkpoint: its classifier, the last entry of a state_dict, has another number of classes.
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


COMPRESSED = 64 << 20
"""Bytes that the compressed members of a file of torch may have together when they are unpacked."""


def require_stored(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a file of torch that says it holds much more than it can.

    torch stores weights and code as they are, and compresses only what helps to debug. What members declare is the
    memory that torch takes for them.

    Raises:
        ModelError: members that are not compressed declare more than the file has, or the others too much.
    """
    sizes = {True: 0, False: 0}
    for info in archive.infolist():
        sizes[info.compress_type == zipfile.ZIP_STORED] += info.file_size
    if sizes[True] > path.stat().st_size or sizes[False] > COMPRESSED:
        what = f"would take {sum(sizes.values()) / 1e6:.0f} MB when it is unpacked, which torch's own files do not"
        raise ModelError(what, where=str(path), hint="save it with torch")


@contextmanager
def only_tensors() -> Iterator[None]:
    """Make every ``torch.load`` refuse a pickle that holds more than tensors, also those of other libraries."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _read_state(path: Path) -> dict[str, Any]:
    require_file(path, "--weights default, none or a file")
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            require_stored(archive, path)
    except (zipfile.BadZipFile, OSError, LookupError, ValueError):
        pass  # an older format of torch, or safetensors; or it is damaged, and the library says how
    import torch  # takes a moment, so the file is looked at first

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise ModelError("safetensors is not installed", where=str(path), hint="pip install safetensors") from None
    except Exception as error:  # zip, pickle and safetensors raise exceptions of their own
        reason = "it holds more than tensors" if isinstance(error, pickle.UnpicklingError) else say(error)
        raise ModelError(
            f"cannot be read as weights: {reason}", where=str(path), hint="save model.state_dict() only"
        ) from None
    # Training scripts wrap the state_dict in another dict.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError("does not contain a state_dict", where=str(path), hint="save model.state_dict() only")
    for prefix in ("module.", "_orig_mod."):  # DataParallel, torch.compile
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)
