"""How an input gradient is cut into chunks of outputs whose columns, channels times taps, there are at once. Integers.

A column is the product of an output's gradient with one tap of one channel. The order in which a pixel's columns are
added is that of their outputs, in any cut; how a column is summed is the product's affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from stridekit.backends.cpu.forward.blocking import accumulator_itemsize
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.memory.dtypes import DTYPES
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import AxisGeometry, ConvGeometry

_CACHES = 4
"""Columns at once, in second-level caches: enough that beginning a product and an addition costs little beside them."""
_LEAST_PIXELS = 32
"""Outputs at once, so that the weights are not read anew for each; fewer where these would be more bytes than those."""
_RUN = 8.0
"""What a run of lanes costs beside its elements, in elements added one by one."""


class Sizes(NamedTuple):
    """A chunk of outputs whose columns there are at once: samples, and outputs per axis (three of them)."""

    samples: int
    d: int
    h: int
    w: int

    @property
    def pixels(self) -> int:
        """Outputs of one sample."""
        return self.d * self.h * self.w


class Chunk(NamedTuple):
    """Where a chunk begins, and how far it goes."""

    begin: Sizes
    sizes: Sizes


@dataclass(frozen=True)
class Cut:
    """How a problem whose padding holds zeros is cut, and how its columns lie.

    Attributes
    ----------
    axes : three AxisGeometry
    chunk : Sizes
        The largest chunk.
    unit : int
        Neighbouring channels that are added as one run; 1 where channels are planes.
    by_pixels : bool
        Whether a run is the outputs of a row, rather than the taps of one.
    columns : int
        Of one output: channels times taps.
    """

    axes: tuple[AxisGeometry, AxisGeometry, AxisGeometry]
    chunk: Sizes
    unit: int
    by_pixels: bool
    columns: int


_UNUSED = AxisGeometry(size=1, kernel=1, stride=1, dilation=1, pad_before=0, pad_after=0)


@lru_cache(maxsize=4096)
def cut_of(problem: ConvProblem, device: CpuDevice) -> Cut:
    """Cut a problem whose padding holds zeros."""
    first, second, third = axes = (*(_UNUSED,) * (3 - problem.rank), *problem.geometry.axes)
    columns = problem.in_channels * problem.taps
    itemsize = accumulator_itemsize(problem)
    outputs = [axis.output_size for axis in axes]
    most = max(_CACHES * device.l2_bytes // (columns * itemsize), min(_LEAST_PIXELS, problem.out_channels))
    samples = max(1, min(problem.batch, most // math.prod(outputs)))
    if problem.itemsize < itemsize:
        # Their sums are held beside the result, in their own type.
        pixels = problem.in_channels * math.prod(axis.size for axis in axes) * itemsize
        samples = max(1, min(samples, _CACHES * device.l2_bytes // pixels))
    for number in range(3):
        inner = math.prod(outputs[number + 1 :])
        outputs[number] = min(outputs[number], max(1, most // inner))
    last = problem.memory_order == "channels_last"
    unit = problem.group_in_channels if last else 1
    in_rows = _run_cost(third.kernel, third.dilation == 1 and not last)
    in_pixels = _run_cost(third.output_size, third.stride == 1 and not last)
    by_pixels = unit == 1 and in_pixels * third.kernel < in_rows * third.output_size
    return Cut((first, second, third), Sizes(samples, *outputs), unit, by_pixels, columns)


def _run_cost(elements: int, vectors: bool) -> float:
    return _RUN + (elements / 8 if vectors else elements)


def chunks(cut: Cut, batch: int) -> list[Chunk]:
    """Return the chunks of a batch, those of a sample in the order of its outputs."""
    ends = (batch, *(axis.output_size for axis in cut.axes))
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for end, step in zip(ends, cut.chunk, strict=True):
        chunks = [
            ((*begin, first), (*sizes, min(step, end - first)))
            for begin, sizes in chunks
            for first in range(0, end, step)
        ]
    return [Chunk(Sizes(*begin), Sizes(*sizes)) for begin, sizes in chunks]


def chunk_count(cut: Cut, batch: int) -> int:
    """Return how many chunks a batch has."""
    ends = (batch, *(axis.output_size for axis in cut.axes))
    return math.prod(-(-end // step) for end, step in zip(ends, cut.chunk, strict=True))


def ragged(cut: Cut, batch: int) -> list[Sizes]:
    """Return every size that a chunk has."""
    ends = (batch, *(axis.output_size for axis in cut.axes))
    sizes: list[tuple[int, ...]] = [()]
    for end, step in zip(ends, cut.chunk, strict=True):
        found = {min(step, end)} | ({end % step} if end % step else set())
        sizes = [(*one, size) for one in sizes for size in found]
    return [Sizes(*one) for one in sizes]


@lru_cache(maxsize=4096)
def product_problem(problem: ConvProblem, sizes: Sizes) -> ConvProblem:
    """Return the 1x1 problem from a chunk of the output's gradient to its columns, in the type of the sums."""
    _, axes, batch = product_axes(sizes)
    return replace(
        problem,
        direction="forward",
        batch=batch,
        in_channels=problem.out_channels,
        out_channels=problem.in_channels * problem.taps,
        geometry=ConvGeometry(tuple(replace(_UNUSED, size=size) for size in axes)),
        dtype=DTYPES[problem.dtype].sums,
        memory_order="channels_last",
        bias=False,
        activation=None,
    )


def product_axes(sizes: Sizes) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return which of (n, d, h, w) are pixels of the product, how many there are of each, and the batch.

    Samples are pixels too, if an axis is to spare: a tile then takes those of several, and the weights are read once.
    """
    numbers = tuple(number for number in range(4) if sizes[number] > 1)
    if len(numbers) > 3:
        return (1, 2, 3), sizes[1:], sizes.samples
    return numbers, tuple(sizes[number] for number in numbers) or (1,), 1


def column_strides(dense: ConvProblem, cut: Cut, sizes: Sizes) -> tuple[int, tuple[int, ...]]:
    """Return bytes from column to column of an output, and to the next sample, slice, row and pixel."""
    itemsize = accumulator_itemsize(dense)
    column, pixel = (sizes.pixels, 1) if cut.by_pixels else (1, cut.columns)
    row, slice_, sample = sizes.w * pixel, sizes.h * sizes.w * pixel, sizes.pixels * cut.columns
    return column * itemsize, tuple(step * itemsize for step in (sample, slice_, row, pixel))


def dealt_with(axis: AxisGeometry, first: int, outputs: int, everything: bool) -> tuple[int, int]:
    """Return the range of pixels that a chunk of outputs reads, or all of them."""
    if everything:
        return 0, axis.size
    low = max(0, first * axis.stride - axis.pad_before)
    high = min(axis.size, (first + outputs - 1) * axis.stride - axis.pad_before + axis.kernel_extent)
    return min(low, max(high, 0)), max(high, 0)


def boxes(sizes: list[int], most: int, parts: int) -> list[int]:
    """Return the sides of boxes of at most `most` pixels, of which there are at least `parts` if that is worth it."""
    total = math.prod(sizes)
    most = max(1, min(most, max(total // max(parts, 1), 4096)))
    blocks = list(sizes)
    for number in range(3):
        inner = math.prod(sizes[number + 1 :])
        blocks[number] = max(1, min(sizes[number], most // max(inner, 1)))
    return blocks
