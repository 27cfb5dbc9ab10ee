"""Every algorithm of the cuda backend on every curated case, through the emulator under all its schedules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.emulator.machine import SCHEDULES
from tests.kit.cases import DTYPES, EXACT_ACTIVATIONS, Arrays, Case
from tests.kit.curated import CURATED
from tests.kit.oracle import assert_correct, assert_same_bits
from tests.kit.thinning import every

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(why_not()), reason=why_not())]
# In the short run each case meets one of the two tests.
first_half, second_half = (pytest.mark.parametrize("case", every(2, CURATED, first), ids=str) for first in (0, 1))
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def results(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """Run each algorithm, as given and packed, in place and as planned, under a schedule of this case's own."""
    found = {}
    number = CURATED.index(replace(case, dtype="float32")) if case.data != "integers" else len(case.name)
    with use_emulator(schedule=SCHEDULES[number % len(SCHEDULES)]):
        plan = case.plan("cuda")
        for candidate in plan.candidates:
            if candidate.excluded:
                continue
            forced = replace(plan, algorithm=candidate.algorithm)
            found[candidate.algorithm] = forced.execute(*arrays)
            packed = replace(forced, device=forced.device.frugal())
            found[f"{candidate.algorithm}, packed, in place"] = packed.execute(
                arrays.x, packed.pack(arrays.weight), arrays.bias
            )
    return found


@every_dtype
@first_half
@pytest.mark.rotated("dtype")
def test_every_algorithm_is_right_to_the_bound(case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    arrays = case.arrays()
    for name, y in results(case, arrays).items():
        assert_correct(y, replace(case, name=f"{case.name}, {name}"), *arrays)


@every_dtype
@second_half
@pytest.mark.rotated("dtype")
def test_small_integers_give_the_same_bits_as_the_reference(case: Case, dtype: str) -> None:
    activation = EXACT_ACTIVATIONS[CURATED.index(case) % len(EXACT_ACTIVATIONS)]
    case = replace(case, dtype=dtype, data="integers", activation=activation)
    arrays = case.arrays()
    wanted = case.run(arrays, backend="reference")
    for name, y in results(case, arrays).items():
        assert_same_bits(y, wanted, f"{case}, {name}")


@pytest.mark.parametrize("name", ["filters in several tiles", "NHWC, 16 channels in place", "stem 7x7/2", "3-D stem"])
@every_dtype
@pytest.mark.rotated("dtype")
def test_every_schedule_gives_the_same_bits(name: str, dtype: str) -> None:
    case = replace(next(c for c in CURATED if c.name == name), dtype=dtype)
    arrays = case.arrays()
    found = []
    for schedule in SCHEDULES:
        with use_emulator(schedule=schedule):
            plan = case.plan("cuda")
            for candidate in plan.candidates:
                if not candidate.excluded:
                    y = replace(plan, algorithm=candidate.algorithm).execute(*arrays)
                    found.append((candidate.algorithm, y))
    first = dict(reversed(found))
    for algorithm, y in found:
        assert_same_bits(y, first[algorithm], (case, algorithm))
