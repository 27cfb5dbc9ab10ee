"""Interrupts, at every place where the interpreter would let a signal handler raise, or at random times.

As a program, ``python tests/kit/interrupting.py INTERRUPTS SEED SECONDS`` interrupts calls that share their work with a
second thread, and says what it found wrong, or where it hangs after so many seconds.
"""

from __future__ import annotations

import dis
import faulthandler
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import numpy as np

import stridekit as sk

CHECKED = {
    number
    for name, number in dis.opmap.items()
    if name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME")
}
"""After these the interpreter looks whether a signal has come."""


class _Interrupter:
    """Raises KeyboardInterrupt at the `at`-th place of what runs while it traces."""

    def __init__(self, at: int) -> None:
        self.left = at
        self._codes: dict[CodeType, bytes] = {}
        # By their numbers: frames would keep alive what an interrupt lets go.
        self._before: dict[int, int] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            self._before.pop(id(frame), None)
        if event == "opcode":
            code = self._codes.setdefault(frame.f_code, frame.f_code.co_code)
            before = self._before.get(id(frame))
            self._before[id(frame)] = code[frame.f_lasti]
            if before in CHECKED:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self


def interrupted_everywhere(call: Callable[[], object], step: int = 1) -> Iterator[int]:
    """Call again and again, each time interrupted `step` places later, until a call ends without; yield in between."""
    at = 1 - step
    while True:
        at += step
        interrupter = _Interrupter(at)
        sys.settrace(interrupter)
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if interrupter.left > 0:
            return
        yield at


class _Timer:
    """Interrupts what runs in the main thread after a while."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, *_: object) -> None:
        if self._armed:
            raise KeyboardInterrupt

    def run(self, call: Callable[[], object], seconds: float) -> None:
        """Call again and again, until it is interrupted."""
        try:
            try:
                self._armed = True
                # And once more where C code has swallowed what was raised in it.
                signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
                while True:
                    call()
            finally:
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            pass


def calls_of(rng: np.random.Generator) -> list[Callable[[], np.ndarray]]:
    """Return small and large calls of all kinds."""

    def array(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    x, w, large, wide = array(1, 8, 6, 6), array(16, 8, 3, 3), array(2, 16, 60, 60), array(32, 16, 3, 3)
    gradient, pixels, words = array(2, 32, 58, 58), array(2, 32, 96, 96), array(2, 300, 20)
    network = sk.networks.load("textcnn")
    return [
        lambda: sk.conv2d(x, w, backend="cpu"),
        lambda: sk.conv2d(large, wide, backend="cpu"),
        lambda: sk.conv_input_grad(large.shape, wide, gradient, backend="cpu"),
        lambda: sk.conv_weight_grad(large, wide.shape, gradient, backend="cpu"),
        lambda: sk.max_pool2d(pixels, 2, backend="cpu"),
        lambda: sk.avg_pool2d(pixels, 3, stride=2, backend="cpu"),
        lambda: sk.max_pool_grad(pixels, pixels[:, :, ::2, ::2], 2, backend="cpu"),
        lambda: network.run(words, backend="cpu"),
    ]


def workers_that_come(threads: int) -> list[int]:
    """Return which of the numbers from 0 to `threads` took part in a job that waits half a second for all of them."""
    from stridekit.backends.cpu.runtime import mailboxes, thread_pool
    from stridekit.backends.cpu.runtime.compiler import entry

    def gather(job: int, worker: int) -> None:
        mailboxes._store(job + 16 + 8 * worker, 1)
        mailboxes._add(job, 1)
        for _ in range(100_000_000):
            if mailboxes._load(job) >= mailboxes._load(job + 8):
                break
            mailboxes._pause()

    job = np.zeros(2 + threads, np.int64)
    job[1] = threads
    thread_pool.run(entry(gather, "gather"), job, threads)
    return [int(number) for number in np.flatnonzero(job[2:])]


def main() -> None:
    # Long before whoever started this loses patience: where it hangs.
    faulthandler.dump_traceback_later(float(sys.argv[3]), exit=True)
    interrupts, dice, timer = int(sys.argv[1]), random.Random(int(sys.argv[2])), _Timer()
    calls = calls_of(np.random.default_rng(0))
    sk.set_num_threads(2)
    truth = [call() for call in calls]
    assert workers_that_come(2) == [0, 1]
    threads = threading.active_count()
    swallowed: list[object] = []
    sys.unraisablehook = swallowed.append
    sys.setswitchinterval(1e-4)

    def call() -> None:
        dice.choice(calls)()
        with sk.vram.budget("1 GiB"), sk.use_backend("cpu"), sk.vram.track():
            dice.choice(calls)()

    def check() -> None:
        assert sk.vram.remaining() is None, "a budget outlives its block"
        for each, right in zip(calls, truth, strict=True):
            assert np.array_equal(each(), right)

    with sk.vram.track() as usage:
        for number in range(interrupts):
            timer.run(call, dice.uniform(1e-5, 4e-3))
            if number % 64 == 0:
                check()
        gc.collect()
        assert usage.current == 0, f"{usage.current} bytes count that nobody has"
    check()
    deadline = time.monotonic() + 30
    while workers_that_come(2) != [0, 1]:
        assert time.monotonic() < deadline, "a worker is lost"
    assert threading.active_count() == threads
    assert not swallowed, swallowed[:3]
    print("sound", flush=True)


if __name__ == "__main__":
    main()
