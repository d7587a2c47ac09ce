"""Checks the model's files, and runs the network with ncnn."""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from ncnnkit.app.python_parts.inputs import Facts, Input
from ncnnkit.app.python_tasks.classification import answer
from ncnnkit.app.python_tasks.common import Failure, Tile
from ncnnkit.onboard.picture import Array
from ncnnkit.onboard.storages import check_storages, layers_of
from ncnnkit.onboard.userfiles import LINES, read_text

# -------------------------------------------------------------------------------------------------------- model files


@dataclass
class Model:
    """The files of a model, and the facts about it.

    Attributes:
        param, bin: its files.
        facts: the content of infer.json.
        labels: the names of the classes.
        variants: the words of each line of variants.txt: name, precision, backend, model, bounds of the self-test.
        precision: the precision for which it was made.
    """

    param: Path
    bin: Path
    facts: Facts
    labels: List[str]
    variants: List[List[str]]
    precision: str


def open_model(home: Path, files: Sequence[Path], checked: bool) -> Model:
    """Open the model in ``files``, a .param and a .bin, or by default the app's model in the folder ``home``.

    ``checked``: the checksums of its files must match those in checksums.txt. Raises Failure.
    """
    try:
        facts = json.loads(beside(home, "infer.json"))
    except ValueError as error:
        raise Failure("%s: is damaged: %s" % (home / "infer.json", error)) from None
    own = home / "models" / facts["stem"]
    param, weights = files or (own.with_name(own.name + ".param"), own.with_name(own.name + ".bin"))
    for path in (param, weights):
        if not path.is_file():
            raise Failure("%s: %s" % (path, "is a folder" if path.is_dir() else "no such file"))
        if checked:
            check_file(path)
    labels = beside(param.parent, "labels.txt").splitlines()
    variants = [line.split() for line in beside(param.parent, "variants.txt").splitlines()]
    if any(len(row) < 4 for row in variants):
        raise Failure("%s: is damaged" % param.with_name("variants.txt"))
    if weights.stem != param.stem and weights.stem in (row[3] for row in variants):
        raise Failure("%s: does not belong to %s" % (weights, param))
    # The precision of the program's own variant, if that uses this file; otherwise that of the first variant that does.
    found = [row[1] for row in variants if row[3] == param.stem]
    precision = facts["precision"] if facts["precision"] in found or not found else found[0]
    return Model(param, weights, facts, labels, variants, precision)


def beside(folder: Path, name: str) -> str:
    """The text of a file in a folder. Raises Failure."""
    try:
        return read_text(folder / name, LINES)
    except OSError as error:
        raise Failure("%s: cannot be read: %s" % (folder / name, error.strerror)) from None


def check_file(path: Path) -> None:
    """Refuse a file if its checksum differs from that in checksums.txt beside it."""
    try:
        lines = read_text(path.with_name("checksums.txt")).splitlines()
    except OSError:
        return
    written = {name: crc for crc, _, name in (line.partition(" ") for line in lines)}
    found = "%08x" % zlib.crc32(path.read_bytes())
    if written.get(path.name, found) != found:
        text = "%s: was damaged or changed: its CRC-32 is %s, not %s; copy it again, or give --no-check"
        raise Failure(text % (path, found, written[path.name]))


# -------------------------------------------------------------------------------------------------------- the network


@dataclass
class Settings:
    """How to run a model.

    Attributes:
        precision: name of a set of ncnn's options, in infer.json.
        gpu: ``""``: the CPU; ``real``: a GPU; ``any``: a GPU or a software Vulkan device.
        threads: of the CPU; 0: as many as the cluster has cores.
        cluster: ``big``, ``little`` or ``all``: the cores that are used.
    """

    precision: str
    gpu: str
    threads: int
    cluster: str


