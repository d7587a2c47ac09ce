"""Small networks with the outputs of published heads, as ONNX files, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lowered import model
from numpy.typing import NDArray
from onnx.helper import make_node as node

Array = NDArray[Any]
SIZE = (64, 96)
"""(height, width) of their inputs."""
STRIDES = (8, 16, 32)
SIDE = 40.0
"""The approximate side of a box, pixels."""


def weights(rng: np.random.Generator, count: int, read: int, side: int, spread: float = 1.0) -> Array:
    """Weights of a convolution with outputs about as large as its inputs."""
    drawn = rng.standard_normal((count, read, side, side), np.float32)
    return np.asarray(drawn * np.float32(spread / np.sqrt(read) / side))


def detector(path: Path, classes: int = 2, prototypes: int = 0, names: bool = True) -> Path:
    """A network with Ultralytics' outputs: (4 + classes + prototypes, boxes), and prototypes of masks.

    Each cell of strides 8, 16 and 32 has one box around it. About one score in fifteen is above 0.25. In ncnn the
    numbers of the boxes and the logits of the scores come from the convolutions ``head0`` to ``head2``.
    """
    rng = np.random.default_rng(0)
    columns, width = 4 + classes + prototypes, 8
    given: dict[str, Array] = {"stem": weights(rng, width, 3, 8)}
    nodes = [node("Conv", ["x", "stem"], ["s0"], strides=[8, 8]), node("Relu", ["s0"], ["f0"])]
    for level in (1, 2):
        given[f"down{level}"] = weights(rng, width, width, 2, 2.0)
        nodes += [
            node("Conv", [f"f{level - 1}", f"down{level}"], [f"s{level}"], strides=[2, 2]),
            node("Relu", [f"s{level}"], [f"f{level}"]),
        ]
    given["flat"] = np.array([1, columns, -1])
    for level in range(3):
        spread = np.array([2.0] * 4 + [3.0] * classes + [1.0] * prototypes)[:, None, None, None]
        given[f"w{level}"] = (weights(rng, columns, width, 1) * spread).astype(np.float32)
        given[f"b{level}"] = np.array([0] * 4 + [-3] * classes + [0] * prototypes, np.float32)
        nodes += [
            node("Conv", [f"f{level}", f"w{level}", f"b{level}"], [f"head{level}"], name=f"head{level}"),
            node("Reshape", [f"head{level}", "flat"], [f"r{level}"]),
        ]
    centres = []
    for stride in STRIDES:
        y, x = np.mgrid[: SIZE[0] // stride, : SIZE[1] // stride]
        centres.append((np.stack([x, y]).reshape(2, -1) + 0.5) * stride)
    places = np.concatenate(centres, 1)
    given["places"] = np.concatenate([places, np.full_like(places, SIDE)])[None].astype(np.float32)
    parts = [4, classes, *([prototypes] if prototypes else [])]
    given["split"] = np.array(parts)
    apart = ["numbers", "logits", *(["weights"] if prototypes else [])]
    nodes += [
        node("Concat", ["r0", "r1", "r2"], ["all"], axis=2),
        node("Split", ["all", "split"], apart, axis=1),
        node("Add", ["numbers", "places"], ["boxes"]),
        node("Sigmoid", ["logits"], ["scores"]),
        node("Concat", ["boxes", "scores", *apart[2:]], ["y"], axis=1),
    ]
    if prototypes:
        given["maps"] = weights(rng, prototypes, 3, 4)
        nodes.append(node("Conv", ["x", "maps"], ["prototypes"], strides=[4, 4]))
    proto = model(
        nodes, {"x": np.zeros((1, 3, *SIZE), np.float32)}, ["y", *(["prototypes"] if prototypes else [])], given
    )
    if names:
        task = "segment" if prototypes else "detect"
        listed = {index: f"class {index}" for index in range(classes)}
        onnx.helper.set_model_props(proto, {"task": task, "names": str(listed)})
    onnx.save(proto, str(path))
    return path


def inputs(count: int, size: tuple[int, int] = SIZE, seed: int = 1) -> Array:
    """Samples with patches of one colour, so that neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).standard_normal((count, 3, size[0] // 8, size[1] // 8))
    return np.repeat(np.repeat(noise, 8, 2), 8, 3).astype(np.float32)
