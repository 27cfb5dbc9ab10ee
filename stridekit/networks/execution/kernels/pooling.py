"""Poolings, on the engine; a global pooling is one whose window is everything."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import LAYOUTS
from stridekit.networks.execution.kernels.base import Backward, Forward, LayerKernel
from stridekit.networks.operations import AdaptiveAvgPool, AvgPool, GlobalAvgPool, GlobalMaxPool, MaxPool, Operation
from stridekit.planning.dispatch import choose_plan
from stridekit.planning.plan import Plan
from stridekit.problems.pool_problem import PoolProblem


class PoolKernel(LayerKernel):
    """A pooling by windows."""

    runs: ClassVar[tuple[type[Operation], ...]] = (AvgPool, GlobalAvgPool, AdaptiveAvgPool)

    @cached_property
    def problem(self) -> PoolProblem:
        found: PoolProblem = self.operation.problem(self.inputs[0], self.context.dtype, "channels_last", "forward")
        return found

    @cached_property
    def plan(self) -> Plan:
        """How the output is computed."""
        return self._plan(self.problem)

    @cached_property
    def input_plan(self) -> Plan:
        """How the input's gradient is computed."""
        return self._plan(replace(self.problem, direction="input_grad"))

    @property
    def forward_workspace(self) -> int:
        return self.plan.workspace_bytes()

    @property
    def backward_workspace(self) -> int:
        """The plan's: a maximum's gradient finds its pixels again, whose indices take more than the pixels."""
        return self.input_plan.workspace_bytes() if self.wanted[0] else 0

    def forward(self, pass_: Forward) -> None:
        self.plan.execute(pass_.inputs[0], out=pass_.output, workspace=pass_.workspace)

    def backward(self, pass_: Backward) -> None:
        if pass_.grad_inputs[0] is not None:
            read = (pass_.inputs[0], pass_.grad_output) if self.saves_inputs else (pass_.grad_output,)
            self.input_plan.execute(*read, out=pass_.grad_inputs[0], workspace=pass_.workspace)

    def _plan(self, problem: PoolProblem) -> Plan:
        context = self.context
        layout = LAYOUTS[problem.rank][1]
        return choose_plan(problem, layout, context.backend, "as the network", context.device)


class MaxPoolKernel(PoolKernel):
    """A max-pooling: its gradient reads the input."""

    runs = (MaxPool, GlobalMaxPool)
    saves_inputs: ClassVar[bool] = True
