"""Products of parameters, thinned: what the short run asks of a test, and what it leaves to ``-m thorough``.

A test says which of its parameters are not its subject::

    @pytest.mark.rotated("backend", "dtype")

The short run then takes each combination of the others once. The named parameters take turns: every value comes up, and
every two values of two of them meet. With all parameters named, what is left of the product is all pairs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

Row = tuple[int, ...]
Pair = tuple[Any, ...]


def thinned(rows: Sequence[Row], turning: Sequence[int]) -> set[int]:
    """Choose from a product of parameters.

    Parameters
    ----------
    rows
        For each item a number for each of its parameters' values.
    turning
        Which places of a row take turns.

    Returns
    -------
    set of int
        Places in `rows`: one of each combination of the other values, and as many more as it takes until each two
        values of `turning` that stand in one row stand in one that is chosen. The same rows give the same choice.
    """
    combinations: dict[Row, list[int]] = {}
    for number, row in enumerate(rows):
        combinations.setdefault(tuple(v for at, v in enumerate(row) if at not in turning), []).append(number)
    met: Counter[Pair] = Counter()
    chosen: set[int] = set()

    def choose(among: Iterable[int]) -> None:
        def worth(number: int) -> tuple[int, int, int, int]:
            """New pairs of turning values first, then new pairs with the others, then what came up least."""
            own, with_others, all_turning = _pairs(rows[number], turning)
            new, new_with_others = (sum(not met[pair] for pair in pairs) for pairs in (own, with_others))
            return new, new_with_others, -met[all_turning], -sum(met[pair] for pair in own)

        best = max(among, key=worth)
        own, with_others, all_turning = _pairs(rows[best], turning)
        met.update({*own, *with_others, all_turning})
        chosen.add(best)

    for numbers in combinations.values():
        choose(numbers)
    holding: dict[Pair, list[int]] = {}
    for number, row in enumerate(rows):
        for pair in _pairs(row, turning)[0]:
            holding.setdefault(pair, []).append(number)
    for pair, numbers in holding.items():
        if not met[pair]:
            choose(numbers)
    return chosen


def _pairs(row: Row, turning: Sequence[int]) -> tuple[list[Pair], list[Pair], Pair]:
    """Return the pairs of turning values (single ones, if one turns), those with another value, and all in one."""
    places = [*enumerate(row)]
    those = [places[at] for at in turning]
    others = [place for place in places if place[0] not in turning]
    own: list[Pair] = [*itertools.combinations(those, 2)] if len(those) > 1 else [(place,) for place in those]
    return own, [*itertools.product(those, others)], ("all", *those)


def every(step: int, values: Iterable[Any], first: int = 0) -> list[Any]:
    """Return parameters of which the short run takes every so many, from one on; the others are ``thorough``."""
    return [
        value if number % step == first else pytest.param(value, marks=pytest.mark.thorough)
        for number, value in enumerate(values)
    ]


def mark_what_is_left_out(items: Sequence[pytest.Item]) -> None:
    """Mark as ``thorough`` the items of tests marked ``rotated`` that the short run leaves out.

    Those that cannot run here, on a backend that is missing say, take no other's turn.
    """
    tests: dict[tuple[str, str], list[Any]] = {}
    for item in items:
        if item.get_closest_marker("rotated") and not why_skipped(item):
            assert isinstance(item, pytest.Function)
            tests.setdefault((item.nodeid.split("::")[0], item.originalname), []).append(item)
    for of in tests.values():
        names, axes = of[0].get_closest_marker("rotated").args, list(of[0].callspec.params)
        if unknown := set(names) - set(axes):
            raise pytest.UsageError(f"{of[0].nodeid}: rotated names {sorted(unknown)}, which are no parameters of it")
        # A product holds each value once, however often it names it; not all of them can be hashed.
        rows = [tuple(id(item.callspec.params[axis]) for axis in axes) for item in of]
        kept = thinned(rows, [axes.index(name) for name in names])
        for number, item in enumerate(of):
            if number not in kept:
                item.add_marker(pytest.mark.thorough)


def why_skipped(item: pytest.Item) -> str:
    """Return the reason for which an item is sure to skip, empty if there is none."""
    return next((mark.kwargs["reason"] for mark in item.iter_markers("skipif") if mark.args[:1] == (True,)), "")
