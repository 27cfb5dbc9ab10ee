"""The cpu backend's own ways to a gradient: chains of sums, phases run together, turned weights, paired groups."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit import vram
from stridekit.backends import load_backend
from stridekit.backends.cpu.forward import launch
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.weight_gradient.blocking import reduction
from stridekit.planning.plan import Plan
from tests.kit.cases import DTYPES, Case, case
from tests.kit.curated import CURATED
from tests.kit.gradients import DIRECTIONS, Gradient
from tests.kit.guarded import guarded
from tests.kit.oracle import assert_same_bits
from tests.test_bounds import allocate_guarded, assert_ends_well, every_dtype, in_dtype
from tests.test_cpu_tiles import OWN

PAIRED = {dtype: 4 if dtype == "float64" else 8 for dtype in DTYPES}
"""Filters of half a vector of 512 bits; narrower ones are none."""

LONG = [
    case("rows cut into pieces", (3, 400), 3, padding=1, channels=3, filters=5),
    case("rows cut, strided", (4, 501), (3, 5), stride=(1, 2), padding=(1, 2), channels=3, filters=17),
    case("wide rows, reflected", (5, 300), 3, padding=2, channels=2, filters=9, padding_mode="reflect"),
    case("one long row", (3000,), 5, stride=3, padding=1, channels=2, filters=70),
    case("rows and samples", (40, 41), 3, padding=1, channels=20, filters=33, batch=3),
    case("groups of three", (30, 31), 3, stride=2, padding=1, groups=3, channels=15, filters=21, batch=2),
    case("dilated far", (33, 34), 3, padding=6, dilation=6, channels=40, filters=20),
    case("volume", (6, 20, 19), 3, stride=(1, 2, 1), padding=1, channels=5, filters=18),
    case("more taps than a vector has lanes", (20, 21), 7, stride=2, padding=3, channels=35, filters=20),
]


def variants(of: Case) -> Iterator[Case]:
    """Yield the case in every dtype, and channels last."""
    for dtype in DTYPES:
        for channels_last in (False, True):
            yield replace(of, dtype=dtype, channels_last=channels_last, data="integers")


def small_caches(of: Gradient, **changes: int) -> Plan:
    """Plan for caches so small that everything is cut."""
    device = replace(load_backend("cpu").device(), **{"l2_bytes": 1 << 14, **changes})
    return of.plan("cpu", device=device)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("of", LONG, ids=str)
@pytest.mark.usefixtures("threads")
def test_what_is_cut_has_the_bits_of_the_whole(of: Case, direction: str) -> None:
    """Small integers are exact in any order: whatever is cut, nothing may be left out or counted twice."""
    for each in variants(of):
        gradient = Gradient(each, direction)
        operands = gradient.operands()
        wanted = gradient.run(operands, backend="reference")
        for threads in (1, 3):
            plan = small_caches(gradient, threads=threads)
            assert_same_bits(plan.execute(*operands), wanted, f"{gradient}, {threads} threads")


@pytest.mark.parametrize("of", LONG, ids=str)
def test_a_sum_over_outputs_is_cut_by_the_problem_and_not_by_threads(of: Case) -> None:
    gradient = Gradient(of, "weight_grad")
    operands, first = gradient.operands(), None
    for threads in (1, 2, 7):
        plan = small_caches(gradient, threads=threads)
        cut = reduction(plan.problem, plan.device)
        order = (cut.chains, cut.chain_blocks, cut.d.block, cut.h.block, cut.w.block)
        result = plan.execute(*operands)
        first = first or (order, result)
        assert order == first[0]
        assert_same_bits(result, first[1], f"{of}, {threads} threads")
        gradient.assert_correct(result, operands)


def test_long_sums_are_shared_out() -> None:
    """One block of filters over a picture would be the work of a single thread."""
    device = replace(load_backend("cpu").device(), threads=8)
    plan = Gradient(case("stem", (320, 320), 3, stride=2, padding=1, filters=16), "weight_grad").plan(
        "cpu", device=device
    )
    cut = reduction(plan.problem, plan.device)
    assert cut.chains >= 8
    assert cut.workers == 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("direction", ["forward", *DIRECTIONS])
@pytest.mark.usefixtures("threads")
@pytest.mark.rotated("channels_last", "dtype")
def test_paired_groups_have_the_bits_of_any_others(direction: str, channels_last: bool, dtype: str) -> None:
    half = PAIRED[dtype]
    of = case(
        "paired", (13, 22), 3, stride=(1, 2), padding=1, groups=6, channels=6 * half, filters=6 * half, dtype=dtype,
        channels_last=channels_last, data="integers", bias=direction == "forward",
    )  # fmt: skip
    runner = Gradient(of, direction) if direction in DIRECTIONS else None
    operands = runner.operands() if runner else of.arrays()
    wanted = (runner or of).run(operands, backend="reference")
    for threads in (1, 2, 5):
        sk.set_num_threads(threads)
        plan = (runner or of).plan("cpu")
        for candidate in (c for c in plan.candidates if not c.excluded):
            forced = replace(plan, algorithm=candidate.algorithm)
            assert_same_bits(forced.execute(*operands), wanted, f"{of}, {candidate.algorithm}, {threads} threads")


def test_groups_that_are_no_pairs_say_why(cpu_device: CpuDevice) -> None:
    for filters, groups in ((cpu_device.lanes(4) // 2, 3), (5, 2)):
        of = case("unpaired", (9, 9), 3, groups=groups, channels=2 * groups, filters=filters * groups)
        excluded = {candidate.algorithm: candidate.excluded for candidate in of.plan("cpu").candidates}
        assert "no pairs" in excluded["paired_tile"]


@pytest.fixture
def cpu_device() -> CpuDevice:
    device = load_backend("cpu").device()
    assert isinstance(device, CpuDevice)
    return device


def test_nan_in_one_group_of_a_pair_stays_there(cpu_device: CpuDevice) -> None:
    half = cpu_device.lanes(4) // 2
    of = case("pair", (9, 8), 3, padding=1, groups=2, channels=2 * half, filters=2 * half)
    x, weight, _ = of.arrays()
    plan = of.plan("cpu")
    clean = plan.execute(x, weight)
    assert plan.algorithm == "paired_tile"
    for group in range(2):
        planted = x.copy()
        planted[:, group * half : (group + 1) * half] = [np.nan, np.inf][group]
        y = plan.execute(planted, weight)
        other = slice((1 - group) * half, (2 - group) * half)
        assert_same_bits(y[:, other], clean[:, other], f"group {group}")
        assert not np.isfinite(y[:, group * half : (group + 1) * half]).any()


@pytest.mark.parametrize("way", ["contiguous", "strided", "reversed"])
@pytest.mark.parametrize("groups", [1, 4, 36])
def test_weights_are_read_where_they_lie_in_one_pass_or_tap_by_tap(way: str, groups: int) -> None:
    """Taps that lie end to end are turned in registers; any others, and 16-bit ones, are read one by one."""
    for dtype in DTYPES:
        of = case(
            "turned", (9, 11), (3, 2), stride=2, padding=1, groups=groups, channels=max(20, groups), filters=36,
            dtype=dtype, data="integers",
        )  # fmt: skip
        gradient = Gradient(of, "input_grad")
        weight, grad = gradient.operands()
        wanted = gradient.run((weight, grad), backend="reference")
        spread = {
            "contiguous": weight.copy(),
            "strided": np.repeat(weight, 2, axis=0)[::2],
            "reversed": np.ascontiguousarray(weight[..., ::-1])[..., ::-1],
        }[way]
        assert_same_bits(gradient.run((spread, grad), backend="cpu"), wanted, f"{dtype}, {way}")


def test_a_weight_that_is_not_finite_is_found_in_every_phase() -> None:
    """Taps in the padding may not be left out then, whichever phase the weight goes to."""
    of = Gradient(case("infinite", (9, 9), 3, stride=2, padding=1, channels=20, filters=20), "input_grad")
    weight, grad = of.operands()
    plan = of.plan("cpu")
    for at in np.ndindex(3, 3):
        planted = weight.copy()
        planted[(-1, -1, *at)] = np.inf
        packed = plan.execute(plan.pack(planted), grad)
        assert_same_bits(plan.execute(planted, grad), packed, f"tap {at}")
        assert not np.isfinite(packed[:, -1]).all()
        assert np.isfinite(packed[:, :-1]).all()


@pytest.mark.parametrize("value", [1.0, np.inf, np.nan])
def test_only_the_phase_of_a_weight_that_is_not_finite_keeps_its_taps_in_the_padding(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each phase has a word for it beside its counters; where it is set, taps in the padding cost time."""
    of = Gradient(case("finite", (9, 9), 3, stride=2, padding=1, channels=20, filters=20), "input_grad")
    weight, grad = of.operands()
    weight[-1, -1, 1, 1] = value
    allocated: list[np.ndarray] = []
    allocate = vram.allocate

    def kept(*arguments: Any, **keywords: Any) -> Any:
        allocated.append(allocate(*arguments, **keywords))
        return allocated[-1]

    monkeypatch.setattr(vram, "allocate", kept)
    plan = replace(of.plan("cpu"), algorithm="broadcast_tile")
    plan.execute(weight, grad, out=np.empty(of.shape, np.float32))
    (workspace,) = allocated
    words = workspace.view(np.uint8).reshape(-1)[: 4 * launch._COUNTERS * 8].view(np.int64).reshape(4, launch._COUNTERS)
    assert sorted(words[:, 2].tolist()) == [0, 0, 0, int(not np.isfinite(value))]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.usefixtures("threads")
