"""Activations while a model is followed, also those written out in steps: what a function is, its values say.

An exporter that has no Gelu writes ``x * (erf(x / sqrt(2)) + 1) * 0.5``, in its own order. The steps are done one after
the other to numbers of the whole range, and after each the values so far are compared with those of the functions that
networks have. Values, not functions of functions: a step costs the same however many came before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from stridekit.errors import NetworkError
from stridekit.networks.operations import Activation, Add, Multiply, Scale
from stridekit.networks.readers.tracing.tracer import Offset, Tracer
from stridekit.networks.readers.tracing.values import (
    Constant,
    Formula,
    Function,
    Tensor,
    Unfinished,
    Value,
    constant,
    decimal,
    features,
    number,
)
from stridekit.problems.activations import ACTIVATIONS

_HALF_TOLERANCE = 1e-4
"""Of constants in half precision; the two forms of Gelu differ by more: 4.7e-4."""
_TOLERANCE = 1e-6
_MOST_STEPS = 16
"""That a message names."""

_erf = np.frompyfunc(math.erf, 1, 1)

_OPERATIONS = {name: function for name, function in ACTIVATIONS.items() if not function.parameter}
"""Those of networks that have no parameter."""
STEPS: dict[str, Function] = {
    **_OPERATIONS,
    "erf": lambda x: np.asarray(_erf(x), np.float64),
    "exp": np.exp,
    "log": np.log,
    "neg": np.negative,
    "reciprocal": np.reciprocal,
    "softplus": lambda x: np.logaddexp(0, x),
}
"""Functions of one variable by name: those that networks have, and steps of others."""


def activation(tracer: Tracer, value: Value, name: str, slope: float | None = None) -> Tensor | Unfinished:
    """Add one of a network's functions, or go on with one that is written out."""
    function = STEPS[name] if slope is None else _leaky(slope)
    if isinstance(value, Unfinished):
        return _then(tracer, value, function, name)
    base = features(value)
    formula = _step(_itself(base), function, 0.0)
    operation = Activation(name) if slope is None else Activation(name, slope)
    return tracer.emit(operation, [base], formula=formula)


def step(tracer: Tracer, value: Value, function: Function, name: str, *rounded: Value) -> Tensor | Unfinished:
    """Go on with a function of each element; `rounded` are the constants in it."""
    return _then(tracer, value, function, name, *rounded)


def with_number(tracer: Tracer, left: Value, right: Value, function: Callable[[Any, Any], Any], name: str) -> Value:
    """Go on with a function of two, of which one is a number: such as a difference or a quotient."""
    first, second = number(left), number(right)
    if second is not None:
        return step(tracer, left, lambda x: np.asarray(function(x, second)), name, right)
    if first is not None:
        return step(tracer, right, lambda x: np.asarray(function(first, x)), name, left)
    raise NetworkError("is known with one number alone, as a step of an activation")


def clip(tracer: Tracer, value: Value, low: float | None, high: float | None, name: str) -> Tensor | Unfinished:
    """Bound each element."""
    if (low, high) == (0, 6) and isinstance(value, Tensor):
        return activation(tracer, value, "relu6")
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    return _then(tracer, value, lambda x: np.minimum(np.maximum(x, least), most), name)


def multiply(tracer: Tracer, left: Value, right: Value, name: str) -> Tensor | Unfinished:
    """Scale each channel, go on with a function, or multiply two layers, of which one may be a gate."""
    if isinstance(left, Constant):
        left, right = right, left
    if isinstance(right, Constant):
        factor = number(right)
        if factor is not None and not _for_one_channel(right, left):
            return _then(tracer, left, lambda x: x * factor, name, right)
        tensor = features(left)
        weight = of_channels(right, tensor)
        return tracer.emit(Scale(), [tensor], {"weight": weight})
    joined = _together(tracer, left, right, np.multiply, name)
    # What is no function of a network may become one with further steps; of two layers it is a product as it stands.
    if joined is not None and not (
        isinstance(joined, Unfinished) and isinstance(left, Tensor) and isinstance(right, Tensor)
    ):
        return joined
    first, second = features(left), features(right)
    if _is_gate(first, second):
        first, second = second, first
    if first.order != second.order or not (first.shape == second.shape or _is_gate(second, first)):
        raise NetworkError(
            f"the inputs are {first.shape} and {second.shape}, or of other orders; wanted one shape, or one of them a "
            "gate with one number for each sample and channel"
        )
    return tracer.emit(Multiply(), [first, second])


