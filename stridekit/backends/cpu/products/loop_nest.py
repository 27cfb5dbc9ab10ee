"""The loop nests of matrix products: draw a block of the result, bring its operands into reach, multiply, store.

Any number of threads may run them at once, as the loop nest of `convolving`. All memory is named by address. A job is
a `Multiplication`, the words of a `Cut`, three `Matrix` for A, B and the result, and `Windows`, if an operand is those.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from stridekit.backends.cpu.columns.runs import run_store
from stridekit.backends.cpu.forward.epilogue import NO_ACTIVATION, activate
from stridekit.backends.cpu.forward.pack_input import NOWHERE, source_index
from stridekit.backends.cpu.products.blocking import (
    IN_PLACE,
    INNER_COLUMNS,
    INNER_TILES,
    OUTER_VECTORS,
    WINDOWS,
    Axes,
    Cut,
)
from stridekit.backends.cpu.products.microkernel import inner_tile, outer_tile
from stridekit.backends.cpu.runtime.compiler import entry, helper, inlined
from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import (
    copy_vectors,
    fill_vectors,
    get_int,
    load,
    next_task,
    read_ints,
    set_int,
    store,
    tags,
)


class Multiplication(NamedTuple):
    """What a call adds to a `Cut`.

    Attributes
    ----------
    counter : address of the shared task counter
    scratch, scratch_step : address of ``cut.scratch`` bytes for each thread, and bytes from one to the next
    activation, slope : number in `finishing`, and address of its parameter in the type of the sums
    bias, bias_group, bias_row, bias_column : address, or 0 for none; bytes to the next group's, row's, column's
    """

    counter: int
    scratch: int
    scratch_step: int
    activation: int
    slope: int
    bias: int
    bias_group: int
    bias_row: int
    bias_column: int


class Windows(NamedTuple):
    """How windows lie in an input: bytes between samples and channels, the padding mode, and three `WindowAxis`."""

    sample: int
    channel: int
    mode: int


class WindowAxis(NamedTuple):
    """A spatial axis: sizes, steps in pixels, and bytes from pixel to pixel."""

    out: int
    size: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    step: int


_AT, _SAMPLE, _GROUP, _FOLD, _ROWS = range(5)
_LANES = _ROWS + len(Axes._fields)
_LAID = _LANES + len(Axes._fields)
_MATRIX_BYTES = 8 * (_LAID + 1)
_CALL_BYTES, _CUT_BYTES = 8 * len(Multiplication._fields), 8 * len(Cut._fields)
_A = _CALL_BYTES + _CUT_BYTES
_B, _RESULT, _WINDOWS = _A + _MATRIX_BYTES, _A + 2 * _MATRIX_BYTES, _A + 3 * _MATRIX_BYTES
_read_call, _read_cut = read_ints(len(Multiplication._fields)), read_ints(len(Cut._fields))
_read_axes, _read_windows = read_ints(len(Axes._fields)), read_ints(len(Windows._fields))
_read_window_axis = read_ints(len(WindowAxis._fields))
_WINDOWS_BYTES, _WINDOW_AXIS_BYTES = 8 * len(Windows._fields), 8 * len(WindowAxis._fields)


@helper
def _fill(table: int, base: int, counters: int, first: int, count: int) -> None:
    """Write where elements `first` and on lie, counted by the `Axes` at address `counters`, element 0 at `base`."""
    c = Axes(*_read_axes(counters))
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
def _matrix(m: int, group: int, sample: int, fold: int) -> Any:
    """Return the address of a matrix's first element."""
    return get_int(m, _AT) + group * get_int(m, _GROUP) + sample * get_int(m, _SAMPLE) + fold * get_int(m, _FOLD)


@helper
def _window_taps(windows: int, pixel: int, table: int) -> int:
    """Write where each tap of an output's window lies from its sample, or NOWHERE; return the bytes to the sample."""
    w = Windows(*_read_windows(windows))
    places = windows + _WINDOWS_BYTES
    d = WindowAxis(*_read_window_axis(places))
    h = WindowAxis(*_read_window_axis(places + _WINDOW_AXIS_BYTES))
    v = WindowAxis(*_read_window_axis(places + 2 * _WINDOW_AXIS_BYTES))
    rest, x = pixel // v.out, pixel % v.out
    rest, y = rest // h.out, rest % h.out
    n, z = rest // d.out, rest % d.out
    at = 0
    for i in range(d.kernel):
        slice_ = source_index(z * d.stride + i * d.dilation - d.pad, d.size, w.mode)
        for j in range(h.kernel):
            line = source_index(y * h.stride + j * h.dilation - h.pad, h.size, w.mode)
            for k in range(v.kernel):
                column = source_index(x * v.stride + k * v.dilation - v.pad, v.size, w.mode)
                if slice_ < 0 or line < 0 or column < 0:
                    set_int(table, at, NOWHERE)
                else:
                    set_int(table, at, slice_ * d.step + line * h.step + column * v.step)
                at += 1
    return n * w.sample


