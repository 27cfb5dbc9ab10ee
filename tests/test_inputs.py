"""Arrays as people have them: empty, tiny, read-only, on disk, backwards, broadcast, misaligned, of a subclass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype
from tests.kit.cases import DTYPES, Case, case
from tests.kit.curated import CURATED
from tests.kit.laying import TRANSPOSED, WAYS, lay
from tests.kit.oracle import assert_correct, assert_same_bits

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
PLAIN = case("plain", (9, 8), 3, padding=1, channels=6, bias=True)
LAST = replace(PLAIN, name="channels-last", channels_last=True, channels=64, filters=64, stride=(2, 2))
DEPTHWISE = case("depthwise", (9, 8), 3, padding=1, groups=12, channels=12, filters=24, bias=True)
KINDS = [PLAIN, LAST, DEPTHWISE]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@every_dtype
def test_an_empty_batch_gives_an_empty_result_of_the_right_shape(backend: str, dtype: str) -> None:
    for channels_last in (False, True):
        of = replace(PLAIN, batch=0, dtype=dtype, channels_last=channels_last)
        y = of.run(of.arrays(), backend=backend)
        assert y.shape == of.output_shape
        assert y.dtype == of.numpy_dtype
        out = np.empty(of.output_shape, of.numpy_dtype)
        assert of.run(of.arrays(), backend=backend, out=out) is out


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_empty_batch_lies_in_every_memory_order(backend: str, order: str, channels_last: bool) -> None:
    of = replace(PLAIN, batch=0, channels_last=channels_last)
    assert of.plan(backend, memory_order=order).execute(*of.arrays()).shape == of.output_shape


@every_dtype
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.rotated("backend", "dtype")
def test_one_pixel_works_in_every_rank(backend: str, dtype: str, rank: int, kernel: int) -> None:
    of = case("pixel", (1,) * rank, kernel, padding=kernel // 2, dtype=dtype, channels=7, batch=1)
    assert_correct(of.run(of.arrays(), backend=backend), of, *of.arrays())


@every_dtype
@every_kind
@pytest.mark.rotated("backend", "dtype")
def test_a_memory_mapped_input_works_without_a_copy_of_it(backend: str, kind: Case, dtype: str, tmp_path: Path) -> None:
    of = replace(kind, dtype=dtype)
    x, weight, bias = of.arrays()
    np.ascontiguousarray(x).tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", dtype=of.numpy_dtype, mode="r", shape=x.shape)
    y = of.run((mapped, weight, bias), backend=backend)
    assert type(y) is np.ndarray
    assert_same_bits(y, of.run((x, weight, bias), backend=backend), of)
    target = np.memmap(tmp_path / "y", dtype=of.numpy_dtype, mode="w+", shape=y.shape)
    assert of.run((mapped, weight, bias), backend=backend, out=target) is target
    target.flush()
    assert_same_bits(np.fromfile(tmp_path / "y", of.numpy_dtype).reshape(y.shape), y, of)


@every_dtype
def test_broadcast_inputs_are_read_where_they_lie(backend: str, dtype: str) -> None:
    of = replace(PLAIN, dtype=dtype)
    x, weight, bias = of.arrays()
    assert bias is not None
    for pick in ((0,), (slice(None), 0), (..., 0), (slice(None), slice(None), 0), (0, 0, 0, 0)):
        index = tuple(slice(i, i + 1) if isinstance(i, int) else i for i in pick)
        view = np.broadcast_to(x[index], x.shape)
        assert 0 in view.strides
        assert_correct(of.run((view, weight, bias), backend=backend), of, view, weight, bias)
        view = np.broadcast_to(weight[:, :1, :, :1], weight.shape)
        assert_correct(of.run((x, view, bias), backend=backend), of, x, view, bias)
        view = np.broadcast_to(bias[:1], bias.shape)
        assert_correct(of.run((x, weight, view), backend=backend), of, x, weight, view)


@every_dtype
@every_kind
@pytest.mark.parametrize("way", [*WAYS, TRANSPOSED])
@pytest.mark.rotated("backend", "kind", "dtype")
def test_bias_and_weight_may_lie_in_any_way(backend: str, kind: Case, dtype: str, way: str) -> None:
    of = replace(kind, dtype=dtype)
    x, weight, bias = of.arrays()
    assert bias is None or bias.size == of.filters
    wanted = of.run((x, weight, bias), backend=backend)
    laid = None if bias is None else lay(bias.reshape(1, -1, 1), "channels_first", way).reshape(-1)
    for memory in ("channels_first", "channels_last"):
        y = of.run((x, lay(weight, memory, way), laid), backend=backend)
        assert_same_bits(y, wanted, (kind, memory, way))


@every_dtype
@every_kind
@pytest.mark.rotated("backend", "dtype")
def test_a_bias_with_a_step_is_read_with_it(backend: str, kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype, bias=True)
    x, weight, bias = of.arrays()
    assert bias is not None
    wanted = of.run((x, weight, bias), backend=backend)
    spaced = np.full(3 * bias.size, np.nan, bias.dtype)[::3]
    spaced[...] = bias
    assert_same_bits(of.run((x, weight, spaced), backend=backend), wanted, kind)
    assert_same_bits(of.run((x, weight, np.array(bias[::-1])[::-1]), backend=backend), wanted, kind)


@every_dtype
@every_kind
@pytest.mark.rotated("backend", "dtype")
def test_fortran_order_works(backend: str, kind: Case, dtype: str) -> None:
    of = replace(kind, dtype=dtype)
    x, weight, bias = of.arrays()
    x, weight = np.asfortranarray(x), np.asfortranarray(weight)
    assert_correct(of.run((x, weight, bias), backend=backend), of, x, weight, bias)


def test_fields_of_a_structured_array_work(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    records = np.zeros(x.shape, [("flag", "u1"), ("value", "f4"), ("rest", "u2")])
    records["value"] = x
    assert records["value"].strides[-1] == 7
    wanted = PLAIN.run((x, weight, bias), backend=backend)
    assert_same_bits(PLAIN.run((records["value"], weight, bias), backend=backend), wanted)
    target = np.zeros(wanted.shape, [("flag", "u1"), ("value", "f4")])
    PLAIN.run((x, weight, bias), backend=backend, out=target["value"])
    assert_same_bits(np.ascontiguousarray(target["value"]), wanted)
    assert (target["flag"] == 0).all()


class Named(np.ndarray):
    """A subclass that would break any arithmetic done through it."""

    def __array_ufunc__(self, *args: object, **kwargs: object) -> object:
        raise AssertionError("the subclass's own arithmetic was used")

    def __getitem__(self, item: object) -> object:
        raise AssertionError("the subclass's own indexing was used")


def test_a_subclass_is_read_as_the_memory_it_holds(backend: str) -> None:
    x, weight, bias = PLAIN.arrays()
    assert bias is not None
    wanted = PLAIN.run((x, weight, bias), backend=backend)
    y = PLAIN.run((x.view(Named), weight.view(Named), bias.view(Named)), backend=backend)
    assert type(y) is np.ndarray
    assert_same_bits(y, wanted)


def test_a_masked_array_is_refused_since_its_mask_would_be_lost(backend: str) -> None:
    x, weight, _ = PLAIN.arrays()
    with pytest.raises(sk.DtypeError, match=r"x.*filled"):
        sk.conv2d(np.ma.masked_array(x), weight, backend=backend)


@pytest.mark.parametrize("of", CURATED, ids=str)
@pytest.mark.rotated("backend")
def test_operands_are_never_changed(backend: str, of: Case) -> None:
    arrays = of.arrays()
    before = [None if a is None else np.array(a) for a in arrays]
    of.run(arrays, backend=backend)
    for array, copy in zip(arrays, before, strict=True):
        if array is not None and copy is not None:
            assert_same_bits(array, copy, of)


def test_out_that_shares_memory_with_an_operand_is_refused_and_left_alone(backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    weight = np.ones((4, 4, 1, 1), np.float32)
    pool = np.zeros(x.size + 16, np.float32)
    head, shifted = pool[: x.size].reshape(x.shape), pool[16:].reshape(x.shape)
    head[...] = x
    before = pool.copy()
    for bad in (head, shifted, head[:, ::-1]):
        with pytest.raises(ValueError, match="out overlaps x"):
            sk.conv2d(head, weight, out=bad, backend=backend)
        assert_same_bits(pool, before)
    out = np.zeros((4, 4, 1, 1), np.float32)
    with pytest.raises(ValueError, match="out overlaps weight"):
        sk.conv2d(np.ones((4, 4, 1, 1), np.float32), out, out=out, backend=backend)
    both = np.zeros(4 * 4, np.float32)
    with pytest.raises(ValueError, match="out overlaps bias"):
        sk.conv2d(np.ones((4, 4, 1, 1), np.float32), weight, both[:4], out=both.reshape(4, 4, 1, 1), backend=backend)


def test_out_may_lie_between_the_pixels_of_the_input(backend: str) -> None:
    """Interleaved views share a buffer but no element."""
    pool = np.zeros((2, 4, 6, 12), np.float32)
    x, out = pool[..., ::2], pool[..., 1::2]
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    before = x.copy()
    weight = np.full((4, 4, 1, 1), 0.5, np.float32)
    assert_same_bits(sk.conv2d(x, weight, out=out, backend=backend), sk.conv2d(before, weight, backend=backend))
    assert_same_bits(np.ascontiguousarray(x), before)


@pytest.mark.parametrize("strides", [(0, 0, 0, 4), (0, 0, 4, 4), (4, 4, 8, 4)], ids=str)
def test_out_whose_elements_share_memory_is_refused(backend: str, strides: tuple[int, ...]) -> None:
    x, weight = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 1, 1), np.float32)
    shared = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (1, 1, 4, 4), strides)
    with pytest.raises(sk.LayoutError, match="out"):
        sk.conv2d(x, weight, out=shared, backend=backend)


def test_results_of_two_calls_share_no_memory(backend: str) -> None:
    arrays = PLAIN.arrays()
    a, b = (PLAIN.run(arrays, backend=backend) for _ in range(2))
    assert not np.shares_memory(a, b)
    assert a.flags.writeable
    assert not any(np.shares_memory(a, array) for array in arrays if array is not None)


@every_dtype
def test_weights_that_change_in_place_are_read_anew(backend: str, dtype: str) -> None:
    x = np.ones((1, 2, 4, 4), numpy_dtype(dtype))
    weight = np.ones((3, 2, 3, 3), x.dtype)
    first = sk.conv2d(x, weight, backend=backend)
    weight *= x.dtype.type(2)
    assert_same_bits(sk.conv2d(x, weight, backend=backend), first * x.dtype.type(2))
