"""Fair timing on a shared machine: contenders take turns in one process, medians are compared as ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TARGET_SECONDS = 0.03
"""How long one turn lasts: enough calls that the clock and the switch between contenders do not matter."""
_MOST_CALLS = 400
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the turns."""

    median: float
    low: float
    high: float


def race(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time every contender `rounds` times, in turn; the order changes from round to round.

    Before each turn there is a pause, in which the idle threads of the one before stop spinning, and the contender
    runs a while untimed, so that no one pays for what another left behind.
    """
    calls = {name: _calls(call) for name, call in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            call = contenders[name]
            time.sleep(_PAUSE_SECONDS)
            for _ in range(max(1, calls[name] // 8)):
                call()
            begin = time.perf_counter()
            for _ in range(calls[name]):
                call()
            times[name].append((time.perf_counter() - begin) / calls[name])
    return {name: _timing(taken) for name, taken in times.items()}


def _calls(call: Callable[[], object]) -> int:
    call()
    begin = time.perf_counter()
    call()
    return max(1, min(_MOST_CALLS, int(TARGET_SECONDS / max(time.perf_counter() - begin, 1e-7))))


def _timing(taken: list[float]) -> Timing:
    if len(taken) < 2:
        return Timing(taken[0], taken[0], taken[0])
    low, median, high = statistics.quantiles(taken, n=4)
    return Timing(median, low, high)
