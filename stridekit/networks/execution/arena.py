"""The arena: where in one block of memory every value of a program lies, and how large that block is.

Values that are never alive at once share their bytes; what is written may take the memory of what it replaces.
Offsets are dealt out from the largest value to the smallest, each at the lowest place that is free for as long as it
lives. Source: Y. Pisarchyk and J. Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4.
Where that leaves gaps, they are dealt out again with what came to lie on top going first. It takes a look at every two
values that are alive at once: where these are too many, and where gaps are left, they are dealt out as they come to
life, each in the smallest gap that holds it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from stridekit.memory.workspace import align
from stridekit.networks.execution.steps import Step, Value

_ORDERS = 10
_MOST_LOOKS = 4_000_000
"""Pairs of values alive at once that all orders together may look at: less than a second."""
_CLOSE = 1.005
"""How near to the least possible size is near enough."""


class _Piece(NamedTuple):
    """What has to lie somewhere: so many bytes, from one step to another; a value's, or a workspace."""

    nbytes: int
    first: int
    last: int
    name: str | None


_Placed: TypeAlias = list[tuple[_Piece, int]]


@dataclass(frozen=True)
class Arena:
    """Where everything lies.

    Attributes
    ----------
    nbytes : int
        Of the whole block.
    offsets : dict
        Bytes from its start to each value.
    workspaces : tuple of int
        Bytes from its start to each step's workspace.
    live : tuple of int
        Bytes in use at each step, workspace included: the arena is at least as large as the largest.
    shares : dict
        By value, the value whose memory it takes: itself where it takes none.
    lives : dict
        By value, the first and the last step that touches it.
    """

    nbytes: int
    offsets: Mapping[str, int]
    workspaces: tuple[int, ...]
    live: tuple[int, ...]
    shares: Mapping[str, str]
    lives: Mapping[str, tuple[int, int]]


def plan_arena(steps: Sequence[Step], values: Iterable[Value], unit: int, kept: Iterable[str] = ()) -> Arena:
    """Lay out `values` for `steps`, each piece beginning on a multiple of `unit` bytes; `kept` last to the end."""
    sizes = {value.name: align(value.nbytes, unit) for value in values}
    firsts, lasts = _lives(steps, sizes)
    lives = {name: (first, lasts[name]) for name, first in firsts.items()}
    lasts |= dict.fromkeys(set(kept) & set(firsts), len(steps) - 1)
    shares = _shared(steps, sizes, firsts, lasts)
    roots = [name for name in sizes if name in firsts and shares[name] == name]
    pieces = [_Piece(sizes[name], firsts[name], lasts[name], name) for name in roots]
    pieces += [_Piece(align(step.workspace, unit), at, at, None) for at, step in enumerate(steps) if step.workspace]
    live = _alive(pieces, [piece.nbytes for piece in pieces], len(steps))
    placed = _laid_out(pieces, max(live, default=0), len(steps))
    offsets: dict[str, int] = {}
    workspaces = [0] * len(steps)
    for piece, offset in placed:
        if piece.name is None:
            workspaces[piece.first] = offset
        else:
            offsets[piece.name] = offset
    return Arena(
        nbytes=_top(placed),
        offsets={name: offsets[shares[name]] for name in shares if shares[name] in offsets},
        workspaces=tuple(workspaces),
        live=tuple(live),
        shares=shares,
        lives=lives,
    )


def _alive(pieces: Iterable[_Piece], weights: Iterable[int], steps: int) -> list[int]:
    """Return by step the sum of the weights of what is alive there."""
    changes = [0] * (steps + 1)
    for piece, weight in zip(pieces, weights, strict=True):
        changes[piece.first] += weight
        changes[piece.last + 1] -= weight
    return list(accumulate(changes))[:steps]


