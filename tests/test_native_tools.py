"""Comparisons with ncnn's own ncnnoptimize, ncnn2table and ncnn2int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncnn_library import installed, run
from networks import with_weights
from numpy.typing import NDArray
from PIL import Image

from ncnnkit import convert, open_images, optimize, quantize
from ncnnkit.device.session import Session
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.quantization import load_table, make_table, save_table
from ncnnkit.quantization.calibration import calibrate
from ncnnkit.quantization.table import Table
from ncnnkit.samples.items import InputSpec
from ncnnkit.samples.presets import PRESETS
from ncnnkit.samples.stream import in_memory

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(600)]

DATA = Path(__file__).parents[1] / "src/ncnnkit/data"
BENCHMARK = (installed("native") or Path()) / "share/ncnn/benchmark"
NETWORKS = (
    "squeezenet",
    "mobilenet",
    "mobilenet_v2",
    "mnasnet",
    "shufflenet",
    "proxylessnasnet",
    "resnet18",
    "googlenet",
)

Array = NDArray[Any]


def native(tool: str, *arguments: str | Path) -> None:
    run((installed("native") or Path()) / "bin" / tool, *arguments)


@pytest.fixture(scope="module")
def lite0() -> Graph:
    """EfficientNet-Lite0 as converted."""
    return convert(str(DATA / "efficientnet-lite0.onnx")).graph


@pytest.fixture(scope="module")
def photographs() -> Array:
    """Sixteen photographs in the size of the network's input, uint8 (N, 3, 224, 224)."""
    pixels = replace(PRESETS["efficientnet-lite0"], divisor=1.0, mean=(0.0,), std=(1.0,))
    images = open_images(DATA / "images/calibration", pixels, [InputSpec("in0", (3, 224, 224))])
    return in_memory(images.subset(range(16)))[0].astype(np.uint8)


def tensors(photographs: Array) -> Array:
    return (photographs.astype(np.float32) - np.float32(127.5)) * np.float32(1 / 127.5)


def outputs(graph: Graph, sample: Array) -> Array:
    with Session(graph, precision="fp32", threads=2) as net:
        return np.concatenate([blob.reshape(-1) for blob in net.blobs(sample, names=net.outputs)])


def benchmark(name: str) -> Graph:
    """A network of ncnn's benchmark, which has no weights."""
    return with_weights(ncnnfile.load_param(BENCHMARK / f"{name}.param"), seed=1)


# ------------------------------------------------------------------------------------------------------ ncnnoptimize


def natively_optimized(graph: Graph, folder: Path, flag: str = "0") -> Graph:
    ncnnfile.save(graph, folder / "a.param")
    native("ncnnoptimize", *(folder / name for name in ("a.param", "a.bin", "b.param", "b.bin")), flag)
    return ncnnfile.load(folder / "b.param")


@pytest.mark.parametrize("name", ["lite0", *NETWORKS])
def test_optimize_does_what_ncnnoptimize_does(name: str, lite0: Graph, tmp_path: Path) -> None:
    graph = lite0 if name == "lite0" else benchmark(name)
    ours, theirs = optimize(graph), natively_optimized(graph, tmp_path)
    assert len(ours.layers) <= len(theirs.layers)
    sample = np.random.default_rng(0).standard_normal(graph.input_shapes()[0]).astype(np.float32)
    before, mine, native = (outputs(g, sample) for g in (graph, ours, theirs))
    size = float(np.abs(before).max())
    np.testing.assert_allclose(native, before, atol=1e-4 * size)
    np.testing.assert_allclose(mine, native, atol=1e-4 * size)


def test_fp16_storage_is_ncnnoptimizes(lite0: Graph, tmp_path: Path) -> None:
    ours, theirs = optimize(lite0, fp16=True), natively_optimized(lite0, tmp_path, "65536")
    ncnnfile.save(ours, tmp_path / "ours.param")
    sizes = [(tmp_path / name).stat().st_size for name in ("ours.bin", "b.bin")]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[1]
    stored = {layer.name: layer for layer in theirs.layers}
    for layer in ours.layers:
        if layer.name in stored and "weight" in layer.weights:
            np.testing.assert_array_equal(layer.array("weight"), stored[layer.name].array("weight"), err_msg=layer.name)


