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
        grouped_to_float: whether a grouped (not depthwise) int8 convolution with a floating-point output is correct
            there.
        int8_pads: whether its int8 kernels can pad with a value other than 0.
    """

    name: str
    int8_winograd: bool
    grouped_to_float: bool
    int8_pads: bool


_KERNELS = (
    # Grouped: ncnn allocates blocks of 4 channels, but its AVX kernels write 8 or 16, and outputs are lost
    # (``forward_int8_x86`` in ``src/layer/x86/convolutiondepthwise_x86.cpp``). Requantised outputs are correct.
    Target("x86", int8_winograd=True, grouped_to_float=False, int8_pads=True),
    # Any Arm processor: a model made for this target is correct on all of them. The code for groups is like that of
    # x86, with blocks that fit. Nobody has measured it yet, so it is not used.
    Target("arm", int8_winograd=True, grouped_to_float=False, int8_pads=True),
    # With the dot product (Cortex-A55, A76 and newer) ncnn runs no int8 Winograd (``create_pipeline_int8_arm`` in
    # ``src/layer/arm/convolution_arm.cpp``).
    Target("arm-dotprod", int8_winograd=False, grouped_to_float=False, int8_pads=True),
    # ncnn has no int8 kernels there (``src/layer/riscv``). Its plain C++ code computes int8; that is correct, but slow.
    Target("riscv", int8_winograd=False, grouped_to_float=False, int8_pads=False),
    # An int8 layer with a pad_value falls back to the CPU there (``convolution_vulkan.cpp``).
    Target("vulkan", int8_winograd=True, grouped_to_float=True, int8_pads=False),
)

CORES: MappingProxyType[str, frozenset[str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("Cortex-A7", "Cortex-A35", "Cortex-A53", "Cortex-A57", "Cortex-A72", "Cortex-A73"), frozenset()
        ),
        "Denver 2": frozenset(),
        "Carmel": frozenset({"fp16"}),
        **dict.fromkeys(
            ("Cortex-A55", "Cortex-A76", "Cortex-A77", "Cortex-A78", "Cortex-A78AE"), frozenset({"fp16", "dotprod"})
        ),
        **dict.fromkeys(("Cortex-A520", "Cortex-A720"), frozenset({"fp16", "dotprod", "i8mm", "bf16"})),
        **dict.fromkeys(("C906", "U74", "C910", "X60"), frozenset({"riscv"})),
    }
)
"""Core -> the instructions for which ncnn has kernels: arithmetic in fp16 (``fphp``, ``asimdhp``), int8 dot products
(``asimddp``), int8 matrix products (``i8mm``), bf16. A core of RISC-V has none of Arm's.

Source: the cores' Technical Reference Manuals, which ``aarch64-cores.def`` of GCC and ``AArch64Processors.td`` of LLVM
sum up. Cortex-A35 to A73 are ARMv8.0; A55 and A76 to A78 are ARMv8.2 with fp16 and dot products; A520 and A720 are
ARMv9.2."""


def _cores(**boards: str) -> dict[str, dict[str, int]]:
    """``rk3399="2 Cortex-A72 + 4 Cortex-A53"`` -> name of the board -> core -> number of cores."""
    found = {}
    for name, text in boards.items():
        parts = (part.split(" ", 1) for part in text.split(" + "))
        found[name.replace("_", "-")] = {core: int(count) for count, core in parts}
    return found


BOARDS: MappingProxyType[str, dict[str, int]] = MappingProxyType(
    _cores(
        rk3588="4 Cortex-A76 + 4 Cortex-A55",
        rk3588s="4 Cortex-A76 + 4 Cortex-A55",
        rk3576="4 Cortex-A72 + 4 Cortex-A53",
        rk3568="4 Cortex-A55",
        rk3566="4 Cortex-A55",
        rk3562="4 Cortex-A53",
        rk3528="4 Cortex-A53",
        rk3399="2 Cortex-A72 + 4 Cortex-A53",
        rk3328="4 Cortex-A53",
        rk3308="4 Cortex-A35",
        rv1126="4 Cortex-A7",
        rv1106="1 Cortex-A7",
        raspberrypi5="4 Cortex-A76",
        raspberrypi4="4 Cortex-A72",
        raspberrypi3="4 Cortex-A53",
        raspberrypi_zero2="4 Cortex-A53",
        jetson_orin="12 Cortex-A78AE",
        jetson_orin_nano="6 Cortex-A78AE",
        jetson_xavier="8 Carmel",
        jetson_tx2="2 Denver 2 + 4 Cortex-A57",
        jetson_nano="4 Cortex-A57",
        imx8mm="4 Cortex-A53",
        imx8mn="4 Cortex-A53",
        imx8mp="4 Cortex-A53",
        imx8mq="4 Cortex-A53",
        imx8qm="2 Cortex-A72 + 4 Cortex-A53",
        imx93="2 Cortex-A55",
        imx95="6 Cortex-A55",
        am625="4 Cortex-A53",
        stm32mp157="2 Cortex-A7",
        stm32mp257="2 Cortex-A35",
        h616="4 Cortex-A53",
        h618="4 Cortex-A53",
        a527="8 Cortex-A55",
        s905x3="4 Cortex-A55",
        s922x="4 Cortex-A73 + 2 Cortex-A53",
        a311d="4 Cortex-A73 + 2 Cortex-A53",
        mt8183="4 Cortex-A73 + 4 Cortex-A53",
        mt8390="2 Cortex-A78 + 6 Cortex-A55",
        mt8395="4 Cortex-A78 + 4 Cortex-A55",
        qrb5165="4 Cortex-A77 + 4 Cortex-A55",
        qcs6490="4 Cortex-A78 + 4 Cortex-A55",
        cix_p1="8 Cortex-A720 + 4 Cortex-A520",
        sg2002="1 C906",
        sg2000="1 C906",
        cv1800b="1 C906",
        jh7110="4 U74",
        th1520="4 C910",
        k1="8 X60",
    )
)
"""Board or system on chip -> core -> number of these cores, the fastest first.

Source: the ``cpu`` nodes of Linux's device trees (``arch/arm64/boot/dts``, ``arch/arm/boot/dts``,
``arch/riscv/boot/dts``) and the makers' datasheets. Jetson Orin is the largest module. For the SG2002 and the SG2000
the core is the C906, which runs Linux by default. If they boot from their Cortex-A53, the target is ``arm``."""


def features_of(board: str) -> frozenset[str]:
    """The instructions (:data:`CORES`) that every core of a board has. ncnn uses what all cores have."""
    return frozenset.intersection(*(CORES[core] for core in BOARDS[board]))


def _kernels_of(board: str) -> str:
    features = features_of(board)
    return "riscv" if "riscv" in features else "arm-dotprod" if "dotprod" in features else "arm"


_ROWS = {target.name: target for target in _KERNELS}

KERNELS: tuple[str, ...] = tuple(_ROWS)
"""The names of the kernels, without those of the boards."""

TARGETS: MappingProxyType[str, Target] = MappingProxyType(
    {**_ROWS, **{name: _ROWS[_kernels_of(name)] for name in BOARDS}}
)
"""What a user may name: kernels, or a board that has them."""


def machine_target(machine: Machine) -> str:
    """The target of a machine's CPU."""
    if machine.machine in ("x86_64", "AMD64", "i686"):
        return "x86"
    if machine.machine.startswith("riscv"):
        return "riscv"
    return "arm-dotprod" if "int8-dot-product" in machine.cpu_features else "arm"
