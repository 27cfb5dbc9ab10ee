"""The activations: what each is, its derivative, who computes it, and what it is called elsewhere.

The values are those of blocks, in place, with two more blocks ``t`` and ``u`` to work in: nothing is allocated. A block
is NumPy's or CuPy's, `xp` its library, and `number` the activation's parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from stridekit.arguments import as_real, items_of, shown
from stridekit.errors import ShapeError

ActivationArgument: TypeAlias = str | tuple[str, float] | None
Values: TypeAlias = Any
"""A block of values, in the type of sums."""
InPlace: TypeAlias = Callable[[Any, Values, Values, Values, float], None]

_LARGEST_SLOPE = float(np.finfo(np.float32).max)
_CHUNK = 1024
"""Values at once: what NumPy makes on the way stays in the first cache, and off the memory that is planned."""


@dataclass(frozen=True)
class ActivationFunction:
    """One activation.

    Attributes
    ----------
    value : callable
        Replaces a block by its activation; of ``gelu`` in NumPy alone, one by one.
    derivative : callable or None
        Replaces a block of what it keeps by the derivative there; None of ``gelu``, whose derivative takes both.
    of_result : bool
        Whether the derivative is one of the results rather than of what came in.
    onnx, torch : str
        Its operator in ONNX and its function in ATen; empty where they have none.
    parameter : str
        What its number is: the ``slope`` below zero, or the ``limit``, which is the largest result.
    fused : bool
        Whether a convolution can end with it.
    """

    value: InPlace
    derivative: InPlace | None
    of_result: bool
    onnx: str = ""
    torch: str = ""
    parameter: str = ""
    fused: bool = False

    def __call__(self, x: Any, number: float = 0.0) -> np.ndarray:
        """Return the values at numbers of any shape, as float64."""
        values = np.array(x, np.float64, order="C")
        apply_in_chunks(self.value, values, number)
        return values


class FusedActivation(NamedTuple):
    """What a convolution ends with: an activation by name, and the slope below zero of ``leaky_relu``, else 0."""

    name: str
    slope: float = 0.0


def parse_activation(argument: ActivationArgument) -> FusedActivation | None:
    """Read the `activation` argument: a name, ``("leaky_relu", slope)`` or None.

    Raises
    ------
    ShapeError
        Naming the forms that are taken.
    """
    if argument is None:
        return None
    if isinstance(argument, str):
        if argument in FUSED and argument != "leaky_relu":
            return FusedActivation(str(argument))
    else:
        items = items_of(argument)
        if items is not None and len(items) == 2 and isinstance(items[0], str) and items[0] == "leaky_relu":
            slope = as_real(items[1])
            if abs(slope) <= _LARGEST_SLOPE:
                return FusedActivation("leaky_relu", slope)
    raise ShapeError(
        f"activation is {shown(argument)}; wanted None, 'relu', 'relu6', 'silu', 'gelu' or ('leaky_relu', slope), the "
        f"slope a finite float32"
    )


def apply_activation(values: np.ndarray, activation: FusedActivation) -> None:
    """Replace `values` (C-contiguous) by their activation, in place. NaN stays NaN."""
    apply_in_chunks(ACTIVATIONS[activation.name].value, values, activation.slope)


def _relu(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    xp.maximum(v, 0, out=v)


def _clipped_relu(xp: Any, v: Values, t: Values, u: Values, limit: float) -> None:
    xp.maximum(v, 0, out=v)
    xp.minimum(v, limit, out=v)


def _relu6(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    _clipped_relu(xp, v, t, u, 6.0)


def _leaky_relu(xp: Any, v: Values, t: Values, u: Values, slope: float) -> None:
    xp.minimum(v, 0, out=t)
    xp.maximum(v, 0, out=v)
    xp.multiply(t, slope, out=t)
    xp.add(v, t, out=v)


def _exponential(xp: Any, v: Values, t: Values) -> None:
    """Leave ``exp(-|v|)`` in `t`, which neither overflows nor loses what is left of 1."""
    xp.abs(v, out=t)
    xp.negative(t, out=t)
    xp.exp(t, out=t)


def _sigmoid(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    # With e = exp(-|x|): 1 / (1 + e) from 0 on, and e / (1 + e) below; e is at most 1.
    _exponential(xp, v, t)
    xp.greater_equal(v, 0, out=v, casting="unsafe")
    xp.maximum(v, t, out=v)
    xp.add(t, 1, out=t)
    xp.divide(v, t, out=v)


def _silu(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    # As the backends' own: what a convolution fuses has the bits of what is filled in beside it.
    xp.negative(v, out=t)
    xp.exp(t, out=t)
    xp.add(t, 1, out=t)
    xp.divide(v, t, out=v)


def _gelu(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    # x Phi(x), with erfc so that it keeps its digits far below zero. NumPy has none: one by one, and in NumPy alone.
    for i, value in enumerate(v.tolist()):
        v[i] = 0.5 * value * math.erfc(-value * math.sqrt(0.5))


def _tanh(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    xp.tanh(v, out=v)


def _hard_sigmoid(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    xp.add(v, 3, out=v)
    _clipped_relu(xp, v, t, u, 6)
    xp.divide(v, 6, out=v)


def _hard_swish(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    t[...] = v
    _hard_sigmoid(xp, t, u, u, number)
    xp.multiply(v, t, out=v)


def _where_positive(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    xp.greater(v, 0, out=v, casting="unsafe")


def _where_between(xp: Any, v: Values, t: Values, u: Values, limit: float) -> None:
    xp.less(v, limit, out=t, casting="unsafe")
    xp.greater(v, 0, out=v, casting="unsafe")
    xp.multiply(v, t, out=v)


def _where_between_0_and_6(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    _where_between(xp, v, t, u, 6.0)


def _one_or_slope(xp: Any, v: Values, t: Values, u: Values, slope: float) -> None:
    xp.greater(v, 0, out=v, casting="unsafe")
    xp.multiply(v, 1 - slope, out=v)
    xp.add(v, slope, out=v)


def _sigmoid_derivative(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    xp.subtract(1, v, out=t)
    xp.multiply(v, t, out=v)


def _tanh_derivative(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    xp.multiply(v, v, out=v)
    xp.subtract(1, v, out=v)


def _silu_derivative(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    # s + x s (1 - s), with s the sigmoid of x, and s (1 - s) = e / (1 + e)^2.
    _exponential(xp, v, t)
    xp.multiply(v, t, out=u)
    xp.greater_equal(v, 0, out=v, casting="unsafe")
    xp.maximum(v, t, out=v)
    xp.add(t, 1, out=t)
    xp.divide(u, t, out=u)
    xp.add(v, u, out=v)
    xp.divide(v, t, out=v)


def _hard_sigmoid_derivative(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
    _where_between(xp, v, t, u, 1)
    xp.divide(v, 6, out=v)


def _hard_swish_derivative(xp: Any, v: Values, t: Values, u: Values, number: float) -> None:
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


def apply_in_chunks(value: InPlace, values: np.ndarray, number: float) -> None:
    """Replace `values` (C-contiguous) by a function of them, in place."""
    flat, work = values.reshape(-1), np.empty((2, _CHUNK), values.dtype)
    for start in range(0, flat.size, _CHUNK):
        v = flat[start : start + _CHUNK]
        value(np, v, work[0, : v.size], work[1, : v.size], number)


ACTIVATIONS = {
    "relu": ActivationFunction(_relu, _where_positive, True, "Relu", "relu", fused=True),
    "relu6": ActivationFunction(_relu6, _where_between_0_and_6, True, "", "relu6", fused=True),
    "clipped_relu": ActivationFunction(_clipped_relu, _where_between, True, parameter="limit"),
    "leaky_relu": ActivationFunction(_leaky_relu, _one_or_slope, False, "LeakyRelu", "leaky_relu", "slope", fused=True),
    "silu": ActivationFunction(_silu, _silu_derivative, False, "Swish", "silu", fused=True),
    "gelu": ActivationFunction(_gelu, None, False, "Gelu", "gelu", fused=True),
    "sigmoid": ActivationFunction(_sigmoid, _sigmoid_derivative, True, "Sigmoid", "sigmoid"),
    "tanh": ActivationFunction(_tanh, _tanh_derivative, True, "Tanh", "tanh"),
    "hard_swish": ActivationFunction(_hard_swish, _hard_swish_derivative, False, "HardSwish", "hardswish"),
    "hard_sigmoid": ActivationFunction(_hard_sigmoid, _hard_sigmoid_derivative, True, "HardSigmoid", "hardsigmoid"),
}
"""Every activation by its name."""
FUSED = tuple(name for name, activation in ACTIVATIONS.items() if activation.fused)
"""Those that a convolution can end with, in the order of kernels/activation.cuh."""
