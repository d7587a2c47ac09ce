"""Detectors as torch modules: they are cut and recognised, and their decoded outputs equal the module's own boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from lowered import run_ncnn
from numpy.typing import NDArray

from ncnnkit.samples.items import InputSpec
from ncnnkit.source import ModelSource, open_model
from ncnnkit.source.conversion import convert_opened
from ncnnkit.source.model import example_arrays
from ncnnkit.tasks import Boxes, agreement, decode

Array = NDArray[Any]
SIDE, CLASSES = 64, 4


def backbone(torch: Any) -> Any:
    """Three maps of 32 channels: an eighth, a sixteenth and a 32nd of the image."""

    class Maps(torch.nn.Module):  # type: ignore[misc]
        out_channels = 32

        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 9, 8, 4), torch.nn.ReLU())
            self.second = torch.nn.Sequential(torch.nn.Conv2d(32, 32, 3, 2, 1), torch.nn.ReLU())
            self.third = torch.nn.Conv2d(32, 32, 3, 2, 1)

        def forward(self, x: Any) -> dict[str, Any]:
            first = self.first(x)
            second = self.second(first)
            return {"0": first, "1": second, "2": self.third(second)}

    return Maps()


def torchvision_detector(torch: Any, network: str) -> Any:
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

    options: dict[str, Any] = {"num_classes": CLASSES}
    if network == "ssd":
        generator = DefaultBoxGenerator([[2]] * 3, scales=[0.2, 0.4, 0.6, 0.8])
        head = detection.ssd.SSDHead([32] * 3, generator.num_anchors_per_location(), CLASSES)
        return detection.ssd.SSD(backbone(torch), generator, (SIDE, SIDE), head=head, **options)
    options |= {"min_size": SIDE, "max_size": SIDE}
    if network == "retinanet":
        grids = AnchorGenerator(((12, 16), (24, 32), (48, 60)), ((0.5, 1.0, 2.0),) * 3)
        return detection.RetinaNet(backbone(torch), anchor_generator=grids, **options)
    grids = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    head = detection.fcos.FCOSHead(32, 1, CLASSES, num_convs=0)  # it normalises: all scores were alike
    return detection.FCOS(backbone(torch), anchor_generator=grids, head=head, **options)


def predicted(source: ModelSource, x: Array) -> Boxes:
    """The boxes of the converted network and the decoder in its card."""
    made, _ = convert_opened(source)
    assert made.decoder is not None
    found = decode(made.decoder, run_ncnn(made.graph, [x]))
    assert isinstance(found, Boxes)
    return found


def assert_same_boxes(found: Boxes, exact: Mapping[str, Array]) -> None:
    alike = agreement(found, Boxes(exact["boxes"], exact["scores"], exact["labels"]))
    assert alike.ours == alike.theirs == alike.matched > 5
    assert alike.iou is not None
    assert alike.iou > 0.999
    assert alike.score_error is not None
    assert alike.score_error < 1e-4


GROWN = {"ssd": 4.0, "retinanet": 2000.0, "fcos": 200.0}
"""The factor of the weights of the scores, because random heads give everything similar scores."""


@pytest.mark.torch
@pytest.mark.parametrize("network", GROWN)
def test_torchvision_detector_that_finds_nothing_in_noise(network: str) -> None:
    """Its trace on noise has no suppression of boxes, because there are no boxes."""
    import torch

    class Wrapped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = torchvision_detector(torch, network)

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner([x[0]])

    def found(x: Array) -> dict[str, Array]:
        with torch.no_grad():
            return {name: value.numpy() for name, value in module(torch.from_numpy(x)[None])[0].items()}

    torch.manual_seed(1)
    module = Wrapped().eval()
    with torch.no_grad():
        for name, weight in module.inner.head.classification_head.named_parameters():
            weight *= GROWN[network] if "conv" not in name and name.endswith("weight") else 1
    (nothing,) = example_arrays([InputSpec("x", (3, SIDE, SIDE))])
    noise = np.random.default_rng(5)
    images = (noise.normal(0.5, 3, (3, SIDE, SIDE)).astype(np.float32) for _ in range(50))
    module.inner.score_thresh = 0.0
    most = float(found(nothing)["scores"].max())
    x = next(each for each in images if (found(each)["scores"] > most).sum() > 7)
    module.inner.score_thresh = most + 1e-4
    assert not len(found(nothing)["boxes"])

    source = open_model(module, shapes=[(3, SIDE, SIDE)])
    assert source.decoder is not None
    assert source.decoder.iou_threshold < 1
    assert source.decoder.score_threshold == pytest.approx(most + 1e-4, rel=1e-6)
    assert module.inner.score_thresh == most + 1e-4
    assert_same_boxes(predicted(source, x), found(x))


def transformer_detector(torch: Any, selects: str) -> Any:
    """A small DETR: a convolution, a transformer with 12 queries, and a class and a box for each query."""

    class Detr(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 16, 16), torch.nn.ReLU())
            self.transformer = torch.nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
            self.places = torch.nn.Parameter(torch.rand(1, (SIDE // 16) ** 2, 16))
            self.queries = torch.nn.Parameter(3 * torch.randn(1, 12, 16))
            self.classes = torch.nn.Linear(16, CLASSES + 1)
            self.boxes = torch.nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            seen = self.body(x).flatten(2).transpose(1, 2) + self.places
            found = self.transformer(seen, self.queries)
            cx, cy, w, h = (SIDE * self.boxes(found).sigmoid()).unbind(-1)
            boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)[0]
            logits = 3 * self.classes(found)[0]
            if selects == "pairs":  # as RT-DETR and Deformable DETR do it
                scores, which = logits.sigmoid().flatten().topk(10)
                return {"boxes": boxes[which // (CLASSES + 1)], "scores": scores, "labels": which % (CLASSES + 1)}
            scores, labels = logits.softmax(-1)[:, :-1].max(-1)  # the last score is "no object"
            if selects == "all":
                return {"boxes": boxes, "scores": scores, "labels": labels}
            kept = scores > 0.3
            return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}

    return Detr()


@pytest.mark.torch
@pytest.mark.parametrize("selects", ["all", "threshold", "pairs"])
def test_transformer_that_detects(selects: str) -> None:
    import torch

    torch.manual_seed(4)
    module = transformer_detector(torch, selects).eval()
    x = np.random.default_rng(5).normal(0.5, 1, (3, SIDE, SIDE)).astype(np.float32)
    with torch.no_grad():
        exact = {name: value.numpy() for name, value in module(torch.from_numpy(x)[None]).items()}
    source = open_model(module, shapes=[(3, SIDE, SIDE)])
    assert source.kind == "onnx"
    assert source.decoder is not None
    assert (source.decoder.kind, source.decoder.iou_threshold) == ("boxes", 1.0)
    assert source.decoder.score_threshold == pytest.approx(0.3 if selects == "threshold" else 0.0)
    assert_same_boxes(predicted(source, x), exact)
