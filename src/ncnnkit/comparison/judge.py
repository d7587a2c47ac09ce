"""Judges versions of a network by their outputs on samples that were not used to make them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..artifact import Artifact
from ..device import LOCAL, Device
from ..device.session import Session
from ..errors import RuntimeFailure
from ..model.graph import Graph
from ..older import Self
from ..onboard.process import available_cores
from ..onboard.scratch import Scratch
from ..progress import Progress, silent
from ..samples.stream import ArraySamples, Samples, keep
from ..tasks import Task
from ..tasks.detection import Detection
from ..tasks.ncnn_heads import detection_layer
from .accuracy import Errors
from .outputs import keep_outputs


class Judge:
    """Runs versions of a network on samples and compares their outputs with those of the fp32 network.

    If the last layer of a network selects boxes, the network is judged by the inputs of this layer. The number of rows
    of its output depends on scores near a threshold, so the noise of these rows is not meaningful.

    Use it in a ``with`` block: it keeps the samples and the exact outputs in temporary files. The outputs of a version
    are not kept.

    Args:
        exact: the fp32 network. Its outputs are computed on this machine.
        samples: the samples on which versions are judged.
        task: what the network is for; by default only the values of its outputs count.
        threads: the number of CPU threads if one network runs alone; by default all cores.
        device: the device that will run the model.

    Attributes:
        samples: the same samples, stored in files.
        refused: reason -> how many networks did not run for this reason. Their errors are infinite.

    Raises:
        RuntimeFailure: ncnn crashed.
    """

    samples: ArraySamples
    refused: Counter[str]

    def __init__(
        self, exact: Graph, samples: Samples, task: Task | None = None, *, threads: int | None = None,
        device: Device = LOCAL,
    ) -> None:  # fmt: skip
        self._exact, self._given = exact, samples
        self._task = before_the_choice(exact, task)
        self._threads, self._device = threads, device
        cores = available_cores()
        self._cores = min(threads or cores, cores)
        self._stack = ExitStack()
        self.refused = Counter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(Scratch()))
            self.samples = keep(self._given, folder)
            with Session(self._exact, precision="fp32", threads=self._cores) as net:
                names = judged_blobs(self._exact)
                rows = (net.blobs(*sample, names=names) for sample in self.samples)
                self._reference = keep_outputs(names, rows, folder / "reference")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def errors(self, model: Artifact | Graph) -> Errors:
        """The errors of one version on this machine, without the figures of the task.

        Raises:
            RuntimeFailure: ncnn crashed, or refuses to run it.
        """
        with Session(model, threads=self._cores) as net:
            return self._errors(net, self.samples, figures=False)

    def here(
        self, graphs: Sequence[Graph], precision: str = "fp32", *, most: int | None = None, figures: bool = False,
        progress: Progress = silent,
    ) -> list[Errors]:  # fmt: skip
        """The errors of each graph on this machine, with one process per core.

        A graph that ncnn refuses to run, or that crashes it, has infinite errors.

        Args:
            graphs: versions of the network with the same outputs.
            precision: the precision at which they are loaded.
            most: the largest number of samples to use; by default all.
            figures: whether the figures of the task are needed. Decoding may take longer than the network.

        Raises:
            RuntimeFailure: the device does not answer.
        """
        processes = min(self._cores, len(graphs)) or 1
        return self._all(graphs, precision, LOCAL, processes, self._cores // processes, most, figures, progress)

    def there(
        self, graphs: Sequence[Graph], precision: str = "mixed", *, most: int | None = None, figures: bool = False,
        progress: Progress = silent,
    ) -> list[Errors]:  # fmt: skip
        """The errors of each graph on the device, which may compute differently from this machine; see :meth:`here`."""
        if self._device.address == LOCAL.address:
            return self.here(graphs, precision, most=most, figures=figures, progress=progress)
        return self._all(graphs, precision, self._device, 1, self._threads, most, figures, progress)

    def _all(
        self, graphs: Sequence[Graph], precision: str, device: Device, processes: int, threads: int | None,
        most: int | None, figures: bool, progress: Progress,
    ) -> list[Errors]:  # fmt: skip
        if not graphs:
            return []
        models = [Artifact.made(graph, precision) for graph in graphs]
        samples = self.samples.subset(range(min(most or len(self.samples), len(self.samples))))
        done = 0
        with ExitStack() as stack:
            # Each session starts with the fp32 network, which loads on every device.
            start = Artifact.made(self._exact, "fp32")
            sessions: list[Session] = []
            ended = threading.Event()

            def begin() -> Session:
                session = stack.enter_context(Session(start, threads=threads, device=device))
                sessions.append(session)
                if ended.is_set():
                    session.kill()
                return session

            idle = [begin() for _ in range(processes)]

            def judge(model: Artifact) -> Errors:
                nonlocal done
                session = idle.pop()
                try:
                    session.load(model)
                    errors = self._errors(session, samples, figures)
                except RuntimeFailure as error:
                    if ended.is_set():
                        raise
                    errors = self._wrong(error.what)
                    self.refused[error.what] += 1
                    if session.closed:  # if the device was lost, the fp32 network does not load, either
                        session = begin()
                idle.append(session)
                done += 1
                progress(done, len(models))
                return errors

            with ThreadPoolExecutor(processes) as pool:
                try:
                    return list(pool.map(judge, models))
                except BaseException:
                    ended.set()
                    for session in list(sessions):
                        session.kill()
                    raise

    def _errors(self, session: Session, samples: Samples, figures: bool) -> Errors:
        errors = Errors(self._task, figures=figures)
        for sample, reference in zip(samples, self._reference):
            errors.add(session.blobs(*sample, names=judged_blobs(session.artifact.graph)), reference)
        return errors

    def _wrong(self, why: str) -> Errors:
        """Infinite errors."""
        errors = Errors(self._task)
        errors.refused = why
        errors.add([np.full_like(values, np.nan) for values in self._reference[0]], self._reference[0])
        return errors


def judged_blobs(graph: Graph) -> list[str]:
    """The outputs of a network. If its last layer selects boxes, the inputs of this layer instead of the boxes.

    These inputs come first, in the order of the layer's inputs.
    """
    layer = detection_layer(graph)
    if layer is None or layer.output not in graph.outputs:
        return graph.outputs
    return [*layer.blobs, *(blob for blob in graph.outputs if blob != layer.output)]


def before_the_choice(graph: Graph, task: Task | None) -> Task | None:
    """The task, changed to read :func:`judged_blobs`: boxes before the selection.

    Args:
        graph: the network, with the shapes of its inputs.
        task: the task that reads its outputs.
    """
    layer = detection_layer(graph)
    if layer is None or layer.output not in graph.outputs:
        return task
    sizes = [(shape[1], shape[2]) for shape in graph.input_shapes() if shape and len(shape) == 3]
    known = detection_layer(graph, sizes[0]) if sizes else None
    return Detection(decoder=known.before) if known and known.before and isinstance(task, Detection) else None
