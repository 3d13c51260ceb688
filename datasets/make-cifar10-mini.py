#!/usr/bin/env python3
"""Makes datasets/cifar10-mini from CIFAR-10 in the official binary layout.

    python3 datasets/make-cifar10-mini.py PATH/cifar-10-batches-bin

Needs numpy and Pillow. 300 images of each class come from the training batches and 80 from the test batch. They are
chosen by a hash of the seed and the pixels, so the choice depends on the seed alone, not on the order of the images in
the files. Each half becomes one lossless WebP sheet of 20 columns, read row by row; an image's class is its column
modulo 10. The last lines printed are the SHA-256 of the decoded pixels ([n][3][32][32], training then test) and of
each sheet.
"""

import hashlib
import pathlib
import sys

import numpy
from PIL import Image

SEED = b"cifar10-mini 1"
CLASSES = 10
COLUMNS = 20


def choose(files, per_class):
    """`per_class` images of each class, shape [n, 3, 32, 32]; image `i` has class `i % 10`."""
    records = numpy.concatenate([numpy.fromfile(file, numpy.uint8).reshape(-1, 3073) for file in files])
    chosen = []
    for label in range(CLASSES):
        images = {record.tobytes() for record in records[records[:, 0] == label, 1:]}
        ranked = sorted(images, key=lambda image: hashlib.sha256(SEED + image).digest())[:per_class]
        chosen.append([numpy.frombuffer(image, numpy.uint8) for image in ranked])
    return numpy.array(chosen).swapaxes(0, 1).reshape(-1, 3, 32, 32)


def write_sheet(images, path):
    """Images side by side, `COLUMNS` to a row, checked by reading them back."""
    rows = len(images) // COLUMNS
    sheet = images.reshape(rows, COLUMNS, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(rows * 32, COLUMNS * 32, 3)
    Image.fromarray(sheet).save(path, "webp", lossless=True, quality=100, method=6)
    assert (numpy.asarray(Image.open(path)) == sheet).all()


def main():
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(__file__).parent / "cifar10-mini"
    target.mkdir(exist_ok=True)
    train = choose([source / f"data_batch_{batch}.bin" for batch in range(1, 6)], 300)
    test = choose([source / "test_batch.bin"], 80)
    write_sheet(train, target / "train.webp")
    write_sheet(test, target / "test.webp")
    print("pixels", hashlib.sha256(train.tobytes() + test.tobytes()).hexdigest())
    for name in ("train.webp", "test.webp"):
        data = (target / name).read_bytes()
        print(name, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
