#!/usr/bin/env python3
"""Runs the model on one input and prints the answer: infer.py MODEL.param MODEL.bin INPUT [OUTPUT] [options].

INPUT is an image, or an array: .npy, or text in a .txt or .csv. OUTPUT is .npy or text. Needs ncnn and numpy; PPM and
PGM images are read here; other formats, masks, images and --draw need Pillow. What is known of the model comes from the
infer.json beside this file. Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ncnnkit.app.python_parts.images import in_color, read_image, resize
from ncnnkit.app.python_tasks.classification import JOINS_TILES, answer, describe, draw, lines, makes, picture
from ncnnkit.app.python_tasks.common import Failure, Tile, times
from ncnnkit.errors import NcnnkitError
from ncnnkit.onboard.picture import (
    CHANNELS,
    OPENCV,
    Array,
    Placement,
    normalised,
    of_card,
    places,
    resize_as_opencv,
    to_tensor,
)
from ncnnkit.onboard.storages import check_storages, layers_of

Facts = Dict[str, Any]


def prepare(pixels: Array, how: Facts, tile: Optional[int] = None) -> Tuple[List[Array], List[Placement]]:
    """The network's inputs, float32, from uint8 (H, W) or (H, W, C): one, or one for each tile; and where each lies."""
    pixels = in_color(pixels, CHANNELS[how["color"]])
    try:
        found = places(*of_card(how), *pixels.shape[:2])
    except ValueError as error:
        raise Failure(str(error)) from None
    if (tile or 0) >= len(found) or (tile is None and len(found) > 1 and not JOINS_TILES):
        raise Failure("is cut into tiles: choose one with --tile=0 to --tile=%d" % (len(found) - 1))
    found = found if tile is None else [found[tile]]
    height, width = found[0].resized
    if how["interpolation"] == OPENCV:
        pixels = resize_as_opencv(pixels, height, width)
    elif (height, width) != pixels.shape[:2]:
        pixels = resize(pixels, height, width, how["interpolation"], how["may_swap"])
    return [to_tensor(pixels, place, how) for place in found], found


# ------------------------------------------------------------------------------------------------ inputs and outputs


def is_array(path: Path) -> bool:
    return path.suffix in (".npy", ".txt", ".csv")


def read_array(path: Path) -> Array:
    """float32, finite."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.array(path.read_text().replace(",", " ").replace(";", " ").split(), np.float32)
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    except ValueError as error:
        raise Failure("does not hold numbers: %s" % error) from None
    if not np.isfinite(values).all():
        raise Failure("holds NaN or infinity")
    return values


@dataclass
class Input:
    """What is fed to the network.

    Attributes:
        tensors: float32 of the shape of the network's input; of an image that is cut into tiles, one for each.
        places: where the image lies in each.
        pixels: of the image; None for an array.
    """

    tensors: List[Array]
    places: List[Placement]
    pixels: Optional[Array] = None


def read_input(path: Path, facts: Facts, tile: Optional[int] = None) -> Input:
    shape, how = tuple(facts["inputs"][0]["shape"]), facts["inputs"][0]["preprocess"]
    if is_array(path):
        values = read_array(path)
        fits = values.shape in (shape, (1, *shape)) if path.suffix == ".npy" else values.size == math.prod(shape)
        if not fits:
            raise Failure("has shape %s, the network takes %s" % (times(values.shape), times(shape)))
        values = np.ascontiguousarray(values.reshape(shape))
        values = normalised(values, how) if how else values
        return Input([values], [whole_input(facts)])
    if not how or how["color"] == "array":
        raise Failure("this model takes arrays (.npy or text), not images")
    pixels = read_image(path)
    tensors, found = prepare(pixels, {**how, "may_swap": facts["may_swap"]}, tile)
    if tensors[0].shape != shape:
        raise Failure("becomes %s, the network takes %s" % (times(tensors[0].shape), times(shape)))
    return Input(tensors, found, pixels)


def whole_input(facts: Facts) -> Placement:
    """The place of an array: it is the network's input itself."""
    shape = (1, *facts["inputs"][0]["shape"])
    last = len(shape) == 4 and (facts["inputs"][0]["preprocess"] or {}).get("layout") == "hwc"
    size = shape[1:3] if last else shape[-2:]
    return Placement(size, size, 0, 0, size)


def write_output(path: Path, values: Array) -> None:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        np.savetxt(path, values.reshape(-1), "%.9g")


# ------------------------------------------------------------------------------------------------------- the network


