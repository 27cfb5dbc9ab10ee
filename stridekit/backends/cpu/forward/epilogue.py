"""What happens to sums once they are complete: activation, rounding to the output's dtype, storing in its order."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from stridekit.backends.cpu.runtime.compiler import helper
from stridekit.backends.cpu.runtime.vector_memory import copy_vectors, get_int, load, store, transpose
from stridekit.problems.activations import FUSED

NO_ACTIVATION = -1
RELU, RELU6, LEAKY_RELU, SILU, GELU = range(len(FUSED))
_SQRT_HALF = math.sqrt(0.5)


class ActivationCode(NamedTuple):
    """An activation's number among those above, and its parameter in the type of the sums."""

    number: int
    slope: float


@helper
def activate(acc: Any, sums: int, count: int, itemsize: int, activation: int, slope: float) -> None:
    """Apply the activation to `count` sums that lie end to end."""
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
def _in_sequence(targets: int, count: int, itemsize: int) -> bool:
    first, same = get_int(targets, 0), True
    for p in range(1, count):
        same &= get_int(targets, p) == first + p * itemsize
    return same


@helper
def _store_transposed(acc: Any, b: Any, sums: int, row: int, pixels: int, filters: int, out: Any) -> None:
    """Store vector by vector of filters and pixels; squares that are not whole or not in sequence by element."""
    for p in range(0, pixels, b.lanes):
        count = min(b.lanes, pixels - p)
        whole = count == b.lanes and _in_sequence(out.targets + p * 8, count, b.itemsize)
        target = get_int(out.targets, p) + out.plane
        for k in range(0, filters, b.lanes):
            source = sums + p * row + k * b.itemsize
            number = min(b.lanes, filters - k)
            if whole:
                transpose(acc, target + k * out.step, out.step, source, row, count, number)
            else:
                for i in range(number):
                    offset = out.plane + (k + i) * out.step
                    for j in range(count):
                        store(acc, get_int(out.targets, p + j) + offset, load(acc, source + j * row + i * b.itemsize))


@helper
def add_residual(tag: Any, acc: Any, b: Any, sums: int, pixels: int, vectors: int, filters: int, residual: Any) -> None:
    """Add to the sums of `pixels` pixels, in the first `filters` lanes, what lies at the targets of `residual`."""
    row = vectors * b.lanes * b.itemsize
    for p in range(pixels):
        source, at = get_int(residual.targets, p) + residual.plane, sums + p * row
        for k in range(filters):
            store(acc, at + k * b.itemsize, load(acc, at + k * b.itemsize) + load(tag, source + k * residual.step))


@helper
def finish(
    tag: Any, acc: Any, b: Any, sums: int, pixels: int, vectors: int, filters: int, activation: Any, out: Any
) -> None:
    """Apply the activation to the sums of `pixels` pixels and store those of the first `filters` lanes.

    `sums` holds rows of `vectors` vectors.
    """
    lanes = vectors * b.lanes
    row = lanes * b.itemsize
    if activation.number != NO_ACTIVATION:
        activate(acc, sums, pixels * lanes, b.itemsize, activation.number, activation.slope)
    if b.copies and out.step == b.itemsize and filters == lanes:
        for p in range(pixels):
            copy_vectors(get_int(out.targets, p) + out.plane, sums + p * row, vectors)
    elif b.copies and out.step != b.itemsize:
        _store_transposed(acc, b, sums, row, pixels, filters, out)
    elif out.step == b.itemsize:
        for p in range(pixels):
            target, source = get_int(out.targets, p) + out.plane, sums + p * row
            for k in range(filters):
                store(tag, target + k * out.step, load(acc, source + k * b.itemsize))
    else:
        for k in range(filters):
            offset, source = out.plane + k * out.step, sums + k * b.itemsize
            for p in range(pixels):
                store(tag, get_int(out.targets, p) + offset, load(acc, source + p * row))
