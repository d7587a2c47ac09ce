"""The network of a serving process. It answers requests with ncnn's results and with times."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np

from .answers import (
    Arrays,
    Done,
    Layers,
    Loaded,
    MachineAnswer,
    Means,
    Memory,
    NetTime,
    NetTimes,
    Profiled,
    Ran,
    Tallied,
    TallyRow,
    Timed,
)  # fmt: skip
from .facts import VulkanDevice
from .machine import this_machine, vulkan_devices
from .messages import Message, Tell, untold
from .process import available_cores, drop_file_cache, limit_self, own_memory_mb, pin, reset_peak
from .storages import check_storages
from .tally import Tally

SWITCHES = {
    "winograd": "use_winograd_convolution",
    "winograd23": "use_winograd23_convolution",
    "winograd43": "use_winograd43_convolution",
    "winograd63": "use_winograd63_convolution",
    "sgemm": "use_sgemm_convolution",
    "packing": "use_packing_layout",
    "lightmode": "lightmode",
    "fp16_arithmetic": "use_fp16_arithmetic",
}
"""Name of a switch -> ncnn's option. A variant's ``switches`` are applied after its ``options``."""

FOUND_NOTHING = {"DetectionOutput": 6, "YoloDetectionOutput": 6, "Yolov3DetectionOutput": 6}
"""Types of layers with an empty output if they detect nothing -> the number of values of one detection."""

PROFILE_SECONDS = 60.0  # after this time, a profile stops repeating
EVICT_MB = 8  # MB of memory that are read between two runs of a single layer; see Network.time_nets


class Network:
    """The network of a serving process. Each public method answers one request."""

    def __init__(self, tell: Tell = untold) -> None:
        self.tell = tell
        self.net: Any = None
        self.inputs: List[str] = []
        self.outputs: List[str] = []
        self.last: List[Any] = []  # the inputs of the last sample, as ncnn's Mats
        self.tallies: Dict[Tuple[int, str], Tally] = {}
        self.channels: Dict[str, List[Any]] = {}  # blob -> a row for each sample
        self.rows: List[List[float]] = []
        self.rss_before_mb = 0.0
        self.pools: List[Any] = []  # memory pools: one of blobs, one of the layers' workspace
        self.may_be_empty: Dict[str, int] = {}

    def machine(self, _: Message, __: Arrays) -> Tuple[MachineAnswer, Arrays]:
        """What ncnn and Linux report about this machine."""
        return MachineAnswer(this_machine()), []

    def load(self, request: Message, _: Arrays) -> Tuple[Loaded, Arrays]:
        """Load ``param`` and ``bin`` on a ``backend``. The answer has the time in ms and the device.

        ``options`` are fields of ``ncnn::Option`` and their values; ``switches`` are names of :data:`SWITCHES`. The
        process is pinned to ``cpus``.

        Raises:
            RuntimeError: ncnn cannot load the files, or a layer would read a blob as another type than it has.
        """
        # Before ncnn is imported: its threads inherit the affinity, and it chooses kernels for the core that it runs
        # on.
        pin(request.get("cpus"))
        import ncnn  # before the clock starts

        if request["backend"] == "cpu":  # drivers of GPUs reserve more memory than there is
            limit_self(memory="MemTotal")
        devices = vulkan_devices() if request["backend"] == "vulkan" else []
        device = devices[0] if devices else None
        if request.get("cold"):
            drop_file_cache(request["bin"])
        self.net = None
        reset_peak()
        if not self.rss_before_mb:
            self.rss_before_mb = own_memory_mb("VmRSS")
        start = time.perf_counter()
        net = open_net(request, device)
        elapsed = (time.perf_counter() - start) * 1000
        try:
            check_storages(net, request["param"], on_gpu=device is not None)
        except RuntimeError as error:
            text = "%s; it is made for another CPU, ncnn (here %s), backend or precision"
            raise RuntimeError(text % (error, ncnn.__version__)) from None
        self.net = net
        self.inputs, self.outputs = list(net.input_names()), list(net.output_names())
        self.whole = whole_inputs(net)
        self.may_be_empty = empty_blobs(net)
        without_vulkan = sorted({la.type for la in net.layers() if not la.support_vulkan and la.type != "Input"})
        return Loaded(
            load_ms=elapsed,
            device=device,
            threads=net.opt.num_threads,
            inputs=self.inputs,
            outputs=self.outputs,
            without_vulkan=without_vulkan if device is not None else [],
            instead="",
        ), []

    def run(self, request: Message, arrays: Arrays) -> Tuple[Ran, Arrays]:
        """One inference. The answer has the requested blobs (by default the outputs), in ncnn's layout."""
        if arrays:
            self._feed(arrays)
        names = request.get("blobs") or self.outputs
        start = time.perf_counter()
        results = self._extract(names)
        return Ran((time.perf_counter() - start) * 1000, names), results

    def time(self, request: Message, _: Arrays) -> Tuple[Timed, Arrays]:
        """Time inferences of the last input for ``seconds``, at least ``min_samples`` and at most ``max_samples``."""
        return repeated(request, lambda: self._each(self.outputs, lambda *_: None)), []

    def tally(self, request: Message, arrays: Arrays) -> Tuple[Done, Arrays]:
        """Run one sample and count the absolute values of ``blobs`` into their histograms.

        With ``absmax`` (blob -> largest value), the bins are those of ncnn2table: ``bins`` equal bins over [0, absmax].
        Without it, they grow with the values; see :class:`Tally`. With ``sample``, only about that many values of a
        blob are counted. Sample ``number`` is counted in batch ``number % batches``. With ``ranges``, the largest
        absolute values of the sample are recorded. For the samples in ``channels``, the largest absolute values of each
        channel are recorded.
        """
        self._feed(arrays)
        absmax, number = request.get("absmax"), request["number"]
        batch, by_channel = number % request.get("batches", 1), number in request.get("channels", ())
        row = [float(number)]

        def add(blob: str, values: Any) -> None:
            if (batch, blob) not in self.tallies:
                self.tallies[batch, blob] = Tally(
                    request["bins"], absmax[blob] / request["bins"] if absmax else 0.0, request.get("sample", 0)
                )
            row.append(self.tallies[batch, blob].add(values))
            if not np.isfinite(self.tallies[batch, blob].absmax):
                raise RuntimeError("blob %s contains NaN or infinity" % blob)
            if by_channel:
                largest = np.abs(values.reshape(len(values), -1)).max(axis=1).astype(np.float64)
                self.channels.setdefault(blob, []).append(largest)

        self._each(request["blobs"], add)
        if request.get("ranges"):
            self.rows.append(row)
        return Done(), []

    def tally_so_far(self, _: Message, __: Arrays) -> Tuple[Tallied, Arrays]:
        """The histograms so far. Counting then starts again."""
        tallies, self.tallies = self.tallies, {}
        channels, self.channels = self.channels, {}
        ranges, self.rows = np.array(self.rows, np.float64, ndmin=2), []
        rows = [TallyRow(batch, blob, t.width, t.absmax, t.count) for (batch, blob), t in tallies.items()]
        stacked = map(np.stack, channels.values())
        return Tallied(rows, list(channels)), [ranges, *stacked, *(t.histogram for t in tallies.values())]

    def means(self, request: Message, arrays: Arrays) -> Tuple[Done, Arrays]:
        """Run one sample and record the mean of every channel of ``blobs``."""
        self._feed(arrays)

        def add(blob: str, values: Any) -> None:
            # Channels are the first axis of images and the last axis of the rows of an inner product.
            others = tuple(range(1, values.ndim)) if values.ndim > 2 else (0,) * (values.ndim - 1)
            row = values.mean(axis=others, dtype=np.float64)
            self.channels.setdefault(blob, []).append(row)
            if not np.isfinite(row).all():
                raise RuntimeError("blob %s contains NaN or infinity" % blob)

        self._each(request["blobs"], add)
        return Done(), []

    def means_so_far(self, _: Message, __: Arrays) -> Tuple[Means, Arrays]:
        """The means so far, float64 (samples, channels) for each blob. Recording then starts again."""
        means, self.channels = self.channels, {}
        return Means(list(means)), [np.stack(rows) for rows in means.values()]

    def memory(self, _: Message, __: Arrays) -> Tuple[Memory, Arrays]:
        """Peak resident memory since the last load minus the memory before the first load, MB (10^6 bytes)."""
        return Memory(max(0.0, own_memory_mb("VmHWM") - self.rss_before_mb)), []

    def layers(self, _: Message, __: Arrays) -> Tuple[Layers, Arrays]:
        """The layers of the loaded network: the storages that each can read besides fp32, and Vulkan's layers."""
        names = {"fp16": "support_fp16_storage", "bf16": "support_bf16_storage"}
        layers = self.net.layers()
        return Layers(
            storages={la.name: [kind for kind, flag in names.items() if getattr(la, flag)] for la in layers},
            vulkan=[la.name for la in layers if la.support_vulkan],
        ), []

    def profile(self, request: Message, arrays: Arrays) -> Tuple[Profiled, Arrays]:
        """Time the layers inside their network, and the whole network for its ``outputs``, ``repeats`` times each.

        ``taps`` has a row for each layer in the order of execution: a blob that it makes, and for a GPU a second name
        of the same blob. The blobs of one inference are extracted one after the other, so each extraction waits for one
        layer only. On a GPU its time includes a submission and a download. Extracting the blob again, under its second
        name, takes the same time without the layer; that time is subtracted. Each blob has one reader, so light mode
        frees no blob too early, and layers that can work in place do so.

        The time of a layer is the median; the time of an inference is the lowest decile. Most layers end before
        another process gets the CPU, but on a busy machine few inferences do.
        """
        self._feed(arrays)
        wholes: List[float] = []
        rows: List[List[float]] = []
        bits: List[int] = []
        end = time.perf_counter() + PROFILE_SECONDS
        for number in range(request["repeats"]):
            start = time.perf_counter()
            if number >= 3 and start > end:
                break
            self._each(request["outputs"], lambda *_: None)
            wholes.append(time.perf_counter() - start)
            start = time.perf_counter()
            with self._raw_extractor(self.net, dict(zip(self.inputs, self.last))) as extractor:
                taken = [[timed(extractor, blob, blob in self.may_be_empty) for blob in tap] for tap in request["taps"]]
            layers = [tap[0][0] - sum(again for again, _ in tap[1:]) for tap in taken]
            rows.append([time.perf_counter() - start, *layers])
            bits = [tap[0][1] for tap in taken]
        undisturbed = (np.percentile([wholes, [row[0] for row in rows]], 10, axis=1) * 1000).tolist()
        medians = (np.median(rows, axis=0)[1:] * 1000).tolist()
        return Profiled(undisturbed[0], undisturbed[1], medians, bits), []

    def time_nets(self, request: Message, _: Arrays) -> Tuple[NetTimes, Arrays]:
        """Time many small networks, or one layer of each, in interleaved rounds.

        Each of ``nets`` has ``param`` and ``bin``, ``inputs`` (pairs of blob and shape), ``ready`` (blobs that are
        computed before the timing: the input of the layer under test, in the form in which a layer before it passes it
        on) and ``outputs``. ``seconds`` is the time for each net in all rounds. A net that needs more than that for
        ``least`` runs is run ``least`` times only.
        """
        rng = np.random.default_rng(0)
        # All nets share one input of each shape: for a full-HD network, separate inputs would take gigabytes.
        shapes = {tuple(shape) for net in request["nets"] for _, shape in net["inputs"]}
        noise = {shape: _noise(shape, rng) for shape in sorted(shapes)}
        nets = [
            (open_net(dict(request, **net)), {blob: noise[tuple(shape)] for blob, shape in net["inputs"]}, net)
            for net in request["nets"]
        ]
        may_be_empty = [empty_blobs(net) for net, _, _ in nets]
        samples: List[List[float]] = [[] for _ in nets]
        bits: List[Tuple[List[int], List[int]]] = [([], [])] * len(nets)
        # In a network, other layers run between two runs of a layer. Their weights evict its own from the inner caches.
        others = np.ones(request.get("evict_mb", EVICT_MB) << 17)
        for turn in range(request["rounds"]):
            for index, (net, mats, row) in enumerate(nets):
                self.tell(turn * len(nets) + index, request["rounds"] * len(nets))
                if len(samples[index]) >= request["least"] and sum(samples[index]) > 1000 * request["seconds"]:
                    continue
                end = time.perf_counter() + request["seconds"] / request["rounds"]
                while True:
                    others.sum()
                    with self._raw_extractor(net, mats) as extractor:
                        ready = [timed(extractor, blob)[1] for blob in row["ready"]]
                        made = [timed(extractor, blob, blob in may_be_empty[index]) for blob in row["outputs"]]
                    samples[index].append(sum(elapsed for elapsed, _ in made) * 1000)
                    bits[index] = (ready, [held for _, held in made])
                    if time.perf_counter() >= end:
                        break
        times: List[NetTime] = []
        for timings, held in zip(samples, bits):
            low, first, median, third = (float(q) for q in np.percentile(timings, (10, 25, 50, 75)))
            times.append(NetTime(median, low, (third - first) / median, *held))
        return NetTimes(times), []

    @contextlib.contextmanager
    def _raw_extractor(self, net: Any, inputs: Dict[str, Any]) -> Iterator[Any]:
        """An extractor with pools that all networks share.

        ncnn copies an extracted blob if it is in the network's own pool. And if each network kept its own workspace
        while it is loaded, the layers of a full-HD network would take 22 GB.
        """
        import ncnn

        self.pools = self.pools or [ncnn.PoolAllocator(), ncnn.PoolAllocator()]
        with net.create_extractor() as extractor:
            extractor.set_blob_allocator(self.pools[0])
            extractor.set_workspace_allocator(self.pools[1])
            for name, mat in inputs.items():
                extractor.input(name, mat)
            yield extractor

    def _extract(self, names: Sequence[str]) -> Arrays:
        """The blobs of one inference, copied out of ncnn."""
        results: Arrays = []
        self._each(names, lambda _, values: results.append(np.array(values)))
        return results

    def _feed(self, arrays: Arrays) -> None:
        """Copy a sample into memory of ncnn. A layer that works in place on NumPy's memory crashes in light mode."""
        import ncnn

        whole = [name in self.whole for name in self.inputs]
        # The list keeps the arrays alive; a Mat does not.
        typed = [array.astype(np.int32) if is_whole else array for array, is_whole in zip(arrays, whole)]
        self.last = [ncnn.Mat(array).clone() for array in typed]

    def _each(self, names: Sequence[str], use: Callable[[str, Any], None]) -> None:
        """Run one inference. ``use`` gets the name and the array of each blob, which is valid until ``use`` returns."""
        import ncnn

        if len(self.last) != len(self.inputs):
            raise RuntimeError("the network has %d inputs, but %d were given" % (len(self.inputs), len(self.last)))
        with self.net.create_extractor() as extractor:
            for name, mat in zip(self.inputs, self.last):
                if extractor.input(name, mat) != 0:
                    raise RuntimeError("no input blob is called " + name)
            for name in names:
                mat = ncnn.Mat()  # passed in, because extract(name) of ncnn's Python module returns a copy
                status = extractor.extract(name, mat)
                if status != 0:
                    raise RuntimeError("could not compute blob %s (status %d)" % (name, status))
                if not mat.empty():
                    values = np.asarray(mat)
                    # If bf16 is allowed, ncnn returns int8 blobs as int8; otherwise it converts them to floats of the
                    # same values.
                    use(name, values.astype(np.float32) if values.dtype == np.int8 else values)
                elif name in self.may_be_empty:
                    use(name, np.zeros((0, self.may_be_empty[name]), np.float32))
                else:
                    raise RuntimeError("blob %s came out empty: the input's shape does not fit the network" % name)


