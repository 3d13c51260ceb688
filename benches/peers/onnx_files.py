"""Compares the logits of this project with ONNX Runtime's, for networks as PyTorch's two exporters write them.

Networks have random weights and running statistics of random images; ONNX Runtime computes on the input that MARS computes with,
`(byte - z) / (255 std)`. Needs torchvision, onnx, onnxscript and onnxruntime beside torch, and `cargo build --release`.
"""

import argparse
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy
import onnxruntime
import torch
import torchvision
from torch import nn
from torch.nn import functional

PROGRAM = Path(__file__).resolve().parents[2] / "target/release/mars-train"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10


class Lenet(nn.Module):
    """As PyTorch's own example for MNIST: maxima before the ReLU, dropout, a log-softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 5, padding=2)
        self.dropout, self.fc1, self.fc2 = nn.Dropout2d(), nn.Linear(784, 12), nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.dropout(self.conv2(x)), 2))
        x = functional.relu(self.fc1(x.view(-1, 784)))
        return functional.log_softmax(self.fc2(functional.dropout(x, training=self.training)), dim=1)


class Block(nn.Module):
    """Of a CIFAR ResNet: a shortcut of every second pixel with channels of zeros, or a projection."""

    def __init__(self, channels: int, filters: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters)
        self.padding = (filters - channels) // 2
        if stride != 1 and projected:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
        elif stride != 1:
            self.shortcut = lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + self.shortcut(x))


class Resnet(nn.Module):
    """A short CIFAR ResNet; another epsilon in its first batch norm."""

    def __init__(self, projected: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.blocks = nn.Sequential(Block(8, 8, 1, projected), Block(8, 16, 2, projected))
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.relu(self.bn1(self.conv1(x))))
        return self.linear(functional.avg_pool2d(x, x.size(3)).view(x.size(0), -1))


class Means(nn.Module):
    """A mean over both axes, and a product with a bias added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.conv(x)).mean((2, 3)) @ self.linear.weight.t() + self.linear.bias


def sequential() -> nn.Module:
    """A border of its own, a batch norm behind a linear layer, a softmax."""
    return nn.Sequential(
        nn.ZeroPad2d(1),
        nn.Conv2d(3, 8, 3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(16),
        nn.Flatten(),
        nn.Linear(32, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(16, CLASSES),
        nn.Softmax(1),
    )


def depthwise() -> nn.Module:
    """The blocks of a MobileNetV1, with ReLU6."""
    layers = []
    for channels, filters, kernel, stride, groups in [
        (3, 8, 3, 2, 1),
        (8, 8, 3, 1, 8),
        (8, 20, 1, 1, 1),
        (20, 20, 5, 2, 4),
        (20, 12, 1, 1, 1),
    ]:
        conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
        layers += [conv, nn.BatchNorm2d(filters), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES))


class Signed(nn.Module):
    """Values without an activation: inverted residuals as torchvision has them, a sum of two convolutions, a maximum and a mean of such values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        block = torchvision.models.mobilenetv2.InvertedResidual
        self.blocks = nn.Sequential(block(8, 8, 1, 6), block(8, 8, 1, 6), block(8, 12, 2, 6))
        self.left, self.right = nn.Conv2d(12, 16, 3, 1, 1), nn.Conv2d(12, 16, 3, 1, 1)
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        x = functional.max_pool2d(self.left(x) + self.right(x), 2)
        return self.linear(x.mean((2, 3)))


def windows() -> nn.Module:
    """Windows that differ by side, dilated kernels, borders that differ by side, "same" padding of an even kernel."""
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 1), padding=(1, 0)),
        nn.ReLU(),
        nn.Conv2d(8, 8, (1, 7), (1, 2), padding=(0, 3), bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=2, dilation=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.ZeroPad2d((1, 0, 2, 1)),
        nn.Conv2d(12, 12, 3, (2, 1), padding=(0, 1), dilation=(1, 2), groups=3),
        nn.ReLU(),
        nn.MaxPool2d((2, 3), (2, 1), (0, 1)),
        nn.Conv2d(12, 8, (4, 2), padding="same"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def means() -> nn.Module:
    """Means that overlap, that leave pixels over, and whose border counts; several linear layers behind a flattened map."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, 1, 1),
        nn.ReLU(),
        nn.AvgPool2d((2, 3), (1, 2), (1, 0)),
        nn.Conv2d(12, 12, 1),
        nn.ReLU(),
        nn.AvgPool2d((4, 2), 3),
        nn.Flatten(),
        nn.Linear(24, 20),
        nn.ReLU(),
        nn.Linear(20, 14),
        nn.ReLU(),
        nn.Linear(14, CLASSES),
    )


