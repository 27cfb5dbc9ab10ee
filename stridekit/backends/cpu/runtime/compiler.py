"""How the cpu backend is compiled: Numba, without the interpreter lock; its machine code is kept on disk.

A file holds what the code was made from, its symbol and the code itself: plain bytes, of which nothing is unpickled.
Only functions of integers are kept, known by their addresses, so nothing of Numba's own has to be rebuilt.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from stridekit.backends.cpu.runtime.processor import host
from stridekit.backends.cpu.runtime.vector_memory import tags
from stridekit.concurrency import preparing, undisturbed
from stridekit.memory.disk_cache import cache_dir, read_own, sealed, unsealed, write_renamed


@cache
def _stamp() -> str:
    """Return a hash of everything that compiled code depends on beside its own function."""
    target = cpu_target.target_context.codegen().magic_tuple()
    versions = (numba.__version__, llvm.llvm_version_info, sys.version, numba.config.USING_SVML)
    digest = hashlib.sha256(repr((versions, target, host())).encode())
    backend, problems = Path(__file__).parents[1], Path(__file__).parents[3] / "problems"
    for source in sorted([*backend.rglob("*.py"), problems / "padding.py", problems / "activations.py"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function as part of each that calls it.

    Numba optimises what a function calls anew for each level of calls above it: minutes, were it all of the tiles.
    """
    return numba.njit(nogil=True, error_model="numpy", inline="always")(function)


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that only compiled code calls."""
    return numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def named(compile_as: Callable[..., Any], function: Callable[..., Any], name: str) -> Any:
    """Compile a function under a name of its own.

    Compiled code is linked by name, across the files of the cache too: two functions of one name would become one.
    """
    function.__name__ = function.__qualname__ = name
    return compile_as(function)


class _Loaded(NamedTuple):
    address: int
    engine: Any
    """What holds the code in memory."""


class _Code(NamedTuple):
    symbol: str
    machine_code: bytes


_entries: dict[str, _Loaded] = {}


def entry(function: Callable[..., Any], name: str) -> int:
    """Compile ``function(job, worker)``, both int64, for callers that know only its address; keep it on disk.

    Returns
    -------
    int
        The address. `name` tells one function from another: it is compiled once in a process.
    """

    def made() -> _Loaded:
        if name not in _entries:
            _entries[name] = _load(_code(function, name, types.void(types.int64, types.int64)))
        return _entries[name]

    return (_entries.get(name) or undisturbed(made)).address


def entries(name: str, nest: Callable[..., Any]) -> Callable[[str], int]:
    """Return a function of a dtype that returns the address of ``nest(tag, acc, job, worker)``, compiled for it."""

    def address(dtype: str) -> int:
        tag, acc = tags(dtype)

        def run(job: int, worker: int) -> None:
            nest(tag, acc, job, worker)

        return entry(run, f"{name}_{dtype}")

    return address


def compiled_entries() -> list[str]:
    """Return the names of what `entry` has compiled or loaded in this process."""
    return sorted(_entries)


def kernel(function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
    """Compile a function that Python calls, at its first call, and keep it on disk.

    Its arguments are int64, and so is its result unless it is annotated to have none. `name` tells functions apart
    that are made in one place.
    """
    count = function.__code__.co_argcount
    nothing = function.__annotations__.get("return") == "None"
    signature = (types.void if nothing else types.int64)(*[types.int64] * count)
    prototype = ctypes.CFUNCTYPE(None if nothing else ctypes.c_int64, *[ctypes.c_int64] * count)
    called = name or f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"
    loaded: list[tuple[Callable[..., Any], _Loaded]] = []

    def made() -> None:
        if not loaded:
            found = _load(_code(function, called, signature))
            loaded.append((prototype(found.address), found))

    def call(*arguments: int) -> Any:
        if not loaded:
            undisturbed(made)
        return loaded[0][0](*arguments)

    return call


def _code(function: Callable[..., Any], name: str, signature: Any) -> _Code:
    """Return a function's machine code: from the cache, or compiled into it."""
    body = function.__code__
    source = repr((_stamp(), name, str(signature), body.co_code, body.co_names, body.co_consts))
    key = hashlib.sha256(source.encode()).hexdigest()
    path = cache_dir() / f"{name}-{key[:32]}.code"
    stored = read_own(path)
    content = None if stored is None else unsealed(stored)
    made_from, _, rest = (content or b"").partition(b"\n")
    if made_from == key.encode():
        symbol, _, machine_code = rest.partition(b"\n")
        return _Code(symbol.decode(), machine_code)
    code = _compile(function, name, signature)
    with suppress(OSError):
        write_renamed(path, sealed(b"\n".join([key.encode(), code.symbol.encode(), code.machine_code])))
    return code


def _compile(function: Callable[..., Any], name: str, signature: Any) -> _Code:
    function.__name__ = function.__qualname__ = name
    compiled = numba.cfunc(signature, error_model="numpy")(function)
    library = compiled._library
    if library.has_dynamic_globals:
        raise TypeError(f"{name} holds addresses of this process: it cannot be kept on disk")
    return _Code(compiled.native_name, library._get_compiled_object())


def _load(code: _Code) -> _Loaded:
    """Link machine code, in an engine of its own: the symbols of what it calls are those of other code too."""
    # What compiled code calls of Numba's runtime is known to LLVM from here on.
    rtsys.initialize(cpu_target.target_context)
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, numba.config.USE_LLVMLITE_MEMORY_MANAGER)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.machine_code))
    engine.finalize_object()
    return _Loaded(int(engine.get_function_address(code.symbol)), engine)


if hasattr(os, "register_at_fork"):
    # Numba's own lock, for what others compile with it. Held in the order in which `undisturbed` leads to it: what is
    # registered last comes first.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
    os.register_at_fork(before=preparing.acquire, after_in_parent=preparing.release)
