"""An ncnn network that runs: :class:`Session`.

ncnn runs in a child process (:mod:`ncnnkit.onboard.network`). If a model or a driver crashes there, you get an
exception; your program does not crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..errors import ModelError, RuntimeFailure
from ..formatting import shape_option
from ..model.graph import Graph
from ..onboard.child import LOAD_TIMEOUT, Child, WorkerError
from ..onboard.facts import VulkanDevice
from ..onboard.process import available_cores
from . import LOCAL, Device

Array = NDArray[Any]


class Session:
    """A loaded network. Use it in a ``with`` block.

    Args:
        model: an Artifact, a Graph, or the path of a ``.param`` with its ``.bin`` beside it.
        backend: ``"cpu"`` or ``"vulkan"``.
        precision: one of the model's own (:attr:`Artifact.precisions`); by default the one for which it was made. It
                determines all of ncnn's options for precision.
        threads: the number of CPU threads; by default all cores on this machine, and ncnn's default on a board.
        keep_blobs: keep all intermediate blobs of a run for :meth:`blobs`. This needs memory.
        device: where it runs; by default this machine.

    Raises:
        FormatError: the files of the model are missing or corrupt.
        RecipeError: the backend or the precision is unknown.
        ModelError: the model cannot run at this precision, or on this backend.
        RuntimeFailure: ncnn crashed or could not load the model, or a Cast of a mixed model would read another type
                than it declares.
        DeviceError: the device cannot be reached, or was lost.

    Example:
        >>> with nk.Session("model.param", threads=2) as net:
        ...     net.run(np.zeros((3, 224, 224), np.float32)).shape
        (10,)
    """

    def __init__(
        self,
        model: Artifact | Graph | str | Path,
        *,
        backend: str = "cpu",
        precision: str | None = None,
        threads: int | None = None,
        keep_blobs: bool = False,
        device: Device = LOCAL,
    ) -> None:
        self._device = device
        self._settings: dict[str, Any] = {
            "backend": backend,
            "threads": threads or (available_cores() if device.address == LOCAL.address else 0),  # 0: ncnn chooses
            "keep_blobs": keep_blobs,
        }
        self._child: Child | None = None
        self._stack = ExitStack()
        artifact = Artifact.of(model).at(precision).on(backend)
        with ExitStack() as stack:
            self._child = stack.enter_context(device.child())
            self.load(artifact)
            self._stack = stack.pop_all()

    def load(self, model: Artifact | Graph | str | Path) -> None:
        """Load another network into the same process instead of this one. This is faster than a new session.

        Args:
            model: as for the class. It runs at its own precision; the other settings stay.

        Raises:
            FormatError, RecipeError, ModelError, RuntimeFailure: as for the class. If ncnn refuses the network, the
                    session has no network, but can load another.
        """
        self.artifact = Artifact.of(model).on(self._settings["backend"])
        self._checked: set[tuple[tuple[int, ...], ...]] = set()  # shapes of inputs that were found to fit
        with self.artifact.files() as files:
            param, weights = self._device.put(files)
            options = self.artifact.options
            loaded = self._ask(
                "load", timeout=LOAD_TIMEOUT, param=param, bin=weights, options=options, **self._settings
            )[0]
        self.precision = self.artifact.precision
        self.inputs: tuple[str, ...] = tuple(loaded.inputs)
        self.outputs: tuple[str, ...] = tuple(loaded.outputs)
        self.gpu: VulkanDevice | None = loaded.device
        """The Vulkan device in use; None on the CPU, also if Vulkan was asked for but there is no device."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process and remove its files. Safe to call twice."""
        self._child = None
        self._stack.close()

    @property
    def closed(self) -> bool:
        """Whether the session cannot be used any more, because it was closed or ncnn crashed."""
        return self._child is None

    def kill(self) -> None:
        """End the process. A thread that waits for its answer gets a RuntimeFailure."""
        if self._child is not None:
            self._child.kill()

    def run(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """One inference.

        Args:
            inputs: one array for each input of the network, without a batch axis, such as (C, H, W) for an image. They
                are converted to float32.

        Returns:
            The output as a float32 array without a batch axis, or a tuple of them if the network has several outputs.

        Raises:
            ModelError: the number of inputs or a shape does not fit.
            RuntimeFailure: ncnn crashed, hung or refused.
        """
        outputs = self.blobs(*inputs, names=self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def blobs(self, *inputs: Array, names: Sequence[str]) -> tuple[Array, ...]:
        """Like :meth:`run`, but returns the blobs with these ``names``, which may be intermediate blobs.

        Intermediate blobs need ``keep_blobs``. The output of a requantising layer is int8 codes as floats. Divide it by
        that layer's ``output_scale`` to dequantise it.
        """
        arrays = [_as_float32(i, given) for i, given in enumerate(inputs)]
        for i, expected in enumerate(self.artifact.graph.input_shapes()[: len(arrays)]):
            if expected and arrays[i].ndim == len(expected) + 1 and arrays[i].shape[0] == 1:
                arrays[i] = arrays[i][0]
        shapes = tuple(array.shape for array in arrays)
        if shapes not in self._checked:
            self.artifact.graph.check_input_shapes(shapes)
            self._checked.add(shapes)
        return tuple(self._ask("run", arrays, blobs=list(names))[1])

    def _ask(self, op: str, arrays: Sequence[Array] = (), **fields: Any) -> tuple[Any, list[Array]]:
        if self._child is None:
            raise RuntimeFailure("this session is closed", hint="use it inside its with block")
        try:
            return self._child.ask(op, arrays, **fields)
        except WorkerError as error:
            self.close() if error.crashed else None
            where = "" if self._device.address == LOCAL.address else self._device.name
            raise RuntimeFailure(error.sentence, where=where) from None


def _as_float32(number: int, given: Any) -> Array:
    try:
        return np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise ModelError(f"input {number} is not an array of numbers, but {type(given).__name__}") from None


def noise(graph: Graph, shapes: Sequence[tuple[int, ...]] = (), *, where: str = "") -> list[Array]:
    """A random sample: a float32 array for each network input, without a batch axis.

    Args:
        graph: the network.
        shapes: the shapes of the inputs; by default those in the file.
        where: the name of the model, for errors.

    Raises:
        ModelError: the shape of an input is unknown.
    """
    shapes = [tuple(shape) for shape in shapes or graph.input_shapes()]
    if len(shapes) != len(graph.inputs) or not all(shapes):
        raise ModelError(
            "the file does not contain the shapes of its inputs",
            where=where,
            hint=f"give the shape of each, such as {shape_option(3, 224, 224)}",
        )
    graph.check_input_shapes(shapes)
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def save_arrays(arrays: Sequence[Array], folder: Path) -> list[str]:
    """Write the inputs of a job as .npy files. Returns their paths."""
    files = [str(folder / f"input-{i}.npy") for i in range(len(arrays))]
    for file, array in zip(files, arrays):
        np.save(file, np.asarray(array, np.float32))
    return files
