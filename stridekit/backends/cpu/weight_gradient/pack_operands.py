"""What a weight gradient reads, laid for its tile: windows of the input with padding, outputs' gradients as lanes.

Windows keep the order of the input, planes or pixels, since the tile finds its elements at any step. Gradients are
the weights of the tile: rows of lanes, one for each output pixel.
"""

from __future__ import annotations

from typing import Any

from stridekit.backends.cpu.forward.pack_input import source_index
from stridekit.backends.cpu.runtime.compiler import helper
from stridekit.backends.cpu.runtime.vector_memory import copy_bytes, copy_vectors, load, store, transpose
from stridekit.backends.cpu.weight_gradient.blocking import window_length as _window_length

window_length = helper(_window_length)


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
def _fill_margin(
    tag: Any, acc: Any, r: Any, source: int, steps: Any, count: int, start: int, first: int, last: int,
    target: int, box_steps: Any,
) -> None:  # fmt: skip
    """Fill positions `first` to `last` of a row whose position 0 is input column `start`."""
    for j in range(first, last):
        column = source_index(start + j, r.w.size, r.padding_mode)
        for c in range(count):
            at = target + j * box_steps[3] + c * box_steps[0]
            store(acc, at, acc if column < 0 else load(tag, source + column * steps[3] + c * steps[0]))


@helper
def _copy_row(
    tag: Any, acc: Any, r: Any, source: int, steps: Any, count: int, start: int, width: int, target: int,
    box_steps: Any,
) -> None:  # fmt: skip
    """Copy a row of `width` positions from input column `start` on, `count` channels of each, padding filled in."""
    low = min(max(-start, 0), width)
    high = max(low, min(r.w.size - start, width))
    _fill_margin(tag, acc, r, source, steps, count, start, 0, low, target, box_steps)
    _fill_margin(tag, acc, r, source, steps, count, start, high, width, target, box_steps)
    if high == low:
        return
    source, target = source + (start + low) * steps[3], target + low * box_steps[3]
    if r.copies and steps[3] == r.itemsize and box_steps[3] == r.itemsize:
        for c in range(count):
            _copy_run(r, target + c * box_steps[0], source + c * steps[0], (high - low) * r.itemsize)
    elif r.copies and steps[0] == r.itemsize and steps[3] == count * r.itemsize and steps[3] == box_steps[3]:
        _copy_run(r, target, source, (high - low) * steps[3])
    elif r.copies and steps[0] == r.itemsize and box_steps[0] == r.itemsize:
        for j in range(high - low):
            _copy_run(r, target + j * box_steps[3], source + j * steps[3], count * r.itemsize)
    else:
        for j in range(high - low):
            for c in range(count):
                value = load(tag, source + j * steps[3] + c * steps[0])
                store(acc, target + j * box_steps[3] + c * box_steps[0], value)


@helper
def gather_windows(
    tag: Any, acc: Any, r: Any, sample: int, strides: Any, count: int, first: Any, rows: int, width: int,
    box: int, steps: Any,
) -> None:  # fmt: skip
    """Gather what `rows` rows of `width` outputs from `first` on read of `count` channels; `steps` are the box's."""
    start = first[2] * r.w.stride - r.w.pad
    length = window_length(r.w, width)
    for d in range(window_length(r.d, 1)):
        d_source = source_index(first[0] * r.d.stride + d - r.d.pad, r.d.size, r.padding_mode)
        for h in range(window_length(r.h, rows)):
            h_source = source_index(first[1] * r.h.stride + h - r.h.pad, r.h.size, r.padding_mode)
            target = box + d * steps[1] + h * steps[2]
            if d_source < 0 or h_source < 0:
                for c in range(count):
                    for j in range(length):
                        store(acc, target + c * steps[0] + j * steps[3], acc)
            else:
                source = sample + d_source * strides[1] + h_source * strides[2]
                _copy_row(tag, acc, r, source, strides, count, start, length, target, steps)


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
