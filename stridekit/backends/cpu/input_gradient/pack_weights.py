"""Weights of an input's gradient in tile order, all phases in one go, where each filter's taps lie end to end.

Its lanes are the channels of the weights as given. Read tap by tap, they lie far apart, and every phase would fetch
the same cache lines again; read as squares of channels and taps they are turned in registers and go each to its phase.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.forward.partition import TASK_VECTORS
from stridekit.backends.cpu.input_gradient.jobs import TurnedTap, Turning
from stridekit.backends.cpu.runtime.compiler import entries, helper
from stridekit.backends.cpu.runtime.records import nbytes
from stridekit.backends.cpu.runtime.vector_memory import (
    copy_vectors,
    load,
    next_task,
    reader,
    set_int,
    square,
    store,
    transpose,
    zero_products,
)

_read_turning, _read_tap = reader(Turning), reader(TurnedTap)
_TURNING_BYTES, _TAP_BYTES = nbytes(Turning), nbytes(TurnedTap)


@helper
def _fill_square(acc: Any, p: Any, source: int, filters: int, taps: int, room: int) -> None:
    """Turn the weights of up to a vector of filters and as many taps: row j of the square is tap j."""
    pitch = p.lanes * p.itemsize
    if source + (filters - 1) * p.k + pitch <= p.end:
        transpose(acc, room, pitch, source, p.k, filters, taps)
        return
    # A vector would reach beyond the array.
    for tap in range(taps):
        for lane in range(p.lanes):
            at = source + min(lane, filters - 1) * p.k + tap * p.itemsize
            store(acc, room + tap * pitch + lane * p.itemsize, load(acc, at))


@helper
def _spread(acc: Any, p: Any, taps: int, number: int, c: int, before: int, column: int, row: int, room: int) -> None:
    """Copy the vectors of channel `c`, each to where its phase has it; `taps` is the address of `number` taps."""
    pitch = p.lanes * p.itemsize
    unbounded = zero_products(acc, room, pitch, number) != acc
    for j in range(number):
        to = _read_tap(taps + j * _TAP_BYTES)
        if to.packed == 0:
            continue
        # A division takes longer than the copy.
        done = 0 if c < to.channel_block else c // to.channel_block * to.channel_block
        depth = min(to.channel_block, p.channels - done)
        place = (done * to.positions + to.number * depth + c - done) * row
        copy_vectors(to.packed + before * to.positions + place + column, room + j * pitch, 1)
        if unbounded and zero_products(acc, room + j * pitch, pitch, 1) != acc:
            set_int(to.unbounded, 0, 1)


@helper
def _turn_weights(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Write the weights of every phase in tile order; a task is a few vectors of filters."""
    p = _read_turning(job)
    pitch, total = p.lanes * p.itemsize, p.groups * p.vectors
    room = square(acc)
    while True:
        first = next_task(p.counter) * TASK_VECTORS
        if first >= total:
            return
        last = min(first + TASK_VECTORS, total)
        # Channels outermost: those of neighbouring filters lie end to end.
        for c in range(p.channels):
            group, within = first // p.vectors, first % p.vectors
            inner = within % p.tile_vectors
            for _ in range(first, last):
                begin = within - inner
                row = min(p.tile_vectors, p.vectors - begin) * pitch
                # Bytes of a block of one tap and channel, times those, come before it.
                before, column = (group * p.vectors + begin) * pitch * p.channels, inner * pitch
                source = p.weight + group * p.g + within * p.lanes * p.k + c * p.c
                filters = min(p.lanes, p.filters - within * p.lanes)
                for start in range(0, p.taps, p.lanes):
                    number, taps = min(p.lanes, p.taps - start), job + _TURNING_BYTES + start * _TAP_BYTES
                    _fill_square(acc, p, source + start * p.itemsize, filters, number, room)
                    _spread(acc, p, taps, number, c, before, column, row, room)
                within, inner = within + 1, inner + 1
                if within == p.vectors:
                    group, within, inner = group + 1, 0, 0
                elif inner == p.tile_vectors:
                    inner = 0


turn_weights = entries("turn_weights", _turn_weights)
"""Return the address of the compiled turning of weights of a dtype, float32 or float64; a job is a `Turning`."""
