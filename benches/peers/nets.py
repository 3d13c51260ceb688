"""The measured networks, for 3x32x32 images and 10 classes, made of float or of Brevitas layers."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


@dataclass(frozen=True)
class Layers:
    """What a network is made of: `conv(channels, filters, kernel, stride)` and `relu()`."""

    conv: Callable[[int, int, int, int], nn.Module]
    relu: Callable[[], nn.Module]


def float_layers() -> Layers:
    """Torch's own layers."""

    def conv(channels: int, filters: int, kernel: int, stride: int) -> nn.Module:
        return nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)

    return Layers(conv, lambda: nn.ReLU(inplace=True))


def brevitas_layers(bits: int, jit: bool) -> Layers:
    """Brevitas's quantized layers with its defaults; `jit` is its compiled backend."""
    os.environ["BREVITAS_JIT"] = str(int(jit))  # read when it is imported
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where pip puts ninja
    import brevitas
    from brevitas.nn import QuantConv2d, QuantReLU

    if jit and not brevitas.NATIVE_STE_BACKEND_LOADED:
        sys.exit("Brevitas could not build its native backend: see BREVITAS_VERBOSE=1")

    def conv(channels: int, filters: int, kernel: int, stride: int) -> nn.Module:
        return QuantConv2d(channels, filters, kernel, stride, kernel // 2, bias=False, weight_bit_width=bits)

    return Layers(conv, lambda: QuantReLU(bit_width=bits))


class PadShortcut(nn.Module):
    """Every other pixel, and zeros for the channels that are new (option A)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (filters - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, layers: Layers, channels: int, filters: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_bn(layers, channels, filters, 3, stride), layers.relu())
        self.second = nn.Sequential(*conv_bn(layers, filters, filters))
        self.relu = layers.relu()
        self.shortcut: nn.Module = nn.Identity()
        if projection and (channels, stride) != (filters, 1):
            self.shortcut = nn.Sequential(*conv_bn(layers, channels, filters, 1, stride))
        elif (channels, stride) != (filters, 1):
            self.shortcut = PadShortcut(channels, filters, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


def conv_bn(layers: Layers, channels: int, filters: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution and its batch norm."""
    return [layers.conv(channels, filters, kernel, stride), nn.BatchNorm2d(filters)]


def resnet(layers: Layers, stages: list[int], blocks: int, projection: bool) -> nn.Module:
    """A residual network with `stages` of that many filters and `blocks` basic blocks in each."""
    channels = stages[0]
    modules = [*conv_bn(layers, 3, channels), layers.relu()]
    for stage, filters in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            modules.append(BasicBlock(layers, channels, filters, stride, projection))
            channels = filters
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def vgg(layers: Layers, stages: list[list[int]]) -> nn.Module:
    """Stages of 3x3 convolutions, a 2x2 maximum after each, and one linear layer."""
    channels = 3
    modules: list[nn.Module] = []
    for stage in stages:
        for filters in stage:
            modules += [*conv_bn(layers, channels, filters), layers.relu()]
            channels = filters
        modules.append(nn.MaxPool2d(2))
    side = 32 >> len(stages)
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * side * side, CLASSES))


NETS: dict[str, Callable[[Layers], nn.Module]] = {
    "resnet20": lambda layers: resnet(layers, [16, 32, 64], 3, projection=False),
    "resnet18": lambda layers: resnet(layers, [64, 128, 256, 512], 2, projection=True),
    "vgg16": lambda layers: vgg(layers, [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]),
    "vgg8": lambda layers: vgg(layers, [[64] * 2, [128] * 2, [256] * 2]),
}
