"""Reading integers that a caller gave: one for all axes, or one for each, refused by name where they do not fit."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from stridekit.errors import ShapeError


def as_int(name: str, value: object) -> int:
    """Read an integer argument; a float, a string or a bool is refused by name."""
    if isinstance(value, bool):
        raise ShapeError(f"{name} is {value!r}; wanted an int")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ShapeError(f"{name} holds {value!r}; wanted an int") from None


def as_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Read a shape; an array is refused by name, as is a negative size."""
    if hasattr(shape, "shape"):
        raise ShapeError(f"{name} is an array; wanted its shape, such as x.shape")
    try:
        sizes = tuple(shape)
    except TypeError:
        raise ShapeError(f"{name} is {shape!r}; wanted a tuple of ints, such as x.shape") from None
    found = tuple(as_int(name, size) for size in sizes)
    if min(found, default=0) < 0:
        raise ShapeError(f"{name} is {found}; no size may be negative")
    return found


def is_int(value: object) -> bool:
    """Say whether a value counts as one int: a NumPy integer does, an array of several does not."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def counted(values: tuple[object, ...]) -> str:
    """Write values with their number: ``"3 values (1, 2, 3)"``."""
    return f"{len(values)} value{'' if len(values) == 1 else 's'} {values}"


def per_axis(name: str, value: int | Sequence[int], rank: int, *, minimum: int = 1) -> tuple[int, ...]:
    """Spread an argument over `rank` axes: an int for all of them, or one int per axis.

    Raises
    ------
    ShapeError
        Naming the argument, for a wrong count, a non-integer, or a value below `minimum`.
    """
    if is_int(value):
        values = (as_int(name, value),) * rank
    else:
        try:
            if isinstance(value, str):
                raise TypeError
            items: Any = value
            values = tuple(as_int(name, item) for item in items)
        except TypeError:
            raise ShapeError(f"{name} is {value!r}; wanted an int or {rank} ints") from None
        if len(values) != rank:
            raise ShapeError(f"{name} has {counted(values)}; wanted one int or {rank} (one per spatial axis)")
    if min(values) < minimum:
        raise ShapeError(f"{name} is {value!r}; every value must be at least {minimum}")
    return values
