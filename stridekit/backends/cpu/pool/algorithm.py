"""Pooling on the cpu backend: which jobs the compiled kernels get, and how many threads share one."""

from __future__ import annotations

import math

import numpy as np

from stridekit.backends.cpu.pool.blocking import Piece, cut, pieces, sizes, three
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.reference import pool as reference_pool
from stridekit.backends.reference.conv import ReferenceDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.pool_problem import PoolProblem

_TASKS_PER_THREAD = 4
_WORTH_A_THREAD = 20_000
"""Vectors added up: what one thread does while another wakes."""


def pool(
    problem: PoolProblem,
    device: CpuDevice,
    source: np.ndarray,
    indices: np.ndarray | None,
    target: np.ndarray | None,
) -> None:
    """Compute `problem`, as `stridekit.planning.pool_plan.Pooling` says."""
    if problem.dtype == "float16" and not device.half:
        reference_pool.pool(problem, ReferenceDevice(), source, indices, target)
        return
    from stridekit.backends.cpu.pool.loop_nest import pooling
    from stridekit.backends.cpu.runtime.thread_pool import run

    arrays = [array for array in (source, indices, target) if array is not None]
    samples, channels = problem.batch, problem.channels
    # The planes of all samples are lanes of one block if they follow each other evenly.
    merged = 1 in (samples, channels) or all(a.strides[0] == channels * a.strides[1] for a in arrays)
    planes, outer = (samples * channels, 1) if merged else (channels, samples)
    lane_axis = 0 if channels == 1 else 1
    inside = planes > 1 and all(array.strides[lane_axis] == array.itemsize for array in arrays)
    x, y = (source, target) if problem.direction == "forward" else (target, source)
    places = [_placed(array, lane_axis) for array in (x, y, indices)]
    # Too few planes, and too many to find fault with each of them: all of it at once.
    width = device.lanes(DTYPES[problem.dtype].accumulator.nbytes)
    for piece in pieces(problem, planes if merged and not inside else width, width):
        lanes = (piece.bands, planes, False) if piece.bands > 1 else (planes, outer, inside)
        most_lanes, blocks, cost = cut(problem, device, piece, *lanes)
        parts = [-(-size // block) for size, block in zip(sizes(problem, piece), blocks, strict=True)]
        lane_blocks = -(-lanes[0] // most_lanes)
        every = math.prod(parts) * lane_blocks * lanes[1]
        threads = max(1, min(device.threads, every, cost // _WORTH_A_THREAD))
        counter = np.zeros(1, np.int64)
        job = np.array(
            (
                *_axes(problem, piece, blocks, parts),
                problem.operation == "max",
                problem.direction == "forward",
                lanes[0],
                most_lanes,
                lane_blocks,
                inside,
                *_of_piece(problem, piece, places),
                every,
                max(1, every // (_TASKS_PER_THREAD * threads)),
                counter.ctypes.data,
            ),
            np.int64,
        )
        run(pooling(problem.dtype), job, threads, source, indices, target, counter)


def _axes(problem: PoolProblem, piece: Piece, blocks: tuple[int, ...], parts: list[int]) -> list[int]:
    words: list[int] = []
    counted = ((0, 1),) * (3 - problem.rank) + problem.counted
    for number, (axis, (low, high)) in enumerate(zip(three(problem), counted, strict=True)):
        size, out, pad = axis.size, axis.output_size, axis.pad_before
        if number == piece.axis and problem.direction == "forward":
            out, pad = piece.stop - piece.start, pad - piece.start * axis.stride
        elif number == piece.axis:
            size, pad = piece.stop - piece.start, pad + piece.start
            low, high = low - piece.start, high - piece.start
        words += (size, out, axis.kernel, axis.stride, axis.dilation, pad, low, high)
        words += (axis.dilation // math.gcd(axis.stride, axis.dilation), _index_step(problem, number))
        words += (blocks[number], parts[number])
    return words


def _index_step(problem: PoolProblem, axis: int) -> int:
    return math.prod(own.size for own in three(problem)[axis + 1 :])


def _of_piece(problem: PoolProblem, piece: Piece, places: list[tuple[int, ...]]) -> list[int]:
    """Return the index of the first pixel and its step from lane to lane, then where the piece lies in the arrays."""
    stride, forward = three(problem)[piece.axis].stride, problem.direction == "forward"
    band, index_step = piece.stop - piece.start, _index_step(problem, piece.axis)
    # Pixels of the input and of the output: to the piece, and from band to band.
    inputs = (0, band * stride) if forward else (piece.start, band)
    outputs = (piece.start, band) if forward else (0, band // stride)
    words = [inputs[0] * index_step, inputs[1] * index_step if piece.bands > 1 else 0]
    for (address, outer, plane, *steps), (first, between) in zip(places, (inputs, outputs, outputs), strict=True):
        by = steps[piece.axis]
        words += (address + first * by if address else 0,)
        words += (plane, between * by, *steps) if piece.bands > 1 else (outer, plane, *steps)
    return words


def _placed(array: np.ndarray | None, lane_axis: int) -> tuple[int, ...]:
    """Return an array's address and its strides (outer, lane, d, h, w) in bytes; zeros for none."""
    if array is None:
        return (0,) * 6
    d, h, w = *(0,) * (5 - array.ndim), *array.strides[2:]
    return int(array.ctypes.data), array.strides[0], array.strides[lane_axis], d, h, w
