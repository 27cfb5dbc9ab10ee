"""The one setting of how many threads a call may use."""

from __future__ import annotations

import os
import re

from stridekit.arguments import as_int, shown
from stridekit.errors import ShapeError

_threads: int | None = None


def get_num_threads() -> int:
    """Return how many threads a call may use.

    That is the last `set_num_threads`, else STRIDEKIT_NUM_THREADS, else the processors this process may run on.
    """
    global _threads
    if _threads is None:
        setting = os.environ.get("STRIDEKIT_NUM_THREADS", "").strip()
        if setting:
            if not re.fullmatch(r"0*[1-9][0-9]{0,8}", setting, re.ASCII):
                raise ShapeError(f"STRIDEKIT_NUM_THREADS is {shown(setting)}; wanted a positive int")
            _threads = int(setting)
        else:
            _threads = processors()
    return _threads


def set_num_threads(threads: int) -> None:
    """Set how many threads a call on the cpu backend may use, for the whole process.

    Results do not depend on it, to the last bit.

    Raises
    ------
    ShapeError
        Unless `threads` is at least 1.
    """
    global _threads
    _threads = as_int("threads", threads, 1)


def processors() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
