"""The format of run.json: what a reader accepts, and the errors for what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ncnnkit.codec import as_read, decode, encode
from ncnnkit.errors import FormatError
from ncnnkit.model.precision import PRECISIONS
from ncnnkit.onboard.facts import Board
from ncnnkit.recipe import Recipe
from ncnnkit.record.run import Run

ROOT = Path(__file__).parent.parent


def as_run(document: dict[str, Any]) -> Run:
    """A document in the form that a reader of run.json gets."""
    return decode(json.dumps(document), Run)


def sample_errors(mse: float, sqnr_db: float | None, cosine: float, max_error: float) -> dict[str, Any]:
    return {"mse": mse, "sqnr_db": sqnr_db, "cosine": cosine, "max_error": max_error}


def sample_engine() -> dict[str, Any]:
    made = {"kind": "float", "settings": {"fp32": "precision high"}, "files": {"tiny-mnn-fp32.mnn": "ef" * 32}}
    none = {"kind": "int8", "settings": {"int8": "KL"}, "files": {}, "seconds": 1.0, "reason": "its tools crashed"}
    models = [{**made, "seconds": 0.5, "reason": ""}, none]
    return {"name": "mnn", "title": "MNN", "version": "3.6.1", "tools": {"onnx": "1.23.2"}, "models": models}


def sample_variant(
    precision: str, backend: str, ms: float, mb: float, errors: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    return {
        "name": f"{precision}-{backend}",
        "engine": "ncnn",
        "precision": precision,
        "backend": backend,
        "device": "local",
        "device_name": "Example(R) Processor @ 2.80GHz",
        "threads": 2,
        "status": "ok",
        "reason": "",
        "files": {
            "param": f"tiny-{precision}.param",
            "bin": f"tiny-{precision}.bin",
            "sha256": {f"tiny-{precision}.param": "ab" * 32, f"tiny-{precision}.bin": "cd" * 32},
        },
        "size_bytes": int(mb * 1e6),
        "first_ms": 14.2,
        "cpus": [],
        "conditions": None,
        "sustained": None,
        "latency_ms": {
            "min": ms * 0.95,
            "p25": ms * 0.98,
            "median": ms,
            "p75": ms * 1.02,
            "p90": ms * 1.1,
            "samples": 142,
        },
        "latency_at": [],
        "quantised_sqnr_db": None,
        "load_ms": {"cold": 31.2, "warm": 12.5},
        "peak_memory_mb": 41.5,
        "accuracy": {
            **errors,
            "images": 30,
            "task": [
                {"name": name, "title": title, "unit": "share", "value": value, "low": value - 0.02, "high": 1.0}
                for name, title, value in (
                    ("top1_agreement", "top-1 agreement", 0.9667),
                    ("top1", "top-1 accuracy", 0.8333),
                )
            ],
            "outputs": [{"name": "out0", **errors}],
        },
        "layers": [],
        "notes": [],
        **changes,
    }


def sample_device() -> dict[str, Any]:
    return {
        "name": "rock5b",
        "address": "ssh://user@rock5b",
        "target": "arm-dotprod",
        "machine": {
            "ncnn": "1.0.20260101",
            "python": "3.11.2",
            "numpy": "2.2.0",
            "machine": "aarch64",
            "default_threads": 4,
            "platform": "Linux-6.1-aarch64-with-glibc2.36",
            "cpu": "Rockchip RK3588",
            "cpu_features": ["neon", "fp16-arithmetic", "int8-dot-product"],
            "cores": 8,
            "vulkan": [{"name": "Mali-G610", "type": "integrated", "driver": "38.1.0", "api": "1.2.204", "index": 0}],
            "board": {
                "board": "Radxa ROCK 5B", "soc": "rk3588", "emulated": False, "virtual": None,
                "compatible": ["radxa,rock-5b", "rockchip,rk3588"], "memory_mb": 16499.2,
                "temperatures": ["soc-thermal"], "power": [{"name": "board", "measures": "board"}],
                "gpu": {"name": "fb000000.gpu", "driver": "panthor", "model": None, "max_mhz": 1000, "governor": None},
                "clusters": [
                    {"name": "little", "cpus": [0, 1, 2, 3], "cores": [0, 1, 2, 3],
                     "core": "Cortex-A55", "max_mhz": 1800, "governor": "ondemand"},
                    {"name": "big", "cpus": [4, 5, 6, 7], "cores": [4, 5, 6, 7],
                     "core": "Cortex-A76", "max_mhz": 2400, "governor": "ondemand"},
                ],
            },
        },
        "recommended": "int8-cpu",
        "why": "int8-cpu is the fastest",
    }  # fmt: skip


def sample_watched() -> dict[str, Any]:
    conditions = {
        "looks": 31, "energy_mj": 61.2, "energy_of": "board", "throttled": False, "throttled_by": [],
        "clocks_mhz": {"big": {"min": 2256, "median": 2400, "max": 2400, "mean": 2391}},
        "temperatures": {"soc-thermal": {"min": 51.0, "median": 55.2, "max": 58.1, "mean": 55.0}},
        "power_w": {"board": {"min": 5.1, "median": 6.0, "max": 6.4, "mean": 6.03}},
    }  # fmt: skip
    sustained = {"seconds": 60.0, "samples": 5871, "first_ms": 10.2, "last_ms": 11.9, "conditions": conditions}
    return {"first_ms": 14.7, "cpus": [4, 5, 6, 7], "conditions": conditions, "sustained": sustained}


def sample_quantisation() -> dict[str, Any]:
    return {
        "effort": "default",
        "used": 80,
        "held_back": 20,
        "trials": [
            {"method": "thresholds", "relative_error": 3.61e-2, "sqnr_db": 14.4, "kept": True, "seconds": 4.12},
            {
                "method": "channel migration 0.5",
                "relative_error": 4.07e-2,
                "sqnr_db": 13.9,
                "kept": False,
                "seconds": 5.03,
            },
            {"method": "zero points", "relative_error": 2.98e-2, "sqnr_db": 15.3, "kept": True, "seconds": 1.77},
            {
                "method": "layer by layer: bias, rounding",
                "relative_error": 1.74e-2,
                "sqnr_db": 17.6,
                "kept": True,
                "seconds": 31.4,
            },
        ],
        "layers": [
            {"name": f"conv_{i}", "before": 1e-4 * i, "after": 4e-5 * i, "kept": "rounding+bias" if i else ""}
            for i in range(24)
        ],
        "counts": [
            {"images": 16, "relative_error": 4.21e-2, "low": 3.66e-2, "high": 5.5e-2},
            {"images": 48, "relative_error": 3.65e-2, "low": 3.6e-2, "high": 3.7e-2},
            {"images": 80, "relative_error": 3.61e-2, "low": 3.61e-2, "high": 3.61e-2},
        ],
        "enough": 48,
        "stretching": [{"image": "night.jpg", "tensors": 7, "factor": 2.41}],
        "likeness": {"calibration": 1.83, "evaluation": 1.02},
        "lost": [{"reason": "their weights are rounded again", "layers": ["conv3"]}],
    }


def sample_plan() -> dict[str, Any]:
    def layer(i: int, choice: str) -> dict[str, Any]:
        options = {"fp32": (0.42, 0.0), "bf16": (0.47, 1e-5), "int8": (0.21, 2e-4), "int8-winograd": (0.17, 9e-4)}
        kind = "ConvolutionDepthWise" if i % 3 == 1 else "Convolution"
        return {
            "name": f"conv_{i}",
            "type": kind,
            "choice": choice,
            "options": [
                {"choice": name, "ms": ms, "noise": noise}
                for name, (ms, noise) in options.items()
                if kind == "Convolution" or name != "int8-winograd"
            ],
            "why": f"{choice}: int8 would save 0.210 ms alone and add {i}.0% to the plan's error, "
            "which buys more elsewhere",
        }

    choices = ["fp32"] * 3 + ["int8", "int8", "int8-winograd"] * 6 + ["bf16"] * 3
    return {
        "requirements": "cosine ≥ 0.9999",
        "unmet": [],
        "holds": True,
        "few": [],
        "refused": {},
        "repairs": 1,
        "predicted_ms": 5.42,
        "measured_ms": 5.61,
        "predicted_noise": 3.8e-3,
        "measured_noise": 4.02e-3,
        "front": [
            {"ms": 4.9, "noise": 2.1e-2, "int8": 24},
            {"ms": 5.1, "noise": 9.0e-3, "int8": 21},
            {"ms": 5.42, "noise": 3.8e-3, "int8": 18},
            {"ms": 6.8, "noise": 6.0e-4, "int8": 9},
            {"ms": 10.1, "noise": 0.0, "int8": 0},
        ],
        "layers": [layer(i, choice) for i, choice in enumerate(choices)],
    }


def sample_network() -> list[dict[str, Any]]:
    """24 convolutions. Each third one also reads the third one before it."""
    made: list[dict[str, Any]] = [
        {"name": "in0", "type": "Input", "reads": [], "outputs": ["in0"], "shape": [3, 224, 224], "parameters": 0,
         "int8": None}
    ]  # fmt: skip
    for i in range(24):
        int8 = {
            "low": -0.5, "high": 6.25, "zero_point": 2.875, "steps": [0.001, 0.01],
            "inputs": {"low": 0.0, "high": 8.0, "counts": [9, 4, 1]},
            "weights": {"low": -1.0, "high": 1.0, "counts": [1, 9, 1]},
        }  # fmt: skip
        made.append(
            {
                "name": f"conv_{i}",
                "type": "ConvolutionDepthWise" if i % 3 == 1 else "Convolution",
                "reads": [made[-1]["name"], *([made[-3]["name"]] if i % 3 == 2 else [])],
                "outputs": [f"b{i}"],
                "shape": [16, 112, 112],
                "parameters": 2320,
                "int8": int8,
            }
        )
    return made


def sample_run() -> dict[str, Any]:
    """A run as ``ncnnkit run`` writes it: two backends, a software Vulkan device, one crash, two skipped variants."""
    exact = sample_errors(2.1e-12, 118.3, 0.999999999999, 4.8e-6)
    half = sample_errors(3.4e-6, 71.2, 0.99999996, 0.0071)
    brain = sample_errors(2.6e-3, 42.4, 0.99997, 0.21)
    eight = sample_errors(1.87e-2, 23.1, 0.99951, 0.83)
    mixed = sample_errors(4.02e-3, 29.8, 0.99992, 0.34)
    software = {"status": "fallback", "reason": "runs in software on the CPU: llvmpipe", "device_name": "llvmpipe"}
    nothing: dict[str, Any] = {"latency_ms": None, "load_ms": None, "peak_memory_mb": None, "accuracy": None}
    crash = {"status": "crashed", "reason": "signal 11 (SIGSEGV) during 'run'", **nothing}
    reason = "the network has no convolution or inner product"
    skip = {"status": "skipped", "reason": reason, **nothing, "files": None, "size_bytes": None}
    layers: list[dict[str, Any]] = [
        {"name": f"conv_{i}", "type": "ConvolutionDepthWise", "sqnr_db": 35 - i * 0.5}
        if i % 3 == 1
        else {"name": f"conv_{i}", "type": "Convolution", "sqnr_db": 46 - i * 0.5}
        for i in range(24)
    ]
    layers[0]["sqnr_db"] = None
    recipe = Recipe("models/tiny.onnx", images="calib", require=("cosine>=0.9999",))
    half_note = "ncnn has no fp16 arithmetic for this CPU: weights are stored in fp16, and it computes in fp32"
    return {
        "schema": 1,
        "files": ["net-fp32.bin", "net-fp32.param", "report.html", "run.json"],
        "model": {
            "reference": "models/tiny.onnx",
            "name": "tiny",
            "kind": "onnx",
            "inputs": [{"name": "input", "shape": [3, 224, 224]}],
            "outputs": [{"name": "logits", "shape": [1000]}],
            "layers": 81,
            "parameters": 4652008,
            "labels": 1000,
            "classes": 1000,
        },
        "recipe": json.loads(json.dumps(recipe.to_dict())),
        "preprocess": {
            "resize": 256,
            "interpolation": "bicubic",
            "crop": [224, 224],
            "color": "rgb",
            "divisor": 255.0,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "preprocess_origin": "the model's own metadata",
        "images": {
            "source": "calib",
            "calibration": 120,
            "evaluation": 30,
            "skipped": [{"name": "notes.txt", "reason": "not an image"}],
            "available": 400,
            "fitted": 100,
            "held_back": 20,
            "copies": [{"name": "b.jpg", "of": "a.jpg"}],
        },
        "environment": {
            "ncnnkit": "0.1.0",
            "pillow": "12.0.0",
            "machine": {
                "ncnn": "1.0.20260101",
                "python": "3.11.7",
                "numpy": "2.3.1",
                "platform": "Linux-6.1-x86_64-with-glibc2.36",
                "machine": "x86_64",
                "cpu": "Example(R) Processor @ 2.80GHz",
                "cpu_features": ["avx2", "fma", "f16c", "avx512", "avx512-vnni"],
                "cores": 2,
                "default_threads": 2,
                "vulkan": [{"name": "llvmpipe", "type": "cpu", "driver": "25.0.7", "api": "1.4.305", "index": 0}],
                "board": dataclasses.asdict(Board()),
            },
        },
        "devices": [sample_device()],
        "reference": {"engine": "onnxruntime", "version": "1.22.0", "origin": "the original ONNX file in ONNX Runtime"},
        "task": {
            "name": "classification",
            "why": "the model has a name for each value",
            "requires": [{"figure": "cosine", "bound": 0.999, "text": "cosine ≥ 0.999"}],
            "labels": "classes of 60 samples, from labels.txt",
            "original": {"top1": 0.8667},
        },
        "conversion": {
            "route": "pnnx",
            "verified": True,
            "sqnr_db": 118.9,
            "cosine": 0.9999999999993,
            "max_error": 4.1e-6,
            "original_sqnr_db": None,
            "shapes": [],
            "seconds": 2.31,
            "attempts": [
                {
                    "route": "onnx",
                    "outcome": "failed",
                    "reason": "Det 'd' is not in ncnnkit's table of operators",
                    "sqnr_db": None,
                    "layers": None,
                    "seconds": 0.4,
                },
                {
                    "route": "pnnx",
                    "outcome": "taken",
                    "reason": "",
                    "sqnr_db": 118.9,
                    "layers": 63,
                    "seconds": 1.91,
                },
            ],
            "pnnx_version": "20260101",
            "own": {"kept": 12, "lost": [{"reason": "they are dynamic", "layers": ["fc"]}], "sqnr_db": 41.0},
            "log": "pnnx.log",
        },
        "passes": {"fuse_affine": 49, "fuse_activation": 33, "eliminate_identity": 0},
        "quantisation": sample_quantisation(),
        "network": sample_network(),
        "engines": [sample_engine()],
        "engines_compared": ["ncnn is the fastest choice here: int8-cpu (5.23 ms) is twice as fast as mnn-fp32-cpu."],
        "plan": sample_plan(),
        "variants": [
            sample_variant("fp32", "cpu", 10.15, 18.6, exact, **sample_watched()),
            sample_variant("fp16", "cpu", 10.31, 9.35, half, notes=[half_note]),
            sample_variant("bf16", "cpu", 12.84, 18.6, brain),
            sample_variant("int8", "cpu", 5.23, 4.91, eight, layers=layers),
            sample_variant("mixed", "cpu", 5.61, 7.33, mixed),
            sample_variant("fp32", "vulkan", 187.2, 18.6, exact, **software),
            sample_variant("fp16", "vulkan", 203.9, 9.35, half, **software),
            sample_variant("bf16", "vulkan", 1.0, 18.6, half, **crash),
            sample_variant("int8", "vulkan", 1.0, 4.91, eight, **skip),
            sample_variant(
                "mixed",
                "vulkan",
                1.0,
                7.33,
                mixed,
                **{**skip, "reason": "the mixed model is made for the kernels of the CPU"},
            ),
        ],
        "recommended": "int8-cpu",
        "why": "int8-cpu is the fastest of the 5 that reach cosine 0.999 (cosine 0.99951, 5.2 ms), "
        "1.94 times as fast as fp32-cpu",
        "pictures": [],
        "top5": [
            {
                "image": "cat.jpg",
                "reference": [{"label": label, "score": score} for label, score in SCORES],
                "recommended": [{"label": label, "score": score - 0.13} for label, score in SCORES],
            }
        ],
        "warnings": ["1 files are not images and were skipped", "bf16-vulkan: signal 11 (SIGSEGV) during 'run'"],
        "stages": [
            {"name": "convert", "seconds": 2.402, "reused": ["network"]},
            {"name": "measure", "seconds": 31.77, "reused": []},
        ],
    }


SCORES = (
    ("Egyptian cat", 9.41),
    ("tabby, tabby cat", 8.95),
    ("tiger cat", 8.2),
    ("lynx, catamount", 5.18),
    ("Persian cat", 3.02),
)


def broken(path: str, value: Any) -> dict[str, Any]:
    """The sample run with one value replaced, or removed if ``value`` is Ellipsis."""
    run = copy.deepcopy(sample_run())
    *steps, last = (int(step) if step.isdigit() else step for step in re.findall(r"\w+", path))
    place: Any = run
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return run


def test_a_run_comes_back_equal() -> None:
    run = as_run(sample_run())
    assert run.variants[3].latency_ms is not None
    assert run.variants[3].latency_ms.median == 5.23
    assert run.recipe == Recipe("models/tiny.onnx", images="calib", require=("cosine>=0.9999",))
    assert as_read(run) == run
    assert json.loads(encode(run)) == sample_run()


def test_fields_of_a_later_version_are_accepted() -> None:
    assert as_run({**sample_run(), "power": {"watts": 3.1}}) == as_run(sample_run())


def test_nullable_fields_may_be_null() -> None:
    for path in (
        "preprocess",
        "recommended",
        "variants[0].accuracy",
        "variants[0].accuracy.task[0].value",
        "conversion.sqnr_db",
        "conversion.cosine",
        "conversion.max_error",
        "conversion.original_sqnr_db",
        "conversion.pnnx_version",
        "conversion.log",
        "conversion.attempts[1].sqnr_db",
        "quantisation",
        "quantisation.enough",
        "quantisation.likeness",
        "plan",
        "plan.measured_ms",
    ):
        as_run(broken(path, None))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("variants[2].latency_ms.median", None, "variants[2].latency_ms.median: expected a number, found null"),
        ("variants[2].latency_ms.median", ..., "variants[2].latency_ms.median: is missing"),
        ("variants[2].latency_ms.median", "5", "variants[2].latency_ms.median: expected a number, found text"),
        ("variants[0].accuracy.mse", float("nan"), "is not JSON: "),
        ("variants[0].threads", True, "variants[0].threads: expected a whole number, found true or false"),
        ("variants[0].threads", 2.5, "variants[0].threads: expected a whole number, found a number"),
        ("variants[1].status", "fine", "variants[1].status: invalid enum value 'fine'"),
        ("variants[1].name", "fp32-cpu", "there are two variants 'fp32-cpu'"),
        ("variants[1].notes[0]", 3, "variants[1].notes[0]: expected text, found a whole number"),
        ("variants[3].layers[7].sqnr_db", [], "variants[3].layers[7].sqnr_db: expected a number or null, found a list"),
        ("variants[3].accuracy.outputs[0]", 0, "variants[3].accuracy.outputs[0]: expected an object, found a whole"),
        ("variants", {}, "variants: expected a list, found an object"),
        ("model.inputs[0].shape[1]", None, "model.inputs[0].shape[1]: expected a whole number, found null"),
        (
            "preprocess.resize",
            "256",
            "preprocess.resize: expected a whole number, an object, a list or null, found text",
        ),
        ("preprocess.resize", ["256", 1], "preprocess.resize[0]: expected a whole number, found text"),
        ("preprocess.std", [0.0], "std must not be zero"),
        ("recipe.method", "guess", "unknown method 'guess'"),
        ("passes.fuse_affine", None, "passes[...]: expected a whole number, found null"),
        ("environment.machine.vulkan[0].type", "gpu", "environment.machine.vulkan[0].type: invalid enum value 'gpu'"),
        ("recommended", "int4-cpu", "recommended is 'int4-cpu', which is no variant's name"),
        ("why", None, "why: expected text, found null"),
        ("quantisation.trials[0].kept", 1, "quantisation.trials[0].kept: expected true or false, found a whole"),
        ("top5[0].reference[2].score", None, "top5[0].reference[2].score: expected a number, found null"),
        ("warnings", ..., "warnings: is missing"),
        ("conversion", ..., "conversion: is missing"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: Any, says: str) -> None:
    with pytest.raises(FormatError) as error:
        as_run(broken(path, value))
    assert error.value.line().startswith(says)


def test_a_variant_may_have_each_precision_of_the_table() -> None:
    for name in PRECISIONS:
        assert as_run(broken("variants[0].precision", name)).variants[0].precision == name
    with pytest.raises(FormatError, match=r"variants\[0\]\.precision: invalid enum value 'fp8'"):
        as_run(broken("variants[0].precision", "fp8"))


def test_other_json_values_are_not_a_run() -> None:
    with pytest.raises(FormatError, match="expected an object, found a list"):
        decode(b"[]", Run)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"model": NaN}', b"[" * 100_000])
def test_invalid_json_is_not_a_run(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data, Run)


NAMES = (
    "", ".", "..", "../a.param", "/root/a.param", "C:\\a.param", "a b.param", "m$(touch X).param", "m`id`.param",
    'm".param', "m'.param", "m;.param", "m\nint evil();", "m&.param", "-o.param", ".hidden", "m.param ", "m.param\n",
    "m\u202e.param", "n\u0000.param", "a|b", "a*b", "${HOME}.param",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", ["variants[0].files.param", "variants[0].files.bin", "model.name", "conversion.log"])
def test_a_name_with_a_special_meaning_is_refused(path: str, name: str) -> None:
    with pytest.raises(FormatError) as error:
        as_run(broken(path, name))
    assert error.value.line().startswith(path)
    assert "A-Z a-z 0-9" in error.value.line()


def test_usual_names_are_accepted() -> None:
    for name in ("resnet50-int8.param", "m", "v1.2_x-y", "_m", "0.param"):
        as_run(broken("variants[0].files.param", name))


def test_figures_that_json_lacks_become_null() -> None:
    run = as_run(sample_run())
    assert run.plan is not None
    for value in (math.inf, -math.inf, math.nan):
        read = as_read(dataclasses.replace(run, plan=dataclasses.replace(run.plan, measured_noise=value)))
        assert read.plan is not None
        assert read.plan.measured_noise is None


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    read = as_read(dataclasses.replace(as_run(sample_run()), warnings=[f"{name} was skipped"]))
    assert read.warnings == ["caf\ufffd.png was skipped"]


# ---------------------------------------------------------------------------------------------- what is published


def test_the_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/make_docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_json_schema_accepts_a_run_and_refuses_a_broken_one() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs/run.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(encode(as_run(sample_run()))), schema)
    for path, value in (("variants[0].files.param", "m$(touch X).param"), ("variants[0].status", "fine"), ("plan", 1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken(path, value), schema)


def test_every_field_of_the_json_schema_has_a_description() -> None:
    schema = json.loads((ROOT / "docs/run.schema.json").read_text(encoding="utf-8"))
    for name, definition in schema["$defs"].items():
        for field, prop in definition["properties"].items():
            assert len(prop["description"]) > 3, f"{name}.{field}"
