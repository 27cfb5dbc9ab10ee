"""The loop nests of matrix products: draw a block of the result, bring its operands into reach, multiply, store.

Any number of threads may run them at once, as that of `forward`. All memory is named by address; a job is
a `Multiplication`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.columns.runs import run_store
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, activate
from stridekit.backends.cpu.forward.microkernel import Sums
from stridekit.backends.cpu.forward.pack_input import NOWHERE, source_index
from stridekit.backends.cpu.products.blocking import (
    IN_PLACE,
    INNER_COLUMNS,
    INNER_TILES,
    OUTER_VECTORS,
    WINDOWS,
)
from stridekit.backends.cpu.products.jobs import Multiplication
from stridekit.backends.cpu.products.microkernel import Scalars, Vectors, inner_tile, outer_tile
from stridekit.backends.cpu.runtime.compiler import entries, helper, inlined
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import (
    copy_vectors,
    fill_vectors,
    get_int,
    load,
    next_task,
    reader,
    set_int,
    store,
)

_read_job = reader(Multiplication)


class Span(NamedTuple):
    """Rows `row` and on, so many, and of each so many elements, `first` and on."""

    row: int
    rows: int
    first: int
    elements: int


class Room(NamedTuple):
    """Addresses of room for rows, for the address of each, and for offsets of elements or of a window's taps."""

    rows: int
    table: int
    offsets: int


@helper
def _fill(table: int, base: int, c: Any, first: int, count: int) -> None:
    """Write where elements `first` and on lie, counted by `Axes`, element 0 at `base`."""
    rest, i3 = first // c.size3, first % c.size3
    rest, i2 = rest // c.size2, rest % c.size2
    i0, i1 = rest // c.size1, rest % c.size1
    for at in range(count):
        set_int(table, at, base + i0 * c.step0 + i1 * c.step1 + i2 * c.step2 + i3 * c.step3)
        i3 += 1
        if i3 == c.size3:
            i3, i2 = 0, i2 + 1
            if i2 == c.size2:
                i2, i1 = 0, i1 + 1
                if i1 == c.size1:
                    i1, i0 = 0, i0 + 1


@helper
def _repeat(table: int, count: int, most: int) -> None:
    """Fill a table up for a tile of more rows than are left: it computes the last again, into sums of its own."""
    for at in range(count, most):
        set_int(table, at, get_int(table, count - 1))


@helper
def _matrix(m: Any, group: int, sample: int, fold: int) -> Any:
    """Return the address of a matrix's first element."""
    return m.start + group * m.group + sample * m.sample + fold * m.fold


@helper
def _window_taps(windows: Any, pixel: int, table: int) -> Any:
    """Write where each tap of an output's window lies from its sample, or NOWHERE; return the bytes to the sample."""
    d, h, v, mode = windows.d, windows.h, windows.w, windows.mode
    rest, x = pixel // v.out, pixel % v.out
    rest, y = rest // h.out, rest % h.out
    n, z = rest // d.out, rest % d.out
    at = 0
    for i in range(d.kernel):
        slice_ = source_index(z * d.stride + i * d.dilation - d.pad, d.size, mode)
        for j in range(h.kernel):
            line = source_index(y * h.stride + j * h.dilation - h.pad, h.size, mode)
            for k in range(v.kernel):
                column = source_index(x * v.stride + k * v.dilation - v.pad, v.size, mode)
                if slice_ < 0 or line < 0 or column < 0:
                    set_int(table, at, NOWHERE)
                else:
                    set_int(table, at, slice_ * d.step + line * h.step + column * v.step)
                at += 1
    return n * windows.sample


@helper
def _unroll(tag: Any, acc: Any, job: int, base: int, pixel: int, first: int, count: int, room: int, table: int) -> None:
    """Copy elements `first` and on of a window, channel by channel, zeros where it reads padding."""
    b, windows = _read_job(job).cut, _read_job(job).windows
    source = base + _window_taps(windows, pixel, table) + first // b.taps * windows.channel
    tap = first % b.taps
    for at in range(room, room + count * b.size, b.size):
        offset = get_int(table, tap)
        store(tag, at, acc if offset == NOWHERE else load(tag, source + offset))
        tap += 1
        if tap == b.taps:
            tap, source = 0, source + windows.channel


@helper
def _lay(tag: Any, acc: Any, job: int, m: Any, base: int, span: Any, room: Any) -> None:
    """Write where each row of a span has its elements, end to end: where they lie, or in `room`."""
    size = _read_job(job).cut.size
    if m.laid == IN_PLACE:
        _fill(room.table, base + span.first * size, m.rows, span.row, span.rows)
        return
    if m.laid != WINDOWS:
        _fill(room.table, base, m.rows, span.row, span.rows)
        _fill(room.offsets, 0, m.lanes, span.first, span.elements)
    for number in range(span.rows):
        to = room.rows + number * span.elements * size
        if m.laid == WINDOWS:
            _unroll(tag, acc, job, base, span.row + number, span.first, span.elements, to, room.offsets)
        else:
            source = get_int(room.table, number)
            for at in range(span.elements):
                store(tag, to + at * size, load(tag, source + get_int(room.offsets, at)))
        set_int(room.table, number, to)


