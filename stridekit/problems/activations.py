"""The activations that a convolution can end with: their names and their definition in float64."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np

from stridekit.arguments import as_real, items_of, shown
from stridekit.errors import ShapeError

ActivationArgument: TypeAlias = str | tuple[str, float] | None

_LARGEST_SLOPE = float(np.finfo(np.float32).max)
_CHUNK = 1024
"""Values at once: what NumPy makes on the way stays in the first cache, and off the memory that is planned."""
ACTIVATIONS = ("relu", "relu6", "silu", "gelu", "leaky_relu")


class Activation(NamedTuple):
    """An activation and its parameter: the slope below zero of ``leaky_relu``, else 0."""

    name: str
    slope: float = 0.0


def parse_activation(argument: ActivationArgument) -> Activation | None:
    """Read the `activation` argument: a name, ``("leaky_relu", slope)`` or None.

    Raises
    ------
    ShapeError
        Naming the forms that are taken.
    """
    if argument is None:
        return None
    if isinstance(argument, str):
        if argument in ACTIVATIONS and argument != "leaky_relu":
            return Activation(str(argument))
    else:
        items = items_of(argument)
        if items is not None and len(items) == 2 and isinstance(items[0], str) and items[0] == "leaky_relu":
            slope = as_real(items[1])
            if abs(slope) <= _LARGEST_SLOPE:
                return Activation("leaky_relu", slope)
    raise ShapeError(
        f"activation is {shown(argument)}; wanted None, 'relu', 'relu6', 'silu', 'gelu' or ('leaky_relu', slope), the "
        f"slope a finite float32"
    )


def apply_activation(values: np.ndarray, activation: Activation) -> None:
    """Replace `values` (float64, C-contiguous) by their activation, in place. NaN stays NaN.

    ``gelu`` is the exact one, ``x * Phi(x)``, written with erfc so that it keeps its digits far below zero.
    """
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        _apply(flat[start : start + _CHUNK], activation)


def _apply(values: np.ndarray, activation: Activation) -> None:
    name, slope = activation
    if name == "relu":
        np.maximum(values, 0.0, out=values)
    elif name == "relu6":
        np.clip(values, 0.0, 6.0, out=values)
    elif name == "leaky_relu":
        np.multiply(values, slope, out=values, where=values < 0)
    elif name == "silu":
        values /= 1.0 + np.exp(-values)
    else:
        for i, value in enumerate(values.tolist()):
            values[i] = 0.5 * value * math.erfc(-value * math.sqrt(0.5))
