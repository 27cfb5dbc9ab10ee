"""How strides are measured: memory in a first run, aliasing from stride 1's spectrum, time in rounds, taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from stridekit import vram
from stridekit.compare.aliasing import spectral_energy
from stridekit.compare.units import format_stride
from stridekit.errors import DtypeError, ShapeError
from stridekit.plan import PackedWeight, Plan

Stride: TypeAlias = tuple[int, ...]
Progress: TypeAlias = Callable[[str, int, int], None]

BASELINE: Stride = (1, 1)

_TIMING_SECONDS = 3.0
_FEWEST_REPEATS, _MOST_REPEATS = 5, 50


@dataclass
class StrideRun:
    """One stride while it is measured.

    Attributes
    ----------
    plan : Plan
    packed : PackedWeight
    output : array, shape (N, K, P, Q)
        The response, written anew by every execution.
    peak_bytes : int
        Measured in the first execution, which allocates its own output; operands included.
    seconds : list of float
        Of each timed execution.
    """

    plan: Plan
    packed: PackedWeight
    output: np.ndarray
    peak_bytes: int
    seconds: list[float] = field(default_factory=list)


def warm_up(
    plans: dict[Stride, Plan], pixels: np.ndarray, weight: np.ndarray, report: Progress
) -> dict[Stride, StrideRun]:
    """Run each plan once: this compiles, and measures the memory of a call that allocates its own output."""
    runs = {}
    for number, (stride, plan) in enumerate(plans.items()):
        report(f"first run, stride {format_stride(stride)}", number, len(plans))
        packed = plan.pack(weight)
        with vram.track() as usage:
            output = plan.execute(pixels, packed)
        runs[stride] = StrideRun(plan, packed, output, pixels.nbytes + packed.nbytes + usage.peak)
    report("first runs", len(plans), len(plans))
    return runs


def spectra_of(runs: dict[Stride, StrideRun], dtype: str, report: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Energy (filters,) and energy beyond each stride's limits (strides, filters), summed over the batch."""
    response = runs[BASELINE].output
    batch, filters = response.shape[:2]
    try:
        total, beyond = spectral_energy(
            response, list(runs), progress=lambda done, of: report("measuring aliased energy", done, of)
        )
    except ShapeError:
        raise DtypeError(f"the response overflows {dtype}; a wider dtype or smaller weights fit") from None
    return total.reshape(batch, filters).sum(0), beyond.reshape(len(runs), batch, filters).sum(1)


def take_turns(runs: dict[Stride, StrideRun], pixels: np.ndarray, repeats: int | None, report: Progress) -> int:
    """Time the strides round-robin; return the number of rounds."""
    rounds = 1 if repeats is None else repeats
    done = 0
    while done < rounds:
        for run in runs.values():
            start = time.perf_counter()
            # Into the output of the warm-up: else the page faults of fresh memory would be timed, not the convolution.
            run.plan.execute(pixels, run.packed, out=run.output)
            run.seconds.append(time.perf_counter() - start)
        done += 1
        if repeats is None and done == 1:
            once = sum(run.seconds[0] for run in runs.values())
            rounds = min(_MOST_REPEATS, max(_FEWEST_REPEATS, int(_TIMING_SECONDS / once)))
        report("timing", done, rounds)
    return rounds
