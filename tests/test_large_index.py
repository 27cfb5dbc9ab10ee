"""Offsets past 2**31 elements and 2**33 bytes, in a sparse file of which only a few pages exist."""

from __future__ import annotations

import itertools
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stridekit as sk
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.kit.oracle import assert_same_bits

GIB = 2**30
ELEMENTS = 2**32 + 2**20


@pytest.fixture
def large(tmp_path: Path) -> np.ndarray:
    """A flat float32 array of more than 16 GiB that takes no room until it is written."""
    path = tmp_path / "sparse"
    try:
        with path.open("wb") as file:
            file.truncate(ELEMENTS * 4)
        array = np.memmap(path, np.float32, "r+", shape=(ELEMENTS,))
    except OSError as error:
        pytest.skip(f"no sparse file of 16 GiB here: {error}")
    return array


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(-3, 4, shape).astype(np.float32)


def far_apart(large: np.ndarray, shape: tuple[int, ...], memory: str) -> np.ndarray:
    """View `large` as an ``(N, C, H, W)`` array whose last element lies near its end: every axis steps far."""
    steps = [2**31, 2**30, 2**29, 2**27] if memory == "channels_first" else [2**31, 1, 2**30, 2**28]
    view = np.lib.stride_tricks.as_strided(large, shape, [4 * step for step in steps])
    last = sum(step * (size - 1) for step, size in zip(steps, shape, strict=True))
    assert 2**31 < last < ELEMENTS
    assert 4 * last > 2**33
    return view


