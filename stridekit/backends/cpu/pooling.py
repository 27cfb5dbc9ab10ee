"""Pooling on the cpu backend: which job the compiled kernels get, and how many threads share it."""

from __future__ import annotations

import math

import numpy as np

from stridekit.backends import reference_pooling
from stridekit.backends.cpu.processor import CpuDevice
from stridekit.backends.reference import ReferenceDevice
from stridekit.pool_problem import PoolProblem

_TASKS_PER_THREAD = 4
_WORTH_A_THREAD = 50_000
"""Elements read: what one thread does while another wakes."""


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
    by_channels = problem.memory_order == "channels_last"
    rows = problem.result_shape[2:-1]
    lines = math.prod(rows) * problem.batch * (1 if by_channels else problem.channels)
    work = math.prod(problem.output_shape) * problem.taps
    threads = max(1, min(device.threads, lines, work // _WORTH_A_THREAD))
    counter = np.zeros(1, np.int64)
    job = np.array(
        (
            *_axes(problem),
            problem.operation == "max",
            forward,
            problem.channels,
            *_placed(source if forward else target),
            *_placed(target if forward else source),
            *_placed(indices),
            by_channels,
            lines,
            max(1, lines // (_TASKS_PER_THREAD * threads)),
            counter.ctypes.data,
        ),
        np.int64,
    )
    run(pooling(problem.dtype), job, threads, source, indices, target, counter)


def _axes(problem: PoolProblem) -> list[int]:
    words: list[int] = []
    for _ in range(3 - problem.rank):
        words += (1, 1, 1, 1, 1, 0, 0, 1)
    for axis, counted in zip(problem.geometry.axes, problem.counted, strict=True):
        words += (axis.size, axis.output_size, axis.kernel, axis.stride, axis.dilation, axis.pad_before, *counted)
    return words


def _placed(array: np.ndarray | None) -> tuple[int, ...]:
    """Return an array's address and its strides (n, c, d, h, w) in bytes; zeros for none."""
    if array is None:
        return (0,) * 6
    n, c, d, h, w = *array.strides[:2], *(0,) * (5 - array.ndim), *array.strides[2:]
    return int(array.ctypes.data), n, c, d, h, w
