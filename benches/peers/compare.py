"""Runs this project's steps and its peers' in turn, and compares their speed and memory."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
OURS = "ours"
OURS_FLOAT = "ours float"

Result = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One comparison: our step in `mode` beside `peers`, and beside our own float step for `w4a4-*`."""

    name: str
    net: str
    batch: int
    mode: str
    peers: tuple[str, ...]


FLOAT_PEERS = ("eager", "compile")
ROWS = (
    Row("resnet20-train", "resnet20", 128, "float", FLOAT_PEERS),
    Row("vgg16-train", "vgg16", 64, "float", FLOAT_PEERS),
    Row("resnet18-train", "resnet18", 64, "float", FLOAT_PEERS),
    Row("vgg8-train", "vgg8", 128, "float", FLOAT_PEERS),
    Row("resnet20-infer", "resnet20", 128, "inference", FLOAT_PEERS),
    Row("resnet20-w4a4", "resnet20", 128, "w4a4-ema", ("brevitas", "brevitas-jit")),
)


@dataclass(frozen=True)
class Runner:
    """Starts measurements in processes of their own."""

    ours: list[str]
    threads: int
    seconds: float

    def peak(self) -> float:
        """GFLOP/s that the machine gives a matrix product."""
        return self.our("peak")["peak_gflops"]

    def measure(self, row: Row, contender: str) -> Result:
        """The result of one contender of a row."""
        if contender in (OURS, OURS_FLOAT):
            return self.our_step(row.net, row.batch, row.mode if contender == OURS else "float")
        mode = "infer" if row.mode == "inference" else "train"
        step = [sys.executable, str(HERE / "step.py"), row.net, "--batch", str(row.batch), "--variant", contender]
        return run([*step, "--mode", mode, "--seconds", str(self.seconds), "--threads", str(self.threads)])

    def our_step(self, net: str, batch: int, mode: str) -> Result:
        """The result of our program, checked to be the one that was asked for."""
        result = self.our("step", net, str(batch), mode)
        asked = {"net": net, "mode": mode, "batch": batch, "threads": self.threads}
        measured = {key: result[key] for key in asked}
        if measured != asked:
            sys.exit(f"asked for {asked}, measured {measured}")
        return result

    def our(self, *arguments: str) -> Result:
        """The result of our program."""
        return run([*self.ours, *arguments], RAYON_NUM_THREADS=str(self.threads))


def run(command: list[str], **environment: str) -> Result:
    """The last line of JSON that a command prints."""
    process = subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True)
    lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not lines:
        sys.exit(f"{shlex.join(command)} (exit status {process.returncode}):\n{process.stdout}{process.stderr}")
    return json.loads(lines[-1])


@dataclass
class Record:
    """The results of a row's contenders, one a round."""

    row: Row
    results: dict[str, list[Result]] = field(init=False)

    def __post_init__(self) -> None:
        own = (OURS, OURS_FLOAT) if self.row.mode.startswith("w4a4") else (OURS,)
        self.results = {contender: [] for contender in own + self.row.peers}

    def speeds(self, contender: str) -> list[float]:
        """Images a second in each round."""
        return [result["images_per_second"] for result in self.results[contender]]

    def memory(self, contender: str) -> float:
        """Peak memory in MiB, the largest of all rounds."""
        return max(result["peak_rss_mib"] for result in self.results[contender])

    def ratios(self, contenders: Iterable[str]) -> list[float]:
        """Our speed over that of the fastest of `contenders` in each round."""
        columns = [self.speeds(contender) for contender in contenders]
        return [our / max(theirs) for our, *theirs in zip(self.speeds(OURS), *columns, strict=True)]

    def json(self) -> Result:
        """Everything that was measured, and the ratio of each round."""
        summary: Result = {"name": self.row.name, "results": self.results, "ratios": self.ratios(self.row.peers)}
        if OURS_FLOAT in self.results:
            summary["ratios_to_own_float"] = self.ratios([OURS_FLOAT])
        return summary

    def line(self) -> str:
        """The row as a line of the Markdown table."""
        own = [self.cell(contender) for contender in self.results if contender not in self.row.peers]
        peers = [self.cell(contender) for contender in self.row.peers]
        memory = [f"{contender} {self.memory(contender):.0f}" for contender in self.results]
        ratio = spread(self.ratios(self.row.peers), 2)
        share = spread([result["share_of_peak"] for result in self.results[OURS]], 2)
        cells = [self.row.name, self.row.batch, ", ".join(own), ", ".join(peers), ratio, share, ", ".join(memory)]
        return "| " + " | ".join(map(str, cells)) + " |"

    def cell(self, contender: str) -> str:
        """Median and spread of a contender's speed."""
        return f"{contender} {spread(self.speeds(contender), 1)}"


def spread(values: list[float], decimals: int) -> str:
    """Median, least and most."""
    middle, least, most = (f"{value:.{decimals}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def table(records: list[Record], peaks: list[float]) -> str:
    """The comparison in Markdown."""
    lines = [
        f"Images/s, ratio and share: median of {len(peaks)} rounds (least to most). Peak: {spread(peaks, 1)} GFLOP/s.",
        "",
        "| row | batch | ours | peers | ours / fastest peer | our share of the peak | peak MiB |",
        "|---|---|---|---|---|---|---|",
        *(record.line() for record in records),
    ]
    for record in records:
        if OURS_FLOAT in record.results:
            slowdown = spread([1 / ratio for ratio in record.ratios([OURS_FLOAT])], 2)
            lines += ["", f"{record.row.name}: our step takes {slowdown} times as long as our float step."]
    return "\n".join(lines)


def measure_round(runner: Runner, records: list[Record], title: str, backwards: bool) -> None:
    """One result for each contender; every other round goes backwards, so that none always follows the same one."""
    for record in records:
        for contender in sorted(record.results, key=list(record.results).index, reverse=backwards):
            result = runner.measure(record.row, contender)
            record.results[contender].append(result)
            speed = f"{result['images_per_second']:.1f} images/s"
            print(f"{title}: {record.row.name}, {contender}: {speed}", file=sys.stderr)


def arguments() -> argparse.Namespace:
    """The command line."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--ours", default="cargo bench --bench speed --", help="before what it measures")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5, help="least time to measure a peer for")
    parser.add_argument("--json", type=Path, help="after each round, writes every result to this file")
    return parser.parse_args()


def main() -> None:
    """Compares what the command line asks for."""
    args = arguments()
    runner = Runner(shlex.split(args.ours), args.threads, args.seconds)
    records = [Record(row) for row in ROWS if row.name in args.rows]
    peaks: list[float] = []
    for number in range(args.rounds):
        title = f"round {number + 1} of {args.rounds}"
        peaks.append(runner.peak())
        print(f"{title}: peak: {peaks[-1]:.1f} GFLOP/s", file=sys.stderr)
        measure_round(runner, records, title, backwards=number % 2 == 1)
        if args.json:
            summary = {"threads": args.threads, "peak_gflops": peaks, "rows": [record.json() for record in records]}
            args.json.write_text(json.dumps(summary, indent=2) + "\n")
    print(table(records, peaks))


if __name__ == "__main__":
    main()
