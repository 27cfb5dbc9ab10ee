"""Sums of products: which tile runs over which pixels and taps of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stridekit.backends.cpu.forward.microkernel import broadcast_tile, lanewise_tile, paired_tile
from stridekit.backends.cpu.runtime.compiler import helper, inlined
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import get_int, set_int


def _over_pixels(tile: Callable[[int, int], Any], pixels: int, vectors: int) -> Any:
    """Return the loop of one tile over pixels; what is left may take a tile half as high."""
    half = (pixels + 1) // 2
    whole_tile, half_tile = tile(pixels, vectors), tile(half, vectors)

    def run(
        vectors: int,
        acc: Any,
        table: int,
        count: int,
        reached: int,
        taps: int,
        tap_count: int,
        some_taps: int,
        length: int,
        weights: int,
        start: int,
        step: int,
        targets: int,
        plane: int,
    ) -> None:
        p = 0
        while p < count:
            here = pixels if count - p > half else half
            tap_table, number = taps, tap_count
            if reached != 0:
                number = _reached_taps(reached + p * 8, here, taps, tap_count, some_taps)
                tap_table = some_taps if number < tap_count else taps
            # Without a row of its own to go on from, every pixel starts from the one of the bias.
            begin = start + p * step
            at, to = table + p * 8, targets + p * 8
            if here == pixels:
                whole_tile(acc, at, tap_table, number, length, weights, begin, step, to, plane)
            else:
                half_tile(acc, at, tap_table, number, length, weights, begin, step, to, plane)
            p += here

    return _named(helper, run, f"{tile.__name__}_{pixels}x{vectors}")


def _named(compile_as: Callable[..., Any], function: Callable[..., Any], name: str) -> Any:
    """Compile a function under a name of its own.

    Compiled code is linked by name, across the files of the cache too: two functions of one name would become one.
    """
    function.__name__ = function.__qualname__ = name
    return compile_as(function)


@helper
def _reached_taps(reached: int, pixels: int, taps: int, tap_count: int, some_taps: int) -> int:
    """Write the taps that any of `pixels` pixels reaches, unless all are; return how many there are."""
    union = 0
    for p in range(pixels):
        union |= get_int(reached, p)
    if union == (1 << tap_count) - 1:
        return tap_count
    found = 0
    for tap in range(tap_count):
        if (union >> tap) & 1:
            set_int(some_taps, 2 * found, get_int(taps, 2 * tap))
            set_int(some_taps, 2 * found + 1, get_int(taps, 2 * tap + 1))
            found += 1
    return found


def _by_vectors(name: str, loops: list[tuple[int, Any]]) -> Any:
    """Return the choice among the loops by their number of vectors."""
    (number, loop), *others = loops
    if not others:
        return loop
    rest = _by_vectors(name, others)

    def choose(
        vectors: int,
        acc: Any,
        table: int,
        count: int,
        reached: int,
        taps: int,
        tap_count: int,
        some_taps: int,
        length: int,
        weights: int,
        start: int,
        step: int,
        targets: int,
        plane: int,
    ) -> None:
        if vectors == number:
            loop(
                vectors,
                acc,
                table,
                count,
                reached,
                taps,
                tap_count,
                some_taps,
                length,
                weights,
                start,
                step,
                targets,
                plane,
            )
        else:
            rest(
                vectors,
                acc,
                table,
                count,
                reached,
                taps,
                tap_count,
                some_taps,
                length,
                weights,
                start,
                step,
                targets,
                plane,
            )

    return _named(inlined, choose, f"{name}_from_{number}")


def _all_tiles(tile: Callable[[int, int], Any], most_vectors: int) -> Any:
    tiles = {vectors: pixels for vectors, pixels in host().tiles.items() if vectors <= most_vectors}
    return _by_vectors(
        tile.__name__, [(vectors, _over_pixels(tile, pixels, vectors)) for vectors, pixels in tiles.items()]
    )


_broadcast = _all_tiles(broadcast_tile, max(host().tiles))
_lanewise = _all_tiles(lanewise_tile, max(host().tiles))
_paired = _all_tiles(paired_tile, 1)


@inlined
def sum_pixels(
    acc: Any,
    b: Any,
    vectors: int,
    pixels: int,
    count: int,
    reached: int,
    taps: int,
    whole_rows: bool,
    some_taps: int,
    weights: int,
    bias: int,
    sums: int,
    targets: int,
    plane: int,
) -> None:
    """Sum the products of `count` pixels with one block of `vectors` vectors of filters.

    Parameters
    ----------
    pixels, reached : addresses of the pixels' inputs, and of bits that mark the taps inside the input (or 0)
    taps, whole_rows : address of the taps, for each channel block; whether one of them is a kernel row
    some_taps : address of room for a selection of them
    weights, bias : addresses of this block's
    sums : where `targets` and `plane` put the first pixel's sums, if there are several channel blocks
    targets, plane : as for the tiles
    """
    row = vectors * b.lanes * b.itemsize
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    run = b.w.kernel if whole_rows else 1
    tap_count = positions // run
    for c in range(b.channel_blocks):
        depth = run * min(b.channel_block, b.channels - c * b.channel_block)
        table = taps + c * tap_count * 16
        weight = weights + c * b.channel_block * positions * row
        # The first channel block starts every pixel from the bias, the others from the sums so far.
        start, step = (bias, 0) if c == 0 else (sums, row)
        if b.lanewise:
            _lanewise(
                vectors,
                acc,
                pixels,
                count,
                reached,
                table,
                tap_count,
                some_taps,
                depth,
                weight,
                start,
                step,
                targets,
                plane,
            )
        elif b.subgroups > 1:
            _paired(
                vectors,
                acc,
                pixels,
                count,
                reached,
                table,
                tap_count,
                some_taps,
                depth,
                weight,
                start,
                step,
                targets,
                plane,
            )
        else:
            _broadcast(
                vectors,
                acc,
                pixels,
                count,
                reached,
                table,
                tap_count,
                some_taps,
                depth,
                weight,
                start,
                step,
                targets,
                plane,
            )