@helper
def _unroll(
    tag: Any, acc: Any, size: int, taps: int, windows: int, base: int, pixel: int, first: int, count: int, room: int,
    table: int,
) -> None:  # fmt: skip
    """Copy elements `first` and on of a window, channel by channel, zeros where it reads padding."""
    channel_step = get_int(windows, 1)
    source = base + _window_taps(windows, pixel, table) + first // taps * channel_step
    tap = first % taps
    for at in range(room, room + count * size, size):
        offset = get_int(table, tap)
        store(tag, at, acc if offset == NOWHERE else load(tag, source + offset))
        tap += 1
        if tap == taps:
            tap, source = 0, source + channel_step


@helper
def _lay(
    tag: Any, acc: Any, size: int, taps: int, m: int, windows: int, base: int, row: int, rows: int, first: int,
    count: int, room: int, table: int, offsets: int,
) -> None:  # fmt: skip
    """Write where each of `rows` rows has its elements `first` and on, end to end: where they lie, or in `room`."""
    laid = get_int(m, _LAID)
    if laid == IN_PLACE:
        _fill(table, base + first * size, m + 8 * _ROWS, row, rows)
        return
    if laid != WINDOWS:
        _fill(table, base, m + 8 * _ROWS, row, rows)
        _fill(offsets, 0, m + 8 * _LANES, first, count)
    for number in range(rows):
        to = room + number * count * size
        if laid == WINDOWS:
            _unroll(tag, acc, size, taps, windows, base, row + number, first, count, to, offsets)
        else:
            source = get_int(table, number)
            for at in range(count):
                store(tag, to + at * size, load(tag, source + get_int(offsets, at)))
        set_int(table, number, to)


@helper
def _begin(tag: Any, acc: Any, job: int, group: int, row: int, rows: int, column: int, columns: int, sums: int) -> None:
    """Begin the sums of a block with the bias, or zeros."""
    call, b = Multiplication(*_read_call(job)), Cut(*_read_cut(job + _CALL_BYTES))
    vectors = b.pitch // (b.lanes * b.itemsize)
    if call.bias == 0:
        fill_vectors(acc, sums, rows * vectors, acc)
        return
    bias = call.bias + group * call.bias_group + row * call.bias_row + column * call.bias_column
    if call.bias_column == 0:
        for number in range(rows):
            # Plus zero, as `pack_bias` has it.
            fill_vectors(acc, sums + number * b.pitch, vectors, load(tag, bias + number * call.bias_row) + acc)
        return
    fill_vectors(acc, sums, vectors, acc)
    for number in range(columns):
        store(acc, sums + number * b.itemsize, load(tag, bias + number * call.bias_column) + acc)
    for number in range(1, rows):
        copy_vectors(sums + number * b.pitch, sums, vectors)


@helper
def _finish(
    tag: Any, acc: Any, job: int, base: int, row: int, rows: int, column: int, columns: int, sums: int, targets: int,
    offsets: int,
) -> None:  # fmt: skip
    """Apply the activation to the sums of a block, and store them in the result."""
    call, b, m = Multiplication(*_read_call(job)), Cut(*_read_cut(job + _CALL_BYTES)), job + _RESULT
    if call.activation != NO_ACTIVATION:
        for number in range(rows):
            activate(acc, sums + number * b.pitch, columns, b.itemsize, call.activation, load(acc, call.slope))
    _fill(targets, base, m + 8 * _ROWS, row, rows)
    if get_int(m, _LAID) == IN_PLACE:
        for number in range(rows):
            run_store(tag, get_int(targets, number) + column * b.size, b.size, sums + number * b.pitch, columns)
        return
    _fill(offsets, 0, m + 8 * _LANES, column, columns)
    for at in range(columns):
        offset, source = get_int(offsets, at), sums + at * b.itemsize
        for number in range(rows):
            store(tag, get_int(targets, number) + offset, load(acc, source + number * b.pitch))


_TILE_VECTORS = max(host().tiles)
_TILE_ROWS = host().tiles[_TILE_VECTORS]
_high, _low = outer_tile(_TILE_ROWS, _TILE_VECTORS), outer_tile(1, OUTER_VECTORS)
_last = outer_tile(_TILE_ROWS, 1, partial=True)


@helper
def _outer_tiles(
    tag: Any, acc: Any, b: Any, a_table: int, rows: int, steps: int, b_table: int, depth: int, columns: int, sums: int
) -> None:
    """Run tiles over a block whose operands are laid: first whole ones, then vector by vector."""
    done, vector = 0, b.lanes * b.itemsize
    while columns - done >= OUTER_VECTORS * b.lanes:
        row = 0
        while rows - row >= _TILE_ROWS:
            for number in range(0, OUTER_VECTORS, _TILE_VECTORS):
                shift, to = (done + number * b.lanes) * b.size, sums + done * b.itemsize + number * vector
                _high(tag, acc, a_table + row * 8, steps, b_table, depth, shift, 0, to + row * b.pitch, b.pitch)
            row += _TILE_ROWS
        for last in range(row, rows):
            to = sums + done * b.itemsize + last * b.pitch
            _low(tag, acc, a_table + last * 8, steps, b_table, depth, done * b.size, 0, to, b.pitch)
        done += OUTER_VECTORS * b.lanes
    while done < columns:
        for row in range(0, rows, _TILE_ROWS):
            to, left = sums + done * b.itemsize + row * b.pitch, min(b.lanes, columns - done)
            _last(tag, acc, a_table + row * 8, steps, b_table, depth, done * b.size, left, to, b.pitch)
        done += b.lanes


