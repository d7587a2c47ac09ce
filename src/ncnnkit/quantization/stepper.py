"""Runs an exact and a rounded version of a network layer by layer on many samples: a serving process and its parent.

Quantising layer by layer needs, before each layer, the real outputs of the quantised layers before it. So the blobs of
all samples are kept until no layer reads them any more, in two versions: ``exact`` (of the fp32 network) and
``rounded`` (of the quantised network). A step runs one layer in ncnn, as a network with only this layer. It computes
the same as in the whole network.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":  # the serving process runs this file by its path
    sys.path.insert(0, str(Path(__file__).parents[2]))

from ncnnkit.device.serving import CheckedChild
from ncnnkit.errors import RuntimeFailure
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph, Layer, Names
from ncnnkit.onboard.answers import Answer, Done
from ncnnkit.onboard.child import Child, WorkerError
from ncnnkit.onboard.messages import serve
from ncnnkit.onboard.process import guarded, side_by_side
from ncnnkit.onboard.scratch import Scratch
from ncnnkit.quantization.scales import group_count
from ncnnkit.samples.stream import Sample, Samples, spread

T = TypeVar("T")

Array = NDArray[np.float32]
EXACT, ROUNDED = "exact", "rounded"
KEPT_BYTES = 2 << 30  # bytes of the blobs that all processes together keep
GATHERED_BYTES = 256 << 20  # bytes of the inputs that one gather returns


# --------------------------------------------------------------------------------------------- the serving process


class Blobs:
    """The blobs of some samples, between two layers. Each public method answers one request."""

    def __init__(self) -> None:
        self.samples: list[dict[tuple[str, str], Any]] = []
        self.numbers: list[int] = []

    def feed(self, request: dict[str, Any], arrays: list[Any]) -> tuple[Answer, list[Any]]:
        """Add the sample with a ``number``. Its arrays are the network's inputs ``names``."""
        import ncnn

        mats = [ncnn.Mat(array).clone() for array in arrays]
        self.numbers.append(request["number"])
        self.samples.append({(b, name): mat for name, mat in zip(request["names"], mats) for b in (EXACT, ROUNDED)})
        return Done(), []

    def step(self, request: dict[str, Any], _: list[Any]) -> tuple[Answer, list[Any]]:
        """Run the layer in ``param`` and ``bin`` on every sample.

        ``reads``: [blob in the file, kept blob] for each input; ``makes``: the outputs; ``branches``: the versions;
        ``divide``: the divisor of the outputs; ``free``: blobs that no layer reads any more.
        """
        import ncnn

        net = ncnn.Net()
        options = net.opt
        options.num_threads, options.use_vulkan_compute = 1, False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_packed = options.use_bf16_storage = False
        if net.load_param(request["param"]) != 0 or net.load_model(request["bin"]) != 0:
            raise RuntimeError("could not load a layer")
        for sample in self.samples:
            done: dict[tuple[int, ...], list[Any]] = {}
            for branch in request["branches"]:
                inputs = [sample[branch, kept] for _, kept in request["reads"]]
                key = tuple(map(id, inputs))
                if key not in done:  # both versions are the same until something is rounded
                    done[key] = self._run(net, request, inputs)
                sample.update(((branch, blob), mat) for blob, mat in zip(request["makes"], done[key]))
            for blob in request["free"]:
                for branch in (EXACT, ROUNDED):
                    sample.pop((branch, blob), None)
        return Done(), []

    def _run(self, net: Any, request: dict[str, Any], inputs: list[Any]) -> list[Any]:
        import ncnn

        made = []
        with net.create_extractor() as extractor:
            for (name, _), mat in zip(request["reads"], inputs):
                extractor.input(name, mat)
            for name in request["makes"]:
                status, mat = extractor.extract(name)
                if status != 0 or mat.empty():
                    raise RuntimeError(f"could not compute blob {name}")
                if request["divide"] != 1.0:
                    values = np.ascontiguousarray(np.asarray(mat) / np.float32(request["divide"]))
                    mat = ncnn.Mat(values)  # does not keep the array alive
                made.append(mat.clone())  # a copy, because the network's memory is freed with it
        return made

    def gather(self, request: dict[str, Any], _: list[Any]) -> tuple[Answer, list[Any]]:
        """The inputs and the desired outputs of a layer at ``count`` random positions of every sample.

        ``read``, ``make``: blobs; ``window``: see :func:`window`; ``seed``. The answer has the rounded inputs, the
        exact outputs (rows, channels), and the number of the sample of each row.
        """
        rows: list[list[Any]] = []
        for number, sample in zip(self.numbers, self.samples):
            rng = np.random.default_rng((request["seed"], number))
            target = np.asarray(sample[EXACT, request["make"]])
            places = _choose(rng, target, request["window"], request["count"])
            outputs = _outputs(target, request["window"], places)
            inputs = _patches(np.asarray(sample[ROUNDED, request["read"]]), request["window"], places, target)
            rows.append([inputs, outputs, np.full(len(outputs), number)])
        return Answer(), [np.concatenate(column) for column in zip(*rows)]

    def outputs(self, request: dict[str, Any], _: list[Any]) -> tuple[Answer, list[Any]]:
        """The blobs ``names`` of one version, (samples, …) each."""
        branch = request["branch"]
        return Answer(), [np.stack([np.asarray(s[branch, name]) for s in self.samples]) for name in request["names"]]


