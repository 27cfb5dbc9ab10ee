"""The input's gradient as one product: every tap of every output at once, as columns that are then added up.

Phase by phase every tap runs over every pixel, zeros outside the output's gradient included: where the output is small
against the input, nearly all of them. Here outputs meet taps once: the products are as many as there are, and each is
written, read and added. The columns lie in a workspace whose size does not grow with the batch.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends import Operands
from stridekit.backends.cpu.columns.blocking import (
    Chunk,
    Sizes,
    boxes,
    chunks,
    column_strides,
    cut_of,
    dealt_with,
    product_axes,
    product_problem,
    ragged,
)
from stridekit.backends.cpu.columns.jobs import Adding, Columns, Laying, Line, Planes
from stridekit.backends.cpu.forward.algorithm import BroadcastTile, grouped_strides, no_half
from stridekit.backends.cpu.forward.blocking import accumulator_itemsize
from stridekit.backends.cpu.forward.jobs import Weight
from stridekit.backends.cpu.forward.launch import Job, Part, activation_of, execute
from stridekit.backends.cpu.input_gradient.cost_model import columns_seconds
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import (
    BIAS,
    OUT,
    WEIGHT,
    WORKSPACE,
    Address,
    Rows,
    Strided,
    X,
    bases,
    rows,
    strides_of,
)
from stridekit.backends.gradients.input_gradient import InputGradient, Moves, padded_problem
from stridekit.memory.workspace import ALIGNMENT
from stridekit.problems.conv_problem import ConvProblem

_BOX_ELEMENTS = 1 << 15
"""Sums at once: the second cache keeps them."""
_TASKS_PER_THREAD = 4
_WORTH_A_THREAD = 100_000
"""Elements added: what one thread does while another wakes."""


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
        return columns_seconds(padded_problem(problem), device)

    def detail(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Say how many columns there are of how many outputs at once."""
        cut = cut_of(padded_problem(problem), device)
        return f"{cut.columns} columns of {cut.chunk.samples * cut.chunk.pixels} outputs at once"

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return the packing of the product, and which order its filters are in."""
        if problem.padding_mode != "zeros":
            return super().packing(problem, device)
        product = self._product(problem, device)
        by_taps = cut_of(problem, device).unit > 1
        return (by_taps, problem.weight_shape, problem.dtype, *self._tile.packing(product, device))

    def packed_bytes(self, problem: ConvProblem, device: CpuDevice) -> int:
        """Return the bytes of the product's weights in tile order."""
        if problem.padding_mode != "zeros":
            return problem.weight_bytes
        return self._tile.packed_bytes(self._product(problem, device), device)

    def pack(self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Write the weights in tile order."""
        if problem.padding_mode != "zeros":
            super().pack(problem, device, weight, packed)
            return
        self._lay(problem, device, weight, packed, np.zeros(1, np.int64))

    def regions(self, dense: ConvProblem, device: CpuDevice, packed: bool) -> tuple[tuple[str, int], ...]:
        """Return the names and bytes of the columns, and of what their making and adding needs."""
        cut, itemsize = cut_of(dense, device), accumulator_itemsize(dense)
        chunk = cut.chunk.samples * cut.chunk.pixels
        products = [product_problem(dense, sizes) for sizes in ragged(cut, dense.batch)]
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
        cut, acc = cut_of(dense, device), np.dtype(f"f{accumulator_itemsize(dense)}")
        counter, bias = regions["counter"].view(np.int64)[:1], regions["bias"].view(acc)
        bias[...] = 0 if operands.bias is None else operands.bias
        packed = operands.packed_weight
        if packed is None:
            packed = regions["laid"]
            self._lay(dense, device, operands.weight, packed, counter)
        for chunk in chunks(cut, dense.batch):
            (n, *firsts), (samples, *sizes) = chunk
            window = tuple(slice(first, first + size) for first, size in zip(firsts, sizes, strict=True))
            given = operands.grad_output[(slice(n, n + samples), slice(None), *window[3 - dense.rank :])]
            if "wide" in regions:
                wide = regions["wide"].view(acc)[: given.size].reshape(given.shape)
                self._moves.convert(device, given, wide)
                given = wide
            columns = regions["columns"].view(acc)[: samples * math.prod(sizes) * cut.columns]
            job = _product_job(self._tile, dense, device, chunk.sizes, strides_of(given))
            execute(
                job, product_problem(dense, chunk.sizes).dtype, regions["product"], given, None, packed, None, columns
            )
            out = target[n : n + samples]
            sums = out
            if "sums" in regions:
                sums = _like(out, regions["sums"].view(acc), dense.memory_order == "channels_last")
            self._add(dense, device, chunk, columns, sums, out, bias, counter)

    def _product(self, problem: ConvProblem, device: CpuDevice) -> ConvProblem:
        return product_problem(problem, cut_of(problem, device).chunk)

    def _lay(
        self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray, counter: np.ndarray
    ) -> None:
        from stridekit.backends.cpu.columns.pack_weights import lay_weights
        from stridekit.backends.cpu.runtime.thread_pool import run

        counter[0] = 0
        job = _laying(self._tile, problem, device, weight.strides).at(bases(counter, None, packed, weight))
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
        from stridekit.backends.cpu.columns.loop_nest import add_columns
        from stridekit.backends.cpu.runtime.thread_pool import run

        counter[0] = 0
        # Where the samples begin makes no difference.
        place = Chunk(chunk.begin._replace(samples=0), chunk.sizes)
        adding = _adding(dense, device, place, strides_of(sums), strides_of(out))
        job = adding.rows.at(bases(counter, columns, None if sums is out else out, None, bias, sums))
        run(add_columns(dense.dtype), job, adding.threads, columns, sums, out, bias, counter, adding)


@lru_cache(maxsize=1024)
def _product_job(
    tile: BroadcastTile, dense: ConvProblem, device: CpuDevice, sizes: Sizes, strides: tuple[int, ...]
) -> Job:
    """Prepare the product of a chunk, given the strides of the output's gradient."""
    cut = cut_of(dense, device)
    problem = product_problem(dense, sizes)
    numbers, _, batch = product_axes(sizes)
    column, places = column_strides(dense, cut, sizes)
    n, c, *pixels = strides

    def along(steps: tuple[int, ...]) -> tuple[int, ...]:
        chosen = [steps[number] for number in numbers]
        return (*(0,) * (3 - len(chosen)), *chosen)

    read = (n if batch > 1 else 0, c, *along((n, *pixels)))
    written = (places[0] if batch > 1 else 0, column, *along(places))
    return tile.job((Part(problem, Strided(X, *read), Strided(OUT, *written), Weight(WEIGHT)),), device, True)


@lru_cache(maxsize=1024)
def _laying(tile: BroadcastTile, problem: ConvProblem, device: CpuDevice, strides: tuple[int, ...]) -> Rows:
    """Prepare the weights' laying out, given their strides."""
    cut, itemsize = cut_of(problem, device), accumulator_itemsize(problem)
    b = tile.blocking(product_problem(problem, cut.chunk), device)
    kernel = tuple(axis.kernel for axis in cut.axes)
    weight = Weight(WEIGHT, *grouped_strides(problem, strides))
    flat = problem.itemsize == itemsize and cut.unit == 1
    laying = Laying(
        tasks=problem.out_channels,
        counter=WORKSPACE,
        packed=OUT,
        channels=b.channels,
        filters=b.filters,
        vector=b.lanes,
        tile=b.tile_vectors * b.lanes,
        itemsize=itemsize,
        flat=flat and weight.end_to_end((problem.group_in_channels, *kernel), itemsize),
        by_taps=cut.unit > 1,
        c=problem.group_in_channels,
        t_d=kernel[0],
        t_h=kernel[1],
        t_w=kernel[2],
        weight=weight,
    )
    return rows(laying)


class _Job(NamedTuple):
    """A job of adding up, and how many threads are worth it."""

    rows: Rows
    threads: int
    kept: np.ndarray


_SUMS = Address(BIAS.base + 1)


@lru_cache(maxsize=1024)
def _adding(dense: ConvProblem, device: CpuDevice, chunk: Chunk, sums: tuple[int, ...], out: tuple[int, ...]) -> _Job:
    """Prepare the addition of a chunk, given the strides of sums and result."""
    cut, itemsize = cut_of(dense, device), accumulator_itemsize(dense)
    (_, *firsts), (samples, *sizes) = chunk
    begins = not any(firsts)
    ends = all(first + size == axis.output_size for first, size, axis in zip(firsts, sizes, cut.axes, strict=True))
    planes = dense.in_channels // cut.unit
    dealt = [
        dealt_with(axis, first, size, begins or ends) for axis, first, size in zip(cut.axes, firsts, sizes, strict=True)
    ]
    spans = [high - low for low, high in dealt]
    added = samples * (math.prod(sizes) * cut.columns + dense.in_channels * math.prod(spans))
    threads = device.threads if added >= _WORTH_A_THREAD else 1
    parts = samples * planes
    blocks = boxes(spans, max(1, _BOX_ELEMENTS // cut.unit), -(-_TASKS_PER_THREAD * threads // parts))
    tasks, lines = parts, list[Line]()
    for axis, first, size, (low, high), block in zip(cut.axes, firsts, sizes, dealt, blocks, strict=True):
        count = -(-(high - low) // block)
        tasks *= count
        shape = axis.kernel, axis.stride, axis.dilation, axis.pad_before
        lines.append(Line(*shape, first, first + size, low, high, block, count))
    column, (k_n, k_d, k_h, k_w) = column_strides(dense, cut, chunk.sizes)
    # The columns of an output are ordered by channels, then taps; where channels are neighbours, the other way round.
    tap = column * cut.unit
    number, slope = activation_of(dense)
    d, h, w = lines
    adding = Adding(
        d=d,
        h=h,
        w=w,
        tasks=tasks,
        counter=WORKSPACE,
        planes=planes,
        unit=cut.unit,
        itemsize=itemsize,
        by_pixels=cut.by_pixels,
        columns=Columns(X, k_n, tap * dense.taps, k_d, k_h, k_w, tap * h.kernel * w.kernel, tap * w.kernel, tap),
        sums=_planes(_SUMS, sums, cut.unit),
        out=_planes(OUT, out, cut.unit),
        bias=BIAS,
        begins=begins,
        ends=ends,
        activation=number,
        slope=int(slope.ctypes.data),
    )
    return _Job(rows(adding), max(1, min(threads, tasks)), slope)


def _planes(start: Address, strides: tuple[int, ...], unit: int) -> Planes:
    """Return an array as planes of so many channels, given its strides."""
    n, c, *pixel = strides
    return Planes(start, n, c * unit, c, *pixel)


def _like(out: np.ndarray, room: np.ndarray, last: bool) -> np.ndarray:
    """View flat sums in the shape of `out`, its channels outermost or innermost."""
    if not last:
        return room[: out.size].reshape(out.shape)
    n, c, *pixels = out.shape
    return np.moveaxis(room[: out.size].reshape(n, *pixels, c), -1, 1)
