"""The input's gradient as one product: every tap of every output at once, as columns that are then added up.

Phase by phase every tap runs over every pixel, zeros outside the output's gradient included: where the output is small
against the input, nearly all of them. Here outputs meet taps once: the products are as many as there are, and each is
written, read and added. The columns lie in a workspace whose size does not grow with the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends import Operands
from stridekit.backends.cpu.adding import Adding, Line, add_columns, lay_weights
from stridekit.backends.cpu.algorithms import VECTORS_PER_SECOND, BroadcastTile, no_half
from stridekit.backends.cpu.blocking import accumulator_itemsize
from stridekit.backends.cpu.jobs import Job, Part, _activation, execute, strides_of
from stridekit.backends.cpu.processor import CpuDevice
from stridekit.backends.gradients import InputGradient, Moves, padded_problem
from stridekit.geometry import AxisGeometry, ConvGeometry
from stridekit.problem import ConvProblem
from stridekit.workspace import ALIGNMENT, align

_COLUMN_BYTES = 4 << 20
"""Columns at once: enough that beginning a product and an addition costs little beside them, few enough for a cache."""
_LEAST_PIXELS = 32
"""Outputs at once, so that the weights are not read anew for each."""
_BOX_ELEMENTS = 1 << 15
_TASKS_PER_THREAD = 4
_WORTH_A_THREAD = 100_000
"""Elements added: what one thread does while another wakes."""
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
def cut_of(problem: ConvProblem) -> Cut:
    """Cut a problem whose padding holds zeros."""
    first, second, third = axes = (*(_UNUSED,) * (3 - problem.rank), *problem.geometry.axes)
    columns = problem.in_channels * problem.taps
    itemsize = accumulator_itemsize(problem)
    outputs = [axis.output_size for axis in axes]
    most = max(_COLUMN_BYTES // (columns * itemsize), _LEAST_PIXELS)
    samples = max(1, min(problem.batch, most // math.prod(outputs)))
    if problem.itemsize < itemsize:
        # Their sums are held beside the result, in their own type.
        pixels = problem.in_channels * math.prod(axis.size for axis in axes) * itemsize
        samples = max(1, min(samples, _COLUMN_BYTES // pixels))
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


def _chunks(cut: Cut, batch: int) -> list[Chunk]:
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


def _ragged(cut: Cut, batch: int) -> list[Sizes]:
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
    _, axes, batch = _product_axes(sizes)
    return replace(
        problem,
        direction="forward",
        batch=batch,
        in_channels=problem.out_channels,
        out_channels=problem.in_channels * problem.taps,
        geometry=ConvGeometry(tuple(replace(_UNUSED, size=size) for size in axes)),
        dtype="float64" if problem.dtype == "float64" else "float32",
        memory_order="channels_last",
        bias=False,
        activation=None,
    )


def _product_axes(sizes: Sizes) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return which of (n, d, h, w) are pixels of the product, how many there are of each, and the batch.

    Samples are pixels too, if an axis is to spare: a tile then takes those of several, and the weights are read once.
    """
    numbers = tuple(number for number in range(4) if sizes[number] > 1)
    if len(numbers) > 3:
        return (1, 2, 3), sizes[1:], sizes.samples
    return numbers, tuple(sizes[number] for number in numbers) or (1,), 1


