"""Runs the project's CUDA kernels on a CPU, one fiber a thread, and checks what a GPU would not.

>>> from tests.emulator import use_emulator
>>> with use_emulator():                                                     # doctest: +SKIP
...     y = stridekit.conv2d(x, weight, backend="cuda")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def use_emulator(**options: Any) -> Iterator[Any]:
    """Run the cuda backend on the emulator inside the ``with`` block; `options` are those of `EmulatedRuntime`."""
    from stridekit.backends.cuda.launching import use_runtime
    from tests.emulator.runtime import EmulatedRuntime

    with use_runtime(EmulatedRuntime(**options)) as runtime:
        yield runtime
