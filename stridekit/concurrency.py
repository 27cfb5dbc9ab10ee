"""Where threads, forks and interrupts meet: every lock of the package, and what does without one.

An interrupt is an exception that a signal handler raises in the main thread, between any two bytecodes: also within a
``finally``, a finalizer, or a function of the standard library that holds a lock. What one call into C does, an
interrupt comes before or after. A forked child has one thread, and every lock as it was. Hence locks are made here
only, and only those that C acquires and releases: a ``with`` statement on one is never left with the lock held.
"""

from __future__ import annotations

import atexit
import importlib
import os
import threading
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, overload

T = TypeVar("T")
Value = TypeVar("Value", covariant=True)


class Lock(AbstractContextManager[bool], Protocol):
    """What `lock` returns; better held by a ``with`` statement than by these."""

    def acquire(self) -> bool:
        """Take it; the thread that has it may take it again."""

    def release(self) -> None:
        """Give it back."""


def lock() -> Lock:
    """Make a reentrant lock that is free in a forked child; it lasts as long as the process.

    Reentrant, since a finalizer or a signal handler may call anything while the lock is held.
    """
    made: Any = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made._at_fork_reinit)
    return made  # type: ignore[no-any-return]


preparing = lock()
"""Held while modules are imported and code is compiled: a child must not inherit half of either."""


def _wait_until_prepared() -> None:
    """Let an import or a compilation end that an interrupt has left behind: LLVM must not be unloaded under it."""
    with preparing:
        pass


atexit.register(_wait_until_prepared)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=preparing.acquire, after_in_parent=preparing.release)


def undisturbed(call: Callable[[], T]) -> T:
    """Import or compile where no interrupt reaches: on a thread of its own, one call at a time.

    An interrupt ends the wait for it, not the call; who asks again waits for what has been begun.
    """
    if get_ident() != threading.main_thread().ident:
        with preparing:
            return call()
    results: list[T] = []
    errors: list[BaseException] = []
    done = allocate_lock()
    done.acquire()

    def work() -> None:
        try:
            with preparing:
                results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.release()

    try:
        start_new_thread(copy_context().run, (work,))
    except RuntimeError:
        # There are no more threads to be had, or the interpreter is ending.
        with preparing:
            return call()
    done.acquire()
    if errors:
        raise errors.pop()
    return results.pop()


def loaded(module: str) -> Any:
    """Import a module, where no interrupt reaches."""
    return undisturbed(partial(importlib.import_module, module))


def apart(call: Callable[..., T], *arguments: Any) -> T:
    """Call in a copy of the context: what an interrupt leaves set there, such as inside np.errstate, goes with it."""
    return copy_context().run(call, *arguments)


class Scope:
    """What holds inside a ``with`` block, in the threads and tasks that inherit its context."""

    open = False


S = TypeVar("S", bound=Scope)


@contextmanager
def opened(variable: ContextVar[tuple[S, ...]], scope: S) -> Iterator[S]:
    """Add a scope to those of a context variable inside the ``with`` block; no interrupt leaves it there.

    One that comes too early for this to notice leaves a generator, which closes the scope as soon as nothing holds it.
    """
    try:
        scope.open = True
        variable.set((*still_open(variable), scope))
        yield scope
    finally:
        # No call, hence nothing comes before it. What then leaves the scope in the variable does not open it again.
        scope.open = False
        variable.set(still_open(variable))


def still_open(variable: ContextVar[tuple[S, ...]]) -> tuple[S, ...]:
    """Return the scopes around, the innermost last."""
    scopes = variable.get()
    return tuple(scope for scope in scopes if scope.open) if scopes else scopes


class cached_property(Generic[Value]):  # noqa: N801
    """A property that is computed once: by two threads perhaps, and then both get the same object.

    That of functools holds a lock of the class in Python 3.11 while it computes.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> cached_property[Value] | Value:
        if instance is None:
            return self
        value: Value = vars(instance).setdefault(self._name, self._compute(instance))
        return value


class Remembering:
    """What has cached properties that are worth nothing in another process: copies and pickles leave them behind."""

    def __getstate__(self) -> dict[str, Any]:
        kept = {name for name in vars(self) if not isinstance(getattr(type(self), name, None), cached_property)}
        return {name: vars(self)[name] for name in kept}