class ColumnsGradient(InputGradient):
    """The input's gradient by products whose columns are added up in the order of the outputs."""

    def __init__(self, moves: Moves) -> None:
        super().__init__(BroadcastTile(), moves)
        self.name = "columns"
        self._tile = BroadcastTile()

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""``, or why arrays of the problem's type cannot be read."""
        return no_half(problem, device)

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled time: products, weights laid out, columns written and added, pixels written."""
        dense = padded_problem(problem)
        return _seconds(replace(dense, batch=1), replace(device, threads=1)) * problem.batch / device.threads

    def detail(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Say how many columns there are of how many outputs at once."""
        cut = cut_of(padded_problem(problem))
        return f"{cut.columns} columns of {cut.chunk.samples * cut.chunk.pixels} outputs at once"

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return the packing of the product, and which order its filters are in."""
        if problem.padding_mode != "zeros":
            return super().packing(problem, device)
        product = self._product(problem)
        by_taps = cut_of(problem).unit > 1
        return (by_taps, problem.weight_shape, problem.dtype, *self._tile.packing(product, device))

    def packed_bytes(self, problem: ConvProblem, device: CpuDevice) -> int:
        """Return the bytes of the product's weights in tile order."""
        if problem.padding_mode != "zeros":
            return problem.weight_bytes
        return self._tile.packed_bytes(self._product(problem), device)

    def pack(self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Write the weights in tile order."""
        if problem.padding_mode != "zeros":
            super().pack(problem, device, weight, packed)
            return
        self._lay(problem, device, weight, packed, np.zeros(1, np.int64))

    def regions(self, dense: ConvProblem, device: CpuDevice, packed: bool) -> tuple[tuple[str, int], ...]:
        """Return the names and bytes of the columns, and of what their making and adding needs."""
        cut, itemsize = cut_of(dense), accumulator_itemsize(dense)
        chunk = cut.chunk.samples * cut.chunk.pixels
        products = [product_problem(dense, sizes) for sizes in _ragged(cut, dense.batch)]
        regions = [
            ("counter", ALIGNMENT),
            ("bias", dense.in_channels * itemsize),
            ("columns", chunk * cut.columns * itemsize),
            ("product", max(self._tile.workspace(product, device, packed=True) for product in products)),
        ]
        if not packed:
            regions.append(("laid", self.packed_bytes(dense, device)))
        if dense.itemsize < itemsize:
            regions.append(("wide", chunk * dense.out_channels * itemsize))
            regions.append(("sums", cut.chunk.samples * math.prod(dense.input_shape[1:]) * itemsize))
        return tuple(regions)

    def _correlate(
        self, dense: ConvProblem, device: CpuDevice, operands: Operands, regions: dict[str, Any], target: np.ndarray
    ) -> None:
        """Compute a problem whose padding holds zeros, chunk after chunk."""
        cut, acc = cut_of(dense), np.dtype(f"f{accumulator_itemsize(dense)}")
        counter, bias = regions["counter"].view(np.int64)[:1], regions["bias"].view(acc)
        bias[...] = 0 if operands.bias is None else operands.bias
        packed = operands.packed_weight
        if packed is None:
            packed = regions["laid"]
            self._lay(dense, device, operands.weight, packed, counter)
        for chunk in _chunks(cut, dense.batch):
            (n, *firsts), (samples, *sizes) = chunk
            window = tuple(slice(first, first + size) for first, size in zip(firsts, sizes, strict=True))
            given = operands.grad_output[(slice(n, n + samples), slice(None), *window[3 - dense.rank :])]
            if "wide" in regions:
                wide = regions["wide"].view(acc)[: given.size].reshape(given.shape)
                self._moves.convert(device, given, wide)
                given = wide
            columns = regions["columns"].view(acc)[: samples * math.prod(sizes) * cut.columns]
            job = _product_job(self._tile, dense, device, chunk.sizes, strides_of(given))
            execute(job, product_problem(dense, chunk.sizes).dtype, regions["product"], given, None, packed, None, columns)
            out = target[n : n + samples]
            sums = out
            if "sums" in regions:
                sums = _like(out, regions["sums"].view(acc), dense.memory_order == "channels_last")
            self._add(dense, device, chunk, columns, sums, out, bias, counter)

    def _product(self, problem: ConvProblem) -> ConvProblem:
        return product_problem(problem, cut_of(problem).chunk)

    def _lay(
        self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray, counter: np.ndarray
    ) -> None:
        from stridekit.backends.cpu.crew import run

        counter[0] = 0
        numbers = _laying(self._tile, problem, device, weight.strides)
        job = np.array((numbers[0], counter.ctypes.data, packed.ctypes.data, weight.ctypes.data, *numbers[1:]), np.int64)
        threads = device.threads if math.prod(weight.shape) >= _WORTH_A_THREAD else 1
        run(lay_weights(problem.dtype), job, threads, weight, packed, packed.base, counter)

    def _add(
        self,
        dense: ConvProblem,
        device: CpuDevice,
        chunk: Chunk,
        columns: np.ndarray,
        sums: np.ndarray,
        out: np.ndarray,
        bias: np.ndarray,
        counter: np.ndarray,
    ) -> None:
        from stridekit.backends.cpu.crew import run

        counter[0] = 0
        adding, threads = _adding(dense, device, chunk, strides_of(sums), strides_of(out))
        places = columns.ctypes.data, sums.ctypes.data, 0 if sums is out else out.ctypes.data, bias.ctypes.data
        job = adding.at(counter.ctypes.data, *places)
        run(add_columns(dense.dtype), job, threads, columns, sums, out, bias, counter, adding)


@lru_cache(maxsize=1024)
def _product_job(
    tile: BroadcastTile, dense: ConvProblem, device: CpuDevice, sizes: Sizes, strides: tuple[int, ...]
) -> Job:
    """Prepare the product of a chunk, given the strides of the output's gradient."""
    cut = cut_of(dense)
    problem = product_problem(dense, sizes)
    numbers, _, batch = _product_axes(sizes)
    column, places = _column_strides(dense, cut, sizes)
    n, c, *pixels = strides

    def along(steps: tuple[int, ...]) -> tuple[int, ...]:
        chosen = [steps[number] for number in numbers]
        return (*(0,) * (3 - len(chosen)), *chosen)

    read = (n if batch > 1 else 0, c, *along((n, *pixels)))
    written = (places[0] if batch > 1 else 0, column, *along(places))
    return tile.job((Part(problem, 0, read, 0, written, 0, ()),), device, True)


def _column_strides(dense: ConvProblem, cut: Cut, sizes: Sizes) -> tuple[int, tuple[int, ...]]:
    """Return bytes from column to column of an output, and to the next sample, slice, row and pixel."""
    itemsize = accumulator_itemsize(dense)
    column, pixel = (sizes.pixels, 1) if cut.by_pixels else (1, cut.columns)
    row, slice_, sample = sizes.w * pixel, sizes.h * sizes.w * pixel, sizes.pixels * cut.columns
    return column * itemsize, tuple(step * itemsize for step in (sample, slice_, row, pixel))


@lru_cache(maxsize=1024)
def _laying(
    tile: BroadcastTile, problem: ConvProblem, device: CpuDevice, strides: tuple[int, ...]
) -> tuple[int, ...]:
    """Return a `Laying` without addresses."""
    cut, itemsize = cut_of(problem), accumulator_itemsize(problem)
    b = tile.blocking(product_problem(problem, cut.chunk), device)
    kernel = tuple(axis.kernel for axis in cut.axes)
    w_k, w_c, *w_taps = strides_of_weight(strides)
    by_taps = cut.unit > 1
    flat = problem.itemsize == itemsize and not by_taps
    expected = itemsize
    for size, stride in zip((*reversed(kernel), problem.group_in_channels), (*reversed(w_taps), w_c), strict=True):
        flat = flat and (size == 1 or stride == expected)
        expected *= size
    return tuple(
        int(number)
        for number in (
            problem.out_channels, problem.groups, b.channels, b.filters, b.lanes, b.tile_vectors * b.lanes, itemsize,
            flat, by_taps, problem.group_in_channels, *kernel, w_k, w_c, *w_taps,
        )
    )  # fmt: skip


def strides_of_weight(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of (k, c, d, h, w), 0 for axes that a lower rank lacks."""
    k, c, *kernel = strides
    return (k, c, *(0,) * (3 - len(kernel)), *kernel)


@dataclass(frozen=True, eq=False)
class _Numbers:
    """A job of adding up, all but its addresses."""

    numbers: np.ndarray
    slope: np.ndarray

    def at(self, counter: int, columns: int, sums: int, out: int, bias: int) -> np.ndarray:
        """Return it with the addresses of this call."""
        job = self.numbers.copy()
        for name, address in (("counter", counter), ("columns", columns), ("bias", bias)):
            job[_PLACE[name]] = address
        job[_PLACE["sums"]] += sums
        if out:
            job[_PLACE["out"]] = out
        return job


_PLACE = {name: 3 * len(Line._fields) + number for number, name in enumerate(Adding._fields)}


@lru_cache(maxsize=1024)
def _adding(
    dense: ConvProblem, device: CpuDevice, chunk: Chunk, sums: tuple[int, ...], out: tuple[int, ...]
) -> tuple[_Numbers, int]:
    """Prepare the addition of a chunk, given the strides of sums and result; return how many threads are worth it too."""
    cut, itemsize = cut_of(dense), accumulator_itemsize(dense)
    (_, *firsts), (samples, *sizes) = chunk
    begins = not any(firsts)
    ends = all(
        first + size == axis.output_size for first, size, axis in zip(firsts, sizes, cut.axes, strict=True)
    )
    planes = dense.in_channels // cut.unit
    lines = [
        (axis, first, first + size, *_dealt_with(axis, first, size, begins or ends))
        for axis, first, size in zip(cut.axes, firsts, sizes, strict=True)
    ]
    added = samples * math.prod(sizes) * cut.columns + samples * planes * cut.unit * math.prod(
        high - low for *_, low, high in lines
    )
    threads = device.threads if added >= _WORTH_A_THREAD else 1
    parts = samples * planes
    most = max(1, _BOX_ELEMENTS // cut.unit)
    words: list[int] = []
    boxes = parts
    blocks = _boxes([high - low for *_, low, high in lines], most, -(-_TASKS_PER_THREAD * threads // parts))
    for (axis, first, last, low, high), block in zip(lines, blocks, strict=True):
        count = -(-(high - low) // block)
        boxes *= count
        words += [axis.kernel, axis.stride, axis.dilation, axis.pad_before, first, last, low, high, block, count]
    column, (k_n, *k_pixels) = _column_strides(dense, cut, chunk.sizes)
    d, h, w = (axis.kernel for axis in cut.axes)
    # The columns of an output are ordered by channels, then taps; where channels are neighbours, the other way round.
    tap = column * cut.unit
    number, slope = _activation(dense)
    adding = Adding(
        tasks=boxes,
        counter=0,
        planes=planes,
        unit=cut.unit,
        itemsize=itemsize,
        by_pixels=int(cut.by_pixels),
        columns=0,
        k_n=k_n,
        k_p=column * cut.unit * dense.taps,
        k_d=k_pixels[0],
        k_h=k_pixels[1],
        k_w=k_pixels[2],
        t_d=tap * h * w,
        t_h=tap * w,
        t_w=tap,
        sums=0,
        s_n=sums[0],
        s_p=sums[1] * cut.unit,
        s_c=sums[1],
        s_d=sums[2],
        s_h=sums[3],
        s_w=sums[4],
        out=0,
        o_n=out[0],
        o_p=out[1] * cut.unit,
        o_c=out[1],
        o_d=out[2],
        o_h=out[3],
        o_w=out[4],
        bias=0,
        begins=int(begins),
        ends=int(ends),
        activation=number,
        slope=int(slope.ctypes.data),
    )
    return _Numbers(np.array((*words, *adding), np.int64), slope), max(1, min(threads, boxes))


def _dealt_with(axis: AxisGeometry, first: int, outputs: int, everything: bool) -> tuple[int, int]:
    """Return the range of pixels that a chunk of outputs reads, or all of them."""
    if everything:
        return 0, axis.size
    low = max(0, first * axis.stride - axis.pad_before)
    high = min(axis.size, (first + outputs - 1) * axis.stride - axis.pad_before + axis.kernel_extent)
    return min(low, max(high, 0)), max(high, 0)


def _boxes(sizes: list[int], most: int, parts: int) -> list[int]:
    """Return the sides of boxes of at most `most` pixels, of which there are at least `parts` if that is worth it."""
    total = math.prod(sizes)
    most = max(1, min(most, max(total // max(parts, 1), 4096)))
    blocks = list(sizes)
    for number in range(3):
        inner = math.prod(sizes[number + 1 :])
        blocks[number] = max(1, min(sizes[number], most // max(inner, 1)))
    return blocks


def _like(out: np.ndarray, room: np.ndarray, last: bool) -> np.ndarray:
    """View flat sums in the shape of `out`, its channels outermost or innermost."""
    if not last:
        return room[: out.size].reshape(out.shape)
    n, c, *pixels = out.shape
    return np.moveaxis(room[: out.size].reshape(n, *pixels, c), -1, 1)


def _seconds(dense: ConvProblem, device: CpuDevice) -> float:
    """Return the modelled seconds of one sample on one thread."""
    cut = cut_of(dense)
    itemsize = accumulator_itemsize(dense)
    b = BroadcastTile().blocking(product_problem(dense, cut.chunk), device)
    products = b.groups * b.vectors * dense.output_pixels * b.channels
    return products / VECTORS_PER_SECOND + align(cut.columns * itemsize) * dense.output_pixels * 1e-10
