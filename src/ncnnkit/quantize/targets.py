"""The kernels that will run a model, and what they allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Target:
    """The kernels that will run a model.

    Attributes:
        name: as the user writes it.
        int8_winograd: whether ncnn has int8 Winograd kernels there. They overflow with 8-bit weights, so a 3x3 layer
            must either have 6-bit weights or its Winograd switched off.
        grouped_to_float: whether a grouped (not depthwise) int8 convolution may hand on real numbers there.
        int8_pads: whether its int8 kernels pad with another value than 0.
    """

    name: str
    int8_winograd: bool
    grouped_to_float: bool
    int8_pads: bool


TARGETS: MappingProxyType[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            # Grouped: ncnn makes room for blocks of 4 channels where its AVX kernels write 8 or 16, and the outputs are
            # lost (``forward_int8_x86`` in ``src/layer/x86/convolutiondepthwise_x86.cpp``). Requantised ones are right.
            Target("x86", int8_winograd=True, grouped_to_float=False, int8_pads=True),
            # With the dot product (Cortex-A76 and newer) ncnn runs no int8 Winograd; older cores (A53, A72) do. Its
            # code for groups is x86's with blocks that fit; until somebody has measured it, it is not trusted.
            Target("arm", int8_winograd=True, grouped_to_float=False, int8_pads=True),
            # An int8 layer with a pad_value falls back to the CPU there (``convolution_vulkan.cpp``).
            Target("vulkan", int8_winograd=True, grouped_to_float=True, int8_pads=False),
        )
    }
)


def machine_target(machine: Mapping[str, Any]) -> str:
    """The target whose kernels a probed machine's CPU runs."""
    return "x86" if machine["machine"] in ("x86_64", "AMD64", "i686") else "arm"
