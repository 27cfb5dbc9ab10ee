"""One equivalence test over every backend, algorithm, dtype and case: values, dtype, shape, memory order, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends import load_backend
from tests.kit.cases import ACTIVATIONS, DTYPES, EXACT_ACTIVATIONS, Arrays, Case
from tests.kit.curated import CURATED
from tests.kit.laying import MEMORY_ORDERS, TRANSPOSED, WAYS, empty_like_laid, lay
from tests.kit.oracle import assert_correct, assert_same_bits, channels_first
from tests.kit.thinning import every

every_case = pytest.mark.parametrize("case", CURATED, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def results_of_every_algorithm(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    """Run each algorithm of each backend that can, by name."""
    found = {}
    for backend in ("reference", "cpu"):
        plan = case.plan(backend)
        for candidate in plan.candidates:
            if not candidate.excluded:
                forced = replace(plan, algorithm=candidate.algorithm)
                found[candidate.algorithm] = forced.execute(*arrays)
                packed = forced.pack(arrays.weight)
                found[f"{candidate.algorithm}, packed"] = forced.execute(arrays.x, packed, arrays.bias)
    return found


def assert_lies(y: np.ndarray, case: Case) -> None:
    """Raise unless `y` is contiguous in the memory order that `case` promises."""
    stored = channels_first(y, case.channels_last)
    if case.memory_order == "channels_last":
        stored = np.moveaxis(stored, 1, -1)
    if not stored.flags.c_contiguous:
        raise AssertionError(f"{case}: strides {y.strides} of shape {y.shape} are not contiguous {case.memory_order}")


def test_a_third_of_the_cases_have_few_weights_over_many_channels() -> None:
    few = [c for c in CURATED if c.data == "sparse" and c.channels // c.groups >= 256]
    assert len(few) >= len(CURATED) / 3
    assert len({c.name for c in CURATED}) == len(CURATED)
    for c in few:
        weight = c.arrays().weight.reshape(c.filters, -1)
        assert np.count_nonzero(weight, axis=1).max() <= 4


@every_dtype
@every_case
@pytest.mark.rotated("dtype", "backend")
def test_result_is_right_to_the_bound(backend: str, case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    arrays = case.arrays()
    y = case.run(arrays, backend=backend)
    assert type(y) is np.ndarray
    assert y.shape == case.output_shape
    assert_correct(y, case, *arrays)
    assert_lies(y, case)


@every_case
def test_every_algorithm_is_right_to_the_bound(case: Case) -> None:
    arrays = case.arrays()
    for name, y in results_of_every_algorithm(case, arrays).items():
        assert_correct(y, replace(case, name=f"{case.name}, {name}"), *arrays)


@every_case
def test_every_way_to_cut_the_problem_is_right_to_the_bound(case: Case) -> None:
    arrays = case.arrays()
    for l2_bytes in (1 << 12, 1 << 16, 1 << 24):
        device = replace(load_backend("cpu").device(), l2_bytes=l2_bytes)
        for algorithm in ("broadcast_tile", "lanewise_tile"):
            plan = case.plan("cpu", device=device)
            if not any(c.excluded for c in plan.candidates if c.algorithm == algorithm):
                y = replace(plan, algorithm=algorithm).execute(*arrays)
                assert_correct(y, replace(case, name=f"{case.name}, {algorithm}, {l2_bytes} bytes"), *arrays)


@every_dtype
@every_case
@pytest.mark.rotated("dtype")
def test_small_integers_give_the_same_bits_in_every_backend_and_algorithm(case: Case, dtype: str) -> None:
    number = CURATED.index(case)
    activation = EXACT_ACTIVATIONS[number % len(EXACT_ACTIVATIONS)]
    case = replace(case, dtype=dtype, data="integers", activation=activation)
    arrays = case.arrays()
    results = results_of_every_algorithm(case, arrays)
    first = results.pop("sliding_taps")
    assert_correct(first, case, *arrays)
    for name, y in results.items():
        assert_same_bits(y, first, f"{case}, {name}")


def test_depthwise_problems_run_through_both_tiles() -> None:
    depthwise = next(c for c in CURATED if c.name == "depthwise with multiplier")
    assert {"sliding_taps", "broadcast_tile", "lanewise_tile"} <= set(
        results_of_every_algorithm(depthwise, depthwise.arrays())
    )


@pytest.mark.parametrize("way", [*WAYS, TRANSPOSED])
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@pytest.mark.parametrize("name", ["3x3 with padding", "65 filters, one beyond a tile", "NHWC depthwise", "3-D", "1-D"])
@every_dtype
@pytest.mark.rotated("backend", "name", "dtype", "memory", "way")
def test_out_receives_the_same_bits_however_it_lies(backend: str, name: str, dtype: str, memory: str, way: str) -> None:
    case = replace(next(c for c in CURATED if c.name == name), dtype=dtype)
    arrays = case.arrays()
    wanted = case.run(arrays, backend=backend)
    shape = (case.batch, case.filters, *case.output_sizes)
    out = empty_like_laid(shape, case.numpy_dtype, memory, way)
    out = np.moveaxis(out, 1, -1) if case.channels_last else out
    if way == "read_only":
        with pytest.raises(sk.LayoutError, match="out"):
            case.run(arrays, backend=backend, out=out)
        assert np.isnan(out.astype(np.float64)).all()
        return
    assert case.run(arrays, backend=backend, out=out) is out
    assert_same_bits(out, wanted, case)


@pytest.mark.parametrize("name", ["3x3 with padding", "65 filters, one beyond a tile", "NHWC depthwise", "depthwise"])
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@every_dtype
@pytest.mark.rotated("backend", "dtype", "memory")
def test_nothing_beside_out_is_written(backend: str, name: str, dtype: str, memory: str) -> None:
    case = replace(next(c for c in CURATED if c.name == name), dtype=dtype, data="integers")
    arrays = case.arrays()
    shape = (case.batch, case.filters, *case.output_sizes)
    large = lay(np.full([size + 2 for size in shape], 77, case.numpy_dtype), memory, "contiguous")
    inner = large[tuple(slice(1, -1) for _ in shape)]
    case.run(arrays, backend=backend, out=np.moveaxis(inner, 1, -1) if case.channels_last else inner)
    assert np.abs(inner.astype(np.float64)).max() != 77
    inner[...] = 77
    assert (large == 77).all()


@pytest.mark.parametrize("case", every(4, CURATED), ids=str)
@every_dtype
@pytest.mark.rotated("backend", "dtype")
def test_a_residual_is_added_before_the_activation(backend: str, case: Case, dtype: str) -> None:
    number = CURATED.index(case)
    case = replace(case, dtype=dtype, activation=ACTIVATIONS[number % len(ACTIVATIONS)])
    arrays, residual = case.arrays(), case.residual(list(WAYS)[number % len(WAYS)])
    y = case.run(arrays, residual=residual, backend=backend)
    assert_correct(y, case, *arrays, residual=residual)
    own = residual.copy()
    assert case.run(arrays, residual=own, out=own, backend=backend) is own
    assert_same_bits(own, y, case)


@every_case
def test_every_algorithm_that_adds_a_residual_gives_the_same_bits_of_small_integers(case: Case) -> None:
    case = replace(case, data="integers", activation=EXACT_ACTIVATIONS[CURATED.index(case) % len(EXACT_ACTIVATIONS)])
    arrays, residual = case.arrays(), case.residual()
    wanted = case.run(arrays, residual=residual, backend="reference")
    assert_correct(wanted, case, *arrays, residual=residual)
    plan = case.plan("cpu", residual=True)
    able = [each.algorithm for each in plan.candidates if not each.excluded]
    assert able
    for algorithm in able:
        forced = replace(plan, algorithm=algorithm)
        assert_same_bits(forced.execute(*arrays, residual=residual), wanted, f"{case}, {algorithm}")


def test_a_residual_counts_and_is_cut_with_the_output(backend: str) -> None:
    case = replace(next(c for c in CURATED if c.name == "3x3 with padding"), batch=4, sizes=(40, 41))
    arrays, residual = case.arrays(), case.residual()
    plan = case.plan(backend, residual=True)
    without = case.plan(backend)
    assert plan.vram.input - without.vram.input == plan.vram.output
    assert plan.bytes - without.bytes == residual.nbytes
    wanted = plan.execute(*arrays, residual=residual)
    with pytest.raises(sk.VramBudgetError) as caught, sk.vram.budget(0):
        plan.execute(*arrays, residual=residual)
    smallest = int(str(caught.value).split("that works is ")[1].split()[0])
    assert smallest <= plan.vram.allocated
    with sk.vram.budget(smallest) as usage:
        assert_same_bits(plan.execute(*arrays, residual=residual), wanted)
    assert usage.peak <= smallest


def test_a_residual_that_does_not_fit_is_refused_by_name() -> None:
    x, weight, out = np.ones((1, 3, 6, 6)), np.ones((4, 3, 3, 3)), np.zeros((1, 4, 4, 4))
    bad = {
        "residual has shape": np.zeros((1, 4, 5, 4)),
        "residual is float32": np.zeros((1, 4, 4, 4), np.float32),
    }
    for words, residual in bad.items():
        with pytest.raises(sk.StridekitError, match=words):
            sk.conv2d(x, weight, residual=residual)
    room = np.zeros((1, 4, 4, 8))
    with pytest.raises(sk.LayoutError, match="out overlaps residual"):
        sk.conv2d(x, weight, residual=room[..., 1:5], out=room[..., :4])
    plan = sk.plan_conv(x.shape, weight.shape, dtype="float64", residual=True)
    with pytest.raises(sk.ShapeError, match="made for a residual, residual is none"):
        plan.execute(x, weight)
    with pytest.raises(sk.ShapeError, match="made for no residual, residual is one"):
        sk.plan_conv(x.shape, weight.shape, dtype="float64").execute(x, weight, residual=out)
    with pytest.raises(sk.ShapeError, match="a gradient takes no residual"):
        sk.plan_conv(x.shape, weight.shape, residual=True, direction="input_grad")


BAD_INPUT = {
    "float32 with float64 weight": (lambda x, w: sk.conv2d(x, w.astype(np.float64)), sk.DtypeError),
    "integers": (lambda x, w: sk.conv2d(x.astype(int), w.astype(int)), sk.DtypeError),
    "complex": (lambda x, w: sk.conv2d(x.astype(complex), w.astype(complex)), sk.DtypeError),
    "no batch axis": (lambda x, w: sk.conv2d(x[0], w), sk.ShapeError),
    "too many axes": (lambda x, w: sk.conv2d(x[None], w), sk.ShapeError),
    "channels disagree": (lambda x, w: sk.conv2d(x[:, :2], w), sk.ShapeError),
    "kernel larger than input": (lambda x, w: sk.conv2d(x[:, :, :2], w), sk.ShapeError),
    "groups do not divide": (lambda x, w: sk.conv2d(x, w, groups=2), sk.ShapeError),
    "bias of wrong length": (lambda x, w: sk.conv2d(x, w, np.zeros(9, np.float32)), sk.ShapeError),
    "bias of wrong dtype": (lambda x, w: sk.conv2d(x, w, np.zeros(4)), sk.DtypeError),
    "stride 0": (lambda x, w: sk.conv2d(x, w, stride=0), sk.ShapeError),
    "negative padding": (lambda x, w: sk.conv2d(x, w, padding=-1), sk.ShapeError),
    "unknown padding": (lambda x, w: sk.conv2d(x, w, padding="full"), sk.ShapeError),
    "reflect beyond the input": (
        lambda x, w: sk.conv2d(x, w, padding=9, padding_mode="reflect"),
        sk.ShapeError,
    ),
    "unknown activation": (lambda x, w: sk.conv2d(x, w, activation="tanh"), sk.ShapeError),
    "unknown layout": (lambda x, w: sk.conv2d(x, w, layout="CHWN"), sk.LayoutError),
    "out of wrong shape": (
        lambda x, w: sk.conv2d(x, w, out=np.zeros((1, 4, 5, 5), np.float32)),
        sk.ShapeError,
    ),
    "out of wrong dtype": (lambda x, w: sk.conv2d(x, w, out=np.zeros((1, 4, 4, 4))), sk.DtypeError),
    "out is the input": (lambda x, w: sk.conv2d(x, w[:3, :, :1, :1], out=x), sk.LayoutError),
}


@pytest.mark.parametrize("what", BAD_INPUT)
@pytest.mark.rotated("backend")
def test_every_backend_raises_the_same_class_for_bad_input(backend: str, what: str) -> None:
    call, error = BAD_INPUT[what]
    x, weight = np.ones((1, 3, 6, 6), np.float32), np.ones((4, 3, 3, 3), np.float32)
    with sk.use_backend(backend), pytest.raises(sk.StridekitError) as caught:
        call(x, weight)
    assert caught.type is error
