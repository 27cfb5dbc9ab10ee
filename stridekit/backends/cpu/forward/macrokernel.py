"""Sums of products: which tile runs over which pixels and taps of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stridekit.backends.cpu.forward.microkernel import (
    Out,
    Sums,
    Taps,
    broadcast_tile,
    by_vectors,
    lanewise_tile,
    paired_tile,
)
from stridekit.backends.cpu.runtime.compiler import helper, inlined, named
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import get_int, set_int


class Pixels(NamedTuple):
    """Pixels to be computed.

    Attributes
    ----------
    table, number : address of as many addresses of the pixels' inputs
    reached : address of as many words of bits that mark the taps inside the input, or 0 where all are
    """

    table: int
    number: int
    reached: int


def _over_pixels(tile: Callable[[int, int], Any], height: int, vectors: int) -> Any:
    """Return the loop of one tile over pixels; what is left may take a tile half as high."""
    half = (height + 1) // 2
    whole_tile, half_tile = tile(height, vectors), tile(half, vectors)

    def run(vectors: int, acc: Any, operands: Any) -> None:
        pixels, taps, weights, sums, out = operands
        p = 0
        while p < pixels.number:
            here = height if pixels.number - p > half else half
            some = taps if pixels.reached == 0 else _reached_taps(pixels.reached + p * 8, here, taps)
            # Without a row of its own to go on from, every pixel starts from the one of the bias.
            begin = Sums(sums.start + p * sums.step, sums.step)
            table, to = pixels.table + p * 8, Out(out.targets + p * 8, out.plane, out.step)
            if here == height:
                whole_tile(acc, table, some, weights, begin, to)
            else:
                half_tile(acc, table, some, weights, begin, to)
            p += here

    return named(helper, run, f"{tile.__name__}_{height}x{vectors}")


@helper
def _reached_taps(reached: int, pixels: int, taps: Any) -> Any:
    """Return the taps that any of `pixels` pixels reaches; unless that is all of them, write them to their room."""
    union = 0
    for p in range(pixels):
        union |= get_int(reached, p)
    if union == (1 << taps.number) - 1:
        return taps
    found = 0
    for tap in range(taps.number):
        if (union >> tap) & 1:
            set_int(taps.room, 2 * found, get_int(taps.table, 2 * tap))
            set_int(taps.room, 2 * found + 1, get_int(taps.table, 2 * tap + 1))
            found += 1
    return Taps(taps.room, found, taps.length, taps.room)


def _all_tiles(tile: Callable[[int, int], Any], most_vectors: int) -> Any:
    tiles = {vectors: pixels for vectors, pixels in host().tiles.items() if vectors <= most_vectors}
    return by_vectors(
        tile.__name__, [(vectors, _over_pixels(tile, pixels, vectors)) for vectors, pixels in tiles.items()]
    )


_broadcast = _all_tiles(broadcast_tile, max(host().tiles))
_lanewise = _all_tiles(lanewise_tile, max(host().tiles))
_paired = _all_tiles(paired_tile, 1)


@inlined
def sum_pixels(acc: Any, b: Any, filters: Any, pixels: Any, taps: Any, sums: int, out: Any) -> None:
    """Sum the products of pixels with one block of filters.

    Parameters
    ----------
    filters : its vectors, and the addresses of its weights and bias
    pixels, taps, out : `Pixels`, `Taps` and `Out`; the taps are those of each channel block, `length` is of one channel
    sums : where `out` puts the first pixel's sums, if there are several channel blocks
    """
    row = filters.vectors * b.lanes * b.itemsize
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    for c in range(b.channel_blocks):
        done = c * b.channel_block
        length = taps.length * min(b.channel_block, b.channels - done)
        some = Taps(taps.table + c * taps.number * 16, taps.number, length, taps.room)
        # The first channel block starts every pixel from the bias, the others from the sums so far.
        begin = Sums(filters.bias, 0) if c == 0 else Sums(sums, row)
        operands = pixels, some, filters.weights + done * positions * row, begin, out
        if b.lanewise:
            _lanewise(filters.vectors, acc, operands)
        elif b.subgroups > 1:
            _paired(filters.vectors, acc, operands)
        else:
            _broadcast(filters.vectors, acc, operands)
