"""Kernels compiled by NVRTC to machine code for one architecture, and kept on disk.

NVRTC's own binding, not CuPy's: that one ends its options with ``-ftz=true``, which loses subnormals, and its cache
does not see headers. The key covers the source with its headers, options, architecture and NVRTC's version; beside
each object lies its hash, without which it is compiled again. No driver is needed here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from stridekit.backends.cuda.sources import Kernel, source_of
from stridekit.concurrency import loaded, undisturbed
from stridekit.errors import BackendUnavailableError
from stridekit.memory.disk_cache import cache_dir, private_folder, read_own, write_renamed

INSTALL = "pip install '.[cuda13]' (driver 580 or later) or '.[cuda12]' in the clone"


@dataclass(frozen=True)
class Compiled:
    """Machine code and what the assembler said of it (registers, spills)."""

    cubin: bytes
    log: str


@cache
def unavailable() -> str:
    """Return ``""`` if NVRTC can be loaded, else why not and how to get it."""
    try:
        version()
    except Exception as error:
        return f"NVRTC cannot be loaded ({error}); {INSTALL}"
    return ""


@cache
def version() -> tuple[int, int]:
    """Return NVRTC's version."""
    major, minor = _checked(_nvrtc().nvrtcVersion())
    return int(major), int(minor)


@cache
def architectures() -> tuple[int, ...]:
    """Return the compute capabilities that this NVRTC knows, as 80, 86, 90."""
    return tuple(int(number) for number in _checked(_nvrtc().nvrtcGetSupportedArchs()))


def options(kernel: Kernel, architecture: str) -> tuple[str, ...]:
    """Return NVRTC's options: IEEE arithmetic, subnormals kept, multiply-adds fused only where the source says so."""
    defines = (f"-D{name}={value}" for name, value in kernel.all_defines.items())
    return (f"-arch=sm_{architecture}", "-std=c++17", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-fmad=false",
            "--ptxas-options=-v", *defines)  # fmt: skip


def compile_kernel(kernel: Kernel, architecture: str) -> Compiled:
    """Compile, whatever the cache holds.

    Raises
    ------
    BackendUnavailableError
        With the compiler's own words, if it fails.
    """
    nvrtc = _nvrtc()
    program = _checked(nvrtc.nvrtcCreateProgram(source_of(kernel.file).encode(), kernel.file.encode(), 0, [], []))
    try:
        words = [word.encode() for word in options(kernel, architecture)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
        log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        said = log.rstrip(b"\0").decode(errors="replace")
        if int(status):
            known = ", ".join(f"sm_{number}" for number in architectures())
            raise BackendUnavailableError(
                f"NVRTC {version()[0]}.{version()[1]} cannot compile {kernel.entry} for sm_{architecture} (it knows "
                f"{known}): {said.strip() or status}"
            )
        cubin = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
        return Compiled(bytes(cubin), said)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def cubin_path(kernel: Kernel, architecture: str) -> Path:
    """Return a file with the kernel's machine code: from the cache, or compiled into it."""
    name = f"{kernel.entry}.sm_{architecture}.{_key(kernel, architecture)}.cubin"
    path = cache_dir() / name
    return path if _intact(path) else undisturbed(partial(_compiled, kernel, architecture, path))


def _compiled(kernel: Kernel, architecture: str, path: Path) -> Path:
    """Compile into a file, unless another thread has; return where it lies."""
    if _intact(path):
        return path
    cubin = compile_kernel(kernel, architecture).cubin
    try:
        write_renamed(path, cubin)
        write_renamed(path.with_suffix(".sha256"), hashlib.sha256(cubin).hexdigest().encode())
    except OSError:
        path = private_folder() / path.name
        path.write_bytes(cubin)
    return path


def _intact(path: Path) -> bool:
    cubin, digest = read_own(path), read_own(path.with_suffix(".sha256"))
    return cubin is not None and digest == hashlib.sha256(cubin).hexdigest().encode()


def _key(kernel: Kernel, architecture: str) -> str:
    everything = repr((source_of(kernel.file), options(kernel, architecture), version()))
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


@cache
def _nvrtc() -> Any:
    return loaded("cuda.bindings.nvrtc")


def _checked(result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status):
        raise BackendUnavailableError(f"NVRTC says {status}")
    return values[0] if len(values) == 1 else tuple(values)
