"""The cpu backend compiled by a second process, while those tests run that need nothing of it.

With an empty cache compiling takes a minute of one core, and tests leave the other idle. Once the kernels are there it
goes on with those of another width of vectors, which two tests want.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEWEST = 3000
"""Tests of a run that is worth it: a file or two compiles what it needs itself."""
WIDTH = "STRIDEKIT_VECTOR_BITS"
FREE = {
    f"test_{name}.py"
    for name in (
        *("aliasing", "cli", "concurrency", "cpu_records", "docstrings", "dtypes", "filters", "geometry", "gpu_gate"),
        *("hostile_arguments", "house", "images", "import", "mutants", "network_files", "network_growth"),
        *("network_presets", "oracle", "phases", "readme", "receptive_field", "thinning"),
    )
}
"""Files that compute nothing on the cpu backend, or hardly anything."""
IN_ORDER = ("float32", "float64", "float16", "bfloat16")
"""In which dtypes are compiled: tests of one need not wait for the next."""
_process: subprocess.Popen[bytes] | None = None
_compiled = 0


def start(items: Sequence[pytest.Item]) -> None:
    """Begin, if the run is a long one of many kinds."""
    global _process
    if len(items) >= FEWEST and _process is None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        # What fails here fails again in a test, and is reported there.
        command = [sys.executable, "-m", "tests.kit.warming"]
        _process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )


def needed(item: pytest.Item) -> int:
    """Return how many dtypes have to be compiled before a test: it runs behind those that need fewer."""
    if item.get_closest_marker("emulator") or item.path.name in FREE:
        return 0
    values = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    if any(isinstance(value, str) and value == "reference" for value in values):
        return 0
    dtypes = {value for value in values if isinstance(value, str) and value in IN_ORDER}
    dtypes |= {value.dtype for value in values if getattr(value, "dtype", None) in IN_ORDER}
    return max(map(IN_ORDER.index, dtypes)) + 1 if dtypes else len(IN_ORDER)


def wait(dtypes: int) -> None:
    """Return once so many dtypes are compiled for the processor's own width; at once where nothing was begun."""
    global _compiled
    while _process is not None and _process.stdout is not None and _compiled < dtypes:
        _compiled = _compiled + 1 if _process.stdout.readline() else len(IN_ORDER)


def stop() -> None:
    """Leave nothing running behind a session that was cut short."""
    global _process
    if _process is not None:
        with _process:
            _process.kill()
        _process = None


def other_width() -> str:
    """Return the width of vectors, in bits, that the short run tries beside the processor's own."""
    from stridekit.backends.cpu.runtime.processor import host

    return "128" if host().vector_bytes == 32 else "256"


def compile_everything(name: str) -> None:
    """Call every entry of the cpu backend once in a dtype."""
    from dataclasses import replace

    import numpy as np

    import stridekit as sk
    from stridekit.memory.arrays import numpy_dtype

    dtype = numpy_dtype(name)
    x, weight, bias = np.ones((1, 8, 9, 9), dtype), np.ones((8, 8, 3, 3), dtype), np.ones(8, dtype)
    y = sk.conv2d(x, weight, bias, stride=2)
    operands = {"forward": (x, weight, bias), "input_grad": (weight, y), "weight_grad": (x, y)}
    for direction, given in operands.items():
        plan = sk.plan_conv(x.shape, weight.shape, dtype=name, stride=2, bias=len(given) == 3, direction=direction)
        for candidate in plan.candidates:
            if not candidate.excluded:
                replace(plan, algorithm=candidate.algorithm).execute(*given)
    # Large enough for several threads, and for a sum in several chains.
    large = sk.plan_conv((1, 8, 200, 200), weight.shape, dtype=name, direction="weight_grad")
    replace(large, algorithm="run_tile").execute(np.ones((1, 8, 200, 200), dtype), np.ones((1, 8, 198, 198), dtype))
    sk.max_pool_grad(x, sk.max_pool2d(x, 2), 2)
    sk.avg_pool_grad(x.shape, sk.avg_pool2d(x, 2), 2)


def compile_tile() -> None:
    """Call what one test tries of another width: a tile's forward entries."""
    import numpy as np

    import stridekit as sk

    sk.conv2d(np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32), np.ones(8, np.float32))


if __name__ == "__main__":
    if WIDTH in os.environ:
        compile_tile()
    else:
        for each in IN_ORDER:
            compile_everything(each)
            print(each, flush=True)
        os.environ[WIDTH] = other_width()
        os.execv(sys.executable, [sys.executable, "-m", "tests.kit.warming"])
