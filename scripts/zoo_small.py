"""Small networks, one for each class of operators, for scripts/zoo.py. All weights are random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional

Tensor = Any  # torch.Tensor; torch may be missing where types are checked


class Does(nn.Module):  # type: ignore[misc]
    """A network that is one function of its input, and its layers."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def conv1d() -> nn.Module:
    """1,16,40: convolutions and pooling over one axis."""
    return nn.Sequential(
        nn.Conv1d(16, 24, 5, padding=2), nn.BatchNorm1d(24), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(24, 8, 3)
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(8, 4, 1)
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(8, 12, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(12, 4, 3, 2, 1, output_padding=1, groups=2)
    )


def deformable() -> nn.Module:
    return Does(
        lambda net, x: net.convolution(x, net.offsets(x)),
        offsets=nn.Conv2d(8, 18, 3, padding=1),
        convolution=torchvision.ops.DeformConv2d(8, 12, 3, padding=1),
    )


def pooling() -> nn.Module:
    return Does(
        lambda _, x: torch.cat(
            [
                functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
                functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
                functional.lp_pool2d(functional.pad(x, (1, 1, 1, 1)), 2, 3, 2, ceil_mode=True),
            ]
        ).flatten(0, 1)
    )


def adaptive() -> nn.Module:
    return Does(
        lambda _, x: (
            functional.adaptive_avg_pool2d(x, (4, 4)).flatten(1) + functional.adaptive_max_pool2d(x, 4).flatten(1)
        )
    )


def padding() -> nn.Module:
    return nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(8, 8, 3), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 0.5))


def circular() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")


def resizing() -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(size=(30, 26), mode="bicubic"),
        nn.Upsample(scale_factor=2),
    )


def shuffles() -> nn.Module:
    return nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(2, 4, 1), nn.PixelUnshuffle(2), nn.ChannelShuffle(4))


def norms() -> nn.Module:
    return nn.Sequential(
        nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.LayerNorm([16, 12]), nn.LocalResponseNorm(3)
    )


def layer_norm_of_channels() -> nn.Module:
    return Does(lambda net, x: net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(8))


def rms_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 24), nn.RMSNorm(24))


def activations() -> nn.Module:
    return Does(
        lambda net, x: torch.cat(
            [
                each(x)
                for each in (functional.gelu, functional.silu, functional.mish, functional.hardswish, functional.elu)
            ]
            + [
                functional.softplus(x),
                functional.selu(x),
                functional.hardsigmoid(x),
                functional.glu(x, 1),
                net.prelu(x),
            ],
            1,
        ),
        prelu=nn.PReLU(8),
    )


def softmaxes() -> nn.Module:
    return Does(lambda _, x: torch.softmax(x, 1) + torch.log_softmax(x, 2) + torch.softmax(x, -1))


def arithmetic() -> nn.Module:
    return Does(
        lambda _, x: (x.abs() + 1).log() * x.sin() + x.square().clamp(0.1, 2).rsqrt() - x.exp().reciprocal().pow(1.5)
    )


def comparisons() -> nn.Module:
    return Does(lambda _, x: torch.where(x > 0.3, x * 2, torch.maximum(x, -x)) + torch.minimum(x, x * 0.5))


def reductions() -> nn.Module:
    return Does(
        lambda _, x: x.mean((2, 3)) + x.amax((2, 3)) - x.sum(-1).amin(-1) + x.std(-1).mean(-1) + x.norm(dim=(2, 3))
    )


def shapes() -> nn.Module:
    return Does(lambda _, x: torch.stack([x.flip(2), x.roll(3, 3)], 1).flatten(1, 2).permute(0, 2, 1, 3)[:, ::2, 1:-1])


def windows() -> nn.Module:
    """The window partition of Swin, with six axes."""
    return Does(
        lambda net, x: net.mix(x.reshape(1, 8, 4, 4, 4, 3).permute(0, 2, 4, 3, 5, 1).reshape(16, 12, 8)),
        mix=nn.Linear(8, 5),
    )


def tiling() -> nn.Module:
    return Does(lambda _, x: x.repeat(1, 2, 1, 2).unfold(3, 4, 2).flatten(3))


def products() -> nn.Module:
    return Does(lambda _, x: torch.einsum("bchw,bdhw->bcd", x, x * 0.5) @ x.mean(3))


def attention() -> nn.Module:
    return Does(lambda net, x: net.attention(x, x, x)[0], attention=nn.MultiheadAttention(32, 4, batch_first=True))


def transformer() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=True), 2)


def rotary() -> nn.Module:
    def turn(_: nn.Module, x: Tensor) -> Tensor:
        angles = torch.arange(20)[:, None] / 10.0 ** (torch.arange(16) / 4.0)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        return x * cos + torch.cat([-x[..., 16:], x[..., :16]], -1) * sin

    return Does(turn)


def lstm() -> nn.Module:
    return Does(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(32, 24, 2, batch_first=True, bidirectional=True))


def gru() -> nn.Module:
    return Does(lambda net, x: net.gru(x)[0], gru=nn.GRU(32, 24, batch_first=True))


def rnn() -> nn.Module:
    return Does(lambda net, x: net.rnn(x)[0], rnn=nn.RNN(32, 24, batch_first=True))


def last_state() -> nn.Module:
    return Does(lambda net, x: net.lstm(x)[1][0][-1], lstm=nn.LSTM(32, 24, batch_first=True))


def grid_sample() -> nn.Module:
    return Does(
        lambda net, x: functional.grid_sample(x, net.grid(x).tanh().permute(0, 2, 3, 1)),
        grid=nn.Conv2d(8, 2, 3, padding=1),
    )


def look_ups() -> nn.Module:
    return Does(lambda _, x: x[:, [3, 1, 1, 7]].index_select(2, torch.tensor([5, 0, 2])))


def focus() -> nn.Module:
    """YOLOX's first layer: strided slices."""
    return Does(
        lambda net, x: net.stem(torch.cat([x[..., a::2, b::2] for b in (0, 1) for a in (0, 1)], 1)),
        stem=nn.Conv2d(32, 8, 3),
    )


def box_distribution() -> nn.Module:
    """YOLOv8's distribution focal loss: the mean of a softmax."""
    return Does(
        lambda net, x: net.mean(x.view(1, 4, 8, 20).transpose(2, 1).softmax(1)).view(1, 4, 20), mean=nn.Conv2d(8, 1, 1)
    )


def best_class() -> nn.Module:
    return Does(lambda net, x: net.score(x).argmax(1), score=nn.Conv2d(8, 5, 1))


def best_few() -> nn.Module:
    return Does(lambda net, x: net.score(x.mean((2, 3))).topk(3), score=nn.Linear(8, 40))


def spectrogram() -> nn.Module:
    return Does(lambda _, x: torch.stft(x, 64, 32, window=torch.hann_window(64), return_complex=True).abs())
