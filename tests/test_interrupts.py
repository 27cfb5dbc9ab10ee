"""Interrupts may come anywhere: afterwards every call gives the right bits, and nothing counts, waits or is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stridekit as sk
from stridekit.concurrency import lock, undisturbed
from tests.kit.interrupting import interrupted_everywhere

DRIVER = Path(__file__).with_name("kit") / "interrupting.py"


def unshared(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return sk.conv2d(x[:, :8, :6, :6], w[:, :8], backend="cpu")


def shared(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return sk.conv2d(x, w, backend="cpu")


def pooled(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return sk.max_pool_grad(x, x[:, :, ::2, ::2], 2, backend="cpu")


def referred(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return sk.conv_weight_grad(x[:, :1, :4, :4], (1, 1, 3, 3), x[:, :1, :2, :2], backend="reference")


KINDS = [unshared, shared, pooled, referred]


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.usefixtures("threads")
def test_an_interrupt_at_any_place_leaves_nothing_behind(of: Callable[..., np.ndarray]) -> None:
    check_places(of, 11)


@pytest.mark.thorough
@pytest.mark.parametrize("of", KINDS)
@pytest.mark.usefixtures("threads")
def test_an_interrupt_at_every_place_leaves_nothing_behind(of: Callable[..., np.ndarray]) -> None:
    check_places(of, 1)


def check_places(of: Callable[..., np.ndarray], step: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 16, 40, 40), np.float32), rng.standard_normal((32, 16, 3, 3), np.float32)
    sk.set_num_threads(2)
    right, loud, chosen = of(x, w), np.geterr(), sk.plan_conv((1, 1, 4), (1, 1, 2)).why

    def call() -> None:
        with sk.vram.budget("1 GiB"), sk.vram.track(), sk.use_backend("cpu"):
            of(x, w)

    call()
    places = 0
    with sk.vram.track() as usage:
        for places in interrupted_everywhere(call, step):
            where = f"interrupted at place {places}"
            assert usage.current == 0, f"{where}, {usage.current} bytes count that nobody has"
            assert sk.vram.remaining() is None, f"{where}, a budget outlives its block"
            assert sk.plan_conv((1, 1, 4), (1, 1, 2)).why == chosen, f"{where}, a backend outlives its block"
            assert np.geterr() == loud, f"{where}, NumPy is left silent"
    assert places > 200
    assert np.array_equal(of(x, w), right)


def test_an_array_leaves_the_count_without_a_line_of_python() -> None:
    """What is raised in a finalizer is lost, and with it what the finalizer still had to do."""
    lines = []

    def trace(frame: object, event: str, argument: object) -> object:
        lines.append(frame)
        return trace

    with sk.vram.track() as usage:
        y = sk.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), backend="reference")
        assert usage.current > 0
        sys.settrace(trace)
        try:
            del y
        finally:
            sys.settrace(None)
        assert not lines
        assert usage.current == 0


def interrupted(interrupts: int, seed: int, seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, DRIVER, str(interrupts), str(seed), str(0.9 * seconds)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert (done.stdout, done.returncode) == ("sound\n", 0), done.stderr


def test_interrupts_at_random_times_hang_no_call_and_lose_no_worker() -> None:
    interrupted(300, 0, 120)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(1, 4))
def test_some_thousand_interrupts_at_random_times_do_no_harm(seed: int) -> None:
    interrupted(2000, seed, 600)


STARTING = """
import random, signal, sys, threading
import numpy as np
import stridekit as sk

dice, armed = random.Random(int(sys.argv[1])), False
def ring(*_):
    if armed:
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, ring)
x, w = np.ones((2, 16, 40, 40), np.float32), np.ones((32, 16, 3, 3), np.float32)
results = []
def call():
    results.append(sk.conv2d(x, w, backend="cpu"))
    results.append(sk.max_pool2d(x, 2, backend="cpu"))
sk.set_num_threads(2)
interrupts = 0
while not results:
    try:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-3, 0.1))
            call()
        finally:
            armed = False
    except KeyboardInterrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
# Whoever comes later waits for no lock that an interrupt has left behind.
others = [threading.Thread(target=call, daemon=True) for _ in range(3)]
for other in others:
    other.start()
for other in others:
    other.join(60)
assert not any(other.is_alive() for other in others)
assert interrupts > 0 and len(results) >= 7
assert all(np.array_equal(y, results[0]) for y in results if y.shape == results[0].shape)
print("sound")
"""


def test_interrupts_while_code_is_imported_and_loaded_only_cost_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING, "0"], capture_output=True, text=True, check=False, timeout=240
    )
    assert (done.stdout, done.returncode) == ("sound\n", 0), done.stderr


def test_what_an_interrupt_leaves_behind_is_waited_for_not_begun_again() -> None:
    begun, go_on, results = [], threading.Event(), []

    def slow() -> int:
        begun.append(threading.get_ident())
        go_on.wait(30)
        return 7

    def interrupt() -> None:
        while not begun:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    # A shell lets what it runs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            undisturbed(slow)
    finally:
        signal.signal(signal.SIGINT, before)
    helper.join()
    threading.Timer(0.05, go_on.set).start()
    results.append(undisturbed(lambda: len(begun)))
    assert results == [1]
    assert begun != [threading.get_ident()]


def test_what_is_raised_undisturbed_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 // 0)


def test_an_interrupt_leaves_no_lock_held() -> None:
    held = lock()

    def hold() -> None:
        with held:
            sorted([3, 1, 2])

    for at in interrupted_everywhere(hold):
        taken = []
        other = threading.Thread(target=lambda taken=taken: taken.append(held.acquire(timeout=10) and held.release()))
        other.start()
        other.join()
        assert taken == [None], f"interrupted at place {at}, the lock is held"
