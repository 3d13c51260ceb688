"""Writes tests/fixtures/onnx: small networks as PyTorch's exporters write them, and ONNX Runtime's logits beside each.

Needs what onnx_files.py needs. Byte `i` of the images is `(i i / 3 + 31 i) / 5` rounded down each time, of it the lowest eight bits.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch
from onnx_files import MEAN, NETWORKS, STD, exports, settled

FOLDER = Path(__file__).resolve().parents[2] / "tests/fixtures/onnx"
IMAGES, SIDE = 4, 32
KEPT = {
    "lenet": ["TorchScript"],
    "resnet-padded": ["TorchScript open batch", "dynamo", "dynamo norm apart"],
    "resnet-projected": ["TorchScript", "TorchScript norm apart", "dynamo open batch"],
    "means": ["TorchScript", "dynamo"],
    "sequential": ["TorchScript norm apart", "dynamo"],
    "depthwise": ["TorchScript", "dynamo", "dynamo norm apart"],
    "signed": ["TorchScript", "dynamo", "dynamo norm apart"],
    "windows": ["TorchScript", "dynamo norm apart"],
    "overlapping-means": ["dynamo"],
    "fires": ["TorchScript", "dynamo"],
}


def strip(file: Path) -> None:
    """Drops where in which program each node was made."""
    model = onnx.load(file, load_external_data=False)
    for part in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph]:
        part.ClearField("metadata_props")
    onnx.save(model, file)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    index = numpy.arange(IMAGES * 3 * SIDE * SIDE)
    pixels = ((index * index // 3 + 31 * index) // 5 % 256).reshape(IMAGES, 3, SIDE, SIDE)
    zero, scale = (numpy.array(values).reshape(1, -1, 1, 1) for values in (numpy.round(255 * numpy.float32(MEAN)), STD))
    inputs = ((pixels - zero) / (255 * scale)).astype("float32")
    logits = {}
    for name, titles in KEPT.items():
        # Beside their weights files have their own name, as the exporter writes them.
        folder = FOLDER / name
        folder.mkdir()
        for title, file in exports(settled(NETWORKS[name][0](), SIDE), SIDE, folder).items():
            if title in titles:
                session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
                outputs = [session.run(None, {"image": image[None]})[0][0] for image in inputs]
                strip(file)
                logits[f"{name}/{file.name}"] = [[float(value) for value in output] for output in outputs]
            else:
                file.unlink()
                file.with_suffix(".onnx.data").unlink(missing_ok=True)
    (FOLDER / "outputs.json").write_text(json.dumps(logits, indent=1) + "\n")


if __name__ == "__main__":
    main()
