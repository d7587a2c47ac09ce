#!/usr/bin/env python3
"""Measure the error of int8 with each method of the quantiser, alone and together, and with ncnn's own tools.

    scripts/bench_methods.py MODEL --images DIR --native DIR [--weights none] [--draws 5] [--every 1] [--alone]

Several draws are measured. DIR contains photographs NNNN.jpg, where NNNN is the class. The photographs with a number
that ends in 0 calibrate: a draw is 80 of them. All others evaluate, or every n-th of them. Errors are of the outputs
against the fp32 network. Methods run without their guards, to show where they make the error larger; "default" and
"fast" are the efforts of users.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_quantize import Prepared, native_model, outputs_of, prepare
from numpy.typing import NDArray

from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.quantization import EFFORTS, Effort, quantize_images
from ncnnkit.tasks.classification import Classification

Array = NDArray[Any]

PER_DRAW = 80

_PLAIN: dict[str, Any] = {"images": 100, "zero_points": False, "biases": False, "advice": False, "guards": False}
_ROWS = EFFORTS["default"].rows


def _fit(*methods: str, **others: Any) -> Effort:
    return Effort(**{**_PLAIN, "fits": (frozenset(methods),), "rows": _ROWS, **others})


METHODS: Mapping[str, Effort] = {
    "MSE thresholds": Effort(**_PLAIN),
    "+ thresholds by output error": Effort(**{**_PLAIN, "by_output": True}),
    "+ zero points": Effort(**{**_PLAIN, "zero_points": True}),
    "+ channel migration 0.5": Effort(**{**_PLAIN, "strengths": (0.5,)}),
    "+ bias correction, one pass": Effort(**{**_PLAIN, "biases": True}),
    "+ biases, layer by layer": _fit("bias"),
    "+ GPTQ rounding": _fit("rounding"),
    "+ GPTQ, biases": _fit("rounding", "bias"),
    "zero points, GPTQ": _fit("rounding", zero_points=True),
    "zero points, biases layer by layer": _fit("bias", zero_points=True),
    "zero points, GPTQ, biases": _fit("rounding", "bias", zero_points=True),
    "zero points, thresholds by output error, GPTQ, biases": _fit("rounding", "bias", zero_points=True, by_output=True),
    "zero points, GPTQ, biases, gains": _fit("rounding", "bias", "gain", zero_points=True),
    "migration, zero points, GPTQ, biases": _fit("rounding", "bias", zero_points=True, strengths=(0.5,)),
}
"""Each row uses MSE thresholds, and the methods in its name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model reference, as for ncnnkit run")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--native", type=Path, required=True, help="folder with ncnn2table and ncnn2int8")
    parser.add_argument("--preset", default="")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="evaluate on every n-th of the other images")
    parser.add_argument("--alone", action="store_true", help="each method alone and together, too, on the first draw")
    parser.add_argument("--only", default="", help="with --alone: just the methods that hold this text")
    parser.add_argument("--efforts", default="fast,default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        found = prepare(args, Path(name), "123456789")
        evaluation = found.evaluation.subset(range(0, len(found.evaluation), args.every))
        labels = found.labels[:: args.every]
        reference = outputs_of(found.graph, evaluation, "fp32", found.folder / "reference")
        exact = errors_of(reference, reference, Classification(), labels)
        print(f"{len(evaluation)} images to evaluate, fp32 top-1 {exact.figures()['top1']:.3f}")
        errors: dict[str, list[float]] = {}
        for draw in range(args.draws):
            chosen = np.sort(np.random.default_rng(draw).permutation(len(found.calibration))[:PER_DRAW])
            for row, graph, seconds in _models(args, found, chosen, with_methods=args.alone and draw == 0):
                outputs = outputs_of(graph, evaluation, "int8", found.folder / "outputs")
                figures = errors_of(outputs, reference, Classification(), labels).result([row])
                errors.setdefault(row, []).append(figures.mse)
                print(
                    f"draw {draw}  {row:40} MSE {figures.mse:.3g}  SQNR {figures.sqnr_db or math.inf:.2f} dB  "
                    f"cosine {figures.cosine or 0:.5f}  top-1 {figures.figures()['top1']:.3f}  {seconds:.1f} s",
                    flush=True,
                )
        base = np.mean(errors["native KL"])
        for row, values in errors.items():
            print(
                f"{row:40} MSE mean {np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g}), "
                f"{np.mean(values) / base:.3f} of native KL's"
            )


def activations_alone(exact: Graph, int8: Graph) -> Graph:
    """The fp32 network with exact weights, in which the inputs of int8 layers are rounded and clipped as in int8.

    Its error is a lower bound for every method that only chooses weights and biases.
    """
    made, scalar = Graph(), {"op_type": 2, "with_scalar": 1}
    for original, rounded in zip(exact.layers, int8.layers, strict=True):
        layer = original.copy()
        if rounded.params.get("int8_scale_term"):
            scale, name, source = float(rounded.array("input_scale")[0]), layer.name, layer.inputs[0]
            blobs = [f"{name}/{i}" for i in range(4)]
            made.layers += [
                Layer("BinaryOp", f"{name}/steps", [source], [blobs[0]], {**scalar, "b": scale}),
                Layer("UnaryOp", f"{name}/round", [blobs[0]], [blobs[1]], {"op_type": 18}),
                Layer("Clip", f"{name}/clip", [blobs[1]], [blobs[2]], {"min": -127.0, "max": 127.0}),
                Layer("BinaryOp", f"{name}/values", [blobs[2]], [blobs[3]], {**scalar, "b": 1 / scale}),
            ]
            layer.inputs[0] = blobs[3]
        made.layers.append(layer)
    made.verify()
    return made


def _models(
    args: argparse.Namespace, found: Prepared, chosen: Array, with_methods: bool
) -> list[tuple[str, Graph, float]]:
    samples = found.calibration.subset(chosen.tolist())

    def timed(name: str, make: Any) -> tuple[str, Graph, float]:
        start = time.perf_counter()
        graph = make()
        return name, graph, time.perf_counter() - start

    def quantized(effort: str | Effort) -> Graph:
        return quantize_images(found.graph, samples, target="x86", effort=effort).graph

    def floor(**methods: Any) -> Graph:
        made = quantize_images(found.graph, samples, target="x86", effort=Effort(**{**_PLAIN, **methods}))
        return activations_alone(made.exact, made.fitted)

    models = [timed("native KL", lambda: native_model(args.native, found, chosen, "kl"))]
    if with_methods:
        ways: dict[str, Any] = {
            "native ACIQ": lambda: native_model(args.native, found, chosen, "aciq"),
            "activations alone, exact weights": floor,
            "activations alone, zero points": lambda: floor(zero_points=True),
            **{name: partial(quantized, effort) for name, effort in METHODS.items()},
        }
        models += [timed(name, way) for name, way in ways.items() if args.only in name]
    return models + [timed(name, lambda name=name: quantized(name)) for name in args.efforts.split(",") if name]


if __name__ == "__main__":
    main()
