"""The content of run.json as dataclasses. Programs that read run.json rely on it.

``docs/run-json.md`` and ``docs/run.schema.json`` are generated from the classes of this package. The meaning of a field
is only documented in the docstring of its class. :data:`SCHEMA` is incremented when a field is removed or changes its
meaning. A new field has a default, so that older files stay valid. A reader ignores fields that it does not know.

A figure is null in JSON and None in Python if it was not measured, or if it is infinite or not a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..artifact import Tensor
from ..onboard.facts import Machine
from ..recipe import Recipe
from ..samples.preprocess import Preprocess
from .conversion import ConversionCheck
from .engines import EngineRecord
from .environment import Environment
from .images import Images
from .names import PlainName, check_name
from .network import NetworkLayer
from .plan import Plan
from .quantisation import Quantisation
from .stages import Stage
from .variant import Variant

SCHEMA = 1
"""The version of run.json that this ncnnkit writes and reads."""


Kind = Literal["onnx", "torchscript", "torch", "ncnn"]


Engine = Literal["torch", "onnxruntime", "ncnn"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The requested network.

    Attributes:
        reference: the model as the user gave it: a path, ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:function``.
        name: derived from the reference, with the characters A-Z a-z 0-9 . _ - only. The names of the models' files
            begin with it.
        kind: the kind of the original: an ONNX, TorchScript or ncnn file, or a network built by code (``torch``).
        inputs: the network's inputs, in order, with the names of the original.
        outputs: the network's outputs, in order, with the names of the original.
        layers: number of layers of the optimised network.
        parameters: number of weight values of the optimised network.
        labels: number of class names that the model contains.
        classes: number of classes of the network's only output; 0 if nothing shows that it is a classifier. A vector
            counts as scores of classes if the images have labels, if the model contains a name for each value, if the
            library that built it says so, or if its values add up to one.
    """

    reference: str
    name: PlainName
    kind: Kind
    inputs: list[Tensor]
    outputs: list[Tensor]
    layers: int
    parameters: int
    labels: int
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class DeviceRecord:
    """A device on which variants were measured.

    Attributes:
        name: the name or address in the request; ``local`` is the machine that converted.
        address: ``local``, ``ssh://…`` or ``adb://…``; of several boards, the addresses separated by spaces.
        target: the kernels of its CPU. int8 was made for them.
        machine: the machine, and its software.
        recommended: ``name`` of the variant recommended for this device; null if there is none.
        why: the reason for the recommendation.
    """

    name: str
    address: str
    target: str
    machine: Machine
    recommended: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference of the variants' outputs.

    Attributes:
        engine: the library that ran the original; ``ncnn`` means that no other original is known.
        version: version of that engine.
        origin: a text that describes the reference.
    """

    engine: Engine
    version: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class RequirementRecord:
    """A figure with a bound that models must satisfy.

    Attributes:
        figure: its name.
        bound: the least allowed value, or the largest if less is better; a share is 0 to 1.
        text: the requirement for people, such as ``boxes kept ≥ 95 %``.
    """

    figure: str
    bound: float
    text: str


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """The task of the network.

    Attributes:
        name: the task, such as ``detection``; ``tensor`` if it is unknown.
        why: the evidence, as a clause.
        requires: the requirements for its models: those of the recipe, or the task's own.
        labels: the kind of labels, the number of samples, and the file; empty without labels.
        original: the figures of the original against the labels, by their names; empty without labels.
    """

    name: str
    why: str
    requires: list[RequirementRecord]
    labels: str
    original: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A class and its score.

    Attributes:
        label: the class.
        score: the network's output for it.
    """

    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The five best classes of one image.

    Attributes:
        image: the image's name.
        reference: the original's five best classes, best first.
        recommended: the recommended variant's five best classes, best first.
    """

    image: str
    reference: list[Score]
    recommended: list[Score]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A sample on which a variant differs most from the original.

    Attributes:
        variant: the name of the variant.
        image: the name of the evaluation image.
        file: a JPEG in the run folder: the original's prediction on the left, the variant's next to it, and, for
            images, their difference, multiplied by ten. For classes and texts it is only the image.
        severity: how much it differs: for classes, 0 if the best one is the original's, 0.5 if the original's is among
            the five best, otherwise 1; for boxes, the number of lost and new boxes; for maps, the share of different
            pixels; for images, the mean squared error over the squared range; for texts, the number of edits over the
            number of characters of the original; for points, their mean error.
        original_text, text: the texts that the original and the variant read, or their three best classes with the
            scores; empty for other tasks.
    """

    variant: str
    image: str
    file: PlainName
    severity: float
    original_text: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of ``ncnnkit run``.

    Attributes:
        schema: the version of this format: 1.
        files: names of the run's files in the run folder, including ``run.json``. A later run in the folder removes
            only these files.
        model: the requested network.
        recipe: the request, the same as in ``recipe.toml``.
        preprocess: how an image became the network's input; null if the inputs were arrays.
        preprocess_origin: where this preprocessing comes from, as a text.
        images: the images for calibration and evaluation.
        environment: the machine that converted and quantised, and its software.
        devices: the devices on which the variants were measured, in the order of the request.
        reference: the reference of the variants' outputs.
        conversion: the routes to ncnn, and the accuracy of the converted network before optimisation.
        task: the task of the network.
        passes: the name of each optimising pass, with its number of rewrites, which may be 0.
        quantisation: how int8 was made; null if no layer can be int8, or if none was requested.
        plan: how the mixed model was made; null if there is none.
        variants: the results: each precision on each backend.
        recommended: ``name`` of the recommended variant; null if there is none.
        why: the reason for the recommendation, or why there is none.
        top5: the best classes for an example image; empty for networks without class names.
        pictures: drawings of the worst evaluation images of each variant, beginning with the recommended variant; empty
            for tasks without pictures.
        warnings: the warnings, a sentence each.
        stages: the duration of each stage, in order.
        network: the layers of the optimised network in fp32, in order.
        engines: the other measured engines.
        engines_compared: how they compare with ncnn on each device, a sentence each.
    """

    schema: int = SCHEMA
    files: list[str]
    model: Model
    recipe: Recipe
    preprocess: Preprocess | None
    preprocess_origin: str
    images: Images
    environment: Environment
    devices: list[DeviceRecord]
    reference: Reference
    conversion: ConversionCheck
    task: TaskRecord
    passes: dict[str, int]
    quantisation: Quantisation | None
    plan: Plan | None
    variants: list[Variant]
    recommended: str | None
    why: str
    top5: list[Guess]
    pictures: list[Picture]
    warnings: list[str]
    stages: list[Stage]
    network: list[NetworkLayer] = field(default_factory=list)
    engines: list[EngineRecord] = field(default_factory=list)
    engines_compared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name("model.name", self.model.name)
        if self.conversion.log is not None:
            check_name("conversion.log", self.conversion.log)
        for i, variant in enumerate(self.variants):
            if variant.files:
                check_name(f"variants[{i}].files.param", variant.files.param)
                check_name(f"variants[{i}].files.bin", variant.files.bin)
        for engine in self.engines:
            for name in (name for model in engine.models for name in model.files):
                check_name("engines[].models[].files", name)
        for i, picture in enumerate(self.pictures):
            check_name(f"pictures[{i}].file", picture.file)
        names = [variant.name for variant in self.variants]
        unprintable = next((name for name in names if not name.isprintable()), None)
        if unprintable is not None:
            raise ValueError(f"a variant's name is {unprintable!r}: a name holds no control characters")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"there are two variants {twice!r}")
        if self.recommended is not None and self.recommended not in names:
            raise ValueError(f"recommended is {self.recommended!r}, which is no variant's name")

    def variant(self, name: str | None) -> Variant | None:
        """The variant of this name."""
        return next((variant for variant in self.variants if variant.name == name), None)