@pytest.mark.parametrize("memory", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 2])
def test_elements_far_apart_are_read_where_they_lie(backend: str, large: np.ndarray, memory: str, groups: int) -> None:
    x = far_apart(large, (2, 2, 2, 3), memory)
    x[...] = numbers(*x.shape)
    weight = numbers(4, 2 // groups, 2, 2)
    for keywords in ({"padding": 1}, {"stride": 2, "padding": "same"}, {"padding": "valid"}):
        y = sk.conv2d(x, weight, groups=groups, backend=backend, **keywords)
        wanted = sk.conv2d(np.array(x), weight, groups=groups, backend="reference", **keywords)
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("memory", ["channels_first", "channels_last"])
def test_elements_far_apart_are_written_where_they_belong(backend: str, large: np.ndarray, memory: str) -> None:
    x, weight = numbers(2, 3, 2, 3), numbers(2, 3, 3, 3)
    out = far_apart(large, (2, 2, 2, 3), memory)
    assert sk.conv2d(x, weight, padding=1, out=out, backend=backend) is out
    wanted = sk.conv2d(x, weight, padding=1, backend="reference")
    np.testing.assert_array_equal(out, wanted)
    # Nothing has been written beside it: the neighbours of every element are still zero.
    before = np.lib.stride_tricks.as_strided(large[3:], out.shape, out.strides)
    assert not before.any()


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize(("memory", "loader"), [("channels_last", "chunks"), ("channels_first", "elements")])
def test_the_implicit_gemm_reads_and_writes_elements_far_apart(large: np.ndarray, memory: str, loader: str) -> None:
    x = far_apart(large, (2, 4, 2, 3), memory) if memory == "channels_last" else far_apart(large, (2, 2, 2, 3), memory)
    if memory == "channels_first":
        # Four channels, so that they fill a chunk: the middle ones lie between the others.
        steps = [4 * step for step in (2**31, 2**29, 2**28, 2**26)]
        x = np.lib.stride_tricks.as_strided(large, (2, 4, 2, 3), steps)
    x[...] = numbers(*x.shape)
    weight = numbers(4, 4, 2, 2)
    with use_emulator() as runtime:
        plan = sk.plan_conv(x.shape, weight.shape, padding=1, backend="cuda", memory_order=memory)
        forced = replace(plan, algorithm="implicit_gemm_fma", device=plan.device.frugal())
        y = forced.execute(np.lib.stride_tricks.as_strided(x, x.shape, x.strides), weight)
        assert any(entry.endswith(loader) for entry in runtime.launched)
    np.testing.assert_array_equal(y, sk.conv2d(np.array(x), weight, padding=1, backend="reference"))


@pytest.mark.parametrize("stride", [2**28, 2**29 + 1, 2**30])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_signal_of_more_than_two_to_the_31_samples_is_read_to_its_end(
    compiled_backend: str, large: np.ndarray, stride: int, channels_last: bool
) -> None:
    weight = numbers(3, 1, 3)
    outputs = (ELEMENTS - 3) // stride + 1
    wanted = np.zeros((1, 3, outputs), np.float32)
    for o in range(outputs):
        window = numbers(outputs, 3)[o]
        large[o * stride : o * stride + 3] = window
        wanted[0, :, o] = weight[:, 0] @ window
    x = large.reshape(1, -1, 1) if channels_last else large.reshape(1, 1, -1)
    layout = "NWC" if channels_last else "NCW"
    y = sk.conv1d(x, weight, stride=stride, backend=compiled_backend, layout=layout)
    assert_same_bits(np.ascontiguousarray(np.moveaxis(y, -1, 1) if channels_last else y), wanted)


def test_a_row_of_a_huge_picture_is_read_to_its_end(compiled_backend: str, large: np.ndarray) -> None:
    """Two channels of one row each, two billion pixels wide: positions stay small, offsets do not."""
    x = large[: 2**32].reshape(1, 2, 1, 2**31)
    x[0, :, 0, -5:] = numbers(2, 5)
    weight = numbers(2, 2, 1, 2)
    y = sk.conv2d(x, weight, stride=(1, 2**31 - 2), backend=compiled_backend)
    wanted = np.einsum("kcs,cs->k", weight[:, :, 0], x[0, :, 0, -2:])
    np.testing.assert_array_equal(y[0, :, 0], np.stack([np.zeros(2, np.float32), wanted], axis=1))


def test_a_broadcast_input_of_more_than_two_to_the_31_elements_needs_no_memory(compiled_backend: str) -> None:
    x = np.broadcast_to(np.float32(2), (1, 1, 2**33))
    y = sk.conv1d(x, np.ones((2, 1, 4), np.float32), stride=2**31, padding=(2,), backend=compiled_backend)
    np.testing.assert_array_equal(y, np.tile(np.float32([4, 8, 8, 8, 4]), (1, 2, 1)))


@pytest.mark.parametrize("mode", ["zeros", "replicate", "reflect", "circular"])
def test_padding_of_a_huge_signal_is_found_at_both_ends(compiled_backend: str, large: np.ndarray, mode: str) -> None:
    ends = numbers(8)
    large[:4], large[-4:] = ends[:4], ends[4:]
    step = ELEMENTS + 4 - 3
    with sk.use_backend(compiled_backend):
        weight = np.ones((1, 1, 3), np.float32)
        y = sk.conv1d(large.reshape(1, 1, -1), weight, stride=step, padding=2, padding_mode=mode)
    first = {"zeros": ends[0], "replicate": 3 * ends[0], "reflect": ends[2] + ends[1] + ends[0],
             "circular": ends[6] + ends[7] + ends[0]}  # fmt: skip
    last = {"zeros": ends[7], "replicate": 3 * ends[7], "reflect": ends[7] + ends[6] + ends[5],
            "circular": ends[7] + ends[0] + ends[1]}  # fmt: skip
    np.testing.assert_array_equal(y[0, 0], [first[mode], last[mode]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_plans_of_more_than_two_to_the_31_elements_count_right(backend: str, dtype: str) -> None:
    n, c, h, w, k = 70, 128, 1025, 1023, 256
    plan = sk.plan_conv((n, c, h, w), (k, c, 3, 3), dtype=dtype, stride=2, padding=1, bias=True, backend=backend)
    itemsize = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    outputs = n * k * 513 * 512
    assert outputs > 2**31
    assert plan.output_shape == (n, k, 513, 512)
    assert plan.flops == 2 * outputs * c * 9
    assert plan.vram.output == outputs * itemsize
    assert plan.vram.input == n * c * h * w * itemsize
    assert plan.bytes == (n * c * h * w + k * c * 9 + k + outputs) * itemsize
    assert plan.vram.workspace > 0


def test_sizes_of_numpys_own_integers_do_not_wrap_around() -> None:
    sizes = np.array([70_000, 128, 1025, 1023], np.int32)
    with np.errstate(all="raise"):
        plan = sk.plan_conv(tuple(sizes), tuple(np.array([256, 128, 3, 3], np.int32)), stride=2, backend="cpu")
        assert plan.flops == 2 * 70_000 * 256 * 512 * 511 * 128 * 9
        assert plan.vram.input == 70_000 * 128 * 1025 * 1023 * 4


def test_geometry_of_huge_axes_is_exact() -> None:
    size = 2**62 + 1
    g = sk.conv_geometry(size, kernel_size=3, stride=2)
    assert g.output_size == ((size - 3) // 2 + 1,)
    assert (g.remainder, g.dropped) == ((0,), (0,))
    assert g.input_window((2**61 - 1,)) == (range(2**62 - 2, 2**62 + 1),)
    assert g.outputs_reading((2**62,)) == ((2**61 - 1,),)
    same = sk.conv_geometry(size, kernel_size=7, stride=4, padding="same")
    assert same.output_size == (2**60 + 1,)


def test_this_file_stays_under_half_a_gibibyte_of_memory(large: np.ndarray) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x = far_apart(large, (2, 2, 2, 3), "channels_first")
    for stride, padding in itertools.product((1, 2), (0, 1)):
        sk.conv2d(x, numbers(4, 2, 2, 2), stride=stride, padding=padding, backend="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIB / 2 / 1024
