"""Engines other than ncnn: their models of the same network, and the variants to measure.

An engine makes each model with its own tools (:mod:`ncnnkit.onboard.engines`), in a separate process. The models are
measured in the same job as ncnn's, in interleaved rounds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..device.link import digest
from ..device.sites import Site
from ..errors import ConvertError, RecipeError
from ..model.work import UNBOUNDED, Budget
from ..onboard.child import PROGRAM
from ..onboard.engines import ENGINES
from ..onboard.engines.base import Engine, version_of
from ..onboard.process import die_with_parent
from ..onboard.protocol import JobModel
from ..progress import StepProgress, silent_steps
from ..recipe import ALL, Recipe
from ..record.engines import EngineModelRecord, EngineRecord
from ..samples.items import InputSpec
from ..samples.stream import KeptSamples, Samples, keep, spread
from ..source import ModelSource
from ..source.interchange import as_onnx
from .variants import VariantSpec

MAKING = 1800.0
"""Seconds after which an engine's converter or quantiser is stopped."""

Kind = Literal["float", "int8"]
Kernels = tuple[bool, bool]
"""The CPU of an int8 model: (whether it is an Arm CPU, whether it has int8 dot products)."""


@dataclass(frozen=True)
class Original:
    """The network in the form that other engines read.

    Attributes:
        onnx: an ONNX file with fixed shapes; None if there is none.
        inputs: the inputs of the file, in its order.
        outputs: the names of the outputs, in the order of the reference.
        output_shapes: the shapes of the outputs, without the batch axis.
        reason: why there is no file; empty if there is one.
    """

    onnx: Path | None
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    reason: str = ""

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shapes of inputs and outputs by name, with the batch axis."""
        found = {spec.name: list(spec.original_shape) for spec in self.inputs}
        return found | {name: [1, *shape] for name, shape in zip(self.outputs, self.output_shapes)}


@dataclass(frozen=True)
class EngineModel:
    """A model that an engine made, or the reason why it made none.

    Attributes:
        engine: the engine.
        kind: ``float`` or ``int8``.
        kernels: the CPU for which an int8 model is made.
        files: its files, in the order of :attr:`Engine.suffixes`.
        seconds: the time to make it.
        reason: why there is no model; empty if there is one.
    """

    engine: Engine
    kind: Kind
    kernels: Kernels
    files: tuple[Path, ...] = ()
    seconds: float = 0.0
    reason: str = ""

    def record(self) -> EngineModelRecord:
        """The record of the model in run.json."""
        settings = self.engine.settings
        return EngineModelRecord(
            kind=self.kind,
            settings={name: text for name, text in settings.items() if (name == "int8") == (self.kind == "int8")},
            files={path.name: digest(path) for path in self.files},
            seconds=self.seconds,
            reason=self.reason,
        )


def chosen_engines(names: Sequence[str]) -> list[Engine]:
    """The engines with these names. ``all`` stands for the installed engines.

    Raises:
        RecipeError: a named engine is not installed.
    """
    if ALL in names:
        return [engine for engine in ENGINES.values() if engine.version()]
    for name in names:
        engine = ENGINES[name]
        if not engine.version():
            packages = " ".join((engine.package, *engine.tools))
            raise RecipeError(f"{engine.title} is not installed", hint=f"pip install {packages}")
    return [ENGINES[name] for name in names]


@dataclass(frozen=True)
class OtherEngines:
    """The models of other engines, and their samples.

    Attributes:
        original: the network in the form that they read.
        models: the models that they made.
        fed: a .npy file for each input, with the samples in the shape that the original takes.
    """

    original: Original
    models: tuple[EngineModel, ...] = ()
    fed: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The files of all models."""
        return [path for model in self.models for path in model.files]

    def variants(self, recipe: Recipe, sites: Sequence[Site]) -> list[VariantSpec]:
        """The variants: each precision and backend of each engine that the recipe allows, on each device."""
        engines = dict.fromkeys(model.engine for model in self.models)
        return [
            self._variant(recipe, site, engine, precision, backend)
            for site in sites
            for engine in engines
            for backend, able in engine.backends.items()
            if ("cpu" if backend == "cpu" else "vulkan") in recipe.backends
            for precision in recipe.precisions
            if precision in able
        ]

    def _variant(self, recipe: Recipe, site: Site, engine: Engine, precision: str, backend: str) -> VariantSpec:
        wanted = ("int8", kernels_of(site)) if precision == "int8" else ("float", self.models[0].kernels)
        model = next(m for m in self.models if m.engine is engine and (m.kind, m.kernels) == wanted)
        why = site.device.lacks(engine) or model.reason
        if backend != "cpu" and not site.has_gpu:
            why = why or "there is no GPU"
        cpus = site.cluster(recipe.cluster)
        return VariantSpec(
            f"{engine.name}-{site.variant(precision, backend)}",
            precision,
            backend,
            recipe.threads or len(cpus) or site.machine.cores,
            site,
            None,
            why,
            cpus,
            engine.name,
            None if why else job_model(model, precision, self.original),
            self.fed,
        )

    def records(self) -> list[EngineRecord]:
        """The records of the engines in run.json."""
        return [
            EngineRecord(
                name=engine.name,
                title=engine.title,
                version=engine.version(),
                tools={tool: version_of(tool) for tool in engine.tools if version_of(tool)},
                models=[model.record() for model in self.models if model.engine is engine],
            )
            for engine in dict.fromkeys(model.engine for model in self.models)
        ]


NO_ENGINES = OtherEngines(Original(None))
"""For a run without other engines."""


