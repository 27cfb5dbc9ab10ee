"""The CPU at hand: threads, vector width, registers, caches. Plain numbers, so that planning is a pure function."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from stridekit.backends.cpu.runtime.thread_count import get_num_threads
from stridekit.errors import ShapeError
from stridekit.memory.spaces import WholeUnits

DEFAULT_L2_BYTES = 512 * 1024

_TILES = {16: {1: 12, 2: 6}, 32: {1: 14, 2: 13, 3: 8, 4: 6}}
"""Tiles by vector registers: P * Q sums, Q weights and an input fit into them."""


@dataclass(frozen=True)
class CpuDevice(WholeUnits):
    """A processor, as far as the choice of algorithm, tile and block depends on it.

    Attributes
    ----------
    name : str
        Always ``"cpu"``.
    model : str
        The processor's own name.
    threads : int
        Threads that a call may use.
    vector_bytes : int
        Width of a vector register.
    vector_registers : int
        How many the instruction set has; 32 of them allow a wider tile.
    fma : bool
        Whether multiply-add is one instruction.
    half : bool
        Whether float16 is converted by an instruction.
    l2_bytes : int
        Second-level cache of one core; blocks are cut to stay inside it.
    """

    name: str
    model: str
    threads: int
    vector_bytes: int
    vector_registers: int
    fma: bool
    half: bool
    l2_bytes: int

    @property
    def description(self) -> str:
        """Model, threads and vectors in words."""
        plural = "" if self.threads == 1 else "s"
        return f"{self.model}, {self.threads} thread{plural}, {8 * self.vector_bytes}-bit vectors"

    @property
    def tiles(self) -> dict[int, int]:
        """Output pixels P of the register tile for each number Q of vectors of output channels."""
        return _TILES[self.vector_registers]

    def frugal(self) -> CpuDevice:
        """Return the same processor with one thread: each thread has a scratch of its own."""
        return replace(self, threads=1)

    def lanes(self, itemsize: int) -> int:
        """Elements of one vector."""
        return self.vector_bytes // itemsize


def device(array: object = None) -> CpuDevice:
    """Return the processor at hand with the number of threads now set; every array lies in its memory."""
    return _with_threads(get_num_threads())


@cache
def _with_threads(threads: int) -> CpuDevice:
    return replace(host(), threads=threads)


@cache
def host() -> CpuDevice:
    """Return the processor at hand with one thread."""
    import llvmlite.binding as llvm

    features = dict(llvm.get_host_cpu_features())
    arm = platform.machine().lower() in ("aarch64", "arm64")
    if features.get("avx512f") and features.get("avx512vl"):
        vector_bytes, registers = 64, 32
    elif features.get("avx2"):
        vector_bytes, registers = 32, 16
    else:
        vector_bytes, registers = 16, 32 if arm else 16
    forced = os.environ.get("STRIDEKIT_VECTOR_BITS", "").strip()
    if forced:
        # LLVM splits vectors that the host lacks: slower, the same sums.
        if forced not in ("128", "256", "512"):
            raise ShapeError(f"STRIDEKIT_VECTOR_BITS is {forced!r}; wanted 128, 256 or 512")
        vector_bytes = int(forced) // 8
        registers = 32 if vector_bytes == 64 else 16
    return CpuDevice(
        name="cpu",
        model=_model(),
        threads=1,
        vector_bytes=vector_bytes,
        vector_registers=registers,
        fma=arm or bool(features.get("fma")),
        half=arm or bool(features.get("f16c")),
        l2_bytes=_l2_bytes(),
    )


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _l2_bytes() -> int:
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024 if text.endswith("K") else int(text)
    except (OSError, ValueError):
        return DEFAULT_L2_BYTES
