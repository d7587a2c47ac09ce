"""The properties of ncnn's layer types: a row for each type.

A row gives the params by id, name and default (a default may name another param), and the weights in the order of the
.bin. All code that reads, writes, rewrites or quantises a network uses these rows. So a new layer type is one row here
and one test.

Source: ``src/layer/*.cpp`` of ncnn (``load_param`` and ``load_model`` of each type).
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Union

import numpy as np

from ..onboard import storages
from . import shapes

Value = Union[int, float, str, tuple[int, ...], tuple[float, ...]]
"""A param's value. int and float are kept apart, as in the file: ncnn reads ``1`` and ``1.0`` as different bits, and a
layer reads these bits as the type that it expects; see :attr:`Param.real`."""

MAX_PARAMS = 32
"""ncnn refuses a file with a param of this id or above. It ignores lower ids that a type does not have."""

MANY = 1 << 31
"""A number of blobs that is not limited."""

FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Param:
    """A param of a layer type: its id, its name, and its default."""

    id: int
    name: str
    default: Value
    same_as: str = ""  # the param that gives the default, e.g. kernel_w for kernel_h
    real: bool = False  # whether ncnn reads its bits, or the bits of its items, as fp32; otherwise as int32


class Params:
    """The params of a layer by name, with the defaults filled in; read-only. The functions of a row take it."""

    def __init__(self, op: Op, given: dict[str, Value]) -> None:
        self._op, self._given = op, given

    def __getattr__(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        param = self._op.param(name)
        return getattr(self, param.same_as) if param.same_as else param.default


@dataclass(frozen=True)
class Slot:
    """One weight block of a layer.

    A ``tagged`` block begins with a tag of 4 bytes that names its storage (``ModelBin::load`` type 0): fp32, fp16, int8
    or a table. The other blocks are fp32 without a tag (type 1). A ``packed`` block holds values of less than 8 bits,
    packed into bytes: without a tag in today's ncnn, and after the tag of int8 in earlier versions. ``shape``, ``when``
    and ``packed`` are functions of the layer's params.
    """

    name: str
    shape: Callable[[Any], tuple[int, ...]]
    tagged: bool = False
    when: Callable[[Any], Any] = lambda p: True
    packed: Callable[[Any], Any] = lambda p: False


@dataclass(frozen=True)
class Op:
    """A layer type: its params, its weights, and the properties that rewriting and quantising need.

    Attributes:
        int8: gives the ``int8_scale_term`` that ncnn2int8 writes for this type, from the layer's params; None if ncnn
            has no int8 activations for the type.
        chains_int8: whether a layer of this type can output int8 to the next layer (requantise), and read int8.
        shape: the rule for the shapes of its outputs (:mod:`ncnnkit.model.shapes`); by default these are unknown.
        computes: False for types that only hold, copy or mark blobs.
        copies: whether every output has the value of the only input.
        varies: whether the shape of its output depends on the input values, such as the number of detections.
        reads, makes: the smallest and the largest number of its inputs and of its outputs.
    """

    name: str
    params: tuple[Param, ...]
    weights: tuple[Slot, ...] = ()
    int8: Callable[[Any], int] | None = None
    shape: shapes.Rule = shapes.unknown
    computes: bool = True
    copies: bool = False
    varies: bool = False
    reads: tuple[int, int] = (1, MANY)
    makes: tuple[int, int] = (1, MANY)

    @property
    def rounds_itself(self) -> bool:
        """Whether ncnn can hold the layer's weights in 8 bits or fewer without calibrated activations."""
        return self.int8 is None and any(name in self.by_name for name in ("int8_scale_term", "quantize_term"))

    @property
    def chains_int8(self) -> bool:
        return any(slot.name == "output_scale" for slot in self.weights)

    @cached_property
    def by_id(self) -> MappingProxyType[int, Param]:
        return MappingProxyType({p.id: p for p in self.params})

    @cached_property
    def by_name(self) -> MappingProxyType[str, Param]:
        return MappingProxyType({p.name: p for p in self.params})

    def param(self, name: str) -> Param:
        """The param called ``name``. Raises AttributeError if the type has no such param.

        A name of digits is an id that the type does not have. ncnn ignores such a param; ncnnkit keeps it in the file.
        """
        if self.ignores(name):
            return Param(int(name), name, 0)
        try:
            return self.by_name[name]
        except KeyError:
            raise AttributeError(f"{self.name} has no param {name!r}") from None

    def ignores(self, name: str) -> bool:
        """Whether ``name`` is an id in digits that ncnn accepts in a file, but that this type does not use."""
        return name.isdecimal() and int(name) < MAX_PARAMS and int(name) not in self.by_id

    def fault(self, name: str, value: Value) -> str:
        """What is wrong with a param, as a clause that follows the layer's name; "" if nothing is.

        A param must have the type as which ncnn reads it (whole number, array or text): sizes and loops depend on it.
        """
        if self.ignores(name):
            return ""
        if name not in self.by_name:
            return f"has no param {name!r}"
        param = self.by_name[name]
        while param.same_as:
            param = self.by_name[param.same_as]
        fits, words = _KINDS[type(param.default)]
        return "" if isinstance(value, fits) else f"needs {words} for {name}, not {value!r}"


