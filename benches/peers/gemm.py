"""GFLOP/s of torch's float matrix product, the yardstick of the machine, as one line of JSON."""

import argparse
import json

import torch

from timing import measure


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="least time to measure for (default: 2)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    a, b, out = torch.randn(3, args.size, args.size)
    times = measure(lambda: torch.mm(a, b, out=out), 3, args.seconds)
    gflop = 2 * args.size**3 / 1e9
    speeds = {"median": gflop / times.median, "min": gflop / times.max, "max": gflop / times.min}
    result = {"name": "gemm", "size": args.size, "threads": args.threads, "gflops": speeds, "steps": times.steps}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
