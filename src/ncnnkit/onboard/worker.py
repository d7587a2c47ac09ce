"""Runs ncnn where the model will run: on this machine or, copied there, on a board.

Only ncnn, numpy, the standard library and ``sysfs.py`` beside it, Python 3.9 or newer; nothing else of ncnnkit.

``worker.py`` as a program serves one network in one process (:class:`Network`), answering requests on stdin and stdout.
Whatever ncnn does there, a crash, a hang, running out of memory, ends that process alone. :class:`Child` is its other
side.

A message is a line of JSON, then the raw bytes of the arrays its ``arrays`` field describes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

try:
    from . import sysfs
except ImportError:  # run as a script, with sysfs.py beside it
    import sysfs  # type: ignore[no-redef, import-not-found]

Message = Dict[str, Any]
Arrays = List["np.ndarray[Any, Any]"]

OPTIONS: Dict[str, Dict[str, bool]] = {
    # ncnn turns fp16 on by default: each precision switches everything it means, so that fp32 is fp32.
    # An int8 model keeps ncnn's default for the layers that stay in floating point: fp16 where the CPU has it.
    "fp32": {"fp16": False, "bf16": False},
    "fp16": {"fp16": True, "bf16": False},
    "bf16": {"fp16": False, "bf16": True},
    "int8": {"fp16": True, "bf16": False},
    "mixed": {"fp16": True, "bf16": True},
}
"""Precision -> which storages and arithmetics ncnn may use."""

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
"""What a variant's ``options`` may switch on and off -> ncnn's option; applied after the precision's."""

GPU_TYPES = {0: "discrete", 1: "integrated", 2: "virtual", 3: "cpu"}
"""VkPhysicalDeviceType as ncnn's GpuInfo.type() numbers it; "cpu" is a software device such as llvmpipe."""

LOAD_TIMEOUT = 600.0  # seconds; the first load on a GPU compiles every pipeline
RUN_TIMEOUT = 120.0

PROFILE_SECONDS = 60.0  # after which a profile is content with the repeats it has
EVICT_MB = 8  # read between two runs of a single layer; see Network.time_nets


# ------------------------------------------------------------------------------------------------------ messages


