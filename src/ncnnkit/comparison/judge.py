"""Judges versions of a network by their outputs on samples that were not used to make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..artifact import Artifact
from ..batches import Workers, given_or_here
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
from .evaluation import Version, errors_over, infinite, outputs_over, threads_each


class Judge:
    """Runs versions of a network on samples and compares their outputs with those of the fp32 network.

    If the last layer of a network selects boxes, the network is judged by the inputs of this layer. The number of rows
    of its output depends on scores near a threshold, so the noise of these rows is not meaningful.

    Use it in a ``with`` block: it keeps the samples and the exact outputs in temporary files. The outputs of a version
    are not kept.

    Args:
        exact: the fp32 network. Its outputs are computed by the workers.
        samples: the samples on which versions are judged.
        task: what the network is for; by default only the values of its outputs count.
        workers: run batches of samples; by default processes on this machine.
        threads: the number of these processes, and of the CPU threads of a device; by default all cores.
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
        self, exact: Graph, samples: Samples, task: Task | None = None, *, workers: Workers | None = None,
        threads: int | None = None, device: Device = LOCAL,
    ) -> None:  # fmt: skip
        self._exact, self._given = exact, samples
        self._task = before_the_choice(exact, task)
        self._threads, self._device = threads, device
        cores = available_cores()
        self._cores = min(threads or cores, cores)
        self._given_workers = workers
        self._stack = ExitStack()
        self.refused = Counter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(Scratch()))
            self.samples = keep(self._given, folder)
            self._exact.check_input_shapes([array.shape for array in self.samples[0]])
            exact = self._version(Artifact.made(self._exact, "fp32"))
            self._workers = stack.enter_context(given_or_here(self._given_workers, self._cores))
            threads = threads_each(len(self.samples), self._workers, self._cores)
            self._reference = outputs_over(exact, self.samples, folder / "reference", self._workers, threads=threads)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def errors(self, model: Artifact | Graph) -> Errors:
        """The errors of one version on this machine, without the figures of the task.

        Raises:
            RuntimeFailure: ncnn crashed, or refuses to run it.
        """
        (found,) = self._here([Artifact.of(model)], len(self.samples), figures=False)
        if found.refused:
            raise RuntimeFailure(found.refused)
        return found

    def here(
        self, graphs: Sequence[Graph], precision: str = "fp32", *, most: int | None = None, figures: bool = False,
        progress: Progress = silent,
    ) -> list[Errors]:  # fmt: skip
        """The errors of each graph, computed by the workers.

        A graph that ncnn refuses to run, or that crashes it, has infinite errors.

        Args:
            graphs: versions of the network with the same outputs.
            precision: the precision at which they are loaded.
            most: the largest number of samples to use; by default all.
            figures: whether the figures of the task are needed. Decoding may take longer than the network.
            progress: called with (graphs done, graphs in all); for a single graph with samples.

        Raises:
            DeviceError: the workers are lost.
        """
        count = min(most or len(self.samples), len(self.samples))
        models = [Artifact.made(graph, precision) for graph in graphs]
        return self._counted(self._here(models, count, figures=figures, progress=progress))

    def there(
        self, graphs: Sequence[Graph], precision: str = "mixed", *, most: int | None = None, figures: bool = False,
        progress: Progress = silent,
    ) -> list[Errors]:  # fmt: skip
        """The errors of each graph on the device, which may compute differently from this machine; see :meth:`here`.

        Raises:
            RuntimeFailure: the device does not answer.
        """
        if self._device.address == LOCAL.address:
            return self.here(graphs, precision, most=most, figures=figures, progress=progress)
        models = [Artifact.made(graph, precision) for graph in graphs]
        samples = self.samples.subset(range(min(most or len(self.samples), len(self.samples))))
        start, found = Artifact.made(self._exact, "fp32"), list[Errors]()
        with ExitStack() as stack:

            def begin() -> Session:
                # A session starts with the fp32 network, which loads on every device.
                return stack.enter_context(Session(start, threads=self._threads, device=self._device))

            session = begin() if models else None
            for done, model in enumerate(models, 1):
                assert session is not None
                try:
                    session.load(model)
                    found.append(self._there(session, samples, figures))
                except RuntimeFailure as error:
                    found.append(infinite(self._reference[0], error.what, self._task))
                    if session.closed:  # if the device was lost, the fp32 network does not load, either
                        session = begin()
                progress(done, len(models))
        return self._counted(found)

    def _here(self, models: Sequence[Artifact], count: int, figures: bool, progress: Progress = silent) -> list[Errors]:
        versions, samples = [self._version(model) for model in models], self.samples.subset(range(count))
        return errors_over(
            versions, samples, self._reference, self._workers, task=self._task, figures=figures,
            threads=threads_each(len(models) * count, self._workers, self._cores), progress=progress,
        )  # fmt: skip

    def _there(self, session: Session, samples: Samples, figures: bool) -> Errors:
        errors = Errors(self._task, figures=figures)
        for sample, reference in zip(samples, self._reference):
            errors.add(session.blobs(*sample, names=judged_blobs(session.artifact.graph)), reference)
        return errors

    def _version(self, model: Artifact) -> Version:
        return Version(model, judged_blobs(model.graph))

    def _counted(self, found: list[Errors]) -> list[Errors]:
        self.refused.update(errors.refused for errors in found if errors.refused)
        return found


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
