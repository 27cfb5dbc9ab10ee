"""The definition of pooling: NumPy, tap by tap and sample by sample; averages and gradients in float64.

A tap is one slice of the input for all windows at once: pixel ``p * stride + t * dilation - pad`` for window p.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends.reference import ReferenceDevice
from stridekit.geometry import AxisGeometry
from stridekit.pool_problem import PoolProblem


class Tap(NamedTuple):
    """One tap, for the windows in which it lies inside the input: those windows, its pixels, their flat positions."""

    windows: tuple[slice, ...]
    pixels: tuple[slice, ...]
    positions: np.ndarray


def pool(
    problem: PoolProblem,
    device: ReferenceDevice,
    source: np.ndarray,
    indices: np.ndarray | None,
    target: np.ndarray | None,
) -> None:
    """Compute `problem`, as `stridekit.pool_plan.Pooling` says."""
    with np.errstate(all="ignore"):
        for n in range(problem.batch):
            numbers = None if indices is None else indices[n]
            if problem.operation == "max" and problem.direction == "forward":
                largest, found = _max(problem, source[n])
                if numbers is not None:
                    numbers[...] = found
                if target is not None:
                    target[n] = largest
            elif target is not None and problem.direction == "forward":
                target[n] = _sum(problem, source[n]) / np.maximum(divisors(problem), 1)
            elif target is not None:
                target[n] = _spread(problem, source[n], numbers)


def taps(problem: PoolProblem) -> Iterator[Tap]:
    """Yield the taps in order, the last axis fastest; those inside the input of no window are left out."""
    for offsets in itertools.product(*map(_offsets, problem.geometry.axes)):
        runs = [_run(axis, t) for axis, t in zip(problem.geometry.axes, offsets, strict=True)]
        if all(windows.start < windows.stop for windows, _ in runs):
            pixels = tuple(pixels for _, pixels in runs)
            rows = [np.arange(axis.size)[own] for axis, own in zip(problem.geometry.axes, pixels, strict=True)]
            positions = np.ravel_multi_index(np.ix_(*rows), problem.geometry.input_size).astype(np.int64)
            yield Tap(tuple(windows for windows, _ in runs), pixels, positions)


def _offsets(axis: AxisGeometry) -> Sequence[int]:
    """Return the taps that may lie inside the input; of a kernel longer than that, those that do in some window."""
    if axis.kernel <= axis.size:
        return range(axis.kernel)
    starts = (window * axis.stride - axis.pad_before for window in range(axis.output_size))
    inside = (
        range(max(0, -(start // axis.dilation)), min(axis.kernel, (axis.size - 1 - start) // axis.dilation + 1))
        for start in starts
    )
    return sorted(set(itertools.chain(*inside)))


def _run(axis: AxisGeometry, tap: int) -> tuple[slice, slice]:
    """Return for which windows a tap lies inside the input, and which pixels these are."""
    offset = tap * axis.dilation - axis.pad_before
    first = max(0, -(offset // axis.stride))
    stop = min(axis.output_size, (axis.size - 1 - offset) // axis.stride + 1)
    begin = first * axis.stride + offset
    return slice(first, stop), slice(begin, begin + max(stop - first, 0) * axis.stride, axis.stride)


def divisors(problem: PoolProblem) -> np.ndarray:
    """Return how many pixels each window counts, shape of the output's pixels; 0 where it counts none."""
    counts = []
    for axis, (low, high) in zip(problem.geometry.axes, problem.counted, strict=True):
        starts = np.arange(axis.output_size) * axis.stride - axis.pad_before
        # The first taps from the bounds on; a window's taps lie between them, from 0 to the kernel's last.
        first, stop = (np.clip(-((starts - bound) // axis.dilation), 0, axis.kernel) for bound in (low, high))
        counts.append(stop - first)
    return np.asarray(math.prod(np.ix_(*counts)), np.float64)


def _max(problem: PoolProblem, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest pixel of each window and where it lies: a NaN before all else, the first of equals."""
    shape = problem.output_shape[1:]
    largest, found = np.full(shape, -np.inf, sample.dtype), np.full(shape, -1, np.int64)
    for tap in taps(problem):
        at = (slice(None), *tap.windows)
        value, best = sample[(slice(None), *tap.pixels)], largest[at]
        better = (found[at] < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best))
        largest[at] = np.where(better, value, best)
        found[at] = np.where(better, tap.positions, found[at])
    return largest, found


def _sum(problem: PoolProblem, sample: np.ndarray) -> np.ndarray:
    total = np.zeros(problem.output_shape[1:])
    for tap in taps(problem):
        total[(slice(None), *tap.windows)] += sample[(slice(None), *tap.pixels)].astype(np.float64)
    return total


def _spread(problem: PoolProblem, gradient: np.ndarray, indices: np.ndarray | None) -> np.ndarray:
    """Give each window's gradient to the pixel of its index, or in equal parts to all its pixels."""
    total = np.zeros(problem.input_shape[1:])
    share: Any = gradient.astype(np.float64)
    if indices is None:
        share /= np.maximum(divisors(problem), 1)
    for tap in taps(problem):
        at, pixels = (slice(None), *tap.windows), (slice(None), *tap.pixels)
        if indices is None:
            total[pixels] += share[at]
        else:
            total[pixels] += np.where(indices[at] == tap.positions, share[at], 0.0)
    return total
