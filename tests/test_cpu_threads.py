"""The pool: safe after a fork, from many callers at once, and never larger than it was told to be."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends.cpu import threads

LARGE = """
import os, sys
import numpy as np
import stridekit as sk
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 16, 40, 40), np.float32)
w = rng.standard_normal((32, 16, 3, 3), np.float32)
sk.set_num_threads(4)
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LARGE + program], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def four_threads():
    before = sk.get_num_threads()
    sk.set_num_threads(4)
    yield
    sk.set_num_threads(before)


def test_a_forked_child_computes_the_same() -> None:
    program = """
first = sk.conv2d(x, w, backend="cpu")
child = os.fork()
if child == 0:
    same = np.array_equal(sk.conv2d(x, w, backend="cpu"), first)
    os._exit(0 if same else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(np.array_equal(sk.conv2d(x, w, backend="cpu"), first))
"""
    # Python 3.12 warns of any fork beside threads; the promise is that this library survives it.
    program = "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n" + program
    assert run(program).split() == ["0", "True"]


def test_many_callers_share_one_pool(four_threads: None) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 40, 40), np.float32)
    w = rng.standard_normal((32, 16, 3, 3), np.float32)
    wanted = sk.conv2d(x, w, backend="cpu")
    most, wrong = [0], []

    def call() -> None:
        for _ in range(10):
            if not np.array_equal(sk.conv2d(x, w, backend="cpu"), wanted):
                wrong.append(1)
            ours = sum(thread.name.startswith("stridekit") for thread in threading.enumerate())
            most[0] = max(most[0], ours)

    callers = [threading.Thread(target=call) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    assert most[0] <= 3, "four threads are the caller's and three of the pool"


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    def work(worker: int) -> None:
        if worker == 1:
            raise ValueError("from the worker")
        ready.wait(10)

    ready = threading.Event()
    threading.Timer(0.2, ready.set).start()
    with pytest.raises(ValueError, match="from the worker"):
        threads.run_workers(work, 2)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, True])
def test_a_number_of_threads_that_is_none_is_refused(value: object) -> None:
    before = sk.get_num_threads()
    with pytest.raises(sk.ShapeError, match="threads"):
        sk.set_num_threads(value)  # type: ignore[arg-type]
    assert sk.get_num_threads() == before


@pytest.mark.parametrize("text", ["0", "-2", "many", "1.5"])
def test_a_wrong_setting_of_threads_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_threads", None)
    monkeypatch.setenv("STRIDEKIT_NUM_THREADS", text)
    with pytest.raises(sk.ShapeError, match="STRIDEKIT_NUM_THREADS"):
        sk.get_num_threads()


def test_the_setting_of_threads_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_threads", None)
    monkeypatch.setenv("STRIDEKIT_NUM_THREADS", "3")
    assert sk.get_num_threads() == 3