class Fires(nn.Module):
    """Concatenation: fire modules, branches that are pooled, maxima that round up, flattened maps behind each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.fires = nn.Sequential(
            torchvision.models.squeezenet.Fire(8, 4, 6, 6),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            torchvision.models.squeezenet.Fire(12, 4, 6, 10),
        )
        self.left, self.right = nn.Conv2d(16, 8, (1, 3), padding=(0, 1)), nn.Conv2d(16, 8, 1)
        self.linear = nn.Linear(24 * 64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fires(functional.relu(self.stem(x)))
        left, right = functional.relu(self.left(x)), functional.relu(self.right(x))
        x = torch.cat([left, functional.avg_pool2d(right, 3, 1, 1)], 1)
        x, right = functional.max_pool2d(x, 2), functional.max_pool2d(right, 2)
        return self.linear(torch.cat([x.flatten(1), right.flatten(1)], 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "lenet": (Lenet, 32, 64),
    "resnet-padded": (lambda: Resnet(False), 32, 64),
    "resnet-projected": (lambda: Resnet(True), 32, 64),
    "means": (Means, 32, 64),
    "sequential": (sequential, 32, 64),
    "depthwise": (depthwise, 32, 64),
    "signed": (Signed, 32, 64),
    "windows": (windows, 32, 64),
    "overlapping-means": (means, 32, 64),
    "fires": (Fires, 32, 64),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=CLASSES), 64, 64),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=CLASSES), 64, 64),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=CLASSES), 64, 64),
    "googlenet": (lambda: torchvision.models.googlenet(num_classes=CLASSES, aux_logits=False, init_weights=False), 64, 64),
    "inception_v3": (
        lambda: torchvision.models.inception_v3(num_classes=CLASSES, aux_logits=False, init_weights=False),
        128,
        16,
    ),
    "vgg16_bn": (lambda: torchvision.models.vgg16_bn(num_classes=CLASSES), 224, 10),
}


def settled(net: nn.Module, side: int) -> nn.Module:
    """The network with statistics of random images, to be evaluated."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = None
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, side, side))
    return net.eval()


def images(file: Path, side: int, count: int) -> numpy.ndarray:
    """Writes coarse random images as a data set."""
    random = numpy.random.default_rng(0)
    coarse = random.integers(0, 256, (count, side // 4, side // 4, 3)).repeat(4, 1).repeat(4, 2)
    pixels = numpy.clip(coarse + random.integers(-20, 20, coarse.shape), 0, 255).astype("uint8")
    labels = (numpy.arange(count) % CLASSES).astype("uint8")
    numpy.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return pixels


def exports(net: nn.Module, side: int, folder: Path) -> dict[str, Path]:
    """The network as each exporter writes it, with a batch of one and with an open one, batch norm folded and left alone."""
    image = (torch.randn(1, 3, side, side),)
    files = {}

    def export(title: str, **how: object) -> None:
        files[title] = folder / f"{title.replace(' ', '-')}.onnx"
        torch.onnx.export(net, image, files[title], input_names=["image"], **how)

    export("TorchScript", dynamo=False)
    export("TorchScript open batch", dynamo=False, dynamic_axes={"image": {0: "batch"}})
    apart = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    export("TorchScript norm apart", dynamo=False, **apart)
    export("dynamo", dynamo=True, verbose=False)
    export("dynamo open batch", dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("batch")},))
    export("dynamo norm apart", dynamo=True, verbose=False, optimize=False)
    return files


def compare(title: str, file: Path, data: Path, pixels: numpy.ndarray) -> None:
    zero, scale = (numpy.array(values).reshape(1, -1, 1, 1) for values in (numpy.round(255 * numpy.float32(MEAN)), STD))
    inputs = ((pixels.transpose(0, 3, 1, 2) - zero) / (255 * scale)).astype("float32")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    expected = numpy.concatenate([session.run(None, {"image": image[None]})[0] for image in inputs])
    result = data.with_name("result.json")
    command = [PROGRAM, "--evaluate", "--quiet", "--dataset", data, "--model", file, "--json", result]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = torch.tensor(json.loads(result.read_text())["logits"])
    if numpy.allclose(expected.sum(1), 1):
        found = found.softmax(1)
    elif numpy.allclose(numpy.exp(expected).sum(1), 1):
        found = found.log_softmax(1)
    found = found.numpy()
    differ = int((found.argmax(1) != expected.argmax(1)).sum())
    apart = numpy.abs(found - expected).max() / (expected.max() - expected.min())
    print(f"{title:45} {differ} of {len(pixels)} predictions differ, outputs by {apart:.1e} of their range", flush=True)
    assert differ == 0 and apart < 1e-3, f"{title} is another network"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="all without one")
    names = parser.parse_args().networks or list(NETWORKS)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    for name in names:
        make, side, count = NETWORKS[name]
        folder = Path(tempfile.mkdtemp())
        data = folder / "images.npz"
        pixels = images(data, side, count)
        for title, file in exports(settled(make(), side), side, folder).items():
            compare(f"{name}, {title}", file, data, pixels)


if __name__ == "__main__":
    main()
