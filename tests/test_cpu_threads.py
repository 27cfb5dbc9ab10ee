"""The pool: safe after a fork, from many callers at once, and never larger than it was told to be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends.cpu.runtime import thread_count, thread_pool

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


def test_spawned_processes_compute_the_same(tmp_path: Path) -> None:
    program = tmp_path / "spawning.py"
    program.write_text(
        "import multiprocessing\n"
        "import numpy as np\n"
        "import stridekit as sk\n"
        "def total(seed):\n"
        "    rng = np.random.default_rng(seed)\n"
        "    x, w = rng.standard_normal((2, 16, 40, 40), np.float32), rng.standard_normal((32, 16, 3, 3), np.float32)\n"
        "    return sk.conv2d(x, w, backend='cpu').sum().item()\n"
        "if __name__ == '__main__':\n"
        "    here = [total(seed) for seed in range(4)]\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        print(pool.map(total, range(4)) == here)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def pooled() -> int:
    return sum(each.workers for each in thread_pool._crews)


def test_many_callers_share_one_pool(four_threads: None) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 40, 40), np.float32)
    w = rng.standard_normal((32, 16, 3, 3), np.float32)
    wanted = sk.conv2d(x, w, backend="cpu")
    # A pool that was larger before stays so.
    before = max(3, pooled())
    most, wrong = [0], []

    def call() -> None:
        for _ in range(10):
            if not np.array_equal(sk.conv2d(x, w, backend="cpu"), wanted):
                wrong.append(1)
            most[0] = max(most[0], pooled())

    callers = [threading.Thread(target=call) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    assert most[0] <= before, "four threads are the caller's and three of the pool"


def test_no_caller_is_starved_by_others(four_threads: None) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 40, 40), np.float32)
    w = rng.standard_normal((32, 16, 3, 3), np.float32)
    sk.conv2d(x, w, backend="cpu")
    ready, calls = threading.Barrier(16), [0] * 16

    def call(number: int) -> None:
        ready.wait()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            sk.conv2d(x, w, backend="cpu")
            calls[number] += 1

    callers = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert min(calls) > 0
    assert min(calls) >= sum(calls) / 16 / 10, calls


def test_sleeping_workers_are_woken_and_late_ones_are_not_missed(four_threads: None) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 16, 40, 40), np.float32)
    w = rng.standard_normal((32, 16, 3, 3), np.float32)
    wanted = sk.conv2d(x, w, backend="cpu")
    for pause in (0.0, 0.0, 0.02, 0.0, 0.001, 0.05, 0.0):
        time.sleep(pause)
        for _ in range(20):
            assert np.array_equal(sk.conv2d(x, w, backend="cpu"), wanted)


def test_a_worker_really_takes_part(four_threads: None) -> None:
    """An entry that waits until two threads are in it ends only if a second one comes."""
    from stridekit.backends.cpu.runtime import mailboxes
    from stridekit.backends.cpu.runtime.compiler import entry

    def meet(job: int, worker: int) -> None:
        mailboxes._add(job, 1)
        while mailboxes._load(job) < 2:
            mailboxes._pause()
        mailboxes._store(job + 8 + 8 * worker, 1)

    address = entry(meet, "meet")
    for _ in range(50):
        job = np.zeros(8, np.int64)
        thread_pool.run(address, job, 2)
        assert job.tolist() == [2, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.thorough
def test_an_interrupt_loses_no_result_that_follows() -> None:
    program = """
import signal, time
big = rng.standard_normal((4, 64, 200, 200)).astype(np.float32)
wide = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
wanted = sk.conv2d(x, w, backend="cpu")
sk.conv2d(big, wide, backend="cpu")
stopped = 0
for attempt in range(12):
    signal.setitimer(signal.ITIMER_REAL, 0.002 * (attempt + 1))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        sk.conv2d(big, wide, backend="cpu")
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        stopped += 1
    assert np.array_equal(sk.conv2d(x, w, backend="cpu"), wanted)
print(stopped > 0)
"""
    assert run(program).split() == ["True"]


FORKED = """
import threading, time, warnings
from stridekit.backends.cpu.forward import pack_weights
from stridekit.backends.cpu.input_gradient import pack_weights as turned
from stridekit.concurrency import preparing
warnings.simplefilter("ignore", DeprecationWarning)
thread = threading.Thread(target=lambda: {here})
thread.start()
while preparing.acquire(blocking=False):
    preparing.release()
    time.sleep(0.01)
child = os.fork()
if child == 0:
    small = np.ones((1, 2, 5, 5))
    os._exit(0 if {there} else 3)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("pack_weights.pack_weights('float32')", "turned.turn_weights('float64')"),
        pytest.param(
            "sk.conv2d(x, w, backend='cpu')",
            "sk.conv2d(small, small[:, :, :3, :3], backend='cpu').shape == (1, 1, 3, 3)",
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["one kernel", "a call"],
)
def test_a_child_forked_while_a_thread_compiles_computes_too(here: str, there: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE + FORKED.format(here=here, there=there)],
        env={**os.environ, "STRIDEKIT_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, True])
def test_a_number_of_threads_that_is_none_is_refused(value: object) -> None:
    before = sk.get_num_threads()
    with pytest.raises(sk.ShapeError, match="threads"):
        sk.set_num_threads(value)  # type: ignore[arg-type]
    assert sk.get_num_threads() == before


@pytest.mark.parametrize("text", ["0", "-2", "many", "1.5"])
def test_a_wrong_setting_of_threads_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_count, "_threads", None)
    monkeypatch.setenv("STRIDEKIT_NUM_THREADS", text)
    with pytest.raises(sk.ShapeError, match="STRIDEKIT_NUM_THREADS"):
        sk.get_num_threads()


def test_the_setting_of_threads_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_count, "_threads", None)
    monkeypatch.setenv("STRIDEKIT_NUM_THREADS", "3")
    assert sk.get_num_threads() == 3