def prepare_engines(
    engines: Sequence[Engine],
    recipe: Recipe,
    source: ModelSource,
    outputs: Mapping[str, tuple[int, ...]],
    calibration: Samples,
    evaluation: Samples,
    sites: Sequence[Site],
    folder: Path,
    *,
    budget: Budget = UNBOUNDED,
    progress: StepProgress = silent_steps,
) -> OtherEngines:
    """Let each engine make its models: one in floating point, and an int8 model for each kind of CPU.

    Args:
        engines: the engines.
        recipe: the recipe, which names the precisions.
        source: the original.
        outputs: the shapes of the reference outputs, by their names.
        calibration: the samples for the quantisers, in the shapes that the original takes.
        evaluation: the samples to measure, in the shapes that the original takes.
        sites: the devices.
        folder: the folder for the models. Other files go to folders in it.
        budget: limits the number of samples for the quantisers.
        progress: called with (the model that is made, models made, number of models).
    """
    scratch = folder / "engines"
    scratch.mkdir()
    original = original_for_engines(source, outputs, scratch)
    given = evaluation if isinstance(evaluation, KeptSamples) else keep(evaluation, scratch / "evaluation")
    count = budget.take("calibration samples of other engines", len(calibration), runs=len(engines))
    samples = keep(spread(calibration, count), scratch / "calibration")
    made = make_engine_models(engines, recipe, original, samples, sites, source.name, folder, progress)
    return OtherEngines(original, tuple(made), given.files)


def make_engine_models(
    engines: Sequence[Engine], recipe: Recipe, original: Original, calibration: KeptSamples, sites: Sequence[Site],
    name: str, folder: Path, progress: StepProgress = silent_steps,
) -> list[EngineModel]:  # fmt: skip
    """The models of engines, each made in a separate process. The arguments are those of :func:`prepare_engines`."""
    kernels = list(dict.fromkeys(kernels_of(site) for site in sites))
    floats = any(precision not in ("int8", "mixed") for precision in recipe.precisions)
    todo: list[tuple[Engine, Kind, Kernels]] = []
    for engine in engines:
        todo += [(engine, "float", kernels[0])] if floats else []
        todo += [(engine, "int8", key) for key in kernels if "int8" in recipe.precisions]
    made = []
    for done, (engine, kind, key) in enumerate(todo):
        precision = "fp32" if kind == "float" else "int8"
        progress(f"{engine.name} {precision}", done, len(todo))
        number = "" if key == kernels[0] else f"-{kernels.index(key) + 1}"
        stem = folder / f"{name}-{engine.name}-{precision}{number}"
        made.append(_make(engine, kind, key, original, calibration, stem))
    return made


def original_for_engines(source: ModelSource, outputs: Mapping[str, tuple[int, ...]], folder: Path) -> Original:
    """The network as a file that other engines read, or the reason why there is no such file.

    Args:
        source: the original.
        outputs: the shapes of the reference outputs, by their names.
        folder: the folder for the file.
    """
    try:
        path = as_onnx(source, folder)
    except ConvertError as error:
        return Original(None, reason=error.line())
    inputs = tuple(replace(spec, name=f"input{index}") for index, spec in enumerate(source.inputs))
    names = tuple(f"output{index}" for index in range(len(outputs)))
    return Original(path, inputs, names, tuple(outputs.values()))


def kernels_of(site: Site) -> Kernels:
    """The kind of CPU of a device, for which an int8 model is made."""
    features = site.machine.cpu_features
    arm = site.machine.machine.startswith(("aarch64", "arm"))
    return arm, any("vnni" in feature or feature == "int8-dot-product" for feature in features)


def _make(
    engine: Engine, kind: Kind, kernels: Kernels, original: Original, calibration: KeptSamples, stem: Path
) -> EngineModel:
    """Make one model in a separate process, because an engine's tools may crash, print, or need much memory."""
    missing = engine.missing_tools()
    if original.onnx is None or missing:
        needs = f"making its models needs {' and '.join(missing)}"
        return EngineModel(engine, kind, kernels, reason=original.reason if original.onnx is None else needs)
    files = tuple(stem.with_name(stem.name + suffix) for suffix in engine.suffixes)
    arm, dot_product = kernels
    request = {
        "engine": engine.name,
        "onnx": str(original.onnx),
        "made": str(files[0]),
        "calibration": {
            "names": [spec.name for spec in original.inputs],
            "files": list(calibration.files),
            "shapes": [spec.original_shape for spec in original.inputs],
            "types": [spec.dtype for spec in original.inputs],
            "dot_product": dot_product,
            "arm": arm,
        }
        if kind == "int8"
        else None,
    }
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, PROGRAM, "make", json.dumps(request)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=MAKING, check=False,
            env={**os.environ, "TMPDIR": str(original.onnx.parent)}, preexec_fn=die_with_parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        reason = f"its tools did not end within {MAKING:.0f} s"
    else:
        reason = _why_it_failed(done)
    seconds = time.monotonic() - start
    if reason or not all(path.is_file() for path in files):
        for path in files:
            path.unlink(missing_ok=True)
        return EngineModel(engine, kind, kernels, seconds=seconds, reason=reason or "its tools wrote no model")
    return EngineModel(engine, kind, kernels, files, seconds)


def _why_it_failed(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why the process failed, as a clause; empty if it did not."""
    if not done.returncode:
        return ""
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    last = said[-1][:300] if said else f"exit status {done.returncode}"
    if done.returncode > 0:
        return f"its tools failed: {last}"
    return f"its tools crashed ({signal.Signals(-done.returncode).name}): {last}"


def job_model(model: EngineModel, precision: str, original: Original) -> JobModel:
    """The model of an engine in the form that a job takes."""
    return JobModel(
        files=[str(path) for path in model.files],
        precision=precision,
        engine=model.engine.name,
        inputs=[spec.name for spec in original.inputs],
        outputs=list(original.outputs),
        shapes=original.shapes,
    )
