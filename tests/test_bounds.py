"""No byte outside the operands and the workspace is ever touched: every case between pages that may not be."""

from __future__ import annotations

import itertools
import math
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stridekit import vram
from stridekit.backends import load_backend
from tests.kit.cases import DTYPES, Arrays, Case
from tests.kit.curated import CURATED
from tests.kit.guarded import guarded
from tests.kit.laying import empty_like_laid
from tests.kit.oracle import assert_same_bits

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from tests import test_bounds
test_bounds.run_all({dtype!r})
"""


def plans_of(case: Case) -> dict[str, object]:
    """Plan the case for every algorithm, with blocks as they come and with the smallest there are."""
    found = {}
    for l2_bytes in (1 << 12, 1 << 20):
        plan = case.plan("cpu", device=replace(load_backend("cpu").device(), l2_bytes=l2_bytes, threads=1))
        for candidate in plan.candidates:
            if not candidate.excluded:
                found[f"{candidate.algorithm}, {l2_bytes}"] = replace(plan, algorithm=candidate.algorithm)
    return found


def allocate_guarded(
    stack: ExitStack, at_end: bool, shape: tuple[int, ...], dtype: np.dtype[Any], memory: object
) -> np.ndarray:
    """Stand in for `stridekit.vram.allocate`."""
    poison = np.full(math.prod(shape) * dtype.itemsize, 0xFF, np.uint8)
    return stack.enter_context(guarded(poison.view(dtype).reshape(shape), at_end=at_end))


IN_TURN = "in turn"
EACH = [pytest.param(dtype, marks=pytest.mark.thorough) for dtype in DTYPES]
every_dtype = pytest.mark.parametrize("dtype", [IN_TURN, *EACH])


def in_dtype(cases: Sequence[Case], dtype: str) -> Iterator[Case]:
    """Yield the cases that have samples: all in one dtype, or every other, each in the next."""
    for number, case in enumerate(cases[:: 2 if dtype == IN_TURN else 1]):
        if case.batch:
            yield replace(case, dtype=DTYPES[number % len(DTYPES)] if dtype == IN_TURN else dtype)


def run_all(dtype: str) -> None:
    """Run every case between fences, at its end and at its start; what was tried last is printed before it is tried.

    The workspace too lies between fences, and begins as NaN, so that nothing can count on what it held.
    """
    for case in in_dtype(CURATED, dtype):
        arrays = case.arrays()
        shape = (case.batch, case.filters, *case.output_sizes)
        out = empty_like_laid(shape, case.numpy_dtype, case.memory_order, "contiguous")
        out = np.moveaxis(out, 1, -1) if case.channels_last else out
        for (name, plan), at_end in itertools.product(plans_of(case).items(), (True, False)):
            print(f"{case}, {case.dtype}, {name}, at its {'end' if at_end else 'start'}", flush=True)
            wanted = plan.execute(*arrays)
            with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
                patch.setattr(vram, "allocate", partial(allocate_guarded, stack, at_end))
                x, weight, bias, target = (
                    None if array is None else stack.enter_context(guarded(array, at_end=at_end))
                    for array in (*arrays, out)
                )
                plan.execute(*Arrays(x, weight, bias), out=target)
                packed = plan.pack(weight)
                assert_same_bits(np.array(target), wanted, (case, name))
                target[...] = np.nan
                plan.execute(x, packed, bias, out=target)
                assert_same_bits(np.array(target), wanted, (case, name))
                del x, weight, bias, target, packed


def assert_ends_well(program: str) -> None:
    """Run a program of its own, which prints what it is about to do; raise if it ends in any way but the good one."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    assert done.returncode == 0, f"ended with {done.returncode} at: {last}\n{done.stderr}"


@pytest.mark.skipif(platform.system() != "Linux", reason="fences between pages are made with Linux's mprotect")
@every_dtype
def test_no_byte_beyond_the_operands_is_touched(dtype: str) -> None:
    assert_ends_well(PROGRAM.format(tests=str(Path(__file__).parents[1]), dtype=dtype))


def test_the_fences_hold() -> None:
    """The checker itself: a byte beyond the array kills the process that reads it."""
    for at_end, offset in ((True, 12), (False, -1)):
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        program += "import ctypes, numpy as np\nfrom tests.kit.guarded import guarded\n"
        program += f"with guarded(np.arange(3, dtype='f4'), at_end={at_end}) as a:\n"
        program += "    print(a.tolist(), flush=True)\n"
        program += f"    ctypes.string_at(a.ctypes.data + {offset}, 1)\n"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "[0.0, 1.0, 2.0]"
        assert done.returncode < 0
