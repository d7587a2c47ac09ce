"""Statistics of the activations of a network over the calibration images: :class:`ActivationStats`.

The network runs in fp32 on batches of images, in serving processes with one thread each. They count histograms
themselves, and only the counts are sent back. Merging is exact: counts are whole numbers, the edges of the bins do not
depend on the values' order, and values of single samples are put in the order of the samples before they are summed up.
So the result is the same, bit by bit, however the images are divided into batches and in whatever order these finish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact, floating
from ..batches import Workers, as_workers, batch_size, batches_of, given_or_here, map_batches
from ..device.crew import Net
from ..errors import FormatError, ModelError, RuntimeFailure, VerificationError
from ..model.graph import Graph, Layer
from ..older import Self
from ..onboard.child import WorkerError
from ..onboard.tally import Tally
from ..progress import Progress, silent
from ..samples.given import as_samples
from ..samples.stream import Samples, ahead, one_by_one

Answer = tuple[Any, list[NDArray[Any]]]

GROWING_BINS = 8192  # at least half of them are used, so the resolution of thresholds is better than 1/4096
SAMPLE = 1 << 16  # how many values of a blob are counted on each image; the largest value is that of all values
KL_BINS = 2048  # as in ncnn2table
RANGES_DO = ("aciq", "minmax")  # methods that need only the largest value


@dataclass(frozen=True, eq=False)
class BlobStats:
    """The distribution of the absolute values of one blob.

    Attributes:
        histogram: int64 (bins,), counts of non-zero absolute values; bin i covers [i, i+1) · width.
        width: the width of a bin, in the blob's unit.
        absmax: the largest absolute value.
        count: the number of values, including zeros.
    """

    histogram: NDArray[np.int64]
    width: float
    absmax: float
    count: int

    def merge(self, other: BlobStats) -> BlobStats:
        """The statistics of both together. They equal those of counting all values at once."""
        tally = Tally(len(self.histogram), max(self.width, other.width))
        for part in (self, other):
            wide = Tally(len(part.histogram), part.width)
            wide.histogram = part.histogram.copy()
            if part.width:
                wide.widen(tally.width)
            tally.histogram += wide.histogram
        return BlobStats(tally.histogram, tally.width, max(self.absmax, other.absmax), self.count + other.count)


@dataclass(frozen=True, eq=False)
class ActivationStats:
    """Statistics of the inputs of int8 layers. Copies of a blob (by Split) are counted under the original's name.

    Attributes:
        blobs: root blob name -> its statistics.
        images: the number of samples.
        method: the method to choose thresholds, for which the bins were made.

    Example:
        >>> samples = np.random.default_rng(0).normal(size=(20, 3, 224, 224)).astype(np.float32)
        >>> first, second = (nk.calibrate("model.param", half) for half in (samples[:10], samples[10:]))
        >>> both = first.merge(second)
        >>> both.images, bool(both.blobs["in0"].absmax == abs(samples).max())
        (20, True)
    """

    blobs: Mapping[str, BlobStats]
    images: int
    method: str = "mse"

    def merge(self, other: ActivationStats) -> ActivationStats:
        """The statistics of both batches. Raises FormatError if they are of different networks or methods."""
        if self.blobs.keys() != other.blobs.keys() or self.method != other.method:
            raise FormatError("statistics of different networks or methods cannot be merged")
        blobs = {name: stats.merge(other.blobs[name]) for name, stats in self.blobs.items()}
        return ActivationStats(blobs, self.images + other.images, self.method)


@dataclass(frozen=True, eq=False)
class Observed:
    """What one pass over the samples records about the blobs that int8 layers would read.

    Attributes:
        batches: statistics of disjoint batches; batch i holds the samples i, i + batches, …
        ranges: float64 (samples, blobs), the largest absolute values; empty if not requested.
        channels: root blob -> float64 (channels,), the largest absolute value of each channel, as a mean over the
            requested samples.
    """

    batches: list[ActivationStats]
    ranges: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    channels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def whole(self) -> ActivationStats:
        """The statistics of all samples together."""
        return merge_all(self.batches)


def quantizable(graph: Graph) -> list[Layer]:
    """The layers that ncnn can run with static int8 activations, in graph order."""
    return [
        la for la in graph.layers if la.op.int8 is not None and not la.get("int8_scale_term") and "weight" in la.weights
    ]


NOTHING_QUANTIZABLE = "the network has no convolution or inner product, which are the layers ncnnkit quantises to int8"


def why_nothing_quantizable(graph: Graph) -> ModelError:
    """The error for a network without a :func:`quantizable` layer."""
    others = sorted({layer.type for layer in graph.layers if layer.op.rounds_itself})
    hint = f"ncnn itself can store the weights of {', '.join(others)} in 8 bits; ncnnkit does not yet" if others else ""
    return ModelError(NOTHING_QUANTIZABLE, hint=hint)


def calibrate(
    model: Artifact | Graph | str | Path,
    images: Any,
    preprocess: Any = None,
    *,
    method: str = "mse",
    threads: int | None = None,
    workers: Workers | Executor | None = None,
    progress: Progress = silent,
) -> ActivationStats:
    """Run a network on images and collect statistics of its activations.

    Args:
        model: a network in floating point: an Artifact, a Graph or the path of a ``.param``. It is run in fp32.
        images: a folder or file of images, an ImageSet, arrays (N, …), or an iterable of batches; see
            :func:`ncnnkit.samples.given.as_samples`. Samples are read one at a time, so their number is not limited.
        preprocess: how images become tensors; needed for a folder or file, unused otherwise.
        method: ``mse``, ``minmax``, ``kl`` or ``aciq``. ``kl`` runs all images twice, as ncnn2table does, because its
            bins divide the range up to the largest value of all images. ``aciq`` and ``minmax`` need no histograms.
        threads: the number of processes, each with one thread; by default one per core.
        workers: run the batches elsewhere: any :class:`concurrent.futures.Executor`, for example
            ``dask.distributed.Client(...).get_executor()``. The result is the same on processors of one type.
        progress: called with (images done, images in all).

    Returns:
        The statistics of the blobs that int8 layers read.

    Raises:
        ModelError: the model is int8 or mixed already, or has no layer to quantise.
        ImageError: there are no samples, or they do not fit the network's inputs.
        VerificationError: an activation is NaN or infinite.
        RuntimeFailure: ncnn crashed.

    Example:
        >>> stats = nk.calibrate("model.param", "calib/", nk.Preprocess(resize=(224, 224)))
        >>> stats.images
        20
        >>> nk.save(nk.quantize("model.param", stats), "int8.param")
    """
    graph = floating(model, "calibration")
    samples = as_samples(images, graph, preprocess)
    with as_workers(workers) if isinstance(workers, Executor) else given_or_here(workers, threads) as given:
        histograms = method not in RANGES_DO
        return observe(graph, samples, method=method, histograms=histograms, workers=given, progress=progress).whole


def observe(
    graph: Graph,
    samples: Samples,
    *,
    method: str = "mse",
    histograms: bool = True,
    batches: int = 1,
    ranges: bool = False,
    channels: Sequence[int] = (),
    workers: Workers | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Observed:
    """Collect all statistics of a network's activations in one pass over the samples; two passes for ``kl``.

    Args:
        graph: the fp32 network.
        samples: each is run once.
        method: as :func:`calibrate` takes it.
        histograms: whether to count values, or to take only the largest.
        batches: the number of batches, which are counted separately.
        ranges: whether to record the largest values of each sample. They take 8 bytes for each blob and sample.
        channels: the samples for which the largest value of each channel is recorded.
        workers: run the batches; by default processes on this machine.
        threads: the number of these processes, each with one thread; by default one per core.
        progress: called with (samples done, samples in all).

    Raises:
        ModelError: the network has no layer to quantise.
        VerificationError: an activation is NaN or infinite.
        RuntimeFailure: ncnn crashed.
    """
    uses = graph.uses()
    blobs = list(dict.fromkeys(uses.root(layer.inputs[0]) for layer in quantizable(graph)))
    if not blobs:
        raise why_nothing_quantizable(graph)
    with Crew(graph, workers, threads) as crew:
        passed, passes = 0, 2 if method == "kl" else 1

        def collect(**request: Any) -> Observed:
            nonlocal passed
            counted: list[dict[str, BlobStats]] = [{} for _ in range(min(batches, len(samples)))]
            seen: list[NDArray[np.float64]] = []
            rows: dict[str, list[NDArray[np.float64]]] = {}
            before = passed * len(samples)

            def shown(done: int, total: int) -> None:
                progress((before + done) // passes, total)

            for answer, (noted, *arrays) in crew.over(samples, "tally", shown, blobs=blobs, batches=batches, **request):
                if request.get("ranges"):
                    seen.append(noted[:, 1:])
                for blob, largest in zip(answer.channels, arrays):
                    rows.setdefault(blob, []).append(largest)
                for row, histogram in zip(answer.rows, arrays[len(answer.channels) :]):
                    found = BlobStats(histogram, row.width, row.absmax, row.count)
                    known = counted[row.batch].get(row.blob)
                    counted[row.batch][row.blob] = found if known is None else known.merge(found)
            passed += 1
            sizes = (len(range(i, len(samples), batches)) for i in range(batches))
            stats = [ActivationStats(each, size, method) for each, size in zip(counted, sizes)]
            means = {blob: np.concatenate(each).mean(axis=0) for blob, each in rows.items()}
            return Observed(stats, np.concatenate(seen) if seen else np.empty((0, 0)), means)

        wanted: dict[str, Any] = {"ranges": ranges, "channels": list(channels)}
        if not histograms:
            return collect(bins=0, **wanted)
        if method != "kl":
            return collect(bins=GROWING_BINS, sample=SAMPLE, **wanted)
        first = collect(bins=0, **wanted)
        absmax = {name: blob.absmax for name, blob in first.whole.blobs.items()}
        return replace(first, batches=collect(bins=KL_BINS, absmax=absmax).batches)


def merge_all(batches: Sequence[ActivationStats]) -> ActivationStats:
    """The statistics of all batches together."""
    whole, *others = batches
    for other in others:
        whole = whole.merge(other)
    return whole


def over_samples(
    graph: Graph,
    samples: Samples,
    op: str,
    *,
    workers: Workers | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    **request: Any,
) -> Iterator[Answer]:
    """Run a network on samples in batches; see :class:`Crew`."""
    with Crew(graph, workers, threads) as crew:
        yield from crew.over(samples, op, progress, **request)


class Crew:
    """Serving processes with one thread each that run a network in fp32 on batches of samples. A context manager.

    Args:
        graph: the network.
        workers: run the batches; by default processes on this machine.
        threads: the number of these processes; by default one per core.
    """

    def __init__(self, graph: Graph, workers: Workers | None = None, threads: int | None = None) -> None:
        with ExitStack() as stack:
            self._workers = stack.enter_context(given_or_here(workers, threads))
            # Light mode would free a blob after its first reader ran, and compute it again for the next reader.
            self._net = self._workers.share(Net(Artifact.made(graph, "fp32"), self._workers, keep_blobs=True))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def over(self, samples: Samples, op: str, progress: Progress = silent, **request: Any) -> Iterator[Answer]:
        """Run the network on samples.

        Args:
            samples: each is read where its batch runs, and the next one while the network runs.
            op: the request to :class:`ncnnkit.onboard.network.Network` for every sample, with the fields ``request``
                and the ``number`` of the sample.
            progress: called with (samples done, samples in all).

        Yields:
            The answer to ``OP_so_far`` after each batch, in the order of the samples.

        Raises:
            VerificationError: a blob is NaN or infinite.
            RuntimeFailure: ncnn crashed.
        """
        size, finished = batch_size(len(samples), self._workers), 0
        parts = list(batches_of(len(samples), size))

        def done(number: int) -> None:
            nonlocal finished
            finished += len(parts[number])
            progress(finished, len(samples))

        batches = ((self._net, samples.subset(part), part.start, op, request) for part in parts)
        try:
            yield from map_batches(run_batch, batches, self._workers, done)
        except WorkerError as error:
            if "NaN" in str(error):
                hint = "does the fp32 model itself compute NaN on these images?"
                raise VerificationError(f"calibration: {error}", hint=hint) from None
            raise RuntimeFailure(f"calibration: {error.sentence}") from None
        except RuntimeFailure as error:
            raise RuntimeFailure(f"calibration: {error.what}", hint=error.hint) from None


def run_batch(net: Net, samples: Samples, first: int, op: str, request: Mapping[str, Any]) -> Answer:
    """Ask a serving process for each sample, then for what it has so far.

    Args:
        first: the number of the first sample among all samples.
    """
    with net.process() as child:
        for number, sample in enumerate(ahead(one_by_one(samples)), first):
            child.ask(op, sample, number=number, **request)
        return child.ask(f"{op}_so_far")
