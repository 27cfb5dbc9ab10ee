"""Functions of one number of spatial axes, made of one function of any: `conv2d` of `conv`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from stridekit.memory.arrays import LAYOUTS

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {
    1: {"*spatial": "W", "*output": "Q", "*kernel": "S", "{things}": "signals"},
    2: {"*spatial": "H, W", "*output": "P, Q", "*kernel": "R, S", "{things}": "images"},
    3: {"*spatial": "D, H, W", "*output": "O, P, Q", "*kernel": "T, R, S", "{things}": "volumes or clips"},
}
"""What a docstring of any rank says, and what those of each rank say instead."""


def of_rank(general: Callable[Concatenate[int, P], R], rank: int) -> Callable[P, R]:
    """Return ``general(rank, ...)`` as a function of its own, with the name, signature and help of its rank.

    Parameters
    ----------
    general : function
        Its first parameter is the number of spatial axes. A parameter ``layout`` has this rank's channels-first layout
        as its default.
    rank : {1, 2, 3}

    Examples
    --------
    >>> def shift(rank, x, *, layout=None):
    ...     '''Shift {things} (N, C, *spatial).'''
    ...     return rank, x
    >>> shift2d = of_rank(shift, 2)
    >>> shift2d("x"), shift2d.__doc__, str(inspect.signature(shift2d))
    ((2, 'x'), 'Shift images (N, C, H, W).', "(x, *, layout='NCHW')")
    """

    @functools.wraps(general)
    def ranked(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return general(rank, *arguments, **options)
        except TypeError:
            # An argument too many, too few or unknown is reported by Python in the words of `general`.
            _check_arguments(ranked, arguments, options)
            raise

    signature = inspect.signature(general)
    parameters = [
        each.replace(default=LAYOUTS[rank][0]) if each.name == "layout" else each
        for each in list(signature.parameters.values())[1:]
    ]
    told = inspect.cleandoc(general.__doc__ or "")
    for word, meaning in _WORDS[rank].items():
        told = told.replace(word, meaning)
    ranked.__name__ = ranked.__qualname__ = f"{general.__name__}{rank}d"
    ranked.__doc__ = told
    ranked.__annotations__ = {name: kind for name, kind in general.__annotations__.items() if name != "rank"}
    # Before what it wraps, whose first parameter this function does not take.
    ranked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return ranked


def _check_arguments(
    function: Callable[..., object], arguments: tuple[object, ...], options: dict[str, object]
) -> None:
    try:
        inspect.signature(function).bind(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"{function.__name__}(): {error}") from None
