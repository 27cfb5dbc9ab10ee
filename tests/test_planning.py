"""Plans: a pure function of problem and device, that says why, and runs only what it was made for."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from threading import Barrier

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends import load_backend, unavailable
from stridekit.planning.dispatch import choose_backend, choose_plan
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.kit.cases import DTYPES, Case, case
from tests.kit.curated import CURATED
from tests.kit.oracle import assert_same_bits

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
PLAIN = case("plain", (9, 8), 3, padding=1, channels=6, bias=True)
DEPTHWISE = case("depthwise", (9, 8), 3, padding=1, groups=6, channels=6, filters=6)
every_case = pytest.mark.parametrize("of", CURATED, ids=str)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRIDEKIT_BACKEND", raising=False)


@every_case
@pytest.mark.rotated("backend")
def test_a_plan_is_a_pure_function_of_problem_and_device(backend: str, of: Case) -> None:
    plan = of.plan(backend)
    choose_plan.cache_clear()
    again = of.plan(backend)
    assert plan == again
    assert hash(plan) == hash(again)
    assert plan.output_shape == of.output_shape
    assert plan.geometry.output_size == of.output_sizes


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAIN.plan("cpu").algorithm = "another"


@every_case
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.rotated("backend", "dtype")
def test_flops_and_bytes_are_those_of_the_formula(backend: str, of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    plan = of.plan(backend)
    outputs = of.batch * of.filters * math.prod(of.output_sizes)
    assert plan.flops == 2 * outputs * of.channels // of.groups * math.prod(of.kernel)
    moved = of.batch * of.channels * math.prod(of.sizes) + math.prod(of.weight_shape) + outputs
    moved += of.filters if of.bias else 0
    assert plan.bytes == moved * ITEMSIZE[dtype]


@every_case
@pytest.mark.rotated("backend")
def test_why_names_the_backend_its_reason_and_every_algorithm(backend: str, of: Case) -> None:
    plan = of.plan(backend)
    assert f"{backend}: asked for by argument" in plan.why
    assert plan.algorithm in {c.algorithm for c in plan.candidates if not c.excluded}
    for candidate in plan.candidates:
        assert candidate.algorithm in plan.why
        assert candidate.excluded in plan.why
        if candidate.algorithm != plan.algorithm:
            assert f"not {candidate.algorithm}: " in plan.why


def test_an_excluded_algorithm_says_why() -> None:
    excluded = {c.algorithm: c.excluded for c in PLAIN.plan("cpu").candidates}
    assert "each filter reads 6 channels" in excluded["lanewise_tile"]
    assert excluded["broadcast_tile"] == ""
    excluded = {c.algorithm: c.excluded for c in DEPTHWISE.plan("cpu").candidates}
    assert "no pairs" in excluded.pop("paired_tile")
    assert "more than one pixel" in excluded.pop("plane_product")
    assert not any(excluded.values())


def test_the_cheapest_legal_algorithm_is_taken() -> None:
    for of in CURATED:
        plan = of.plan("cpu")
        legal = {c.algorithm: c.cost for c in plan.candidates if not c.excluded}
        assert legal[plan.algorithm] == min(legal.values())


def test_a_processor_that_cannot_convert_float16_is_told_apart() -> None:
    of = replace(PLAIN, dtype="float16")
    device = replace(load_backend("cpu").device(), half=False)
    with pytest.raises(sk.BackendUnavailableError, match=r"cpu.*float16"):
        of.plan("cpu", device=device)
    assert of.plan("reference").algorithm == "sliding_taps"


def test_numpy_arrays_run_on_the_cpu_unless_something_else_is_asked_for() -> None:
    plan = sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3))
    assert plan.backend == "cpu"
    assert "NumPy arrays run on the CPU" in plan.why


def test_argument_beats_use_backend_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**keywords: str) -> tuple[str, str]:
        plan = sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3), **keywords)
        return plan.backend, plan.why.split(";")[0]

    monkeypatch.setenv("STRIDEKIT_BACKEND", "reference")
    assert chosen() == ("reference", "reference: asked for by STRIDEKIT_BACKEND")
    with sk.use_backend("cpu"):
        assert chosen() == ("cpu", "cpu: asked for by use_backend")
        assert chosen(backend="reference") == ("reference", "reference: asked for by argument")
        with sk.use_backend("reference"):
            assert chosen() == ("reference", "reference: asked for by use_backend")
            assert chosen(backend="auto")[0] == "reference"
        with sk.use_backend("auto"):
            assert chosen()[0] == "cpu"
        assert chosen()[0] == "cpu"
    assert chosen()[0] == "reference"
    with sk.use_backend("auto"):
        assert chosen() == ("cpu", "cpu: NumPy arrays run on the CPU")
    monkeypatch.setenv("STRIDEKIT_BACKEND", "auto")
    assert chosen()[0] == "cpu"
    monkeypatch.setenv("STRIDEKIT_BACKEND", "")
    assert chosen()[0] == "cpu"


def test_the_choice_holds_for_calls_as_for_plans() -> None:
    x, weight, bias = replace(PLAIN, data="normal", channels=60).arrays()
    with sk.use_backend("reference"), sk.vram.track() as usage:
        sk.conv2d(x, weight, bias)
    plan = sk.plan_conv(x.shape, weight.shape, bias=True, backend="reference")
    assert usage.peak == sk.vram.estimate(plan).allocated


def test_an_unknown_backend_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = r"'gpu'.*auto.*cuda.*cpu.*reference"
    with pytest.raises(sk.BackendUnavailableError, match=choices):
        sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3), backend="gpu")
    with pytest.raises(sk.BackendUnavailableError, match=choices), sk.use_backend("gpu"):
        pass
    monkeypatch.setenv("STRIDEKIT_BACKEND", "gpu")
    with pytest.raises(sk.BackendUnavailableError, match=choices):
        sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3))


def test_an_explicit_backend_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import stridekit.backends.cpu as cpu

    monkeypatch.setattr(cpu, "unavailable", lambda: "Numba is broken; mend it")
    x, weight, bias = PLAIN.arrays()
    with pytest.raises(sk.BackendUnavailableError, match=r"'cpu'.*Numba is broken; mend it"):
        PLAIN.run((x, weight, bias), backend="cpu")
    with pytest.raises(sk.BackendUnavailableError, match="Numba is broken"), sk.use_backend("cpu"):
        pass
    if unavailable("cuda"):
        with pytest.raises(sk.BackendUnavailableError, match=r"'cuda' cannot run here: .*(install|driver|device)"):
            PLAIN.run((x, weight, bias), backend="cuda")


def test_auto_falls_to_the_reference_where_numba_cannot_run_and_warns_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import stridekit.backends.cpu as cpu

    monkeypatch.setattr(cpu, "unavailable", lambda: "Numba is broken for this one test")
    arrays = PLAIN.arrays()
    with pytest.warns(RuntimeWarning, match=r"reference.*Numba is broken for this one test"):
        y = PLAIN.run(arrays)
    # A second warning would be an error here.
    assert_same_bits(PLAIN.run(arrays), y)
    assert_same_bits(PLAIN.run(arrays, backend="reference"), y)


def test_where_numba_is_not_installed_auto_falls_to_the_reference_too() -> None:
    program = """
