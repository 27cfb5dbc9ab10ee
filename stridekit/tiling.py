"""Tiles: a problem cut into smaller ones, sample by sample and row by row, so that its workspace fits a budget.

A pure function of problem, algorithm, device and bytes. Every output element is the same sum in the same order in any
tile, so the bits do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from stridekit.backends import Algorithm, Device
from stridekit.errors import VramBudgetError
from stridekit.geometry import ConvGeometry
from stridekit.problem import ConvProblem
from stridekit.workspace import align

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Tile:
    """A part of a problem, and where the operand over pixels and the result lie, as slices of ``(N, C, *spatial)``."""

    problem: ConvProblem
    input: Slices
    output: Slices


@dataclass(frozen=True)
class Schedule:
    """How an execution runs: on which device, in which tiles, with how many bytes of workspace.

    Attributes
    ----------
    device : Device
        The plan's, or the same with fewer threads.
    tiles : tuple of Tile
        In order.
    packed_bytes : int
        At the start of the workspace: the weights, packed once for all tiles; 0 where a single tile sees to it.
    workspace_bytes : int
        In all.
    """

    device: Device
    tiles: tuple[Tile, ...]
    packed_bytes: int
    workspace_bytes: int


def schedule(
    problem: ConvProblem, algorithm: Algorithm, device: Device, *, packed: bool, output_bytes: int, limit: int | None
) -> Schedule:
    """Take the fastest way whose workspace, beside `output_bytes`, stays within `limit` bytes.

    Raises
    ------
    VramBudgetError
        With the smallest budget that works, if none does.
    """
    smallest = None
    for option in _options(problem, algorithm, device, packed=packed):
        if limit is None or output_bytes + option.workspace_bytes <= limit:
            return option
        smallest = option.workspace_bytes if smallest is None else min(smallest, option.workspace_bytes)
    workspace = smallest or 0
    raise VramBudgetError(
        f"{limit} bytes are left of the budget; the smallest that works is {output_bytes + workspace} bytes: "
        f"{output_bytes} of output and {workspace} of workspace"
    )


def whole_units(nbytes: int, device: Device) -> int:
    """Round bytes up to what an allocation in the device's memory takes."""
    return align(nbytes, device.granularity)


def _options(problem: ConvProblem, algorithm: Algorithm, device: Device, *, packed: bool) -> Iterator[Schedule]:
    """Yield schedules from the fastest on: as planned, on the frugal device, then in ever smaller tiles."""
    everything = (slice(None),) * (problem.rank + 2)
    whole = (Tile(problem, everything, everything),)
    frugal = device.frugal()
    for each in dict.fromkeys((device, frugal)):
        yield Schedule(each, whole, 0, whole_units(algorithm.workspace(problem, each, packed=packed), each))
    packing = 0 if packed else align(algorithm.packed_bytes(problem, frugal))
    for batch, rows in _tile_sizes(problem):
        tiles = _tiles(problem, batch, rows)
        if tiles:
            # Weights packed for the whole serve every tile: their order is a matter of channels and taps alone.
            largest = max(algorithm.workspace(tile.problem, frugal, packed=True) for tile in tiles)
            yield Schedule(frugal, tiles, packing, whole_units(packing + largest, frugal))


def _tile_sizes(problem: ConvProblem) -> Iterator[tuple[int, int]]:
    """Yield (samples, output rows) of a tile, halved time and again: the batch first, since that costs nothing."""
    batch, rows = problem.batch, problem.geometry.axes[0].output_size
    if problem.direction == "weight_grad":
        # Samples are summed: in tiles the order would be another.
        return
    while batch > 1:
        batch = -(-batch // 2)
        yield batch, rows
    # Reflected and circular padding read rows that a tile does not hold.
    while rows > 1 and problem.direction == "forward" and problem.padding_mode in ("zeros", "replicate"):
        rows = -(-rows // 2)
        yield batch, rows


def _tiles(problem: ConvProblem, batch: int, rows: int) -> tuple[Tile, ...]:
    """Cut a problem; empty if a tile would lie in the padding altogether."""
    axis, *others = problem.geometry.axes
    rest = (slice(None),) * len(others)
    tiles = []
    for n in range(0, problem.batch, batch):
        samples = slice(n, min(n + batch, problem.batch))
        if problem.direction == "input_grad":
            every = (samples, slice(None), slice(None), *(slice(None),) * len(others))
            tiles.append(Tile(replace(problem, batch=samples.stop - n), every, every))
            continue
        for first in range(0, axis.output_size, rows):
            last = min(first + rows, axis.output_size)
            start = first * axis.stride - axis.pad_before
            stop = (last - 1) * axis.stride - axis.pad_before + axis.kernel_extent
            low, high = max(0, start), min(axis.size, stop)
            if low >= high:
                return ()
            part = replace(axis, size=high - low, pad_before=low - start, pad_after=stop - high)
            geometry = ConvGeometry((part, *others))
            tiles.append(
                Tile(
                    replace(problem, batch=samples.stop - n, geometry=geometry, cut_from=problem.sample_pixels),
                    (samples, slice(None), slice(low, high), *rest),
                    (samples, slice(None), slice(first, last), *rest),
                )
            )
    return tuple(tiles)