@helper
def _begin(tag: Any, acc: Any, job: int, group: int, block: Any, sums: int) -> None:
    """Begin the sums of a block with the bias, or zeros."""
    b, bias = _read_job(job).cut, _read_job(job).bias
    vectors = b.pitch // (b.lanes * b.itemsize)
    if bias.start == 0:
        fill_vectors(acc, sums, block.rows * vectors, acc)
        return
    start = bias.start + group * bias.group + block.row * bias.row + block.first * bias.column
    if bias.column == 0:
        for number in range(block.rows):
            # Add zero, as `pack_bias` does.
            fill_vectors(acc, sums + number * b.pitch, vectors, load(tag, start + number * bias.row) + acc)
        return
    fill_vectors(acc, sums, vectors, acc)
    for number in range(block.elements):
        store(acc, sums + number * b.itemsize, load(tag, start + number * bias.column) + acc)
    for number in range(1, block.rows):
        copy_vectors(sums + number * b.pitch, sums, vectors)


@helper
def _finish(tag: Any, acc: Any, job: int, base: int, block: Any, sums: int, targets: int, offsets: int) -> None:
    """Apply the activation to the sums of a block, and store them in the result."""
    call, rows, columns = _read_job(job), block.rows, block.elements
    b, m = call.cut, call.result
    if call.activation != NO_ACTIVATION:
        for number in range(rows):
            activate(acc, sums + number * b.pitch, columns, b.itemsize, call.activation, load(acc, call.slope))
    _fill(targets, base, m.rows, block.row, rows)
    if m.laid == IN_PLACE:
        for number in range(rows):
            run_store(tag, get_int(targets, number) + block.first * b.size, b.size, sums + number * b.pitch, columns)
        return
    _fill(offsets, 0, m.lanes, block.first, columns)
    for at in range(columns):
        offset, source = get_int(offsets, at), sums + at * b.itemsize
        for number in range(rows):
            store(tag, get_int(targets, number) + offset, load(acc, source + number * b.pitch))


_TILE_VECTORS = max(host().tiles)
_TILE_ROWS = host().tiles[_TILE_VECTORS]
_high, _low = outer_tile(_TILE_ROWS, _TILE_VECTORS), outer_tile(1, OUTER_VECTORS)
_last = outer_tile(_TILE_ROWS, 1, partial=True)


@helper
def _outer_tiles(tag: Any, acc: Any, b: Any, rows: int, a: Any, vectors: Any, sums: int) -> None:
    """Run tiles over a block whose operands are laid: first whole ones, then vector by vector."""
    done, vector, columns = 0, b.lanes * b.itemsize, vectors.columns
    while columns - done >= OUTER_VECTORS * b.lanes:
        row = 0
        while rows - row >= _TILE_ROWS:
            for number in range(0, OUTER_VECTORS, _TILE_VECTORS):
                some = Vectors(vectors.table, vectors.depth, (done + number * b.lanes) * b.size, 0)
                to = sums + done * b.itemsize + number * vector + row * b.pitch
                _high(tag, acc, Scalars(a.table + row * 8, a.steps), some, Sums(to, b.pitch))
            row += _TILE_ROWS
        for last in range(row, rows):
            some, to = (
                Vectors(vectors.table, vectors.depth, done * b.size, 0),
                sums + done * b.itemsize + last * b.pitch,
            )
            _low(tag, acc, Scalars(a.table + last * 8, a.steps), some, Sums(to, b.pitch))
        done += OUTER_VECTORS * b.lanes
    while done < columns:
        some = Vectors(vectors.table, vectors.depth, done * b.size, min(b.lanes, columns - done))
        for row in range(0, rows, _TILE_ROWS):
            to = sums + done * b.itemsize + row * b.pitch
            _last(tag, acc, Scalars(a.table + row * 8, a.steps), some, Sums(to, b.pitch))
        done += b.lanes