def _lives(steps: Sequence[Step], sizes: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return by value the first and the last step that touches it."""
    firsts: dict[str, int] = {}
    lasts: dict[str, int] = {}
    for at, step in enumerate(steps):
        for name in (*step.reads, *step.writes):
            if name in sizes:
                firsts.setdefault(name, at)
                lasts[name] = at
    return firsts, lasts


def _shared(
    steps: Sequence[Step], sizes: Mapping[str, int], firsts: dict[str, int], lasts: dict[str, int]
) -> dict[str, str]:
    """Let values take the memory of those that die where they are written; their lives become one."""
    shares = {name: name for name in sizes}
    for at, step in enumerate(steps):
        taken: set[str] = set()
        for written, candidates in step.in_place.items():
            if written not in sizes or firsts[written] != at:
                continue
            for candidate in candidates:
                root = shares.get(candidate)
                if root is None or root in taken or lasts[root] != at or sizes[root] < sizes[written]:
                    continue
                shares[written] = root
                lasts[root] = lasts[written]
                taken.add(root)
                break
    return shares


def _laid_out(pieces: Sequence[_Piece], least: int, steps: int) -> _Placed:
    """Return the pieces with their offsets, in the best of some orders; none can do with less than `least` bytes."""
    alive = _alive(pieces, [1] * len(pieces), steps)
    orders = min(_ORDERS, _MOST_LOOKS // max(1, sum(alive) + sum(alive[piece.first] for piece in pieces)))
    if not orders:
        return _in_time(pieces)
    by_size = sorted(pieces, key=lambda piece: (-piece.nbytes, piece.first, piece.name is None, piece.name))
    best = placed = _placed(by_size, steps)
    if orders > 1 and _top(best) > least:
        by_area = sorted(by_size, key=lambda piece: -piece.nbytes * (piece.last - piece.first + 1))
        best = placed = min(best, _placed(by_area, steps), key=_top)
    for _ in range(2, orders):
        if _top(best) <= least * _CLOSE:
            return best
        top = _top(placed)
        upper = [offset + piece.nbytes == top for piece, offset in placed]
        order = sorted(range(len(placed)), key=lambda number: not upper[number])
        placed = _placed([placed[number][0] for number in order], steps)
        best = min(best, placed, key=_top)
    return best if _top(best) <= least * _CLOSE else min(best, _in_time(pieces), key=_top)


def _placed(pieces: Iterable[_Piece], steps: int) -> _Placed:
    """Deal out offsets in this order."""
    placed: _Placed = []
    # Where what is placed begins and ends, by each step that it is alive at, and by the step that it begins to be.
    alive: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    begun: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    for piece in pieces:
        offset = 0
        beside = alive[piece.first].copy()
        for at in range(piece.first + 1, piece.last + 1):
            beside += begun[at]
        for start, end in sorted(beside):
            if start - offset >= piece.nbytes:
                break
            offset = max(offset, end)
        placed.append((piece, offset))
        span = offset, offset + piece.nbytes
        begun[piece.first].append(span)
        for at in range(piece.first, piece.last + 1):
            alive[at].append(span)
    return placed


def _in_time(pieces: Iterable[_Piece]) -> _Placed:
    """Deal out offsets as pieces come to life, of those at one step the longest lived first."""
    placed: _Placed = []
    gaps = _Gaps()
    ending: dict[int, list[tuple[int, int]]] = {}
    before = 0
    for piece in sorted(pieces, key=lambda piece: (piece.first, -piece.last, -piece.nbytes)):
        for at in range(before, piece.first):
            for offset, nbytes in ending.pop(at, ()):
                gaps.add(offset, nbytes)
        before = piece.first
        offset = gaps.take(piece.nbytes)
        placed.append((piece, offset))
        ending.setdefault(piece.last, []).append((offset, piece.nbytes))
    return placed


class _Gaps:
    """What is free below `top`: gaps by size, and by where they begin and end."""

    def __init__(self) -> None:
        self.top = 0
        self._by_size: list[tuple[int, int]] = []
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}

    def add(self, offset: int, nbytes: int) -> None:
        """Free so many bytes; neighbouring gaps become one."""
        start, end = offset, offset + nbytes
        if start in self._by_end:
            start = self._by_end[start]
            self._remove(start, offset)
        if end in self._by_start:
            after = self._by_start[end]
            self._remove(end, after)
            end = after
        if end == self.top:
            self.top = start
        elif start < end:
            self._insert(start, end)

    def take(self, nbytes: int) -> int:
        """Take so many bytes from the smallest gap that has them, or from the top; return where they begin."""
        number = bisect_left(self._by_size, (nbytes, 0))
        if number == len(self._by_size):
            self.top += nbytes
            return self.top - nbytes
        size, start = self._by_size[number]
        self._remove(start, start + size)
        if size > nbytes:
            self._insert(start + nbytes, start + size)
        return start

    def _insert(self, start: int, end: int) -> None:
        insort(self._by_size, (end - start, start))
        self._by_start[start], self._by_end[end] = end, start

    def _remove(self, start: int, end: int) -> None:
        del self._by_size[bisect_left(self._by_size, (end - start, start))]
        del self._by_start[start], self._by_end[end]


def _top(placed: _Placed) -> int:
    """Return the end of what lies highest."""
    return max((offset + piece.nbytes for piece, offset in placed), default=0)
