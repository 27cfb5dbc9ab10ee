"""How the cpu backend is compiled: Numba, without the interpreter lock, kept on disk under a hash.

A cached file is loaded only if it carries the hash of its contents; anything else is compiled again. Files are
written aside and renamed into place. A cache that cannot be read or written costs time, never an error.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import caching
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock

from stridekit.backends.cpu.processor import host
from stridekit.caching import cache_dir, sealed, unsealed
from stridekit.concurrency import preparing, undisturbed


@cache
def _source_stamp() -> str:
    """Return a hash of everything that compiled code depends on beside its own signature."""
    digest = hashlib.sha256(repr((numba.__version__, host())).encode())
    package = Path(__file__).parents[2]
    for source in sorted([*Path(__file__).parent.glob("*.py"), package / "padding.py", package / "activation.py"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


class _CheckedFile(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's cache without its index: each file is named after its key, and says its own hash and key first.

    An index that several processes write can come to name another's file.
    """

    def save(self, key: Any, data: Any) -> None:
        try:
            self._write(self._path(key), self._dump((self._source_stamp, repr(key), data)))
        except OSError:
            return

    def load(self, key: Any) -> Any:
        content = self._read(self._path(key))
        if content is None:
            return None
        stamp, known_key, data = pickle.loads(content)
        return data if (stamp, known_key) == (self._source_stamp, repr(key)) else None

    def flush(self) -> None:
        """Nothing to do: there is no index."""

    def _path(self, key: Any) -> str:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return str(Path(self._index_path).with_suffix(f".{digest}.nbc"))

    def _read(self, path: str) -> bytes | None:
        try:
            stored = Path(path).read_bytes()
        except OSError:
            return None
        return unsealed(stored)

    def _write(self, path: str, content: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(sealed(content))


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    def get_cache_path(self) -> str:
        return str(cache_dir())

    def get_source_stamp(self) -> str:
        return _source_stamp()

    def get_disambiguator(self) -> str:
        return _source_stamp()[:10]

    def ensure_cache_path(self) -> None:
        try:
            cache_dir().mkdir(parents=True, exist_ok=True)
        except OSError:
            return


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any]):
        self._locator = _Locator()
        self._lineno = function.__code__.co_firstlineno
        name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"
        self._filename_base = f"{name}-{self._locator.get_disambiguator()}"


class _CheckedCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, _source_stamp())


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function as part of each that calls it.

    Numba optimises what a function calls anew for each level of calls above it: minutes, were it all of the tiles.
    """
    return numba.njit(nogil=True, error_model="numpy", inline="always")(function)


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that only compiled code calls."""
    return numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


class _Entry(CFunc):
    def __init__(self, function: Callable[..., Any]):
        super().__init__(function, ((types.int64, types.int64), types.void), {}, {"error_model": "numpy"})
        self._cache = _CheckedCache(function)
        self.compile()


_entries: dict[str, _Entry] = {}


def entry(function: Callable[..., Any], name: str) -> int:
    """Compile ``function(job, worker)``, both int64, for callers that know only its address; keep it on disk.

    Returns
    -------
    int
        The address. `name` tells one function from another: it is compiled once in a process.
    """

    def compiled() -> _Entry:
        if name not in _entries:
            function.__name__ = function.__qualname__ = name
            _entries[name] = _Entry(function)
        return _entries[name]

    made = _entries.get(name) or undisturbed(compiled)
    address: Any = made.address
    return int(address)


def compiled_entries() -> list[str]:
    """Return the names of what `entry` has compiled or loaded in this process."""
    return sorted(_entries)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, once per dtype, and keep it on disk."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _CheckedCache(function)
    compile_for_args = dispatcher._compile_for_args
    dispatcher._compile_for_args = lambda *args: undisturbed(lambda: compile_for_args(*args))
    return dispatcher


if hasattr(os, "register_at_fork"):
    # Numba's own lock, for what others compile with it. Held in the order in which `undisturbed` leads to it: what is
    # registered last comes first.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
    os.register_at_fork(before=preparing.acquire, after_in_parent=preparing.release)
