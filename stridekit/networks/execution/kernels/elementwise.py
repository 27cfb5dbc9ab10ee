"""Activations and sums, block by block in the accumulator's type."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import channels_first_view
from stridekit.networks.execution.kernels.base import (
    Backward,
    Context,
    Forward,
    LayerKernel,
    PointwiseKernel,
    carve,
    carved_bytes,
)
from stridekit.networks.operations import Activation, Add, Resolved
from stridekit.planning.dispatch import choose_plan
from stridekit.planning.plan import Plan
from stridekit.problems.activations import ACTIVATIONS, ActivationFunction
from stridekit.problems.conv_problem import conv_problem

_INVERSE_SQRT_TAU = 1 / math.sqrt(2 * math.pi)


class ActivationKernel(PointwiseKernel):
    """A function of each element."""

    runs = (Activation,)

    @property
    def saves_inputs(self) -> bool:  # type: ignore[override]
        """Whether the derivative is one of what came in."""
        return not self._function.of_result

    @property
    def saves_output(self) -> bool:  # type: ignore[override]
        """Whether the derivative is one of the results."""
        return self._function.of_result

    @property
    def forward_workspace(self) -> int:
        """Three blocks."""
        return self.block_bytes(3)

    @property
    def backward_workspace(self) -> int:
        """Three blocks."""
        return self.block_bytes(3)

    @cached_property
    def _function(self) -> ActivationFunction:
        function = ACTIVATIONS[self.operation.function]
        # Of a rising function the results have the signs of what came in.
        rises = self.operation.function == "leaky_relu" and self.operation.slope > 0
        return replace(function, of_result=True) if rises else function

    @cached_property
    def _number(self) -> float:
        """The slope or the limit. The limit is rounded as the results are, because they are compared with it."""
        operation = self.operation
        limited = self._function.parameter == "limit"
        return float(self.context.element.type(operation.limit) if limited else operation.slope)

    def forward(self, pass_: Forward) -> None:
        for x, y, v, t, u in self.blocks(pass_.workspace, 3, pass_.inputs[0], pass_.output):
            v[...] = x
            self._function.value(self.xp, v, t, u, self._number)
            y[...] = v

    def backward(self, pass_: Backward) -> None:
        if pass_.grad_inputs[0] is None:
            return
        derivative = self._function.derivative
        assert derivative is not None
        kept = pass_.output if self._function.of_result else pass_.inputs[0]
        for k, g, gx, v, t, u in self.blocks(pass_.workspace, 3, kept, pass_.grad_output, pass_.grad_inputs[0]):
            v[...] = k
            derivative(self.xp, v, t, u, self._number)
            self.xp.multiply(g, v, out=v)
            gx[...] = v


class GeluKernel(LayerKernel):
    """The exact GELU, by the engine: a convolution of one tap of weight 1 for each channel ends with it."""

    runs = (Activation,)
    saves_inputs: ClassVar[bool] = True
    saves_output: ClassVar[bool] = True

    @classmethod
    def suits(cls, context: Context, resolved: Resolved) -> bool:
        return isinstance(resolved.operation, Activation) and resolved.operation.function == "gelu"

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        return (0,)

    @cached_property
    def _plan(self) -> Plan:
        rows = self.rows
        problem = conv_problem(
            (min(rows, 1), self.channels, max(rows, 1)),
            (self.channels, 1, 1),
            dtype=self.context.dtype,
            memory_order="channels_last",
            groups=self.channels,
            activation="gelu",
        )
        return choose_plan(problem, None, self.context.backend, "as the network", self.context.device)

    @property
    def _region(self) -> Any:
        return (self.channels, 1, 1), self.context.element

    @property
    def forward_workspace(self) -> int:
        """The ones, and the plan's."""
        return carved_bytes(self._region) + self._plan.workspace_bytes()

    @property
    def backward_workspace(self) -> int:
        """Three blocks."""
        return self.block_bytes(3)

    def forward(self, pass_: Forward) -> None:
        ones, rest = carve(pass_.workspace, self._region)
        ones[...] = 1
        x, y = (
            channels_first_view(array.reshape(min(self.rows, 1), max(self.rows, 1), self.channels), True)
            for array in (pass_.inputs[0], pass_.output)
        )
        self._plan.execute(x, ones, out=y, workspace=rest)

    def backward(self, pass_: Backward) -> None:
        """Multiply by the derivative, ``Phi(x) + x phi(x)``; Phi is the result over x, save around 0."""
        xp, near = self.xp, 2.0**-6 if self.context.dtype == "float16" else 2.0**-20
        if pass_.grad_inputs[0] is None:
            return
        arrays = (pass_.inputs[0], pass_.output, pass_.grad_output, pass_.grad_inputs[0])
        for x, y, g, gx, v, t, u in self.blocks(pass_.workspace, 3, *arrays):
            # Near 0, where the result may be subnormal, 1/2 + x / sqrt(tau), whose error is x^3 / 15. Without a branch:
            # t says where the quotient counts, u where not, and there it is 0 over 1.
            v[...] = x
            xp.abs(v, out=t)
            xp.greater_equal(t, near, out=t, casting="unsafe")
            xp.multiply(v, t, out=v)
            xp.equal(v, 0, out=u, casting="unsafe")
            xp.add(v, u, out=v)
            xp.multiply(t, y, out=t)
            xp.divide(t, v, out=t)
            xp.multiply(x, _INVERSE_SQRT_TAU, out=v, dtype=v.dtype)
            xp.add(v, 0.5, out=v)
            xp.multiply(v, u, out=v)
            xp.add(v, t, out=v)
            t[...] = x
            xp.multiply(t, t, out=t)
            xp.multiply(t, -0.5, out=t)
            xp.exp(t, out=t)
            xp.multiply(t, x, out=t)
            xp.multiply(t, _INVERSE_SQRT_TAU, out=t)
            xp.add(v, t, out=v)
            xp.multiply(v, g, out=v)
            gx[...] = v


class AddKernel(LayerKernel):
    """A sum of inputs: each gets the whole gradient."""

    runs = (Add,)
    passes_gradient: ClassVar[bool] = True

    @property
    def in_place(self) -> tuple[int, ...]:
        return tuple(range(len(self.inputs)))

    @property
    def forward_workspace(self) -> int:
        """One block."""
        return self.block_bytes(1)

    def forward(self, pass_: Forward) -> None:
        for *terms, y, v in self.blocks(pass_.workspace, 1, *pass_.inputs, pass_.output):
            self.xp.add(terms[0], terms[1], out=v, dtype=v.dtype)
            for term in terms[2:]:
                self.xp.add(v, term, out=v)
            y[...] = v
