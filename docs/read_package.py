#!/usr/bin/env python3
"""Reads a package `model.mars` with numpy, after docs/package-format.md: `python3 docs/read_package.py model.mars`."""

import hashlib
import json
import sys

import numpy


def read_package(path):
    """The header, and for each convolution its weights `[filters, channels of a group, height, width]` and its biases."""
    raw = open(path, "rb").read()
    length = int.from_bytes(raw[:8], "little")
    container = json.loads(raw[8 : 8 + length])
    header = json.loads(container.pop("__metadata__")["mars"])
    assert header["version"] in (1, 2, 3, 4), "another version of the format"
    digest = header["sha256"].encode()
    assert hashlib.sha256(raw.replace(digest, b"0" * 64, 1)).hexdigest() == header["sha256"], "damaged"

    def tensor(name):
        start, end = (8 + length + offset for offset in container[name]["data_offsets"])
        return numpy.frombuffer(raw[start:end], {"U8": "u1", "U16": "<u2", "I32": "<i4"}[container[name]["dtype"]])

    convs = {}
    for name, shape, groups, conv in convolutions(header):
        weights = dense_weights(shape, groups, conv, header["group"], tensor(name + ".index"), tensor(name + ".weights"))
        convs[name] = weights, tensor(name + ".bias")
    predictions = tensor("predictions") if header["predictions"] else None
    return header, convs, predictions


def convolutions(header):
    """Name, shape of the weights, groups of channels and header of each convolution."""
    maps = {"image": header["network"]["input"]}
    last = "image"
    for layer, numbers in zip(header["network"]["layers"], header["layers"]):
        inputs = layer.get("inputs", [layer.get("input", last)])
        channels, height, width = maps[inputs[0]]
        op, last = layer["op"], layer["name"]
        if op == "concat":
            maps[last] = [sum(maps[name][0] for name in inputs), height, width]
            continue
        kernel = sides(layer.get("kernel", [height, width]))
        stride = sides(layer.get("stride", kernel if op == "avg_pool" else 1))
        before, behind = border(layer.get("padding", 0))
        span = [(k - 1) * d + 1 for k, d in zip(kernel, sides(layer.get("dilation", 1)))]
        size = [(n + a + b - k) // s + 1 for n, a, b, k, s in zip([height, width], before, behind, span, stride)]
        maps[last] = [layer.get("filters", channels)] + size
        if op in ("conv", "linear"):
            groups = layer.get("groups", 1)
            yield last, [layer["filters"], channels // groups] + kernel, groups, numbers["conv"]
        if layer.get("add", {}).get("shortcut") == "projection":
            source = maps[layer["add"]["from"]][0]
            yield last + ".projection", [layer["filters"], source, 1, 1], 1, numbers["skip"]["conv"]


def sides(value):
    """One number is that of rows and of columns."""
    return value if isinstance(value, list) else [value, value]


def border(value):
    """Top and left, bottom and right; two numbers are those of rows and of columns."""
    numbers = sides(value)
    return numbers[:2], numbers[-2:]


def dense_weights(shape, groups, conv, group, index, stream):
    filters, depth, height, width = shape
    taps, bits = height * width, conv["weight_bits"]
    codes = numpy.unpackbits(index, bitorder="little")
    stream = numpy.unpackbits(stream, bitorder="little")
    dense = numpy.zeros((filters, depth, taps), numpy.int8)
    sets = [range(first, min(first + group["filters"], filters)) for first in range(0, filters, group["filters"])]
    first_channel = [number // (filters // groups) * depth for number in range(filters)]
    first_block = [first_channel[rows[0]] // group["channels"] for rows in sets]
    last_block = [(first_channel[rows[-1]] + depth - 1) // group["channels"] for rows in sets]
    blocks = max(last - first + 1 for first, last in zip(first_block, last_block))
    for rows, block_of_set, entry in zip(sets, first_block, conv["index"]):
        kept = decode(entry["code"], codes[: entry["bits"]], blocks * taps)
        codes = codes[-(-entry["bits"] // 8) * 8 :]
        for place in kept:
            block, tap = divmod(place, taps)
            channel = (block_of_set + block) * group["channels"]
            # Filters of a set that read the same channels lie together.
            for first in sorted({first_channel[row] for row in rows}):
                readers = [row for row in rows if first_channel[row] == first]
                columns = slice(max(channel - first, 0), max(channel + group["channels"] - first, 0))
                target = dense[readers[0] : readers[-1] + 1, columns, tap]
                values = stream[: target.size * bits].reshape(target.shape + (bits,)) @ (1 << numpy.arange(bits))
                stream = stream[target.size * bits :]
                target[...] = values - (values >> (bits - 1) << bits)
    return dense.reshape(shape)


def decode(code, bits, groups):
    """Numbers of the kept groups of a filter set."""
    if code == "bitmap":
        return [int(place) for place in numpy.flatnonzero(bits)]
    kept, group, bits = [], 0, iter(bits)
    while group < groups:
        zeros = 0
        while not next(bits):
            zeros += 1
        value = 1
        for _ in range(zeros):
            value = value << 1 | int(next(bits))
        group += value - 1
        if group < groups:
            kept.append(group)
        group += 1
    return kept


if __name__ == "__main__":
    header, convs, predictions = read_package(sys.argv[1])
    for name, (weights, bias) in convs.items():
        zeros, total = (weights == 0).mean(), weights.sum(dtype=int)
        print(f"{name}: {'x'.join(map(str, weights.shape))}, {zeros:.1%} zeros, weights sum to {total}")
