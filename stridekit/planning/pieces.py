"""Tiles: a problem cut into smaller ones, sample by sample and row by row, so that its workspace fits a budget.

A pure function of problem, algorithm, device and bytes. Every output element is the same sum in the same order in any
tile, so the bits do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from stridekit.backends import Algorithm, Device, Problem
from stridekit.errors import VramBudgetError
from stridekit.memory.workspace import align
from stridekit.problems.geometry import ConvGeometry

Slices = tuple[slice, ...]

_MOST_KINDS = 128
"""Tiles that touch padding, each in another way. More are far shorter than their windows: they would gather no less."""


@dataclass(frozen=True)
class Piece:
    """A part of a problem, and its pixels of ``"input"`` and ``"output"``, as slices of ``(N, C, *spatial)``."""

    problem: Problem
    slices: dict[str, Slices]


@dataclass(frozen=True)
class Pieces:
    """A problem in tiles of so many samples and output rows: made one by one, since there may be any number of them.

    Attributes
    ----------
    problem : Problem
    batch, rows : int
        Samples and output rows of a tile, the last of which have what is left. All rows stay where they cannot be cut.
    """

    problem: Problem
    batch: int
    rows: int

    def __iter__(self) -> Iterator[Piece]:
        """Yield the tiles in order."""
        for n in range(0, self.problem.batch, self.batch):
            samples = slice(n, min(n + self.batch, self.problem.batch))
            for number in range(self._row_tiles):
                yield self._tile(samples, number)

    def kinds(self) -> tuple[Any, ...]:
        """Return the problems of the tiles, those that are alike once; none if a tile would lie in the padding alone.

        Pieces that touch no padding are alike. There are none, either, if more than `_MOST_KINDS` touch it.
        """
        parts = {self.batch, self.problem.batch % self.batch} - {0}
        numbers = self._different_rows()
        if not numbers or not all(map(self._reads, numbers)):
            return ()
        return tuple(dict.fromkeys(self._tile(slice(0, part), number).problem for part in parts for number in numbers))

    @property
    def _row_tiles(self) -> int:
        return -(-self.problem.geometry.axes[0].output_size // self.rows) if self.problem.cuts_rows else 1

    def _different_rows(self) -> list[int]:
        """Return the numbers of the row tiles that touch padding, of the last, and of one of those between."""
        axis, count = self.problem.geometry.axes[0], self._row_tiles
        if not self.problem.cuts_rows:
            return [0]
        inner = min(count, -(-axis.pad_before // (self.rows * axis.stride)))
        within = (axis.size + axis.pad_before - axis.kernel_extent) // axis.stride + 1
        outer = min(count, max(inner, within // self.rows))
        if inner + count - outer > _MOST_KINDS:
            return []
        between = [inner] if inner < outer else []
        return sorted({*range(inner), *between, *range(outer, count), count - 1})

    def _span(self, number: int) -> tuple[int, int]:
        """Return from and to which input row a row tile reads, padding included."""
        axis = self.problem.geometry.axes[0]
        first, last = number * self.rows, min((number + 1) * self.rows, axis.output_size)
        start = first * axis.stride - axis.pad_before
        return start, start + (last - first - 1) * axis.stride + axis.kernel_extent

    def _reads(self, number: int) -> bool:
        start, stop = self._span(number)
        return not self.problem.cuts_rows or max(0, start) < min(self.problem.geometry.axes[0].size, stop)

    def _tile(self, samples: slice, number: int) -> Piece:
        problem: Any = self.problem
        batch = samples.stop - samples.start
        axis, *others = problem.geometry.axes
        rest = (slice(None),) * len(others)
        if not problem.cuts_rows:
            every = (samples, slice(None), slice(None), *rest)
            return Piece(replace(problem, batch=batch), {"input": every, "output": every})
        start, stop = self._span(number)
        low, high = max(0, start), min(axis.size, stop)
        part = replace(axis, size=high - low, pad_before=low - start, pad_after=stop - high)
        geometry = ConvGeometry((part, *others))
        rows = slice(number * self.rows, min((number + 1) * self.rows, axis.output_size))
        return Piece(
            replace(problem, batch=batch, geometry=geometry, cut_from=problem.sample_pixels),
            {
                "input": (samples, slice(None), slice(low, high), *rest),
                "output": (samples, slice(None), rows, *rest),
            },
        )


@dataclass(frozen=True)
class Schedule:
    """How an execution runs: on which device, in which tiles, with how many bytes of workspace.

    Attributes
    ----------
    device : Device
        The plan's, or the same with fewer threads.
    tiles : Pieces or None
        None where it runs in one piece.
    packed_bytes : int
        At the start of the workspace: the weights, packed once for all tiles; 0 where a single tile sees to it.
    workspace_bytes : int
        In all.
    """

    device: Device
    tiles: Pieces | None
    packed_bytes: int
    workspace_bytes: int


def schedule(
    problem: Problem, algorithm: Algorithm, device: Device, *, packed: bool, output_bytes: int, limit: int | None
) -> Schedule:
    """Take the fastest way whose workspace, beside `output_bytes`, stays within `limit` bytes.

    Raises
    ------
    VramBudgetError
        With the smallest budget that works, if none does.
    """
    smallest = None
    # Beside a result that alone is too large nothing fits: what would is all that there is to say.
    hopeless = limit is not None and output_bytes > limit
    for option in _options(problem, algorithm, device, packed=packed, last=hopeless):
        if limit is None or output_bytes + option.workspace_bytes <= limit:
            return option
        smallest = option.workspace_bytes if smallest is None else min(smallest, option.workspace_bytes)
    workspace = smallest or 0
    raise VramBudgetError(
        f"{limit} bytes are left of the budget; the smallest that works is {output_bytes + workspace} bytes: "
        f"{output_bytes} of output and {workspace} of workspace"
    )


def _options(problem: Problem, algorithm: Algorithm, device: Device, *, packed: bool, last: bool) -> Iterator[Schedule]:
    """Yield schedules from the fastest on: as planned, on the frugal device, in ever smaller tiles; or the last."""
    if problem.batch == 0:
        yield Schedule(device, None, 0, 0)
        return
    frugal = device.frugal()
    for each in dict.fromkeys((device, frugal)):
        yield Schedule(each, None, 0, each.rounded(algorithm.workspace(problem, each, packed=packed)))
    packing = 0 if packed else align(algorithm.packed_bytes(problem, frugal))
    sizes = list(_tile_sizes(problem))
    for batch, rows in reversed(sizes) if last else sizes:
        tiles = Pieces(problem, batch, rows)
        kinds = tiles.kinds()
        if kinds:
            # Weights packed for the whole serve every tile: their order is a matter of channels and taps alone.
            largest = max(algorithm.workspace(kind, frugal, packed=True) for kind in kinds)
            yield Schedule(frugal, tiles, packing, frugal.rounded(packing + largest))
            if last:
                return


def _tile_sizes(problem: Problem) -> Iterator[tuple[int, int]]:
    """Yield (samples, output rows) of a tile, halved time and again: the batch first, since that costs nothing."""
    batch, rows = problem.batch, problem.geometry.axes[0].output_size
    while problem.cuts_samples and batch > 1:
        batch = -(-batch // 2)
        yield batch, rows
    while problem.cuts_rows and rows > 1:
        rows = -(-rows // 2)
        yield batch, rows
