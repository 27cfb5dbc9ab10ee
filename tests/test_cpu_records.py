"""Records: written by name in Python, read by name in compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stridekit.backends.cpu.runtime.records import (
    OUT,
    WORD_BYTES,
    WORKSPACE,
    Strided,
    X,
    bases,
    integers,
    nbytes,
    row,
    rows,
    strides_of,
)


class Inner(NamedTuple):
    """A record of a record."""

    first: int
    second: int


class Outer(NamedTuple):
    """A record that holds others."""

    before: int
    inner: Inner
    flag: bool
    x: Strided


def test_compiled_code_reads_each_field_by_the_name_under_which_it_was_written() -> None:
    import numba

    from stridekit.backends.cpu.runtime.vector_memory import reader

    read = reader(Outer)

    @numba.njit
    def fields(address: int) -> tuple[int, ...]:
        o = read(address)
        return o.x.w, o.x.start, o.flag, o.inner.second, o.inner.first, o.before

    x = Strided(w=10, h=9, d=8, c=7, n=6, start=5)
    memory = row(Outer(x=x, flag=True, inner=Inner(second=3, first=2), before=1))
    assert memory.dtype == np.int64
    assert memory.nbytes == nbytes(Outer) == 10 * WORD_BYTES
    assert fields(memory.ctypes.data) == (10, 5, 1, 3, 2, 1)


def test_an_address_is_counted_from_its_array_and_a_number_from_nothing() -> None:
    workspace, x, out = np.zeros(9, np.uint8), np.zeros((1, 2, 3)), np.zeros((1, 2, 4))
    job = rows(2, Inner(first=WORKSPACE + 3 + 4, second=5), Strided(X, *strides_of(x)), Inner(OUT, OUT + 8))
    assert job.at(bases(workspace, x, out)).tolist() == [
        *(2, workspace.ctypes.data + 7, 5),
        *(x.ctypes.data, 48, 24, 0, 0, 8),
        *(out.ctypes.data, out.ctypes.data + 8),
    ]
    # What a call has not begins nowhere.
    assert job.at(bases(workspace, None, out))[3] == 0


def test_a_record_of_what_no_memory_could_hold_has_no_row() -> None:
    record = Inner(first=1, second=2**63)
    assert integers(record) == [1, 2**63]
    assert row(record).size == 0