def numbers(version: str) -> List[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def notes(ncnn: Any, facts: Facts) -> List[str]:
    """What is not as it was when the model was measured."""
    if not facts["ncnn"] or numbers(ncnn.__version__) >= numbers(facts["ncnn"]):
        return []
    text = "this ncnn, %s, is older than %s, with which the model was measured: answers and times may differ"
    return [text % (ncnn.__version__, facts["ncnn"])]


def check_files(paths: Sequence[Path]) -> None:
    """Refuse model files that are not as checksums.txt beside them says."""
    for path in paths:
        try:
            lines = path.with_name("checksums.txt").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        written = {name: crc for crc, _, name in (line.partition(" ") for line in lines)}
        found = "%08x" % zlib.crc32(path.read_bytes())
        if written.get(path.name, found) != found:
            text = "%s: is not the file that was written: its CRC-32 is %s, not %s; copy it again, or give --no-check"
            raise Failure(text % (path, found, written[path.name]))


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


def open_net(ncnn: Any, args: argparse.Namespace, facts: Facts, precision: str, own: str) -> Tuple[Any, str]:
    """(the network, the GPU's name or ''), loaded for a precision; the model is made for ``own``."""
    net, device = ncnn.Net(), ""
    net.opt.num_threads = args.threads
    for name, on in facts["precisions"][precision].items():
        if hasattr(net.opt, name):  # older ncnn has not all of them
            setattr(net.opt, name, on)
    if args.gpu:
        if only_for_cpus(args.param, facts):
            raise Failure("%s: this int8 model is made for CPUs: take the run's int8-vulkan variant" % args.param)
        net.opt.use_vulkan_compute = True
        index, device = find_gpu(ncnn, args.gpu == "any")
        net.set_vulkan_device(index)
    with quiet():
        unusable = [
            path for load, path in ((net.load_param, args.param), (net.load_model, args.bin)) if load(str(path))
        ]
    if unusable:
        raise Failure("%s: ncnn cannot load it" % unusable[0])
    try:
        check_storages(net, str(args.param), bool(args.gpu))
    except RuntimeError as error:
        made = "ncnn %s or newer" % facts["ncnn"] if facts["ncnn"] else "the ncnn it was made with"
        target = "a CPU like those of the target %s" % facts["target"] if facts["target"] else "its CPU"
        text = "%s: %s; here: ncnn %s, --precision=%s; it needs: %s, --precision=%s and %s"
        raise Failure(text % (args.param, error, ncnn.__version__, precision, made, own, target)) from None
    if args.gpu and not any(layer.support_vulkan for layer in net.layers()):
        raise Failure("--gpu: ncnn has no Vulkan kernel for any layer of this model")
    return net, device


def own_mat(ncnn: Any, tensor: Array) -> Any:
    """A tensor in ncnn's own memory: on numpy's, layers that work in place crash in light mode."""
    return ncnn.Mat(tensor).clone()


def infer(ncnn: Any, net: Any, mat: Any, facts: Facts) -> List[Array]:
    """The outputs of one inference, float32."""
    with net.create_extractor() as extractor:
        if extractor.input(facts["inputs"][0]["blob"], mat) != 0:
            raise Failure("the model has no input %s: is it another one?" % facts["inputs"][0]["blob"])
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


def predict(ncnn: Any, net: Any, given: Input, facts: Facts) -> Any:
    """The prediction for an input, of all its tiles together."""
    tiles = []
    for tensor, place in zip(given.tensors, given.places):
        outputs = infer(ncnn, net, own_mat(ncnn, tensor), facts)
        if not all(np.isfinite(values).all() for values in outputs):
            raise Failure("the output holds NaN or infinity")
        tiles.append(Tile(outputs, place))
    return answer(tiles, facts)


def timed(ncnn: Any, net: Any, tensor: Array, facts: Facts, count: int) -> Tuple[List[float], List[Array]]:
    """Milliseconds of each inference, the first one apart; and the outputs."""
    mat, samples, outputs = own_mat(ncnn, tensor), [], []
    for _ in range(count + 1):
        start = time.perf_counter()
        outputs = infer(ncnn, net, mat, facts)
        samples.append((time.perf_counter() - start) * 1000)
    return samples, outputs


def save(
    found: Any, given: Input, outputs: List[Array], args: argparse.Namespace, facts: Facts, labels: List[str]
) -> None:
    """Write OUTPUT and --draw."""
    if is_picture(args.output):
        if not makes(facts):
            raise Failure("%s: this model makes no image: give a .npy or .txt, or --draw" % args.output)
        as_image(picture(found)).save(args.output)
    elif args.output:
        for row, values in zip(facts["outputs"], outputs):
            named = args.output.with_name("%s-%s%s" % (args.output.stem, row["file"], args.output.suffix))
            write_output(named if len(outputs) > 1 else args.output, values)
    if args.draw and given.pixels is not None:
        image = as_image(in_color(given.pixels, 3))
        draw(found, labels, image)
        image.save(args.draw)


def is_picture(path: Optional[Path]) -> bool:
    return path is not None and path.suffix in (".png", ".jpg", ".jpeg", ".ppm", ".pgm")


def as_image(pixels: Array) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise Failure("writing images needs Pillow (pip install Pillow)") from None
    return Image.fromarray(pixels)


def beside(path: Path, name: str) -> str:
    try:
        return path.with_name(name).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure("%s: cannot be read: %s" % (path.with_name(name), error.strerror)) from None


def precision_of(param: Path, variants: Sequence[Sequence[str]], own: str) -> str:
    """What a model is to run with: as the program's own variant, if that is its file, else as the first it is of."""
    found = [precision for _, precision, _, model, *_ in variants if model == param.stem]
    return own if own in found or not found else found[0]


def run(args: argparse.Namespace) -> None:
    import ncnn

    for path in (args.param, args.bin, args.input):
        if path.is_dir():
            raise Failure("%s: is a folder" % path)
        if not path.is_file() or not path.stat().st_size:
            raise Failure("%s: no such file, or an empty one" % path)
    if not args.no_check:
        check_files((args.param, args.bin))
    facts: Facts = json.loads(beside(Path(__file__), "infer.json"))
    labels = beside(args.param, "labels.txt").splitlines()
    variants = [line.split() for line in beside(args.param, "variants.txt").splitlines()]
    if args.bin.stem != args.param.stem and args.bin.stem in (row[3] for row in variants):
        raise Failure("%s: is another model's than %s" % (args.bin, args.param))
    own = precision_of(args.param, variants, facts["precision"])
    precision = args.precision or own
    if precision not in facts["precisions"]:
        raise Failure("--precision=%s: must be one of %s" % (precision, ", ".join(facts["precisions"])))
    start = time.perf_counter()
    try:
        given = read_input(args.input, facts, args.tile)
    except Failure as failure:
        raise Failure("%s: %s" % (args.input, failure)) from None
    input_ms = (time.perf_counter() - start) * 1000
    args.threads = args.threads or cluster_cores(ncnn, args.cluster)
    ncnn.set_cpu_powersave({"all": 0, "little": 1, "big": 2}[args.cluster])
    start = time.perf_counter()
    net, device = open_net(ncnn, args, facts, precision, own)
    load_ms = (time.perf_counter() - start) * 1000
    samples, outputs = timed(ncnn, net, given.tensors[0], facts, args.loop)
    found = predict(ncnn, net, given, facts)
    save(found, given, outputs, args, facts, labels)
    first, low = samples[0], min(samples[1:])
    median, high = np.percentile(samples[1:], [50, 90]).tolist()
    report: Dict[str, Any] = {
        "model": facts["model"], "precision": precision, "backend": "vulkan" if device else "cpu", "device": device,
        "threads": args.threads, "load_ms": load_ms, "input_ms": input_ms,
        "latency_ms": {"first": first, "min": low, "median": median, "p90": high, "runs": args.loop},
        "ncnn": ncnn.__version__, "measured_ncnn": facts["ncnn"], "notes": notes(ncnn, facts),
        **describe(found, labels, args.top),
    }  # fmt: skip
    if makes(facts):
        report[makes(facts)] = str(args.output) if is_picture(args.output) else None
    if args.json:
        print(json.dumps(report))
        return
    print("%s, %s, %s, %d threads" % (facts["model"], precision, device or "cpu", args.threads))
    print("load %.4g ms, input %.4g ms" % (load_ms, input_ms))
    print(
        "latency: first %.4g ms; then min %.4g, median %.4g, p90 %.4g ms of %d" % (first, low, median, high, args.loop)
    )
    for note in report["notes"]:
        print("note: " + note)
    for line in lines(found, labels, args.top):
        print(line)


def whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError("must be a whole number, not %r" % text)
    return int(text)


def positive(text: str) -> int:
    if not 1 <= whole(text) <= 1000000:
        raise argparse.ArgumentTypeError("must be a whole number above zero, not %r" % text)
    return int(text)


def drawable(text: str) -> Path:
    if not is_picture(Path(text)):
        raise argparse.ArgumentTypeError("must end in .png, .jpg or .ppm, not %r" % text)
    return Path(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("param", type=Path)
    parser.add_argument("bin", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--cpu", dest="gpu", action="store_const", const="", help="run on the CPU (default)")
    parser.add_argument("--gpu", action="store_const", const="real", default="", help="by Vulkan, or fail")
    parser.add_argument("--gpu=any", dest="gpu", action="store_const", const="any", help="or by a software device")
    parser.add_argument("--precision", help="a precision of models/variants.txt; default: the model's")
    parser.add_argument("--threads", type=positive, help="default: the cluster's cores")
    parser.add_argument("--cluster", choices=("big", "little", "all"), default="big")
    parser.add_argument("--loop", type=positive, default=10, help="timed inferences, after a first one")
    parser.add_argument("--top", type=whole, default=5, help="best classes to print")
    parser.add_argument("--tile", type=whole, help="only this tile of the image, if it is cut into tiles")
    parser.add_argument("--draw", type=drawable, help="draw the answer onto the image: .png, .jpg or .ppm")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-check", action="store_true", help="also run files that are not as checksums.txt says")
    try:
        run(parser.parse_args())
    except (Failure, NcnnkitError, OSError) as failure:
        print("infer: %s" % failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
