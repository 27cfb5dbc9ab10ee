"""How work reaches another thread within a microsecond: mailboxes in memory, read and written by compiled code.

A worker spins on its mailbox for a while after each piece of work, then sleeps. Waking a sleeping worker needs the
operating system; waking a spinning one does not. Everything here runs without the interpreter lock. What a caller does,
from handing out its work until the last worker has ended, is one call: no interrupt comes in between.

Mailboxes lie ``BOX_BYTES`` apart, after as many bytes that all share: the addresses of the functions that take and
free a lock, a lock that is never free, and how often a worker looks for work before it sleeps. A mailbox is four
int64: the address of a ticket or 0, its lowest bit set once the worker has begun; whether the worker sleeps; the lock
that it then waits for, its bell; and whether there is a worker. A ticket is four int64: the entry to call, its job,
the number that the next helper gets, and how many helpers the caller has to wait for.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.compiler import kernel

BOX_BYTES = 128
"""Two cache lines, since processors fetch them in pairs: no mailbox slows another down."""
TAKE, FREE, NEVER, SPINS = range(4)
"""Words that all share."""
BELL, SERVED = 2, 3
"""Words of a mailbox."""
_JOB, _ASLEEP, _BELL, _SERVED = 0, 8, 8 * BELL, 8 * SERVED
_ENTRY, _ARGUMENT, _NEXT, _PENDING = 0, 8, 16, 24
_TICKET_WORDS = 4
_WAIT_SPINS = 20_000
_NAP = 50
"""Microseconds that a caller sleeps at a time where workers are long in ending: others want the processor."""
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
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


@intrinsic
def _take(typingctx: Any, function: Any, lock: Any, microseconds: Any) -> Any:
    """Take a lock, waiting so long at most, or for ever if that is negative."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # int PyThread_acquire_lock_timed(lock, microseconds, whether a signal ends the wait)
        kind = ir.FunctionType(_INT32, [_INT64, _INT64, _INT32])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [*args[1:], _INT32(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _free(typingctx: Any, function: Any, lock: Any) -> Any:
    """Free a lock."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_INT64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _new_ticket(typingctx: Any) -> Any:
    """Return the address of a ticket on the caller's stack."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = cgutils.alloca_once(builder, ir.ArrayType(_INT64, _TICKET_WORDS))
        return builder.ptrtoint(words, _INT64)

    return types.int64(), codegen


@kernel
def call(entry: int, job: int, worker: int) -> None:
    """Call an entry on the caller's own thread."""
    _call(entry, job, worker)


@kernel
def serve(shared: int, number: int) -> None:
    """Do what arrives in a mailbox, for ever; at once return from a mailbox that has a worker already."""
    box = shared + (number + 1) * BOX_BYTES
    if not _exchange(box + _SERVED, 0, 1):
        return
    # Always so, but Numba compiles no function without an end.
    while _load(box + _SERVED) != 0:
        idle = 0
        while idle < _load(shared + 8 * SPINS):
            ticket = _load(box + _JOB)
            if ticket != 0 and _exchange(box + _JOB, ticket, ticket | 1):
                _call(_load(ticket + _ENTRY), _load(ticket + _ARGUMENT), _add(ticket + _NEXT, 1))
                _store(box + _JOB, 0)
                # The ticket is gone as soon as its caller has counted to 0.
                _add(ticket + _PENDING, -1)
                idle = 0
            else:
                _pause()
                idle += 1
        _store(box + _ASLEEP, 1)
        # Who brings work from now on rings: once, and only who has found the worker asleep.
        if _load(box + _JOB) == 0 or not _exchange(box + _ASLEEP, 1, 0):
            _take(_load(shared + 8 * TAKE), _load(box + _BELL), -1)


@kernel
def share(shared: int, count: int, wanted: int, entry: int, job: int) -> int:
    """Call an entry on this thread and on up to `wanted` of `count` workers; return how many of them had to be woken.

    Returns when all who have begun have ended; what nobody has begun when this thread has ended is taken back.
    """
    ticket = _new_ticket()
    _store(ticket + _ENTRY, entry)
    _store(ticket + _ARGUMENT, job)
    _store(ticket + _NEXT, 1)
    _store(ticket + _PENDING, 0)
    given, woken = 0, 0
    for number in range(count):
        if given == wanted:
            break
        box = shared + (number + 1) * BOX_BYTES
        _add(ticket + _PENDING, 1)
        if _exchange(box + _JOB, 0, ticket):
            given += 1
            if _exchange(box + _ASLEEP, 1, 0):
                _free(_load(shared + 8 * FREE), _load(box + _BELL))
                woken += 1
        else:
            _add(ticket + _PENDING, -1)
    _call(entry, job, 0)
    for number in range(count):
        if _exchange(shared + (number + 1) * BOX_BYTES + _JOB, ticket, 0):
            _add(ticket + _PENDING, -1)
    looks = 0
    while _load(ticket + _PENDING) != 0:
        if looks < _WAIT_SPINS:
            _pause()
            looks += 1
        else:
            _take(_load(shared + 8 * TAKE), _load(shared + 8 * NEVER), _NAP)
    return woken
