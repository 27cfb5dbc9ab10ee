"""The activation functions and their derivatives, on a block of values: in place, and with nothing allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stridekit.memory.arrays import Array


class Function(NamedTuple):
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


FUNCTIONS = {
    "relu": Function(_relu, _where_positive, True),
    "relu6": Function(_clipped_relu, _where_between, True),
    "clipped_relu": Function(_clipped_relu, _where_between, True),
    "leaky_relu": Function(_leaky_relu, _one_or_slope, False),
    "sigmoid": Function(_sigmoid, _sigmoid_derivative, True),
    "tanh": Function(_tanh, _tanh_derivative, True),
    "silu": Function(_silu, _silu_derivative, False),
    "hard_swish": Function(_hard_swish, _hard_swish_derivative, False),
    "hard_sigmoid": Function(_hard_sigmoid, _hard_sigmoid_derivative, True),
}
"""By the name that a layer gives; `gelu` is the engine's own."""
