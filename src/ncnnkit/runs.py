"""Whole runs in Python: :func:`run`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache.store import Store
from .errors import RecipeError
from .formatting import object_name, with_article
from .model.precision import PRECISIONS
from .pipeline import run as run_recipe
from .progress import StageProgress, silent_stages
from .recipe import AUTO, BACKENDS, KEYS, Objects, make_recipe
from .result import Result
from .samples.given import is_named
from .samples.preprocess import Preprocess

if TYPE_CHECKING:
    from .tasks import Task

_ONE_OR_SEVERAL = ("outputs", "on", "backends", "precisions", "engines", "require")
"""Options that take several words. One word may be given as a string."""


def run(
    model: str | Path | Any,
    *,
    images: str | Path | Mapping[str, Any] | Iterable[Any],
    eval_images: str | Path | Mapping[str, Any] | Iterable[Any] = "",
    labels: str | Path = "",
    preset: str = "",
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    task: str | type[Task] = "",
    metric: str | Callable[[Sequence[Any], Sequence[Any]], float] = "",
    require: str | Sequence[str] = (),
    max_latency: str = "",
    precisions: str | Sequence[str] = tuple(PRECISIONS),
    backends: str | Sequence[str] = BACKENDS,
    engines: str | Sequence[str] = (),
    on: str | Sequence[str] = (),
    effort: str = "default",
    method: str = AUTO,
    target: str = "",
    threads: int = 0,
    cluster: str = "",
    scheduler: str = "",
    seconds: float = 3.0,
    rounds: int = 5,
    sustained: float = 0.0,
    fix_clocks: bool = False,
    shapes: Sequence[tuple[int, ...]] = (),
    shape_too: Sequence[tuple[int, ...]] = (),
    weights: str | Path = "default",
    route: str = AUTO,
    outputs: str | Sequence[str] = (),
    fix: Mapping[str, float] | None = None,
    force: bool = False,
    out: str | Path = "ncnnkit-out",
    cache: bool = True,
    progress: bool | StageProgress = True,
) -> Result:
    """Convert a network to ncnn at every precision, measure and compare the models, and write a report.

    This does what the command ``ncnnkit run`` does, with the same options and defaults. ``--backend``, ``--precision``
    and ``--shape`` are ``backends``, ``precisions`` and ``shapes`` here. ``help(ncnnkit.run)`` lists the options that
    are not explained here.

    Args:
        model: what the command takes, such as ``model.onnx`` or ``torchvision:resnet50``, or a ``torch.nn.Module``,
            which needs ``shapes``. The module is not changed.
        images: samples for calibration. If there are no ``eval_images``, every fifth is held out for evaluation. One of

            - what the command takes: a folder, a list file, a ``.npy`` or ``.npz`` file, and for several inputs a
              mapping from their names to these;
            - a sequence of paths of images, recordings or arrays;
            - an array or tensor (N, …); for several inputs a sequence of these, or a mapping from their names to them;
            - an iterable of batches or single samples, such as a PyTorch DataLoader: each is an array, or a sequence
              that begins with one for each input (labels behind them are not used), or a mapping. It is read once, in
              order, and stored in temporary files.

            Image files are preprocessed. Arrays, also those of a ``.npy`` file, are not: they have the shape (N, *input
            shape), are converted to float32, and are fed to the network unchanged. The mean, std and divisor of
            ``preprocess`` apply to arrays, too, if they are given.
        eval_images: samples for evaluation, in the same forms.
        preprocess: a Preprocess, or a mapping from some of its fields to the values that replace the model's own.
        task: as for the command, or a subclass of ``ncnnkit.tasks.Task``.
        metric: as for the command, or the function itself. It takes the outputs of the model for one sample and those
            of the original, and returns a number: 1 if they are equal, and less if the model is worse. Both arguments
            are sequences with a float32 array for each output, without the batch axis.
        out: the run folder. If it holds an earlier run, the new run replaces it.
        cache: whether to take results of earlier runs that nothing has changed for, and to keep those of this run. See
            :mod:`ncnnkit.reuse`; latencies are always measured.
        progress: True shows the stages on stderr; False shows nothing; a function is called with (position, done,
            total).

    Returns:
        The result. ``result.folder`` holds the models and the report.

    Raises:
        VerificationError: no model is usable; ``out`` holds the report that says why, and ``open_run(out)`` reads it.
        NcnnkitError: any other error that a user can correct, such as ModelError, ImageError and RecipeError of
            ``ncnnkit.errors``; ``out`` is then unchanged.

    Example:
        >>> result = nk.run(
        ...     "model.onnx", images="calib/", require="cosine>=0.99", precisions=["fp32", "int8"], backends="cpu",
        ...     effort="fast", out="out", progress=False,
        ... )
        >>> result.best.accuracy.cosine >= 0.99
        True

        A network and samples of your own, and a figure of your own:

        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> loader = torch.utils.data.DataLoader(torch.rand(20, 3, 32, 32), batch_size=4)
        >>> def score(ours, theirs):
        ...     return 1 - abs(ours[0] - theirs[0]).mean()
        >>> result = nk.run(
        ...     network, shapes=[(3, 32, 32)], images=loader, metric=score, precisions=["fp32", "int8"],
        ...     backends="cpu", effort="fast", out="out-2", progress=False,
        ... )
        >>> result.best.accuracy.figure("score").value > 0.99
        True
    """
    options = {name: value for name, value in locals().items() if name in KEYS}
    objects = Objects(**{name: options[name] for name in _OBJECTS if not _is_named(name, options[name])})
    recipe = make_recipe({name: _as_text(name, value, objects) for name, value in options.items()})
    if not isinstance(out, str | Path):
        raise RecipeError(f"out must be a path, not {with_article(out)}")
    with _shown(progress) as shown:
        return Result(run_recipe(recipe, Path(out), shown, objects, Store() if cache else None), Path(out))


_OBJECTS = tuple(field.name for field in fields(Objects))


def _is_named(name: str, value: Any) -> bool:
    """Whether a recipe can hold a value."""
    return is_named(value) if name in ("images", "eval_images") else isinstance(value, str | Path)


def _as_text(name: str, value: Any, objects: Objects) -> Any:
    """An option in the form that a recipe holds."""
    if name in _OBJECTS and getattr(objects, name) is not None:
        return object_name(value)
    if isinstance(value, Preprocess):
        return value.to_dict()
    if name in _ONE_OR_SEVERAL and isinstance(value, str):
        return (value,)
    return value


def _shown(progress: bool | StageProgress) -> Any:
    """A context that gives the function which takes the progress."""
    if callable(progress):
        return nullcontext(progress)
    if not isinstance(progress, bool):
        raise RecipeError(f"progress must be True, False or a function, not {with_article(progress)}")
    if not progress:
        return nullcontext(silent_stages)
    from .printing import PlainConsole
    from .progress_on_console import shown_on

    # Rich takes a notebook for a terminal with colours, but a notebook would keep every state of a moving bar.
    return shown_on(PlainConsole(stderr=True, force_jupyter=False, force_terminal=sys.stderr.isatty()))


if run.__doc__:  # python -OO removes docstrings
    _head, _args, _rest = run.__doc__.partition("\n    Returns:")
    _options = [f"        {name}: {key.help}\n" for name, key in KEYS.items() if f"\n        {name}: " not in _head]
    run.__doc__ = "".join([_head, *_options, _args, _rest])