def add(tracer: Tracer, left: Value, right: Value, name: str) -> Tensor | Unfinished:
    """Sum two layers, or give each channel its bias, or go on with a function."""
    if isinstance(left, Constant):
        left, right = right, left
    if isinstance(right, Constant):
        term = number(right)
        if term is not None and not _for_one_channel(right, left):
            return _then(tracer, left, lambda x: x + term, name, right)
        tensor = features(left)
        return tracer.emit(Offset(), [tensor], {"bias": of_channels(right, tensor)})
    if isinstance(left, Unfinished) or isinstance(right, Unfinished):
        joined = _together(tracer, left, right, np.add, name)
        if joined is not None:
            return joined
    first, second = features(left), features(right)
    if first.shape != second.shape or first.order != second.order:
        raise NetworkError(f"the inputs are {first.shape} and {second.shape}, or of other orders; wanted one shape")
    return tracer.emit(Add(), [first, second])


def of_channels(value: Value, tensor: Tensor) -> Constant:
    """Return a constant that has one number for each of a tensor's channels, as ``(C,)``."""
    given = constant(value, "the second input")
    channels = tensor.shape[tensor.channel_axis]
    wanted = [1] * len(tensor.shape)
    wanted[tensor.channel_axis] = channels
    shape = [1] * (len(wanted) - len(given.shape)) + list(given.shape)
    if shape != wanted:
        raise NetworkError(
            f"a constant {given.shape} meets {tensor.shape}; wanted one number for each of the {channels} channels"
        )
    return Constant(given.array.reshape(channels), given.name, given.key)


def _is_gate(value: Tensor, other: Tensor) -> bool:
    """Say whether one has a single pixel, for all those of the other."""
    wanted = tuple(size if own < 2 else 1 for size, own in zip(other.shape, other.order, strict=True))
    return value.order == other.order and value.shape == wanted != other.shape


def _for_one_channel(value: Constant, other: Value) -> bool:
    """Say whether one number is rather that of the only channel that there is."""
    return len(value.shape) > 0 and isinstance(other, Tensor) and other.shape[other.channel_axis] == 1


def _leaky(slope: float) -> Function:
    return partial(ACTIVATIONS["leaky_relu"], number=slope)


def _then(tracer: Tracer, value: Value, function: Function, name: str, *rounded: Value) -> Tensor | Unfinished:
    tolerance = max((_rounding(each) for each in rounded), default=0.0)
    if isinstance(value, Unfinished):
        return _recognised(tracer, _step(value.formula, function, tolerance), (*value.steps, name))
    return _recognised(tracer, _step(_itself(features(value)), function, tolerance), (name,))


def _itself(tensor: Tensor) -> Formula:
    return Formula(tensor, _known()[0], 0.0)


def _step(before: Formula, function: Function, tolerance: float) -> Formula:
    with np.errstate(all="ignore"):
        return Formula(before.base, np.asarray(function(before.values)), max(before.tolerance, tolerance))


def _together(
    tracer: Tracer, left: Value, right: Value, join: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str
) -> Tensor | Unfinished | None:
    """Join two functions of one tensor; None if they are of different ones."""
    for one in _formulas(left):
        for other in _formulas(right):
            if one.base.same_elements(other.base):
                tolerance = max(one.tolerance, other.tolerance)
                formula = _step(one, partial(join, other.values), tolerance)
                steps = tuple(step for value in (left, right) if isinstance(value, Unfinished) for step in value.steps)
                return _recognised(tracer, formula, (*steps, name))
    return None


def _formulas(value: Value) -> list[Formula]:
    if isinstance(value, Unfinished):
        return [value.formula]
    tensor = features(value)
    itself = _itself(tensor)
    return [itself] if tensor.formula is None else [itself, tensor.formula]


def _recognised(tracer: Tracer, formula: Formula, steps: tuple[str, ...]) -> Tensor | Unfinished:
    points, known = _known()
    found = np.asarray(formula.values, dtype=np.float64)
    with np.errstate(all="ignore"):
        below, far = (decimal(float(each)) for each in found[-2:])
    tolerance = max(formula.tolerance, _TOLERANCE)

    def same(wanted: np.ndarray) -> bool:
        return bool(np.all(np.abs(found - wanted) <= tolerance * np.maximum(1, np.abs(wanted))))

    if same(points):
        return formula.base
    for name, wanted in known.items():
        if same(wanted):
            return tracer.emit(Activation(name), [formula.base], formula=formula)
    if -1 < below < 0 and same(_leaky(-below)(points)):
        return tracer.emit(Activation("leaky_relu", -below), [formula.base], formula=formula)
    if 0 < far < 1e6 and same(np.clip(points, 0, far)):
        return tracer.emit(Activation("clipped_relu", limit=far), [formula.base], formula=formula)
    return Unfinished(formula, steps[:_MOST_STEPS])


@cache
def _known() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the points, of which the last are -1 and 1e9, and the values there of the functions that networks have."""
    far = np.logspace(-6, 9, 91)
    points = np.concatenate([-far[::-1], np.linspace(-12, 12, 769), far, [-1.0, 1e9]])
    with np.errstate(all="ignore"):
        return points, {name: function(points) for name, function in _OPERATIONS.items()}


def _rounding(value: Value) -> float:
    return _HALF_TOLERANCE if isinstance(value, Constant) and value.array.dtype.itemsize == 2 else 0.0
