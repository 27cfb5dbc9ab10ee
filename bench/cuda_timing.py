"""Time on a GPU: events around calls that were enqueued in advance, and what the card can do at most.

A call's time on the device and on the host are two numbers. While a spinning kernel holds the device, the host enqueues
a whole turn; so the device then runs it without waiting for Python, and its time is the kernels' own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.racing import Timing

Call = Callable[[int], object]
"""Runs on the input of that number; inputs take turns."""
DTYPES = ("float16", "bfloat16", "tf32", "float32")
TURN_SECONDS = 3e-3
MOST_CALLS = 100
"""Of a turn: with a few kernels each they fit into the driver's queue, which holds about a thousand."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 9
_SPIN_HZ = 2e9
"""Cycles of a spinning kernel per second, or a little more than that."""
_COPY_BYTES = 1 << 30
_MATRIX_SIDE = 8192


@dataclass(frozen=True)
class Times:
    """Seconds of one call on the device and, to enqueue it, on the host.

    Attributes
    ----------
    gapless : bool
        Whether the host stayed ahead of the device in every turn; else `device` holds times of waiting.
    """

    device: Timing
    host: float
    gapless: bool


def take_turns(calls: dict[str, Call], seconds: float) -> dict[str, Times]:
    """Time each in turn, in another order every round, for about `seconds` in all; medians of the rounds."""
    counts = {name: _calls(call) for name, call in calls.items()}
    turns: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in calls}
    # Long enough from the second turn on: a turn that the host lost is thrown away.
    spins = dict.fromkeys(calls, 1e-3)
    order, rng, begin = list(calls), np.random.default_rng(0), time.perf_counter()
    for done in range(1, MOST_ROUNDS + 1):
        rng.shuffle(order)
        for name in order:
            turns[name].append(turn(calls[name], counts[name], spins[name]))
            spins[name] = max(1e-3, 2.5 * turns[name][-1][1] * counts[name])
        spent = time.perf_counter() - begin
        if done >= FEWEST_ROUNDS and spent * (done + 1) / done > seconds:
            break
    return {name: _times(taken) for name, taken in turns.items()}


def turn(call: Call, count: int, spin: float = 1e-3) -> tuple[float, float, bool]:
    """Return seconds a call on the device and on the host, and whether the host stayed ahead."""
    import torch

    for _ in range(4):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(int(spin * _SPIN_HZ))
        start.record()
        begin = time.perf_counter()
        for number in range(count):
            call(number)
        host = time.perf_counter() - begin
        end.record()
        ahead = not start.query()
        end.synchronize()
        if ahead:
            break
        spin = 2 * host + spin
    return start.elapsed_time(end) / 1e3 / count, host / count, ahead


def _calls(call: Call) -> int:
    """Choose how many calls a turn has; compiles and tunes whatever the first call does."""
    for number in range(3):
        call(number)
    once = turn(call, 2)[0]
    return max(2, min(MOST_CALLS, int(TURN_SECONDS / max(once, 1e-7))))


def _times(taken: list[tuple[float, float, bool]]) -> Times:
    device, host, ahead = zip(*taken, strict=True)
    low, median, high = statistics.quantiles(device, n=4) if len(device) > 1 else (device[0],) * 3
    return Times(Timing(median, low, high), statistics.median(host), all(ahead))


def limits(device: str) -> dict[str, Any]:
    """Measure bytes a second of a large copy, read plus written, and FLOP/s of a large matrix product of each dtype."""
    import torch

    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copy = 2 * _COPY_BYTES / _best(lambda _, source=source, target=target: target.copy_(source))
    del source, target
    flops = {}
    for dtype in DTYPES:
        side = _MATRIX_SIDE // 2 if dtype == "float32" else _MATRIX_SIDE
        a, b = (torch.randn(side, side, device=device).to(torch_dtype(dtype)) for _ in range(2))
        out = torch.empty_like(a)
        allow_tf32(dtype == "tf32")
        flops[dtype] = 2 * side**3 / _best(lambda _, a=a, b=b, out=out: torch.matmul(a, b, out=out))
        del a, b, out
        torch.cuda.empty_cache()
    return {"copy_bytes_per_s": copy, "matrix_product_flops_per_s": flops}


def _best(call: Call) -> float:
    for number in range(3):
        call(number)
    return min(turn(call, 3)[0] for _ in range(7))


def torch_dtype(dtype: str) -> Any:
    """Return PyTorch's dtype for one of `DTYPES`."""
    import torch

    return getattr(torch, "float32" if dtype == "tf32" else dtype)


def allow_tf32(allowed: bool) -> None:
    """Let PyTorch's convolutions and matrix products round float32 factors, or forbid it."""
    import torch

    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
