"""The ground under threads: locks made in one place, scopes that close, properties that need no lock."""

from __future__ import annotations

import ast
import contextlib
import re
import threading
import time
from contextvars import ContextVar, copy_context
from pathlib import Path

import pytest

import stridekit as sk
from stridekit import concurrency
from stridekit.concurrency import Scope, cached_property, opened, still_open

PACKAGE = Path(sk.__file__).parent
LOCKED = {"Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Timer", "Thread", "local"}


def made_elsewhere(source: str) -> list[str]:
    """Return what a module takes from the standard library that holds, or is, a lock of Python's."""
    found: list[str] = []
    if not re.search("thread|queue|functools|weakref|concurrent|multiprocessing", source):
        return found
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name in ("threading", "queue", "concurrent.futures")]
        elif isinstance(node, ast.ImportFrom):
            names = {each.name for each in node.names}
            if node.module in ("threading", "queue", "concurrent.futures", "multiprocessing"):
                found += sorted(names)
            if node.module == "_thread":
                found += sorted(names - {"start_new_thread"})
            if node.module == "functools":
                found += sorted(names & {"cached_property"})
            if node.module == "weakref":
                found += sorted(names & {"finalize"})
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            found += [name] if name in ("weakref.finalize", "functools.cached_property") else []
            found += [name] if node.value.id == "threading" and node.attr in LOCKED else []
    return found


def test_every_lock_is_made_where_forks_and_interrupts_are_thought_of() -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path != Path(concurrency.__file__)}
    assert len(sources) > 100
    found = {str(path): made_elsewhere(source) for path, source in sources.items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from threading import Lock",
        "import threading",
        "from functools import cache, cached_property",
        "from _thread import allocate_lock",
        "import weakref\nweakref.finalize(x, f)",
        "from queue import Queue",
    ],
)
def test_a_lock_that_is_made_elsewhere_is_found(source: str) -> None:
    assert made_elsewhere(source)


class Shape:
    def __init__(self) -> None:
        self.computed = 0

    @cached_property
    def area(self) -> list[int]:
        """What it covers."""
        time.sleep(0.01)
        self.computed += 1
        return [self.computed]


def test_a_property_is_computed_once() -> None:
    shape = Shape()
    assert shape.area is shape.area
    assert (shape.area, shape.computed) == ([1], 1)
    assert Shape.area.__doc__ == "What it covers."


def test_threads_that_compute_a_property_at_once_get_one_object() -> None:
    shape, found, ready = Shape(), [], threading.Barrier(8)

    def read() -> None:
        ready.wait()
        found.append(shape.area)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(found) == 8
    assert all(each is shape.area for each in found)


class _Named(Scope):
    def __init__(self, name: str) -> None:
        self.name = name


_NAMES: ContextVar[tuple[_Named, ...]] = ContextVar("names", default=())


def names() -> list[str]:
    return [each.name for each in still_open(_NAMES)]


def test_scopes_nest_and_close_whatever_is_raised() -> None:
    with opened(_NAMES, _Named("outer")):
        with contextlib.suppress(ZeroDivisionError), opened(_NAMES, _Named("inner")):
            assert names() == ["outer", "inner"]
            raise ZeroDivisionError
        assert names() == ["outer"]
    assert names() == []


def test_a_scope_that_closes_out_of_turn_opens_no_other_again() -> None:
    outer, inner = opened(_NAMES, _Named("outer")), opened(_NAMES, _Named("inner"))
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert names() == ["inner"]
    inner.__exit__(None, None, None)
    assert names() == []


def test_a_scope_that_nobody_closes_ends_with_whoever_holds_it() -> None:
    scope = opened(_NAMES, _Named("lost"))
    scope.__enter__()
    assert names() == ["lost"]
    del scope
    assert names() == []


def test_a_context_that_was_copied_inside_sees_the_end_of_a_scope() -> None:
    with opened(_NAMES, _Named("block")):
        context = copy_context()
        assert context.run(names) == ["block"]
    assert context.run(names) == []
