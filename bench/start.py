"""Time what comes before the first result: ``python -m bench.start``.

Import, the first call where the code must be compiled, the first call where it lies in the cache, and a call after
that on a layer so small that only the call itself counts. Each in processes of its own, taking turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import machine

RESULTS = Path(__file__).with_name("results")
_FIRST = """
import sys, time
import numpy as np
import stridekit as sk
x, w = np.ones((1, 8, 6, 6), sys.argv[1]), np.ones((16, 8, 3, 3), sys.argv[1])
begin = time.perf_counter()
sk.conv2d(x, w)
print(time.perf_counter() - begin)
"""
_SMALL = """
import time
import numpy as np
import stridekit as sk
x, w = np.ones((1, 8, 6, 6), np.float32), np.ones((16, 8, 3, 3), np.float32)
plan = sk.plan_conv(x.shape, w.shape)
packed = plan.pack(w)
def each(call, number=3000):
    call()
    begin = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - begin) / number
print(each(lambda: sk.conv2d(x, w)), each(lambda: plan.execute(x, packed)))
"""


def main() -> None:
    """Measure, print, and write ``bench/results/start_cpu.json``."""
    numpy, ours = _imports(15)
    result = {
        "machine": machine.description(),
        "import_numpy_s": numpy,
        "import_stridekit_s": ours,
        "import_ratio": ours / numpy,
    }
    for dtype in ("float32", "float64", "float16"):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "STRIDEKIT_CACHE_DIR": cache}
            result[f"first_call_compiling_{dtype}_s"] = float(_run(_FIRST, dtype, env=environment))
            cached = [float(_run(_FIRST, dtype, env=environment)) for _ in range(7)]
            result[f"first_call_cached_{dtype}_s"] = statistics.median(cached)
    small = [[float(word) for word in _run(_SMALL).split()] for _ in range(7)]
    result["small_conv2d_s"], result["small_execute_packed_s"] = (
        statistics.median(row) for row in zip(*small, strict=True)
    )
    text = json.dumps(result, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "start_cpu.json").write_text(text + "\n")
    print(text)


def _imports(rounds: int) -> tuple[float, float]:
    """Return the median seconds of importing NumPy, and of importing stridekit (and so NumPy)."""
    program = "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"
    times: dict[str, list[float]] = {"numpy": [], "stridekit": []}
    for _ in range(rounds):
        for name, taken in times.items():
            taken.append(float(_run(program.format(name))))
    return statistics.median(times["numpy"]), statistics.median(times["stridekit"])


def _run(program: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