import sys, warnings
sys.modules["numba"] = sys.modules["llvmlite"] = None
import numpy as np
import stridekit as sk
x, w = np.ones((1, 2, 5, 5)), np.ones((3, 2, 2, 2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = sk.conv2d(x, w), sk.conv_weight_grad(x, w.shape, np.ones((1, 3, 4, 4))), sk.max_pool2d(x, 2)
assert [each.shape for each in y] == [(1, 3, 4, 4), w.shape, (1, 2, 2, 2)]
assert "Numba cannot be imported" in str(caught[0].message), caught
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_arrays_of_cupy_run_on_cuda_asked_for_or_not_and_nowhere_else() -> None:
    with use_emulator():
        assert choose_backend("cuda", "cupy") == ("cuda", "asked for by argument")
        assert choose_backend("auto", "cupy")[0] == "cuda"
        with pytest.raises(sk.BackendUnavailableError, match=r"backend is 'cpu' and the arrays are CuPy's"):
            choose_backend("cpu", "cupy")


def test_use_backend_stays_in_its_thread() -> None:
    meet = Barrier(2)

    def work(name: str) -> list[str]:
        found = []
        for _ in range(20):
            with sk.use_backend(name):
                meet.wait(timeout=30)
                found.append(sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3)).backend)
                meet.wait(timeout=30)
        return found

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(work, name) for name in ("cpu", "reference")]
        assert [result.result() for result in results] == [["cpu"] * 20, ["reference"] * 20]


