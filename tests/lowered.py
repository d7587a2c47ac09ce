"""Makes ONNX models, lowers them, and compares them with ONNX Runtime in this process."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph
from ncnnkit.source import sessions
from ncnnkit.source.forked import ServerError
from ncnnkit.source.model import say
from ncnnkit.source.onnx import lower_reading
from ncnnkit.source.onnx.reading import read

Array = NDArray[Any]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of these nodes. Its inputs have the shapes and types of the arrays."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    for output in graph.output:
        output.ClearField("type")
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    )
    made.ir_version = 10
    return made


def one_node(
    kind: str,
    inputs: Sequence[Array | None],
    constants: Mapping[int, Array] | None = None,
    opset: int = 18,
    outputs: int = 1,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node, and its inputs. ``constants`` are constant inputs of the node by their index."""
    constants = constants or {}
    count = max([len(inputs), *(place + 1 for place in constants)])
    names = [
        "" if place not in constants and (place >= len(inputs) or inputs[place] is None) else f"x{place}"
        for place in range(count)
    ]
    fed = {f"x{i}": array for i, array in enumerate(inputs) if array is not None and i not in constants}
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, made, **attributes)
    return model([node], fed, made, {f"x{i}": array for i, array in constants.items()}, opset), fed


class Here:
    """A server that answers in this process: thousands of forks of a process that has torch take many minutes."""

    def __init__(self, make: Callable[[], object], *, what: str, limits: object) -> None:
        self._network, self._what = make(), what

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(
        self, op: str, kind: type, arrays: Sequence[Array] = (), *, limit: float, **fields: Any
    ) -> tuple[Any, list[Array]]:
        try:
            answer, results = getattr(self._network, op)(fields, list(arrays))
        except Exception as error:
            raise ServerError(self._what, say(error)) from None
        assert isinstance(answer, kind)
        return answer, results

    def close(self) -> None:
        pass


def lowered(proto: onnx.ModelProto, fed: Mapping[str, Array]) -> Graph:
    """The model as ncnn's graph, for inputs of these shapes."""
    with tempfile.TemporaryDirectory() as folder, patch.object(sessions, "Server", Here):
        path = Path(folder, "model.onnx")
        onnx.save(proto, str(path))
        graph = lower_reading(read(path, [array.shape for array in fed.values()])).graph
    graph.verify()
    graph.infer_shapes()
    return graph


def looked_up(graph: Graph) -> set[str]:
    """The inputs. Those that an Embed reads are int32."""
    sources = {blob: blob for blob in graph.inputs}
    for layer in graph.layers:
        if layer.type in ("Reshape", "Split"):
            sources.update(dict.fromkeys(layer.outputs, sources.get(layer.inputs[0], "")))
    return {sources.get(layer.inputs[0], "") for layer in graph.layers if layer.type == "Embed"}


def run_ncnn(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """The graph's outputs in fp32 on the CPU, in this process."""
    import ncnn

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.param")
        ncnnfile.save(graph, path)
        net = ncnn.Net()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        net.opt.num_threads = 1
        assert net.load_param(str(path)) == 0
        assert net.load_model(str(path.with_suffix(".bin"))) == 0
        extractor = net.create_extractor()
        shapes = graph.input_shapes()
        indices = looked_up(graph)
        arrays = [
            np.ascontiguousarray(a, np.int32 if name in indices else np.float32).reshape(shape)
            for name, a, shape in zip(graph.inputs, inputs, shapes, strict=True)
        ]
        for name, array in zip(graph.inputs, arrays):
            assert extractor.input(name, ncnn.Mat(array).clone()) == 0
        found = []
        # For ncnn, unread blobs are outputs, too.
        for name in sorted((n for n in graph.outputs if re.fullmatch(r"out\d+", n)), key=lambda n: int(n[3:])):
            code, mat = extractor.extract(name)
            assert code == 0, f"ncnn fails with {code}"
            found.append(np.array(mat))
        return found


def run_onnx(proto: onnx.ModelProto, fed: Mapping[str, Array]) -> list[Array]:
    """The model's outputs in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(fed)))


def assert_same(proto: onnx.ModelProto, fed: Mapping[str, Array], tolerance: float = 1e-4) -> Graph:
    """Check that ncnn computes the same as ONNX Runtime for this input. Returns ncnn's graph."""
    graph = lowered(proto, fed)
    exact = run_onnx(proto, fed)
    made = run_ncnn(graph, list(fed.values()))
    for name, a, b in zip(proto.graph.output, made, exact, strict=True):
        assert a.size == b.size, f"{name.name}: {a.shape} for {b.shape}"
        np.testing.assert_allclose(
            a.reshape(-1), b.reshape(-1).astype(np.float32), rtol=tolerance, atol=tolerance, err_msg=name.name
        )
    return graph
