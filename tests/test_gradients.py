"""Both gradients on every backend: values to the bound, bits, memory, errors, and what no window reads."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stridekit as sk
from stridekit.backends import load_backend
from stridekit.backends.cuda.device import profile
from stridekit.planning.dispatch import choose_plan
from stridekit.planning.plan import Plan
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.kit.cases import DTYPES, MODES, Case, case
from tests.kit.curated import CURATED
from tests.kit.gradients import DIRECTIONS, Gradient, Operands
from tests.kit.laying import MEMORY_ORDERS, TRANSPOSED, WAYS, empty_like_laid, lay
from tests.kit.oracle import Truth, assert_same_bits, assert_within, channels_first
from tests.kit.randoms import random_case

EVERY = [pytest.param(Gradient(of, direction), id=f"{of}, {direction}") for of in CURATED for direction in DIRECTIONS]
every_gradient = pytest.mark.parametrize("of", EVERY)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def named(name: str) -> Case:
    return next(of for of in CURATED if of.name == name)


@functools.cache
def truth(of: Gradient) -> Truth:
    """Compute a gradient's truth once for all backends."""
    return of.truth(of.operands())


def results_of_every_algorithm(of: Gradient, operands: Operands, backend: str) -> dict[str, np.ndarray]:
    """Run each algorithm of a backend that can, weights as given and packed."""
    found, plan = {}, of.plan(backend)
    for candidate in plan.candidates:
        if candidate.excluded:
            continue
        forced = replace(plan, algorithm=candidate.algorithm)
        found[candidate.algorithm] = forced.execute(*operands)
        if of.direction == "input_grad":
            frugal = replace(forced, device=forced.device.frugal())
            found[f"{candidate.algorithm}, packed"] = frugal.execute(frugal.pack(operands[0]), operands[1])
    return found


@every_gradient
@pytest.mark.rotated("backend")
def test_a_gradient_is_right_to_the_bound(backend: str, of: Gradient) -> None:
    y = of.run(of.operands(), backend=backend)
    assert type(y) is np.ndarray
    assert y.dtype == of.case.numpy_dtype
    assert y.shape == of.shape
    assert_within(channels_first(y, of.channels_last), truth(of), of.case.dtype, label=of)
    of.assert_lies(y)


THIRDS = [
    pytest.param(Gradient(replace(of, dtype=dtype), direction), id=f"{of}, {direction}, {dtype}")
    for turn, dtype in enumerate(d for d in DTYPES if d != "float32")
    for number, of in enumerate(CURATED[turn::3])
    for direction in (DIRECTIONS[number % 2],)
    if of.batch
]


@pytest.mark.parametrize("of", THIRDS)
@pytest.mark.rotated("backend")
def test_a_gradient_of_every_dtype_is_right_to_the_bound(backend: str, of: Gradient) -> None:
    y = of.run(of.operands(), backend=backend)
    assert y.dtype == of.case.numpy_dtype
    assert_within(channels_first(y, of.channels_last), truth(of), of.case.dtype, label=of)


@functools.cache
def of_the_reference(of: Gradient) -> np.ndarray:
    return of.run(of.operands(), backend="reference")