def test_use_backend_stays_in_its_task() -> None:
    async def task(name: str) -> str:
        with sk.use_backend(name):
            await asyncio.sleep(0.001)
            return sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3)).backend

    async def both() -> list[str]:
        return list(await asyncio.gather(task("cpu"), task("reference")))

    assert asyncio.run(both()) == ["cpu", "reference"]


def test_use_backend_ends_with_its_block_even_after_an_error() -> None:
    with pytest.raises(KeyError), sk.use_backend("reference"):
        raise KeyError
    assert sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3)).backend == "cpu"


@pytest.mark.parametrize("channels_last", [False, True])
def test_execute_takes_the_memory_order_it_was_planned_for_and_no_other(backend: str, channels_last: bool) -> None:
    of = replace(PLAIN, channels_last=channels_last)
    x, weight, bias = of.arrays()
    other = "channels_first" if channels_last else "channels_last"
    with pytest.raises(sk.LayoutError, match=f"x lies {of.memory_order}.*{other}"):
        of.plan(backend, memory_order=other).execute(x, weight, bias)
    turned = replace(of, memory=other).arrays().x
    assert turned.shape == x.shape
    turned[...] = x
    with pytest.raises(sk.LayoutError, match="memory_order"):
        of.plan(backend).execute(turned, weight, bias)
    y = of.plan(backend, memory_order=other).execute(turned, weight, bias)
    assert y.shape == of.output_shape
    assert y.strides != of.plan(backend).execute(x, weight, bias).strides


def test_an_array_that_lies_in_both_orders_serves_both_plans(backend: str) -> None:
    of = case("one channel", (9, 8), 3, channels=1, filters=4)
    for order in ("channels_first", "channels_last"):
        y = of.plan(backend, memory_order=order).execute(*of.arrays())
        stored = y if order == "channels_first" else np.moveaxis(y, 1, -1)
        assert stored.flags.c_contiguous


