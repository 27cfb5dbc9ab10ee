"""The cuda backend on a GPU: that hardware does as the emulator says, and what only hardware can show.

Streams, devices, CuPy's own pool, and arrays of more than 2**31 elements. No kernel of CuPy's takes part: arrays go to
the device and back as bytes, gaps and all.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from bench.gpu_cases import check, only, small_cases
from bench.gpu_memory import measured, pool_use
from stridekit.backends import load_backend, unavailable
from stridekit.backends.cuda.gemm_kernels import LOADERS
from stridekit.backends.cuda.tiles import Tile
from stridekit.memory.arrays import numpy_dtype
from tests.kit.cases import DTYPES, EXACT_ACTIVATIONS, Arrays, Case, case
from tests.kit.curated import CURATED
from tests.kit.laying import MEMORY_ORDERS, TRANSPOSED, WAYS, empty_like_laid
from tests.kit.oracle import assert_correct, assert_same_bits, assert_within, truth
from tests.test_budget import smallest
from tests.test_cuda_kernels import KINDS, assert_within_tf32, tailed
from tests.test_determinism import LARGE
from tests.test_nonfinite import KINDS as NONFINITE
from tests.test_nonfinite import PLANTED, plant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(unavailable("cuda")), reason=f"cuda: {unavailable('cuda')}"),
]

ALIGNED = [of for of in CURATED if "misaligned" not in (of.lies, of.weight_lies)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_case = pytest.mark.parametrize("of", ALIGNED, ids=str)


def put(array: np.ndarray) -> Any:
    """Copy an array to the device so that it lies there as it does here: same steps, same gaps, same alignment."""
    import cupy

    low, high = np.lib.array_utils.byte_bounds(array)
    offset, first = low % 16, array.__array_interface__["data"][0] - low
    pool = cupy.empty(offset + high - low + 1, np.uint8)
    if array.size:
        held = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
        pool[offset : offset + high - low].set(held)
    return cupy.ndarray(array.shape, array.dtype, pool.data + (offset + first), strides=array.strides)


def back(array: Any) -> np.ndarray:
    """Copy an array from the device so that it lies here as it did there."""
    import cupy

    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    reach = [step * (size - 1) for step, size in zip(array.strides, array.shape, strict=True)]
    low, high = sum(min(0, r) for r in reach), sum(max(0, r) for r in reach) + array.itemsize
    flat = cupy.ndarray((high - low,), np.uint8, array.data + low).get()
    return np.ndarray(array.shape, array.dtype, flat, -low, array.strides)


def put_all(arrays: Arrays) -> list[Any]:
    return [None if array is None else put(array) for array in arrays]


def every_algorithm(of: Case, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Run each algorithm that can, with weights as given and packed."""
    x, weight, bias = put_all(arrays)
    plan = of.plan("cuda")
    for candidate in plan.candidates:
        if not candidate.excluded:
            forced = replace(plan, algorithm=candidate.algorithm)
            yield candidate.algorithm, back(forced.execute(x, weight, bias))
            yield f"{candidate.algorithm}, packed", back(forced.execute(x, forced.pack(weight), bias))


# Numbers.


@every_dtype
@every_case
def test_every_algorithm_is_right_to_the_bound(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    arrays = of.arrays()
    exact = truth(of, *arrays)
    for name, y in every_algorithm(of, arrays):
        assert (y.shape, y.dtype) == (of.output_shape, of.numpy_dtype)
        assert_within(np.moveaxis(y, -1, 1) if of.channels_last else y, exact, dtype, of.activation, (of, name))


@every_dtype
@pytest.mark.parametrize("of", ALIGNED[::2], ids=str)
def test_small_integers_give_the_references_bits_in_every_algorithm(of: Case, dtype: str) -> None:
    activation = EXACT_ACTIVATIONS[ALIGNED.index(of) % len(EXACT_ACTIVATIONS)]
    of = replace(of, dtype=dtype, data="integers", activation=activation)
    arrays = of.arrays()
    wanted = of.run(arrays, backend="reference")
    for name, y in every_algorithm(of, arrays):
        assert_same_bits(y, wanted, (of, name))


@pytest.mark.parametrize("small", list(small_cases(every_tile=True)), ids=lambda s: f"{s.dtype}-{s.algorithm}-{s.name}")
def test_every_family_of_kernels_gives_the_references_bits(small: Any) -> None:
    check(small)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("dtype", "product", "tile"), KINDS, ids=lambda v: getattr(v, "name", v) or "fma")
