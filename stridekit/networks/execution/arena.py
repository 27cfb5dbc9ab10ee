"""The arena: where in one block of memory every value of a program lies, and how large that block is.

Values that are never alive at once share their bytes; what is written may take the memory of what it replaces.
Offsets are dealt out from the largest value to the smallest, each at the lowest place that is free for as long as it
lives. Source: Y. Pisarchyk and J. Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4.
Where that leaves gaps, they are dealt out again with what came to lie on top going first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from stridekit.networks.execution.values import Step, Value
from stridekit.workspace import align

_REPAIRS = 8
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
    """

    nbytes: int
    offsets: Mapping[str, int]
    workspaces: tuple[int, ...]
    live: tuple[int, ...]
    shares: Mapping[str, str]


def plan_arena(steps: Sequence[Step], values: Iterable[Value], unit: int, kept: Iterable[str] = ()) -> Arena:
    """Lay out `values` for `steps`, each piece beginning on a multiple of `unit` bytes; `kept` last to the end."""
    sizes = {value.name: align(value.nbytes, unit) for value in values}
    firsts, lasts = _lives(steps, sizes)
    lasts |= dict.fromkeys(set(kept) & set(firsts), len(steps) - 1)
    shares = _shared(steps, sizes, firsts, lasts)
    roots = [name for name in sizes if name in firsts and shares[name] == name]
    pieces = [_Piece(sizes[name], firsts[name], lasts[name], name) for name in roots]
    pieces += [_Piece(align(step.workspace, unit), at, at, None) for at, step in enumerate(steps) if step.workspace]
    live = [0] * len(steps)
    for piece in pieces:
        for at in range(piece.first, piece.last + 1):
            live[at] += piece.nbytes
    placed = _laid_out(pieces, max(live, default=0))
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
    )


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


def _laid_out(pieces: Iterable[_Piece], least: int) -> _Placed:
    """Return the pieces with their offsets, in the best of some orders; none can do with less than `least` bytes."""
    by_size = sorted(pieces, key=lambda piece: (-piece.nbytes, piece.first, piece.name is None, piece.name))
    by_area = sorted(by_size, key=lambda piece: -piece.nbytes * (piece.last - piece.first + 1))
    placed = _placed(by_size)
    best = min(placed, placed if _top(placed) == least else _placed(by_area), key=_top)
    placed = best
    for _ in range(_REPAIRS):
        if _top(best) <= least * _CLOSE:
            break
        top = _top(placed)
        upper = [offset + piece.nbytes == top for piece, offset in placed]
        order = sorted(range(len(placed)), key=lambda number: not upper[number])
        placed = _placed([placed[number][0] for number in order])
        best = min(best, placed, key=_top)
    return best


def _placed(pieces: Iterable[_Piece]) -> _Placed:
    """Deal out offsets in this order."""
    placed: _Placed = []
    for piece in pieces:
        offset = 0
        alive = [each for each in placed if each[0].first <= piece.last and piece.first <= each[0].last]
        for other, start in sorted(alive, key=lambda each: each[1]):
            if start - offset >= piece.nbytes:
                break
            offset = max(offset, start + other.nbytes)
        placed.append((piece, offset))
    return placed


def _top(placed: _Placed) -> int:
    """Return the end of what lies highest."""
    return max((offset + piece.nbytes for piece, offset in placed), default=0)
