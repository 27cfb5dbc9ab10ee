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

ROOT = Path(__file__).parents[1]
FEWEST = 3000
"""Tests of a run that is worth it: a file or two compiles what it needs itself."""
WIDTH = "STRIDEKIT_VECTOR_BITS"
FREE = {
    f"test_{name}.py"
    for name in (
        *("aliasing", "cli", "filters", "geometry", "gpu_gate", "images", "import", "mutants", "network_files"),
        *("network_presets", "oracle", "phases", "readme", "thinning"),
    )
}
"""Files that compute nothing on the cpu backend, or hardly anything."""
_process: subprocess.Popen[bytes] | None = None


def start(items: Sequence[pytest.Item]) -> None:
    """Begin, if the run is a long one of many kinds."""
    global _process
    if len(items) >= FEWEST and _process is None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        # What fails here fails again in a test, and is reported there.
        command = [sys.executable, "-m", "tests.warming"]
        _process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )


def needs_kernels(item: pytest.Item) -> bool:
    """Say whether a test is to wait for what is compiled: it then runs behind those that need not."""
    if item.get_closest_marker("emulator") or item.path.name in FREE:
        return False
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return not any(isinstance(value, str) and value == "reference" for value in values)


def wait() -> None:
    """Return once all of the processor's own width is compiled; at once where nothing was begun."""
    if _process is not None and _process.stdout is not None and not _process.stdout.closed:
        _process.stdout.readline()
        _process.stdout.close()


def stop() -> None:
    """Leave nothing running behind a session that was cut short."""
    global _process
    if _process is not None:
        with _process:
            _process.kill()
        _process = None


def other_width() -> str:
    """Return the width of vectors, in bits, that the short run tries beside the processor's own."""
    from stridekit.backends.cpu.processor import host

    return "128" if host().vector_bytes == 32 else "256"


def compile_everything(dtypes: Sequence[str]) -> None:
    """Call every entry of the cpu backend once in each dtype."""
    from dataclasses import replace

    import numpy as np

    import stridekit as sk
    from stridekit.arrays import numpy_dtype

    for name in dtypes:
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


if __name__ == "__main__":
    if WIDTH in os.environ:
        compile_everything(["float32"])
    else:
        compile_everything(["float32", "float16", "bfloat16", "float64"])
        print("compiled", flush=True)
        os.environ[WIDTH] = other_width()
        os.execv(sys.executable, [sys.executable, "-m", "tests.warming"])
