"""Memory: what is predicted is what is allocated, to the byte."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest

import stridekit as sk
from stridekit.planning.plan import Plan
from tests.kit.cases import ACTIVATIONS, DTYPES, Case, case
from tests.kit.curated import CURATED

PLAIN = case("plain", (9, 8), 3, padding=1, channels=6, bias=True)
DEPTHWISE = case("depthwise", (9, 8), 3, padding=1, groups=40, channels=40, filters=40)
every_case = pytest.mark.parametrize("of", CURATED, ids=str)


def taken(nbytes: int, plan: Plan) -> int:
    """Return what an allocation of so many bytes takes where the plan runs: CuPy's pool deals out 512 at a time."""
    unit = 512 if plan.backend == "cuda" else 1
    return -(-nbytes // unit) * unit


def on_whole_elements(of: Case, backend: str) -> Case:
    """Return the case with arrays that a GPU can read; others are copied there, which is not in the estimate."""
    if backend != "cuda":
        return of
    ways = {name: "sliced" for name in ("lies", "weight_lies") if getattr(of, name) == "misaligned"}
    return replace(of, **ways)


@pytest.mark.parametrize("dtype", DTYPES)
@every_case
@pytest.mark.rotated("backend", "dtype")
def test_the_estimate_is_what_is_allocated_to_the_byte(backend: str, of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    of = on_whole_elements(of, backend)
    x, weight, bias = of.arrays()
    plan = of.plan(backend)
    out, pack = np.empty(plan.output_shape, of.numpy_dtype), plan.pack(weight)
    for packed in (False, True):
        for out_given in (False, True):
            with sk.vram.track() as usage:
                y = plan.execute(x, pack if packed else weight, bias, out=out if out_given else None)
            estimate = sk.vram.estimate(plan, packed=packed, out_given=out_given)
            assert usage.peak == estimate.allocated, (of, packed, out_given)
            assert usage.current == (0 if out_given else taken(y.nbytes, plan))
            del y


@pytest.mark.parametrize("algorithm", ["lanewise_tile", "broadcast_tile"])
@pytest.mark.usefixtures("threads")
def test_the_estimate_holds_for_every_algorithm_and_number_of_threads(algorithm: str) -> None:
    of = replace(DEPTHWISE, sizes=(60, 61), batch=4)
    for threads in (1, 2, 7):
        sk.set_num_threads(threads)
        plan = replace(of.plan("cpu"), algorithm=algorithm)
        assert plan.device.threads == threads
        with sk.vram.track() as usage:
            plan.execute(*of.arrays())
        assert usage.peak == plan.vram.allocated


@every_case
@pytest.mark.rotated("backend")
def test_the_parts_of_an_estimate_add_up(backend: str, of: Case) -> None:
    x, weight, bias = of.arrays()
    plan = of.plan(backend)
    y = plan.execute(x, weight, bias)
    usage = plan.vram
    assert usage == sk.vram.estimate(plan)
    assert (usage.input, usage.weight, usage.output) == tuple(taken(a.nbytes, plan) for a in (x, weight, y))
    assert usage.bias == (0 if bias is None else taken(bias.nbytes, plan))
    assert usage.allocated == usage.output + usage.workspace
    assert usage.peak == usage.input + usage.weight + usage.bias + usage.allocated
    with_out = sk.vram.estimate(plan, out_given=True)
    assert with_out.allocated == usage.workspace
    assert with_out.peak == usage.peak
    packed = sk.vram.estimate(plan, packed=True)
    assert packed.weight == taken(plan.pack(weight).nbytes, plan)
    assert packed.workspace <= usage.workspace


def test_blocks_nest_and_each_counts_its_own(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    plan = PLAIN.plan(backend)
    one = plan.vram.allocated
    with sk.vram.track() as outer:
        first = plan.execute(x, weight, bias)
        with sk.vram.track() as inner:
            second = plan.execute(x, weight, bias)
            assert inner.peak == one
        third = plan.execute(x, weight, bias)
    output = taken(first.nbytes, plan)
    assert first.nbytes == second.nbytes == third.nbytes
    assert inner.peak == one
    assert inner.current == output
    assert outer.peak == 2 * output + one
    assert outer.current == 3 * output


def test_an_output_counts_until_its_last_view_is_gone(backend: str) -> None:
    with sk.vram.track() as usage:
        y = PLAIN.run(PLAIN.arrays(), backend=backend)
        nbytes = taken(y.nbytes, PLAIN.plan(backend))
        view = y[0, :, ::2]
        assert usage.current == nbytes
        del y
        gc.collect()
        assert usage.current == nbytes
        del view
        gc.collect()
        assert usage.current == 0
    assert usage.peak == PLAIN.plan(backend).vram.allocated


def test_outputs_that_die_leave_room_for_the_next(backend: str) -> None:
    arrays = PLAIN.arrays()
    with sk.vram.track() as usage:
        for _ in range(5):
            y = PLAIN.run(arrays, backend=backend)
            del y
    assert usage.peak == PLAIN.plan(backend).vram.allocated
    assert usage.current == 0


def test_an_output_may_outlive_the_block_and_is_still_released(backend: str) -> None:
    with sk.vram.track() as usage:
        y = PLAIN.run(PLAIN.arrays(), backend=backend)
    assert usage.current == taken(y.nbytes, PLAIN.plan(backend))
    del y
    gc.collect()
    assert usage.current == 0


def test_packed_weights_are_counted_while_they_live(backend: str) -> None:
    plan = PLAIN.plan(backend)
    with sk.vram.track() as usage:
        packed = plan.pack(PLAIN.arrays().weight)
        assert packed.nbytes == plan.packed_bytes
        assert usage.current == taken(packed.nbytes, plan)
        del packed
        gc.collect()
        assert usage.current == 0


def test_nothing_is_counted_outside_the_block_or_of_another_thread(backend: str) -> None:
    arrays, meet = PLAIN.arrays(), Barrier(2)
    one = PLAIN.plan(backend).vram.allocated

    def work(calls: int) -> int:
        with sk.vram.track() as usage:
            meet.wait(timeout=30)
            kept = [PLAIN.run(arrays, backend=backend) for _ in range(calls)]
            meet.wait(timeout=30)
        return usage.peak - (len(kept) - 1) * taken(kept[0].nbytes, PLAIN.plan(backend))

    with sk.vram.track() as outside:
        pass
    with ThreadPoolExecutor(2) as pool:
        peaks = [pool.submit(work, calls) for calls in (1, 5)]
        assert [peak.result() for peak in peaks] == [one, one]
    assert outside.peak == 0


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.rotated("backend")
def test_no_array_is_allocated_beside_those_that_are_counted(backend: str, activation: object) -> None:
    """NumPy tells tracemalloc of every array; what Python itself needs is far below a tenth of this result."""
    of = case("large", (60, 61), 3, padding=1, channels=16, filters=32, bias=True, activation=activation)
    arrays = of.arrays()
    plan = of.plan(backend)
    plan.execute(*arrays)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        y = plan.execute(*arrays)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert plan.vram.allocated <= peak <= plan.vram.allocated + y.nbytes / 10


def test_an_error_allocates_nothing(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    with sk.vram.track() as usage:
        with pytest.raises(sk.ShapeError):
            PLAIN.run((x, weight[:, :1], bias), backend=backend)
        with pytest.raises(sk.DtypeError):
            PLAIN.run((x, weight, bias), backend=backend, out=np.zeros(PLAIN.output_shape))
    assert usage.peak == 0


def test_an_estimate_needs_no_memory_however_large_the_problem() -> None:
    with sk.vram.track() as usage:
        plan = sk.plan_conv((64, 64, 4096, 4096), (64, 64, 3, 3), padding=1, backend="cpu")
        assert plan.vram.output == 64 * 64 * 4096 * 4096 * 4
    assert usage.peak == 0
