"""Budgets: the same bits in less memory, never more than allowed, and a clear word where it cannot be done."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import numpy as np
import pytest

import stridekit as sk
from tests.kit.cases import Case
from tests.kit.curated import CURATED
from tests.kit.oracle import assert_same_bits
from tests.kit.thinning import every

CASES = [case for case in CURATED if case.batch and case.rank < 3][::3] + [case for case in CURATED if case.rank == 3][
    ::4
]


def smallest(error: sk.VramBudgetError) -> int:
    found = re.search(r"smallest that works is (\d+) bytes", str(error))
    assert found, str(error)
    return int(found[1])


@pytest.mark.parametrize("packed", [False, True], ids=["given", "packed"])
@pytest.mark.parametrize("case", every(2, CASES), ids=lambda case: case.name)
@pytest.mark.rotated("backend", "packed")
def test_every_budget_down_to_the_smallest_gives_the_same_bits(backend: str, case: Case, packed: bool) -> None:
    case = replace(case, batch=3)
    x, weight, bias = case.arrays()
    plan = case.plan(backend)
    weights = plan.pack(weight) if packed else weight
    wanted = plan.execute(x, weights, bias)
    with pytest.raises(sk.VramBudgetError) as refused, sk.vram.budget(0) as usage:
        plan.execute(x, weights, bias)
    assert usage.peak == 0
    least, most = smallest(refused.value), sk.vram.estimate(plan, packed=packed).allocated
    assert least <= most
    for limit in {least, (least + most) // 2, (least + 3 * most) // 4, most - 1, most}:
        if limit < least:
            continue
        with sk.vram.budget(limit) as usage:
            estimate = sk.vram.estimate(plan, packed=packed)
            assert_same_bits(plan.execute(x, weights, bias), wanted)
        assert usage.peak == estimate.allocated <= limit
    with pytest.raises(sk.VramBudgetError), sk.vram.budget(least - 1) as usage:
        plan.execute(x, weights, bias)
    assert usage.peak == 0


def test_a_large_image_runs_in_a_fraction_of_the_workspace(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 8, 300, 200), np.float32), rng.standard_normal((8, 8, 7, 7), np.float32)
    plan = sk.plan_conv(x.shape, weight.shape, stride=4, padding=3, backend=backend)
    out = np.empty(plan.output_shape, np.float32)
    whole = sk.vram.estimate(plan, out_given=True).allocated
    wanted = plan.execute(x, weight)
    with sk.vram.budget(whole // 2) as usage:
        plan.execute(x, weight, out=out)
    assert_same_bits(out, wanted)
    assert usage.peak <= whole // 2


def test_out_stays_as_it_was_when_the_budget_is_too_small(backend: str) -> None:
    x, weight = np.ones((1, 256, 66, 66), np.float32), np.ones((256, 256, 3, 3), np.float32)
    out = np.full((1, 256, 64, 64), 7, np.float32)
    with pytest.raises(MemoryError, match="smallest that works"), sk.vram.budget(64):
        sk.conv2d(x, weight, out=out, backend=backend)
    assert (out == 7).all()


def test_outputs_that_are_alive_count_and_those_that_are_gone_do_not(backend: str) -> None:
    x, weight = np.ones((1, 4, 64, 64), np.float32), np.ones((64, 4, 1, 1), np.float32)
    plan = sk.plan_conv(x.shape, weight.shape, backend=backend)
    with pytest.raises(sk.VramBudgetError) as refused, sk.vram.budget(0):
        plan.execute(x, weight)
    with sk.vram.budget(smallest(refused.value) + plan.vram.output // 2):
        for _ in range(3):
            y = plan.execute(x, weight)
            del y
        kept = plan.execute(x, weight)
        with pytest.raises(sk.VramBudgetError):
            plan.execute(x, weight)
        assert kept.shape == (1, 64, 64, 64)


def test_the_tightest_of_nested_budgets_counts(backend: str) -> None:
    x, weight = np.ones((1, 4, 32, 32), np.float32), np.ones((64, 4, 1, 1), np.float32)
    with sk.vram.budget("1 KiB"), sk.vram.budget("1 GiB"), pytest.raises(sk.VramBudgetError):
        sk.conv2d(x, weight, backend=backend)
    with sk.vram.budget("1 GiB"), sk.vram.budget("1 KiB"), pytest.raises(sk.VramBudgetError):
        sk.conv2d(x, weight, backend=backend)


def test_packing_too_keeps_to_the_budget(backend: str) -> None:
    plan = sk.plan_conv((1, 64, 8, 8), (64, 64, 3, 3), backend=backend)
    with sk.vram.budget(1000) as usage, pytest.raises(sk.VramBudgetError):
        plan.pack(np.ones((64, 64, 3, 3), np.float32))
    assert usage.peak == 0


def test_a_budget_holds_in_its_own_thread_only(backend: str) -> None:
    x, weight = np.ones((1, 4, 32, 32), np.float32), np.ones((64, 4, 1, 1), np.float32)
    failures: list[BaseException] = []

    def call() -> None:
        try:
            sk.conv2d(x, weight, backend=backend)
        except BaseException as error:
            failures.append(error)

    with sk.vram.budget(1):
        other = threading.Thread(target=call)
        other.start()
        other.join()
    assert not failures


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2 GiB", 2 << 30), ("2GiB", 2 << 30), ("1.5 kib", 1536), ("500 MB", 500_000_000), ("7", 7), (7, 7), ("3 B", 3)],
)
def test_a_budget_is_read_in_the_usual_units(text: int | str, wanted: int) -> None:
    with sk.vram.budget(text):
        assert sk.vram.remaining() == wanted
    assert sk.vram.remaining() is None


@pytest.mark.parametrize("text", ["", "lots", "2 GB/s", "-1", -1, "1e9", None, True, float("nan"), "GiB", 1j, 2**62])
def test_a_budget_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(sk.ShapeError, match="budget is"), sk.vram.budget(text):  # type: ignore[arg-type]
        pass