def send(stream: IO[bytes], message: Message, arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
    """Write one message."""
    blocks = [np.asarray(a, order="C") for a in arrays]
    head = dict(message, arrays=[[str(a.dtype), list(a.shape)] for a in blocks])
    stream.write(json.dumps(head).encode() + b"\n")
    for block in blocks:
        stream.write(block.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(read: Callable[[int], bytes], readline: Callable[[], bytes]) -> Optional[Tuple[Message, Arrays]]:
    """Read one message; None at the end of the stream."""
    line = readline()
    if not line:
        return None
    message = json.loads(line)
    arrays = []
    for dtype, shape in message.pop("arrays"):
        data = np.empty(shape, dtype)
        raw = read(data.nbytes)
        if len(raw) < data.nbytes:
            return None
        arrays.append(np.frombuffer(raw, dtype).reshape(shape))
    return message, arrays


# --------------------------------------------------------------------------------------------- the serving process


class Network:
    """The network of a serving process. Each public method answers one request."""

    def __init__(self) -> None:
        self.net: Any = None
        self.precision = "fp32"
        self.inputs: List[str] = []
        self.outputs: List[str] = []
        self.last: List[Any] = []  # the inputs of the last sample, as ncnn's Mats
        self.tallies: Dict[Tuple[int, str], Tally] = {}
        self.channels: Dict[str, Any] = {}
        self.rows: List[List[float]] = []
        self.rss_before_mb = 0.0
        self.pool: Any = None

    def probe(self, _: Message, __: Arrays) -> Tuple[Message, Arrays]:
        """What ncnn sees of this machine."""
        import ncnn

        board = sysfs.describe(usable=usable_cpus())
        return {
            "ncnn": ncnn.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cpu": cpu_name(board["clusters"]),
            "cpu_features": cpu_features(),
            "cores": ncnn.get_cpu_count(),
            "default_threads": ncnn.Option().num_threads,
            "vulkan": vulkan_devices(),
            "board": board,
        }, []

    def load(self, request: Message, _: Arrays) -> Tuple[Message, Arrays]:
        """Load ``param`` and ``bin`` at a precision, on a backend; answers with times in ms and the device it got.

        ``cpus`` pins the process, ``options`` are of :data:`SWITCHES`.
        """
        # Before ncnn: its threads inherit it, and it chooses kernels by the core it finds itself on.
        pin(request.get("cpus"))
        import ncnn  # noqa: F401  # before the clock starts

        devices = vulkan_devices() if request["backend"] == "vulkan" else []
        device = devices[0] if devices else None
        if request.get("cold"):
            drop_file_cache(request["bin"])
        self.net = None
        reset_peak()
        if not self.rss_before_mb:
            self.rss_before_mb = memory_mb("VmRSS")
        start = time.perf_counter()
        net = open_net(request, device)
        elapsed = (time.perf_counter() - start) * 1000
        self.net, self.precision = net, request["precision"]
        self.inputs, self.outputs = list(net.input_names()), list(net.output_names())
        without_vulkan = sorted({la.type for la in net.layers() if not la.support_vulkan and la.type != "Input"})
        return {
            "load_ms": elapsed,
            "device": device,
            "threads": net.opt.num_threads,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "without_vulkan": without_vulkan if device is not None else [],
        }, []

    def run(self, request: Message, arrays: Arrays) -> Tuple[Message, Arrays]:
        """One inference; answers with the blobs asked for (the outputs by default), each as ncnn holds it."""
        if arrays:
            self._feed(arrays)
        names = request.get("blobs") or self.outputs
        start = time.perf_counter()
        results = self._extract(names)
        return {"ms": (time.perf_counter() - start) * 1000, "names": names}, results

    def time(self, request: Message, _: Arrays) -> Tuple[Message, Arrays]:
        """Repeat the last input for ``seconds``, at least ``min_samples`` and at most ``max_samples`` times."""
        samples: List[float] = []
        end = time.perf_counter() + request["seconds"]
        while len(samples) < request["max_samples"]:
            start = time.perf_counter()
            if len(samples) >= request["min_samples"] and start >= end:
                break
            self._each(self.outputs, lambda *_: None)
            samples.append((time.perf_counter() - start) * 1000)
        return {"samples": samples}, []

    def tally(self, request: Message, arrays: Arrays) -> Tuple[Message, Arrays]:
        """Run one sample and count the absolute values of ``blobs`` into their histograms.

        With ``absmax`` (blob -> largest value), bins are ncnn2table's: ``bins`` equal ones over [0, absmax].
        Without, they grow with what is seen, see :class:`Tally`. ``sample`` counts only about so many values a blob.
        Samples whose ``number`` leaves another rest over ``batches`` are counted apart.
        """
        self._feed(arrays)
        absmax, batch = request.get("absmax"), request["number"] % request.get("batches", 1)

        def add(blob: str, values: Any) -> None:
            if (batch, blob) not in self.tallies:
                self.tallies[batch, blob] = Tally(
                    request["bins"], absmax[blob] / request["bins"] if absmax else 0.0, request.get("sample", 0)
                )
            self.tallies[batch, blob].add(values)
            if not np.isfinite(self.tallies[batch, blob].absmax):
                raise RuntimeError("blob %s holds NaN or infinity" % blob)

        self._each(request["blobs"], add)
        return {}, []

    def tally_so_far(self, _: Message, __: Arrays) -> Tuple[Message, Arrays]:
        """The histograms counted so far; counting starts anew."""
        tallies, self.tallies = self.tallies, {}
        rows = [[batch, blob, t.width, t.absmax, t.count] for (batch, blob), t in tallies.items()]
        return {"rows": rows}, [t.histogram for t in tallies.values()]

    def sums(self, request: Message, arrays: Arrays) -> Tuple[Message, Arrays]:
        """Run one sample and add the mean of every channel of ``blobs`` to their sums."""
        self._feed(arrays)

        def add(blob: str, values: Any) -> None:
            # Channels come first in images and last in the rows of an inner product.
            others = tuple(range(1, values.ndim)) if values.ndim > 2 else (0,) * (values.ndim - 1)
            self.channels[blob] = self.channels.get(blob, 0.0) + values.mean(axis=others, dtype=np.float64)
            if not np.isfinite(self.channels[blob]).all():
                raise RuntimeError("blob %s holds NaN or infinity" % blob)

        self._each(request["blobs"], add)
        return {}, []

    def sums_so_far(self, _: Message, __: Arrays) -> Tuple[Message, Arrays]:
        """The sums so far, float64 (channels,) a blob; summing starts anew."""
        sums, self.channels = self.channels, {}
        return {"blobs": list(sums)}, list(sums.values())

    def ranges(self, request: Message, arrays: Arrays) -> Tuple[Message, Arrays]:
        """Run one sample, of this ``number``, and note the largest absolute value of each of ``blobs``."""
        self._feed(arrays)
        row: List[float] = []
        self._each(request["blobs"], lambda _, values: row.append(float(max(values.max(), -values.min()))))
        self.rows.append([float(request["number"]), *row])
        return {}, []

    def ranges_so_far(self, _: Message, __: Arrays) -> Tuple[Message, Arrays]:
        """The samples' numbers and largest values, float64 (samples, 1 + blobs); noting starts anew."""
        rows, self.rows = self.rows, []
        return {}, [np.array(rows)]

    def memory(self, _: Message, __: Arrays) -> Tuple[Message, Arrays]:
        """Peak resident memory since the last load, above what there was before the first; MB (10^6 bytes)."""
        return {"peak_mb": max(0.0, memory_mb("VmHWM") - self.rss_before_mb)}, []

    def layers(self, _: Message, __: Arrays) -> Tuple[Message, Arrays]:
        """The layers of the loaded network, each with the storages it can read beside fp32; those Vulkan can run."""
        names = {"fp16": "support_fp16_storage", "bf16": "support_bf16_storage"}
        layers = self.net.layers()
        return {
            "layers": [[la.name, [kind for kind, flag in names.items() if getattr(la, flag)]] for la in layers],
            "vulkan": [la.name for la in layers if la.support_vulkan],
        }, []

    def profile(self, request: Message, arrays: Arrays) -> Tuple[Message, Arrays]:
        """Time the layers inside their network, and the whole network for its ``outputs``, ``repeats`` times in turn.

        ``taps`` has a row for each layer in running order: a blob it makes, and for a GPU a second name of the same
        blob. Taking the blobs of one inference one after the other, each waits for its layer alone. On a GPU that
        includes submitting and bringing the blob here, which taking it a second time, under its other name, costs
        again without the layer: this is taken off. As each blob has one reader, light mode frees none too early, and
        layers that work in place do so.

        Answers in ms with ``layers`` (medians), ``whole`` and ``measuring`` (an inference with the timing of its
        layers), both the lowest decile: of layers most are over before another process gets the CPU, of inferences on
        a busy machine few. And with the ``bits`` of a value in each blob.
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
                taken = [[timed(extractor, blob) for blob in tap] for tap in request["taps"]]
            layers = [tap[0][0] - sum(again for again, _ in tap[1:]) for tap in taken]
            rows.append([time.perf_counter() - start, *layers])
            bits = [tap[0][1] for tap in taken]
        undisturbed = (np.percentile([wholes, [row[0] for row in rows]], 10, axis=1) * 1000).tolist()
        medians = (np.median(rows, axis=0)[1:] * 1000).tolist()
        return {"whole": undisturbed[0], "measuring": undisturbed[1], "layers": medians, "bits": bits}, []

    def time_nets(self, request: Message, _: Arrays) -> Tuple[Message, Arrays]:
        """Time many small networks, a layer of each or all of it, in rounds that go through them in turn.

        Each of ``nets`` has its ``param`` and ``bin``, ``inputs`` (pairs of blob and shape), ``ready`` (blobs that are
        computed before the clock starts: what the layer under test reads, as a layer before it would hand it on) and
        ``outputs``. ``seconds`` is for each net in all its rounds. Answers with the median, the lowest decile
        (``undisturbed``), the interquartile range over the median, and the bits of a value in the blobs that were ready
        and in the outputs.
        """
        rng = np.random.default_rng(0)
        nets = [(open_net(dict(request, **net)), _random_inputs(net["inputs"], rng), net) for net in request["nets"]]
        samples: List[List[float]] = [[] for _ in nets]
        bits: List[Any] = [None] * len(nets)
        # Between two runs of a layer lie others, whose weights take its own out of the inner cache.
        others = np.ones(request.get("evict_mb", EVICT_MB) << 17)
        for _turn in range(request["rounds"]):
            for index, (net, mats, row) in enumerate(nets):
                end = time.perf_counter() + request["seconds"] / request["rounds"]
                while True:
                    others.sum()
                    with self._raw_extractor(net, mats) as extractor:
                        ready = [timed(extractor, blob)[1] for blob in row["ready"]]
                        made = [timed(extractor, blob) for blob in row["outputs"]]
                    samples[index].append(sum(elapsed for elapsed, _ in made) * 1000)
                    bits[index] = [ready, [held for _, held in made]]
                    if time.perf_counter() >= end:
                        break
        quantiles = [np.percentile(s, (10, 25, 50, 75)) for s in samples]
        return {
            "ms": [float(q[2]) for q in quantiles],
            "undisturbed": [float(q[0]) for q in quantiles],
            "spread": [float((q[3] - q[1]) / q[2]) for q in quantiles],
            "bits": bits,
        }, []

    @contextlib.contextmanager
    def _raw_extractor(self, net: Any, inputs: Dict[str, Any]) -> Iterator[Any]:
        """An extractor of a pool of its own: blobs in the network's own pool would be copied on their way out."""
        import ncnn

        self.pool = self.pool or ncnn.PoolAllocator()
        with net.create_extractor() as extractor:
            extractor.set_blob_allocator(self.pool)
            for name, mat in inputs.items():
                extractor.input(name, mat)
            yield extractor

    def _extract(self, names: Sequence[str]) -> Arrays:
        """The blobs of one inference, copied out of ncnn."""
        results: Arrays = []
        self._each(names, lambda _, values: results.append(np.array(values)))
        return results

    def _feed(self, arrays: Arrays) -> None:
        """Copy a sample into ncnn's own memory: on numpy's, a layer that works in place crashes in light mode."""
        import ncnn

        self.last = [ncnn.Mat(array).clone() for array in arrays]

    def _each(self, names: Sequence[str], use: Callable[[str, Any], None]) -> None:
        """One inference; ``use`` gets each blob's name and array, ncnn's own memory that is gone when it returns."""
        import ncnn

        if len(self.last) != len(self.inputs):
            raise RuntimeError("the network has %d inputs, %d were given" % (len(self.inputs), len(self.last)))
        with self.net.create_extractor() as extractor:
            for name, mat in zip(self.inputs, self.last):
                if extractor.input(name, mat) != 0:
                    raise RuntimeError("ncnn has no input blob " + name)
            for name in names:
                mat = ncnn.Mat()  # given, not got: ncnn's Python returns a copy
                status = extractor.extract(name, mat)
                if status != 0:
                    raise RuntimeError("ncnn could not compute blob %s (status %d)" % (name, status))
                if mat.empty():
                    raise RuntimeError("blob %s came out empty: the input's shape does not fit the network" % name)
                use(name, np.asarray(mat))


def open_net(request: Message, device: Optional[Message] = None) -> Any:
    """The network in ``param`` and ``bin`` at a ``precision``, on the CPU or, as ``backend`` says, a Vulkan device."""
    import ncnn

    net = ncnn.Net()
    allowed = OPTIONS[request["precision"]]
    options = net.opt
    options.num_threads = request["threads"] or options.num_threads
    options.use_vulkan_compute = request.get("backend") == "vulkan"
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = allowed["fp16"]
    options.use_bf16_packed = options.use_bf16_storage = allowed["bf16"]
    for name, on in (request.get("options") or {}).items():
        if name not in SWITCHES:
            raise RuntimeError("no option %r; there are %s" % (name, ", ".join(SWITCHES)))
        setattr(options, SWITCHES[name], bool(on))
    options.lightmode = options.lightmode and not request.get("keep_blobs", False)
    if device is not None:
        net.set_vulkan_device(device["index"])
    if net.load_param(request["param"]) != 0:
        raise RuntimeError("ncnn could not load " + request["param"])
    if net.load_model(request["bin"]) != 0:
        raise RuntimeError("ncnn could not load " + request["bin"])
    return net


def usable_cpus() -> Optional[List[int]]:
    """The CPUs this process may use; None where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def pin(cpus: Optional[Sequence[int]]) -> None:
    """Keep this process, and threads it will start, on these CPUs."""
    if not cpus:
        return
    usable = usable_cpus()
    if usable is None or not set(cpus) <= set(usable):
        raise RuntimeError("cannot pin to the CPUs %s: usable are %s" % (list(cpus), usable or "unknown"))
    os.sched_setaffinity(0, cpus)


def timed(extractor: Any, blob: str) -> Tuple[float, int]:
    """Compute a blob and leave it as the next layer gets it; answers with the seconds and the bits of a value.

    The blob is let go of before the next: a layer that works in place copies one that somebody else holds.
    """
    import ncnn

    mat = ncnn.Mat()  # given, not got: ncnn's Python returns a copy, which takes longer than many a layer
    start = time.perf_counter()
    status = extractor.extract(blob, mat, 1)  # 1: no conversion to plain fp32
    elapsed = time.perf_counter() - start
    if status != 0 or mat.empty():
        raise RuntimeError("ncnn could not compute blob %s (status %d)" % (blob, status))
    return elapsed, mat.elembits()


def _random_inputs(inputs: Sequence[Tuple[str, Sequence[int]]], rng: Any) -> Dict[str, Any]:
    import ncnn

    arrays = [(blob, rng.standard_normal(shape, np.float32)) for blob, shape in inputs]
    return {blob: ncnn.Mat(array).clone() for blob, array in arrays}  # a Mat does not keep its array alive


def serve(subject: Any = None) -> None:
    """Answer requests until stdin ends, each by the method of ``subject`` it names; by default of a Network."""
    # ncnn and its drivers print to stdout: the protocol keeps a descriptor of its own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    subject = subject or Network()
    while True:
        received = receive(requests.read, requests.readline)
        if received is None:
            return
        message, arrays = received
        try:
            answer, results = getattr(subject, message["op"])(message, arrays)
        except Exception as error:
            answer, results = {"error": str(error) or type(error).__name__}, []
        send(answers, answer, results)


class Tally:
    """A histogram of the absolute values of one blob, zeros left out.

    Bins begin at 0. With ``width`` 0 their width is the smallest power of two with which ``bins`` of them hold the
    largest value seen; it grows by merging bins in pairs. The edges are then the same whatever the order the values
    came in, so counting batches apart and merging gives exactly what counting them together gives.
    """

    CHUNK = 1 << 15  # values at a time: the temporaries stay in the cache

    def __init__(self, bins: int, width: float = 0.0, sample: int = 0) -> None:
        self.histogram = np.zeros(bins, np.int64)
        self.growing = width == 0.0
        self.width = width
        self.sample = sample  # about how many values of an array to count, evenly spread; 0: all
        self.absmax = 0.0
        self.count = 0  # all values, zeros and those left out too

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Count an array of one dimension or more; only its largest value where there are no bins."""
        self.count += values.size
        absmax = float(max(values.max(), -values.min()))
        self.absmax = absmax if not absmax <= self.absmax else self.absmax  # a NaN stays
        bins = len(self.histogram)
        if not bins or not np.isfinite(absmax) or absmax == 0.0:
            return
        if self.growing:
            self.widen(width_for(absmax, bins))
        # (channels, positions), a view: ncnn pads between channels, not within. Features come last in rows.
        planes = values.reshape(len(values), -1) if values.ndim != 2 else values.T
        if self.sample:
            planes = planes[:, :: stride(values.size // self.sample, values.shape[-1])]
        rows = max(1, self.CHUNK // planes.shape[1])
        for start in range(0, len(planes), rows):
            scaled = np.abs(planes[start : start + rows]).reshape(-1)
            zeros = scaled.size - np.count_nonzero(scaled.view(np.int32))  # of integers it is several times faster
            if self.growing:
                np.multiply(scaled, np.float32(1.0 / self.width), out=scaled)  # exact: a power of two
            else:
                # ncnn2table's rounding: |x| / absmax * bins in fp32.
                np.divide(scaled, np.float32(self.width * bins), out=scaled)
                np.multiply(scaled, np.float32(bins), out=scaled)
            counts = np.bincount(scaled.astype(np.intp), minlength=bins + 1)
            self.histogram += counts[:bins]
            self.histogram[-1] += counts[bins]  # the largest value itself
            self.histogram[0] -= zeros

    def widen(self, width: float) -> None:
        """Merge bins in pairs until they are at least ``width`` wide."""
        if self.width == 0.0:
            self.width = width
        while self.width < width:
            half = len(self.histogram) // 2
            self.histogram[:half] = self.histogram[0::2] + self.histogram[1::2]
            self.histogram[half:] = 0
            self.width *= 2


def stride(step: int, width: int) -> int:
    """A step of at least ``step`` that meets every column of rows of ``width``, not the same few in each."""
    step = max(1, step)
    while math.gcd(step, width) > 1:
        step += 1
    return step


def width_for(absmax: float, bins: int) -> float:
    """The smallest power of two w with absmax < bins * w, and not below 2^-100: its inverse must fit fp32."""
    return float(2.0 ** max(np.floor(np.log2(absmax / bins)) + 1, -100))


def vulkan_devices() -> List[Message]:
    """The Vulkan devices ncnn can use, in its order."""
    import ncnn

    devices = []
    for index in range(ncnn.get_gpu_count()):
        info = ncnn.get_gpu_info(index)
        api = info.api_version()
        devices.append(
            {
                "index": index,
                "name": info.device_name(),
                "type": GPU_TYPES.get(info.type(), "unknown"),
                "driver": driver_version(info.vendor_id(), info.driver_version()),
                "api": "%d.%d.%d" % (api >> 22, api >> 12 & 0x3FF, api & 0xFFF),
            }
        )
    return devices


def driver_version(vendor: int, number: int) -> str:
    """A driver's version as its maker writes it: NVIDIA packs it in a way of its own, the others in Vulkan's."""
    if vendor == 0x10DE:
        return "%d.%d.%02d" % (number >> 22, number >> 14 & 0xFF, number >> 6 & 0xFF)
    return "%d.%d.%d" % (number >> 22, number >> 12 & 0x3FF, number & 0xFFF)


_CPU_FEATURES = {
    # /proc/cpuinfo's word -> what it means to ncnn's kernels
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512f": "avx512", "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni", "avx_vnni_int8": "avx-vnni-int8", "avx512_bf16": "avx512-bf16",
    "asimd": "neon", "asimdhp": "fp16-arithmetic", "asimddp": "int8-dot-product",
    "asimdfhm": "fp16-fml", "bf16": "bf16", "i8mm": "i8mm", "sve": "sve",
}  # fmt: skip


def cpu_features() -> List[str]:
    """The CPU features ncnn has kernels for, as Linux lists them; empty elsewhere."""
    words = _cpuinfo("flags").split() or _cpuinfo("Features").split()
    return [meaning for word, meaning in _CPU_FEATURES.items() if word in words]


def cpu_name(clusters: Sequence[Message]) -> str:
    """The processor as its maker calls it; where Linux tells none, as on Arm, its cores: "4 × Cortex-A55 + …"."""
    cores = " + ".join(f"{len(c['cores'])} × {c['core']}" for c in clusters if c["core"])
    return _cpuinfo("model name") or _cpuinfo("Hardware") or cores or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def memory_mb(field: str) -> float:
    """A field of /proc/self/status in MB (10^6 bytes); 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def reset_peak() -> None:
    """Let VmHWM start again from the present memory, where the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def drop_file_cache(path: str) -> None:
    """Ask the kernel to forget a file's pages, so that the next load reads the disk."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --------------------------------------------------------------------------------------------- the other side of it


class WorkerError(Exception):
    """A request failed. ``crashed`` tells a dead process from a refusal."""

    def __init__(self, message: str, crashed: bool = False) -> None:
        super().__init__(message)
        self.crashed = crashed


class Child:
    """A serving process, seen from outside. A context manager; leaving it ends the process.

    Args:
        command: what starts it; by default this file on this machine.
        caches: a folder for compiled shaders. By default one of its own, empty at first, so that a cold load compiles
            whatever ran on this machine before.
    """

    def __init__(self, command: Optional[Sequence[str]] = None, caches: Optional[str] = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="ncnnkit-")
        shaders = dict.fromkeys(("MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"), caches or self._scratch.name)
        # Open as long as the process lives.
        self._log = open(os.path.join(self._scratch.name, "log"), "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command or [sys.executable, os.path.abspath(__file__), "serve"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=dict(os.environ, **shaders),
            start_new_session=True,  # a Ctrl-C is for the parent, which ends the children itself
        )
        self._buffer = bytearray()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """End the process, also while another thread waits for its answer: that one gets a WorkerError."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """End the process and remove its files. Safe to call twice."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._scratch.cleanup()

    def ask(
        self, op: str, arrays: Sequence[np.ndarray[Any, Any]] = (), timeout: float = RUN_TIMEOUT, **fields: Any
    ) -> Tuple[Message, Arrays]:
        """Send a request and wait for its answer. Raises WorkerError if it is refused, late, or kills the process."""
        assert self._process.stdin is not None
        deadline = time.monotonic() + timeout
        try:
            stream: Any = _Unbuffered(self._process.stdin)
            send(stream, dict(fields, op=op), arrays)
            answer = receive(lambda n: self._read(n, deadline), lambda: self._readline(deadline))
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self._process.kill()
            raise WorkerError("hung: no answer to %r in %.0f s" % (op, timeout), crashed=True) from None
        if answer is None:
            raise WorkerError(self._cause_of_death(op), crashed=True)
        message, results = answer
        if "error" in message:
            raise WorkerError(message["error"])
        return message, results

    def _readline(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            if not self._fill(deadline):
                return b""
        end = self._buffer.index(b"\n") + 1
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def _read(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count and self._fill(deadline):
            pass
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _fill(self, deadline: float) -> bool:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), 1 << 20)
        self._buffer += chunk
        return bool(chunk)

    def _cause_of_death(self, op: str) -> str:
        code = self._process.wait()
        code = 128 - code if code > 128 else code  # as a shell tells of a signal
        tail = self.log().strip().splitlines()[-1:]
        said = "; last words: " + tail[0] if tail else ""
        if code == -signal.SIGKILL:
            return "killed during %r, probably out of memory%s" % (op, said)
        if code < 0:
            return "signal %d (%s) during %r%s" % (-code, signal.Signals(-code).name, op, said)
        return "exit status %d during %r%s" % (code, op, said)

    def log(self) -> str:
        """What ncnn and the driver printed so far."""
        self._log.flush()
        with open(self._log.name, "rb") as file:
            return file.read().decode(errors="replace")


class _Unbuffered:
    """A pipe whose writes are complete."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._fd = stream.fileno()

    def write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def flush(self) -> None:
        pass


if __name__ == "__main__":
    serve()
