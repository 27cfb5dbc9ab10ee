"""What happens to sums once they are complete: activation, rounding to the output's dtype, storing in its order."""

from __future__ import annotations

import math
from typing import Any

from stridekit.activation import ACTIVATIONS
from stridekit.backends.cpu.compiling import helper
from stridekit.backends.cpu.vector import copy_row, get_int, load, store

NO_ACTIVATION = -1
RELU, RELU6, SILU, GELU, LEAKY_RELU = (
    ACTIVATIONS.index(name) for name in ("relu", "relu6", "silu", "gelu", "leaky_relu")
)
_SQRT_HALF = math.sqrt(0.5)


@helper
def _activate(acc: Any, sums: int, count: int, itemsize: int, activation: int, slope: float) -> None:
    # One loop for each, so that the simple ones become vector code. Comparisons leave NaN as it is.
    if activation == RELU:
        for at in range(sums, sums + count * itemsize, itemsize):
            value = load(acc, at)
            store(acc, at, acc if value < acc else value)
    elif activation == RELU6:
        six = acc + type(acc)(6)
        for at in range(sums, sums + count * itemsize, itemsize):
            value = load(acc, at)
            low = acc if value < acc else value
            store(acc, at, six if low > six else low)
    elif activation == LEAKY_RELU:
        for at in range(sums, sums + count * itemsize, itemsize):
            value = load(acc, at)
            store(acc, at, value * slope if value < acc else value)
    elif activation == SILU:
        for at in range(sums, sums + count * itemsize, itemsize):
            value = load(acc, at)
            store(acc, at, value / (1.0 + math.exp(-value)))
    elif activation == GELU:
        for at in range(sums, sums + count * itemsize, itemsize):
            value = load(acc, at)
            store(acc, at, 0.5 * value * math.erfc(-value * _SQRT_HALF))


@helper
def finish(
    tag: Any,
    acc: Any,
    b: Any,
    sums: int,
    pixels: int,
    filters: int,
    activation: int,
    slope: float,
    targets: int,
    plane: int,
    filter_stride: int,
) -> None:
    """Apply the activation to the sums of `pixels` pixels and store those of the first `filters` lanes.

    `targets` holds the address of each pixel in the output, `plane` the byte offset of the first filter there.
    """
    row = b.tile_channels * b.itemsize
    if activation != NO_ACTIVATION:
        _activate(acc, sums, pixels * b.tile_channels, b.itemsize, activation, slope)
    if b.copies and filter_stride == b.itemsize and filters == b.tile_channels:
        for p in range(pixels):
            copy_row(get_int(targets, p) + plane, sums + p * row)
    elif filter_stride == b.itemsize:
        for p in range(pixels):
            target, source = get_int(targets, p) + plane, sums + p * row
            for k in range(filters):
                store(tag, target + k * filter_stride, load(acc, source + k * b.itemsize))
    else:
        for k in range(filters):
            offset, source = plane + k * filter_stride, sums + k * b.itemsize
            for p in range(pixels):
                store(tag, get_int(targets, p) + offset, load(acc, source + p * row))
