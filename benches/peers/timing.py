"""Times of a repeated step."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST_STEPS = 7


@dataclass(frozen=True)
class Times:
    """Seconds of one step, over `steps` of them."""

    median: float
    min: float
    max: float
    steps: int


def measure(run: Callable[[], object], warmup: int, seconds: float) -> Times:
    """Times `run` after `warmup` calls, for at least `seconds` and at least `LEAST_STEPS` calls."""
    for _ in range(warmup):
        run()
    times: list[float] = []
    while len(times) < LEAST_STEPS or sum(times) < seconds:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return Times(statistics.median(times), min(times), max(times), len(times))
