"""The workers of the process: who else takes part in a call.

A call's own thread always does, and tasks are drawn from a counter that all share: a worker that comes late, or not at
all because other callers keep it busy, costs nothing but its share. Workers live as long as the process; a forked
child makes its own. They run compiled code alone, which no interrupt reaches.
"""

from __future__ import annotations

import ctypes
import os
from _thread import start_new_thread

import numpy as np

from stridekit.backends.cpu.runtime.mailboxes import (
    BELL,
    BOX_BYTES,
    FREE,
    NEVER,
    SERVED,
    SPINS,
    TAKE,
    call,
    serve,
    share,
)
from stridekit.backends.cpu.runtime.thread_count import get_num_threads, processors
from stridekit.concurrency import lock

MOST_WORKERS = 1022
"""Helpers beside the caller: more than a machine has processors."""
_SPINS = 5_000
"""How often a worker looks for more work before it sleeps: some 100 to 200 microseconds."""


class _Crew:
    """The workers: a thread, a mailbox and a bell for each."""

    def __init__(self) -> None:
        self.workers = 0
        # What all share, the mailboxes, and one that nobody gets.
        self._words = np.zeros((MOST_WORKERS + 2, BOX_BYTES // 8), np.int64)
        shared, nobodys = self._words[0], self._words[-1]
        shared[TAKE] = _address("PyThread_acquire_lock_timed")
        shared[FREE] = _address("PyThread_release_lock")
        shared[NEVER] = _taken_lock()
        nobodys[SERVED] = 1
        self.address = int(self._words.ctypes.data)
        # Returns at once, and is compiled then: workers must not have to.
        serve(self.address, MOST_WORKERS)

    def look_around(self) -> None:
        """Set how long workers look for work: beside a thread that waits for their processor it would only delay it."""
        self._words[0, SPINS] = _SPINS if get_num_threads() <= processors() else 1

    def grow(self, workers: int) -> int:
        """Hire up to `workers` in all; return how many there are."""
        wanted = min(workers, MOST_WORKERS)
        if self.workers < wanted:
            self.look_around()
            with _hiring:
                while self.workers < wanted and self._hire(self.workers):
                    pass
        return self.workers

    def _hire(self, number: int) -> bool:
        """Start a worker, unless the interpreter is ending or there are no more threads to be had.

        An interrupt may come before the worker has been counted: of two for one mailbox, the second ends at once.
        """
        words = self._words[1 + number]
        words[BELL] = words[BELL] or _taken_lock()
        try:
            start_new_thread(self._work, (number,))
        except RuntimeError:
            return False
        self.workers = max(self.workers, number + 1)
        return True

    def _work(self, number: int) -> None:
        # A method: the mailboxes must last as long as the thread.
        serve(self.address, number)


def _taken_lock() -> int:
    """Return the address of a new lock of Python's own, for compiled code; it lasts as long as the process."""
    made: int = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))()
    ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", ctypes.pythonapi))(made, 1)
    return made


def _address(function: str) -> int | None:
    return ctypes.cast(ctypes.pythonapi[function], ctypes.c_void_p).value


_crews: list[_Crew] = []
"""The crew of this process, once there is one."""
_hiring = lock()


def run(entry: int, job: np.ndarray, threads: int, *arrays: object) -> None:
    """Call the compiled ``entry(job, number)`` on up to `threads` threads, each with a number of its own from 0.

    Returns when all that began have ended. The entry must share its tasks out by itself, so that those who never
    begin are not missed.

    Parameters
    ----------
    entry : int
        Address of the compiled function.
    job : int64 array
        It gets the address of the first element.
    threads : int
        At most so many, the caller's own among them.
    *arrays
        What the job names by address: it stays until all have ended.
    """
    if threads == 1:
        call(entry, job.ctypes.data, 0)
        return
    crew = _the_crew()
    if share(crew.address, crew.grow(threads - 1), threads - 1, entry, job.ctypes.data):
        crew.look_around()


def _the_crew() -> _Crew:
    if not _crews:
        with _hiring:
            if not _crews:
                _crews.append(_Crew())
    return _crews[0]


if hasattr(os, "register_at_fork"):
    # Not a line of Python: an interrupt must not leave a child with workers that it does not have.
    os.register_at_fork(after_in_child=_crews.clear)
