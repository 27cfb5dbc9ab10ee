"""Pooling on the cpu backend: which jobs the compiled kernels get, and how many threads share one."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stridekit.backends.cpu.pool.blocking import PoolPiece, cut, pieces, sizes, three
from stridekit.backends.cpu.pool.jobs import Pooled, PoolWindow
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import (
    OUT,
    WEIGHT,
    WORKSPACE,
    Address,
    Rows,
    Strided,
    X,
    bases,
    rows,
    strides_of,
)
from stridekit.backends.reference.conv_taps import ReferenceDevice
from stridekit.backends.reference.pool_taps import pool as reference_pool
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.pool_problem import PoolProblem

_TASKS_PER_THREAD = 4
_INDICES, _INDEX_BYTES = WEIGHT, 8
"""Indices take the place of weights among the arrays."""
_WORTH_A_THREAD = 20_000
"""Vectors added up: what one thread does while another wakes."""


def pool(
    problem: PoolProblem,
    device: CpuDevice,
    source: np.ndarray,
    indices: np.ndarray | None,
    target: np.ndarray | None,
) -> None:
    """Compute `problem`, as `stridekit.backends.pool_algorithm.Windows` says."""
    if problem.dtype == "float16" and not device.half:
        reference_pool(problem, ReferenceDevice(), source, indices, target)
        return
    from stridekit.backends.cpu.pool.loop_nest import pooling
    from stridekit.backends.cpu.runtime.thread_pool import run

    x, y = (source, target) if problem.direction == "forward" else (target, source)
    strides = [None if array is None else strides_of(array) for array in (x, y, indices)]
    counter = np.zeros(1, np.int64)
    begin = bases(counter, x, y, indices)
    for job in _jobs(problem, device, *strides):
        counter[0] = 0
        run(pooling(problem.dtype), job.rows.at(begin), job.threads, source, indices, target, counter)


class _Job(NamedTuple):
    """A job, and how many threads are worth it."""

    rows: Rows
    threads: int


_Strides = tuple[int, int, int, int, int] | None


@lru_cache(maxsize=1024)
def _jobs(problem: PoolProblem, device: CpuDevice, x: _Strides, y: _Strides, indices: _Strides) -> list[_Job]:
    """Prepare every piece of a problem, given the strides of its arrays, None for one that there is not."""
    sizes_of = (x, problem.itemsize), (y, problem.itemsize), (indices, _INDEX_BYTES)
    arrays = [(strides, itemsize) for strides, itemsize in sizes_of if strides is not None]
    samples, channels = problem.batch, problem.channels
    # The planes of all samples are lanes of one block if they follow each other evenly.
    merged = 1 in (samples, channels) or all(strides[0] == channels * strides[1] for strides, _ in arrays)
    planes, outer = (samples * channels, 1) if merged else (channels, samples)
    lane_axis = 0 if channels == 1 else 1
    inside = planes > 1 and all(strides[lane_axis] == itemsize for strides, itemsize in arrays)
    # Too few planes, and too many to find fault with each of them: all of it at once.
    width = device.lanes(DTYPES[problem.dtype].accumulator.nbytes)
    jobs: list[_Job] = []
    for piece in pieces(problem, planes if merged and not inside else width, width):
        lanes = (piece.bands, planes, False) if piece.bands > 1 else (planes, outer, inside)
        most_lanes, blocks, cost = cut(problem, device, piece, *lanes)
        parts = [-(-size // block) for size, block in zip(sizes(problem, piece), blocks, strict=True)]
        lane_blocks = -(-lanes[0] // most_lanes)
        every = math.prod(parts) * lane_blocks * lanes[1]
        threads = max(1, min(device.threads, every, cost // _WORTH_A_THREAD))
        d, h, w = _axes(problem, piece, blocks, parts)
        x_pixels, y_pixels, first_index, lane_index = _in_pixels(problem, piece)
        job = Pooled(
            d=d,
            h=h,
            w=w,
            largest=problem.operation == "max",
            forward=problem.direction == "forward",
            lanes=lanes[0],
            most_lanes=most_lanes,
            lane_blocks=lane_blocks,
            inside=inside,
            first_index=first_index,
            lane_index=lane_index,
            x=_of_piece(X, x, lane_axis, piece, x_pixels),
            y=_of_piece(OUT, y, lane_axis, piece, y_pixels),
            i=_of_piece(_INDICES, indices, lane_axis, piece, y_pixels),
            blocks=every,
            blocks_per_task=max(1, every // (_TASKS_PER_THREAD * threads)),
            counter=WORKSPACE,
        )
        jobs.append(_Job(rows(job), threads))
    return jobs


def _axes(problem: PoolProblem, piece: PoolPiece, blocks: tuple[int, ...], parts: list[int]) -> list[PoolWindow]:
    windows: list[PoolWindow] = []
    counted = ((0, 1),) * (3 - problem.rank) + problem.counted
    for number, (axis, (low, high)) in enumerate(zip(three(problem), counted, strict=True)):
        size, out, pad = axis.size, axis.output_size, axis.pad_before
        if number == piece.axis and problem.direction == "forward":
            out, pad = piece.stop - piece.start, pad - piece.start * axis.stride
        elif number == piece.axis:
            size, pad = piece.stop - piece.start, pad + piece.start
            low, high = low - piece.start, high - piece.start
        windows.append(
            PoolWindow(
                size=size,
                out=out,
                kernel=axis.kernel,
                stride=axis.stride,
                dilation=axis.dilation,
                pad=pad,
                low=low,
                high=high,
                period=axis.dilation // math.gcd(axis.stride, axis.dilation),
                index_step=_index_step(problem, number),
                block=blocks[number],
                blocks=parts[number],
            )
        )
    return windows


def _index_step(problem: PoolProblem, axis: int) -> int:
    return math.prod(own.size for own in three(problem)[axis + 1 :])


def _in_pixels(problem: PoolProblem, piece: PoolPiece) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """Return the pixels of the input to the piece and from band to band, those of the output, and both as indices."""
    stride, band = three(problem)[piece.axis].stride, piece.stop - piece.start
    if problem.direction == "forward":
        inputs, outputs = (0, band * stride), (piece.start, band)
    else:
        inputs, outputs = (piece.start, band), (0, band // stride)
    first, between = (pixels * _index_step(problem, piece.axis) for pixels in inputs)
    return inputs, outputs, first, between if piece.bands > 1 else 0


def _of_piece(start: Address, strides: _Strides, lane_axis: int, piece: PoolPiece, pixels: tuple[int, int]) -> Strided:
    """Return where the piece lies in an array, zeros for none; its bands are lanes if there are several."""
    if strides is None:
        return Strided(0, 0, 0, 0, 0, 0)
    first, between = (number * strides[2 + piece.axis] for number in pixels)
    n, c = (strides[lane_axis], between) if piece.bands > 1 else (strides[0], strides[lane_axis])
    return Strided(start + first, n, c, *strides[2:])
