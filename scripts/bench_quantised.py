"""Compare ncnn's int8 with a network that ONNX Runtime quantised, for docs/benchmarks.md.

    python scripts/bench_quantised.py MODEL.onnx --images DIR [--count 40]

The model is quantised statically with the first images in each of ONNX Runtime's forms. The table compares ncnn's int8
with the quantised original on the other images: once with the scales of the original, and once with new scales.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization as oq

from ncnnkit.comparison.accuracy import Errors
from ncnnkit.device.session import Session
from ncnnkit.model.graph import Graph
from ncnnkit.model.targets import TARGETS
from ncnnkit.passes import optimize
from ncnnkit.progress import silent
from ncnnkit.quantization import apply_own, finished, quantize_images
from ncnnkit.samples.sets import open_image_sets
from ncnnkit.source import open_model
from ncnnkit.source.conversion import convert_source
from ncnnkit.source.files import onnx_run, onnx_session
from ncnnkit.source.opening import choose_preprocess

U8, S8 = oq.QuantType.QUInt8, oq.QuantType.QInt8
FORMS: dict[str, dict[str, Any]] = {
    "QDQ, int8, per channel": {"quant_format": oq.QuantFormat.QDQ, "per_channel": True},
    "QDQ, uint8 and int8, per tensor": {
        "quant_format": oq.QuantFormat.QDQ, "activation_type": U8, "weight_type": S8,
    },
    "QOperator, int8, per channel": {"quant_format": oq.QuantFormat.QOperator, "per_channel": True},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=40, help="number of images for quantising, and for comparing")
    parser.add_argument("--target", default="x86", choices=sorted(TARGETS))
    parser.add_argument("--effort", default="default", help="effort of the new scales")
    args = parser.parse_args()
    source = open_model(args.model)
    preprocess, _ = choose_preprocess(source, "", {})
    images, _ = open_image_sets(args.images, "", preprocess, source.inputs, 2 * args.count, silent)
    fitted, judged = images.subset(range(args.count)), images.subset(range(args.count, len(images)))
    print("| form | scales kept | fp32, dB | int8, own scales, dB | int8, new scales, dB |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, form in FORMS.items():
            path = Path(folder, "quantised.onnx")
            oq.quantize_static(args.model, str(path), _Reader(source.inputs[0].name, fitted), **form)
            original = onnx_run(onnx_session(path, optimised=False))
            expected = [[np.asarray(each)[0] for each in original([x[None] for x in sample])] for sample in judged]
            graph = optimize(convert_source(open_model(path), judged, Path(folder)).graph)
            own = apply_own(graph, target=args.target)
            again = quantize_images(graph, fitted, target=args.target, method="mse", effort=args.effort).graph
            found = [_sqnr(each, judged, expected) for each in (graph, finished(own.int8), again)]
            kept = len(own.table.inputs) - len({layer for layers in own.lost.values() for layer in layers})
            print(
                f"| {name} | {kept} of {len(own.table.inputs)} | {' | '.join(f'{each:.1f}' for each in found)} |",
                flush=True,
            )


def _sqnr(graph: Graph, samples: Any, expected: Any) -> float:
    errors = Errors()
    with Session(graph) as net:
        for sample, theirs in zip(samples, expected):
            errors.add(net.blobs(*sample, names=net.outputs), theirs)
    return errors.sqnr_db(0) or np.inf


class _Reader(oq.CalibrationDataReader):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, name: str, samples: Any) -> None:
        self._left = iter({name: sample[0][None]} for sample in samples)

    def get_next(self) -> Any:
        return next(self._left, None)


if __name__ == "__main__":
    main()
