"""What an input gradient is modelled to take, phase by phase and as columns: fitted to some 600 problems, to 20 %.

A function of one sample and of the processor's vectors alone, so that neither threads nor samples change the choice.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from stridekit.backends.cpu.columns.blocking import chunk_count, cut_of, product_problem
from stridekit.backends.cpu.forward.algorithm import VECTORS_PER_SECOND, TileAlgorithm
from stridekit.backends.cpu.forward.blocking import accumulator_itemsize, broadcast_blocking
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.gradients.input_gradient import dense_problems, every_pixel_read
from stridekit.problems.conv_problem import ConvProblem

# Seconds each, of float32 where it is about elements.
_TYPICAL_BATCH = 2
"""Samples that share what is done once in a call: what is chosen must be one thing for any number of them."""
_CALL = 45e-6
_CHUNK = 70e-6
"""Python, to begin a product and an addition."""
_TASK = 0.8e-6
_PLACE = 8e-9
"""A pixel or a tap in a table."""
_GATHERED = {"channels_last": 0.05e-9, "channels_first": 0.8e-9}
"""An element that a tile reads: channels last, nearly all where they lie."""
_STORED = {"channels_last": 0.45e-9, "channels_first": 0.6e-9}
_FILLED = 0.2e-9
_BEGUN = 0.35e-9
"""A pixel's sum begun, and the memory it is written to."""
_COPIED, _PICKED = 0.4e-9, 1.9e-9
"""A weight laid out, from neighbours or one by one."""
_COLUMN = {False: 0.2e-9, True: 0.65e-9}
"""A column written and read: as the product has it, or turned so that pixels are neighbours."""
_RUN = 6.5e-9
_ADDED = 0.95e-9
"""A column added alone; those of a whole vector are in the cost of their run."""
_CONVERTED = 1.2e-9


def phases_seconds(tile: TileAlgorithm, dense: ConvProblem, device: CpuDevice) -> float:
    """Return the seconds of all phases by one tile, of a problem whose padding holds zeros."""
    return _phases_seconds(tile, replace(dense, batch=1), device.frugal()) * dense.batch / device.threads


def columns_seconds(dense: ConvProblem, device: CpuDevice) -> float:
    """Return the seconds of the columns and of their addition, of a problem whose padding holds zeros."""
    return _columns_seconds(replace(dense, batch=1), device.frugal()) * dense.batch / device.threads


def call_seconds(problem: ConvProblem, device: CpuDevice) -> float:
    """Return the seconds of what each call does beside its products: what the two above count as well."""
    return _CALL / _TYPICAL_BATCH * problem.batch / device.threads


@lru_cache(maxsize=4096)
def _phases_seconds(tile: TileAlgorithm, sample: ConvProblem, device: CpuDevice) -> float:
    once, each = _CALL, 0.0
    half = sample.itemsize < accumulator_itemsize(sample)
    for part, count in dense_problems(sample):
        b = tile.blocking(part, device)
        # A lanewise tile's own model has what it gathers.
        gathered = 0 if b.lanewise else math.prod(part.input_shape)
        once += count * b.packed_elements * (_COPIED + half * _CONVERTED)
        each += count * (
            tile.products(part, device)
            + math.prod(part.output_shape) * (_STORED[sample.memory_order] + half * _CONVERTED)
            + gathered * (_GATHERED[sample.memory_order] + half * _CONVERTED)
            + b.tasks * _TASK
            + (part.taps * b.channel_blocks + part.output_pixels * b.groups) * _PLACE
        )
    if not every_pixel_read(sample):
        each += math.prod(sample.input_shape) * _FILLED
    return once / _TYPICAL_BATCH + each


@lru_cache(maxsize=4096)
def _columns_seconds(sample: ConvProblem, device: CpuDevice) -> float:
    cut, itemsize = cut_of(sample, device), accumulator_itemsize(sample)
    wide, half = itemsize / 4, sample.itemsize < itemsize
    b = broadcast_blocking(product_problem(sample, cut.chunk), device)
    number = chunk_count(cut, 1)
    products = b.groups * b.vectors * b.channels * _tiled(sample.output_pixels / number, device.tiles[b.tile_vectors])
    columns = cut.columns * sample.output_pixels
    axis = cut.axes[2]
    neighbours = cut.unit > 1 or sample.memory_order == "channels_first" or sample.in_channels == 1
    if cut.by_pixels:
        run, vectors = axis.output_size, axis.stride == 1 and neighbours
    elif axis.dilation == 1:
        run, vectors = axis.kernel * cut.unit, neighbours
    else:
        run, vectors = (cut.unit, True) if cut.unit > 1 else (axis.kernel, False)
    alone = run % device.lanes(itemsize) if vectors else run
    flat = cut.unit == 1 and not half
    pixels = math.prod(sample.input_shape)
    once = _CALL + number * _CHUNK + b.packed_elements * wide * (_COPIED if flat else _PICKED)
    each = (
        number * (products / VECTORS_PER_SECOND + b.groups * _TASK)
        + math.prod(sample.output_shape) * (_GATHERED[sample.memory_order] + half * _CONVERTED)
        + columns * wide * _COLUMN[cut.by_pixels]
        + columns / run * (_RUN + alone * _ADDED)
        + pixels * (wide * _BEGUN + half * _CONVERTED)
    )
    return once / _TYPICAL_BATCH + each


def _tiled(pixels: float, tile: int) -> float:
    """Return the pixels that tiles of `tile`, the last of which may be half as high, compute for so many."""
    whole, rest = divmod(math.ceil(pixels), tile)
    half = (tile + 1) // 2
    return whole * tile + (0 if not rest else half if rest <= half else tile)