# -------------------------------------------------------------------------------------------------------- ncnn2table


def native_table(graph: Graph, photographs: Array, method: str, folder: Path) -> Table:
    """The table of ncnn2table. It reads images, so it gets lossless files in the size of the input."""
    ncnnfile.save(graph, folder / "m.param")
    for i, pixels in enumerate(photographs):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{i}.png")
    (folder / "list.txt").write_text("".join(f"{folder}/{i}.png\n" for i in range(len(photographs))))
    files = [folder / name for name in ("m.param", "m.bin", "list.txt", "m.table")]
    values = ("mean=[127.5,127.5,127.5]", f"norm=[{','.join([repr(1 / 127.5)] * 3)}]", "pixel=RGB")
    native("ncnn2table", *files, *values, "shape=[224,224,3]", "thread=2", f"method={method}")
    return load_table(folder / "m.table")


def check_same(ours: Table, theirs: Table) -> None:
    """Check that scales are equal to six decimals."""
    assert ours.weights.keys() == theirs.weights.keys()
    assert ours.inputs.keys() == theirs.inputs.keys()
    for key, scales in theirs.weights.items():
        np.testing.assert_allclose(ours.weights[key], scales, rtol=1e-5, atol=1e-6, err_msg=key)
    found, expected = (np.array([table.inputs[name] for name in theirs.inputs]) for table in (ours, theirs))
    off = np.abs(found / expected - 1)
    # The two versions of ncnn round the last bit of activations differently. If two thresholds are equally good for KL,
    # a value in another bin decides. They are neighbours among 2048.
    assert off.max() < 1e-3
    assert np.mean(off < 1e-5) > 0.95


@pytest.mark.parametrize("method", ["kl", "aciq"])
def test_calibrate_gives_ncnn2tables_table(method: str, lite0: Graph, photographs: Array, tmp_path: Path) -> None:
    graph = optimize(lite0)
    theirs = native_table(graph, photographs, method, tmp_path)
    stats = calibrate(graph, tensors(photographs), method=method)
    save_table(make_table(graph, stats), tmp_path / "ours.table")
    check_same(load_table(tmp_path / "ours.table"), theirs)


# --------------------------------------------------------------------------------------------------------- ncnn2int8


def test_quantize_gives_ncnn2int8s_model(lite0: Graph, photographs: Array, tmp_path: Path) -> None:
    graph = optimize(lite0)
    table = native_table(graph, photographs, "kl", tmp_path)
    native("ncnn2int8", *(tmp_path / name for name in ("m.param", "m.bin", "q.param", "q.bin", "m.table")))
    theirs, ours = ncnnfile.load(tmp_path / "q.param"), quantize(graph, table, target="x86")
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    count = 0
    for mine, native_layer in zip(ours.layers, theirs.layers):
        assert mine.params.get("int8_scale_term") == native_layer.params.get("int8_scale_term"), mine.name
        if not mine.params.get("int8_scale_term"):
            continue
        count += 1
        assert mine.weights.keys() == native_layer.weights.keys()
        # This ncnn2int8 writes a dead channel as -127 with the scale inf, which also means 0.
        alive = np.isfinite(native_layer.array("weight_scales"))
        assert not mine.array("weight").reshape(len(alive), -1)[~alive].any()
        for slot in mine.weights:
            found, expected = mine.array(slot), native_layer.array(slot)
            if slot == "weight":
                same = found.reshape(len(alive), -1)[alive], expected.reshape(len(alive), -1)[alive]
                np.testing.assert_array_equal(same[0], same[1], err_msg=f"{mine.name}.{slot}")
            else:
                near = np.isfinite(expected)
                np.testing.assert_allclose(found[near], expected[near], rtol=1e-6, err_msg=f"{mine.name}.{slot}")
    assert count > 40
    sample = tensors(photographs)[0]
    with Session(ours) as a, Session(theirs) as b:
        np.testing.assert_allclose(a.run(sample), b.run(sample), atol=1e-3)