_KINDS: dict[type, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    tuple: (tuple, "an array"),
    str: (str, "a text"),
}


# ---------------------------------------------------------------------------------------------- reading the rows

REALS = "[.]"
"""The default of a param that is an array of fp32; ``[]`` is that of an array of whole numbers."""

# Every type has these two: the output shapes that pnnx noted, and the bits of features that are switched off (Mask).
_COMMON = "30 shape_hints=[] | 31 featmask=0"


def _parse_default(text: str) -> tuple[Value, str]:
    if text in ("[]", REALS):
        return (), ""
    if text == "text":
        return "", ""
    if re.fullmatch(r"-?\d+", text):
        return int(text), ""
    if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", text):
        return float(np.float32(text)), ""  # as it is read again, if a pass writes it
    return 0, text


def _row(name: str, params: str = "", *weights: Slot, **facts: Any) -> Op:
    columns = []
    for column in filter(None, (c.strip() for c in f"{params} | {_COMMON}".split("|"))):
        number, key, default = re.fullmatch(r"(\d+) (\w+)=(\S+)", column).groups()  # type: ignore[union-attr]
        value, same_as = _parse_default(default)
        columns.append(Param(int(number), key, value, same_as, isinstance(value, float) or default == REALS))
    return Op(name, tuple(columns), weights, **facts)


class Mask:
    """The bits of param 31 (``featmask``). Each bit switches off one feature for one layer (``net.cpp`` of ncnn)."""

    NO_FP16_ARITHMETIC = 1
    NO_FP16_STORAGE = storages.NO_FP16_STORAGE
    NO_BF16 = storages.NO_BF16_STORAGE
    NO_INT8 = 8
    NO_VULKAN = 16
    NO_SGEMM = 32
    NO_WINOGRAD = 64
    NO_THREADS = 128


CAST_TYPES = MappingProxyType(storages.CAST_TYPES)
"""Storage of a blob -> its number in ``type_from`` and ``type_to`` of a Cast."""


# --------------------------------------------------------------------------------------- columns shared by the rows

_HEAD = "0 num_output=0 | 5 bias_term=0 | 6 weight_data_size=0"
_ACT = "9 activation_type=0 | 10 activation_params=[.]"
_K1 = "1 kernel_w=0 | 2 dilation_w=1 | 3 stride_w=1 | 4 pad_left=0 | 15 pad_right=pad_left"
_K2 = f"""{_K1} | 11 kernel_h=kernel_w | 12 dilation_h=dilation_w | 13 stride_h=stride_w
    | 14 pad_top=pad_left | 16 pad_bottom=pad_top"""
_K3 = f"""{_K2} | 21 kernel_d=kernel_w | 22 dilation_d=dilation_w | 23 stride_d=stride_w
    | 24 pad_front=pad_left | 17 pad_behind=pad_front"""
_OUT1 = "18 output_pad_right=0 | 20 output_w=0"
_OUT2 = f"{_OUT1} | 19 output_pad_bottom=output_pad_right | 21 output_h=output_w"
_OUT3 = """18 output_pad_right=0 | 19 output_pad_bottom=output_pad_right | 20 output_pad_behind=output_pad_right
    | 25 output_w=0 | 26 output_h=output_w | 27 output_d=output_w"""
_POOL1 = """0 pooling_type=0 | 1 kernel_w=0 | 2 stride_w=1 | 3 pad_left=0 | 14 pad_right=pad_left
    | 4 global_pooling=0 | 5 pad_mode=0 | 6 avgpool_count_include_pad=0 | 7 adaptive_pooling=0 | 8 out_w=0"""
