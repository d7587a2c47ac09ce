"""NPUs, which ncnn does not use: the published speed of the NPU of a chip.

The figures are the vendor's; ncnnkit did not measure them. Source: "Model performance benchmark (FPS)" in the README of
https://github.com/airockchip/rknn_model_zoo, read at commit bad6c73 of 2025-04-09: int8, one NPU core at its highest
clock, without preprocessing and postprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass

RKNN = "https://github.com/airockchip/rknn_model_zoo"


@dataclass(frozen=True)
class Npu:
    """Published figures of an NPU, inferences per second in int8.

    Attributes:
        mobilenetv2: MobileNetV2, 224 x 224.
        resnet50: ResNet50, 224 x 224.
        yolov8n: YOLOv8n, 640 x 640.
    """

    mobilenetv2: float
    resnet50: float
    yolov8n: float


NPUS = {
    "rk3562": Npu(281.3, 54.9, 40.9),
    "rk3566": Npu(180.7, 37.9, 34.0),
    "rk3568": Npu(180.7, 37.9, 34.0),
    "rk3576": Npu(467.0, 99.0, 90.2),
    "rk3588": Npu(450.7, 110.1, 73.5),
    "rk3588s": Npu(450.7, 110.1, 73.5),
}
"""Name of a chip in the device tree -> its NPU."""


def about_npu(soc: str | None) -> str:
    """A paragraph about the NPU of a chip; empty if no NPU of the chip is known.

    Args:
        soc: the name of the chip in the device tree.
    """
    npu = NPUS.get((soc or "").lower())
    if npu is None or soc is None:
        return ""
    published = ", ".join(
        f"{name} {1000 / rate:.1f} ms"
        for name, rate in (("MobileNetV2", npu.mobilenetv2), ("ResNet50", npu.resnet50), ("YOLOv8n", npu.yolov8n))
    )
    return (
        f"The {soc.upper()} has an NPU, which ncnn does not use. Rockchip publishes for one of its cores in int8: "
        f"{published} ({RKNN}; not measured here). If the NPU supports every operator of the network, and its int8 is "
        "exact enough, rknn-toolkit2, or MNN built with its RKNN backend, will be faster than any row here."
    )
