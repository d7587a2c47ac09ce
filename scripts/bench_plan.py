#!/usr/bin/env python3
"""Compare the mixed model with the uniform models: the error, the latency in one interleaved run, and the prediction.

    scripts/bench_plan.py MODEL --images DIR [--weights none] [--require 'cosine>=0.999'] [--rounds 20]

DIR contains photographs NNNN.jpg. The photographs with a number that ends in 0 calibrate, and a fifth of them judge the
plan; those that end in 5 evaluate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench_quantize import outputs_of, prepare

from ncnnkit.artifact import Artifact
from ncnnkit.comparison.accuracy import errors_of
from ncnnkit.device.sites import local_site
from ncnnkit.measure.variants import VariantSpec, measure, variant_record
from ncnnkit.plan.requirement import Requirements
from ncnnkit.plan.search import find_plan
from ncnnkit.quantization import quantize_images
from ncnnkit.tasks.classification import Classification


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model reference, as for ncnnkit run")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--require", action="append", default=None)
    parser.add_argument("--max-latency", default="")
    parser.add_argument("--effort", default="default")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ncnnkit-bench-") as name:
        folder, site = Path(name), local_site()
        found = prepare(args, folder, "5")
        start = time.perf_counter()
        made = quantize_images(found.graph, found.calibration, target="x86", effort=args.effort)
        middle = time.perf_counter()
        requirements = Requirements.parse(args.require or ["cosine>=0.999"], args.max_latency)
        plan = find_plan(made, requirements, site.machine, threads=args.threads)
        end = time.perf_counter()
        print(f"quantising {middle - start:.1f} s, planning {end - middle:.1f} s, {plan.repairs} repairs")
        kept = "; ".join(plan.unmet) or "holds"
        print(f"{requirements} on {len(made.held)} held-back images: {kept}")
        print(f"choices: {dict(Counter(plan.choices.values()))}")
        print(
            f"predicted {plan.predicted_ms:.2f} ms, noise over signal {plan.predicted_noise:.3g}; "
            f"measured {plan.errors.relative:.3g}"
        )
        graphs = {"fp32": found.graph, "bf16": found.graph, "int8": made.graph, "mixed": plan.graph}
        specs = []
        for precision, graph in graphs.items():
            param = folder / f"model-{precision}.param"
            model = Artifact.made(graph, precision).save(param)
            specs.append(VariantSpec(precision, precision, "cpu", args.threads, site, model))
        seconds = 0.5 * args.rounds
        results = measure(specs, found.evaluation.files, folder, seconds=seconds, rounds=args.rounds)
        reference = outputs_of(found.graph, found.evaluation, "fp32", folder / "reference")
        rows = [variant_record(p, result, reference, None, None, []) for p, result in zip(specs, results)]
        medians = [row.latency_ms.median for row in rows if row.latency_ms]
        mixed = medians[-1]
        for row in rows:
            error, latency = row.accuracy, row.latency_ms
            assert error is not None
            assert latency is not None
            print(
                f"{row.name:8} MSE {error.mse:.3g}  cosine {error.cosine or 0:.5f}  median "
                f"{latency.median:.2f} ms  p90 {latency.p90:.2f}  spread {latency.spread:.2f}  "
                f"mixed / this {mixed / latency.median:.2f}"
            )
        predicted = plan.speed_at(medians[0]) * plan.predicted_ms
        print(f"predicted latency (at the measured speed of fp32) / measured latency: {predicted / mixed:.2f}")
        outputs = outputs_of(plan.graph, found.evaluation, "mixed", folder / "outputs")
        same = errors_of(outputs, reference, Classification()).figures()["top1_agreement"]
        print(f"same best class as fp32 on {same or 0:.1%} of {len(found.evaluation)} images")


if __name__ == "__main__":
    main()
