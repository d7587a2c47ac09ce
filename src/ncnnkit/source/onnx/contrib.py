"""Operators of the domain com.microsoft, which ONNX Runtime's optimiser writes."""

from __future__ import annotations

import math

import numpy as np

from .attention import by_heads, dot_product, joined, mask_of, rotated_by
from .elementwise import combine, computed, operand
from .lowering import Blob, Node, Operand, Shape, Unsupported, operator
from .matrix import inner_product
from .reduce import layer_norm
from .windows import convolution

_DOMAIN = "com.microsoft"


def _operand(node: Node, index: int) -> tuple[Shape, Operand]:
    return node.shape(index), operand(node, index)


@operator("Gelu", "BiasGelu", "FastGelu", domain=_DOMAIN)
def gelu(node: Node) -> None:
    found = _operand(node, 0)
    if node.has(1):
        found = combine(node, 0, found, _operand(node, 1))
    x = computed(found)
    node.gives(node.emit("GELU", [x], x.shape, fast_gelu=int(node.op == "FastGelu")))


@operator("QuickGelu", domain=_DOMAIN)
def quick_gelu(node: Node) -> None:
    """Write x * sigmoid(alpha * x)."""
    x = node.blob(0)
    scaled = node.emit("BinaryOp", [x], x.shape, op_type=2, with_scalar=1, b=float(node.attr("alpha", 1.702)))
    gate = node.emit("Sigmoid", [scaled], x.shape)
    node.gives(node.emit("BinaryOp", [x, gate], x.shape, op_type=2))


@operator("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def skip_layer_norm(node: Node) -> None:
    """Write a LayerNorm or RMSNorm of a sum. The sum is an output, too."""
    plain = node.op == "SkipLayerNormalization"
    if node.is_read(1) or node.is_read(2):
        raise Unsupported("returns its mean")
    found = combine(node, 0, _operand(node, 0), _operand(node, 1))
    last = 4 if plain else 3
    if node.has(last):
        found = combine(node, 0, found, _operand(node, last))
    gamma = node.needed_constant(2, "scale").reshape(-1)
    beta = node.constant(3) if plain else None
    eps = float(node.attr("epsilon", 1e-12 if plain else 1e-5))
    made = layer_norm(node, computed(found), gamma, beta, eps, centred=plain)
    node.gives(made, None, None, computed(found))


@operator("FusedConv", domain=_DOMAIN)
def fused_convolution(node: Node) -> None:
    """Write a Conv, perhaps an addition, and an activation."""
    kind, params = str(node.attr("activation", "")), [float(p) for p in node.attr("activation_params", ())]
    layers: dict[str, tuple[str, tuple[str, ...]]] = {
        "": ("", ()), "Relu": ("ReLU", ()), "LeakyRelu": ("ReLU", ("slope",)), "Clip": ("Clip", ("min", "max")),
        "Sigmoid": ("Sigmoid", ()), "Tanh": ("TanH", ()), "HardSigmoid": ("HardSigmoid", ("alpha", "beta")),
    }  # fmt: skip
    if kind not in layers:
        raise Unsupported(f"has the activation {kind}")
    convolution(node)
    found: tuple[Shape, Operand] = (node.out_shape(), node.blob_of(node.output(0)))
    if node.has(3):
        found = combine(node, 0, found, _operand(node, 3))
    x = computed(found)
    layer, names = layers[kind]
    node.gives(node.emit(layer, [x], x.shape, **dict(zip(names, params, strict=True))) if layer else x)


@operator("FusedMatMul", domain=_DOMAIN)
def fused_matmul(node: Node) -> None:
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        raise Unsupported("transposes batch axes")
    a, b = node.shape(0), node.shape(1)
    if len(a) != len(b) or a[:-2] != b[:-2] or len(a) < 2:
        raise Unsupported(f"multiplies {list(a)} by {list(b)}")
    many = math.prod(a[:-2])
    lead = (many,) if many > 1 else ()
    one, other = node.blob(0, (*lead, *a[-2:])), node.blob(1, (*lead, *b[-2:]))
    if node.attr("transA", 0):
        one = node.emit("Permute", [one], (*lead, a[-1], a[-2]), order_type=1)
    turned = int(node.attr("transB", 0))
    rows, columns = node.out_shape()[-2:]
    made = node.emit("MatMul", [one, other], (*lead, rows, columns), transB=turned)
    alpha = float(node.attr("alpha", 1.0))
    node.gives(made if alpha == 1 else node.emit("BinaryOp", [made], made.shape, op_type=2, with_scalar=1, b=alpha))


@operator("MultiHeadAttention", domain=_DOMAIN)
def multi_head_attention(node: Node) -> None:
    """Write attention of (batch, sequence, heads * size). The biases of query, key and value are one input."""
    shapes = [node.shape(i) if node.has(i) else () for i in range(3)]
    if any(len(shape) != 3 for shape in shapes) or any(node.has(i) for i in (4, 6, 7)):
        raise Unsupported("has packed inputs, a padding mask, or cached keys")
    if any(node.is_read(i) for i in range(1, node.outputs)) or node.attr("unidirectional", 0):
        raise Unsupported("returns its keys, or is causal")
    heads, batch = int(node.attr("num_heads")), shapes[0][0]
    parts = [_operand(node, i) for i in range(3)]
    if node.has(3):
        widths = [shape[-1] for shape in shapes]
        bias = np.split(node.needed_constant(3, "bias"), np.cumsum(widths)[:-1])
        parts = [combine(node, 0, part, (b.shape, b)) for part, b in zip(parts, bias)]
    query, key, value = (by_heads(node, computed(p), s, heads) for p, s in zip(parts, shapes))
    mask = mask_of(node, 5, (batch, heads, query.shape[1], key.shape[1])) if node.has(5) else None
    scale = float(node.attr("scale", 0.0)) or 1 / math.sqrt(query.shape[2])
    node.gives(joined(node, dot_product(node, query, key, value, scale, mask), batch))


@operator("Attention", domain=_DOMAIN)
def packed_attention(node: Node) -> None:
    """Write the projections of query, key and value, whose weights are one matrix, and attention."""
    if any(node.has(i) for i in (3, 4, 5, 6)) or node.is_read(1) or node.attr("unidirectional", 0):
        raise Unsupported("has a mask, or cached keys")
    batch, places, width = node.shape(0)
    heads = int(node.attr("num_heads"))
    weight = node.needed_constant(1, "weights").T
    bias = node.constant(2)
    sizes = tuple(int(s) for s in node.attr("qkv_hidden_sizes", ()) or (weight.shape[0] // 3,) * 3)
    made = inner_product(node, node.blob(0, (batch * places, width)), weight, bias)
    parts = node.split(made, sizes, 1)
    query, key, value = (by_heads(node, part, (batch, places, size), heads) for part, size in zip(parts, sizes))
    scale = float(node.attr("scale", 0.0)) or 1 / math.sqrt(query.shape[2])
    node.gives(joined(node, dot_product(node, query, key, value, scale, None), batch))


@operator("RotaryEmbedding", domain=_DOMAIN)
def rotary_embedding(node: Node) -> None:
    """Write a rotary embedding. In ONNX's own operator, the positions are the last input; here they are the second."""
    places = node.needed_constant(1, "positions")
    count = node.shape(0)[2 if len(node.shape(0)) == 4 else 1]
    if places.size == 1:
        places = int(places.reshape(-1)[0]) + np.arange(count)[None]
    cos, sin = (node.needed_constant(i, "angles").astype(np.float32)[places] for i in (2, 3))
    made: Blob = rotated_by(node, cos, sin)
    node.gives(made)
