"""How work reaches another thread within a microsecond: mailboxes in memory, read and written by compiled code.

A worker spins on its mailbox for a while after each piece of work, then goes to sleep; only then does waking it take
the operating system's way. Everything here runs without the interpreter lock.

A mailbox is two int64, ``BOX_BYTES`` apart from the next: the address of a ticket or 0, its lowest bit set once the
worker has begun; and whether the worker sleeps. A ticket is four int64: the entry to call, its job, the number that
the next helper gets, and how many helpers the caller has to wait for.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stridekit.backends.cpu.compiling import kernel

BOX_BYTES = 128
"""Two cache lines, since processors fetch them in pairs: no mailbox slows another down."""
TICKET_WORDS = 4
_JOB, _ASLEEP = 0, 8
_ENTRY, _ARGUMENT, _NEXT, _PENDING = 0, 8, 16, 24
_WAIT_SPINS = 20_000
_INT64 = ir.IntType(64)
_PAUSE = {"x86_64": "llvm.x86.sse2.pause", "AMD64": "llvm.x86.sse2.pause"}.get(platform.machine())


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _INT64.as_pointer())


@intrinsic
def _load(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def _store(typingctx: Any, address: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at `address`; return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _exchange(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Write `value` if the int64 at `address` is `expected`; say whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Tell the processor that this loop only waits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _PAUSE:
            hint = builder.module.globals.get(_PAUSE)
            if hint is None:
                hint = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), []), _PAUSE)
            builder.call(hint, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _call(typingctx: Any, entry: Any, job: Any, worker: Any) -> Any:
    """Call the compiled function ``entry(job, worker)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_INT64, _INT64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@kernel
def call(entry: int, job: int, worker: int) -> None:
    """Call an entry on the caller's own thread."""
    _call(entry, job, worker)


@kernel
def serve(box: int, spins: int) -> None:
    """Do what arrives in a mailbox, until nothing has for `spins` looks; then mark the worker as asleep."""
    while True:
        idle = 0
        while idle < spins:
            ticket = _load(box + _JOB)
            if ticket != 0 and ticket & 1 == 0 and _exchange(box + _JOB, ticket, ticket | 1):
                _call(_load(ticket + _ENTRY), _load(ticket + _ARGUMENT), _add(ticket + _NEXT, 1))
                _store(box + _JOB, 0)
                # The caller may free the ticket as soon as it has counted to 0.
                _add(ticket + _PENDING, -1)
                idle = 0
            else:
                _pause()
                idle += 1
        _store(box + _ASLEEP, 1)
        if _load(box + _JOB) == 0:
            return
        _store(box + _ASLEEP, 0)


@kernel
def awake(box: int) -> None:
    """Mark the worker as awake again."""
    _store(box + _ASLEEP, 0)


@kernel
def offer(boxes: int, count: int, ticket: int, wanted: int) -> int:
    """Put a ticket into up to `wanted` of `count` mailboxes that are empty; return bits for those who sleep."""
    asleep, given = 0, 0
    for number in range(count):
        if given == wanted:
            break
        box = boxes + number * BOX_BYTES
        _add(ticket + _PENDING, 1)
        if _exchange(box + _JOB, 0, ticket):
            given += 1
            if _load(box + _ASLEEP) != 0:
                asleep |= 1 << number
        else:
            _add(ticket + _PENDING, -1)
    return asleep


@kernel
def withdraw(boxes: int, count: int, ticket: int) -> bool:
    """Take back what no worker has begun, and wait for the others; say whether all have ended."""
    for number in range(count):
        if _exchange(boxes + number * BOX_BYTES + _JOB, ticket, 0):
            _add(ticket + _PENDING, -1)
    for _ in range(_WAIT_SPINS):
        if _load(ticket + _PENDING) == 0:
            return True
        _pause()
    return False