@inlined
def _outer(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Multiply block by block until none is left, lanes along the columns."""
    call, b = Multiplication(*_read_call(job)), Cut(*_read_cut(job + _CALL_BYTES))
    scratch = call.scratch + worker * call.scratch_step
    sums, a_room, b_room = scratch + b.sums, scratch + b.a_room, scratch + b.b_room
    a_table, b_table, steps, offsets = scratch + b.a_table, scratch + b.b_table, scratch + b.steps, scratch + b.offsets
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
        a_base = _matrix(job + _A, group, sample, 0)
        _begin(tag, acc, job, group, row, rows, column, columns, sums)
        for first in range(0, b.depth, b.depth_block):
            depth = min(b.depth_block, b.depth - first)
            if get_int(job + _A, _LAID) == WINDOWS:
                _lay(
                    tag, acc, b.size, b.taps, job + _A, job + _WINDOWS, a_base, row, rows, first, depth, a_room,
                    a_table, offsets,
                )  # fmt: skip
                for at in range(depth):
                    set_int(steps, at, at * b.size)
            else:
                # An element is read alone, wherever it lies.
                _fill(a_table, a_base, job + _A + 8 * _ROWS, row, rows)
                _fill(steps, 0, job + _A + 8 * _LANES, first, depth)
            _repeat(a_table, rows, rows + _TILE_ROWS)
            if laid != block or b.depth > b.depth_block:
                laid, b_base = block, _matrix(job + _B, group, sample, 0)
                _lay(
                    tag, acc, b.size, b.taps, job + _B, job + _WINDOWS, b_base, first, depth, column, columns, b_room,
                    b_table, offsets,
                )  # fmt: skip
            _outer_tiles(tag, acc, b, a_table, rows, steps, b_table, depth, columns, sums)
        target = _matrix(job + _RESULT, group, sample, 0)
        _finish(tag, acc, job, target, row, rows, column, columns, sums, a_table, offsets)


_INNER_TILE = INNER_TILES[host().vector_registers]
_square, _flat = inner_tile(*_INNER_TILE), inner_tile(1, INNER_COLUMNS)


@inlined
def _inner(tag: Any, acc: Any, job: int, worker: int) -> None:
    """Multiply block by block until none is left, lanes along the depth."""
    call, b = Multiplication(*_read_call(job)), Cut(*_read_cut(job + _CALL_BYTES))
    scratch = call.scratch + worker * call.scratch_step
    sums, a_room, b_room = scratch + b.sums, scratch + b.a_room, scratch + b.b_room
    a_table, b_table, offsets = scratch + b.a_table, scratch + b.b_table, scratch + b.offsets
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
        _begin(tag, acc, job, group, row, rows, column, columns, sums)
        for fold in range(b.folds):
            a_base, b_base = _matrix(job + _A, group, sample, fold), _matrix(job + _B, group, sample, fold)
            for first in range(0, b.depth, b.depth_block):
                depth = min(b.depth_block, b.depth - first)
                if laid != block or b.folds > 1 or b.depth > b.depth_block:
                    laid = block
                    _lay(
                        tag, acc, b.size, b.taps, job + _A, job + _WINDOWS, a_base, row, rows, first, depth, a_room,
                        a_table, offsets,
                    )  # fmt: skip
                    _repeat(a_table, rows, rows + _INNER_TILE[0])
                for begin in range(0, columns, width):
                    count, to = min(width, columns - begin), sums + begin * b.itemsize
                    _lay(
                        tag, acc, b.size, b.taps, job + _B, job + _WINDOWS, b_base, column + begin, count, first,
                        depth, b_room, b_table, offsets,
                    )  # fmt: skip
                    _repeat(b_table, count, width)
                    if high:
                        for at in range(0, rows, _INNER_TILE[0]):
                            _square(tag, acc, a_table + at * 8, b_table, depth, to + at * b.pitch, b.pitch, b.itemsize)
                    else:
                        for at in range(rows):
                            _flat(tag, acc, a_table + at * 8, b_table, depth, to + at * b.pitch, b.pitch, b.itemsize)
        target = _matrix(job + _RESULT, group, sample, 0)
        # Not over the table of A, which the next task may still read.
        _finish(tag, acc, job, target, row, rows, column, columns, sums, scratch + b.steps, offsets)


def multiply(dtype: str, outer: bool) -> int:
    """Return the address of the compiled loop nest for arrays of `dtype`."""
    tag, acc = tags(dtype)
    if outer:

        def run(job: int, worker: int) -> None:
            _outer(tag, acc, job, worker)

        return entry(run, f"outer_product_{dtype}")

    def run_inner(job: int, worker: int) -> None:
        _inner(tag, acc, job, worker)

    return entry(run_inner, f"inner_product_{dtype}")
