"""Weights and bias in the order in which the tile reads them, in the type of the sums, filled up to whole vectors."""

from __future__ import annotations

from functools import cache
from typing import Any

from stridekit.backends.cpu.forward.blocking import Blocking
from stridekit.backends.cpu.forward.jobs import Packing
from stridekit.backends.cpu.forward.partition import TASK_VECTORS
from stridekit.backends.cpu.runtime.compiler import entry, helper, kernel
from stridekit.backends.cpu.runtime.records import nbytes
from stridekit.backends.cpu.runtime.vector_memory import (
    copy_vectors,
    get_int,
    load,
    next_task,
    reader,
    set_int,
    square,
    store,
    tags,
    transpose,
    zero_products,
)


@helper
def _column(b: Any, row: int, c: int, tap: int) -> int:
    """Byte offset, within a filter block, of the row of one input channel and tap."""
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    block = c // b.channel_block
    depth = min(b.channel_block, b.channels - block * b.channel_block)
    return (block * b.channel_block * positions + tap * depth + c - block * b.channel_block) * row


@helper
def _pack_flat(acc: Any, b: Any, row: int, source: int, step: int, filters: int, packed: int) -> int:
    """Pack one vector of filters whose weights lie end to end, square by square; return how many columns that was."""
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    pitch = b.lanes * b.itemsize
    whole = positions * b.channels // b.lanes * b.lanes
    turned = square(acc)
    c, tap = 0, 0
    for first in range(0, whole, b.lanes):
        transpose(acc, turned, pitch, source + first * b.itemsize, step, filters, b.lanes)
        for i in range(b.lanes):
            copy_vectors(packed + _column(b, row, c, tap), turned + i * pitch, 1)
            tap += 1
            if tap == positions:
                c, tap = c + 1, 0
    return whole


@helper
def _place(b: Any, number: int) -> tuple[int, int]:
    """Return where a vector of filters begins, from the start of the packed weights, and how far its rows lie apart."""
    group, within = number // b.vectors, number % b.vectors
    block = within // b.tile_vectors
    vectors = min(b.tile_vectors, b.vectors - block * b.tile_vectors)
    pitch = b.lanes * b.itemsize
    positions = b.d.kernel * b.h.kernel * b.w.kernel
    first = (group * b.vectors + block * b.tile_vectors) * pitch * positions * b.channels
    return first + within % b.tile_vectors * pitch, vectors * pitch


@helper
def _evenly_spaced(b: Any, weight: Any) -> bool:
    """Say whether the filters that are lanes lie `k` apart, even from one group to the next."""
    return not (b.lanewise or b.subgroups > 1) or weight.g == b.group_filters * weight.k


@helper
def _gather_lanes(tag: Any, acc: Any, b: Any, weight: Any, source: int, target: int, first: int, count: int) -> None:
    """Store the weights of `count` filters from `first` on as lanes.

    `source` is where filter `first` lies, or filter 0 where they are not evenly spaced.
    """
    if _evenly_spaced(b, weight):
        for lane in range(count):
            store(acc, target + lane * b.itemsize, load(tag, source + lane * weight.k))
        return
    group, filter_ = source + first // b.group_filters * weight.g, first % b.group_filters
    for lane in range(count):
        store(acc, target + lane * b.itemsize, load(tag, group + filter_ * weight.k))
        filter_ += 1
        if filter_ == b.group_filters:
            group, filter_ = group + weight.g, 0


@helper
def _pack_columns(tag: Any, acc: Any, b: Any, p: Any, first: int, last: int, done: int) -> None:
    """Pack vectors `first` to `last` of filters channel by channel, from column `done` on.

    Channels outermost: the weights of neighbouring filters lie nearer each other than those of neighbouring channels
    wherever filters and channels have changed places, as they have for an input's gradient.
    """
    positions, weight = b.d.kernel * b.h.kernel * b.w.kernel, p.weight
    for c in range(done // positions, b.channels):
        depth = min(b.channel_block, b.channels - c // b.channel_block * b.channel_block)
        for number in range(first, last):
            start, row = _place(b, number)
            within = number % b.vectors * b.lanes
            filters = min(b.lanes, b.filters - within)
            even = _evenly_spaced(b, weight)
            whole = b.copies and even and weight.k == b.itemsize and filters == b.lanes
            target = p.packed + start + _column(b, row, c, 0)
            corner = weight.start + number // b.vectors * b.subgroups * weight.g + c * weight.c
            if even:
                corner += within * weight.k
            tap = c * positions
            for t in range(b.d.kernel):
                for r in range(b.h.kernel):
                    at = corner + t * weight.d + r * weight.h
                    for _ in range(b.w.kernel):
                        if tap >= done:
                            if whole:
                                copy_vectors(target, at, 1)
                            else:
                                _gather_lanes(tag, acc, b, weight, at, target, within, filters)
                                for lane in range(filters, b.lanes):
                                    store(acc, target + lane * b.itemsize, acc)
                        target += depth * row
                        at += weight.w
                        tap += 1


_read_packing, _read_blocking = reader(Packing), reader(Blocking)
_PACKING_BYTES = nbytes(Packing)


@helper
def _pack_weights(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Write weights (k, c, t, r, s) as ``[group][filter block][channel block][tap][channel][lane]``.

    A task is a few vectors of filters. The lanes beyond the last filter are never stored, whatever they hold.
    """
    p = _read_packing(job)
    b = _read_blocking(p.blocking)
    weight, positions, total = p.weight, b.d.kernel * b.h.kernel * b.w.kernel, b.groups * b.vectors
    while True:
        first = next_task(p.counter) * TASK_VECTORS
        if first >= total:
            return
        last = min(first + TASK_VECTORS, total)
        done = 0
        if p.flat != 0 and b.copies and _evenly_spaced(b, weight):
            for number in range(first, last):
                start, row = _place(b, number)
                within = number % b.vectors * b.lanes
                source = weight.start + number // b.vectors * b.subgroups * weight.g + within * weight.k
                done = _pack_flat(acc, b, row, source, weight.k, min(b.lanes, b.filters - within), p.packed + start)
        _pack_columns(tag, acc, b, p, first, last, done)
        for number in range(first, last):
            start, row = _place(b, number)
            if zero_products(acc, p.packed + start, row, positions * b.channels) != acc:
                set_int(p.unbounded, 0, 1)


def pack_weights(dtype: str) -> int:
    """Return the address of the compiled packing of weights of `dtype`; a job is a count, and so many `Packing`."""
    tag, acc = tags(dtype)

    def run(job: int, worker: int) -> None:
        for number in range(get_int(job, 0)):
            _pack_weights(tag, acc, job + 8 + number * _PACKING_BYTES, worker)

    return entry(run, f"pack_weights_{dtype}")


@cache
def pack_bias(dtype: str) -> Any:
    """Return the compiled packing of a bias of `dtype`: ``(blocking, bias, stride, packed)``, addresses and bytes.

    It writes ``[group][lane]``; the address 0 stands for no bias and gives zeros.
    """
    tag, acc = tags(dtype)

    def run(blocking: int, bias: int, stride: int, packed: int) -> None:
        b = _read_blocking(blocking)
        padded = b.vectors * b.lanes
        for group in range(b.groups):
            for k in range(padded):
                at = packed + (group * padded + k) * b.itemsize
                if bias != 0 and k < b.filters:
                    # Add zero, so that -0 becomes +0: a sum that starts at -0 would show which taps are skipped.
                    store(acc, at, load(tag, bias + (group * b.filters + k) * stride) + acc)
                else:
                    store(acc, at, acc)

    return kernel(run, f"pack_bias_{dtype}")
