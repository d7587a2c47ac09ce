"""What every engine can do: make a model of an ONNX file, and run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from ..rows import Rows


class CannotMakeError(Exception):
    """An engine cannot make a model of a network; the message is the reason."""


@dataclass(frozen=True)
class Calibration:
    """Samples that an engine's own quantiser may use.

    Attributes:
        names: the inputs of the network.
        files: for each input a .npy file (N, …) of its samples.
        shapes: of each input, with the batch axis.
        types: NumPy's name of the type of each input.
        dot_product: whether the CPU that the model is for has an int8 dot product.
        arm: whether it is an Arm CPU.
    """

    names: Sequence[str]
    files: Sequence[str]
    shapes: Sequence[Sequence[int]]
    types: Sequence[str]
    dot_product: bool = True
    arm: bool = False

    @property
    def saturates(self) -> bool:
        """Whether sums of two products of 8 bits saturate, as VPMADDUBSW's do: weights of 7 bits then do not."""
        return not self.arm and not self.dot_product

    def __len__(self) -> int:
        return len(Rows(self.files[0]))

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        """One sample at a time: name of an input -> its array."""
        inputs = list(zip(self.names, map(Rows, self.files), self.shapes, self.types))
        for index in range(len(self)):
            yield {name: np.asarray(rows[index]).reshape(shape).astype(kind) for name, rows, shape, kind in inputs}


@dataclass(frozen=True)
class Running:
    """How a model is run.

    Attributes:
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        backend: ``cpu``, ``vulkan`` or ``opencl``.
        threads: of the CPU.
        inputs, outputs: the names of the network's inputs and outputs, in its order.
        shapes: name of an input or output: its shape with the batch axis.
    """

    precision: str
    backend: str
    threads: int
    inputs: Sequence[str]
    outputs: Sequence[str]
    shapes: Mapping[str, Sequence[int]]


class Opened(ABC):
    """A model that an engine has loaded.

    Attributes:
        inputs: (shape with the batch axis, NumPy's type) of each input, in the network's order.
        instead: what computes in place of what was asked for, and why; empty: nothing does.
    """

    inputs: List[Tuple[Tuple[int, ...], str]]
    instead: str = ""

    @abstractmethod
    def run(self, arrays: Sequence[Any]) -> List[Any]:
        """One inference: arrays as ``inputs`` says, to an array for each output of the network, in its order."""


class Engine(ABC):
    """An engine.

    Attributes:
        name: in options and names of variants.
        title: its name as its makers write it.
        package: what pip installs where models run.
        module: what Python imports there.
        tools: the other packages, as pip calls them, that make its models.
        suffixes: endings of the files of a model; the first is the one that is opened.
        backends: backend -> the precisions that it may have there.
        settings: precision -> how the engine makes and runs such a model, for the record.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    module: ClassVar[str]
    tools: ClassVar[Tuple[str, ...]] = ()
    suffixes: ClassVar[Tuple[str, ...]]
    backends: ClassVar[Mapping[str, Tuple[str, ...]]]
    settings: ClassVar[Mapping[str, str]]

    @abstractmethod
    def convert(self, onnx: Path, made: Path) -> None:
        """Make a model in floating point.

        Args:
            onnx: the network, with fixed shapes.
            made: the first file to write.

        Raises:
            CannotMakeError: the engine cannot compute it.
        """

    @abstractmethod
    def quantise(self, onnx: Path, made: Path, calibration: Calibration) -> None:
        """Make an int8 model with the engine's own quantiser; the rest is as for :meth:`convert`."""

    @abstractmethod
    def open(self, files: Sequence[str], how: Running) -> Opened:
        """Load a model.

        Args:
            files: those of :attr:`suffixes`, in this order. On a board their names are hashes.
            how: how to run it.

        Raises:
            RuntimeError: it cannot.
        """

    def version(self) -> str:
        """Of the installed package; empty: it is not installed."""
        return version_of(self.package)

    def missing_tools(self) -> List[str]:
        """The packages to install before it can make models here."""
        return [package for package in (self.package, *self.tools) if not version_of(package)]


def version_of(package: str) -> str:
    """The version of an installed package; empty: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