def repeated(request: Message, once: Callable[[], object]) -> Timed:
    """Time inferences for ``seconds``, at least ``min_samples`` and at most ``max_samples`` of them."""
    samples: List[float] = []
    end = time.perf_counter() + request["seconds"]
    while len(samples) < request["max_samples"]:
        start = time.perf_counter()
        if len(samples) >= request["min_samples"] and start >= end:
            break
        once()
        samples.append((time.perf_counter() - start) * 1000)
    return Timed(samples)


def open_net(request: Message, device: Optional[VulkanDevice] = None) -> Any:
    """The network in ``param`` and ``bin``, with ``options`` and ``switches``, for a ``backend``: cpu or vulkan."""
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.num_threads = request["threads"] or min(options.num_threads, available_cores())
    options.use_vulkan_compute = request.get("backend") == "vulkan"
    for name, on in request["options"].items():
        if not isinstance(getattr(options, name, None), bool):
            raise RuntimeError("ncnn has no option %r" % name)
        setattr(options, name, on)
    for name, on in (request.get("switches") or {}).items():
        if name not in SWITCHES:
            raise RuntimeError("no switch %r; the switches are %s" % (name, ", ".join(SWITCHES)))
        setattr(options, SWITCHES[name], bool(on))
    options.lightmode = options.lightmode and not request.get("keep_blobs", False)
    if device is not None:
        net.set_vulkan_device(device.index)
    if net.load_param(request["param"]) != 0:
        raise RuntimeError("could not load " + request["param"])
    if net.load_model(request["bin"]) != 0:
        raise RuntimeError("could not load " + request["bin"])
    return net


