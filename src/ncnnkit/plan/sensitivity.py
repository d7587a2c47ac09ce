"""How much noise a layer's precision puts into the network's outputs, measured where the model will run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..comparison.accuracy import Errors
from ..comparison.outputs import keep_outputs
from ..device import LOCAL, Device
from ..errors import RuntimeFailure
from ..model import ncnnfile
from ..model.graph import Graph
from ..model.precision import FLOATS, INT8, PRECISIONS
from ..onboard.child import LOAD_TIMEOUT, Child, WorkerError
from ..progress import Progress, silent
from ..quantization.scales import is_grouped
from ..samples.stream import ArraySamples, Samples, keep
from .build import Forms, mixed_graph
from .costs import Costs, uniform

SENSITIVITY_SAMPLES = 6
ROUNDING = 0.1
"""Noise over signal that the rounding of a floating-point precision does not reach: above, a kernel is wrong or a value
overflows."""


class Verifier:
    """Runs versions of a network on samples and compares their outputs with those of the fp32 network.

    Use it in a ``with`` block: the samples and the exact outputs lie in files meanwhile, and no output of a
    graph is kept.

    Args:
        exact: the fp32 network. Its own outputs come from this machine.
        samples: what to verifier on.
        threads: of the CPU, where a network has a device to itself.
        device: where the model will run.

    Attributes:
        samples: the same samples, in files.

    Raises:
        RuntimeFailure: ncnn crashed.
    """

    samples: ArraySamples

    def __init__(self, exact: Graph, samples: Samples, *, threads: int = 1, device: Device = LOCAL) -> None:
        self._exact, self._given = exact, samples
        self._threads, self._device = threads, device
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ncnnkit-")))
            self.samples = keep(self._given, folder)
            with _Network(LOCAL, os.cpu_count() or 1) as network:
                network.load(self._exact, "fp32")
                rows = map(network.run, self.samples)
                self._reference = keep_outputs(self._exact.outputs, rows, folder / "reference")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def here(
        self, graphs: Sequence[Graph], precision: str = "fp32", *, most: int | None = None, progress: Progress = silent
    ) -> list[Errors]:
        """The errors of each graph on this machine, in as many processes of one thread as there are cores.

        A graph that ncnn refuses to run has infinite errors.

        Args:
            graphs: versions of the network with the same outputs.
            precision: at which they are loaded.
            most: the number of samples to use; by default all.

        Raises:
            RuntimeFailure: ncnn crashed.
        """
        return self._errors(graphs, precision, LOCAL, os.cpu_count() or 1, 1, most, progress)

    def there(
        self, graphs: Sequence[Graph], precision: str = "mixed", *, most: int | None = None, progress: Progress = silent
    ) -> list[Errors]:
        """The errors of each graph on the device, whose arithmetic this machine need not have; see :meth:`here`."""
        if self._device.address == LOCAL.address:
            return self.here(graphs, precision, most=most, progress=progress)
        return self._errors(graphs, precision, self._device, 1, self._threads, most, progress)

    def _errors(
        self, graphs: Sequence[Graph], precision: str, device: Device, processes: int, threads: int, most: int | None,
        progress: Progress,
    ) -> list[Errors]:  # fmt: skip
        if not graphs:
            return []
        samples = self.samples.subset(range(min(most or len(self.samples), len(self.samples))))
        done = 0
        with ExitStack() as stack:
            idle = [stack.enter_context(_Network(device, threads)) for _ in range(min(processes, len(graphs)))]
            networks = list(idle)

            def judge(graph: Graph) -> Errors:
                nonlocal done
                network, errors = idle.pop(), Errors(classifies=True)
                try:
                    network.load(graph, precision)
                    for sample, reference in zip(samples, self._reference):
                        errors.add(network.run(sample), reference)
                except _Refused:  # as wrong as outputs can be
                    errors.add([np.full_like(values, np.nan) for values in self._reference[0]], self._reference[0])
                idle.append(network)
                done += 1
                progress(done, len(graphs))
                return errors

            with ThreadPoolExecutor(len(networks)) as pool:
                try:
                    return list(pool.map(judge, graphs))
                except BaseException:
                    for network in networks:
                        network.kill()
                    raise


class _Refused(RuntimeFailure):
    """ncnn does not run a model: one that counts on kernels this CPU does not have, for example."""


class _Network:
    """A process on a device that runs one graph after the other."""

    def __init__(self, device: Device, threads: int) -> None:
        self._device, self._threads = device, threads

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._param = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ncnnkit-"))) / "model.param"
            self._child: Child = stack.enter_context(self._device.child())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        self._child.kill()

    def load(self, graph: Graph, precision: str) -> None:
        self._outputs = graph.outputs
        ncnnfile.save(graph, self._param)
        param, weights = self._device.put([self._param, self._param.with_suffix(".bin")])
        self._ask("load", timeout=LOAD_TIMEOUT, param=param, bin=weights, backend="cpu", threads=self._threads,
                  options=PRECISIONS[precision].options)  # fmt: skip

    def run(self, sample: Sequence[NDArray[np.float32]]) -> list[NDArray[Any]]:
        return self._ask("run", list(sample), blobs=self._outputs)

    def _ask(self, op: str, arrays: Sequence[NDArray[Any]] = (), **fields: Any) -> list[NDArray[Any]]:
        try:
            return self._child.ask(op, arrays, **fields)[1]
        except WorkerError as error:
            where = "" if self._device.address == LOCAL.address else self._device.name
            kind = RuntimeFailure if error.crashed else _Refused
            raise kind(f"plan: {error.sentence}", where=where) from None


def int8_errors(forms: Forms, verifier: Verifier, progress: Progress = silent) -> dict[tuple[str, str], float]:
    """The noise in the outputs with one layer alone in int8, for each int8 layer and each int8 choice.

    Int8 kernels differ from machine to machine in rounding only, so this machine measures it.

    Returns:
        (layer, choice) -> noise over signal, the mean over the outputs (:attr:`Errors.relative`); infinite where an
        output contains NaN or infinity.
    """
    trials: dict[tuple[str, str], Graph] = {}
    for index, (original, int8) in enumerate(forms.pairs()):
        # In groups a layer hands on int8 only, which no layer in floating point can read: it is never alone.
        if not int8.params.get("int8_scale_term") or is_grouped(int8):
            continue
        for choice in INT8 if original.name in forms.winograd else INT8[:1]:
            changed = Graph(list(forms.exact.layers))
            changed.layers[index] = forms.layer(original, int8, choice)
            trials[original.name, choice] = changed
    found = verifier.here(list(trials.values()), most=SENSITIVITY_SAMPLES, progress=progress)
    return {key: errors.relative for key, errors in zip(trials, found)}


def float_errors(
    forms: Forms, costs: Costs, verifier: Verifier, whole: Mapping[str, float], int8: Mapping[tuple[str, str], float],
    progress: Progress = silent,
) -> dict[tuple[str, str], float]:  # fmt: skip
    """The noise in the outputs that each layer causes at each floating-point precision.

    The rounding of a floating-point precision is the same, relative to the value, in every layer, and what a layer
    hands on of it to the outputs goes as for int8. So the measured noise of the uniform model is shared out in
    proportion to the noise of the layers in int8 (a first-order Taylor estimate). Where the uniform model shows more
    noise than rounding explains, some of its layers overflow or have a wrong kernel: then each layer is run alone at
    that precision, on the device.

    Args:
        whole: choice -> noise over signal of the uniform model.
        int8: as :func:`int8_errors` gives it.

    Returns:
        (layer, choice) -> noise over signal; see :func:`int8_errors`.
    """
    layers = [layer.name for layer in forms.exact.layers if costs.choices(layer.name)]
    weights = {name: int8.get((name, "int8"), 0.0) for name in layers}
    weights = {name: weight if np.isfinite(weight) else 0.0 for name, weight in weights.items()}
    total = sum(weights.values()) or 1.0
    errors: dict[tuple[str, str], float] = {}
    for choice in FLOATS:
        if choice not in whole:
            continue
        having = [name for name in layers if costs.has(name, choice)]
        if choice == "fp32" or whole[choice] <= ROUNDING:  # false for NaN, too
            errors |= {(name, choice): whole[choice] * weights[name] / total for name in having}
            continue
        fp32 = uniform(forms.exact, costs, "fp32")
        graphs = [mixed_graph(forms, fp32 | {name: choice}, costs) for name in having]
        found = verifier.there(graphs, most=SENSITIVITY_SAMPLES, progress=progress)
        errors |= {(name, choice): each.relative for name, each in zip(having, found)}
    return errors
