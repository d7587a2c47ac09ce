"""A set of samples. It finds the usable samples, chooses samples, and finds duplicates."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ..errors import ImageError
from ..formatting import counted
from ..onboard.picture import Placement
from ..onboard.process import available_cores
from ..progress import Progress
from .files import picked, prepared
from .items import InputSpec, Item, Picture, fit, image_input, reason, times
from .preprocess import Preprocess
from .stream import ArraySamples, Sample, columns, evenly

T = TypeVar("T")
R = TypeVar("R")

_THREADS = min(8, available_cores())
_CHUNK = 32  # how many entries threads process ahead, which bounds the memory for a large set


@dataclass(frozen=True)
class ImageSet:
    """Samples that are decoded when they are accessed. Iterating decodes in threads.

    Attributes:
        inputs: the network inputs each sample feeds, in order.
        items: the samples, sorted by name.
        skipped: (name, reason) of the files that are not usable samples.
        copies: (name, name of the sample with the same content) of the samples that were dropped as duplicates.
        left_out: the number of samples that :meth:`checked` did not choose.
    """

    inputs: tuple[InputSpec, ...]
    items: Sequence[Item]
    skipped: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    left_out: int = 0

    @property
    def pictures(self) -> bool:
        """Whether any sample is an image; arrays need no preprocessing."""
        return any(item.picture for item in self.items)

    @property
    def rates(self) -> set[int]:
        """The sample rates of its recordings, Hz; empty if there are none."""
        return {item.rate for item in self.items if item.rate}

    @property
    def names(self) -> tuple[str, ...]:
        """File names relative to the source, or ``name[index]`` for rows of an array."""
        return tuple(item.name for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """One float32 C-contiguous array per network input, without batch axis.

        Raises:
            ImageError: the sample does not fit the network, contains NaN or infinity, or can no longer be read.
        """
        item = self.items[index]
        try:
            sample = item.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"can no longer be read: {reason(error)}", where=item.name) from None
        for spec, array in zip(self.inputs, sample):
            if array.shape != spec.shape:
                raise ImageError(
                    f"has shape {times(array.shape)}, but input {spec.name!r} takes {times(spec.shape)}",
                    where=item.name,
                )
            if not np.isfinite(array).all():
                raise ImageError(f"contains NaN or infinity for input {spec.name!r}", where=item.name)
        return sample

    def placement(self, index: int) -> Placement | None:
        """The position of the image in a sample, to convert points of the input to points of the image; None for an
        array."""
        return self.items[index].placement()

    def __iter__(self) -> Iterator[Sample]:
        return in_threads(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, they are the paths of their files, or their arrays if they are rows of arrays."""
        if all(item.in_own_file for item in self.items):
            return ImageSet, (self.inputs, self.items)
        return ArraySamples, (columns(self),)

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The samples at these positions, in this order."""
        return replace(self, items=picked(self.items, indices))

    @property
    def only_pictures(self) -> bool:
        """Whether all samples are images."""
        return all(item.picture for item in self.items)

    def prepared(self, preprocess: Preprocess | None) -> ImageSet:
        """The same samples, with the images prepared in another way; None changes nothing."""
        if preprocess is None:
            return self
        return replace(self, items=prepared(self.items, preprocess))

    def resized(self, inputs: Sequence[InputSpec]) -> ImageSet | None:
        """The same images for inputs of another size; None if some samples are arrays, tiles, or not resized."""
        inputs, items = tuple(inputs), list[Item]()
        for item in self.items:
            if not (isinstance(item, Picture) and image_input(inputs)):
                return None
            fitted = fit(item.preprocess, inputs)
            if fitted is None or not fitted.resizes or item.tile is not None:
                return None
            items.append(replace(item, preprocess=fitted))
        return replace(self, inputs=inputs, items=tuple(items))

    def split(self, every: int = 5) -> tuple[ImageSet, ImageSet]:
        """(calibration, evaluation). Every ``every``-th sample, or image with all its tiles, is held out for
        evaluation.

        Raises:
            ImageError: there are too few samples to hold one out.
        """
        files = {file: i for i, file in enumerate(dict.fromkeys(item.file for item in self.items))}
        if len(files) < every:
            copies = f" ({len(self.copies)} copies of others were dropped)" if self.copies else ""
            raise ImageError(
                f"too few images to hold out every {every}th one: {len(files)}{copies}",
                hint="give more images, or evaluation images with --eval-images",
            )
        held = [files[item.file] % every == every - 1 for item in self.items]
        return self.subset([i for i, out in enumerate(held) if not out]), self.subset(
            [i for i, out in enumerate(held) if out]
        )

    def distinct(self) -> ImageSet:
        """The samples without duplicates of earlier ones. ``copies`` lists the duplicates."""
        dropped = {i: first for first, *others in _same_content(self.items) for i in others}
        kept = picked(self.items, [i for i in range(len(self)) if i not in dropped])
        found = tuple((self.items[i].name, self.items[first].name) for i, first in sorted(dropped.items()))
        return replace(self, items=kept, copies=self.copies + found)

    def checked(self, at_most: int | None = None, progress: Progress | None = None) -> ImageSet:
        """The samples that can be decoded completely. The others are added to ``skipped``.

        Args:
            at_most: choose this many samples, evenly spread over the set, and decode no others. A damaged sample is
                    replaced by another.
            progress: called with (samples checked, samples to check).

        Raises:
            ImageError: no sample can be decoded.
        """
        wanted = len(self) if at_most is None else min(at_most, len(self))
        next_ones = evenly(len(self), wanted)
        untried = sorted(set(range(len(self))) - set(next_ones))
        good: list[int] = []
        damaged: list[tuple[str, str]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about unusual files
            while next_ones:
                for i, reason in zip(next_ones, in_threads(lambda i: self.items[i].damage(), next_ones)):
                    if reason is None:
                        good.append(i)
                    else:
                        damaged.append((self.items[i].name, reason))
                    if progress:
                        progress(len(good) + len(damaged), wanted + len(damaged))
                next_ones = [untried[i] for i in evenly(len(untried), wanted - len(good))]
                untried = [i for i in untried if i not in set(next_ones)]
        if not good and damaged:
            raise ImageError(f"no usable image in {counted(len(damaged), 'file')}; {' '.join(damaged[0])}")
        return replace(self.subset(sorted(good)), skipped=(*self.skipped, *damaged), left_out=len(untried))


def apart(calibration: ImageSet, evaluation: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Two distinct sets. Common samples are removed from the larger set, and added to ``copies``.

    This matters because errors on images with which int8 was calibrated are smaller than on others.

    Raises:
        ImageError: one of the sets would be empty.
    """
    both = (*calibration.items, *evaluation.items)
    edge = len(calibration)
    shared: dict[int, int] = {}  # position in the calibration set -> position in the evaluation set
    for group in _same_content(both):
        ours, theirs = [i for i in group if i < edge], [i for i in group if i >= edge]
        shared |= {i: theirs[0] - edge for i in ours[:1] if theirs}
    if not shared:
        return calibration, evaluation
    if len(shared) == max(len(calibration), len(evaluation)):
        raise ImageError(
            f"all {len(shared)} evaluation images are also calibration images",
            hint="omit --eval-images: every fifth image is then held out",
        )
    if len(calibration) > len(evaluation):
        copies = tuple((calibration.items[i].name, evaluation.items[j].name) for i, j in shared.items())
        left = calibration.subset([i for i in range(edge) if i not in shared])
        return replace(left, copies=calibration.copies + copies), evaluation
    copies = tuple((evaluation.items[j].name, calibration.items[i].name) for i, j in shared.items())
    gone = set(shared.values())
    left = evaluation.subset([j for j in range(len(evaluation)) if j not in gone])
    return calibration, replace(left, copies=evaluation.copies + copies)


