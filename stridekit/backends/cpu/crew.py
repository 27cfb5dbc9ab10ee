"""The workers of the process: who else takes part in a call.

A call's own thread always does, and tasks are drawn from a counter that all share: a worker that comes late, or not at
all because other callers keep it busy, costs nothing but its share. Workers live as long as the process; a forked
child makes its own.
"""

from __future__ import annotations

import os
import time
from threading import Event, Lock, Thread

import numpy as np

from stridekit.backends.cpu.handover import BOX_BYTES, awake, call, offer, serve, withdraw
from stridekit.backends.cpu.threads import get_num_threads, processors

MOST_WORKERS = 62
"""Helpers beside the caller: as many as one integer can mark."""
_SPINS = 5_000
"""How often a worker looks for more work before it sleeps: some 100 to 200 microseconds."""


class _Crew:
    """The workers: a thread, a mailbox and a bell for each."""

    def __init__(self) -> None:
        self._boxes = np.zeros((MOST_WORKERS + 1) * BOX_BYTES // 8, np.int64)
        self.boxes = int(self._boxes.ctypes.data)
        self.bells: list[Event] = []
        self._lock = Lock()

    def grow(self, workers: int) -> int:
        """Hire up to `workers` in all; return how many there are."""
        if len(self.bells) < min(workers, MOST_WORKERS):
            with self._lock:
                while len(self.bells) < min(workers, MOST_WORKERS):
                    try:
                        self._hire()
                    except RuntimeError:
                        # The interpreter is ending and starts no more threads.
                        break
        return len(self.bells)

    def _hire(self) -> None:
        number = len(self.bells)
        bell, box, boxes = Event(), self.boxes + number * BOX_BYTES, self._boxes

        def work() -> None:
            while boxes.size:
                # Spinning beside a thread that waits for this processor would only delay it.
                serve(box, _SPINS if get_num_threads() <= processors() else 1)
                bell.wait()
                bell.clear()
                awake(box)

        # First the bell: were the start interrupted, the next worker must not get the same mailbox.
        self.bells.append(bell)
        try:
            Thread(target=work, name=f"stridekit-{number}", daemon=True).start()
        except RuntimeError:
            self.bells.pop()
            raise


_crew: _Crew | None = None
_crew_lock = Lock()


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
        What the job names by address.
    """
    if threads == 1:
        call(entry, job.ctypes.data, 0)
        return
    crew = _the_crew()
    workers = min(crew.grow(threads - 1), threads - 1)
    ticket = np.array((entry, job.ctypes.data, 1, 0), np.int64)
    address = int(ticket.ctypes.data)
    # Until the last worker has ended all it uses has to stay, come what may: a signal handler can raise anywhere.
    _in_use[address] = (ticket, job, arrays)
    try:
        asleep = offer(crew.boxes, len(crew.bells), address, workers)
        while asleep:
            lowest = asleep & -asleep
            crew.bells[lowest.bit_length() - 1].set()
            asleep ^= lowest
        call(entry, job.ctypes.data, 0)
    finally:
        _wait(crew, address)


def _wait(crew: _Crew, ticket: int) -> None:
    """Take a ticket back and wait for those who have begun; what interrupts this is raised once they have ended."""
    interrupt: BaseException | None = None
    while True:
        try:
            if withdraw(crew.boxes, len(crew.bells), ticket):
                break
            time.sleep(0)
        except BaseException as error:
            interrupt = error
    _in_use.pop(ticket, None)
    if interrupt is not None:
        raise interrupt


_in_use: dict[int, object] = {}


def _the_crew() -> _Crew:
    global _crew
    if _crew is None:
        with _crew_lock:
            if _crew is None:
                _crew = _Crew()
    return _crew


def _forget_crew() -> None:
    global _crew, _crew_lock
    _crew, _crew_lock = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_crew)
