"""What a weight gradient reads, laid for its tile: windows of the input with padding, outputs' gradients as lanes.

Windows keep the order of the input, planes or pixels, since the tile finds its elements at any step. Gradients are
the weights of the tile: rows of lanes, one for each output pixel.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.forward.pack_input import source_index
from stridekit.backends.cpu.runtime.compiler import helper
from stridekit.backends.cpu.runtime.records import Strided
from stridekit.backends.cpu.runtime.vector_memory import copy_bytes, copy_vectors, load, store, transpose
from stridekit.backends.cpu.weight_gradient.blocking import window_length as _window_length

window_length = helper(_window_length)


@helper
def behind(x: Any, nbytes: int) -> Strided:
    """Return the part of an array that begins `nbytes` behind it."""
    return Strided(x.start + nbytes, x.n, x.c, x.d, x.h, x.w)


@helper
def _copy_run(r: Any, target: int, source: int, nbytes: int) -> None:
    """Copy a run; a call of the system's own copy costs more than most rows take."""
    vector = r.lanes * r.itemsize
    if nbytes >= vector:
        copy_vectors(target, source, nbytes // vector)
        if nbytes % vector:
            copy_vectors(target + nbytes - vector, source + nbytes - vector, 1)
    else:
        copy_bytes(target, source, nbytes)


@helper
def _fill_margin(tag: Any, acc: Any, r: Any, x: Any, count: int, start: int, first: int, last: int, box: Any) -> None:
    """Fill positions `first` to `last` of a row whose position 0 is input column `start`."""
    for j in range(first, last):
        column = source_index(start + j, r.w.size, r.padding_mode)
        for c in range(count):
            at = box.start + j * box.w + c * box.c
            store(acc, at, acc if column < 0 else load(tag, x.start + column * x.w + c * x.c))


@helper
def _copy_row(tag: Any, acc: Any, r: Any, x: Any, count: int, start: int, width: int, box: Any) -> None:
    """Copy a row of `width` positions from input column `start` on, `count` channels of each, padding filled in."""
    low = min(max(-start, 0), width)
    high = max(low, min(r.w.size - start, width))
    _fill_margin(tag, acc, r, x, count, start, 0, low, box)
    _fill_margin(tag, acc, r, x, count, start, high, width, box)
    if high == low:
        return
    source, target = x.start + (start + low) * x.w, box.start + low * box.w
    if r.copies and x.w == r.itemsize and box.w == r.itemsize:
        for c in range(count):
            _copy_run(r, target + c * box.c, source + c * x.c, (high - low) * r.itemsize)
    elif r.copies and x.c == r.itemsize and x.w == count * r.itemsize and x.w == box.w:
        _copy_run(r, target, source, (high - low) * x.w)
    elif r.copies and x.c == r.itemsize and box.c == r.itemsize:
        for j in range(high - low):
            _copy_run(r, target + j * box.w, source + j * x.w, count * r.itemsize)
    else:
        for j in range(high - low):
            for c in range(count):
                store(acc, target + j * box.w + c * box.c, load(tag, source + j * x.w + c * x.c))


@helper
def gather_windows(tag: Any, acc: Any, r: Any, x: Any, count: int, first: Any, rows: int, width: int, box: Any) -> None:
    """Gather what `rows` rows of `width` outputs from `first` on read of `count` channels of a sample."""
    start = first[2] * r.w.stride - r.w.pad
    length = window_length(r.w, width)
    for d in range(window_length(r.d, 1)):
        d_source = source_index(first[0] * r.d.stride + d - r.d.pad, r.d.size, r.padding_mode)
        for h in range(window_length(r.h, rows)):
            h_source = source_index(first[1] * r.h.stride + h - r.h.pad, r.h.size, r.padding_mode)
            target = behind(box, d * box.d + h * box.h)
            if d_source < 0 or h_source < 0:
                for c in range(count):
                    for j in range(length):
                        store(acc, target.start + c * box.c + j * box.w, acc)
            else:
                _copy_row(tag, acc, r, behind(x, d_source * x.d + h_source * x.h), count, start, length, target)


@helper
def lay_gradients(
    tag: Any, acc: Any, r: Any, source: Any, filter_step: int, rows: int, width: int, filters: int, slab: int
) -> None:
    """Lay the gradients of `rows` rows of `width` outputs as rows of lanes; those of no filter hold anything."""
    step, pitch = source.step, -(-filters // r.lanes) * r.lanes * r.itemsize
    if source.line_step == width * step:
        rows, width = 1, rows * width
    for h in range(rows):
        begin, target = source.start + h * source.line_step, slab + h * width * pitch
        if r.copies and step == r.itemsize and width >= r.lanes:
            for j in range(0, width, r.lanes):
                # The last square lies back to back with the end: what it shares with the one before is the same.
                here = min(j, width - r.lanes)
                for k in range(0, filters, r.lanes):
                    to = target + here * pitch + k * r.itemsize
                    come = begin + here * step + k * filter_step
                    transpose(acc, to, pitch, come, filter_step, min(r.lanes, filters - k), r.lanes)
        else:
            for j in range(width):
                for k in range(filters):
                    value = load(tag, begin + j * step + k * filter_step)
                    store(acc, target + j * pitch + k * r.itemsize, value)