def dropped_copies(first: ImageSet, second: ImageSet) -> list[tuple[str, str]]:
    """(name, name of the sample with the same content) of the samples that were dropped from either set.

    Two halves of one folder have the same ``copies``; a list may name a file several times.
    """
    return list((Counter(first.copies) | Counter(second.copies)).elements())


def in_threads(function: Callable[[T], R], entries: Sequence[T]) -> Iterator[R]:
    """Apply ``function`` to each entry, in order, in threads that work a few entries ahead.

    :meth:`concurrent.futures.Executor.map` would make an object of 2 kB for every entry before the first is done.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(entries), _CHUNK):
            yield from pool.map(function, entries[start : start + _CHUNK])


def _same_content(items: Sequence[Item]) -> list[list[int]]:
    """Groups of positions of items with the same content. Beginnings are compared first, because reading all is
    slow."""
    groups = _alike(items, range(len(items)), whole=False)
    finer = [found for group in groups for found in _alike(items, group, whole=True)]
    return sorted(finer, key=lambda group: group[1])


def _alike(items: Sequence[Item], group: Sequence[int], *, whole: bool) -> list[list[int]]:
    """The positions of a group, divided by the digests of their items; items without a like are left out."""
    digests, rows = np.zeros((len(group), 2), np.uint64), list[int]()  # 16 bytes each; a dict would take 180
    for row, i in enumerate(group):
        with suppress(OSError):  # the file was removed meanwhile; reading it will report that
            digests[row] = np.frombuffer(items[i].digest(whole), np.uint64)
            rows.append(row)
    order = np.asarray(rows, np.int64)[np.lexsort(digests[rows].T)]  # stable: like ones stay in their order
    inner = np.flatnonzero(np.any(digests[order[1:]] != digests[order[:-1]], axis=1)) + 1
    bounds = [0, *inner.tolist(), len(order)]
    return [[group[row] for row in order[a:b].tolist()] for a, b in itertools.pairwise(bounds) if b - a > 1]
