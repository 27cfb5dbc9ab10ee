"""The cpu backend compiled by a second process while the emulator's tests run, which need nothing of it.

With an empty cache compiling takes a minute of one core, and tests leave the other idle.
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
_process: subprocess.Popen[bytes] | None = None


def start(items: Sequence[pytest.Item]) -> None:
    """Begin, if the run is a long one of many kinds."""
    global _process
    if len(items) >= FEWEST and _process is None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        # What fails here fails again in a test, and is reported there.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        _process = subprocess.Popen([sys.executable, "-m", "tests.warming"], cwd=ROOT, env=environment, **quiet)


def wait() -> None:
    """Return once all is compiled; at once where nothing was begun."""
    if _process is not None:
        _process.wait()


def stop() -> None:
    """Leave nothing running behind a session that was cut short."""
    global _process
    if _process is not None:
        _process.kill()
        _process.wait()
        _process = None


def compile_everything() -> None:
    """Call every entry of the cpu backend once in every dtype."""
    import numpy as np

    import stridekit as sk
    from stridekit.arrays import DTYPES, numpy_dtype

    for name in DTYPES:
        dtype = numpy_dtype(name)
        x, weight = np.ones((1, 8, 9, 9), dtype), np.ones((8, 8, 3, 3), dtype)
        y = sk.conv2d(x, weight, np.ones(8, dtype), stride=2)
        sk.conv_input_grad(x.shape, weight, y, stride=2)
        sk.conv_weight_grad(x, weight.shape, y, stride=2)
        # Large enough for several threads, and for a sum in several chains.
        large = np.ones((1, 8, 200, 200), dtype)
        sk.conv_weight_grad(large, weight.shape, np.ones((1, 8, 198, 198), dtype))
        sk.max_pool_grad(x, sk.max_pool2d(x, 2), 2)


if __name__ == "__main__":
    compile_everything()
