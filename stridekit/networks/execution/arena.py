"""The arena: where in one block of memory every value of a program lies, and how large that block is.

Values that are never alive at once share their bytes; what is written may take the memory of what it replaces.
Offsets are dealt out from the largest value to the smallest, each at the lowest place that is free for as long as it
lives. Source: Y. Pisarchyk and J. Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stridekit.networks.execution.values import Step, Value
from stridekit.workspace import align


@dataclass(frozen=True)
class Placed:
    """A piece of the arena: which bytes, and from which step to which it is in use."""

    offset: int
    nbytes: int
    first: int
    last: int


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
    pieces = [(sizes[name], firsts[name], lasts[name], name) for name in roots]
    pieces += [(align(step.workspace, unit), at, at, "") for at, step in enumerate(steps) if step.workspace]
    placed: list[Placed] = []
    offsets: dict[str, int] = {}
    workspaces = [0] * len(steps)
    for nbytes, first, last, name in sorted(pieces, key=lambda piece: (-piece[0], piece[1], piece[3])):
        offset = _lowest_free(nbytes, first, last, placed)
        placed.append(Placed(offset, nbytes, first, last))
        if name:
            offsets[name] = offset
        else:
            workspaces[first] = offset
    live = [0] * len(steps)
    for piece in placed:
        for at in range(piece.first, piece.last + 1):
            live[at] += piece.nbytes
    return Arena(
        nbytes=max((piece.offset + piece.nbytes for piece in placed), default=0),
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


def _lowest_free(nbytes: int, first: int, last: int, placed: Sequence[Placed]) -> int:
    """Return the lowest offset at which no piece lies that is in use at the same time."""
    offset = 0
    for piece in sorted(
        (piece for piece in placed if piece.first <= last and first <= piece.last), key=lambda piece: piece.offset
    ):
        if piece.offset - offset >= nbytes:
            break
        offset = max(offset, piece.offset + piece.nbytes)
    return offset
