"""Runs of elements that lie evenly spaced, as LLVM IR: vectors where they are neighbours, one by one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stridekit.backends.cpu.runtime.row_operations import (
    _at,
    _Builder,
    _declared,
    _element,
    _is,
    _itemsize,
    _kind,
    _number,
    _range,
    _read,
    _rounded,
    _splat,
    _Value,
    _width,
    _write,
)
from stridekit.backends.cpu.runtime.vector_memory import accumulator_type


def _each(builder: _Builder, acc: Any, count: _Value, neighbours: _Value, body: Callable[[_Value, int], None]) -> None:
    """Emit ``body(first, lanes)`` for whole vectors where elements are `neighbours`, and for the elements left over."""
    lanes = _width(acc)
    whole = builder.select(neighbours, builder.sub(count, builder.srem(count, _number(lanes))), _number(0))
    with _range(builder, _number(0), whole, lanes) as (index, _):
        body(index, lanes)
    with _range(builder, whole, count, 1) as (index, _):
        body(index, 1)


def _emit_add(
    builder: _Builder, acc: Any, target: _Value, target_step: _Value, source: _Value, step: _Value, count: _Value
) -> None:
    def body(index: _Value, lanes: int) -> None:
        kind, here = _kind(_element(acc), lanes), _at(builder, target, target_step, index)
        value = _read(builder, kind, _at(builder, source, step, index))
        _write(builder, builder.fadd(_read(builder, kind, here), value), here)

    both = builder.and_(_is(builder, step, _itemsize(acc)), _is(builder, target_step, _itemsize(acc)))
    _each(builder, acc, count, both, body)


def _emit_fill(builder: _Builder, acc: Any, target: _Value, step: _Value, source: _Value, count: _Value) -> None:
    value = _read(builder, _element(acc), source)

    def body(index: _Value, lanes: int) -> None:
        _write(builder, value if lanes == 1 else _splat(builder, value, lanes), _at(builder, target, step, index))

    _each(builder, acc, count, _is(builder, step, _itemsize(acc)), body)


def _emit_store(builder: _Builder, tag: Any, target: _Value, step: _Value, source: _Value, count: _Value) -> None:
    acc = accumulator_type(tag)

    def body(index: _Value, lanes: int) -> None:
        value = _read(builder, _kind(_element(acc), lanes), _at(builder, source, _number(_itemsize(acc)), index))
        _write(builder, _rounded(builder, tag, value, lanes), _at(builder, target, step, index))

    _each(builder, acc, count, _is(builder, step, _itemsize(tag)), body)


run_add = _declared(_emit_add, 5)
"""``(acc, target, target_step, source, step, count)``: add sums to sums."""
run_fill = _declared(_emit_fill, 4)
"""``(acc, target, step, source, count)``: write the one sum at `source` everywhere."""
run_store = _declared(_emit_store, 4)
"""``(tag, target, step, source, count)``: write sums that are neighbours as elements."""