def whole_inputs(net: Any) -> Set[str]:
    """The inputs that ncnn reads as int32: the indices of an Embed."""
    layers, blobs = net.layers(), net.blobs()
    found = set()
    for layer in layers:
        if layer.type == "Embed":
            index = layer.bottoms[0]
            while layers[blobs[index].producer].type in ("Split", "Reshape"):
                index = layers[blobs[index].producer].bottoms[0]
            if layers[blobs[index].producer].type == "Input":
                found.add(blobs[index].name)
    return found


def empty_blobs(net: Any) -> Dict[str, int]:
    """The blobs that are empty if nothing was detected -> the number of values of one detection."""
    layers, blobs = net.layers(), net.blobs()
    found: Dict[str, int] = {}
    for layer in layers:
        row = FOUND_NOTHING.get(layer.type, 0)
        if layer.type == "Split":  # passes on what it gets
            row = found.get(blobs[layer.bottoms[0]].name, 0)
        if row:
            found.update((blobs[top].name, row) for top in layer.tops)
    return found


def timed(extractor: Any, blob: str, may_be_empty: bool = False) -> Tuple[float, int]:
    """Compute a blob in the form in which the next layer reads it. Returns the seconds and the bits of a value.

    The blob is released before the next one is computed: a layer that works in place copies its input if there is
    another reference to it.
    """
    import ncnn

    mat = ncnn.Mat()  # passed in: extract(name) returns a copy, which takes longer than many layers
    start = time.perf_counter()
    status = extractor.extract(blob, mat, 1)  # 1: no conversion to plain fp32
    elapsed = time.perf_counter() - start
    if status != 0 or (mat.empty() and not may_be_empty):
        raise RuntimeError("could not compute blob %s (status %d)" % (blob, status))
    return elapsed, 32 if mat.empty() else mat.elembits()


def _noise(shape: Sequence[int], rng: Any) -> Any:
    import ncnn

    array = rng.standard_normal(shape, np.float32)  # a variable, because a Mat does not keep its array alive
    return ncnn.Mat(array).clone()