_POOL2 = f"""{_POOL1} | 11 kernel_h=kernel_w | 12 stride_h=stride_w | 13 pad_top=pad_left | 15 pad_bottom=pad_top
    | 18 out_h=out_w"""
_POOL3 = f"""{_POOL2} | 21 kernel_d=kernel_w | 22 stride_d=stride_w | 23 pad_front=pad_left
    | 16 pad_behind=pad_front | 28 out_d=out_w"""
_WHDC = "0 w=0 | 1 h=0 | 11 d=0 | 2 c=0"


def _whdc(p: Any) -> tuple[int, ...]:
    return tuple(side for side in (p.c, p.d, p.h, p.w) if side)


def _static(p: Any) -> bool:
    return not p.dynamic_weight


def _kernel(p: Any) -> tuple[int, ...]:
    """(output channels, input channels of a group, kernel d, h, w as the type has them)."""
    sides = [getattr(p, f"kernel_{s}") for s in "dhw" if f"kernel_{s}" in p._op.by_name]
    area = 1
    for side in sides:
        area *= side
    # Layer.check reports sizes that do not agree. This function only avoids a division by zero.
    return (p.num_output, p.weight_data_size // max(p.num_output * area, 1), *sides)


def _conv(when: Callable[[Any], Any] = _static) -> tuple[Slot, Slot]:
    return (
        Slot("weight", _kernel, tagged=True, when=when),
        Slot("bias", lambda p: (p.num_output,), when=lambda p: when(p) and p.bias_term),
    )


def _always(p: Any) -> bool:
    return True


def _int8(scales: Callable[[Any], tuple[int, ...]], when: Callable[[Any], Any] = _always) -> tuple[Slot, ...]:
    """The scales that follow an int8 layer's weights."""
    return (
        Slot("weight_scales", scales, when=lambda p: when(p) and p.int8_scale_term),
        Slot("input_scale", lambda p: (1,), when=lambda p: when(p) and p.int8_scale_term),
    )


_REQUANTIZED = Slot("output_scale", lambda p: (1,), when=lambda p: _static(p) and p.int8_scale_term > 100)
"""The scale of a layer that outputs int8."""


def _affine(name: str, *slots: str) -> tuple[Slot, ...]:
    return tuple(Slot(s, lambda p: (getattr(p, name),), when=lambda p: p.affine) for s in slots)


def _vector(slot: str, size: str) -> Slot:
    return Slot(slot, lambda p: (getattr(p, size),), when=lambda p: getattr(p, size) > 0)


def _directions(p: Any) -> int:
    return 2 if p.direction == 2 else 1


def _recurrent(gates: int, bias_gates: int) -> tuple[Slot, ...]:
    """RNN, GRU and LSTM: input, bias and hidden weights of each gate. LSTM's gates have hidden_size units."""

    def units(p: Any) -> int:
        return int(p.hidden_size if "hidden_size" in p._op.by_name else p.num_output)

    def size(p: Any) -> int:
        return int(p.weight_data_size // max(_directions(p) * units(p) * gates, 1))

    return (
        Slot("weight_xc", lambda p: (_directions(p), units(p) * gates, size(p)), tagged=True),
        Slot("bias_c", lambda p: (_directions(p), bias_gates, units(p)), tagged=True),
        Slot("weight_hc", lambda p: (_directions(p), units(p) * gates, p.num_output), tagged=True),
        Slot("weight_hr", lambda p: (_directions(p), p.num_output, units(p)), tagged=True,
             when=lambda p: units(p) != p.num_output),
        Slot("weight_xc_scales", lambda p: (_directions(p), units(p) * gates), when=lambda p: p.int8_scale_term),
        Slot("weight_hc_scales", lambda p: (_directions(p), units(p) * gates), when=lambda p: p.int8_scale_term),
    )  # fmt: skip


_RECURRENT = "0 num_output=0 | 1 weight_data_size=0 | 2 direction=0 | 8 int8_scale_term=0"


def _block_quantised(p: Any) -> bool:
    """Whether only the weights of a Gemm or MultiHeadAttention are quantised: quantize_term then has three digits."""
    return bool(p.quantize_term >= 400)


def _has_input_scales(p: Any) -> bool:
    return bool(_block_quantised(p) and p.quantize_term % 100 // 10 == 1)


def _int8_quantised(p: Any) -> bool:
    return bool(p.quantize_term and not _block_quantised(p))


def _packed_bytes(values: int, term: int) -> int:
    return (values * (term // 100) + 7) // 8


def _blocks(values: int, term: int) -> int:
    size = 32 << (term % 10)
    return (values + size - 1) // size


def _gemm_a(p: Any) -> tuple[int, ...]:
    return (p.constantK, p.constantM) if p.transA else (p.constantM, p.constantK)


def _gemm_b(p: Any) -> tuple[int, ...]:
    if not p.transB:
        return (p.constantK, p.constantN)
    if _block_quantised(p):
        return (p.constantN, _packed_bytes(p.constantK, p.quantize_term))
    return (p.constantN, p.constantK)


def _gemm_c(p: Any) -> tuple[int, ...]:
    m, n = p.constantM, p.constantN
    return {0: (1,), 1: (m,), 2: (m, 1), 3: (m, n), 4: (1, n)}.get(p.constant_broadcast_type_C, (0,))


def _attention() -> tuple[Slot, ...]:
    """The query, key, value and output projections: a weight and a bias each, and the scales if quantised."""

    def qdim(p: Any) -> int:
        return int(p.weight_data_size // max(p.embed_dim, 1))

    columns: dict[str, Callable[[Any], int]] = {
        "q": qdim, "k": lambda p: int(p.kdim), "v": lambda p: int(p.vdim), "out": lambda p: int(p.embed_dim),
    }  # fmt: skip

    def rows(name: str, p: Any) -> int:
        return qdim(p) if name == "out" else int(p.embed_dim)

    def weight(name: str) -> Slot:
        def shape(p: Any) -> tuple[int, ...]:
            n = columns[name](p)
            return (rows(name, p), _packed_bytes(n, p.quantize_term) if _block_quantised(p) else n)

        return Slot(f"{name}_weight", shape, tagged=True, packed=_block_quantised)

    def bias(name: str) -> Slot:
        return Slot(f"{name}_bias", lambda p: (rows(name, p),))

    def block_scales(name: str) -> Slot:
        return Slot(f"{name}_weight_scales", lambda p: (rows(name, p), _blocks(columns[name](p), p.quantize_term)),
                    when=_block_quantised)  # fmt: skip

    def input_scales(name: str) -> Slot:
        return Slot(f"{name}_input_scales", lambda p: (columns[name](p),), when=_has_input_scales)

    def int8_scales(name: str) -> Slot:
        return Slot(
            f"{name}_weight_int8_scales", lambda p: (1,) if name == "out" else (p.embed_dim,), when=_int8_quantised
        )

    return (
        *(slot(name) for name in columns for slot in (weight, bias)),
        *(block_scales(name) for name in columns),
        *(input_scales(name) for name in columns),
        *(int8_scales(name) for name in columns),
    )


# ------------------------------------------------------------------------------------------------------- the rows

OPS: MappingProxyType[str, Op] = MappingProxyType({op.name: op for op in (
    _row("AbsVal", shape=shapes.same),
    _row("ArgMax", "0 out_max_val=0 | 1 topk=1"),
    _row("BatchNorm", "0 channels=0 | 1 eps=0.0",
         *(_vector(n, "channels") for n in ("slope", "mean", "var", "bias")), shape=shapes.per_channel("channels")),
    _row("Bias", "0 bias_data_size=0", _vector("bias", "bias_data_size"), shape=shapes.same),
    _row("BNLL", shape=shapes.same),
    _row("Concat", "0 axis=0", shape=shapes.concat),
    _row("Convolution", f"""{_HEAD} | {_K2} | {_ACT} | 8 int8_scale_term=0 | 18 pad_value=0.0
         | 19 dynamic_weight=0""",
         *_conv(), *_int8(lambda p: (p.num_output,), _static), _REQUANTIZED, int8=lambda p: 2,
         shape=shapes.convolution),
    _row("Crop", """0 woffset=0 | 1 hoffset=0 | 2 coffset=0 | 3 outw=0 | 4 outh=0 | 5 outc=0
         | 6 woffset2=0 | 7 hoffset2=0 | 8 coffset2=0 | 9 starts=[] | 10 ends=[] | 11 axes=[]
         | 13 doffset=0 | 14 outd=0 | 15 doffset2=0 | 19 starts_expr=text | 20 ends_expr=text
         | 21 axes_expr=text""", shape=shapes.crop),
    _row("Deconvolution", f"{_HEAD} | {_K2} | {_OUT2} | {_ACT} | 28 dynamic_weight=0", *_conv(),
         shape=shapes.deconvolution),
    _row("Dropout", "0 scale=1.0", shape=shapes.same),
    _row("Eltwise", "0 op_type=0 | 1 coeffs=[.]", shape=shapes.alike),
    _row("ELU", "0 alpha=0.1", shape=shapes.same),
    _row("Embed", """0 num_output=0 | 1 input_dim=0 | 2 bias_term=0 | 3 weight_data_size=0
         | 18 int8_scale_term=0""",
         Slot("weight", lambda p: (p.input_dim, p.num_output), tagged=True),
         Slot("bias", lambda p: (p.num_output,), when=lambda p: p.bias_term),
         Slot("weight_scales", lambda p: (1,), when=lambda p: p.int8_scale_term), shape=shapes.embed),
    _row("Exp", "0 base=-1.0 | 1 scale=1.0 | 2 shift=0.0", shape=shapes.same),
    _row("Flatten", shape=shapes.flatten),
    _row("InnerProduct", f"""{_ACT} | 0 num_output=0 | 1 bias_term=0 | 2 weight_data_size=0
         | 8 int8_scale_term=0""",
         Slot("weight", lambda p: (p.num_output, p.weight_data_size // max(p.num_output, 1)), tagged=True),
         Slot("bias", lambda p: (p.num_output,), when=lambda p: p.bias_term),
         *_int8(lambda p: (p.num_output,)),
         int8=lambda p: 2, shape=shapes.inner_product),
    _row("Input", _WHDC, computes=False, shape=shapes.unfed, reads=(0, 0)),
    _row("Log", "0 base=-1.0 | 1 scale=1.0 | 2 shift=0.0", shape=shapes.same),
    _row("LRN", "0 region_type=0 | 1 local_size=5 | 2 alpha=1.0 | 3 beta=0.75 | 4 bias=1.0", shape=shapes.same),
    _row("MemoryData", f"{_WHDC} | 21 load_type=1",
         Slot("data", _whdc, tagged=True, when=lambda p: p.w and p.load_type == 0),
         Slot("data", _whdc, when=lambda p: p.w and p.load_type == 1),
         computes=False, shape=shapes.constant, reads=(0, 0)),
    _row("MVN", "0 normalize_variance=0 | 1 across_channels=0 | 2 eps=0.0001", shape=shapes.same),
    _row("Pooling", _POOL2, shape=shapes.pooling),
    _row("Power", "0 power=1.0 | 1 scale=1.0 | 2 shift=0.0", shape=shapes.same),
    _row("PReLU", "0 num_slope=0", _vector("slope", "num_slope"), shape=shapes.per_channel("num_slope")),
    _row("Proposal", """0 feat_stride=16 | 1 base_size=16 | 2 pre_nms_topN=6000 | 3 after_nms_topN=300
         | 4 nms_thresh=0.7 | 5 min_size=16""", varies=True),
    _row("Reduction", """0 operation=0 | 1 reduce_all=1 | 2 coeff=1.0 | 3 axes=[] | 4 keepdims=0
         | 5 fixbug0=0""", shape=shapes.reduction),
    _row("ReLU", "0 slope=0.0", shape=shapes.same),
    _row("Reshape", """0 w=-233 | 1 h=-233 | 2 c=-233 | 6 shape_expr=text | 11 d=-233
         | 12 input_batch_axis=233 | 13 output_batch_axis=233""", shape=shapes.reshape),
    _row("ROIPooling", "0 pooled_width=0 | 1 pooled_height=0 | 2 spatial_scale=1.0"),
    _row("Scale", "0 scale_data_size=0 | 1 bias_term=0",
         _vector("scale", "scale_data_size"),
         Slot("bias", lambda p: (p.scale_data_size,), when=lambda p: p.scale_data_size > 0 and p.bias_term),
         shape=shapes.per_channel("scale_data_size")),
    _row("Sigmoid", shape=shapes.same),
    _row("Slice", "0 slices=[] | 1 axis=0 | 2 indices=[]", shape=shapes.slices),
    _row("Softmax", "0 axis=0 | 1 fixbug0=0", shape=shapes.same),
    _row("Split", computes=False, copies=True, shape=shapes.same, reads=(1, 1)),
    _row("SPP", "0 pooling_type=0 | 1 pyramid_height=1"),
    _row("TanH", shape=shapes.same),
    _row("Threshold", "0 threshold=0.0", shape=shapes.same),
    _row("Tile", "0 axis=0 | 1 tiles=1 | 2 repeats=[]", shape=shapes.tile),
    _row("RNN", _RECURRENT, *_recurrent(1, 1), shape=shapes.recurrent(1), makes=(1, 3)),
    _row("LSTM", f"{_RECURRENT} | 3 hidden_size=num_output", *_recurrent(4, 4), shape=shapes.recurrent(4),
         makes=(1, 3)),
    _row("BinaryOp", "0 op_type=0 | 1 with_scalar=0 | 2 b=0.0", shape=shapes.broadcast, reads=(1, 2)),
    _row("UnaryOp", "0 op_type=0", shape=shapes.same),
    _row("ConvolutionDepthWise", f"""{_HEAD} | {_K2} | {_ACT} | 7 group=1 | 8 int8_scale_term=0
         | 18 pad_value=0.0 | 19 dynamic_weight=0""",
         *_conv(),
         *_int8(lambda p: (p.group if p.int8_scale_term % 100 == 1 else 1,), _static),
         _REQUANTIZED,
         int8=lambda p: 1, shape=shapes.convolution),
    _row("Padding", """0 top=0 | 1 bottom=0 | 2 left=0 | 3 right=0 | 4 type=0 | 5 value=0.0
         | 6 per_channel_pad_data_size=0 | 7 front=0 | 8 behind=0""",
         _vector("per_channel_pad_data", "per_channel_pad_data_size"), shape=shapes.padding),
    _row("Squeeze", "0 squeeze_w=0 | 1 squeeze_h=0 | 2 squeeze_c=0 | 3 axes=[] | 11 squeeze_d=0",
         shape=shapes.squeeze),
    _row("ExpandDims", "3 axes=[]", shape=shapes.expand_dims),
    _row("Normalize", """0 across_spatial=0 | 1 channel_shared=0 | 2 eps=0.0001 | 3 scale_data_size=0
         | 4 across_channel=1 | 9 eps_mode=0""",
         _vector("scale", "scale_data_size"), shape=shapes.same),
    _row("Permute", "0 order_type=0", shape=shapes.permute),
    _row("PriorBox", """0 min_sizes=[.] | 1 max_sizes=[.] | 2 aspect_ratios=[.] | 3 variance0=0.1
         | 4 variance1=0.1 | 5 variance2=0.2 | 6 variance3=0.2 | 7 flip=1 | 8 clip=0 | 9 image_width=0
         | 10 image_height=0 | 11 step_width=-233.0 | 12 step_height=-233.0 | 13 offset=0.0
         | 14 step_mmdetection=0 | 15 center_mmdetection=0"""),
    _row("DetectionOutput", """0 num_class=0 | 1 nms_threshold=0.05 | 2 nms_top_k=300 | 3 keep_top_k=100
         | 4 confidence_threshold=0.5 | 5 variance0=0.1 | 6 variance1=0.1 | 7 variance2=0.2
         | 8 variance3=0.2""", varies=True),
    _row("Interp", """0 resize_type=0 | 1 height_scale=1.0 | 2 width_scale=1.0 | 3 output_height=0
         | 4 output_width=0 | 5 dynamic_target_size=0 | 6 align_corner=0 | 9 size_expr=text""", shape=shapes.interp),
    _row("DeconvolutionDepthWise", f"""{_HEAD} | {_K2} | {_OUT2} | {_ACT} | 7 group=1
         | 28 dynamic_weight=0""", *_conv(), shape=shapes.deconvolution),
    _row("ShuffleChannel", "0 group=1 | 1 reverse=0", shape=shapes.same),
    _row("InstanceNorm", "0 channels=0 | 1 eps=0.001 | 2 affine=1", *_affine("channels", "gamma", "beta"),
         shape=shapes.per_channel("channels")),
    _row("Clip", "0 min=-3.402823466e38 | 1 max=3.402823466e38", shape=shapes.same),
    _row("Reorg", "0 stride=1 | 1 mode=0", shape=shapes.reorg),
    _row("YoloDetectionOutput", """0 num_class=20 | 1 num_box=5 | 2 confidence_threshold=0.01
         | 3 nms_threshold=0.45 | 4 biases=[.]""", varies=True),
    _row("Quantize", "0 scale_data_size=1", _vector("scale", "scale_data_size"), shape=shapes.same),
    _row("Dequantize", "0 scale_data_size=1 | 1 bias_data_size=0",
         _vector("scale", "scale_data_size"), _vector("bias", "bias_data_size"), shape=shapes.same),
    _row("Yolov3DetectionOutput", """0 num_class=20 | 1 num_box=5 | 2 confidence_threshold=0.01
         | 3 nms_threshold=0.45 | 4 biases=[.] | 5 mask=[.] | 6 anchors_scale=[.]""", varies=True),
    _row("PSROIPooling", "0 pooled_width=7 | 1 pooled_height=7 | 2 spatial_scale=0.0625 | 3 output_dim=0"),
    _row("ROIAlign", """0 pooled_width=0 | 1 pooled_height=0 | 2 spatial_scale=1.0 | 3 sampling_ratio=0
         | 4 aligned=0 | 5 version=0"""),
    _row("Packing", "0 out_elempack=1 | 1 use_padding=0 | 2 cast_type_from=0 | 3 cast_type_to=0", shape=shapes.same),
    _row("Requantize", """0 scale_in_data_size=1 | 1 scale_out_data_size=1 | 2 bias_data_size=0
         | 3 activation_type=0 | 4 activation_params=[.]""",
         _vector("scale_in", "scale_in_data_size"),
         _vector("scale_out", "scale_out_data_size"),
         _vector("bias", "bias_data_size"), shape=shapes.same),
    _row("Cast", "0 type_from=0 | 1 type_to=0", shape=shapes.same),
    _row("HardSigmoid", "0 alpha=0.2 | 1 beta=0.5", shape=shapes.same),
    _row("SELU", "0 alpha=1.67326324 | 1 lambda=1.050700987", shape=shapes.same),
    _row("HardSwish", "0 alpha=0.2 | 1 beta=0.5", shape=shapes.same),
    _row("Noop", computes=False, shape=shapes.pairwise, reads=(0, MANY), makes=(0, MANY)),
    _row("PixelShuffle", "0 upscale_factor=1 | 1 mode=0", shape=shapes.pixel_shuffle),
    _row("DeepCopy", shape=shapes.same),
    _row("Mish", shape=shapes.same),
    _row("StatisticsPooling", "0 include_stddev=0", shape=shapes.statistics_pooling),
    _row("Swish", shape=shapes.same),
    _row("Gemm", """0 alpha=1.0 | 1 beta=1.0 | 2 transA=0 | 3 transB=0 | 4 constantA=0 | 5 constantB=0
         | 6 constantC=0 | 7 constantM=0 | 8 constantN=0 | 9 constantK=0 | 10 constant_broadcast_type_C=0
         | 11 output_N1M=0 | 12 output_elempack=0 | 13 output_elemtype=0 | 14 output_transpose=0
         | 18 quantize_term=0 | 20 constant_TILE_M=0 | 21 constant_TILE_N=0 | 22 constant_TILE_K=0""",
         Slot("A", _gemm_a, tagged=True, when=lambda p: p.constantA),
         Slot("B", _gemm_b, tagged=True, when=lambda p: p.constantB, packed=lambda p: _block_quantised(p) and p.transB),
         Slot("C", _gemm_c, tagged=True, when=lambda p: p.constantC and p.constant_broadcast_type_C != -1),
         Slot("B_block_scales", lambda p: (p.constantN, _blocks(p.constantK, p.quantize_term)), when=_block_quantised),
         Slot("B_input_scales", lambda p: (p.constantK,), when=_has_input_scales),
         Slot("A_scales", lambda p: (p.constantM,), when=lambda p: _int8_quantised(p) and p.constantA),
         Slot("B_scale", lambda p: (1,), when=lambda p: _int8_quantised(p) and p.constantB), shape=shapes.gemm,
         reads=(0, MANY)),
    _row("GroupNorm", """0 group=1 | 1 channels=0 | 2 eps=0.001 | 3 affine=1""",
         *_affine("channels", "gamma", "beta"), shape=shapes.per_channel("channels")),
    _row("LayerNorm", "0 affine_size=0 | 1 eps=0.001 | 2 affine=1", *_affine("affine_size", "gamma", "beta"),
         shape=shapes.over_last_axes),
    _row("Softplus", shape=shapes.same),
    _row("GRU", _RECURRENT, *_recurrent(3, 4), shape=shapes.recurrent(3), makes=(1, 3)),
    _row("MultiHeadAttention", """0 embed_dim=0 | 1 num_heads=1 | 2 weight_data_size=0 | 3 kdim=embed_dim
         | 4 vdim=embed_dim | 5 attn_mask=0 | 6 scale=0.0 | 7 kv_cache=0 | 18 quantize_term=0""",
         *_attention(), shape=shapes.attention),
    _row("GELU", "0 fast_gelu=0", shape=shapes.same),
    _row("Convolution1D", f"{_HEAD} | {_K1} | {_ACT} | 18 pad_value=0.0 | 19 dynamic_weight=0", *_conv(),
         shape=shapes.convolution),
    _row("Pooling1D", _POOL1, shape=shapes.pooling),
    _row("ConvolutionDepthWise1D", f"""{_HEAD} | {_K1} | {_ACT} | 7 group=1 | 18 pad_value=0.0
         | 19 dynamic_weight=0""",
         *_conv(), shape=shapes.convolution),
    _row("Convolution3D", f"{_HEAD} | {_K3} | {_ACT} | 18 pad_value=0.0", *_conv(_always), shape=shapes.convolution),
    _row("ConvolutionDepthWise3D", f"""{_HEAD} | {_K3} | {_ACT} | 7 group=1 | 18 pad_value=0.0""",
         *_conv(_always), shape=shapes.convolution),
    _row("Pooling3D", _POOL3, shape=shapes.pooling),
    _row("MatMul", "0 transB=0", shape=shapes.matmul, reads=(2, 2)),
    _row("Deconvolution1D", f"{_HEAD} | {_K1} | {_OUT1} | {_ACT} | 28 dynamic_weight=0", *_conv(),
         shape=shapes.deconvolution),
    _row("DeconvolutionDepthWise1D", f"{_HEAD} | {_K1} | {_OUT1} | {_ACT} | 7 group=1 | 28 dynamic_weight=0",
         *_conv(), shape=shapes.deconvolution),
    _row("Deconvolution3D", f"{_HEAD} | {_K3} | {_OUT3} | {_ACT}", *_conv(_always), shape=shapes.deconvolution),
    _row("DeconvolutionDepthWise3D", f"{_HEAD} | {_K3} | {_OUT3} | {_ACT} | 7 group=1", *_conv(_always),
         shape=shapes.deconvolution),
    _row("Einsum", "0 equation_mat=[]"),
    _row("DeformableConv2D", f"{_HEAD} | {_K2} | {_ACT}", *_conv(_always), shape=shapes.convolution),
    _row("GLU", "0 axis=0", shape=shapes.glu),
    _row("Fold", f"{_K2} | 20 output_w=0 | 21 output_h=output_w"),
    _row("Unfold", f"{_K2} | 18 pad_value=0.0", shape=shapes.unfold),
    _row("GridSample", "0 sample_type=1 | 1 padding_mode=1 | 2 align_corner=0 | 3 permute_fusion=0"),
    _row("CumulativeSum", "0 axis=0", shape=shapes.same),
    _row("CopyTo", "0 woffset=0 | 1 hoffset=0 | 2 coffset=0 | 9 starts=[] | 11 axes=[] | 13 doffset=0",
         shape=shapes.same),
    _row("Erf", shape=shapes.same),
    _row("Diag", "0 diagonal=0"),
    _row("CELU", "0 alpha=1.0", shape=shapes.same),
    _row("Shrink", "0 bias=0.0 | 1 lambd=0.5", shape=shapes.same),
    _row("RMSNorm", "0 affine_size=0 | 1 eps=0.001 | 2 affine=1", *_affine("affine_size", "gamma"),
         shape=shapes.over_last_axes),
    _row("Spectrogram", """0 n_fft=0 | 1 power=0 | 2 hoplen=0 | 3 winlen=n_fft | 4 window_type=0
         | 5 center=1 | 6 pad_type=2 | 7 normalized=0 | 8 onesided=1"""),
    _row("InverseSpectrogram", """0 n_fft=0 | 1 returns=0 | 2 hoplen=0 | 3 winlen=n_fft | 4 window_type=0
         | 5 center=1 | 7 normalized=0"""),
    _row("Flip", "0 axes=[]", shape=shapes.same),
    _row("SDPA", "5 attn_mask=0 | 6 scale=0.0 | 7 kv_cache=0 | 18 int8_scale_term=0",
         shape=shapes.scaled_dot_product),
    _row("RotaryEmbed", "0 interleaved=0", shape=shapes.same),
)})  # fmt: skip
"""Layer type -> its row."""
