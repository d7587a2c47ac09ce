"""The kernels that will run a model, and what they allow."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from ..onboard.facts import Machine


@dataclass(frozen=True)
class Target:
    """The kernels that will run a model.

    Attributes:
        name: as the user writes it.
        int8_winograd: whether ncnn has int8 Winograd kernels there. They overflow with 8-bit weights, so a 3x3 layer
            must either have 6-bit weights or its Winograd switched off.
        grouped_to_float: whether a grouped (not depthwise) int8 convolution may have a floating-point output there.
        int8_pads: whether its int8 kernels pad with another value than 0.
    """

    name: str
    int8_winograd: bool
    grouped_to_float: bool
    int8_pads: bool


_KERNELS = (
    # Grouped: ncnn makes room for blocks of 4 channels where its AVX kernels write 8 or 16, and the outputs are
    # lost (``forward_int8_x86`` in ``src/layer/x86/convolutiondepthwise_x86.cpp``). Requantised ones are right.
    Target("x86", int8_winograd=True, grouped_to_float=False, int8_pads=True),
    # Any of them: what is made for it runs rightly on all. Its code for groups is x86's with blocks that fit; until
    # somebody has measured it, it is not trusted.
    Target("arm", int8_winograd=True, grouped_to_float=False, int8_pads=True),
    # With the dot product (Cortex-A55, A76 and newer) ncnn runs no int8 Winograd (``create_pipeline_int8_arm`` in
    # ``src/layer/arm/convolution_arm.cpp``).
    Target("arm-dotprod", int8_winograd=False, grouped_to_float=False, int8_pads=True),
    # An int8 layer with a pad_value falls back to the CPU there (``convolution_vulkan.cpp``).
    Target("vulkan", int8_winograd=True, grouped_to_float=True, int8_pads=False),
)

BOARDS: MappingProxyType[str, str] = MappingProxyType(
    {
        "rk3588": "arm-dotprod",  # Cortex-A76 and A55
        "rk3568": "arm-dotprod",  # Cortex-A55
        "raspberrypi4": "arm",  # Cortex-A72: no dot product
        "raspberrypi5": "arm-dotprod",  # Cortex-A76
        "jetson-orin": "arm-dotprod",  # Cortex-A78AE
        "android-arm64": "arm",  # whatever phone
    }
)
"""Board -> the kernels of its CPU."""

_ROWS = {target.name: target for target in _KERNELS}

TARGETS: MappingProxyType[str, Target] = MappingProxyType({**_ROWS, **{b: _ROWS[name] for b, name in BOARDS.items()}})
"""What a user may name: kernels, or a board that has them."""


def machine_target(machine: Machine) -> str:
    """The target whose kernels a machine's CPU runs."""
    if machine.machine in ("x86_64", "AMD64", "i686"):
        return "x86"
    return "arm-dotprod" if "int8-dot-product" in machine.cpu_features else "arm"
