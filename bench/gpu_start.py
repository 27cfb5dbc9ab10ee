"""What comes before the first result on a GPU, in seconds: ``python -m bench.gpu_start``.

One kernel of each family, and the first call of a process in which CUDA is started: compiled, and from the cache.
``--compile-all`` only fills the cache: every kernel there is, by as many processes as there are cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bench.records import text_table, write_json
from stridekit.backends import load_backend, unavailable
from stridekit.backends.cuda import compiling
from stridekit.backends.cuda.catalog import all_kernels

ROOT = Path(__file__).parents[1]
_KERNELS = """
import json, time
import cupy
from stridekit.backends import load_backend
from stridekit.backends.cuda import cupy_runtime
from stridekit.backends.cuda.catalog import families
cupy.empty(1)
device, seconds = load_backend("cuda").device(), {}
for kernel, *_ in families():
    begin = time.perf_counter()
    cupy_runtime._function(kernel, device.architecture, device.ordinal)
    seconds[kernel.entry] = time.perf_counter() - begin
print(json.dumps(seconds))
"""
_CALL = """
import time
import cupy, numpy as np
import stridekit as sk
x, weight = cupy.empty((1, 64, 28, 28), np.float16), cupy.empty((64, 64, 3, 3), np.float16)
cupy.cuda.Device().synchronize()
begin = time.perf_counter()
sk.conv2d(x, weight, padding=1)
cupy.cuda.Device().synchronize()
print(time.perf_counter() - begin)
"""


def starts() -> dict[str, Any]:
    """Time processes that compile, and processes that find what those compiled."""
    result: dict[str, Any] = {}
    for what, program in (("first_call_s", _CALL), ("kernels_s", _KERNELS)):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "STRIDEKIT_CACHE_DIR": cache}
            result[what] = {when: _child(program, environment) for when in ("compiled", "cached")}
    medians = {when: statistics.median(taken.values()) for when, taken in result["kernels_s"].items()}
    calls = result["first_call_s"]
    result["note"] = (
        f"a kernel takes {medians['compiled']:.2f} s, from the cache {1e3 * medians['cached']:.1f} ms; the first call "
        f"{calls['compiled']:.2f} s and {calls['cached']:.2f} s"
    )
    return result


def _child(program: str, environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a new process failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def build(number: int, architecture: str) -> tuple[str, float, str]:
    """Compile one kernel of the catalog into the cache; return its entry, the seconds, and what went wrong."""
    kernel = all_kernels()[number]
    begin = time.perf_counter()
    try:
        compiling.cubin_path(kernel, architecture)
    except Exception as error:
        return kernel.entry, time.perf_counter() - begin, f"{type(error).__name__}: {error}"
    return kernel.entry, time.perf_counter() - begin, ""


def compile_all(architecture: str, workers: int) -> dict[str, Any]:
    """Compile every kernel; return seconds and failures by entry."""
    count = len(all_kernels())
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        built = list(pool.map(build, range(count), [architecture] * count))
    failed = {entry: problem for entry, _, problem in built if problem}
    note = f"{count - len(failed)} of {count} kernels compile for sm_{architecture}"
    return {"note": note, "seconds": {entry: taken for entry, taken, _ in built}, "failed": failed}


def main(arguments: list[str] | None = None) -> int:
    """Measure or compile; return 1 if something fails, 2 where there is no CUDA."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_start", description=__doc__)
    parser.add_argument("--compile-all", action="store_true", help="fill the cache and measure nothing else")
    parser.add_argument("--architecture", help="with --compile-all, such as 90a; needs no GPU (default: the card's)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    named = options.compile_all and options.architecture
    if named and not re.fullmatch(r"\d+a?", named):
        parser.error(f"{named!r} is no architecture; such as 80, 90a")
    reason = compiling.unavailable() if named else unavailable("cuda")
    if reason:
        print(f"no CUDA: {reason}", file=sys.stderr)
        return 2
    if options.compile_all:
        result = compile_all(named or load_backend("cuda").device().architecture, options.workers)
        for entry, problem in result["failed"].items():
            print(f"{entry}: {problem}")
    else:
        result = starts()
        taken = result["kernels_s"]
        rows = [(entry, *(f"{1e3 * taken[when][entry]:.1f}" for when in taken)) for entry in taken["compiled"]]
        print(text_table(("kernel", "compiled ms", "cached ms"), rows))
    print(result["note"])
    if options.json:
        write_json(options.json, result)
    return int(bool(result.get("failed")))


if __name__ == "__main__":
    sys.exit(main())
