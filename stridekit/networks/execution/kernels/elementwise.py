"""Activations and sums, block by block in the accumulator's type."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from stridekit.arrays import Array, channels_first_view
from stridekit.networks.execution.kernels.base import Backward, Forward, Kernel, carve, carved_bytes
from stridekit.plan import Plan
from stridekit.planning import choose_plan
from stridekit.problem import conv_problem

_INVERSE_SQRT_TAU = 1 / math.sqrt(2 * math.pi)


class _Function(NamedTuple):
    """A function and its derivative, each in place on a block ``v``, with two more blocks ``t`` and ``u`` to work in.

    The derivative is of the values that it keeps: the function's results, or what came in.
    """

    value: Callable[[Any, Array, Array, Array, float], None]
    derivative: Callable[[Any, Array, Array, Array, float], None]
    of_output: bool


def _relu(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    xp.maximum(v, 0, out=v)


def _clipped_relu(xp: Any, v: Array, t: Array, u: Array, limit: float) -> None:
    xp.maximum(v, 0, out=v)
    xp.minimum(v, limit, out=v)


def _leaky_relu(xp: Any, v: Array, t: Array, u: Array, slope: float) -> None:
    xp.minimum(v, 0, out=t)
    xp.maximum(v, 0, out=v)
    xp.multiply(t, slope, out=t)
    xp.add(v, t, out=v)


def _exponential(xp: Any, v: Array, t: Array) -> None:
    """Leave ``exp(-|v|)`` in `t`, which neither overflows nor loses what is left of 1."""
    xp.abs(v, out=t)
    xp.negative(t, out=t)
    xp.exp(t, out=t)


def _sigmoid(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    # With e = exp(-|x|): 1 / (1 + e) from 0 on, and e / (1 + e) below; e is at most 1.
    _exponential(xp, v, t)
    xp.greater_equal(v, 0, out=v, casting="unsafe")
    xp.maximum(v, t, out=v)
    xp.add(t, 1, out=t)
    xp.divide(v, t, out=v)


def _silu(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    # As the sigmoid, times x: (max(x, 0) + min(x, 0) e) / (1 + e).
    _exponential(xp, v, t)
    xp.minimum(v, 0, out=u)
    xp.multiply(u, t, out=u)
    xp.maximum(v, 0, out=v)
    xp.add(v, u, out=v)
    xp.add(t, 1, out=t)
    xp.divide(v, t, out=v)


def _tanh(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    xp.tanh(v, out=v)


def _hard_sigmoid(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    xp.add(v, 3, out=v)
    _clipped_relu(xp, v, t, u, 6)
    xp.divide(v, 6, out=v)


def _hard_swish(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    t[...] = v
    _hard_sigmoid(xp, t, u, u, number)
    xp.multiply(v, t, out=v)


def _where_positive(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    xp.greater(v, 0, out=v, casting="unsafe")


def _where_between(xp: Any, v: Array, t: Array, u: Array, limit: float) -> None:
    xp.less(v, limit, out=t, casting="unsafe")
    xp.greater(v, 0, out=v, casting="unsafe")
    xp.multiply(v, t, out=v)


def _one_or_slope(xp: Any, v: Array, t: Array, u: Array, slope: float) -> None:
    xp.greater(v, 0, out=v, casting="unsafe")
    xp.multiply(v, 1 - slope, out=v)
    xp.add(v, slope, out=v)


def _sigmoid_derivative(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    xp.subtract(1, v, out=t)
    xp.multiply(v, t, out=v)


def _tanh_derivative(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    xp.multiply(v, v, out=v)
    xp.subtract(1, v, out=v)


def _silu_derivative(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    # s + x s (1 - s), with s the sigmoid of x, and s (1 - s) = e / (1 + e)^2.
    _exponential(xp, v, t)
    xp.multiply(v, t, out=u)
    xp.greater_equal(v, 0, out=v, casting="unsafe")
    xp.maximum(v, t, out=v)
    xp.add(t, 1, out=t)
    xp.divide(u, t, out=u)
    xp.add(v, u, out=v)
    xp.divide(v, t, out=v)


def _hard_sigmoid_derivative(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    _where_between(xp, v, t, u, 1)
    xp.divide(v, 6, out=v)


def _hard_swish_derivative(xp: Any, v: Array, t: Array, u: Array, number: float) -> None:
    # x / 3 + 1 / 2 between -3 and 3, 0 up to the one and 1 from the other on: at both corners as PyTorch has it.
    # Bounded first, so that no infinity meets a 0.
    xp.greater(v, -3, out=t, casting="unsafe")
    xp.less(v, 3, out=u, casting="unsafe")
    xp.maximum(v, -3, out=v)
    xp.minimum(v, 3, out=v)
    xp.divide(v, 3, out=v)
    xp.subtract(v, 0.5, out=v)
    xp.multiply(v, u, out=v)
    xp.add(v, 1, out=v)
    xp.multiply(v, t, out=v)


_FUNCTIONS = {
    "relu": _Function(_relu, _where_positive, True),
    "relu6": _Function(_clipped_relu, _where_between, True),
    "clipped_relu": _Function(_clipped_relu, _where_between, True),
    "leaky_relu": _Function(_leaky_relu, _one_or_slope, False),
    "sigmoid": _Function(_sigmoid, _sigmoid_derivative, True),
    "tanh": _Function(_tanh, _tanh_derivative, True),
    "silu": _Function(_silu, _silu_derivative, False),
    "hard_swish": _Function(_hard_swish, _hard_swish_derivative, False),
    "hard_sigmoid": _Function(_hard_sigmoid, _hard_sigmoid_derivative, True),
}


class ActivationKernel(Kernel):
    """A function of each element."""

    @property
    def saves_inputs(self) -> bool:  # type: ignore[override]
        """Whether the derivative is one of what came in."""
        return not self._function.of_output

    @property
    def saves_output(self) -> bool:  # type: ignore[override]
        """Whether the derivative is one of the results."""
        return self._function.of_output

    @property
    def in_place(self) -> tuple[int, ...]:
        """The input's memory."""
        return (0,)

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The gradient's memory."""
        return (0,)

    @property
    def forward_workspace(self) -> int:
        """Three blocks."""
        return self.block_bytes(3)

    @property
    def backward_workspace(self) -> int:
        """Three blocks."""
        return self.block_bytes(3)

    @cached_property
    def _function(self) -> _Function:
        function = _FUNCTIONS[self.operation.function]
        # Of a rising function the results have the signs of what came in.
        rises = self.operation.function == "leaky_relu" and self.operation.slope > 0
        return function._replace(of_output=True) if rises else function

    @cached_property
    def _number(self) -> float:
        """The function's slope or limit; the limit as results have it, who are compared with it."""
        operation = self.operation
        if operation.function == "leaky_relu":
            return float(operation.slope)
        limit = 6.0 if operation.function == "relu6" else operation.limit
        return float(self.context.element.type(limit))

    def forward(self, pass_: Forward) -> None:
        """Apply the function."""
        for x, y, v, t, u in self.blocks(pass_.workspace, 3, pass_.inputs[0], pass_.output):
            v[...] = x
            self._function.value(self.xp, v, t, u, self._number)
            y[...] = v

    def backward(self, pass_: Backward) -> None:
        """Multiply by the derivative."""
        if pass_.grad_inputs[0] is None:
            return
        kept = pass_.output if self._function.of_output else pass_.inputs[0]
        for k, g, gx, v, t, u in self.blocks(pass_.workspace, 3, kept, pass_.grad_output, pass_.grad_inputs[0]):
            v[...] = k
            self._function.derivative(self.xp, v, t, u, self._number)
            self.xp.multiply(g, v, out=v)
            gx[...] = v


class GeluKernel(Kernel):
    """The exact GELU, by the engine: a convolution of one tap of weight 1 for each channel ends with it."""

    saves_inputs: ClassVar[bool] = True
    saves_output: ClassVar[bool] = True

    @property
    def grad_in_place(self) -> tuple[int, ...]:
        """The gradient's memory."""
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
        """Apply the function."""
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


class AddKernel(Kernel):
    """A sum of inputs: each gets the whole gradient."""

    passes_gradient: ClassVar[bool] = True

    @property
    def in_place(self) -> tuple[int, ...]:
        """Any input's memory."""
        return tuple(range(len(self.inputs)))

    @property
    def forward_workspace(self) -> int:
        """One block."""
        return self.block_bytes(1)

    def forward(self, pass_: Forward) -> None:
        """Add."""
        for *terms, y, v in self.blocks(pass_.workspace, 1, *pass_.inputs, pass_.output):
            self.xp.add(terms[0], terms[1], out=v, dtype=v.dtype)
            for term in terms[2:]:
                self.xp.add(v, term, out=v)
            y[...] = v