@inlined
def _outer(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Multiply block by block until none is left, lanes along the columns."""
    call = _read_job(job)
    b, scratch = call.cut, call.scratch + worker * call.scratch_step
    sums, steps, offsets = scratch + b.sums, scratch + b.steps, scratch + b.offsets
    a_room = Room(scratch + b.a_room, scratch + b.a_table, offsets)
    b_room = Room(scratch + b.b_room, scratch + b.b_table, offsets)
    laid = -1
    while True:
        task = next_task(call.counter)
        if task >= b.tasks:
            return
        # Rows innermost: what is laid of B serves them all, if it is laid at once.
        block = task // b.row_blocks
        row, column = task % b.row_blocks * b.row_block, block % b.column_blocks * b.column_block
        group, sample = block // b.column_blocks % b.groups, block // b.column_blocks // b.groups
        rows, columns = min(b.row_block, b.rows - row), min(b.column_block, b.columns - column)
        a_base, b_base = _matrix(call.a, group, sample, 0), _matrix(call.b, group, sample, 0)
        _begin(tag, acc, job, group, Span(row, rows, column, columns), sums)
        for first in range(0, b.depth, b.depth_block):
            depth = min(b.depth_block, b.depth - first)
            if call.a.laid == WINDOWS:
                _lay(tag, acc, job, call.a, a_base, Span(row, rows, first, depth), a_room)
                for at in range(depth):
                    set_int(steps, at, at * b.size)
            else:
                # An element is read alone, wherever it lies.
                _fill(a_room.table, a_base, call.a.rows, row, rows)
                _fill(steps, 0, call.a.lanes, first, depth)
            _repeat(a_room.table, rows, rows + _TILE_ROWS)
            if laid != block or b.depth > b.depth_block:
                laid = block
                _lay(tag, acc, job, call.b, b_base, Span(first, depth, column, columns), b_room)
            vectors = Vectors(b_room.table, depth, 0, columns)
            _outer_tiles(tag, acc, b, rows, Scalars(a_room.table, steps), vectors, sums)
        target = _matrix(call.result, group, sample, 0)
        _finish(tag, acc, job, target, Span(row, rows, column, columns), sums, a_room.table, offsets)


_INNER_TILE = INNER_TILES[host().vector_registers]
_square, _flat = inner_tile(*_INNER_TILE), inner_tile(1, INNER_COLUMNS)


@inlined
def _inner(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Multiply block by block until none is left, lanes along the depth."""
    call = _read_job(job)
    b, scratch = call.cut, call.scratch + worker * call.scratch_step
    sums, steps, offsets = scratch + b.sums, scratch + b.steps, scratch + b.offsets
    a_room = Room(scratch + b.a_room, scratch + b.a_table, offsets)
    b_room = Room(scratch + b.b_room, scratch + b.b_table, offsets)
    laid = -1
    while True:
        task = next_task(call.counter)
        if task >= b.tasks:
            return
        # Columns innermost: what is laid of A serves them all, if it is laid at once.
        block = task // b.column_blocks
        row, column = block % b.row_blocks * b.row_block, task % b.column_blocks * b.column_block
        group, sample = block // b.row_blocks % b.groups, block // b.row_blocks // b.groups
        rows, columns = min(b.row_block, b.rows - row), min(b.column_block, b.columns - column)
        high = rows >= _INNER_TILE[0]
        width = _INNER_TILE[1] if high else INNER_COLUMNS
        _begin(tag, acc, job, group, Span(row, rows, column, columns), sums)
        for fold in range(b.folds):
            a_base, b_base = _matrix(call.a, group, sample, fold), _matrix(call.b, group, sample, fold)
            for first in range(0, b.depth, b.depth_block):
                depth = min(b.depth_block, b.depth - first)
                if laid != block or b.folds > 1 or b.depth > b.depth_block:
                    laid = block
                    _lay(tag, acc, job, call.a, a_base, Span(row, rows, first, depth), a_room)
                    _repeat(a_room.table, rows, rows + _INNER_TILE[0])
                for begin in range(0, columns, width):
                    count, to = min(width, columns - begin), sums + begin * b.itemsize
                    _lay(tag, acc, job, call.b, b_base, Span(column + begin, count, first, depth), b_room)
                    _repeat(b_room.table, count, width)
                    if high:
                        for at in range(0, rows, _INNER_TILE[0]):
                            _square(
                                tag,
                                acc,
                                a_room.table + at * 8,
                                b_room.table,
                                depth,
                                to + at * b.pitch,
                                b.pitch,
                                b.itemsize,
                            )
                    else:
                        for at in range(rows):
                            _flat(
                                tag,
                                acc,
                                a_room.table + at * 8,
                                b_room.table,
                                depth,
                                to + at * b.pitch,
                                b.pitch,
                                b.itemsize,
                            )
        # Not over the table of A, which the next task may still read.
        target = _matrix(call.result, group, sample, 0)
        _finish(tag, acc, job, target, Span(row, rows, column, columns), sums, steps, offsets)


outer_product = entries("outer_product", _outer)
inner_product = entries("inner_product", _inner)
"""Return the address of the compiled loop nest for arrays of a dtype."""
