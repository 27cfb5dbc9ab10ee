"""Runs of elements that lie evenly spaced, as LLVM IR: vectors where they are neighbours, one by one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stridekit.backends.cpu.runtime.elements import (
    accumulator_type,
    along,
    element_type,
    equals,
    int64,
    itemsize_of,
    lanes_of,
    loop_range,
    read,
    rounded,
    splat,
    vector_of,
    write,
)
from stridekit.backends.cpu.runtime.row_operations import declared

_Builder = Any
_Value = Any


def _each(builder: _Builder, acc: Any, count: _Value, neighbours: _Value, body: Callable[[_Value, int], None]) -> None:
    """Emit ``body(first, lanes)`` for whole vectors where elements are `neighbours`, and for the elements left over."""
    lanes = lanes_of(acc)
    whole = builder.select(neighbours, builder.sub(count, builder.srem(count, int64(lanes))), int64(0))
    with loop_range(builder, int64(0), whole, lanes) as (index, _):
        body(index, lanes)
    with loop_range(builder, whole, count, 1) as (index, _):
        body(index, 1)


def _emit_add(
    builder: _Builder, acc: Any, target: _Value, target_step: _Value, source: _Value, step: _Value, count: _Value
) -> None:
    def body(index: _Value, lanes: int) -> None:
        kind, here = vector_of(element_type(acc), lanes), along(builder, target, target_step, index)
        value = read(builder, kind, along(builder, source, step, index))
        write(builder, builder.fadd(read(builder, kind, here), value), here)

    both = builder.and_(equals(builder, step, itemsize_of(acc)), equals(builder, target_step, itemsize_of(acc)))
    _each(builder, acc, count, both, body)


def _emit_fill(builder: _Builder, acc: Any, target: _Value, step: _Value, source: _Value, count: _Value) -> None:
    value = read(builder, element_type(acc), source)

    def body(index: _Value, lanes: int) -> None:
        write(builder, value if lanes == 1 else splat(builder, value, lanes), along(builder, target, step, index))

    _each(builder, acc, count, equals(builder, step, itemsize_of(acc)), body)


def _emit_store(builder: _Builder, tag: Any, target: _Value, step: _Value, source: _Value, count: _Value) -> None:
    acc = accumulator_type(tag)

    def body(index: _Value, lanes: int) -> None:
        value = read(
            builder, vector_of(element_type(acc), lanes), along(builder, source, int64(itemsize_of(acc)), index)
        )
        write(builder, rounded(builder, tag, value, lanes), along(builder, target, step, index))

    _each(builder, acc, count, equals(builder, step, itemsize_of(tag)), body)


run_add = declared(_emit_add, 5)
"""``(acc, target, target_step, source, step, count)``: add sums to sums."""
run_fill = declared(_emit_fill, 4)
"""``(acc, target, step, source, count)``: write the one sum at `source` everywhere."""
run_store = declared(_emit_store, 4)
"""``(tag, target, step, source, count)``: write sums that are neighbours as elements."""
