"""Convolutions as matrix products over strided views: what is a row, what is a column, how they are cut. Integers only.

A product of A and B has rows, columns and a depth, along which it is summed. An *outer* product's lanes are columns:
rows of B run along them, as do the results'. An *inner* product's lanes run along the depth, as rows of A and B do.
The order of a sum depends on the kind of the product and on `INNER_DEPTH` alone.
"""

from __future__ import annotations

from typing import NamedTuple

from stridekit.backends.cpu.forward.blocking import SMALL_FLOPS
from stridekit.backends.cpu.forward.partition import TASKS_PER_THREAD as _TASKS
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.memory.workspace import WorkspaceLayout, align

IN_PLACE, GATHERED, WINDOWS = range(3)
"""How a tile gets rows: where they lie end to end, copied from any strides, or as windows with their padding."""
INNER_DEPTH = 2048
"""Elements that an inner product sums lane by lane before the lanes are added up."""
OUTER_DEPTH = 64
"""Rows of B that pass an outer product's sums at once, so that the sums are seldom read and written."""
OUTER_VECTORS = 8
"""Vectors of columns of an outer product's tile of one row."""
INNER_COLUMNS = 8
"""Columns of an inner product's tile of one row."""
INNER_TILES = {16: (2, 4), 32: (4, 6)}
"""Rows and columns of an inner product's tile, by vector registers: its sums, its rows and a column fit into them."""
OUTER_ROWS = 48
"""Rows of an outer product's task."""
_OUTER_BYTES = 2048
_INNER_ROWS, _INNER_COLUMNS = 32, 240
SMALL_BYTES = 1 << 20
"""Bytes below which a second thread costs more than it saves, if there are few products: some 50 microseconds."""
Dim = tuple[int, int]
"""How many, and the bytes from one to the next."""


class Axes(NamedTuple):
    """An index that is up to four counters, the last of them the fastest: the size of each, and its step in bytes."""

    size0: int
    size1: int
    size2: int
    size3: int
    step0: int
    step1: int
    step2: int
    step3: int


def axes(*dims: Dim) -> Axes:
    """Return up to four counters, as few as they can be: those that follow each other in memory are one."""
    merged: list[Dim] = []
    for size, step in dims:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * step:
            merged[-1] = merged[-1][0] * size, step
        else:
            merged.append((size, step))
    sizes, steps = zip(*[(1, 0)] * (4 - len(merged)), *merged, strict=True)
    return Axes(*sizes, *steps)


def end_to_end(counters: Axes, itemsize: int) -> bool:
    """Say whether what is counted lies in a row without gaps."""
    return counters[:3] == (1, 1, 1) and (counters.size3 == 1 or counters.step3 == itemsize)


class Matrix(NamedTuple):
    """Where the elements of an operand or a result lie, in bytes.

    Attributes
    ----------
    start : address of the first
    sample, group, fold : from one sample's, group's or summand's matrix to the next
    rows, lanes : Axes of the rows, and of the elements of a row
    laid : IN_PLACE, GATHERED or WINDOWS
    """

    start: int
    sample: int
    group: int
    fold: int
    rows: Axes
    lanes: Axes
    laid: int


class Cut(NamedTuple):
    """A product's sizes and how it is cut.

    Attributes
    ----------
    samples, groups, folds : int
        Products that are computed, samples times groups of them, each the sum of `folds`.
    rows, columns, depth : int
        Of one product.
    row_block, column_block, depth_block : int
        Of one task, and of one step of it.
    row_blocks, column_blocks, tasks : int
        Tasks of one product, and of all.
    lanes, itemsize, size : int
        Elements of a vector of sums, bytes of a sum, bytes of an operand's element.
    taps : int
        Kernel positions, where an operand is WINDOWS.
    pitch : int
        Bytes from row to row of the sums.
    sums, a_room, b_room, a_table, b_table, steps, offsets : int
        Byte offsets of the parts of a thread's scratch.
    scratch, workers : int
        Its bytes; how many threads are worth it.
    """

    samples: int
    groups: int
    folds: int
    rows: int
    columns: int
    depth: int
    row_block: int
    column_block: int
    depth_block: int
    row_blocks: int
    column_blocks: int
    tasks: int
    lanes: int
    itemsize: int
    size: int
    taps: int
    pitch: int
    sums: int
    a_room: int
    b_room: int
    a_table: int
    b_table: int
    steps: int
    offsets: int
    scratch: int
    workers: int