Window = dict[str, Any]
"""The kernel size, strides and padding of a convolution, as plain numbers; empty for an InnerProduct."""


def window(layer: Layer) -> Window:
    """The kernel size, strides and padding of a layer as plain numbers; empty for an InnerProduct."""
    if layer.type == "InnerProduct":
        return {}
    names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w",
             "pad_top", "pad_bottom", "pad_left", "pad_right", "pad_value")  # fmt: skip
    return {name: layer.get(name) for name in names}


def _is_pixelwise(array: Any, at: Window) -> bool:
    return bool(at) and array.ndim == 3


def _choose(rng: np.random.Generator, target: Any, at: Window, count: int) -> Any:
    """Indices of random positions of an output, without repetition."""
    places = target.shape[1] * target.shape[2] if _is_pixelwise(target, at) else len(np.atleast_2d(target))
    return np.arange(places) if places <= count else rng.choice(places, count, replace=False)


def _outputs(target: Any, at: Window, places: Any) -> Any:
    if _is_pixelwise(target, at):
        return target.reshape(len(target), -1)[:, places].T.astype(np.float32)
    return np.atleast_2d(target)[places].astype(np.float32)


def _patches(array: Any, at: Window, places: Any, target: Any) -> Any:
    """The kernel's input at positions of the output, (positions, channels * kernel_h * kernel_w), in weight order."""
    if not _is_pixelwise(array, at):
        # An InnerProduct reads a matrix row by row or as one vector. The shape of its output shows which.
        return array.reshape(len(np.atleast_2d(target)), -1)[places].astype(np.float32)
    height, width = array.shape[1:]
    spans = {axis: at[f"dilation_{axis}"] * (at[f"kernel_{axis}"] - 1) + 1 for axis in "hw"}
    top, bottom = padding(at["pad_top"], at["pad_bottom"], height, spans["h"], at["stride_h"])
    left, right = padding(at["pad_left"], at["pad_right"], width, spans["w"], at["stride_w"])
    padded = np.pad(array, ((0, 0), (top, bottom), (left, right)), constant_values=at["pad_value"])
    columns = (padded.shape[2] - spans["w"]) // at["stride_w"] + 1
    y, x = np.divmod(places, columns)
    ys = (y * at["stride_h"])[:, None] + at["dilation_h"] * np.arange(at["kernel_h"])
    xs = (x * at["stride_w"])[:, None] + at["dilation_w"] * np.arange(at["kernel_w"])
    found = padded[:, ys[:, :, None], xs[:, None, :]]  # (channels, places, kernel_h, kernel_w)
    return found.transpose(1, 0, 2, 3).reshape(len(places), -1).astype(np.float32)


