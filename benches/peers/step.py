"""Images a second of one training step or one inference in PyTorch or Brevitas, as one line of JSON."""

import argparse
import json
import resource
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets import CLASSES, NETS, brevitas_layers, float_layers
from timing import measure

VARIANTS = ("eager", "compile", "brevitas", "brevitas-jit")
BITS = 4
SIDE = 32
COLORS = 3
CROP_PADDING = 4
WARMUP_STEPS = 3
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]) * 255
STD = torch.tensor([0.2470, 0.2435, 0.2616]) * 255


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--mode", choices=("train", "infer"), required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5, help="least time to measure for (default: 5)")
    parser.add_argument("--no-augment", dest="augment", action="store_false", help="train on ready float images")
    return parser.parse_args()


def build(net: str, variant: str) -> nn.Module:
    """The network, channels last."""
    layers = brevitas_layers(BITS, variant == "brevitas-jit") if variant.startswith("brevitas") else float_layers()
    model = NETS[net](layers).to(memory_format=torch.channels_last)
    return torch.compile(model) if variant == "compile" else model


def augment(padded: Tensor) -> Tensor:
    """Random crops and flips of `[N][40][40][3]` bytes, normalized, as `[N][3][32][32]` channels last."""
    batch, side = padded.shape[:2]
    offsets = torch.randint(2 * CROP_PADDING + 1, (2, batch, 1))
    flips = torch.randint(2, (batch, 1), dtype=torch.bool)
    steps = torch.arange(SIDE)
    rows = torch.arange(batch)[:, None] * side + offsets[0] + steps
    columns = offsets[1] + torch.where(flips, steps.flip(0), steps)
    pixels = rows[:, :, None] * side + columns[:, None, :]
    crops = padded.view(-1, COLORS).index_select(0, pixels.view(-1))
    return normalize(crops.view(batch, SIDE, SIDE, COLORS))


def normalize(images: Tensor) -> Tensor:
    """Bytes `[N][H][W][3]` as floats `[N][3][H][W]`, channels last."""
    return images.float().sub_(MEAN).div_(STD).permute(0, 3, 1, 2)


def finish_statistics(model: nn.Module, images: Tensor) -> None:
    """Ends the phase of 300 steps in which Brevitas gathers statistics of activations; they make a step slower."""
    from brevitas.graph.calibrate import finalize_collect_stats

    model.train()
    model(normalize(images))
    model.apply(finalize_collect_stats)


def train_step(model: nn.Module, images: Tensor, augmented: bool) -> Callable[[], None]:
    """One step of SGD on the bytes `images`."""
    model.train()
    labels = torch.randint(CLASSES, (len(images),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    padded = F.pad(images, (0, 0) + (CROP_PADDING,) * 4)
    ready = normalize(images)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(augment(padded) if augmented else ready), labels).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """One evaluation of ready float images."""
    model.eval()
    ready = normalize(images)

    @torch.inference_mode()
    def step() -> None:
        model(ready)

    return step


def main() -> None:
    """Measures what the command line asks for."""
    args = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = build(args.net, args.variant)
    images = torch.randint(256, (args.batch, SIDE, SIDE, COLORS), dtype=torch.uint8)
    if args.variant.startswith("brevitas"):
        finish_statistics(model, images)
    step = train_step(model, images, args.augment) if args.mode == "train" else inference(model, images)
    times = measure(step, WARMUP_STEPS, args.seconds)
    seconds = asdict(times)
    result = {
        "name": f"{args.net}-{args.mode}-{args.variant}",
        "net": args.net,
        "variant": args.variant,
        "mode": args.mode,
        "batch": args.batch,
        "threads": args.threads,
        "images_per_second": args.batch / times.median,
        "steps": seconds.pop("steps"),
        "seconds": seconds,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
