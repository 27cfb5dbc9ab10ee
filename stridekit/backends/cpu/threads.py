"""One pool of threads for the whole process, and the one setting of how many a call may use.

Kernels release the interpreter lock, so plain Python threads do. A call's own thread always takes part, and tasks
are drawn from a counter that all share: a helper that starts late, or not at all because other callers keep the
pool busy, costs nothing but its share. The pool is forgotten in a forked child, which makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from stridekit.arguments import as_int
from stridekit.errors import ShapeError

_lock = Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_threads: int | None = None


def get_num_threads() -> int:
    """Return how many threads a call may use.

    That is the last `set_num_threads`, else STRIDEKIT_NUM_THREADS, else the processors this process may run on.
    """
    global _threads
    if _threads is None:
        setting = os.environ.get("STRIDEKIT_NUM_THREADS", "").strip()
        if setting:
            if not setting.isdigit() or int(setting) < 1:
                raise ShapeError(f"STRIDEKIT_NUM_THREADS is {setting!r}; wanted a positive int")
            _threads = int(setting)
        else:
            _threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
    threads = as_int("threads", threads)
    if threads < 1:
        raise ShapeError(f"threads is {threads}; wanted at least 1")
    _threads = threads


def run_workers(work: Callable[[int], None], workers: int) -> None:
    """Call ``work(i)`` for i below `workers`, each on a thread of its own where one is free.

    Returns when all that began have ended; `work` must share its tasks out by itself, so that those which never
    begin are not missed. The caller's thread runs ``work(0)``.
    """
    if workers == 1:
        work(0)
        return
    helpers = _submit(work, workers)
    try:
        work(0)
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in begun]
    for error in errors:
        if error is not None:
            raise error


def _submit(work: Callable[[int], None], workers: int) -> list[Future[None]]:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < workers - 1:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool_size = workers - 1
            _pool = ThreadPoolExecutor(_pool_size, thread_name_prefix="stridekit")
        helpers: list[Future[None]] = []
        try:
            helpers.extend(_pool.submit(work, index) for index in range(1, workers))
        except RuntimeError:
            # The interpreter is ending and starts no more threads; the caller's does all the work then.
            return helpers
        return helpers


def _forget_pool() -> None:
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
