"""Small torch modules, exported by each of its exporters: they become the expected layers, and compute the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from lowered import lowered, run_ncnn, run_onnx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

pytestmark = pytest.mark.torch


def rms(x: Any, eps: float = 1e-6) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def half_turned(x: Any) -> Any:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class Encoder(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")

    def forward(self, x: Any) -> Any:
        return self.layer(x)


class MultiHead(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


class ConvNeXtBlock(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


class SwinBlock(nn.Module):  # type: ignore[misc]
    """Attention in windows of 4x4, shifted by 2, as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.bias = nn.Linear(8, 24), nn.Linear(8, 8), nn.Parameter(torch.rand(1, 2, 16, 16))
        mask = torch.zeros(8, 8)
        for i, rows in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
            for j, columns in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
                mask[rows, columns] = 3 * i + j
        parts = mask.view(2, 4, 2, 4).permute(0, 2, 1, 3).reshape(4, 16)
        self.register_buffer("mask", torch.where(parts[:, None] != parts[:, :, None], -100.0, 0.0))

    def forward(self, x: Any) -> Any:
        b, h, w, c = x.shape
        x = torch.roll(x, (-2, -2), (1, 2))
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        scores = (q * (c // 2) ** -0.5) @ k.transpose(-2, -1) + self.bias
        scores = scores.view(-1, 4, 2, 16, 16) + self.mask[None, :, None]
        x = self.out((scores.view(-1, 2, 16, 16).softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, c))
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, (2, 2), (1, 2))


class RotaryAttention(nn.Module):  # type: ignore[misc]
    """LLaMA's attention: rotary embedding, grouped keys, a causal mask, and RMSNorm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 16)
        angles = torch.arange(6)[:, None] / 100 ** (torch.arange(0, 4, 2) / 4)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.weight = nn.Parameter(torch.rand(16))

    def forward(self, x: Any) -> Any:
        x = self.weight * rms(x)
        q = self.q(x).view(1, 6, 4, 4).transpose(1, 2)
        k = self.k(x).view(1, 6, 2, 4).transpose(1, 2)
        v = self.v(x).view(1, 6, 2, 4).transpose(1, 2)
        q, k = (t * self.cos + half_turned(t) * self.sin for t in (q, k))
        k, v = (t[:, :, None].expand(1, 2, 2, 6, 4).reshape(1, 4, 6, 4) for t in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(1, 6, 16))


class Focus(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        parts = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(parts, 1))


class Rms(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16))

    def forward(self, x: Any) -> Any:
        return self.weight * rms(x)


class Of(nn.Module):  # type: ignore[misc]
    """A function as a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


IMAGE, TOKENS = (1, 8, 8, 8), (1, 6, 16)
MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...], set[str]]] = {
    "encoder": (Encoder, TOKENS, {"InnerProduct", "LayerNorm", "GELU", "SDPA|MultiHeadAttention"}),
    "multihead": (MultiHead, TOKENS, {"SDPA|MultiHeadAttention"}),
    "convnext": (ConvNeXtBlock, IMAGE, {"ConvolutionDepthWise", "LayerNorm", "GELU", "InnerProduct"}),
    "swin": (SwinBlock, (1, 8, 8, 8), {"SDPA", "InnerProduct"}),
    "rotary": (RotaryAttention, TOKENS, {"RMSNorm", "RotaryEmbed", "SDPA"}),
    "rms": (Rms, TOKENS, {"RMSNorm"}),
    "group norm": (lambda: nn.GroupNorm(2, 8), IMAGE, {"GroupNorm"}),
    "layer norm": (lambda: nn.LayerNorm(16), TOKENS, {"LayerNorm"}),
    "layer norm, plain": (lambda: nn.LayerNorm(16, elementwise_affine=False), TOKENS, {"LayerNorm"}),
    "instance norm": (lambda: nn.InstanceNorm2d(8, affine=True), IMAGE, {"InstanceNorm"}),
    "gelu": (nn.GELU, IMAGE, {"GELU"}),
    "gelu, tanh": (lambda: nn.GELU("tanh"), IMAGE, {"GELU"}),
    "silu": (nn.SiLU, IMAGE, {"Swish"}),
    "mish": (nn.Mish, IMAGE, {"Mish"}),
    "hardswish": (nn.Hardswish, IMAGE, {"HardSwish"}),
    "hardswish, relu6": (lambda: Of(lambda x: x * functional.relu6(x + 3) / 6), IMAGE, {"HardSwish"}),
    "hardsigmoid": (nn.Hardsigmoid, IMAGE, {"HardSigmoid"}),
    "hardsigmoid, relu6": (lambda: Of(lambda x: functional.relu6(x + 3) / 6), IMAGE, {"HardSigmoid"}),
    "softplus": (nn.Softplus, IMAGE, {"Softplus"}),
    "focus": (Focus, (1, 3, 8, 8), {"Reorg|Convolution", "Convolution"}),
    "channel shuffle": (lambda: nn.ChannelShuffle(2), IMAGE, {"Permute"}),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), IMAGE, {"PixelShuffle"}),
    "pixel unshuffle": (lambda: nn.PixelUnshuffle(2), IMAGE, {"Reorg"}),
    "normalize": (lambda: Of(lambda x: functional.normalize(x, dim=1)), IMAGE, set()),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3)), IMAGE, {"Convolution"}),
    "upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE, {"Interp"}),
    "attention pool": (lambda: Of(lambda x: (x.softmax(1) * x).sum(1)), TOKENS, set()),
    "dot product": (lambda: Of(lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None])),
                    TOKENS, {"SDPA"}),
}  # fmt: skip
"""Name -> (module, input shape, the layers that ncnn's network must have); "A|B" means one of them."""

EXPORTERS: dict[str, dict[str, Any]] = {
    "classic 12": {"dynamo": False, "opset_version": 12},
    "classic 17": {"dynamo": False, "opset_version": 17},
    "dynamo 18": {"dynamo": True, "opset_version": 18},
    "dynamo 23": {"dynamo": True, "opset_version": 23},
}
CANNOT = {
    ("channel shuffle", "classic 12"), ("channel shuffle", "classic 17"),
    ("dot product", "classic 12"), ("rotary", "classic 12"), ("encoder", "classic 12"), ("multihead", "classic 12"),
}  # fmt: skip
"""Modules that torch itself does not export at that opset."""


def export(module: Any, shape: tuple[int, ...], how: dict[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.randn(shape)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if how["dynamo"]:
            proto = torch.onnx.export(module, (x,), verbose=False, **how).model_proto
        else:
            file = io.BytesIO()
            torch.onnx.export(module, (x,), file, **how)
            proto = onnx.load_from_string(file.getvalue())
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return proto, {proto.graph.input[0].name: x.numpy()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", EXPORTERS)
@pytest.mark.parametrize("what", MODULES)
def test_export(what: str, how: str) -> None:
    if (what, how) in CANNOT:
        pytest.skip("torch does not export it")
    make, shape, wanted = MODULES[what]
    torch.manual_seed(0)
    proto, fed = export(make().eval(), shape, EXPORTERS[how])
    graph = lowered(proto, fed)
    (exact,), (made,) = run_onnx(proto, fed), run_ncnn(graph, list(fed.values()))
    noise = np.square(exact.reshape(-1) - made.reshape(-1)).sum()
    assert noise <= np.square(exact).sum() * 1e-8, "less than 80 dB"
    types = {layer.type for layer in graph.layers}
    missing = {kinds for kinds in wanted if types.isdisjoint(kinds.split("|"))}
    assert not missing, sorted(layer.type for layer in graph.layers)
