"""Tiles: every vector width computes the same sums, and the cheaper of two algorithms is taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends.cpu.forward.address_tables import MOST_PIXELS, Block, fill_reached_table
from stridekit.backends.cpu.forward.blocking import broadcast_blocking, lanewise_blocking
from stridekit.backends.cpu.runtime.processor import host
from tests.kit.warming import other_width

# One layer for each number of vectors a tile can have, and for what is left over of filters, pixels and channels.
PROGRAM = """
import numpy as np
import stridekit as sk
rng = np.random.default_rng(0)
def data(*shape):
    return rng.integers(-4, 5, shape).astype(np.float32)
for filters in (1, 4, 5, 16, 17, 37, 50, 64, 70):
    for groups, channels in ((1, 3), (1, 19)):
        for order in ("NCHW", "NHWC"):
            x, w = data(1, channels, 13, 11), data(filters, channels, 3, 2)
            if order == "NHWC":
                x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
            arguments = dict(stride=(2, 1), padding=1, layout=order)
            same = np.array_equal(
                sk.conv2d(x, w, backend="cpu", **arguments), sk.conv2d(x, w, backend="reference", **arguments)
            )
            assert same, (filters, channels, order)
    x, w = data(1, filters, 13, 11), data(filters, 1, 3, 3)
    arguments = dict(groups=filters, padding="same")
    same = np.array_equal(
        sk.conv2d(x, w, backend="cpu", **arguments), sk.conv2d(x, w, backend="reference", **arguments)
    )
    assert same, ("depthwise", filters)
print("same")
"""


OWN = str(8 * host().vector_bytes)
every_width = pytest.mark.parametrize(
    "bits",
    [
        pytest.param(bits, marks=[pytest.mark.thorough] * (bits not in (OWN, other_width())))
        for bits in ("128", "256", "512")
    ],
)


@every_width
def test_every_vector_width_computes_the_same_sums(bits: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "STRIDEKIT_VECTOR_BITS": bits},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr


ONE_TYPE = """
import sys
import numba
import numpy as np
import stridekit as sk
# Numba numbers functions in the order in which it compiles them, so each process numbers them differently.
for _ in range(int(sys.argv[1])):
    numba.njit(lambda: 0)()
