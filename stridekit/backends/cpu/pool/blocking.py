"""How a pooling's result is cut into pieces and blocks: integers only, and none of it changes a bit of the result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.geometry import AxisGeometry
from stridekit.problems.pool_problem import PoolProblem

SOURCE_VECTORS, ROW_VECTORS, SUM_VECTORS = 256, 128, 256
"""What a block has room for: pixels as they were read, one row of results, all results."""
_MOST_VECTORS = 8
"""Of lanes that are neighbours, in a block."""
_BLOCK, _LINE, _WINDOW, _TRANSPOSED, _MOVED, _DIVIDED, _SCATTERED = 150, 15, 12, 8, 2, 8, 4
"""Costs, in vectors added up: a block, a line, a window; a vector transposed, moved, divided; a lane scattered."""
_LEAST_BAND = 16
"""Pixels that are worth a band."""
_NO_AXIS = AxisGeometry(1, 1, 1, 1, 0, 0)


class PoolPiece(NamedTuple):
    """Some of the result: on one of three axes from `start` to `stop`, and as many again `bands` - 1 times."""

    axis: int
    start: int
    stop: int
    bands: int


def three(problem: PoolProblem) -> tuple[AxisGeometry, ...]:
    """Return three axes."""
    return (*(_NO_AXIS,) * (3 - problem.rank), *problem.geometry.axes)


def sizes(problem: PoolProblem, piece: PoolPiece) -> tuple[int, ...]:
    """Return a piece's pixels, of one band, on each of three axes."""
    found = list(_three(problem.result_shape[2:]))
    found[piece.axis] = piece.stop - piece.start
    return tuple(found)


@lru_cache(maxsize=1024)
def pieces(problem: PoolProblem, planes: int, width: int) -> tuple[PoolPiece, ...]:
    """Cut planes that are too few for a vector's lanes into as many bands of equal windows, and what lies around them.

    Bands are of windows that lie wholly in the input; those of a gradient begin a whole number of strides apart.
    """
    result = _three(problem.result_shape[2:])
    axis = result.index(max(result))
    every = PoolPiece(axis, 0, result[axis], 1)
    along = three(problem)[axis]
    first = -(-along.pad_before // along.stride)
    last = (along.size - along.kernel_extent + along.pad_before) // along.stride + 1
    step = 1
    if problem.direction != "forward":
        # Every window that reaches such a pixel is one of them.
        first = max(0, (first - 1) * along.stride + along.kernel_extent - along.pad_before)
        last, step = last * along.stride - along.pad_before, along.stride
    band = (min(last, result[axis]) - first) // (width * step) * step
    if 2 * planes > width or band < _LEAST_BAND:
        return (every,)
    stop = first + width * band
    around = PoolPiece(axis, 0, first, 1), PoolPiece(axis, stop, result[axis], 1)
    return (PoolPiece(axis, first, first + band, width), *(piece for piece in around if piece.start < piece.stop))


@lru_cache(maxsize=1024)
def cut(
    problem: PoolProblem, device: CpuDevice, piece: PoolPiece, lanes: int, outer: int, inside: bool
) -> tuple[int, tuple[int, ...], int]:
    """Return a block's lanes, its pixels of the result on each of three axes, and the cost of all blocks.

    Of those that fit, the blocks whose windows share most are taken. It changes no bit of the result.
    """
    width = device.lanes(DTYPES[problem.dtype].accumulator.nbytes)
    best: tuple[int, tuple[int, ...], int] | None = None
    least = math.inf
    whole = sizes(problem, piece)
    for vectors, *block in _options(problem, whole, -(-lanes // width) if inside else 1):
        parts = math.prod(-(-n // size) for n, size in zip(whole, block, strict=True))
        count = parts * -(-lanes // (vectors * width)) * outer
        each = _BLOCK + _block_cost(problem, block, vectors, width, inside)
        # Threads share no block.
        time = each * -(-count // min(device.threads, count))
        if time < least:
            best, least = (vectors * width, tuple(block), int(each * count)), time
    assert best is not None
    return best


def _options(problem: PoolProblem, result: tuple[int, ...], most: int) -> Iterator[tuple[int, ...]]:
    """Yield vectors of lanes and pixels on each axis of all blocks worth a look that there is room for."""
    scattered = problem.direction != "forward" and problem.operation == "max"
    room, row = (3 * SUM_VECTORS, 3 * SUM_VECTORS) if scattered else (SUM_VECTORS, ROW_VECTORS)
    depth, height, width = result
    lines, line = _three(problem.result_shape[2:])[1:]
    for vectors in _fewer(min(most, _MOST_VECTORS), _MOST_VECTORS):
        for w, h in product(_fewer(width, row // vectors), _fewer(height, room // vectors)):
            for d in _fewer(depth, room // vectors):
                # Those that a gradient is scattered to have to be numbered without a gap.
                whole = not scattered or ((h == 1 or w == line) and (d == 1 or h * w == lines * line))
                if vectors * w * h * d <= room and whole:
                    yield vectors, d, h, w


def _fewer(size: int, most: int) -> list[int]:
    """Return sizes of equal parts of an axis: the largest that there is room for, then ever smaller ones."""
    found: list[int] = []
    parts = -(-size // max(most, 1))
    while not found or found[-1] > 1:
        found.append(-(-size // parts))
        parts *= 2
    return found


def _block_cost(problem: PoolProblem, block: list[int], vectors: int, width: int, inside: bool) -> float:
    axes = three(problem)
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
    # Only whole lines of a result are neighbours in memory.
    run = pixels if block[2] == problem.result_shape[-1] else block[2]
    put = pixels // run * _moved(run, vectors, width, inside)
    if problem.direction != "forward" and problem.operation == "max":
        return put + lines * (_LINE + read * (3 * _WINDOW + vectors * width * _SCATTERED))
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
