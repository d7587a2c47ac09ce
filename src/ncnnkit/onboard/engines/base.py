"""The interface of an engine: it makes a model from an ONNX file, and runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from ..rows import Rows


class CannotMakeError(Exception):
    """An engine cannot make a model of a network. The message is the reason."""


@dataclass(frozen=True)
class Calibration:
    """The calibration samples for the quantiser of an engine. Iterating gives each sample.

    Attributes:
        names: the names of the network's inputs.
        files: for each input, a .npy file of its samples, (N, …).
        shapes: the shape of each input, with the batch axis.
        types: the dtype of each input, as NumPy names it.
        dot_product: whether the CPU that will run the model has int8 dot products.
        arm: whether that CPU is an Arm CPU.
    """

    names: Sequence[str]
    files: Sequence[str]
    shapes: Sequence[Sequence[int]]
    types: Sequence[str]
    dot_product: bool = True
    arm: bool = False

    @property
    def saturates(self) -> bool:
        """Whether the CPU may saturate when it adds two products of 8 bits, as VPMADDUBSW does.

        7-bit weights avoid that.
        """
        return not self.arm and not self.dot_product

    def __len__(self) -> int:
        return len(Rows(self.files[0]))

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        """Each sample as a mapping: name of an input -> its array, with the batch axis."""
        inputs = list(zip(self.names, map(Rows, self.files), self.shapes, self.types))
        for index in range(len(self)):
            yield {name: np.asarray(rows[index]).reshape(shape).astype(kind) for name, rows, shape, kind in inputs}


@dataclass(frozen=True)
class Running:
    """How to run a model.

    Attributes:
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        backend: ``cpu``, ``vulkan`` or ``opencl``.
        threads: the number of CPU threads.
        inputs, outputs: the names of the network's inputs and outputs, in order.
        shapes: name of an input or output -> its shape with the batch axis.
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
        inputs: (shape with the batch axis, dtype) of each input, in the network's order.
        instead: what computes instead of what was requested, and why; empty if it runs as requested.
    """

    inputs: List[Tuple[Tuple[int, ...], str]]
    instead: str = ""

    @abstractmethod
    def run(self, arrays: Sequence[Any]) -> List[Any]:
        """Run one inference. Takes an array for each of ``inputs``, and returns an array for each output, in order."""


class Engine(ABC):
    """An engine other than ncnn.

    Attributes:
        name: its name in options and in the names of variants.
        title: its name as its authors write it.
        package: the package to install on the machine that runs models.
        module: the module of that package.
        tools: the other packages that make its models.
        suffixes: the suffixes of the files of a model. The file with the first suffix is opened.
        backends: backend -> the possible precisions on it.
        settings: precision -> how the engine makes and runs such a model; a text for the report.
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
        """Make a floating-point model.

        Args:
            onnx: the network, with fixed shapes.
            made: the path of the model's first file.

        Raises:
            CannotMakeError: the engine cannot compute the network.
        """

    @abstractmethod
    def quantise(self, onnx: Path, made: Path, calibration: Calibration) -> None:
        """Make an int8 model with the engine's own quantiser. Otherwise the same as :meth:`convert`."""

    @abstractmethod
    def open(self, files: Sequence[str], how: Running) -> Opened:
        """Load a model.

        Args:
            files: the files of the model, in the order of :attr:`suffixes`. On a board their names are hashes.
            how: how to run it.

        Raises:
            RuntimeError: the engine cannot load or run the model.
        """

    def version(self) -> str:
        """The version of the installed package; empty if it is not installed."""
        return version_of(self.package)

    def missing_tools(self) -> List[str]:
        """The packages that must be installed before the engine can make models on this machine."""
        return [package for package in (self.package, *self.tools) if not version_of(package)]


def version_of(package: str) -> str:
    """The version of an installed package; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
