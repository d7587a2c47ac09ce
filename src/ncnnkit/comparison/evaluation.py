"""Runs networks on samples in batches, and compares their outputs with exact ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..batches import Workers, batch_size, batches_of, map_batches
from ..device.crew import Net
from ..errors import ModelError, RuntimeFailure
from ..onboard.child import WorkerError
from ..onboard.process import available_cores
from ..progress import Progress, silent
from ..samples.stream import Samples, ahead, one_by_one
from ..tasks import Task
from .accuracy import Errors
from .outputs import Outputs, keep_outputs

Array = NDArray[Any]


@dataclass(frozen=True)
class Version:
    """A version of a network, and the blobs by which it is judged."""

    model: Artifact
    names: Sequence[str]


def outputs_over(
    version: Version, samples: Samples, folder: Path, workers: Workers, *, threads: int = 1,
    progress: Progress = silent,
) -> Outputs:  # fmt: skip
    """The outputs of a network for every sample, in files.

    Args:
        version: the network, and the blobs to keep.
        folder: the folder to write to, a file for each blob.
        workers: run the batches.
        threads: the threads of each serving process.
        progress: called with (samples done, samples in all).

    Raises:
        RuntimeFailure: ncnn crashed, or refuses to run it.
    """
    parts = list(batches_of(len(samples), batch_size(len(samples), workers)))
    net = workers.share(Net(version.model, workers, threads=threads))
    batches = ((net, samples.subset(part), version.names) for part in parts)
    finished = 0

    def done(number: int) -> None:
        nonlocal finished
        finished += len(parts[number])
        progress(finished, len(samples))

    def rows() -> Iterator[tuple[Array, ...]]:
        try:
            for found in map_batches(run_outputs, batches, workers, done):
                yield from found
        except WorkerError as error:
            raise RuntimeFailure(error.sentence) from None

    return keep_outputs(version.names, rows(), folder)


def errors_over(
    versions: Sequence[Version], samples: Samples, reference: Outputs, workers: Workers, *, task: Task | None = None,
    figures: bool = True, labels: Sequence[Any] | None = None, threads: int = 1, progress: Progress = silent,
) -> list[Errors]:  # fmt: skip
    """The errors of each version of a network over all samples. The outputs are not kept.

    A version that ncnn refuses to run, or that crashes it, has infinite errors, and :attr:`Errors.refused` says why.

    Args:
        versions: networks with the same outputs.
        samples: their samples.
        reference: the exact outputs, for at least as many samples.
        workers: run the batches.
        task: what the networks are for.
        figures: whether the figures of the task are needed.
        labels: the label of each sample, if known.
        threads: the threads of each serving process.
        progress: called with (versions done, versions in all); for a single version with samples.
    """
    # Loading a network may take longer than running a batch, so as few processes as possible load each.
    size = batch_size(len(samples), workers, 1 / max(len(versions), 1))
    parts = list(batches_of(len(samples), size))
    left, counts = [len(parts)] * len(versions), [0, 0]

    def batches() -> Iterator[tuple[Any, ...]]:
        for version in versions:
            net = workers.share(Net(version.model, workers, threads=threads), everywhere=len(parts) >= workers.count)
            for part in parts:
                truths = None if labels is None else [labels[i] for i in part]
                exact = Exact(reference, part)
                yield net, samples.subset(part), version.names, exact, task, figures, truths

    def done(number: int) -> None:
        version, part = divmod(number, len(parts))
        left[version] -= 1
        counts[0] += not left[version]
        counts[1] += len(parts[part])
        if len(versions) == 1:
            progress(counts[1], len(samples))
        elif not left[version]:
            progress(counts[0], len(versions))

    def refused(_: int, why: str) -> Errors:
        return infinite(reference[0], why, task)

    found = [Errors(task, figures=figures) for _ in versions]
    for number, errors in enumerate(map_batches(run_errors, batches(), workers, done, refused)):
        found[number // len(parts)].merge(errors)
    return found


def differences_over(
    first: Artifact, second: Artifact, samples: Samples, workers: Workers, *, progress: Progress = silent
) -> tuple[Errors, list[str]]:
    """The errors of the second model's outputs against the first's, and the names of the first's outputs.

    Args:
        workers: run the batches; each runs both models.
        progress: called with (samples done, samples in all).

    Raises:
        ModelError: the models differ in the number or the shapes of their outputs.
        RuntimeFailure: ncnn crashed, or refuses to run one of them.
    """
    threads = threads_each(len(samples), workers)
    nets = [workers.share(Net(model, workers, threads=threads)) for model in (first, second)]
    parts = list(batches_of(len(samples), batch_size(len(samples), workers)))
    varies = first.graph.varies or second.graph.varies
    for model in (first, second):
        model.graph.check_input_shapes([array.shape for array in samples[0]])
    batches = ((*nets, samples.subset(part), first.purpose, varies) for part in parts)
    errors, names, finished = Errors(first.purpose), list[str](), 0

    def done(number: int) -> None:
        nonlocal finished
        finished += len(parts[number])
        progress(finished, len(samples))

    try:
        for found, names in map_batches(run_both, batches, workers, done):  # noqa: B007
            errors.merge(found)
    except WorkerError as error:
        raise RuntimeFailure(error.sentence) from None
    return errors, names


def threads_each(inferences: int, workers: Workers, cores: int | None = None) -> int:
    """The threads of each serving process: one, unless there are fewer inferences than cores of this machine.

    It does not depend on the number of workers, because the last bits of outputs may depend on the threads.
    """
    return 1 if workers.remote else max(1, (cores or available_cores()) // max(inferences, 1))


def infinite(reference: Sequence[Array], why: str, task: Task | None = None) -> Errors:
    """Infinite errors of a network that did not run.

    Args:
        reference: the exact outputs for one sample.
        why: the reason.
    """
    errors = Errors(task)
    errors.refused = why
    errors.add([np.full_like(values, np.nan) for values in reference], reference)
    return errors


class Exact:
    """The exact outputs for a range of samples. Pickled, they are arrays, because another machine has no such files."""

    def __init__(self, outputs: Outputs | Sequence[Sequence[Array]], part: range) -> None:
        self._outputs, self._part = outputs, part

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> Sequence[Array]:
        return self._outputs[self._part[index]]

    def __reduce__(self) -> tuple[Any, ...]:
        return Exact, ([self[index] for index in range(len(self))], range(len(self)))


def run_outputs(net: Net, samples: Samples, names: Sequence[str]) -> list[tuple[Array, ...]]:
    """The blobs of a network for each sample."""
    with net.process() as child:
        return [tuple(child.ask("run", sample, blobs=list(names))[1]) for sample in ahead(one_by_one(samples))]


def run_both(first: Net, second: Net, samples: Samples, task: Task | None, varies: bool) -> tuple[Errors, list[str]]:
    """The errors of a network against another over some samples, and the names of the outputs of the other.

    Args:
        varies: whether the shapes of outputs may differ.
    """
    errors, names = Errors(task), list[str]()
    with first.process() as one, second.process() as other:
        both = ((one.ask("run", sample), other.ask("run", sample)) for sample in ahead(one_by_one(samples)))
        for (exact, reference), (ours, outputs) in ahead(both):
            names = list(exact.names)
            if len(names) != len(ours.names):
                raise ModelError(f"one model has {len(names)} outputs, the other has {len(ours.names)}")
            for name, here, there in zip(names, reference, outputs):
                if here.shape != there.shape and not varies:
                    what = f"output {name!r} has shape {here.shape} in one model and {there.shape} in the other"
                    raise ModelError(what)
            errors.add(outputs, reference)
    return errors, names


def run_errors(
    net: Net, samples: Samples, names: Sequence[str], reference: Exact, task: Task | None, figures: bool,
    labels: Sequence[Any] | None,
) -> Errors:  # fmt: skip
    """The errors of a network over some samples."""
    errors = Errors(task, figures=figures)
    try:
        with net.process() as child:
            answers = (child.ask("run", sample, blobs=list(names)) for sample in ahead(one_by_one(samples)))
            for number, (_, outputs) in enumerate(ahead(answers)):
                errors.add(outputs, reference[number], None if labels is None else labels[number])
    except WorkerError as error:
        return infinite(reference[0], error.sentence, task)
    return errors
