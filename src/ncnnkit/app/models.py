"""The models in an app: those of one device of a run, or one model at each precision at which it can run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifact import Artifact
from ..errors import FormatError, ModelError, RecipeError
from ..model.graph import Graph
from ..onboard.protocol import NCNN
from ..record.examples import EXAMPLES, Examples
from ..record.folder import LABELS, RUN, load_labels, load_run
from ..record.run import Run
from ..record.variant import Variant
from ..source.model import file_safe


@dataclass(frozen=True, eq=False)
class Shipped:
    """A model in an app.

    Attributes:
        model: the model, at the precision at which it runs.
        backend: where it runs, ``cpu`` or ``vulkan``.
        stem: the name of its files in ``models/``, without suffix. Its characters need no escape in a shell, CMake or
            C++.
        variant: the name of its variant in the run, which differs from :attr:`name` on further devices; empty without a
            run.
    """

    model: Artifact
    backend: str
    stem: str
    variant: str = ""

    @property
    def name(self) -> str:
        """Precision and backend, such as ``int8-vulkan``."""
        return f"{self.model.precision}-{self.backend}"


@dataclass(frozen=True, eq=False)
class Shipment:
    """The contents of an app.

    Attributes:
        name: of the network.
        chosen: the model that the program runs by default.
        models: all models, including the chosen one.
        examples: for the program's self-test.
    """

    name: str
    chosen: Shipped
    models: Sequence[Shipped]
    examples: Examples


def shipment(model: Artifact | Graph | str | Path, variant: str | None = None) -> Shipment:
    """Find the contents of an app.

    Args:
        model: an Artifact, a Graph, the path of a ``.param``, or a run folder or its run.json.
        variant: of a run: the name of a variant, such as ``int8-vulkan``, or a precision, which means its CPU variant.
            By default the recommended variant.

    Raises:
        FormatError: there is neither a run nor a model, or a file of it is missing or corrupt.
        RecipeError: there is no such variant, or a variant is given although ``model`` is not a run.
        ModelError: the variant has no model.
    """
    if isinstance(model, str | Path) and Path(model).suffix != ".param":
        return of_run(Path(model), variant)
    if variant is not None:
        hint = "give the run folder, or leave out --variant"
        raise RecipeError("--variant names a variant of a run, and this is a model", hint=hint)
    return of_artifact(Artifact.of(model))


def of_artifact(model: Artifact) -> Shipment:
    """A model at each precision at which it can run. Its own precision is the default."""
    backend = "vulkan" if model.target == "vulkan" else "cpu"
    stem = file_safe(model.param.stem) if model.param else "model"
    own = (model.precision, *(name for name in model.precisions if name != model.precision))
    models = [Shipped(model.at(precision), backend, stem) for precision in own]
    return Shipment(stem, models[0], models, Examples())


def of_run(out: Path, name: str | None) -> Shipment:
    """The variants of one device of a run that have a model. fp32 on the CPU comes first."""
    run = load_run(out)
    home = out if out.is_dir() else out.parent
    chosen = choose(run, name, home)
    rows = [row for row in run.variants if row.files and row.device == chosen.device]
    rows.sort(key=lambda row: (row.precision, row.backend) != ("fp32", "cpu"))  # the baseline of comparisons
    # The card has the version of ncnn on the first device only.
    ncnn = next((device.machine.ncnn for device in run.devices if device.name == chosen.device), "")
    models = {
        row.name: Shipped(
            replace(artifact_of(run, row, home), ncnn=ncnn or run.environment.machine.ncnn),
            row.backend,
            param_of(row, home).stem,
            row.name,
        )
        for row in rows
    }
    examples = Examples.load(home / EXAMPLES)
    check_examples(examples, run, models[chosen.name].model, home / EXAMPLES)
    return Shipment(run.model.name, models[chosen.name], list(models.values()), examples)


def check_examples(examples: Examples, run: Run, model: Artifact, path: Path) -> None:
    """Raise FormatError if examples cannot be of a run's model. A decoder must not read other outputs."""
    wanted = [math.prod(output.shape) if output.shape else None for output in run.model.outputs]
    for number, row in enumerate(examples.rows):
        sizes = [output.size for output in row.outputs]
        fits = [model.graph.varies or want in (None, size) for want, size in zip(wanted, sizes)]
        if len(row.files) != len(run.model.inputs) or len(sizes) != len(wanted) or not all(fits):
            what = f"example {number} is of another network"
            raise FormatError(what, where=str(path), hint="run again")


def choose(run: Run, name: str | None, home: Path) -> Variant:
    """Like :func:`find_variant`, but the variant must have an ncnn model. Raises RecipeError and ModelError."""
    variant = find_variant(run, name, home)
    if variant.engine != NCNN:
        what = f"the variant {variant.name} is computed by another engine, and programs are made for ncnn"
        raise ModelError(what, where=str(home), hint="its files are in the run folder; run.json names them")
    if variant.files is None:
        raise ModelError(f"the variant {variant.name} has no model: {variant.reason}", where=str(home))
    return variant


def find_variant(run: Run, name: str | None, home: Path) -> Variant:
    """The variant with this name or precision; for None, the recommended one. Raises RecipeError."""
    by_name = {variant.name: variant for variant in run.variants}
    if name is None and run.recommended is None:
        raise RecipeError(
            "the run recommends no variant",
            where=str(home),
            hint=f"give --variant NAME, in Python variant=NAME, one of {', '.join(by_name)}",
        )
    name = name or str(run.recommended)
    # If there are several devices, a precision means a variant of the first.
    of_precision = (v for v in run.variants if (v.precision, v.backend) == (name, "cpu"))
    variant = by_name.get(name) or next(of_precision, None)
    if variant is None:
        raise RecipeError(f"the run has no variant {name!r}", where=str(home), hint=f"one of {', '.join(by_name)}")
    return variant


def param_of(variant: Variant, home: Path) -> Path:
    """The path of a variant's ``.param``."""
    assert variant.files is not None
    return home / variant.files.param


def artifact_of(run: Run, variant: Variant, home: Path) -> Artifact:
    """The model of a variant. If its card is missing, or the files were edited since, facts come from run.json."""
    model = Artifact.load(param_of(variant, home))
    if model.derived:
        model = replace(
            model, preprocess=run.preprocess, labels=load_labels(home / LABELS) if run.model.labels else (),
            pillow=run.environment.pillow,
            inputs=tuple(replace(own, shape=tuple(t.shape)) for own, t in zip(model.inputs, run.model.inputs)),
            outputs=model.outputs[: len(run.model.outputs)],
        )  # fmt: skip
    try:
        return model.at(variant.precision)
    except ModelError as error:
        raise FormatError(f"{RUN} says {variant.precision}: {error.what}", where=model.name, hint=error.hint) from None
