"""The forms in which a caller may give samples: :func:`as_samples` for a network, :func:`find_samples` for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from contextlib import ExitStack
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..formatting import counted, with_article
from ..model.graph import Graph
from ..onboard.rows import Rows, RowWriter
from ..onboard.scratch import Scratch
from ..progress import Progress, silent
from .finding import find_files, find_images, open_images
from .images import ImageSet
from .items import InputSpec, Row, times
from .preprocess import Preprocess
from .stream import ArraySamples, Samples

HINT = "give arrays (N, …), or an iterable of arrays or batches such as a DataLoader"


def as_samples(given: Any, graph: Graph, preprocess: Preprocess | None = None) -> Samples:
    """The samples for a network, from any form that a caller may give.

    Args:
        given: one of

            - :class:`~ncnnkit.samples.stream.Samples`, for example an ImageSet, which are returned unchanged;
            - the path of a folder or file, or a mapping from the inputs' names to paths, as
              :func:`ncnnkit.open_images` takes it;
            - an array or tensor (N, …), or a sequence with one of these for each network input, or a mapping from the
              inputs' names to them;
            - an iterable of batches, for example a PyTorch DataLoader. A batch is an array or tensor (n, …), or a
              sequence that begins with one for each network input (further items, such as labels, are not used), or a
              mapping. The batches are read once, in order, and kept in a temporary file as long as the samples are
              used.

            A single sample without the axis N counts as N = 1.
        graph: the network that will read them.
        preprocess: how images become tensors; used for paths only.

    Raises:
        ImageError: there are no samples, or they do not fit the network's inputs.

    Example:
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=32)  # doctest: +SKIP
        >>> as_samples(loader, graph)[0][0].shape  # doctest: +SKIP
        (3, 224, 224)
    """
    specs = [InputSpec(name, shape) for name, shape in zip(graph.inputs, graph.input_shapes(), strict=True)]
    samples: Samples
    if is_named(given):
        samples = open_images(given, preprocess, specs)
    elif hasattr(given, "subset") and hasattr(given, "__getitem__"):
        samples = given
    else:
        samples = ArraySamples(_arrays(given, specs))
    if not len(samples):
        raise ImageError("there are no samples", hint=HINT)
    if len(samples[0]) != len(specs):
        raise ImageError(f"a sample has {len(samples[0])} arrays, but the network has {len(specs)} inputs", hint=HINT)
    return samples


def is_named(given: Any) -> bool:
    """Whether samples are given as a path, or as a path for each input, and not as objects."""
    return isinstance(given, str | Path) or (
        isinstance(given, Mapping) and bool(given) and all(isinstance(path, str | Path) for path in given.values())
    )


def find_samples(
    given: Any,
    preprocess: Preprocess | None,
    inputs: Sequence[InputSpec],
    progress: Progress = silent,
    name: str = "images",
) -> ImageSet:
    """The samples of a run, from a source that a recipe can name or from Python objects.

    Args:
        given: one of

            - what :func:`ncnnkit.samples.finding.find_images` takes: a path, or a path for each input;
            - a sequence of paths of images, recordings or arrays;
            - arrays, or an iterable of arrays or batches, as :func:`as_samples` takes them. Like those of a ``.npy``
              file, they are fed to the network as they are, unless ``preprocess.arrays`` says that they are normalised.
        preprocess: how images become tensors.
        inputs: the inputs of the network. progress: called with (files or batches done, their number, or 0 if unknown).
        name: the name of the samples of an array in errors and reports.

    Raises:
        ImageError: there are no samples, or they do not fit the network's inputs.
    """
    inputs = tuple(inputs)
    if is_named(given):
        return find_images(given, preprocess, inputs, progress)
    if isinstance(given, ImageSet):
        hint = "give the path that they were opened from; preset and preprocess say how images become tensors"
        raise ImageError("a run does not take samples that are already opened", where=name, hint=hint)
    if isinstance(given, list | tuple) and given and all(isinstance(each, str | PathLike) for each in given):
        return find_files([fspath(each) for each in given], preprocess, inputs, progress, where=name)
    try:
        arrays = _arrays(given, inputs, progress)
    except ImageError as error:
        where = ", ".join(filter(None, (name, error.where)))
        raise ImageError(error.what, where=where, hint=error.hint) from None
    if not len(arrays[0]):
        raise ImageError("there are no samples", where=name, hint="an iterator can be read only once" if given else "")
    return ImageSet(inputs, tuple(Row(name, arrays, index, preprocess) for index in range(len(arrays[0]))))


def _arrays(given: Any, specs: Sequence[InputSpec], progress: Progress = silent) -> tuple[NDArray[Any] | Rows, ...]:
    """One array (N, …) for each network input; those of an iterable are in files."""
    if _is_array(given) or isinstance(given, Mapping) or _is_a_column_for_each(given, specs):
        return tuple(_columns(given, specs, ""))
    return _spooled(given, specs, progress)


class _SpooledRows(Rows):
    """Rows of a file in a temporary folder, which is removed when nobody uses the rows any more."""

    def __init__(self, path: Path, folder: Scratch) -> None:
        super().__init__(path)
        self._folder = folder


def _spooled(batches: Any, specs: Sequence[InputSpec], progress: Progress) -> tuple[Rows, ...]:
    """The samples of an iterable of batches, written to disk batch by batch."""
    try:
        if isinstance(batches, bytes | bytearray):
            raise TypeError
        found = iter(batches)
    except TypeError:
        raise ImageError(f"{with_article(batches)} contains no samples", hint=HINT) from None
    total = len(batches) if isinstance(batches, Sized) else 0
    folder = Scratch()
    files = [Path(folder.name) / f"input-{number}.npy" for number in range(len(specs))]
    firsts: dict[str, tuple[int, ...]] = {}  # file -> the shape of its first row
    with ExitStack() as stack:
        writers = [stack.enter_context(RowWriter(file)) for file in files]
        for number, batch in enumerate(found):
            where = f"batch {number}"
            columns = _columns(batch, specs, where)
            for writer, column in zip(writers, columns, strict=True):
                for row in column:
                    first = firsts.setdefault(writer.path, row.shape)
                    if row.shape != first:
                        raise ImageError(f"a row has shape {row.shape}, but the first has {first}", where=where)
                    writer.append(row)
            progress(number + 1, total)
    return tuple(_SpooledRows(file, folder) for file in files)


def _columns(given: Any, specs: Sequence[InputSpec], where: str) -> list[NDArray[Any]]:
    """One array (N, …) for each network input. Raises ImageError."""
    if isinstance(given, Mapping):
        missing = [spec.name for spec in specs if spec.name not in given]
        if missing:
            raise ImageError(f"there is no array for input {missing[0]!r}", where=where, hint=HINT)
        found = [given[spec.name] for spec in specs]
    elif _is_array(given):
        found = [given]
    else:
        found = list(given)[: len(specs)] if isinstance(given, list | tuple) else []
    if len(found) != len(specs) or not all(map(_is_array, found)):
        what = f"{len(found)} arrays" if found and all(map(_is_array, found)) else with_article(given)
        raise ImageError(f"{what} cannot feed the network's {counted(len(specs), 'input')}", where=where, hint=HINT)
    columns = [_column(array, spec, where) for array, spec in zip(found, specs)]
    counts = sorted({len(column) for column in columns})
    if len(counts) > 1:
        raise ImageError(f"the inputs' arrays have different lengths: {counts}", where=where)
    return columns


def _column(given: Any, spec: InputSpec, where: str) -> NDArray[Any]:
    if hasattr(given, "detach"):  # a torch tensor; numpy does not support all its types and devices
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    array: NDArray[Any] = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise ImageError(f"an array contains {array.dtype}, not numbers", where=where)
    array = spec.turned(array)
    if array.shape == spec.original:  # the original has no batch axis, or more axes than an ncnn blob
        array = array.reshape(1, *spec.shape)
    if spec.shape and array.shape == spec.shape:
        array = array[None]
    if not array.ndim or (spec.shape and array.shape[1:] != spec.shape):
        raise ImageError(
            f"an array has shape {times(array.shape)}, but input {spec.name!r} takes N x {times(spec.shape)}",
            where=where,
            hint="arrays are not preprocessed; files of images are",
        )
    return array


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _is_a_column_for_each(given: Any, specs: Sequence[InputSpec]) -> bool:
    return isinstance(given, list | tuple) and len(given) == len(specs) and all(map(_is_array, given))
