"""What the machine can do at most: multiply-adds and copied bytes a second, measured beside every result."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from stridekit.backends.cpu.runtime.processor import device, host

_VECTOR_BYTES = host().vector_bytes
_SUMS = 12
"""Independent sums: two multiply-add units with up to five cycles of latency need ten or more."""
_STEPS = 4_000_000
_COPY_BYTES = 64 << 20


@intrinsic
def _multiply_adds(typingctx: Any, operands: Any, steps: Any) -> Any:
    """Run `steps` times `_SUMS` independent multiply-adds of whole vectors on registers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = _VECTOR_BYTES // 4
        vector = ir.VectorType(ir.FloatType(), lanes)
        kind = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{lanes}f32")
        pointer = builder.inttoptr(args[0], vector.as_pointer())
        a, b = (builder.load(builder.gep(pointer, [ir.Constant(ir.IntType(64), i)]), align=4) for i in (0, 1))
        sums = [cgutils.alloca_once_value(builder, a) for _ in range(_SUMS)]
        with cgutils.for_range(builder, args[1], intp=ir.IntType(64)):
            for total in sums:
                builder.store(builder.call(fma, [a, b, builder.load(total)]), total)
        for number, total in enumerate(sums):
            where = builder.gep(pointer, [ir.Constant(ir.IntType(64), 2 + number)])
            builder.store(builder.load(total), where, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@njit(nogil=True)
def _spin(operands: int, steps: int) -> None:
    _multiply_adds(operands, steps)


def fma_peak(threads: int) -> float:
    """Return the most float32 FLOP/s that `threads` cores reach on registers alone: the best of many runs."""
    operands = [np.full((2 + _SUMS) * _VECTOR_BYTES // 4, 0.5, np.float32) for _ in range(threads)]
    flops = 2 * _SUMS * _STEPS * (_VECTOR_BYTES // 4) * threads
    _spin(operands[0].ctypes.data, 1)
    return flops / _best(lambda worker: _spin(operands[worker].ctypes.data, _STEPS), threads)


def copy_rate(threads: int) -> float:
    """Return the bytes a second, read plus written, of a large copy by `threads` cores."""
    sources = [np.zeros(_COPY_BYTES // threads, np.uint8) for _ in range(threads)]
    targets = [np.ones_like(source) for source in sources]
    return 2 * _COPY_BYTES / _best(lambda worker: np.copyto(targets[worker], sources[worker]), threads)


def _best(work: Any, threads: int) -> float:
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(20):
            begin = time.perf_counter()
            list(pool.map(work, range(threads)))
            times.append(time.perf_counter() - begin)
    return min(times)


def description() -> dict[str, Any]:
    """Name the machine: processor, cores, system; no host name."""
    return {
        "processor": device().description,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