def test_phases_too_small_for_a_second_thread_share_one_call(stride: int) -> None:
    of = case(
        "depthwise", (40, 41), 3, stride=stride, padding=1, groups=96, channels=96, filters=96, channels_last=True
    )
    gradient = Gradient(of, "input_grad")
    operands = gradient.operands()
    sk.set_num_threads(1)
    first = gradient.run(operands, backend="cpu")
    gradient.assert_correct(first, operands)
    for threads in (2, 3, 8):
        sk.set_num_threads(threads)
        assert_same_bits(gradient.run(operands, backend="cpu"), first, f"{threads} threads")


EVERY_WIDTH = """
import sys
sys.path.insert(0, {tests!r})
from tests import test_cpu_gradients
test_cpu_gradients.run_narrow_groups()
"""


def run_narrow_groups() -> None:
    """Run groups that are pairs at one width of vectors or another, and what is cut, in every direction."""
    groups = [case("groups", (9, 8), 3, stride=2, padding=1, groups=4, channels=12, filters=4 * f) for f in (2, 4, 8)]
    for of in (replace(c, data="integers", channels_last=last) for c in (*groups, LONG[4]) for last in (False, True)):
        arrays = of.arrays()
        assert_same_bits(of.run(arrays, backend="cpu"), of.run(arrays, backend="reference"), of)
        for gradient in (Gradient(of, direction) for direction in DIRECTIONS):
            operands = gradient.operands()
            wanted = gradient.run(operands, backend="reference")
            assert_same_bits(gradient.run(operands, backend="cpu"), wanted, gradient)