for dtype in sys.argv[2:]:
    for filters in (12, 20, 40, 60):
        for groups in (1, filters):
            x = np.random.default_rng(0).integers(-2, 3, (1, filters, 9, 9)).astype(dtype)
            w = np.random.default_rng(1).integers(-2, 3, (filters, filters // groups, 3, 3)).astype(dtype)
            arguments = dict(groups=groups, padding=1)
            a, b = (sk.conv2d(x, w, backend=name, **arguments) for name in ("cpu", "reference"))
            assert np.array_equal(a, b), (dtype, filters, groups)
print("same")
"""


@pytest.mark.thorough
def test_code_that_several_processes_compiled_works_together(tmp_path: Path) -> None:
    for words in (["0", "float16"], ["6", "float32"], ["2", "float16", "float32"], ["3", "float32", "float16"]):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", ONE_TYPE, *words],
            env={**os.environ, "STRIDEKIT_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.stdout == "same\n", (words, done.stderr)


def test_a_vector_width_that_is_none_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from stridekit.backends.cpu.runtime.processor import host; host()"],
        env={**os.environ, "STRIDEKIT_VECTOR_BITS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ShapeError: STRIDEKIT_VECTOR_BITS is '300'; wanted 128, 256 or 512" in done.stderr


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "wanted"),
    [(64, 64, 64, "lanewise_tile"), (1, 512, 1, "broadcast_tile"), (32, 64, 32, "lanewise_tile"), (1, 1, 1, None)],
)
def test_depthwise_layers_take_the_lanewise_tile_and_one_channel_alone_does_not(
    channels: int, filters: int, groups: int, wanted: str | None
) -> None:
    plan = sk.plan_conv((1, channels, 56, 56), (filters, channels // groups, 3, 3), groups=groups, backend="cpu")
    assert wanted in (None, plan.algorithm)


@pytest.mark.parametrize("filters", range(1, 200, 3))
def test_the_vectors_of_a_layer_are_shared_out_evenly(filters: int) -> None:
    plan = sk.plan_conv((1, 8, 9, 9), (filters, 8, 3, 3), backend="cpu")
    b = broadcast_blocking(plan.problem, plan.device)
    whole, last = b.tile_vectors, b.vectors - (b.filter_blocks - 1) * b.tile_vectors
    assert 1 <= last <= whole <= max(host().tiles)
    assert b.vectors * b.lanes >= filters > (b.vectors - 1) * b.lanes
    assert b.filter_blocks == -(-b.vectors // max(host().tiles))


def test_the_order_of_a_sum_depends_on_nothing_but_the_sample_and_the_device() -> None:
    for batch in (1, 7):
        for cut in (broadcast_blocking, lanewise_blocking):
            blocks = set()
            for threads in (1, 2, 64):
                plan = sk.plan_conv((batch, 4096, 9, 9), (4096, 1, 3, 3), groups=4096, backend="cpu")
                device = type(host())(**{**vars(host()), "threads": threads})
                blocks.add(cut(plan.problem, device).channel_block)
            assert len(blocks) == 1
    deep = sk.plan_conv((1, 2048, 9, 9), (64, 2048, 3, 3), backend="cpu")
    assert broadcast_blocking(deep.problem, deep.device).channel_blocks > 1
    x = np.ones((3, 2048, 5, 5), np.float32)
    w = np.random.default_rng(0).standard_normal((4, 2048, 3, 3)).astype(np.float32)
    assert np.array_equal(sk.conv2d(x, w, backend="cpu")[1:2], sk.conv2d(x[1:2], w, backend="cpu"))


@pytest.mark.parametrize("bias", [None, -0.0])
@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan, 0.0])
def test_taps_left_out_in_the_padding_never_show(special: float, bias: float | None) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 8, 25, 35), np.float32)
    x[:, :, ::3] = 0
    w = rng.standard_normal((24, 8, 3, 3), np.float32)
    w[rng.random(w.shape) < 0.01] = special
    b = None if bias is None else np.full(24, bias, np.float32)
    before, results = sk.get_num_threads(), []
    try:
        for threads in (1, 2, 7, 16):
            sk.set_num_threads(threads)
            results.append(sk.conv2d(x, w, b, padding=1, backend="cpu"))
            plan = sk.plan_conv(x.shape, w.shape, padding=1, bias=b is not None, backend="cpu")
            with sk.vram.budget(plan.vram.output + plan.vram.workspace // 2):
                results.append(plan.execute(x, w, b))
    finally:
        sk.set_num_threads(before)
    # The bits of a NaN's payload are nobody's promise.
    for y in results[1:]:
        assert np.array_equal(np.isnan(y), np.isnan(results[0]))
        finite = ~np.isnan(y)
        assert y[finite].tobytes() == results[0][finite].tobytes()
    reference = sk.conv2d(x, w, b, padding=1, backend="reference")
    assert np.array_equal(np.isnan(reference), np.isnan(results[0]))


class Axis(NamedTuple):
    """What a table asks of an axis."""

    kernel: int
    stride: int
    dilation: int
    pad: int
    size: int


class Axes(NamedTuple):
    """The axes of a block."""

    d: Axis
    h: Axis
    w: Axis


def test_each_pixel_whose_window_reaches_into_the_padding_has_a_bit_for_every_tap_inside() -> None:
    import numba

    @numba.njit
    def fill(table: int, b: Axes, block: Block) -> None:
        fill_reached_table(table, b, False, block)

    axes = Axes(Axis(1, 1, 1, 0, 1), Axis(3, 1, 1, 1, 5), Axis(3, 1, 2, 2, 7))
    block = Block(origin=(0, 0, 0), low=(0, 1, 2), high=(1, 4, 5), stop=(1, 5, 7))
    outer = [(h, w) for h in range(5) for w in range(7) if not (1 <= h < 4 and 2 <= w < 5)]
    wanted = [
        sum(1 << (3 * r + s) for r in range(3) for s in range(3) if 0 <= h + r - 1 < 5 and 0 <= w + 2 * s - 2 < 7)
        for h, w in outer
    ]
    table = np.full(len(outer) + MOST_PIXELS + 8, -1, np.int64)
    fill(table.ctypes.data, axes, block)
    assert table.tolist() == wanted + wanted[-1:] * MOST_PIXELS + [-1] * 8
