"""Weights laid out for the product whose columns are an input gradient's: each filter's channels and taps as a row.

As given, filter after filter, they are rows already, where a row is ordered by channels; they are copied into tile
order, from threads that draw row after row. Where channels are neighbours in memory a row is ordered by taps.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.columns.jobs import Laying
from stridekit.backends.cpu.runtime.compiler import entries, helper, inlined
from stridekit.backends.cpu.runtime.vector_memory import copy_bytes, load, next_task, reader, store

_read_laying = reader(Laying)


@helper
def _row_place(p: Any, group: int, row: int, element: int) -> Any:
    """Return where an element of a row lies in tile order, and how many of the row follow it there, itself included."""
    padded = -(-p.filters // p.vector) * p.vector
    begin = element // p.tile * p.tile
    length = min(p.tile, padded - begin)
    at = p.packed + ((group * padded + begin) * p.channels + row * length + element - begin) * p.itemsize
    return at, begin + length - element


@helper
def _lay_flat(acc: Any, p: Any, group: int, row: int, source: int) -> None:
    """Copy a row whose weights lie end to end."""
    element = 0
    while element < p.filters:
        at, room = _row_place(p, group, row, element)
        number = min(p.filters - element, room)
        copy_bytes(at, source + element * p.itemsize, number * p.itemsize)
        element += number


@helper
def _lay_one_by_one(tag: Any, acc: Any, p: Any, group: int, row: int, source: int) -> None:
    """Write a row from weights anywhere: channel by channel, or tap by tap."""
    inner = p.c if p.by_taps != 0 else p.t_w
    step = p.weight.c if p.by_taps != 0 else p.weight.w
    at, room, i, c, td, th, tw = 0, 0, 0, 0, 0, 0, 0
    element = 0
    while element < p.filters:
        come = source + c * p.weight.c + td * p.weight.d + th * p.weight.h + tw * p.weight.w
        done = 0
        while done < inner:
            if i == room:
                at, room = _row_place(p, group, row, element)
                i = 0
            number = min(inner - done, room - i)
            for _ in range(number):
                store(acc, at + i * p.itemsize, load(tag, come))
                i, come = i + 1, come + step
            done, element = done + number, element + number
        tw += 1 if p.by_taps != 0 else p.t_w
        if tw == p.t_w:
            tw, th = 0, th + 1
            if th == p.t_h:
                th, td = 0, td + 1
                if td == p.t_d:
                    td, c = 0, c + 1


@inlined
def _lay(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Lay rows out until none is left: all weights that one output channel is multiplied by."""
    p = _read_laying(job)
    while True:
        task = next_task(p.counter)
        if task >= p.tasks:
            return
        group, row = task // p.channels, task % p.channels
        source = p.weight.start + task * p.weight.k
        if p.flat != 0:
            _lay_flat(acc, p, group, row, source)
        else:
            _lay_one_by_one(tag, acc, p, group, row, source)
        if p.filters % p.vector != 0:
            at, room = _row_place(p, group, row, p.filters - 1)
            for i in range(1, room):
                store(acc, at + i * p.itemsize, acc)


lay_weights = entries("lay_weights", _lay)
"""Return the address of the compiled laying out of weights of a dtype; a job is a `Laying`."""