@pytest.mark.parametrize(
    "bits", [bits if bits == OWN else pytest.param(bits, marks=pytest.mark.thorough) for bits in ("128", "256", "512")]
)
def test_every_vector_width_computes_the_same_gradients(bits: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_WIDTH.format(tests=str(Path(__file__).parents[1]))],
        env={**os.environ, "STRIDEKIT_VECTOR_BITS": bits},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from tests import test_cpu_gradients
test_cpu_gradients.run_all({dtype!r})
"""


def run_all(dtype: str) -> None:
    """Run every gradient between fences, its workspace too, which begins as NaN; what is tried last is printed."""
    paired = [
        case("paired", (7, 6), 3, stride=2, padding=1, groups=4, channels=4 * half, filters=4 * half)
        for half in ((PAIRED[dtype],) if dtype in PAIRED else (8, 8, 8, 4))
    ]
    for number, of in enumerate(in_dtype([*paired, *CURATED, *LONG], dtype)):
        for gradient in (Gradient(of, direction) for direction in DIRECTIONS):
            operands = gradient.operands()
            plans = [gradient.plan("cpu"), small_caches(gradient, l2_bytes=1 << 12, threads=1)]
            if gradient.direction == "input_grad" and number % 4 == 0:
                plans.append(replace(plans[1], algorithm="columns"))
            for plan, at_end in itertools.product(plans, (True, False)):
                where = "end" if at_end else "start"
                print(f"{gradient}, {of.dtype}, {plan.algorithm}, {plan.device.l2_bytes}, at its {where}", flush=True)
                wanted = plan.execute(*operands)
                with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
                    patch.setattr(vram, "allocate", partial(allocate_guarded, stack, at_end))
                    first, second, out = (
                        stack.enter_context(guarded(array, at_end=at_end)) for array in (*operands, wanted)
                    )
                    out[...] = np.nan
                    plan.execute(first, second, out=out)
                    assert_same_bits(np.array(out), wanted, gradient)
                    del first, second, out


@pytest.mark.skipif(platform.system() != "Linux", reason="fences between pages are made with Linux's mprotect")
@every_dtype
def test_no_byte_beyond_the_operands_of_a_gradient_is_touched(dtype: str) -> None:
    assert_ends_well(PROGRAM.format(tests=str(Path(__file__).parents[1]), dtype=dtype))