def padding(before: int, after: int, side: int, span: int, stride: int) -> tuple[int, int]:
    """Padding before and after a side; ncnn's -233 and -234 are SAME_UPPER and SAME_LOWER."""
    if before >= 0:
        return before, after
    whole = max(0, span + (side - 1) // stride * stride - side)
    return (whole // 2, whole - whole // 2) if before == -233 else (whole - whole // 2, whole // 2)


# ----------------------------------------------------------------------------------------------- the parent process


@dataclass(frozen=True, eq=False)
class Rows:
    """The inputs and the desired outputs of a layer at sampled positions.

    Attributes:
        inputs: float32 (rows, values), from the rounded version, in the order of the weights.
        outputs: float32 (rows, channels), from the exact version, after the activation.
        sample: int (rows,), the index of the sample of each row.
    """

    inputs: Array
    outputs: Array
    sample: NDArray[np.int64]


def inputs_of_a_row(layer: Layer) -> int:
    """The number of input values on which one position of the output depends, over all groups."""
    return layer.array("weight").size // int(layer.get("num_output")) * group_count(layer)


def most_bytes(graph: Graph, sample: Sample) -> int:
    """The largest number of bytes that the blobs of one sample, in both versions, take between two layers.

    A blob of unknown shape counts as large as the largest known one.
    """
    uses, shapes = graph.uses(), graph.infer_shapes([array.shape for array in sample])
    sides = {blob: [side for side in shape if isinstance(side, int)] for blob, shape in shapes.items() if shape}
    known = {blob: math.prod(each) for blob, each in sides.items() if len(each) == len(shapes[blob] or ())}
    size = {root: known.get(root, max(known.values())) for root in uses.roots}
    left = {root: len(uses.readers(root)) + uses.is_output(root) for root in uses.roots}
    held = most = 0
    for layer in graph.layers:
        if layer.op.copies:
            continue
        held += sum(size[blob] for blob in layer.outputs)
        most = max(most, held)
        for root in map(uses.root, layer.inputs):
            left[root] -= 1
            held -= 0 if left[root] else size[root]
    return most * 4 * len((EXACT, ROUNDED))


def until_last(items: Sequence[T], counts: Callable[[T], bool]) -> list[T]:
    """The items up to the last one that counts. Layers after the last int8 layer need no steps."""
    last = max((index for index, item in enumerate(items) if counts(item)), default=-1)
    return list(items[: last + 1])


class Stepper:
    """Runs a network layer by layer, in child processes that each keep the blobs of their share of the samples.

    Args:
        graph: the exact network.
        samples: samples of its inputs; each is read once. As many as fit into :data:`KEPT_BYTES` are used, evenly
            spread.
        threads: the number of processes.

    Attributes:
        samples: the number of samples used.

    Raises:
        RuntimeFailure: every method: ncnn crashed.
    """

    def __init__(self, graph: Graph, samples: Samples, threads: int | None = None) -> None:
        samples = spread(samples, max(1, KEPT_BYTES // most_bytes(graph, samples[0])))
        self.samples = len(samples)
        self._uses = graph.uses()
        self._left = {root: len(self._uses.readers(root)) for root in self._uses.roots}  # reads left
        count = side_by_side(threads, self.samples)
        self._stack = ExitStack()
        try:
            self._folder = Path(self._stack.enter_context(Scratch()))
            self._children = [
                self._stack.enter_context(CheckedChild([sys.executable, __file__, "serve"])) for _ in range(count)
            ]
            self._pool = self._stack.enter_context(ThreadPoolExecutor(count))
            names = graph.inputs

            def feed(child: Child, number: int) -> None:
                for i in range(number, self.samples, count):
                    child.ask("feed", samples[i], names=names, number=i)

            self._all(feed)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. Safe to call twice."""
        for child in getattr(self, "_children", []):
            child.kill()
        self._stack.close()

    def _all(self, use: Callable[[Child, int], Any]) -> list[Any]:
        try:
            return list(self._pool.map(use, self._children, range(len(self._children))))
        except WorkerError as error:
            raise RuntimeFailure(f"layer by layer: {error.sentence}") from None

    def step(self, layer: Layer, branches: Sequence[str] = (EXACT, ROUNDED), *, last: bool = True) -> None:
        """Run a layer for one or both versions. ``last`` says that the layer is not run again."""
        names = Names(Graph([layer]))
        fragment = Graph([*(Layer("Input", names.new(blob, "in"), [], [blob]) for blob in layer.inputs), layer])
        param = self._folder / "layer.param"
        ncnnfile.save(fragment, param)
        free = []
        if last:
            for blob in layer.inputs:
                root = self._uses.root(blob)
                self._left[root] -= 1
                free += [root] if not self._left[root] and not self._uses.is_output(root) else []
        request: dict[str, Any] = {
            "param": str(param), "bin": str(param.with_suffix(".bin")), "branches": list(branches), "free": free,
            "reads": [[blob, self._uses.root(blob)] for blob in layer.inputs], "makes": layer.outputs,
            "divide": float(layer.array("output_scale")[0]) if "output_scale" in layer.weights else 1.0,
        }  # fmt: skip
        self._all(lambda child, _: child.ask("step", **request))

    def gather(self, layer: Layer, rows: int, *, seed: int = 0) -> Rows:
        """The inputs of ``layer``, and its outputs in the exact network, at about ``rows`` positions over all samples.

        There are fewer positions if the inputs would take more than :data:`GATHERED_BYTES`, but at least one per
        sample. The exact version of the layer must have run.
        """
        rows = min(rows, GATHERED_BYTES // (inputs_of_a_row(layer) * 4))
        request: dict[str, Any] = {
            "read": self._uses.root(layer.inputs[0]), "make": layer.outputs[0], "window": window(layer), "seed": seed,
            "count": max(1, rows // self.samples),
        }  # fmt: skip
        parts = self._all(lambda child, _: child.ask("gather", **request)[1])
        sample = np.concatenate([part[-1] for part in parts])
        place = np.empty(len(sample), np.intp)  # index of each row in the order of samples, from any process
        place[np.argsort(sample, kind="stable")] = np.arange(len(sample))
        whole = [np.empty((len(sample), *array.shape[1:]), array.dtype) for array in parts[0]]
        for rows_of, part in zip(np.split(place, np.cumsum([len(part[-1]) for part in parts])), parts):
            for column, array in zip(whole, part):
                column[rows_of] = array
        return Rows(*whole)

    def outputs(self, names: Sequence[str], branch: str) -> Mapping[str, Array]:
        """Blobs of one version, float32 (N, …) each, in the order of samples."""
        parts = self._all(lambda child, _: child.ask("outputs", names=list(names), branch=branch)[1])
        count = len(parts)
        whole = {}
        for index, name in enumerate(names):
            whole[name] = np.empty((self.samples, *parts[0][index].shape[1:]), np.float32)
            for number, part in enumerate(parts):
                whole[name][number::count] = part[index]
        return whole


if __name__ == "__main__":
    guarded(lambda: serve(lambda _: Blobs()))
