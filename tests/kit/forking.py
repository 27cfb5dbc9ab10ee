"""Fork while eight threads work: ``python tests/kit/forking.py FORKS SECONDS`` says ``sound`` if every child computes.

A child has SECONDS for calls of every kind, for which it gets its parent's locks, counts and caches as they were.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np

import stridekit as sk
from tests.kit.interrupting import calls_of

_numbers = itertools.count(5)


def anew() -> None:
    """Ask for what is remembered of a plan and of a network, where nothing is yet."""
    number = next(_numbers)
    plan = sk.plan_conv((1, 3, 5 + number, 7), (4, 3, 3, 3), padding=1, backend="cpu")
    assert plan.output_shape == (1, 4, 5 + number, 7)
    assert plan.vram.output == 4 * 4 * 7 * (5 + number)
    sk.networks.load("textcnn").vram(batch=number % 50, backend="cpu")


def counted(call: Callable[[], np.ndarray]) -> None:
    with sk.vram.track() as usage, sk.vram.budget("64 MiB"), sk.use_backend("cpu"):
        kept = call()
        assert usage.current >= kept.nbytes
        del kept
    assert usage.current == 0


def child(calls: list[Callable[[], np.ndarray]], truth: list[np.ndarray]) -> int:
    for call, right in zip(calls, truth, strict=True):
        if not np.array_equal(call(), right):
            return 4
    anew()
    counted(calls[0])
    return 0


def wait(pid: int, seconds: float) -> int:
    """Return the status of a child, which is ended when it takes longer."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)


def main() -> None:
    # Python 3.12 warns of any fork beside threads; the promise is that this library survives it.
    warnings.simplefilter("ignore", DeprecationWarning)
    forks, seconds = int(sys.argv[1]), float(sys.argv[2])
    sk.set_num_threads(2)
    calls = calls_of(np.random.default_rng(0))
    truth = [call() for call in calls]
    counted(calls[0])
    over = threading.Event()

    def work(turn: int) -> None:
        while not over.is_set():
            calls[turn % len(calls)]()
            counted(calls[turn % 2])
            anew()
            turn += 1

    # What the threads count is what the child goes on counting with.
    with sk.vram.budget("8 GiB"):
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(work, turn), daemon=True) for turn in range(8)
        ]
        for thread in threads:
            thread.start()
        sys.setswitchinterval(1e-5)
        for number in range(forks):
            time.sleep(0.001 * (number % 5))
            pid = os.fork()
            if pid == 0:
                status = 3
                try:
                    status = child(calls, truth)
                finally:
                    os._exit(status)
            status = wait(pid, seconds)
            if status:
                sys.exit(f"child {number} of {forks} ended with {status} (-9: it hung)")
    over.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    print("sound")


if __name__ == "__main__":
    main()