def test_every_tile_and_way_to_read_is_right_on_tails(dtype: str, product: str, tile: Tile, loader: str) -> None:
    of = tailed(loader, dtype, tile)
    arrays = of.arrays()
    with only(tile):
        plan = of.plan("cuda", precision="tf32" if product == "Tf32Product" else "ieee")
        plan = replace(plan, algorithm="implicit_gemm" if product else "implicit_gemm_fma", device=plan.device.frugal())
        y = back(plan.execute(*put_all(arrays)))
    if product == "Tf32Product":
        assert_within_tf32(y, of, *arrays)
    else:
        assert_correct(y, of, *arrays)


@every_dtype
@pytest.mark.parametrize("of", LARGE, ids=str)
def test_a_sample_is_the_same_in_every_run_alone_and_in_any_batch(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    x, weight, bias = of.arrays()
    on_device = put_all(of.arrays())[1:]
    whole = back(of.run((put(x), *on_device), backend="cuda"))
    assert_correct(whole, of, x, weight, bias)
    for _ in range(3):
        assert_same_bits(back(of.run((put(x), *on_device), backend="cuda")), whole, of)
    for n in range(of.batch):
        assert_same_bits(back(of.run((put(x[n : n + 1]), *on_device), backend="cuda")), whole[n : n + 1], of)
    many = np.concatenate([x] * 11)
    assert_same_bits(back(of.run((put(many), *on_device), backend="cuda")), np.concatenate([whole] * 11), of)


@every_dtype
@pytest.mark.parametrize("kind", NONFINITE, ids=str)
def test_what_is_not_finite_spreads_as_the_definition_says(kind: Case, dtype: str, rng: np.random.Generator) -> None:
    of = replace(kind, dtype=dtype)
    arrays = of.arrays()._replace(x=plant(of, PLANTED["all"], rng))
    for name, y in every_algorithm(of, arrays):
        assert_correct(y, replace(of, name=f"{of.name}, {name}"), *arrays)


@every_dtype
@pytest.mark.parametrize("channels_last", [False, True])
def test_subnormals_come_through_unchanged(dtype: str, channels_last: bool) -> None:
    of = case("subnormal", (9, 8), 1, channels=64, filters=64, dtype=dtype, channels_last=channels_last)
    arrays = of.arrays()
    bits = np.dtype(f"u{arrays.x.itemsize}")
    small = np.arange(arrays.x.size, dtype=bits).reshape(arrays.x.shape).view(of.numpy_dtype)
    identity = np.eye(64).reshape(arrays.weight.shape).astype(of.numpy_dtype)
    for name, y in every_algorithm(of, Arrays(small, identity, None)):
        assert_same_bits(y, small, (of, name))


# Arrays.


@pytest.mark.parametrize("way", [*(way for way in WAYS if way not in ("read_only", "misaligned")), TRANSPOSED])
@pytest.mark.parametrize("memory", MEMORY_ORDERS)
@pytest.mark.parametrize("name", ["3x3 with padding", "65 filters, one beyond a tile", "NHWC depthwise", "3-D"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_out_receives_the_same_bits_however_it_lies(name: str, dtype: str, memory: str, way: str) -> None:
    of = replace(next(c for c in CURATED if c.name == name), dtype=dtype)
    arrays = put_all(of.arrays())
    wanted = back(of.run(arrays, backend="cuda"))
    out = empty_like_laid((of.batch, of.filters, *of.output_sizes), of.numpy_dtype, memory, way)
    target = put(np.moveaxis(out, 1, -1) if of.channels_last else out)
    assert of.run(arrays, backend="cuda", out=target) is target
    assert_same_bits(back(target), wanted, of)


@every_dtype
def test_arrays_of_numpy_go_to_the_device_and_come_back_as_numpys(dtype: str) -> None:
    for of in CURATED[::12]:
        of = replace(of, dtype=dtype)
        arrays = of.arrays()
        y = of.run(arrays, backend="cuda")
        assert type(y) is np.ndarray
        assert_correct(y, of, *arrays)


def test_arrays_of_two_libraries_or_off_their_elements_are_refused() -> None:
    of = case("plain", (6, 6), 3)
    x, weight, _ = of.arrays()
    for mixed in ((put(x), weight), (x, put(weight))):
        with pytest.raises(sk.BackendUnavailableError, match="nothing is copied between them silently"):
            sk.conv2d(*mixed)
    with pytest.raises(sk.BackendUnavailableError, match=r"cupy\.asnumpy"):
        sk.conv2d(put(x), put(weight), backend="cpu")
    with pytest.raises(sk.LayoutError, match="whole elements"):
        sk.conv2d(put(replace(of, lies="misaligned").arrays().x), put(weight))


# Memory.


@every_dtype
@pytest.mark.parametrize("of", [of for of in ALIGNED if of.batch][::9], ids=str)
def test_the_estimate_is_what_the_pool_gives_out_to_the_byte(of: Case, dtype: str) -> None:
    plan = replace(of, dtype=dtype).plan("cuda")
    for candidate, packed, out_given in itertools.product(plan.candidates, (False, True), (False, True)):
        if not candidate.excluded:
            forced = replace(plan, algorithm=candidate.algorithm)
            predicted, taken = measured(forced, packed=packed, out_given=out_given)
            assert predicted == taken, (of, candidate.algorithm, packed, out_given)


@every_dtype
@pytest.mark.parametrize("of", LARGE[:3], ids=str)
def test_every_budget_gives_the_same_bits_in_so_many_bytes(of: Case, dtype: str) -> None:
    of = replace(of, dtype=dtype)
    x, weight, bias = put_all(of.arrays())
    plan = of.plan("cuda")
    wanted, most = back(plan.execute(x, weight, bias)), plan.vram.allocated
    with pytest.raises(sk.VramBudgetError) as refused, sk.vram.budget(0):
        plan.execute(x, weight, bias)
    least = smallest(refused.value)
    for limit in {least, (least + most) // 2, max(least, most - 1), most}:
        with sk.vram.budget(limit) as usage, pool_use() as pool:
            assert_same_bits(back(plan.execute(x, weight, bias)), wanted, (of, limit))
        # The copy back has no array of its own on the device.
        assert pool.peak == usage.peak <= limit


def test_a_pool_that_is_too_small_becomes_a_budget_error_and_recovers() -> None:
    import cupy

    of = replace(LARGE[0], dtype="float16")
    arrays, pool = put_all(of.arrays()), cupy.cuda.MemoryPool()
    wanted = back(of.run(arrays, backend="cuda"))
    with cupy.cuda.using_allocator(pool.malloc):
        pool.set_limit(size=wanted.nbytes // 2)
        with pytest.raises(sk.VramBudgetError, match="bytes free"):
            of.run(arrays, backend="cuda")
        assert pool.used_bytes() == 0
        pool.set_limit(size=0)
        assert_same_bits(back(of.run(arrays, backend="cuda")), wanted)


# Streams and devices.

SPIN = """
extern "C" __global__ void spin(long long nanoseconds) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - begin < static_cast<unsigned long long>(nanoseconds));
}
"""


@pytest.mark.parametrize("of", [LARGE[0], LARGE[3]], ids=str)
def test_a_call_waits_for_its_own_stream_and_lets_the_host_go_on(of: Case) -> None:
    """The input is made late, on a stream that no other waits for; the call returns while it is still being made."""
    import cupy

    of = replace(of, dtype="float16")
    x, weight, bias = put_all(of.arrays())
    plan = of.plan("cuda")
    wanted, late = back(plan.execute(x, weight, bias)), put(np.full(of.input_shape, np.nan, of.numpy_dtype))
    spin, stream = cupy.RawKernel(SPIN, "spin"), cupy.cuda.Stream(non_blocking=True)
    spin((1,), (1,), (np.int64(1),))
    with stream:
        # What a stream's first calls allocate comes from the driver, which may wait.
        plan.execute(x, weight, bias)
    cupy.cuda.Device().synchronize()
    with stream:
        spin((1,), (1,), (np.int64(500_000_000),))
        late.data.copy_from_device_async(x.data, x.nbytes)
        begin = time.perf_counter()
        y = plan.execute(late, weight, bias)
        taken, waited = time.perf_counter() - begin, stream.done
    assert not waited, f"execute returned after {taken:.3f} s, when the stream had run empty"
    stream.synchronize()
    assert_same_bits(back(y), wanted, of)


def test_arrays_run_on_the_device_on_which_they_lie() -> None:
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one device here; this needs two")
    of = replace(LARGE[2], dtype="float16")
    wanted, here = back(of.run(put_all(of.arrays()), backend="cuda")), put_all(of.arrays())
    with cupy.cuda.Device(1):
        there = put_all(of.arrays())
    y = of.run(there)
    assert (y.device.id, cupy.cuda.Device().id) == (1, 0)
    with cupy.cuda.Device(1):
        assert_same_bits(back(y), wanted, of)
    with pytest.raises(sk.LayoutError, match="lies on cuda:1"):
        of.run((here[0], *there[1:]))


def test_the_device_is_described_by_numbers_that_can_be_true() -> None:
    device = load_backend("cuda").device()
    assert device.compute_capability >= (8, 0)
    assert 1 <= device.multiprocessors < 1000
    assert 2e8 < device.clock_hz < 1e10
    assert 1e11 < device.memory_bytes_per_s < 1e14
    assert device.memory_bytes > 2**30
    assert 48 * 1024 < device.shared_bytes_of_block <= device.shared_bytes_of_multiprocessor


# Sizes.


def zeros(shape: tuple[int, ...], dtype: str, needed: int) -> Any:
    """Return zeros on the device, or skip where `needed` bytes are more than is free."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    free = cupy.cuda.runtime.memGetInfo()[0]
    if free < needed:
        pytest.skip(f"it takes {needed / 1e9:.0f} GB of memory; {free / 1e9:.0f} GB are free")
    array = cupy.empty(shape, numpy_dtype(dtype))
    array.data.memset(0, array.nbytes)
    return array


def test_more_than_two_to_the_31_pixels_are_read_and_written_to_their_end() -> None:
    last = np.random.default_rng(3).integers(-3, 4, 64).astype(np.float16)
    x = zeros((1, 1, 2**31 + 64, 1), "float16", 12 << 30)
    x.reshape(-1)[-64:].set(last)
    weight = np.array([1, -2, 3], np.float16)
    y = sk.conv2d(x, put(weight.reshape(1, 1, 3, 1)))
    wanted = np.correlate(np.concatenate([np.zeros(2, np.float16), last]).astype(float), weight.astype(float), "valid")
    assert y.shape == (1, 1, 2**31 + 62, 1)
    flat = y.reshape(-1)
    np.testing.assert_array_equal(flat[-64:].get(), wanted)
    for place in (0, 2**30, 2**31 - 2**16):
        assert not flat[place : place + 4096].get().any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_than_two_to_the_31_outputs_of_a_tile_are_written_to_their_end(channels_last: bool) -> None:
    rows, columns, channels, filters = 2**13, 2**12 + 8, 8, 64
    rng = np.random.default_rng(4)
    weight = rng.integers(-2, 3, (filters, channels, 1, 1)).astype(np.float16)
    last = rng.integers(-3, 4, (16, channels)).astype(np.float16)
    shape = (1, rows, columns, channels) if channels_last else (1, channels, rows, columns)
    x = zeros(shape, "float16", 12 << 30)
    if channels_last:
        x.reshape(-1, channels)[-16:].set(last)
    else:
        for channel in range(channels):
            x.reshape(channels, -1)[channel, -16:].set(np.ascontiguousarray(last[:, channel]))
    layout = "NHWC" if channels_last else "NCHW"
    plan = sk.plan_conv(shape, weight.shape, dtype="float16", layout=layout, backend="cuda")
    y = replace(plan, algorithm="implicit_gemm").execute(x, put(weight))
    assert y.size > 2**31
    wanted = last.astype(float) @ weight.reshape(filters, channels).T.astype(float)
    flat = y.reshape(-1, filters) if channels_last else y.reshape(filters, -1)
    for k in (0, filters // 2, filters - 1):
        got = flat[-16:].get()[:, k] if channels_last else flat[k, -16:].get()
        np.testing.assert_array_equal(got, wanted[:, k])
    assert not (flat[:-16][-4096:] if channels_last else flat[-1, -4112:-16]).get().any()
