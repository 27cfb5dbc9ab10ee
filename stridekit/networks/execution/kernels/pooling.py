"""Poolings, on the engine; a global pooling is one whose window is everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array, channels_first_view
from stridekit.networks.execution.kernels.base import Backward, Forward, Kernel, carve, carved_bytes
from stridekit.networks.operations import (
    AdaptiveAvgPool,
    AvgPool,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    Operation,
    Shape,
)
from stridekit.planning.pool_plan import pooling_of
from stridekit.problems.pool_problem import PoolProblem, pool_problem

_INT64: np.dtype[Any] = np.dtype(np.int64)


class PoolKernel(Kernel):
    """A pooling by windows."""

    runs: ClassVar[tuple[type[Operation], ...]] = (AvgPool, GlobalAvgPool, AdaptiveAvgPool)

    @cached_property
    def problem(self) -> PoolProblem:
        """State it."""
        operation = self.operation
        if isinstance(operation, GlobalAvgPool | GlobalMaxPool | AdaptiveAvgPool):
            window = tuple(size // parts for size, parts in zip(self.inputs[0][2:], self.output[2:], strict=True))
            return pool_problem(
                "max" if isinstance(operation, GlobalMaxPool) else "avg",
                "forward",
                self.inputs[0],
                dtype=self.context.dtype,
                memory_order="channels_last",
                kernel_size=window,
                stride=window,
                padding=0,
                dilation=1,
                ceil_mode=False,
            )
        found: PoolProblem = operation.problem(self.inputs[0], self.context.dtype, "channels_last", "forward")
        return found

    def forward(self, pass_: Forward) -> None:
        """Pool."""
        self._pool(self.problem, pass_.inputs[0], None, pass_.output)

    def backward(self, pass_: Backward) -> None:
        """Spread the gradient evenly."""
        if pass_.grad_inputs[0] is not None:
            problem = replace(self.problem, direction="input_grad")
            self._pool(problem, pass_.grad_output, None, pass_.grad_inputs[0])

    def _pool(self, problem: PoolProblem, source: Array, indices: Array | None, target: Array | None) -> None:
        if problem.batch:
            context = self.context
            views = (None if array is None else channels_first_view(array, True) for array in (source, indices, target))
            pooling_of(context.backend).pool(problem, context.device, *views)


class MaxPoolKernel(PoolKernel):
    """A max-pooling; which pixel was the largest is found again for the gradient: indices take more than the pixels."""

    runs = (MaxPool, GlobalMaxPool)
    saves_inputs: ClassVar[bool] = True

    @property
    def _region(self) -> tuple[Shape, np.dtype[Any]]:
        return (self.output[0], *self.output[2:], self.output[1]), _INT64

    @property
    def backward_workspace(self) -> int:
        """The indices."""
        return carved_bytes(self._region) if self.wanted[0] else 0

    def backward(self, pass_: Backward) -> None:
        """Send each gradient to the pixel that was taken."""
        if pass_.grad_inputs[0] is not None:
            indices, _ = carve(pass_.workspace, self._region)
            self._pool(self.problem, pass_.inputs[0], indices, None)
            problem = replace(self.problem, direction="input_grad")
            self._pool(problem, pass_.grad_output, indices, pass_.grad_inputs[0])