WRONG = {
    "x of another batch": (lambda x, w, b: (x[:1], w, b), sk.ShapeError, "x has shape"),
    "x of another dtype": (lambda x, w, b: (x.astype("f8"), w, b), sk.DtypeError, "x is float64"),
    "weight of another shape": (lambda x, w, b: (x, w[:2], b), sk.ShapeError, "weight has shape"),
    "weight of another dtype": (lambda x, w, b: (x, w.astype("f2"), b), sk.DtypeError, "weight is float16"),
    "bias missing": (lambda x, w, b: (x, w, None), sk.ShapeError, "bias"),
    "bias of another length": (lambda x, w, b: (x, w, b[:1]), sk.ShapeError, "bias has shape"),
    "x a list": (lambda x, w, b: (x.tolist(), w, b), sk.DtypeError, "x is a"),
    "weight None": (lambda x, w, b: (x, None, b), sk.DtypeError, "weight is a"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.rotated("backend")
def test_execute_refuses_operands_it_was_not_planned_for(backend: str, what: str) -> None:
    change, error, message = WRONG[what]
    out = np.full(PLAIN.output_shape, 7, np.float32)
    with pytest.raises(error, match=message):
        PLAIN.plan(backend).execute(*change(*PLAIN.arrays()), out=out)
    assert (out == 7).all()


def test_a_bias_that_was_not_planned_for_is_refused(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    with pytest.raises(sk.ShapeError, match="bias=True"):
        replace(PLAIN, bias=False).plan(backend).execute(x, weight, bias)


def test_packed_weights_serve_only_plans_of_their_own_packing(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    plan = PLAIN.plan(backend)
    same = replace(PLAIN, stride=(2, 2), padding=0, batch=2).plan(backend)
    assert same.execute(x, plan.pack(weight), bias).shape == same.output_shape
    for change in ({"filters": 4}, {"channels": 3}, {"kernel": (1, 3)}, {"groups": 3, "filters": 6}):
        other = replace(PLAIN, name="other", **change)
        packed = other.plan(backend).pack(other.arrays().weight)
        with pytest.raises(sk.LayoutError, match="pack"):
            plan.execute(x, packed, bias)
    wide = replace(PLAIN, dtype="float64")
    if backend == "cpu":
        with pytest.raises(sk.LayoutError, match="pack"):
            plan.execute(x, wide.plan(backend).pack(wide.arrays().weight), bias)
    other_backend = {"cpu": "reference"}.get(backend, "cpu")
    with pytest.raises(sk.LayoutError, match="pack"):
        plan.execute(x, PLAIN.plan(other_backend).pack(weight), bias)


@pytest.mark.parametrize("groups", [1, 300], ids=["dense", "depthwise"])
def test_weights_packed_by_another_plan_give_the_same_bits_or_are_refused(groups: int) -> None:
    of = case("wide", (9, 8), 3, channels=300, groups=groups, filters=300 if groups > 1 else 70)
    x, weight, _ = of.arrays()
    others = [
        replace(of, **change).plan("cpu", device=replace(load_backend("cpu").device(), l2_bytes=l2_bytes))
        for change in ({}, {"stride": (2, 5)}, {"sizes": (50, 3)}, {"channels_last": True}, {"batch": 9})
        for l2_bytes in (1 << 13, 1 << 17, 1 << 22)
    ]
    plans, refused = others[:3], 0
    for plan in plans:
        wanted = plan.execute(x, weight)
        for other in others:
            try:
                y = plan.execute(x, other.pack(weight))
            except sk.LayoutError:
                refused += 1
            else:
                assert_same_bits(y, wanted, (plan.device, other.problem, other.device))
    assert refused < len(plans) * len(others) - len(plans)
    assert bool(refused) == (groups == 1), "only a sum over channels is cut to the cache"


def test_weights_packed_for_one_tile_are_refused_by_the_other() -> None:
    x, weight, _ = DEPTHWISE.arrays()
    plan = DEPTHWISE.plan("cpu")
    lanewise, broadcast = (replace(plan, algorithm=name) for name in ("lanewise_tile", "broadcast_tile"))
    with pytest.raises(sk.LayoutError, match="lanewise_tile"):
        broadcast.execute(x, lanewise.pack(weight))
    with pytest.raises(sk.LayoutError, match="broadcast_tile"):
        lanewise.execute(x, broadcast.pack(weight))


def test_pack_copies_so_that_later_changes_of_the_weights_do_not_show(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    plan = PLAIN.plan(backend)
    first, packed = plan.execute(x, weight, bias), plan.pack(weight)
    assert packed.nbytes == plan.packed_bytes
    weight[...] = 0
    assert_same_bits(plan.execute(x, packed, bias), first)


def test_pack_refuses_weights_of_another_shape_or_dtype(backend: str) -> None:
    _, weight, _ = PLAIN.arrays()
    with pytest.raises(sk.ShapeError, match="weight has shape"):
        PLAIN.plan(backend).pack(weight[:1])
    with pytest.raises(sk.DtypeError, match="weight is float64"):
        PLAIN.plan(backend).pack(weight.astype(np.float64))


def test_plan_conv_takes_layout_none_as_channels_first_and_any_spelling_of_a_dtype() -> None:
    import ml_dtypes

    for dtype in ("float32", np.float32, np.dtype("f4")):
        assert sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3), dtype=dtype).problem.dtype == "float32"
    for dtype in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        assert sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3), dtype=dtype).problem.dtype == "bfloat16"
    assert sk.plan_conv((1, 6, 6, 2), (4, 2, 3, 3), layout="NHWC").output_shape == (1, 4, 4, 4)
    assert sk.plan_conv((1, 2, 6), (4, 2, 3)).output_shape == (1, 4, 4)
    assert sk.plan_conv((1, 2, 6, 6, 6), (4, 2, 3, 3, 3)).output_shape == (1, 4, 4, 4, 4)
    with pytest.raises(sk.ShapeError, match="direction"):
        sk.plan_conv((1, 2, 6, 6), (4, 2, 3, 3), direction="sideways")
    with pytest.raises(sk.ShapeError, match="wanted 3, 4 or 5"):
        sk.plan_conv((1, 2), (4, 2))
