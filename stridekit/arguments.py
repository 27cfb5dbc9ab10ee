"""Reading what a caller gave: integers, flags, numbers, names; refused by the argument's name where they do not fit."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from types import NoneType
from typing import Any, ParamSpec, TypeVar

import numpy as np

from stridekit.errors import ShapeError, StridekitError

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST = 80
_LARGEST = 2**63 - 1
_LONGEST_PATH = 4096
"""Bytes; what Linux takes."""
_TEXT = (str, bytes, bytearray, memoryview)


def shown(value: object) -> str:
    """Write a value for a message, whatever it is: its repr may be long, of many lines, or fail."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # Integers of thousands of digits have none, and an object's own may raise anything.
        text = f"an int of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__qualname__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def printable(name: str) -> str:
    """Write a file's name as text of one line: bytes that are not UTF-8, and what does not print, as escapes.

    Where the locale is ASCII, Python holds a name's other bytes as surrogates; here they are UTF-8 again.
    """
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def as_int(name: str, value: object, least: int | None = None, *, error: type[StridekitError] = ShapeError) -> int:
    """Read an integer argument of at least `least`; a float, a string or a bool is refused by name."""
    if isinstance(value, bool):
        raise error(f"{name} is {value!r}; wanted an int")
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except Exception:
        raise error(f"{name} holds {shown(value)}; wanted an int") from None
    if not -_LARGEST <= found <= _LARGEST:
        raise error(f"{name} holds {shown(found)}; the largest int is 2**63 - 1")
    if least is not None and found < least:
        raise error(f"{name} is {found}; wanted at least {least}")
    return found


def as_flag(name: str, value: object) -> bool:
    """Read a yes or no; what merely counts as one, such as 1 or None, is refused by name."""
    if not isinstance(value, bool | np.bool_):
        raise ShapeError(f"{name} is {shown(value)}; wanted True or False")
    return bool(value)


def as_real(value: Any) -> float:
    """Read a number; NaN for what is none, such as a string, a bool or an array of several."""
    try:
        number = value.item() if isinstance(value, np.ndarray) else value
        wrong = isinstance(number, bool | np.bool_ | str | bytes | bytearray) or value is np.ma.masked
        return math.nan if wrong else float(number)
    except Exception:
        return math.nan


def one_of(name: str, value: object, choices: Collection[str], *, error: type[StridekitError] = ShapeError) -> str:
    """Read a name out of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} is {shown(value)}; wanted one of {', '.join(choices)}")
    return str(value)


def items_of(value: object) -> tuple[Any, ...] | None:
    """Return the items of a list, a tuple or another sequence, or of an array; None for all that has no fixed order.

    Text and bytes are none: a string is a name, and ``b"\\x02\\x02"`` is no pair of integers.
    """
    listed = isinstance(value, Sequence) and not isinstance(value, _TEXT)
    arrayed = isinstance(value, np.ndarray) and value.ndim > 0 and not isinstance(value, np.ma.MaskedArray)
    if not listed and not arrayed:
        return None
    try:
        return tuple(value)  # type: ignore[arg-type]
    except Exception:
        return None


def as_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Read a shape; an array is refused by name, as is a negative size."""
    if hasattr(shape, "shape"):
        raise ShapeError(f"{name} is an array; wanted its shape, such as x.shape")
    sizes = items_of(shape)
    if sizes is None:
        raise ShapeError(f"{name} is {shown(shape)}; wanted a tuple of ints, such as x.shape")
    found = tuple(as_int(name, size) for size in sizes)
    if min(found, default=0) < 0:
        raise ShapeError(f"{name} is {shown(found)}; no size may be negative")
    return found


def as_path(name: str, value: Any, *, error: type[StridekitError] = ShapeError) -> Path:
    """Read a path; what is none, or could be none, is refused by name."""
    try:
        path = os.fspath(value)
        right = isinstance(path, str) and "\0" not in path and 1 <= len(os.fsencode(path)) <= _LONGEST_PATH
    except Exception:
        right = False
    if not right:
        raise error(f"{name} is {shown(value)}; wanted a path, as a str or a pathlib.Path")
    return Path(path)


def is_int(value: object) -> bool:
    """Say whether a value counts as one int: a NumPy integer does, an array of several does not."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except Exception:
        return False
    return True


def counted(values: tuple[object, ...]) -> str:
    """Write values with their number: ``"3 values (1, 2, 3)"``."""
    return f"{len(values)} value{'' if len(values) == 1 else 's'} {shown(values)}"


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
        items = items_of(value)
        if items is None:
            raise ShapeError(f"{name} is {shown(value)}; wanted an int or {rank} ints")
        if len(items) != rank:
            raise ShapeError(f"{name} has {counted(items)}; wanted one int or {rank} (one per spatial axis)")
        values = tuple(as_int(name, item) for item in items)
    if min(values) < minimum:
        raise ShapeError(f"{name} is {shown(value)}; every value must be at least {minimum}")
    return values


def remembered(make: Callable[P, R]) -> Callable[P, R]:
    """Remember what is made of ints, flags, strings, None and tuples of ints; of other arguments it is made anew.

    They are told apart by their types too: True equals 1, but must not pass for it.
    """
    known = lru_cache(maxsize=4096, typed=True)(make)

    @wraps(make)
    def made(*arguments: P.args, **options: P.kwargs) -> R:
        plain = _all_of((*arguments, *options.values()), _TOLD_APART)
        # Typing has no name for a function of the same arguments that wants them hashable.
        return known(*arguments, **options) if plain else make(*arguments, **options)  # type: ignore[arg-type]

    return made


_EQUAL_IF_SAME = frozenset((int, str, NoneType))
_TOLD_APART = _EQUAL_IF_SAME | {bool}
"""Plain types inside a tuple, where True passes for 1, and outside."""


def _all_of(values: tuple[object, ...], plain: frozenset[type]) -> bool:
    """Say whether all values are of `plain` types, or tuples of such."""
    others = {*map(type, values)} - plain
    return not others or (
        others == {tuple} and all(_all_of(each, _EQUAL_IF_SAME) for each in values if isinstance(each, tuple))
    )
