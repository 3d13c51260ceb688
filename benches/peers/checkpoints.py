"""Compares the logits of this project with PyTorch's, for checkpoints as PyTorch programs save them.

Networks have random weights and running statistics of random images; PyTorch computes on the input that MARS computes with.
Needs torchvision and timm beside torch, and `cargo build --release`.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy
import timm
import torch
import torchvision
from torch import nn

PROGRAM = Path(__file__).resolve().parents[2] / "target/release/mars-train"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES, CLASSES = 64, 10
VGG = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]


class Vgg(nn.Module):
    """VGG11 with batch norm and three linear layers, as torchvision and chenyaofo name it."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for filters in VGG:
            if filters == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
                channels = filters
        self.features = nn.Sequential(*layers)
        hidden = [nn.Linear(512, 512), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


def sequential() -> nn.Module:
    """Another epsilon, and a bias before a batch norm."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16, eps=1e-3),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.BatchNorm2d(24, eps=1e-3),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(24 * 64, 30),
        nn.ReLU(),
        nn.Linear(30, CLASSES),
    )


def description(epsilon: float, layers: Iterable[dict]) -> str:
    """A network's TOML file."""
    lines = ['name = "peer"', "input = [3, 32, 32]", f"classes = {CLASSES}", f"batch_norm_epsilon = {epsilon}"]
    for number, layer in enumerate(layers):
        lines += ["[[layers]]", f'name = "layer{number}"', *(f"{key} = {json.dumps(value)}" for key, value in layer.items())]
    return "\n".join(lines)


def conv(filters: int, stride: int = 1) -> dict:
    return {"op": "conv", "filters": filters, "kernel": 3, "padding": 1, "stride": stride}


def linear(filters: int) -> dict:
    return {"op": "linear", "filters": filters}


POOL = {"op": "max_pool", "kernel": 2, "stride": 2}


def settled(net: nn.Module, side: int) -> nn.Module:
    """The network with statistics of random images, to be evaluated."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.momentum = None
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(32, 3, side, side))
    return net.eval()


def images(file: Path, side: int) -> numpy.ndarray:
    """Writes coarse random images as a data set."""
    random = numpy.random.default_rng(0)
    coarse = random.integers(0, 256, (IMAGES, side // 4, side // 4, 3)).repeat(4, 1).repeat(4, 2)
    pixels = numpy.clip(coarse + random.integers(-20, 20, coarse.shape), 0, 255).astype("uint8")
    labels = (numpy.arange(IMAGES) % CLASSES).astype("uint8")
    numpy.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return pixels


def compare(title: str, net: nn.Module, checkpoint: Path, data: Path, pixels: numpy.ndarray, model: str) -> None:
    zero, scale = (numpy.array(values).reshape(1, -1, 1, 1) for values in (numpy.round(255 * numpy.float32(MEAN)), STD))
    with torch.no_grad():
        expected = net(torch.tensor((pixels.transpose(0, 3, 1, 2) - zero) / (255 * scale)).float()).numpy()
    result = data.with_name("result.json")
    command = [PROGRAM, "--evaluate", "--quiet", "--pretrained", checkpoint, "--dataset", data, "--model", model]
    subprocess.run([*command, "--json", result], check=True, stdout=subprocess.DEVNULL)
    found = numpy.array(json.loads(result.read_text())["logits"])
    differ = int((found.argmax(1) != expected.argmax(1)).sum())
    apart = numpy.abs(found - expected).max() / (expected.max() - expected.min())
    print(f"{title:45} {differ} of {IMAGES} predictions differ, logits by {apart:.1e} of their range", flush=True)


def main() -> None:
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    data = {side: (folder / f"{side}.npz", images(folder / f"{side}.npz", side)) for side in (64, 32)}
    checkpoint = folder / "checkpoint.pt"

    def row(title: str, net: nn.Module, saved: object, side: int, model: str, **how: bool) -> None:
        torch.save(saved, checkpoint, **how)
        compare(title, net, checkpoint, *data[side], model)

    net = settled(torchvision.models.resnet18(num_classes=CLASSES), 64)
    weights, optimizer = net.state_dict(), torch.optim.SGD(net.parameters(), 0.1).state_dict()
    prefixed = {f"model.{name}": value for name, value in weights.items()}
    parallel = nn.DataParallel(net).state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    imagenet = "resnet18_imagenet"
    row("torchvision ResNet18, state dict", net, weights, 64, imagenet)
    row("  older format", net, weights, 64, imagenet, _use_new_zipfile_serialization=False)
    row("  whole module", net, net, 64, imagenet)
    row("  DataParallel in a training program's dict", net, {"epoch": 3, "state_dict": parallel, "optimizer": optimizer}, 64, imagenet)
    row("  torch.compile", net, torch.compile(net).state_dict(), 64, imagenet)
    row("  Lightning", net, {"state_dict": prefixed, "optimizer_states": [optimizer]}, 64, imagenet)
    row("  16 bits", net, half, 64, imagenet)
    for name, zoo in [("resnet50", "resnet50_imagenet"), ("mobilenet_v2", "mobilenetv2_imagenet")]:
        net = settled(getattr(torchvision.models, name)(num_classes=CLASSES), 64)
        row(f"torchvision {name}", net, net.state_dict(), 64, zoo)
    net = settled(timm.create_model("resnet18", num_classes=CLASSES), 64)
    row("timm ResNet18", net, {"state_dict": net.state_dict()}, 64, imagenet)
    model = folder / "vgg.toml"
    model.write_text(description(1e-5, [*(POOL if f == "M" else conv(f) for f in VGG), linear(512), linear(512), linear(CLASSES)]))
    net = settled(Vgg(), 32)
    row("VGG11-BN, three linear layers", net, net.state_dict(), 32, str(model))
    model = folder / "sequential.toml"
    model.write_text(description(1e-3, [conv(16), conv(24, 2), POOL, linear(30), linear(CLASSES)]))
    net = settled(sequential(), 32)
    row("nn.Sequential, epsilon 1e-3", net, net.state_dict(), 32, str(model))


if __name__ == "__main__":
    main()
