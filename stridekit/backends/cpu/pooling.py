"""Pooling on the cpu backend: how the result is cut, which job the compiled kernels get, how many threads share it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np

from stridekit.backends import reference_pooling
from stridekit.backends.cpu.processor import CpuDevice
from stridekit.backends.reference import ReferenceDevice
from stridekit.geometry import AxisGeometry
from stridekit.pool_problem import PoolProblem

SOURCE_VECTORS, ROW_VECTORS, SUM_VECTORS = 256, 128, 256
"""What a block has room for: pixels as they were read, one row of results, all results."""
_MOST_VECTORS = 8
"""Of lanes that are neighbours, in a block."""
_TASKS_PER_THREAD = 4
_WORTH_A_THREAD = 20_000
"""What one thread does while another wakes, in vectors added up."""
_BLOCK, _LINE, _WINDOW, _TRANSPOSED, _MOVED, _DIVIDED, _SCATTERED = 150, 15, 12, 8, 2, 8, 4
"""The same of a block, a line, a window along it; a vector transposed, moved, divided; a lane's gradient scattered."""
_NO_AXIS = AxisGeometry(1, 1, 1, 1, 0, 0)


def pool(
    problem: PoolProblem,
    device: CpuDevice,
    source: np.ndarray,
    indices: np.ndarray | None,
    target: np.ndarray | None,
) -> None:
    """Compute `problem`, as `stridekit.pool_plan.Pooling` says."""
    if problem.dtype == "float16" and not device.half:
        reference_pooling.pool(problem, ReferenceDevice(), source, indices, target)
        return
    from stridekit.backends.cpu.crew import run
    from stridekit.backends.cpu.pool_kernels import pooling

    forward = problem.direction == "forward"
    arrays = [array for array in (source, indices, target) if array is not None]
    samples, channels = problem.batch, problem.channels
    # The planes of all samples are lanes of one block if they follow each other evenly.
    merged = 1 in (samples, channels) or all(a.strides[0] == channels * a.strides[1] for a in arrays)
    lanes, outer = (samples * channels, 1) if merged else (channels, samples)
    lane_axis = 0 if channels == 1 else 1
    inside = lanes > 1 and all(array.strides[lane_axis] == array.itemsize for array in arrays)
    most_lanes, blocks, cost = cut(problem, device, lanes, outer, inside)
    parts = [-(-size // block) for size, block in zip(_three(problem.result_shape[2:]), blocks, strict=True)]
    lane_blocks = -(-lanes // most_lanes)
    every = math.prod(parts) * lane_blocks * outer
    threads = max(1, min(device.threads, every, cost // _WORTH_A_THREAD))
    counter = np.zeros(1, np.int64)
    job = np.array(
        (
            *_axes(problem, blocks, parts),
            problem.operation == "max",
            forward,
            lanes,
            most_lanes,
            lane_blocks,
            inside,
            *_placed(source if forward else target, lane_axis),
            *_placed(target if forward else source, lane_axis),
            *_placed(indices, lane_axis),
            every,
            max(1, every // (_TASKS_PER_THREAD * threads)),
            counter.ctypes.data,
        ),
        np.int64,
    )
    run(pooling(problem.dtype), job, threads, source, indices, target, counter)


@lru_cache(maxsize=1024)
def cut(
    problem: PoolProblem, device: CpuDevice, lanes: int, outer: int, inside: bool
) -> tuple[int, tuple[int, ...], int]:
    """Return a block's lanes, its pixels of the result on each of three axes, and the cost of all blocks.

    Of those that fit, the blocks whose windows share most are taken. It changes no bit of the result.
    """
    width = device.lanes(8 if problem.dtype == "float64" else 4)
    best: tuple[int, tuple[int, ...], int] | None = None
    least = math.inf
    for vectors, *sizes in _options(problem, -(-lanes // width) if inside else 1):
        block = tuple(sizes)
        parts = math.prod(-(-n // size) for n, size in zip(_three(problem.result_shape[2:]), block, strict=True))
        count = parts * -(-lanes // (vectors * width)) * outer
        each = _BLOCK + _block_cost(problem, block, vectors, width, inside)
        # Threads share no block.
        time = each * -(-count // min(device.threads, count))
        if time < least:
            best, least = (vectors * width, block, int(each * count)), time
    assert best is not None
    return best


def _options(problem: PoolProblem, most: int) -> Iterator[tuple[int, ...]]:
    """Yield vectors of lanes and pixels on each axis of all blocks worth a look that there is room for."""
    scattered = problem.direction != "forward" and problem.operation == "max"
    room, row = (3 * SUM_VECTORS, 3 * SUM_VECTORS) if scattered else (SUM_VECTORS, ROW_VECTORS)
    depth, height, width = _three(problem.result_shape[2:])
    for vectors in _fewer(min(most, _MOST_VECTORS), _MOST_VECTORS):
        for w, h in product(_fewer(width, row // vectors), _fewer(height, room // vectors)):
            for d in _fewer(depth, room // vectors):
                # Those that a gradient is scattered to have to be numbered without a gap.
                whole = not scattered or ((h == 1 or w == width) and (d == 1 or h == height))
                if vectors * w * h * d <= room and whole:
                    yield vectors, d, h, w


def _fewer(size: int, most: int) -> list[int]:
    """Return the sizes of equal parts of an axis, the largest first: one part as large as there is room for, or less."""
    parts, found = -(-size // max(most, 1)), []
    while not found or found[-1] > 1:
        found.append(-(-size // parts))
        parts *= 2
    return found


def _block_cost(problem: PoolProblem, block: tuple[int, ...], vectors: int, width: int, inside: bool) -> float:
    axes = (*(_NO_AXIS,) * (3 - problem.rank), *problem.geometry.axes)
    pixels = math.prod(block)
    if problem.direction == "forward":
        lines = math.prod(_read(axis, size) for axis, size in zip(axes[:2], block[:2], strict=True))
        read, per_pixel = _read(axes[2], block[2]), 0
        rows = math.prod(min(axis.kernel, axis.size) for axis in axes[:2]) * pixels // block[2]
        windows, taps = block[2], min(axes[2].kernel, axes[2].size)
    else:
        lines = math.prod(_windows(axis, size) for axis, size in zip(axes[:2], block[:2], strict=True))
        read, per_pixel = _windows(axes[2], block[2]), _DIVIDED
        rows = lines * math.prod(min(axis.kernel, size) for axis, size in zip(axes[:2], block[:2], strict=True))
        windows, taps = read, min(axes[2].kernel, block[2])
    put = _moved(pixels, vectors, width, inside)
    if problem.direction != "forward" and problem.operation == "max":
        return put + lines * (_LINE + read * (_WINDOW + vectors * width * _SCATTERED))
    along = windows * (_WINDOW + taps * vectors) + read * vectors * per_pixel
    return put + lines * (_LINE + _moved(read, vectors, width, inside) + along) + rows * block[2] * vectors


def _moved(pixels: int, vectors: int, width: int, inside: bool) -> int:
    return pixels * vectors * _MOVED if inside else -(-pixels // width) * width * vectors * _TRANSPOSED


def _read(axis: AxisGeometry, windows: int) -> int:
    """Return how many input pixels so many windows read."""
    return min(axis.size, (windows - 1) * axis.stride + axis.kernel_extent, windows * axis.kernel)


def _windows(axis: AxisGeometry, pixels: int) -> int:
    """Return how many windows read so many input pixels."""
    return max(1, min(axis.output_size, -(-(pixels + axis.kernel_extent - 1) // axis.stride), pixels * axis.kernel))


def _three(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1,) * (3 - len(sizes)), *sizes)


def _axes(problem: PoolProblem, blocks: tuple[int, ...], parts: list[int]) -> list[int]:
    words: list[int] = []
    missing = 3 - problem.rank
    axes = (*(_NO_AXIS,) * missing, *problem.geometry.axes)
    for axis, counted, block, number in zip(axes, ((0, 1),) * missing + problem.counted, blocks, parts, strict=True):
        words += (axis.size, axis.output_size, axis.kernel, axis.stride, axis.dilation, axis.pad_before, *counted)
        words += (axis.dilation // math.gcd(axis.stride, axis.dilation), block, number)
    return words


def _placed(array: np.ndarray | None, lane_axis: int) -> tuple[int, ...]:
    """Return an array's address and its strides (outer, lane, d, h, w) in bytes; zeros for none."""
    if array is None:
        return (0,) * 6
    d, h, w = *(0,) * (5 - array.ndim), *array.strides[2:]
    return int(array.ctypes.data), array.strides[0], array.strides[lane_axis], d, h, w
