"""Poolings as an algorithm, out of a backend's one function for windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from stridekit.backends import NothingToPack, Operands
from stridekit.memory.arrays import Array, over_pixels
from stridekit.problems.pool_problem import PoolProblem

Windows: TypeAlias = Callable[[PoolProblem, Any, Array, Array | None, Array | None], None]
"""``(problem, device, source, indices, target)``: computes `problem` from `source` into `target`, views
``(N, C, *spatial)`` in any memory order. `indices` (int64, of the output's shape) are written by a max pooling, where
given, and read by its gradient. A max pooling without a target writes only those.
"""
_INT64 = np.dtype(np.int64)
_BYTES_PER_SECOND = 1e10
"""To order of magnitude: there is one algorithm, so nothing depends on it."""


class Pooling(NothingToPack):
    """Maximum, average and their gradients; a maximum's gradient finds again which pixel was the largest."""

    name = "windows"

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def supports(self, problem: PoolProblem, device: Any) -> str:
        """Return ``""``: it computes every pooling."""
        return ""

    def cost(self, problem: PoolProblem, device: Any) -> float:
        """Return the seconds of what is moved."""
        return problem.moved_bytes / _BYTES_PER_SECOND

    def detail(self, problem: PoolProblem, device: Any) -> str:
        """Return ``""``: there is nothing else to decide."""
        return ""

    def workspace(self, problem: PoolProblem, device: Any, *, packed: bool) -> int:
        """Return the bytes of the indices that a maximum's gradient finds again."""
        return math.prod(problem.output_shape) * _INT64.itemsize if _finds(problem) else 0

    def run(self, problem: PoolProblem, device: Any, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`."""
        if problem.direction == "forward":
            self._windows(problem, device, operands.x, operands.indices, out)
            return
        indices = None
        if _finds(problem):
            room = workspace[: self.workspace(problem, device, packed=False)].view(_INT64)
            indices = over_pixels(room, problem.output_shape, problem.memory_order)
            self._windows(replace(problem, direction="forward"), device, operands.x, indices, None)
        self._windows(problem, device, operands.grad_output, indices, out)


def _finds(problem: PoolProblem) -> bool:
    return problem.operation == "max" and problem.direction == "input_grad"