class Network:
    """A model that ncnn has loaded.

    Attributes:
        model: its files.
        settings: how it runs.
        device: the name of the GPU; empty for the CPU.
        load_ms: duration of loading, ms.
        notes: differences from the conditions under which the model was measured.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        self._ncnn = import_ncnn()
        self.model, self.settings, self.device = model, settings, ""
        settings.threads = settings.threads or cluster_cores(self._ncnn, settings.cluster)
        self._ncnn.set_cpu_powersave({"all": 0, "little": 1, "big": 2}[settings.cluster])
        start = time.perf_counter()
        self._net = self._load()
        self.load_ms = (time.perf_counter() - start) * 1000
        self.notes = notes(self.version, model.facts["ncnn"])

    @property
    def version(self) -> str:
        """The version of ncnn."""
        return str(self._ncnn.__version__)

    def _load(self) -> Any:
        model, settings, net = self.model, self.settings, self._ncnn.Net()
        net.opt.num_threads = settings.threads
        for name, on in model.facts["precisions"][settings.precision].items():
            if hasattr(net.opt, name):  # older versions of ncnn lack some options
                setattr(net.opt, name, on)
        if settings.gpu:
            if only_for_cpus(model.param, model.facts):
                raise Failure("%s: this int8 model is made for CPUs: use the run's int8-vulkan variant" % model.param)
            net.opt.use_vulkan_compute = True
            index, self.device = find_gpu(self._ncnn, settings.gpu == "any")
            net.set_vulkan_device(index)
        for load, path in ((net.load_param, model.param), (net.load_model, model.bin)):
            with quiet():
                status = load(str(path))
            if status:
                raise Failure("%s: ncnn cannot load it" % path)
        self._check_storages(net)
        if settings.gpu and not any(layer.support_vulkan for layer in net.layers()):
            raise Failure("--gpu: ncnn has no Vulkan kernel for any layer of this model")
        return net

    def _check_storages(self, net: Any) -> None:
        """Refuse a mixed model in which a layer would read a blob as a type that it does not have."""
        model, facts = self.model, self.model.facts
        try:
            check_storages(net, str(model.param), bool(self.settings.gpu))
        except RuntimeError as error:
            made = "ncnn %s or newer" % facts["ncnn"] if facts["ncnn"] else "the ncnn it was made with"
            target = "a CPU like those of the target %s" % facts["target"] if facts["target"] else "its CPU"
            text = "%s: %s; here: ncnn %s, --precision=%s; it needs: %s, --precision=%s and %s"
            here = (self.version, self.settings.precision)
            raise Failure(text % (model.param, error, *here, made, model.precision, target)) from None

    def mats(self, tensors: Sequence[Array]) -> List[Any]:
        """Copy tensors to ncnn's memory. With numpy's memory, layers that work in place crash in light mode."""
        return [self._ncnn.Mat(tensor).clone() for tensor in tensors]

    def run(self, mats: Sequence[Any]) -> List[Array]:
        """The outputs of one inference, float32."""
        facts = self.model.facts
        with self._net.create_extractor() as extractor:
            for row, mat in zip(facts["inputs"], mats):
                if extractor.input(row["blob"], mat) != 0:
                    raise Failure("the model has no input %s: do the files belong to this app?" % row["blob"])
            outputs = []
            for row in facts["outputs"]:
                status, output = extractor.extract(row["blob"])
                if status == 0 and output.empty() and row["row"]:  # nothing was detected
                    outputs.append(np.zeros((0, row["row"]), np.float32))
                    continue
                if status != 0 or output.empty():
                    raise Failure("ncnn could not compute blob %s (status %d)" % (row["blob"], status))
                outputs.append(np.array(output))
            return outputs

    def predict(self, given: Input) -> Any:
        """The prediction for an input, from all its tiles."""
        tiles = []
        for tensors, place in zip(given.tiles, given.places):
            outputs = self.run(self.mats(tensors))
            if not all(np.isfinite(values).all() for values in outputs):
                raise Failure("the output contains NaN or infinity")
            tiles.append(Tile(outputs, place))
        return answer(tiles, self.model.facts)

    def timed(self, given: Input, count: int) -> Tuple[List[float], List[Array]]:
        """Run the first tile 1 + ``count`` times. Returns (duration of each inference, ms; outputs)."""
        mats, samples, outputs = self.mats(given.tiles[0]), [], []
        for _ in range(count + 1):
            start = time.perf_counter()
            outputs = self.run(mats)
            samples.append((time.perf_counter() - start) * 1000)
        return samples, outputs

    def about(self, input_ms: float, samples: Sequence[float]) -> Dict[str, Any]:
        """The facts about the program and its times for ``--json``. ``samples`` are the durations of :meth:`timed`."""
        first, rest = samples[0], samples[1:]
        median, high = np.percentile(rest, [50, 90]).tolist()
        times_ms = {"first": first, "min": min(rest), "median": median, "p90": high, "runs": len(rest)}
        facts, settings = self.model.facts, self.settings
        return {
            "model": facts["model"], "precision": settings.precision, "backend": "vulkan" if self.device else "cpu",
            "device": self.device, "threads": settings.threads, "ncnn": self.version, "measured_ncnn": facts["ncnn"],
            "notes": self.notes, "load_ms": self.load_ms, "input_ms": input_ms, "latency_ms": times_ms,
            "peak_memory_mb": peak_memory_mb(),
        }  # fmt: skip


def in_words(about: Dict[str, Any]) -> List[str]:
    """The result of :meth:`Network.about` as lines of text."""
    rows = [
        "%s, %s, %s, %d threads" % (about["model"], about["precision"], about["device"] or "cpu", about["threads"]),
        "load %.4g ms, input %.4g ms, peak memory %.4g MB"
        % (about["load_ms"], about["input_ms"], about["peak_memory_mb"]),
        "latency: first %(first).4g ms; then min %(min).4g, median %(median).4g, p90 %(p90).4g ms of %(runs)d"
        % about["latency_ms"],
    ]
    return rows + ["note: " + note for note in about["notes"]]


def import_ncnn() -> Any:
    """Import ncnn. Raises Failure if it is not installed."""
    try:
        import ncnn
    except ImportError:
        raise Failure("needs ncnn: pip install ncnn") from None
    return ncnn


def numbers(version: str) -> List[int]:
    """The numbers in a version, for comparison."""
    return [int(part) for part in version.split(".") if part.isdigit()]


def is_older(version: str, measured: str) -> bool:
    """Whether ncnn is older than the version with which the model was measured. False if that is unknown."""
    return bool(measured) and numbers(version) < numbers(measured)


def notes(version: str, measured: str) -> List[str]:
    """Differences from the conditions under which the model was measured."""
    text = "this ncnn, %s, is older than %s, with which the model was measured: answers and times may differ"
    return [text % (version, measured)] if is_older(version, measured) else []


def peak_memory_mb() -> float:
    """The peak resident memory of this process, 10^6 bytes; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cluster_cores(ncnn: Any, cluster: str) -> int:
    """The number of cores of a cluster. Raises Failure if the machine has no such cluster."""
    count = {"all": ncnn.get_cpu_count, "little": ncnn.get_little_cpu_count, "big": ncnn.get_big_cpu_count}[cluster]()
    if count == 0:
        raise Failure("--cluster=%s: this machine has no such cores" % cluster)
    return int(count)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what ncnn writes to stderr."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def find_gpu(ncnn: Any, software: bool) -> Tuple[int, str]:
    """Index and name of the device for --gpu."""
    seen = ""
    with quiet():  # ncnn lists what each device can do
        count = ncnn.get_gpu_count()
    for index in range(count):
        info = ncnn.get_gpu_info(index)
        if software or info.type() != 3:  # 3: a software device
            return index, info.device_name()
        seen = info.device_name()
    if seen:
        raise Failure("--gpu: the only Vulkan device is the CPU (%s); --gpu=any uses it anyway" % seen)
    raise Failure("--gpu: there is no Vulkan device here: is its driver installed?")


def only_for_cpus(param: Path, facts: Facts) -> bool:
    """Whether the model pads int8 blobs with values other than zero (pad_value), which ncnn's Vulkan cannot do."""
    types = {row["name"]: (str(row["term"]), str(row["pad_value"])) for row in facts["int8_types"]}
    layers = [(given, types[kind]) for _, kind, given in layers_of(str(param)) if kind in types]
    return any(all(float(given.get(number, 0)) for number in ids) for given, ids in layers)
