"""The precisions at which a network can run: a row for each, which defines everything about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from .graph import Graph, Layer
from .ops import CAST_TYPES, Mask
from .whole import COPIES

_NO_FP16 = Mask.NO_FP16_ARITHMETIC | Mask.NO_FP16_STORAGE
_FP16_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
_BF16_OPTIONS = ("use_bf16_packed", "use_bf16_storage")


@dataclass(frozen=True)
class Precision:
    """How a network is run.

    Attributes:
        name: the name that the user writes.
        fp16: whether ncnn may store and compute in fp16, where the processor can.
        bf16: whether ncnn may store values as bf16.
        int8: whether the network has int8 layers. Such a model needs its own file.
        file: the name of the precision that has its model file.
        mask: the bits of ``featmask`` that give a layer of a mixed network this precision; None for ``mixed`` itself.
        least_sqnr_db: the least SQNR, dB, of correct outputs in this precision. Correct networks had at least 32 dB in
            fp16, 24 dB in bf16 and 10 dB in int8. Outputs of zeros have 0 dB, and outputs unrelated to the reference
            have -3 dB.
        vulkan: whether a GPU can run it.
        cpp: the C++ code that sets ``ncnn::Net::opt`` for it. ncnn's own default is fp16.
    """

    name: str
    fp16: bool
    bf16: bool
    int8: bool
    file: str
    mask: int | None
    least_sqnr_db: float
    vulkan: bool
    cpp: str

    @property
    def options(self) -> dict[str, bool]:
        """Field of ``ncnn::Option`` -> its value.

        Each precision sets all fields, so that fp32 is fp32 despite ncnn's defaults.
        """
        return {**dict.fromkeys(_FP16_OPTIONS, self.fp16), **dict.fromkeys(_BF16_OPTIONS, self.bf16)}


_OFF = " = ".join(f"opt.{option}" for option in _FP16_OPTIONS) + " = false"
_ON = " = ".join(f"opt.{option}" for option in _BF16_OPTIONS) + " = true"
_ROWS = (
    Precision(
        "fp32", fp16=False, bf16=False, int8=False, file="fp32", mask=_NO_FP16 | Mask.NO_BF16, least_sqnr_db=40.0,
        vulkan=True, cpp=_OFF,
    ),
    Precision(
        "fp16", fp16=True, bf16=False, int8=False, file="fp16", mask=Mask.NO_BF16, least_sqnr_db=20.0,
        vulkan=True, cpp="ncnn's default options",
    ),
    # ncnn has no bf16 weights in files: it converts fp32 when it loads.
    Precision(
        "bf16", fp16=False, bf16=True, int8=False, file="fp32", mask=_NO_FP16, least_sqnr_db=10.0,
        vulkan=True, cpp=f"{_ON}, {_OFF}",
    ),
    # The layers that stay in floating point keep ncnn's default: fp16 where the processor has it. In a mixed network,
    # ncnn would cast the input of an int8 layer to bf16 before quantising it. With 8-bit weights the Winograd kernels
    # can overflow.
    Precision(
        "int8", fp16=True, bf16=False, int8=True, file="int8", mask=Mask.NO_BF16 | Mask.NO_WINOGRAD, least_sqnr_db=1.0,
        vulkan=True, cpp="ncnn's default options",
    ),
    # A plan is made for the CPU's kernels.
    Precision(
        "mixed", fp16=True, bf16=True, int8=True, file="mixed", mask=None, least_sqnr_db=1.0,
        vulkan=False, cpp=f"{_ON}, else ncnn's default options",
    ),
)  # fmt: skip

PRECISIONS: Mapping[str, Precision] = MappingProxyType({row.name: row for row in _ROWS})
"""Name -> precision, the most exact first."""

if TYPE_CHECKING:
    PrecisionName = str
else:
    PrecisionName = Literal[tuple(PRECISIONS)]
    """The name of a precision, as a type for records. Reading a record refuses any other name."""

FLOATS = tuple(row.name for row in _ROWS if not row.int8)
"""The precisions without int8 layers. A floating-point file can be run at each of them."""


def served(file: str) -> tuple[str, ...]:
    """The precisions at which a model's file can run, its own first."""
    rows = [row for row in _ROWS if row.file == file or (not row.int8 and file in FLOATS)]
    return tuple(row.name for row in sorted(rows, key=lambda row: row.name != file))


# ------------------------------------------------------------------------------------------ choices of a mixed network

WINOGRAD = "int8-winograd"
"""int8 with ncnn's Winograd kernels. They need weights small enough that they cannot overflow."""

MASKS: Mapping[str, int] = MappingProxyType(
    {row.name: row.mask for row in _ROWS if row.mask is not None}
    | {WINOGRAD: (PRECISIONS["int8"].mask or 0) & ~Mask.NO_WINOGRAD}
)
"""Choice for a layer of a mixed network -> the bits of its ``featmask``."""

INT8 = ("int8", WINOGRAD)
"""The choices that compute in int8."""

STORAGES: Mapping[str, str] = MappingProxyType(
    {choice: "fp16" for choice, mask in MASKS.items() if not mask & Mask.NO_FP16_STORAGE}
    | {choice: "bf16" for choice, mask in MASKS.items() if not mask & Mask.NO_BF16}
)
"""Choice -> the 16-bit storage that its mask permits for floating-point blobs."""


# -------------------------------------------------------------------------------------- what a network itself says


def derive(graph: Graph) -> tuple[str, str]:
    """The precision at which a network must run, and the reason as a clause, both from the network alone.

    A mixed network has Casts from 16 bits between layers that differ, and a mask for each layer. Only plans forbid bf16
    for a layer, or 16-bit storage for a layer next to int8 layers, so such a mask shows that a network is mixed. A mask
    that only forbids fp16 does not show it: people set it by hand if values overflow. The mask of a Split does not show
    it, either.
    """
    casts = [
        layer
        for layer in graph.layers
        if layer.type == "Cast" and layer.get("type_from") in (CAST_TYPES["fp16"], CAST_TYPES["bf16"])
    ]
    int8 = [layer for layer in graph.layers if is_int8(layer)]
    told = Mask.NO_BF16 | (Mask.NO_FP16_STORAGE if int8 else 0)
    masked = [
        layer
        for layer in graph.layers
        if layer.type not in COPIES and not is_int8(layer) and layer.get("featmask") & told
    ]
    if casts:
        return "mixed", f"layer {casts[0].name} casts from 16 bits"
    if masked:
        return "mixed", f"layer {masked[0].name} has the mask of a mixed model"
    if int8:
        return "int8", f"layer {int8[0].name} is in int8"
    return "fp32", "no layer is in int8, and none has the mask of a mixed model"


def is_int8(layer: Layer) -> bool:
    """Whether a layer computes in int8."""
    return bool(layer.params.get("int8_scale_term"))


def has_int8(graph: Graph) -> bool:
    """Whether any layer computes in int8."""
    return any(map(is_int8, graph.layers))