class Sizes(NamedTuple):
    """The sizes of a product, as in a `Cut`, and the bytes that all of its operands and its result take."""

    samples: int
    groups: int
    folds: int
    rows: int
    columns: int
    depth: int
    taps: int
    nbytes: int


def cut(sizes: Sizes, device: CpuDevice, *, outer: bool, itemsize: int, size: int) -> Cut:
    """Cut a product into tasks."""
    lanes = device.lanes(itemsize)
    rows, columns, depth = (max(count, 1) for count in (sizes.rows, sizes.columns, sizes.depth))
    flops = 2 * sizes.samples * sizes.groups * sizes.folds * rows * columns * depth
    threads = device.threads if flops >= SMALL_FLOPS or sizes.nbytes >= SMALL_BYTES else 1
    if outer:
        tile_rows, unit = device.tiles[max(device.tiles)], OUTER_VECTORS * lanes
        row_block = min(rows, OUTER_ROWS)
        # Of few rows the sums are few: then longer runs of each row of B.
        column_block = min(columns, max(unit, _OUTER_BYTES // itemsize) * (1 if rows > tile_rows else 2))
        depth_block = min(depth, OUTER_DEPTH)
        a_room, b_room = row_block * depth_block, depth_block * column_block
        sum_columns, offsets = align(column_block, lanes), column_block
    else:
        tile_rows, tile_columns = INNER_TILES[device.vector_registers]
        tile_columns, unit = max(tile_columns, INNER_COLUMNS), 3 * INNER_COLUMNS
        row_block = min(rows, _INNER_ROWS)
        column_block = min(columns, _INNER_COLUMNS)
        depth_block = min(depth, INNER_DEPTH)
        a_room, b_room = row_block * depth_block, tile_columns * depth_block
        sum_columns, offsets = align(column_block + tile_columns, lanes), max(depth_block, column_block)
    parts, row_blocks = sizes.samples * sizes.groups, -(-rows // row_block)
    while threads > 1 and column_block > unit and parts * row_blocks * -(-columns // column_block) < _TASKS * threads:
        column_block = max(unit, align(-(-column_block // 2), unit))
    tasks = parts * row_blocks * -(-columns // column_block) if sizes.rows and sizes.columns else 0
    pitch = sum_columns * itemsize
    parts_of = {
        "sums": (row_block + tile_rows) * pitch,
        "a_room": a_room * size,
        "b_room": b_room * size,
        "a_table": 8 * (row_block + tile_rows),
        "b_table": 8 * (depth_block if outer else tile_columns),
        "steps": 8 * max(depth_block, row_block),
        "offsets": 8 * max(offsets, sizes.taps),
    }
    scratch = WorkspaceLayout(tuple(parts_of.items()))
    return Cut(
        samples=sizes.samples,
        groups=sizes.groups,
        folds=sizes.folds,
        rows=sizes.rows,
        columns=sizes.columns,
        depth=sizes.depth,
        row_block=row_block,
        column_block=column_block,
        depth_block=depth_block,
        row_blocks=row_blocks,
        column_blocks=-(-columns // column_block),
        tasks=tasks,
        lanes=lanes,
        itemsize=itemsize,
        size=size,
        taps=sizes.taps,
        pitch=pitch,
        **scratch.offsets,
        scratch=scratch.nbytes,
        workers=max(1, min(threads, tasks)),
    )
