"""The definition of pooling: NumPy, tap by tap and block by block; averages and gradients in float64.

A tap is one slice of the input for all windows at once: pixel ``p * stride + t * dilation - pad`` for window p. What
NumPy makes on the way is of one block of the result, whatever the size of the whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from stridekit.backends.reference.conv_taps import ReferenceDevice
from stridekit.problems.geometry import AxisGeometry
from stridekit.problems.pool_problem import PoolProblem

BLOCK = 8192
"""Elements of the result at once: what is made on the way takes some 600 kB, beside all memory that is planned."""

Block: TypeAlias = tuple[slice, ...]
"""Channels and pixels of one sample."""


class Tap(NamedTuple):
    """One tap, for the windows in which it lies inside the input: those windows, and its pixels."""

    windows: tuple[slice, ...]
    pixels: tuple[slice, ...]


def pool(
    problem: PoolProblem,
    device: ReferenceDevice,
    source: np.ndarray,
    indices: np.ndarray | None,
    target: np.ndarray | None,
) -> None:
    """Compute `problem`, as `stridekit.backends.pool_algorithm.Windows` says."""
    with np.errstate(all="ignore"):
        for n, block in itertools.product(range(problem.batch), blocks(problem.result_shape[1:])):
            numbers = None if indices is None else indices[n]
            if problem.operation == "max" and problem.direction == "forward":
                largest, found = _max(problem, source[n], block)
                if numbers is not None:
                    numbers[block] = found
                if target is not None:
                    target[n][block] = largest
            elif target is not None and problem.direction == "forward":
                target[n][block] = _sum(problem, source[n], block) / _divisors(_counts(problem, block[1:]))
            elif target is not None:
                target[n][block] = _spread(problem, source[n], numbers, block)


def blocks(shape: tuple[int, ...]) -> Iterator[Block]:
    """Cut a shape ``(C, *spatial)`` into blocks of at most `BLOCK` elements, of whole pixels as far as they fit.

    A few rows of all channels are read by fewer taps than a few channels of all rows.
    """
    cuts: list[list[slice]] = []
    for axis, size in enumerate((*shape[1:], shape[0])):
        rest = math.prod(shape[axis + 2 :]) * (shape[0] if axis < len(shape) - 1 else 1)
        step = max(1, BLOCK // max(1, rest))
        cuts.append([slice(start, min(start + step, size)) for start in range(0, size, step)])
    return ((channels, *pixels) for *pixels, channels in itertools.product(*cuts))


def taps(problem: PoolProblem, windows: Sequence[slice], pixels: Sequence[slice]) -> Iterator[Tap]:
    """Yield the taps in order, the last axis fastest, by which these windows read these pixels."""
    axes = list(zip(problem.geometry.axes, windows, pixels, strict=True))
    runs = ([(_run(axis, tap, own, read), tap) for tap in _reaching(axis, own, read)] for axis, own, read in axes)
    for found in itertools.product(*runs):
        if all(own.start < own.stop for (own, _), _ in found):
            yield Tap(tuple(own for (own, _), _ in found), tuple(read for (_, read), _ in found))


def _reaching(axis: AxisGeometry, windows: slice, pixels: slice) -> Sequence[int]:
    """Return the taps among which are all by which some of these windows reads some of these pixels."""
    if axis.kernel <= axis.size:
        return _between(axis, windows.start, windows.stop - 1, pixels)
    # Those of a longer kernel that lie in the padding of every window are not visited one by one.
    each = (_between(axis, window, window, pixels) for window in range(windows.start, windows.stop))
    return sorted(set(itertools.chain.from_iterable(each)))


def _between(axis: AxisGeometry, window: int, last_window: int, pixels: slice) -> range:
    first = -(-(pixels.start + axis.pad_before - last_window * axis.stride) // axis.dilation)
    last = (pixels.stop - 1 + axis.pad_before - window * axis.stride) // axis.dilation
    return range(max(0, first), min(axis.kernel, last + 1))


def _run(axis: AxisGeometry, tap: int, windows: slice, pixels: slice) -> tuple[slice, slice]:
    """Return which of the windows have this tap among the pixels, and which pixels these are."""
    offset = tap * axis.dilation - axis.pad_before
    first = max(windows.start, -((offset - pixels.start) // axis.stride))
    stop = min(windows.stop, (pixels.stop - 1 - offset) // axis.stride + 1)
    begin = first * axis.stride + offset
    return slice(first, stop), slice(begin, begin + max(stop - first, 0) * axis.stride, axis.stride)


def _within(places: Sequence[slice], block: Block) -> Block:
    """Return places of the whole as places of a block, with all its channels."""
    moved = (
        slice(own.start - part.start, own.stop - part.start, own.step)
        for own, part in zip(places, block[1:], strict=True)
    )
    return (slice(None), *moved)


def _whole(sizes: Sequence[int]) -> list[slice]:
    return [slice(0, size) for size in sizes]


def _readers(axis: AxisGeometry, pixels: slice) -> slice:
    """Return the windows outside which none reads any of these pixels."""
    first = -(-(pixels.start + axis.pad_before - (axis.kernel - 1) * axis.dilation) // axis.stride)
    stop = (pixels.stop - 1 + axis.pad_before) // axis.stride + 1
    return slice(max(0, first), max(0, first, min(axis.output_size, stop)))


def _counts(problem: PoolProblem, windows: Sequence[slice]) -> list[np.ndarray]:
    """Return for each axis how many of its pixels each of these windows counts."""
    counts = []
    for axis, (low, high), own in zip(problem.geometry.axes, problem.counted, windows, strict=True):
        start = np.arange(own.start, own.stop) * axis.stride - axis.pad_before
        first = np.maximum(-((start - low) // axis.dilation), 0)
        stop = np.minimum(-((start - high) // axis.dilation), axis.kernel)
        counts.append(np.maximum(stop - first, 0))
    return counts


def _divisors(counts: Sequence[np.ndarray]) -> np.ndarray:
    """Return by how many pixels a sum is divided: 1 where a window counts none."""
    return np.asarray(np.maximum(math.prod(np.ix_(*counts)), 1), np.float64)


def _positions(problem: PoolProblem, pixels: Sequence[slice]) -> np.ndarray:
    """Return the flat positions of pixels in the input."""
    sizes = problem.geometry.input_size
    rows = [np.arange(own.start, own.stop, own.step) * math.prod(sizes[axis + 1 :]) for axis, own in enumerate(pixels)]
    return np.asarray(sum(np.ix_(*rows)), np.int64)


def _max(problem: PoolProblem, sample: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest pixel of each window and where it lies: a NaN before all else, the first of equals."""
    shape = [part.stop - part.start for part in block]
    largest, found = np.full(shape, -np.inf, sample.dtype), np.full(shape, -1, np.int64)
    for tap in taps(problem, block[1:], _whole(problem.geometry.input_size)):
        at = _within(tap.windows, block)
        value, best = sample[(block[0], *tap.pixels)], largest[at]
        better = (found[at] < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best))
        largest[at] = np.where(better, value, best)
        found[at] = np.where(better, _positions(problem, tap.pixels), found[at])
    return largest, found


def _sum(problem: PoolProblem, sample: np.ndarray, block: Block) -> np.ndarray:
    total = np.zeros([part.stop - part.start for part in block])
    for tap in taps(problem, block[1:], _whole(problem.geometry.input_size)):
        total[_within(tap.windows, block)] += sample[(block[0], *tap.pixels)].astype(np.float64)
    return total


def _spread(problem: PoolProblem, gradient: np.ndarray, indices: np.ndarray | None, block: Block) -> np.ndarray:
    """Give each window's gradient to the pixel of its index, or in equal parts to all its pixels."""
    total = np.zeros([part.stop - part.start for part in block])
    windows = [_readers(axis, own) for axis, own in zip(problem.geometry.axes, block[1:], strict=True)]
    counts = _counts(problem, windows)
    for tap in taps(problem, windows, block[1:]):
        at = (block[0], *tap.windows)
        share = gradient[at].astype(np.float64)
        if indices is None:
            own = _within(tap.windows, (block[0], *windows))[1:]
            share /= _divisors([each[part] for each, part in zip(counts, own, strict=True)])
        else:
            share = np.where(indices[at] == _positions(problem, tap.pixels), share, 0.0)
        total[_within(tap.pixels, block)] += share
    return total
