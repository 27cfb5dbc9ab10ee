"""A child that is forked while other threads work computes: it inherits no lock that nobody will free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
ROOT = Path(__file__).parents[1]


def forked(forks: int, seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kit.forking", str(forks), "60"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert (done.stdout, done.returncode) == ("sound\n", 0), done.stderr


def test_children_forked_while_eight_threads_work_compute() -> None:
    forked(5, 240)


@pytest.mark.thorough
def test_two_hundred_children_forked_while_eight_threads_work_compute() -> None:
    forked(200, 1200)


STARTING = """
import os, sys, threading, time, warnings
import numpy as np
from tests.kit.forking import wait
import stridekit as sk
warnings.simplefilter("ignore", DeprecationWarning)

x, w = np.ones((1, 8, 6, 6), np.float32), np.ones((16, 8, 3, 3), np.float32)

def call():
    sk.conv2d(x, w, backend="cpu")
    sk.networks.load("textcnn").run(np.ones((1, 300, 20), np.float32), backend="cpu")
    return sk.max_pool2d(x, 2, backend="cpu").shape == (1, 8, 3, 3)

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
statuses = []
while any(thread.is_alive() for thread in threads):
    time.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            status = 0 if call() else 4
        finally:
            os._exit(status)
    statuses.append(wait(pid, 60))
assert statuses and not any(statuses), statuses
print("sound")
"""


def test_children_forked_while_modules_are_imported_and_code_is_loaded_compute() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.stdout, done.returncode) == ("sound\n", 0), done.stderr
