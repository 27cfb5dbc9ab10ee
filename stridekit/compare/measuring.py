"""How strides are measured: memory in a first run, aliasing from stride 1's spectrum, time in rounds, taking turns."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np

from stridekit import vram
from stridekit.backends import memory_of
from stridekit.compare.aliasing import spectral_energy
from stridekit.drawing.units import format_stride
from stridekit.errors import DtypeError, ShapeError
from stridekit.memory.arrays import Array
from stridekit.memory.limits import check_memory
from stridekit.memory.spaces import HOST, Memory, uploaded
from stridekit.planning.plan import PackedWeight, Plan

Stride: TypeAlias = tuple[int, ...]
Progress: TypeAlias = Callable[[str, int, int], None]

BASELINE: Stride = (1, 1)

_TIMING_SECONDS = 3.0
_FEWEST_REPEATS, _MOST_REPEATS = 5, 50


class Timed(Protocol):
    """What takes turns being timed."""

    seconds: list[float]

    def once(self) -> float:
        """Run, and return how long it took, in seconds."""


@dataclass
class StrideRun:
    """One stride while it is measured.

    Attributes
    ----------
    plan : Plan
    packed : PackedWeight
    pixels : array, shape (N, C, H, W)
        The input, where the plan runs.
    output : array, shape (N, K, P, Q)
        The response, there too, written anew by every execution.
    peak_bytes : int
        Measured in the first execution, which allocates its own output; operands included.
    seconds : list of float
        Of each timed execution.
    """

    plan: Plan
    packed: PackedWeight
    pixels: Array
    output: Array
    peak_bytes: int
    seconds: list[float] = field(default_factory=list)

    @property
    def memory(self) -> Memory:
        """Where the plan runs."""
        return memory_of(self.plan.backend, self.plan.device)

    @property
    def response(self) -> np.ndarray:
        """The output as a NumPy array."""
        return self.on_host(self.output)

    def on_host(self, array: Array) -> np.ndarray:
        """Return an array from where the plan runs as a NumPy array."""
        return array if isinstance(array, np.ndarray) else self.memory.download(array)

    def once(self) -> float:
        """Execute, and return how long it took."""
        # Into the output of the warm-up: else the page faults of fresh memory would be timed, not the convolution.
        return self.memory.seconds(partial(self.plan.execute, self.pixels, self.packed, out=self.output))


def check_room(plans: Collection[Plan]) -> None:
    """Refuse a comparison whose responses, which are all kept until the end, main memory does not hold."""
    usages = [vram.estimate(plan, packed=True) for plan in plans if memory_of(plan.backend, plan.device) is HOST]
    kept = sum(usage.output + usage.weight for usage in usages)
    filters = max((plan.problem.out_channels for plan in plans), default=0)
    largest = max((usage.peak for usage in usages), default=0)
    check_memory(f"a comparison of {filters} filters, stride by stride,", kept + largest)


def warm_up(
    plans: dict[Stride, Plan], pixels: np.ndarray, weight: np.ndarray, report: Progress
) -> dict[Stride, StrideRun]:
    """Run each plan once: this compiles, and measures the memory of a call that allocates its own output."""
    runs = {}
    first = next(iter(plans.values()))
    pixels = uploaded(pixels, memory_of(first.backend, first.device))
    for number, (stride, plan) in enumerate(plans.items()):
        report(f"first run, stride {format_stride(stride)}", number, len(plans))
        packed = plan.pack(weight)
        with vram.track() as usage:
            output = plan.execute(pixels, packed)
        runs[stride] = StrideRun(plan, packed, pixels, output, pixels.nbytes + packed.nbytes + usage.peak)
    report("first runs", len(plans), len(plans))
    return runs


def spectra_of(runs: dict[Stride, StrideRun], dtype: str, report: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Energy (filters,) and energy beyond each stride's limits (strides, filters), summed over the batch."""
    response = runs[BASELINE].response
    batch, filters = response.shape[:2]
    try:
        total, beyond = spectral_energy(
            response, list(runs), progress=lambda done, of: report("measuring aliased energy", done, of)
        )
    except ShapeError:
        raise DtypeError(f"the response overflows {dtype}; a wider dtype or smaller weights fit") from None
    return total.reshape(batch, filters).sum(0), beyond.reshape(len(runs), batch, filters).sum(1)


def take_turns(runs: Collection[Timed], repeats: int | None, report: Progress, what: str = "timing") -> int:
    """Time the runs round-robin; return the number of rounds."""
    rounds = 1 if repeats is None else repeats
    done = 0
    while done < rounds:
        for run in runs:
            run.seconds.append(run.once())
        done += 1
        if repeats is None and done == 1:
            once = sum(run.seconds[0] for run in runs)
            rounds = min(_MOST_REPEATS, max(_FEWEST_REPEATS, int(_TIMING_SECONDS / once)))
        report(what, done, rounds)
    return rounds