INTEGERS = [
    pytest.param(
        Gradient(replace(of, data="integers", dtype=DTYPES[number % 4]), DIRECTIONS[number // 4 % 2]), id=str(of)
    )
    for number, of in enumerate(of for of in CURATED[::2] if of.batch)
]  # fmt: skip


@pytest.mark.parametrize("of", INTEGERS)
def test_small_integers_give_the_same_bits_in_every_backend_and_algorithm(compiled_backend: str, of: Gradient) -> None:
    wanted = of_the_reference(of)
    assert_within(channels_first(wanted, of.channels_last), truth(of), of.case.dtype, label=of)
    for name, y in results_of_every_algorithm(of, of.operands(), compiled_backend).items():
        assert_same_bits(y, wanted, f"{of}, {name}")


@every_direction
@pytest.mark.parametrize("name", ["stride 2", "NHWC groups", "depthwise with multiplier", "reflect, dilated", "3-D"])
@every_dtype
@pytest.mark.rotated("name", "dtype")
def test_every_algorithm_is_right_to_the_bound(backend: str, name: str, direction: str, dtype: str) -> None:
    of = Gradient(replace(named(name), dtype=dtype), direction)
    operands = of.operands()
    for algorithm, y in results_of_every_algorithm(of, operands, backend).items():
        assert_within(channels_first(y, of.channels_last), truth(of), dtype, label=f"{of}, {algorithm}")


def taken(nbytes: int, plan: Plan) -> int:
    """Return what an allocation of so many bytes takes where the plan runs."""
    unit = 512 if plan.backend == "cuda" else 1
    return -(-nbytes // unit) * unit


def aligned(of: Gradient, backend: str) -> Gradient:
    """Return the gradient with arrays that a GPU can read; others are copied there, which is not in the estimate."""
    ways = {name: "sliced" for name in ("lies", "weight_lies") if getattr(of.case, name) == "misaligned"}
    return of.but(**ways) if backend == "cuda" else of


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(Gradient(replace(of, dtype=DTYPES[number // 2 % 4]), DIRECTIONS[number % 2]), id=str(of))
        for number, of in enumerate(CURATED)
    ],
)
@pytest.mark.rotated("backend")
def test_the_estimate_is_what_is_allocated_to_the_byte(backend: str, of: Gradient) -> None:
    of = aligned(of, backend)
    first, grad = of.operands()
    plan = of.plan(backend)
    with sk.vram.track() as usage:
        y = plan.execute(first, grad)
    assert usage.peak == plan.vram.allocated
    assert usage.current == taken(y.nbytes, plan)
    given: Any = plan.pack(first) if of.direction == "input_grad" else first
    packed = of.direction == "input_grad"
    out = np.full_like(y, np.nan)
    with sk.vram.track() as usage:
        plan.execute(given, grad, out=out)
    estimate = sk.vram.estimate(plan, packed=packed, out_given=True)
    assert usage.peak == estimate.allocated == estimate.workspace
    if packed:
        assert estimate.weight == taken(given.nbytes, plan)
        assert given.nbytes == plan.packed_bytes
    assert_same_bits(out, y, of)


@every_direction
def test_the_parts_of_an_estimate_are_the_operands_and_the_result(backend: str, direction: str) -> None:
    of = Gradient(named("stride 2"), direction)
    first, grad = of.operands()
    plan = of.plan(backend)
    y, usage = plan.execute(first, grad), plan.vram
    over_pixels = taken(grad.nbytes, plan) + (taken(first.nbytes, plan) if direction == "weight_grad" else 0)
    assert usage.input == over_pixels
    assert usage.weight == (taken(first.nbytes, plan) if direction == "input_grad" else 0)
    assert usage.bias == 0
    assert usage.output == taken(y.nbytes, plan)
    assert usage.peak == usage.input + usage.weight + usage.allocated


@pytest.mark.parametrize("way", [*WAYS, TRANSPOSED])
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@pytest.mark.parametrize("name", ["strides differ per axis", "NHWC groups", "reflect, depthwise"])
@every_direction
@pytest.mark.rotated("backend", "name", "memory", "way")
def test_out_receives_the_same_bits_however_it_lies(
    backend: str, name: str, direction: str, memory: str, way: str
) -> None:
    number = [*WAYS, TRANSPOSED].index(way)
    of = Gradient(replace(named(name), dtype=DTYPES[number % 4]), direction)
    operands = of.operands()
    wanted = of.run(operands, backend=backend)
    shape = channels_first(wanted, of.channels_last).shape
    out = empty_like_laid(shape, of.case.numpy_dtype, memory, way)
    out = np.moveaxis(out, 1, -1) if of.channels_last else out
    if way == "read_only":
        with pytest.raises(sk.LayoutError, match="out is read-only"):
            of.run(operands, backend=backend, out=out)
        assert np.isnan(out.astype(np.float64)).all()
        return
    assert of.run(operands, backend=backend, out=out) is out
    assert_same_bits(out, wanted, of)


@pytest.mark.parametrize(
    "name", ["stride greater than kernel", "NHWC groups", "replicate beyond the input", "depthwise"]
)
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@every_direction
@pytest.mark.rotated("backend", "name", "memory")
def test_nothing_beside_out_is_written(backend: str, name: str, direction: str, memory: str) -> None:
    of = Gradient(replace(named(name), data="integers"), direction)
    operands = of.operands()
    shape = channels_first(np.empty(of.shape), of.channels_last).shape
    large = lay(np.full([size + 2 for size in shape], 77777, of.case.numpy_dtype), memory, "contiguous")
    inner = large[tuple(slice(1, -1) for _ in shape)]
    of.run(operands, backend=backend, out=np.moveaxis(inner, 1, -1) if of.channels_last else inner)
    assert np.abs(inner).max() != 77777
    inner[...] = 77777
    assert (large == 77777).all()


@pytest.mark.parametrize("way", [*WAYS, TRANSPOSED])
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@every_direction
@pytest.mark.rotated("backend", "memory", "way")
def test_grad_output_gives_the_same_numbers_however_it_lies(
    backend: str, direction: str, memory: str, way: str
) -> None:
    """Beside an input that lies in the other order too."""
    for name in ("strides differ per axis", "NHWC", "replicate beyond the input"):
        of = Gradient(replace(named(name), data="integers"), direction)
        first, grad = of.operands()
        laid = lay(channels_first(grad, of.case.channels_last), memory, way)
        laid = np.moveaxis(laid, 1, -1) if of.case.channels_last else laid
        before = laid.copy()
        y = of.run((first, laid), backend=backend)
        np.testing.assert_array_equal(y, of.run((first, grad), backend=backend))
        assert_same_bits(laid, before)
        if direction == "input_grad" and way != TRANSPOSED:
            stored = channels_first(y, of.channels_last)
            stored = np.moveaxis(stored, 1, -1) if memory == "channels_last" else stored
            assert stored.flags.c_contiguous, "the result lies as the output's gradient does"


@every_direction
def test_out_that_overlaps_an_operand_is_refused(backend: str, direction: str) -> None:
    of = Gradient(case("square", (5, 5), 3, padding=1, channels=4, filters=4), direction)
    first, grad = of.operands()
    room = np.zeros(4096, np.float32)
    out = room[: math.prod(of.shape)].reshape(of.shape)
    shared = room[: grad.size].reshape(grad.shape)
    shared[...] = grad
    before = room.copy()
    with pytest.raises(sk.LayoutError, match="out overlaps grad_output"):
        of.run((first, shared), backend=backend, out=out)
    same = room[: first.size].reshape(first.shape)
    with pytest.raises(sk.LayoutError, match=f"out overlaps {of.names[0]}"):
        of.run((same, grad), backend=backend, out=out)
    np.testing.assert_array_equal(room, before)


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_has_an_empty_input_gradient(backend: str, mode: str) -> None:
    y = Gradient(replace(named("empty batch"), padding_mode=mode), "input_grad")
    assert y.run(y.operands(), backend=backend).shape == (0, 3, 6, 7)


@pytest.mark.parametrize("mode", MODES)
def test_a_weight_gradient_over_no_samples_can_be_planned(backend: str, mode: str) -> None:
    of = Gradient(replace(named("empty batch"), padding_mode=mode), "weight_grad")
    plan = of.plan(backend)
    assert plan.output_shape == of.shape
    assert plan.flops == 0
    assert sk.vram.estimate(plan, out_given=True).allocated == 0


@every_direction
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_one_pixel(backend: str, direction: str, dtype: str) -> None:
    of = Gradient(case("one", (1, 1), 1, batch=1, channels=1, filters=1, dtype=dtype), direction)
    first, grad = (np.full((1, 1, 1, 1), value, of.case.numpy_dtype) for value in (3, -2))
    assert of.run((first, grad), backend=backend).tolist() == [[[[-6.0]]]]
    of = of.but(kernel=(3, 3), padding=1)
    operands = of.operands()
    of.assert_correct(of.run(operands, backend=backend), operands)


GAPS = [
    case("stride beyond kernel", (17, 19), 2, stride=(5, 4), channels=6),
    case("stride beyond dilation, grouped", (23, 21), 3, stride=(7, 8), dilation=2, padding=2, groups=2, channels=6,
         filters=4),
    case("stride beyond kernel, depthwise", (14, 15), 2, stride=4, groups=12, channels=12, filters=24),
    case("stride shares a factor with dilation", (20, 21), 3, stride=(4, 6), dilation=(2, 3), channels=5),
    case("1x1, stride 3", (10, 11), 1, stride=3, channels=9, channels_last=True),
    case("1-D", (40,), 3, stride=11, padding=1, channels=6, groups=3, filters=9),
    case("3-D, dropped behind", (8, 9, 7), 2, stride=(3, 4, 5), channels=4),
    case("circular gaps", (11, 12), 2, stride=5, padding=1, padding_mode="circular", channels=4),
]  # fmt: skip


def read_by_windows(of: Case) -> np.ndarray:
    """Say of every pixel of a sample whether any window reads it."""
    grad = Gradient(replace(of, dtype="float64", batch=1, channels=1, filters=1, groups=1), "input_grad")
    count = grad.truth((np.ones(grad.case.weight_shape), np.ones(grad.case.output_shape))).count
    return np.asarray(count[0, 0] > 0)


@pytest.mark.parametrize("of", GAPS, ids=str)
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_pixels_that_no_window_reads_receive_an_exact_zero(backend: str, of: Case, dtype: str) -> None:
    """rocm-libraries#7732: grouped, strided beyond kernel and dilation, such pixels were left unwritten."""
    gradient = Gradient(replace(of, dtype=dtype), "input_grad")
    operands = gradient.operands()
    out = np.full(gradient.shape, np.nan, gradient.case.numpy_dtype)
    gradient.run(operands, backend=backend, out=out)
    unread = channels_first(out, gradient.channels_last)[:, :, ~read_by_windows(of)].astype(np.float64)
    assert unread.size
    assert (unread == 0).all()
    assert not np.signbit(unread).any()
    gradient.assert_correct(out, operands)


CASES = [
    case("strided", (13, 12), 3, stride=2, padding=1, channels=12, filters=20, batch=5),
    case("grouped", (13, 12), 3, stride=(1, 2), groups=2, channels=12, filters=6, batch=5),
    case("reflected", (9, 8), 3, stride=2, padding=2, padding_mode="reflect", channels=6, batch=5, dtype="float16"),
    case("channels-last", (9, 8), 3, padding=1, channels=16, filters=16, channels_last=True, batch=5),
    case("depthwise", (9, 8), 3, stride=2, groups=20, channels=20, filters=20, batch=5, dtype="bfloat16"),
    case("1-D", (60,), 4, stride=3, channels=6, padding="same", batch=5),
    case("3-D", (5, 6, 7), 3, stride=2, padding=1, batch=5),
]
several = pytest.mark.parametrize("of", CASES, ids=str)


def smallest(error: sk.VramBudgetError) -> int:
    found = re.search(r"smallest that works is (\d+) bytes", str(error))
    assert found, str(error)
    return int(found[1])


@pytest.mark.parametrize("packed", [False, True], ids=["given", "packed"])
@several
@pytest.mark.rotated("backend", "packed")
def test_an_input_gradient_in_tiles_of_samples_has_the_same_bits(backend: str, of: Case, packed: bool) -> None:
    gradient = Gradient(of, "input_grad")
    weight, grad = gradient.operands()
    plan = gradient.plan(backend)
    weights = plan.pack(weight) if packed else weight
    wanted = plan.execute(weights, grad)
    with pytest.raises(sk.VramBudgetError) as refused, sk.vram.budget(0) as usage:
        plan.execute(weights, grad)
    assert usage.peak == 0
    least, most = smallest(refused.value), sk.vram.estimate(plan, packed=packed).allocated
    for limit in sorted({least, (least + most) // 2, (least + 3 * most) // 4, most}):
        with sk.vram.budget(limit) as usage:
            estimate = sk.vram.estimate(plan, packed=packed)
            assert_same_bits(plan.execute(weights, grad), wanted, (of, limit))
        assert usage.peak == estimate.allocated <= limit
    with pytest.raises(sk.VramBudgetError), sk.vram.budget(least - 1) as usage:
        plan.execute(weights, grad)
    assert usage.peak == 0


def test_tiles_of_samples_take_less_memory_where_the_padded_gradient_is_staged(backend: str) -> None:
    of = case("staged", (20, 20), 3, padding=2, padding_mode="circular", channels=8, batch=8)
    plan = Gradient(of, "input_grad").plan(backend)
    with pytest.raises(sk.VramBudgetError) as refused, sk.vram.budget(0):
        plan.execute(*Gradient(of, "input_grad").operands())
    if backend == "reference":  # which takes one sample at a time anyway
        assert smallest(refused.value) <= plan.vram.allocated
    else:
        assert smallest(refused.value) - plan.vram.output < plan.vram.workspace / 3


@several
def test_a_weight_gradient_beyond_the_budget_is_refused_with_nothing_allocated(backend: str, of: Case) -> None:
    gradient = Gradient(of, "weight_grad")
    operands = gradient.operands()
    plan = gradient.plan(backend)
    wanted = plan.execute(*operands)
    out = np.full(gradient.shape, 7, of.numpy_dtype)
    with pytest.raises(sk.VramBudgetError) as refused, sk.vram.budget(0) as usage:
        plan.execute(*operands)
    assert usage.peak == 0
    least = smallest(refused.value)
    with sk.vram.budget(least) as usage:
        assert_same_bits(plan.execute(*operands), wanted, of)
    assert usage.peak <= least
    room = least - plan.vram.output
    if room:
        with pytest.raises(sk.VramBudgetError), sk.vram.budget(room - 1) as usage:
            plan.execute(*operands, out=out)
        assert usage.peak == 0
        assert (out == 7).all()


SHAPE, WEIGHT = (1, 3, 6, 6), (4, 3, 3, 3)
Call = Callable[[np.ndarray, np.ndarray, np.ndarray], object]
BAD: dict[str, tuple[Call, type[Exception], str]] = {
    "grad_output of another size": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g[..., 1:]), sk.ShapeError, "grad_output has shape",
    ),
    "grad_output of other filters": (
        lambda x, w, g: sk.conv_weight_grad(x, WEIGHT, g[:, 1:]), sk.ShapeError, "grad_output has shape",
    ),
    "grad_output of another batch": (
        lambda x, w, g: sk.conv_weight_grad(x, WEIGHT, g[:0]), sk.ShapeError, "grad_output has shape",
    ),
    "grad_output of another stride": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g, stride=2), sk.ShapeError, r"gives \(1, 4, 2, 2\)",
    ),
    "grad_output of the other layout": (
        lambda x, w, g: sk.conv_input_grad((1, 6, 6, 3), w, g[..., 1:], layout="NHWC"), sk.ShapeError, "grad_output",
    ),
    "grad_output without a batch": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g[0]), sk.ShapeError, "grad_output 3;",
    ),
    "x of another rank": (
        lambda x, w, g: sk.conv_weight_grad(x[0], WEIGHT, g), sk.ShapeError, "x has 3 axes, weight_shape 4 and",
    ),
    "dtypes disagree": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g.astype(np.float64)), sk.DtypeError, "float64",
    ),
    "integers": (
        lambda x, w, g: sk.conv_weight_grad(x.astype(int), WEIGHT, g.astype(int)), sk.DtypeError, "int64",
    ),
    "a list": (lambda x, w, g: sk.conv_input_grad(SHAPE, w.tolist(), g), sk.DtypeError, "weight"),
    "grad_output is None": (
        lambda x, w, g: sk.conv_weight_grad(x, WEIGHT, None), sk.DtypeError, "grad_output",  # type: ignore[arg-type]
    ),
    "an array for a shape": (
        lambda x, w, g: sk.conv_input_grad(x, w, g), sk.ShapeError, "input_shape is an array",  # type: ignore[arg-type]
    ),
    "an int for a shape": (
        lambda x, w, g: sk.conv_weight_grad(x, 3, g), sk.ShapeError, "weight_shape is 3",  # type: ignore[arg-type]
    ),
    "a negative size": (
        lambda x, w, g: sk.conv_input_grad((1, 3, -6, 6), w, g), sk.ShapeError, "input_shape",
    ),
    "a size that is no int": (
        lambda x, w, g: sk.conv_weight_grad(x, (4, 3, 3.0, 3), g), sk.ShapeError,  # type: ignore[arg-type]
        "weight_shape holds 3.0",
    ),
    "channels disagree": (
        lambda x, w, g: sk.conv_weight_grad(x, (4, 2, 3, 3), g), sk.ShapeError, "second axis must be 3",
    ),
    "groups do not divide": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g, groups=2), sk.ShapeError, "groups is 2",
    ),
    "stride 0": (lambda x, w, g: sk.conv_input_grad(SHAPE, w, g, stride=0), sk.ShapeError, "stride is 0"),
    "kernel larger than input": (
        lambda x, w, g: sk.conv_weight_grad(x, (4, 3, 9, 9), g), sk.ShapeError, "spans 9 pixels",
    ),
    "reflect beyond the input": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g, padding=9, padding_mode="reflect"), sk.ShapeError, "reflect",
    ),
    "unknown layout": (
        lambda x, w, g: sk.conv_weight_grad(x, WEIGHT, g, layout="CHWN"), sk.LayoutError, "CHWN",
    ),
    "unknown precision": (
        lambda x, w, g: sk.conv_weight_grad(x, WEIGHT, g, precision="half"), sk.DtypeError, "half",
    ),
    "out of another shape": (
        lambda x, w, g: sk.conv_input_grad(SHAPE, w, g, out=np.zeros_like(g)), sk.ShapeError, "out has shape",
    ),
    "out of another dtype": (
        lambda x, w, g: sk.conv_weight_grad(x, WEIGHT, g, out=np.zeros(WEIGHT)), sk.DtypeError, "out is float64",
    ),
    "bias for a weight's gradient": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="weight_grad", bias=True), sk.ShapeError, "bias",
    ),
    "activation of a weight's gradient": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="weight_grad", activation="relu"), sk.ShapeError,
        "activation",
    ),
    "unknown direction": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="backward"), sk.ShapeError, "wanted one of forward",
    ),
    "weights packed for a weight's gradient": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="weight_grad").pack(w), sk.ShapeError, "nothing to pack",
    ),
    "operands in the other order": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="input_grad").execute(g, w), sk.ShapeError,
        "grad_output has shape",
    ),
    "a bias that was not planned for": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="input_grad").execute(w, g, x[0, :, 0, 0]),
        sk.ShapeError, "bias",
    ),
    "a bias as long as the output's channels": (
        lambda x, w, g: sk.plan_conv(SHAPE, WEIGHT, direction="input_grad", bias=True).execute(w, g, g[0, :, 0, 0]),
        sk.ShapeError, r"bias has shape \(4,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.rotated("backend")
def test_every_backend_raises_the_same_class_for_bad_arguments(backend: str, what: str) -> None:
    call, error, message = BAD[what]
    x, weight, grad = (np.ones(shape, np.float32) for shape in (SHAPE, WEIGHT, (1, 4, 4, 4)))
    with sk.use_backend(backend), sk.vram.track() as usage, pytest.raises(error, match=message) as caught:
        call(x, weight, grad)
    assert caught.type is error
    assert usage.peak == 0


def test_input_names_x_of_the_weight_gradient_too() -> None:
    x, grad = np.ones(SHAPE, np.float32), np.ones((1, 4, 4, 4), np.float32)
    wanted = sk.conv_weight_grad(x=x, weight_shape=WEIGHT, grad_output=grad)
    old: Any = sk.conv_weight_grad
    assert (old(input=x, weight_shape=WEIGHT, grad_output=grad) == wanted).all()
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        old(x, WEIGHT, grad, input=x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'input'"):
        old(x=x, weight_shape=WEIGHT, grad_output=grad, input=x)


class CupyArray:
    """An array of CuPy's, as far as arguments are checked."""

    __module__ = "cupy"
    dtype = np.dtype(np.float32)
    shape = (1, 4, 4, 4)
    ndim = 4


CupyArray.__module__ = "cupy"


def test_numpy_and_cupy_do_not_mix() -> None:
    x, weight = np.ones(SHAPE, np.float32), np.ones(WEIGHT, np.float32)
    grad: Any = CupyArray()
    with pytest.raises(sk.BackendUnavailableError, match="weight is numpy's, grad_output is cupy's; nothing is copied"):
        sk.conv_input_grad(SHAPE, weight, grad)
    with pytest.raises(sk.BackendUnavailableError, match="x is numpy's, grad_output is cupy's; nothing is copied"):
        sk.conv_weight_grad(x, WEIGHT, grad)


def test_packed_weights_serve_only_input_gradients_of_their_own_phases(backend: str) -> None:
    of = Gradient(case("plain", (12, 12), 3, stride=2, padding=1, channels=6), "input_grad")
    weight, grad = of.operands()
    plan = of.plan(backend)
    wanted, packed = plan.execute(weight, grad), plan.pack(weight)
    weight[...] = 0
    assert_same_bits(plan.execute(packed, grad), wanted)
    weight[...] = of.operands()[0]
    larger = of.but(sizes=(20, 14), batch=1)
    other = larger.plan(backend)
    assert_same_bits(other.execute(packed, larger.operands()[1]), other.execute(weight, larger.operands()[1]))
    if backend == "reference":
        return
    for change in ({"stride": (3, 2)}, {"padding": 0}, {"filters": 4}, {"dtype": "float64"}):
        other = of.but(**change).plan(backend)
        with pytest.raises(sk.LayoutError, match="pack it with this plan's"):
            other.execute(packed, of.but(**change).operands()[1])
    forward = of.case.plan(backend)
    with pytest.raises(sk.LayoutError, match="pack"):
        plan.execute(forward.pack(weight), grad)


LARGE = [
    Gradient(case("wide", (16, 17), 3, padding=1, stride=2, channels=66, filters=70, batch=3), "input_grad"),
    Gradient(case("depthwise", (30, 31), 5, padding="same", groups=96, channels=96, filters=96, batch=3),
             "input_grad"),
    Gradient(case("reflected", (20, 21), 3, padding=1, padding_mode="reflect", channels=33, filters=40, batch=3,
                  dtype="float16"), "input_grad"),
    Gradient(case("last", (16, 17), 3, stride=2, channels=32, filters=64, batch=3, channels_last=True), "input_grad"),
    Gradient(case("wide", (16, 17), 3, padding=1, stride=2, channels=66, filters=70, batch=3), "weight_grad"),
    Gradient(case("depthwise", (30, 31), 5, padding="same", groups=96, channels=96, filters=96, batch=3),
             "weight_grad"),
    Gradient(case("volume", (5, 9, 8), 3, padding=1, channels=20, filters=33, batch=3), "weight_grad"),
    Gradient(case("groups", (16, 17), 3, groups=2, channels=32, filters=64, batch=3, channels_last=True,
                  dtype="bfloat16"), "weight_grad"),
]  # fmt: skip


@pytest.mark.parametrize("of", LARGE, ids=str)
@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_bits(of: Gradient) -> None:
    operands = of.operands()
    sk.set_num_threads(1)
    first = of.run(operands, backend="cpu")
    of.assert_correct(first, operands)
    for count in (2, 3, 8):
        sk.set_num_threads(count)
        for _ in range(2):
            assert_same_bits(of.run(operands, backend="cpu"), first, f"{of}, {count} threads")


@pytest.mark.parametrize("of", LARGE[:4], ids=str)
def test_a_sample_has_the_same_input_gradient_alone_and_in_any_batch(backend: str, of: Gradient) -> None:
    if backend != "cpu":
        of = of.but(sizes=(9, 8), channels=max(of.case.channels // 3, 1), filters=max(of.case.filters // 3, 1),
                    groups=max(of.case.groups // 3, 1))  # fmt: skip
    weight, grad = of.operands()
    whole = of.run((weight, grad), backend=backend)
    for n in range(of.case.batch):
        assert_same_bits(of.but(batch=1).run((weight, grad[n : n + 1]), backend=backend), whole[n : n + 1], of)
    many = of.but(batch=4 * of.case.batch).run((weight, np.concatenate([grad] * 4)), backend=backend)
    assert_same_bits(many, np.concatenate([whole] * 4), of)


@pytest.mark.parametrize("of", LARGE, ids=str)
@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_and_samples_chooses_the_same_order_of_sums(of: Gradient) -> None:
    """A weight's gradient sums over its samples: their number is part of its order."""
    chosen = set()
    for threads in (1, 2, 64):
        sk.set_num_threads(threads)
        for batch in (1, 2, 1000) if of.direction == "input_grad" else (3,):
            plan = of.but(batch=batch).plan("cpu")
            chosen.add((plan.algorithm, plan._algorithm.packing(plan.problem, plan.device)))
    assert len(chosen) == 1


NOT_FINITE = [
    case("strided", (9, 8), 3, stride=2, padding=1, channels=6, filters=9),
    case("strided by 3, dilated", (14, 13), 3, stride=3, dilation=2, padding=1, channels=3, filters=4),
    case("replicated", (7, 6), 3, stride=2, padding=2, channels=4, padding_mode="replicate"),
    case("circular", (7, 6), 3, padding=((2, 1), (1, 2)), channels=4, padding_mode="circular"),
    case("grouped", (9, 8), 3, padding=1, stride=2, groups=3, channels=6, filters=6),
    case("depthwise, channels-last", (9, 8), 3, padding=1, groups=33, channels=33, filters=33, channels_last=True),
    case("gaps between windows", (11, 12), 2, stride=5, channels=3),
    case("rank 1", (20,), 3, stride=2, padding=1),
    case("rank 3", (5, 6, 4), 3, stride=2, padding=1),
]
not_finite = pytest.mark.parametrize("of", NOT_FINITE, ids=str)


def planted(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    array = np.array(array)
    for value in (np.nan, np.inf, -np.inf):
        for _ in range(2):
            array[tuple(int(rng.integers(size)) for size in array.shape)] = value
    return array


@not_finite
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_what_is_not_finite_in_grad_output_spreads_to_the_pixels_that_it_was_read_from(
    backend: str, of: Case, dtype: str, rng: np.random.Generator
) -> None:
    gradient = Gradient(replace(of, dtype=dtype), "input_grad")
    weight, grad = gradient.operands()
    grad = planted(grad, rng)
    gradient.assert_correct(gradient.run((weight, grad), backend=backend), (weight, grad))


@not_finite
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_what_is_not_finite_in_the_input_spreads_to_the_taps_that_read_it(
    backend: str, of: Case, dtype: str, rng: np.random.Generator
) -> None:
    gradient = Gradient(replace(of, dtype=dtype), "weight_grad")
    x, grad = gradient.operands()
    x = planted(x, rng)
    gradient.assert_correct(gradient.run((x, grad), backend=backend), (x, grad))


@not_finite
@pytest.mark.rotated("backend")
def test_what_is_not_finite_in_grad_output_spreads_to_its_own_filter_where_nothing_is_padded(
    backend: str, of: Case, rng: np.random.Generator
) -> None:
    gradient = Gradient(replace(of, padding=0, padding_mode="zeros"), "weight_grad")
    x, grad = gradient.operands()
    grad = planted(grad, rng)
    gradient.assert_correct(gradient.run((x, grad), backend=backend), (x, grad))


@pytest.mark.parametrize("stride", [(3, 2), (4, 5)], ids=["stride equals kernel", "stride beyond kernel"])
@pytest.mark.parametrize("groups", [1, 2])
@every_dtype
@pytest.mark.rotated("backend", "groups", "dtype")
def test_a_strided_input_gradient_never_multiplies_zeros_between_samples(
    backend: str, stride: tuple[int, int], groups: int, dtype: str
) -> None:
    """With zeros inserted, an infinite tap would make NaN of them on every pixel; here it touches its own."""
    sizes = (4 * stride[0] + 3, 6 * stride[1] + 2)
    of = case("inserted", sizes, (3, 2), stride=stride, groups=groups, channels=4, filters=6, dtype=dtype)
    gradient = Gradient(of, "input_grad")
    weight, grad = gradient.operands()
    weight[..., 1, 0] = np.inf
    y = gradient.run((weight, grad), backend=backend).astype(np.float64)
    own = np.zeros(y.shape, bool)
    own[:, :, 1 :: stride[0], :: stride[1]] = True
    assert not np.isfinite(y[own]).any()
    assert np.isfinite(y[~own]).all()


@every_dtype
@every_direction
@pytest.mark.rotated("backend", "dtype")
def test_nan_in_a_pixel_that_no_window_reads_touches_nothing(backend: str, direction: str, dtype: str) -> None:
    of = case("gaps and a tail", (12, 12), 2, stride=5, channels=5, dtype=dtype)
    x, grad = Gradient(of, "weight_grad").operands()
    clean = Gradient(of, "weight_grad").run((x, grad), backend=backend)
    x = np.array(x)
    x[:, :, ~read_by_windows(of)] = np.nan
    assert_same_bits(Gradient(of, "weight_grad").run((x, grad), backend=backend), clean, of)
    if direction == "input_grad":
        weight, grad = Gradient(of, "input_grad").operands()
        grad = np.full_like(grad, np.nan)
        y = Gradient(of, "input_grad").run((weight, grad), backend=backend).astype(np.float64)
        assert (np.isnan(y) == read_by_windows(of)).all()


@every_dtype
def test_nan_in_one_sample_or_group_stays_there(backend: str, dtype: str) -> None:
    of = case("grouped", (7, 7), 3, padding=1, stride=2, groups=2, channels=8, filters=10, dtype=dtype)
    gradient = Gradient(of, "input_grad")
    weight, grad = gradient.operands()
    clean = gradient.run((weight, grad), backend=backend)
    grad = np.array(grad)
    grad[1, :5] = np.nan
    y = gradient.run((weight, grad), backend=backend)
    assert_same_bits(y[0], clean[0], of)
    assert_same_bits(y[1, 4:], clean[1, 4:], of)
    assert np.isnan(y[1, :4].astype(np.float64)).all()


def inner(a: np.ndarray, b: np.ndarray) -> float:
    return math.fsum((a.astype(np.float64) * b.astype(np.float64)).ravel().tolist())


@pytest.mark.parametrize("on", ["reference", "cpu", pytest.param("cuda", marks=pytest.mark.emulator)])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_are_the_adjoints_of_the_convolution(on: str, seed: int) -> None:
    """<conv(x, w), g> == <x, input_grad(w, g)> == <w, weight_grad(x, g)>."""
    if on == "cuda" and why_not():
        pytest.skip(why_not())
    of = random_case(np.random.default_rng(seed), dtype="float64", batch=2, bias=False, activation=None)
    x, weight, _ = of.arrays()
    to_input, to_weight = (Gradient(of, direction) for direction in DIRECTIONS)
    grad = to_input.operands()[1]
    with use_emulator() if on == "cuda" else nullcontext(), sk.use_backend(on):
        whole = inner(of.run((x, weight, None)), grad)  # type: ignore[arg-type]
        by_input = inner(x, to_input.run((weight, grad)))
        by_weight = inner(weight, to_weight.run((x, grad)))
    exact = to_weight.truth((x, grad))
    magnitude = inner(np.abs(weight), exact.magnitude)
    products = max(exact.count.max(initial=0), to_input.truth((weight, grad)).count.max(initial=0))
    products = max(products, weight[0].size)
    bound = 4 * (products + 3) * 2.0**-53 * magnitude
    assert abs(whole - by_input) <= bound, of
    assert abs(whole - by_weight) <= bound, of


DIFFERENTIATED = [
    case("strided", (5, 6), 3, stride=2, padding=1, channels=2, filters=3, batch=1, dtype="float64"),
    case("grouped, dilated", (7,), 3, stride=3, padding=2, dilation=2, channels=4, filters=2, groups=2, batch=2,
         dtype="float64"),
    case("reflected", (4, 5), 2, padding=2, padding_mode="reflect", channels=2, filters=2, batch=1, dtype="float64"),
    case("volume, circular", (3, 2, 3), 2, padding=1, padding_mode="circular", channels=1, filters=2, batch=1,
         dtype="float64"),
]  # fmt: skip


@pytest.mark.parametrize("of", DIFFERENTIATED, ids=str)
def test_gradients_are_what_numerical_differentiation_finds(backend: str, of: Case) -> None:
    x, weight, _ = of.arrays()
    grad = Gradient(of, "input_grad").operands()[1]

    def loss(x: np.ndarray, weight: np.ndarray) -> float:
        return inner(of.run((x, weight, None), backend=backend), grad)  # type: ignore[arg-type]

    def differences(of_array: Callable[[np.ndarray], float], at: np.ndarray, step: float = 2.0**-10) -> np.ndarray:
        found = np.empty(at.shape)
        for index in np.ndindex(at.shape):
            moved = np.zeros(at.shape)
            moved[index] = step
            found[index] = (of_array(at + moved) - of_array(at - moved)) / (2 * step)
        return found

    by_input = Gradient(of, "input_grad").run((weight, grad), backend=backend)
    by_weight = Gradient(of, "weight_grad").run((x, grad), backend=backend)
    np.testing.assert_allclose(by_input, differences(lambda v: loss(v, weight), x), rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_weight, differences(lambda v: loss(x, v), weight), rtol=0, atol=1e-10)


@every_direction
@pytest.mark.parametrize("name", ["stride 2", "NHWC groups", "reflect, depthwise", "3-D", "patch embedding"])
@pytest.mark.rotated("backend", "name")
def test_a_plan_is_a_pure_function_and_says_what_it_does(backend: str, name: str, direction: str) -> None:
    of = Gradient(named(name), direction)
    plan = of.plan(backend)
    choose_plan.cache_clear()
    again = of.plan(backend)
    assert plan == again
    assert hash(plan) == hash(again)
    assert plan.output_shape == of.shape
    assert plan.flops == of.case.plan(backend).flops
    first, grad = of.operands()
    assert plan.bytes == first.nbytes + grad.nbytes + math.prod(of.shape) * 4
    assert f"{backend}: asked for by argument" in plan.why
    for candidate in plan.candidates:
        assert candidate.algorithm in plan.why
        assert candidate.excluded in plan.why
        assert candidate.excluded or candidate.cost > 0
    assert plan.algorithm in {c.algorithm for c in plan.candidates if not c.excluded}


@every_direction
@every_dtype
def test_use_is_predicted_for_a_card_that_is_not_here(direction: str, dtype: str) -> None:
    shape, weight = (64, 128, 112, 112), (256, 128, 3, 3)
    plan = sk.plan_conv(shape, weight, dtype=dtype, stride=2, padding=1, direction=direction, device="H200")
    itemsize = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    result = math.prod(shape if direction == "input_grad" else weight) * itemsize
    assert plan.backend == "cuda"
    assert plan.device == profile("H200")
    assert plan.vram.output == result
    assert plan.vram.allocated == result + plan.vram.workspace
    grad = 64 * 256 * 56 * 56 * itemsize
    assert plan.vram.input == grad + (0 if direction == "input_grad" else math.prod(shape) * itemsize)
    assert plan.flops == 2 * 64 * 256 * 56 * 56 * 128 * 9
    if direction == "input_grad":
        assert "4 dense problems, one for each phase of the stride" in plan.why


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@every_direction
def test_what_is_predicted_for_the_card_is_what_is_allocated_on_it(direction: str) -> None:
    for name in ("stride 2", "reflect, dilated", "groups of odd channels", "filters in several tiles"):
        of = Gradient(replace(named(name), dtype="float16"), direction)
        on_paper = of.plan("auto", device="H200")
        with use_emulator():
            plan = replace(of.plan("cuda"), algorithm=on_paper.algorithm)
            plan = replace(plan, device=load_backend("cuda").device())
            with sk.vram.track() as usage:
                plan.execute(*of.operands())
        assert usage.peak == plan.vram.allocated
        assert on_paper.vram.output == plan.vram.output
