"""The model's files, and the network that ncnn makes of them."""

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
    """The files of a model, and what is known of it.

    Attributes:
        param, bin: its files.
        facts: what infer.json says.
        labels: the names of the classes.
        variants: the lines of variants.txt, in words: name, precision, backend, model, the bounds of the self-test.
        precision: what it is made for.
    """

    param: Path
    bin: Path
    facts: Facts
    labels: List[str]
    variants: List[List[str]]
    precision: str


def open_model(home: Path, files: Sequence[Path], checked: bool) -> Model:
    """The model of ``files``, .param and .bin, or, without any, that of the folder ``home``, for which it was made.

    ``checked``: its files must be as checksums.txt beside them says.
    """
    try:
        facts = json.loads(beside(home, "infer.json"))
    except ValueError as error:
        raise Failure("%s: is damaged: %s" % (home / "infer.json", error)) from None
    own = home / "models" / facts["stem"]
    param, weights = files or (own.with_name(own.name + ".param"), own.with_name(own.name + ".bin"))
    for path in (param, weights):  # weights may be empty
        if not path.is_file():
            raise Failure("%s: %s" % (path, "is a folder" if path.is_dir() else "no such file"))
        if checked:
            check_file(path)
    labels = beside(param.parent, "labels.txt").splitlines()
    variants = [line.split() for line in beside(param.parent, "variants.txt").splitlines()]
    if any(len(row) < 4 for row in variants):
        raise Failure("%s: is damaged" % param.with_name("variants.txt"))
    if weights.stem != param.stem and weights.stem in (row[3] for row in variants):
        raise Failure("%s: is another model's than %s" % (weights, param))
    # As the program's own variant, if that is its file, else as the first that it is of.
    found = [row[1] for row in variants if row[3] == param.stem]
    precision = facts["precision"] if facts["precision"] in found or not found else found[0]
    return Model(param, weights, facts, labels, variants, precision)


def beside(folder: Path, name: str) -> str:
    try:
        return read_text(folder / name, LINES)
    except OSError as error:
        raise Failure("%s: cannot be read: %s" % (folder / name, error.strerror)) from None


def check_file(path: Path) -> None:
    """Refuse a file of a model that is not as checksums.txt beside it says."""
    try:
        lines = read_text(path.with_name("checksums.txt")).splitlines()
    except OSError:
        return
    written = {name: crc for crc, _, name in (line.partition(" ") for line in lines)}
    found = "%08x" % zlib.crc32(path.read_bytes())
    if written.get(path.name, found) != found:
        text = "%s: is not the file that was written: its CRC-32 is %s, not %s; copy it again, or give --no-check"
        raise Failure(text % (path, found, written[path.name]))


# -------------------------------------------------------------------------------------------------------- the network


