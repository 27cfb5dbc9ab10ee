"""Memory that was predicted beside memory that CuPy's pool gave out, to the byte: ``python -m bench.gpu_memory``."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import stridekit as sk
from bench.gpu_cases import first_view
from bench.layers import Layer, chosen
from bench.records import text_table, write_json
from stridekit.backends import memory_of, unavailable
from stridekit.memory.arrays import Array, channels_last_layout, layout_shape, layout_view, numpy_dtype
from stridekit.planning.plan import Plan

LAYERS = ["resnet_stem", "resnet_3x3_s2_deep", "mobilenet_depthwise", "odd_3x3", "speech_stem", "video_stem"]
DTYPES = ("float16", "bfloat16", "tf32", "float32", "float64")


@dataclass
class PoolUse:
    """Bytes that a pool has given out.

    Attributes
    ----------
    current, peak : int
        Alive now, and the most that was alive at once.
    """

    current: int = 0
    peak: int = 0
    _sizes: dict[int, int] = field(default_factory=dict, repr=False)

    def gave(self, memory: int, nbytes: int) -> None:
        """Count an allocation, called `memory`."""
        self._sizes[memory] = nbytes
        self.current += nbytes
        self.peak = max(self.peak, self.current)

    def took_back(self, memory: int) -> None:
        """Discount it; what was allocated before the counting began is unknown, and stays out of it."""
        self.current -= self._sizes.pop(memory, 0)


@contextmanager
def pool_use() -> Iterator[PoolUse]:
    """Count what this thread takes from a pool of its own inside the ``with`` block."""
    import cupy

    use = PoolUse()

    class Counting(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "stridekit's count"

        def malloc_postprocess(self, **told: Any) -> None:
            if told["mem_ptr"]:
                use.gave(told["pmem_id"], told["mem_size"])

        def free_postprocess(self, **told: Any) -> None:
            use.took_back(told["pmem_id"])

    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc), Counting():
        yield use
        if pool.used_bytes() != use.current:
            raise AssertionError(f"the pool says {pool.used_bytes()} bytes are in use, counted are {use.current}")


def measured(plan: Plan, *, packed: bool, out_given: bool) -> tuple[int, int]:
    """Return the bytes predicted for an execution, and the most that a pool of its own gave out at once."""
    memory, problem = memory_of(plan.backend, plan.device), plan.problem
    last = problem.memory_order == "channels_last"

    def unwritten(shape: tuple[int, ...]) -> Array:
        flat = memory.empty(math.prod(shape) * problem.itemsize)[1]
        return flat.view(numpy_dtype(problem.dtype)).reshape(shape)

    def image(shape: tuple[int, ...]) -> Array:
        stored = unwritten(layout_shape(shape, last))
        lies = first_view(stored) if last else stored
        return layout_view(lies, channels_last_layout(plan.layout, problem.rank))

    x, weight = image(problem.input_shape), unwritten(problem.weight_shape)
    bias = unwritten((problem.out_channels,)) if problem.bias else None
    out = image(problem.output_shape) if out_given else None
    given = plan.pack(weight) if packed else weight
    with pool_use() as use:
        y = plan.execute(x, given, bias, out=out)
        del y
    return sk.vram.estimate(plan, packed=packed, out_given=out_given).allocated, use.peak


def plans(layer: Layer, dtype: str) -> Iterator[Plan]:
    """Yield a plan for every algorithm and memory order that takes the layer in this dtype."""
    element, precision = ("float32", "tf32") if dtype == "tf32" else (dtype, "ieee")
    for last in (False, True):
        plan = layer.plan(element, channels_last=last, backend="cuda", batch=2, precision=precision)
        for candidate in plan.candidates:
            if not candidate.excluded:
                yield replace(plan, algorithm=candidate.algorithm)


def compared(patterns: list[str]) -> list[dict[str, Any]]:
    """Return one row for each layer, dtype, algorithm, memory order and way to call."""
    rows = []
    for layer, dtype in itertools.product(chosen(patterns), DTYPES):
        for plan, packed, out_given in itertools.product(plans(layer, dtype), (False, True), (False, True)):
            predicted, taken = measured(plan, packed=packed, out_given=out_given)
            row = {"layer": layer.name, "dtype": dtype, "algorithm": plan.algorithm}
            row |= {"memory_order": plan.problem.memory_order, "packed": packed, "out_given": out_given}
            rows.append({**row, "predicted": predicted, "measured": taken})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Compare all; return 1 if one byte is off, 2 where there is no CUDA."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_memory", description=__doc__)
    parser.add_argument("--layers", nargs="*", default=LAYERS, metavar="NAME", help="shell patterns")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    reason = unavailable("cuda")
    if reason:
        print(f"no CUDA: {reason}", file=sys.stderr)
        return 2
    rows = compared(options.layers)
    off = [row for row in rows if row["predicted"] != row["measured"]]
    if off:
        print(text_table(tuple(off[0]), [tuple(row.values()) for row in off], left=4))
    note = f"{len(rows) - len(off)} of {len(rows)} predictions hold to the byte"
    print(note)
    if options.json:
        write_json(options.json, {"note": note, "rows": rows})
    return int(bool(off) or not rows)


if __name__ == "__main__":
    sys.exit(main())
