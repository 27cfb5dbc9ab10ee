"""The same inputs give the same bits: in every run, on any number of threads, in any batch, however it is called."""

from __future__ import annotations

import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

import stridekit as sk
from tests.kit.cases import DTYPES, Case, case
from tests.kit.laying import lay
from tests.kit.oracle import assert_same_bits

# Each above the 2 million FLOPs from which a call takes more than one thread.
LARGE = [
    case("wide", (30, 31), 3, padding=1, channels=150, filters=70, batch=3, bias=True),
    case("channels in blocks", (12, 13), 3, padding=1, channels=300, filters=66, batch=3, activation="silu"),
    case("channels-last in place", (24, 25), 3, stride=2, channels=64, filters=64, batch=3, channels_last=True),
    case("depthwise", (40, 41), 5, padding="same", groups=96, channels=96, filters=96, batch=3),
    case("stem", (65, 64), 7, stride=2, padding=3, filters=64, batch=3),
    case("volume", (9, 16, 17), 3, padding=1, stride=(1, 2, 2), channels=32, filters=33, batch=3),
]
large = pytest.mark.parametrize("of", LARGE, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@large
@every_dtype
@pytest.mark.rotated("dtype")
def test_two_calls_give_the_same_bits(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    arrays = of.arrays()
    first = of.run(arrays, backend="cpu")
    for _ in range(3):
        assert_same_bits(of.run(arrays, backend="cpu"), first, of)


@large
@every_dtype
@pytest.mark.usefixtures("threads")
@pytest.mark.rotated("dtype")
def test_any_number_of_threads_gives_the_same_bits(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    arrays = of.arrays()
    sk.set_num_threads(1)
    assert sk.get_num_threads() == 1
    first = of.run(arrays, backend="cpu")
    for count in (2, 3, 8):
        sk.set_num_threads(count)
        assert_same_bits(of.run(arrays, backend="cpu"), first, f"{of}, {count} threads")


@large
@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_chooses_the_same_order_of_sums(of: Case) -> None:
    packings = set()
    for count in (1, 2, 64):
        sk.set_num_threads(count)
        for batch in (1, 2, 1000):
            plan = replace(of, batch=batch).plan("cpu")
            packings.add((plan.algorithm, plan._algorithm.packing(plan.problem, plan.device)))
    assert len(packings) == 1


@large
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_a_sample_is_the_same_alone_and_in_any_batch(backend: str, of: Case, dtype: str) -> None:
    if backend != "cpu":
        of = replace(of, channels=of.channels // 2, sizes=(9,) * of.rank, groups=of.groups // 2 or 1, filters=48)
    of = replace(of, dtype=dtype)
    x, weight, bias = of.arrays()
    whole = of.run((x, weight, bias), backend=backend)
    assert_same_bits(of.run((x[1:], weight, bias), backend=backend), whole[1:], of)
    for n in range(of.batch):
        assert_same_bits(of.run((x[n : n + 1], weight, bias), backend=backend), whole[n : n + 1], of)
    many = np.concatenate([x] * 4)
    assert_same_bits(of.run((many, weight, bias), backend=backend), np.concatenate([whole] * 4), of)


@large
@every_dtype
@pytest.mark.rotated("dtype")
def test_out_and_packed_weights_give_the_same_bits(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    x, weight, bias = of.arrays()
    first = of.run((x, weight, bias), backend="cpu")
    out = np.full_like(first, np.nan)
    assert_same_bits(of.run((x, weight, bias), backend="cpu", out=out), first, of)
    plan = of.plan("cpu")
    packed = plan.pack(weight)
    assert_same_bits(plan.execute(x, weight, bias), first, of)
    assert_same_bits(plan.execute(x, packed, bias), first, of)
    out[...] = np.nan
    assert_same_bits(plan.execute(x, packed, bias, out=out), first, of)


@large
def test_weights_packed_for_one_batch_serve_another(of: Case) -> None:
    x, weight, bias = of.arrays()
    packed = replace(of, batch=1).plan("cpu").pack(weight)
    assert_same_bits(of.plan("cpu").execute(x, packed, bias), of.run((x, weight, bias), backend="cpu"), of)


@pytest.mark.usefixtures("threads")
def test_sixteen_python_threads_at_once_each_get_their_own_right_bits() -> None:
    sk.set_num_threads(4)
    jobs = [(of, replace(of, name=f"{of.name} {i}").arrays()) for i in range(3) for of in LARGE]
    alone = [of.run(arrays, backend="cpu") for of, arrays in jobs]
    start = Barrier(16)

    def work(number: int) -> None:
        start.wait()
        for offset in range(len(jobs)):
            at = (number + offset) % len(jobs)
            assert_same_bits(jobs[at][0].run(jobs[at][1], backend="cpu"), alone[at], jobs[at][0])

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, number) for number in range(16)]:
            done.result()


def test_the_copy_of_an_array_gives_the_same_bits_wherever_it_lies() -> None:
    """Of one memory order, alignment and gaps between rows change no bit; the other order may."""
    of = LARGE[0]
    x, weight, bias = of.arrays()
    first = of.run((x, weight, bias), backend="cpu")
    for way in ("sliced", "every_other", "reversed", "misaligned"):
        assert_same_bits(of.run((lay(x, "channels_first", way), weight, bias), backend="cpu"), first, way)


LAST_WORD = """
import atexit, sys, zlib
sys.path.insert(0, {tests!r})
from tests.test_determinism import LARGE
import stridekit as sk
sk.set_num_threads(3)
of = LARGE[0]
arrays = of.arrays()
if {before}:
    of.run(arrays, backend="cpu")
atexit.register(lambda: print(zlib.crc32(of.run(arrays, backend="cpu").tobytes())))
"""


@pytest.mark.parametrize("before", [True, False])
def test_a_call_while_the_interpreter_ends_gives_the_same_bits(before: bool) -> None:
    program = LAST_WORD.format(tests=str(Path(__file__).parents[1]), before=before)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    wanted = zlib.crc32(LARGE[0].run(LARGE[0].arrays(), backend="cpu").tobytes())
    assert found.stdout.split() == [str(wanted)], found.stderr


PROGRAM = """
import sys, zlib
sys.path.insert(0, {tests!r})
from tests.test_determinism import LARGE
for of in LARGE[:3]:
    print(zlib.crc32(of.run(of.arrays(), backend="cpu").tobytes()))
"""


def test_another_process_gives_the_same_bits() -> None:
    tests = str(Path(__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(tests=tests)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    wanted = [zlib.crc32(of.run(of.arrays(), backend="cpu").tobytes()) for of in LARGE[:3]]
    assert [int(line) for line in found.stdout.split()] == wanted