@dataclass
class Settings:
    """How to run a model.

    Attributes:
        precision: what ncnn may use.
        gpu: ``""``: the CPU; ``real``: a GPU; ``any``: a software Vulkan device will do.
        threads: of the CPU; 0: as many as the cluster has cores.
        cluster: ``big``, ``little`` or ``all``: the cores to stay on.
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
        device: the name of the GPU; empty: the CPU.
        load_ms: duration of loading.
        notes: what is not as it was when the model was measured.
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
        """That of ncnn."""
        return str(self._ncnn.__version__)

    def _load(self) -> Any:
        model, settings, net = self.model, self.settings, self._ncnn.Net()
        net.opt.num_threads = settings.threads
        for name, on in model.facts["precisions"][settings.precision].items():
            if hasattr(net.opt, name):  # older ncnn has not all of them
                setattr(net.opt, name, on)
        if settings.gpu:
            if only_for_cpus(model.param, model.facts):
                raise Failure("%s: this int8 model is made for CPUs: take the run's int8-vulkan variant" % model.param)
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
        """Refuse a mixed model in which a layer would read a blob as another type than it has."""
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
        """Tensors in ncnn's own memory: on numpy's, layers that work in place crash in light mode."""
        return [self._ncnn.Mat(tensor).clone() for tensor in tensors]

    def run(self, mats: Sequence[Any]) -> List[Array]:
        """The outputs of one inference, float32."""
        facts = self.model.facts
        with self._net.create_extractor() as extractor:
            for row, mat in zip(facts["inputs"], mats):
                if extractor.input(row["blob"], mat) != 0:
                    raise Failure("the model has no input %s: is it another one?" % row["blob"])
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
        """The prediction for an input, of all its tiles together."""
        tiles = []
        for tensors, place in zip(given.tiles, given.places):
            outputs = self.run(self.mats(tensors))
            if not all(np.isfinite(values).all() for values in outputs):
                raise Failure("the output holds NaN or infinity")
            tiles.append(Tile(outputs, place))
        return answer(tiles, self.model.facts)

    def timed(self, given: Input, count: int) -> Tuple[List[float], List[Array]]:
        """Of the first tile, milliseconds of each of 1 + ``count`` inferences; and the outputs."""
        mats, samples, outputs = self.mats(given.tiles[0]), [], []
        for _ in range(count + 1):
            start = time.perf_counter()
            outputs = self.run(mats)
            samples.append((time.perf_counter() - start) * 1000)
        return samples, outputs

    def about(self, input_ms: float, samples: Sequence[float]) -> Dict[str, Any]:
        """What ``--json`` says of a program and of its times; ``samples`` are those of :meth:`timed`."""
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
    """What ``Network.about`` says, for people."""
    rows = [
        "%s, %s, %s, %d threads" % (about["model"], about["precision"], about["device"] or "cpu", about["threads"]),
        "load %.4g ms, input %.4g ms, peak memory %.4g MB"
        % (about["load_ms"], about["input_ms"], about["peak_memory_mb"]),
        "latency: first %(first).4g ms; then min %(min).4g, median %(median).4g, p90 %(p90).4g ms of %(runs)d"
        % about["latency_ms"],
    ]
    return rows + ["note: " + note for note in about["notes"]]


def import_ncnn() -> Any:
    try:
        import ncnn
    except ImportError:
        raise Failure("needs ncnn: pip install ncnn") from None
    return ncnn


def numbers(version: str) -> List[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def is_older(version: str, measured: str) -> bool:
    """Whether a version of ncnn is older than that with which a model was measured; no: that is not known."""
    return bool(measured) and numbers(version) < numbers(measured)


def notes(version: str, measured: str) -> List[str]:
    """What is not as it was when the model was measured."""
    text = "this ncnn, %s, is older than %s, with which the model was measured: answers and times may differ"
    return [text % (version, measured)] if is_older(version, measured) else []


def peak_memory_mb() -> float:
    """The most memory that this process had resident so far; 10^6 bytes. 0: the system does not report it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cluster_cores(ncnn: Any, cluster: str) -> int:
    count = {"all": ncnn.get_cpu_count, "little": ncnn.get_little_cpu_count, "big": ncnn.get_big_cpu_count}[cluster]()
    if count == 0:
        raise Failure("--cluster=%s: this machine has no such cores" % cluster)
    return int(count)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what ncnn writes to stderr."""
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
        raise Failure("--gpu: the only Vulkan device is the CPU (%s); --gpu=any takes it all the same" % seen)
    raise Failure("--gpu: there is no Vulkan device here: is its driver installed?")


def only_for_cpus(param: Path, facts: Facts) -> bool:
    """ncnn's Vulkan pads int8 blobs with zeros only; a model made for a CPU may ask for other values (pad_value)."""
    types = {row["name"]: (str(row["term"]), str(row["pad_value"])) for row in facts["int8_types"]}
    layers = [(given, types[kind]) for _, kind, given in layers_of(str(param)) if kind in types]
    return any(all(float(given.get(number, 0)) for number in ids) for given, ids in layers)
