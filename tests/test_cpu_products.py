"""Convolutions as matrix products: one pixel of many channels, one filter of many pixels, and what lies between."""

from __future__ import annotations

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
from stridekit.backends.cpu.products.blocking import INNER_DEPTH, axes, end_to_end
from tests.kit.cases import DTYPES, Case, case
from tests.kit.gradients import DIRECTIONS, Gradient
from tests.kit.guarded import guarded
from tests.kit.laying import TRANSPOSED, WAYS, lay
from tests.kit.oracle import assert_correct, assert_same_bits, channels_first
from tests.test_bounds import allocate_guarded

CASES = [
    case("one pixel", (1, 1), 1, channels=70, filters=37, bias=True),
    case("one pixel of a batch", (1,), 1, channels=19, filters=70, batch=9, activation="relu"),
    case("one pixel, padded", (1, 1), 3, padding=1, channels=21, filters=19, bias=True),
    case("few pixels", (2, 3), 3, padding=1, channels=20, filters=50, batch=2),
    case("few pixels, reflected", (3, 2), 3, padding=1, channels=5, filters=9, padding_mode="reflect", bias=True),
    case("kernel as large as the image", (3, 5), (3, 5), channels=11, filters=33, batch=5, bias=True),
    case("sums longer than one run", (1, 2), 1, channels=INNER_DEPTH + 9, filters=5, batch=3),
    case("long windows, strided", (2, 2, 2), 3, stride=2, padding=1, channels=83, filters=4),
    case("one filter", (37, 31), 1, channels=5, filters=1, bias=True, activation=("leaky_relu", 0.125)),
    case("one filter of one channel", (1100,), 1, channels=1, filters=1, batch=2),
    case("few filters, strided", (9, 23), 1, stride=(2, 1), channels=35, filters=3),
    case("more filters than a task has rows", (3, 47), 1, channels=33, filters=50, bias=True),
    case("groups", (5, 7), 1, groups=3, channels=9, filters=12, batch=2, bias=True),
    case("groups of a pixel", (1, 1), 1, groups=5, channels=85, filters=20),
    case("volume", (2, 3, 4), 1, channels=6, filters=2, batch=2),
    case("stride beyond kernel, dilated", (9, 8), 2, stride=(5, 4), dilation=(3, 1), channels=7, filters=10),
]
PRODUCTS = ("window_product", "turned_product", "plane_product")


def laid_out(number: int, of: Case) -> Case:
    """Rotate dtypes, layouts and ways to lie over the cases."""
    ways = [*WAYS, TRANSPOSED]
    return replace(
        of,
        dtype=DTYPES[number % 4],
        channels_last=number % 3 == 1,
        lies=ways[number % len(ways)],
        weight_lies=ways[(number + 3) % len(ways)],
    )


ROTATED = [laid_out(number, of) for number, of in enumerate([*CASES, *CASES[::-1]])]
rotated = pytest.mark.parametrize("of", ROTATED, ids=[f"{of}-{number}" for number, of in enumerate(ROTATED)])


def products(plan: Any) -> Iterator[Any]:
    """Yield the plan with each matrix product that can compute it."""
    for candidate in plan.candidates:
        if candidate.algorithm in PRODUCTS and not candidate.excluded:
            yield replace(plan, algorithm=candidate.algorithm)


def with_threads(of: Case | Gradient, threads: int) -> Any:
    return of.plan("cpu", device=replace(load_backend("cpu").device(), threads=threads))


@rotated
@pytest.mark.usefixtures("threads")
def test_every_product_has_the_bits_of_the_definition(of: Case) -> None:
    """Small integers are exact in any order: nothing may be left out or counted twice, in any direction."""
    of = replace(of, data="integers")
    arrays = of.arrays()
    wanted, found = of.run(arrays, backend="reference"), 0
    for threads in (1, 3):
        for plan in products(with_threads(of, threads)):
            assert_same_bits(plan.execute(*arrays), wanted, f"{of}, {plan.algorithm}, {threads} threads")
            packed = plan.pack(arrays.weight)
            assert_same_bits(plan.execute(arrays.x, packed, arrays.bias), wanted, f"{of}, {plan.algorithm}, packed")
            found += 1
    for gradient in (Gradient(of, direction) for direction in DIRECTIONS):
        operands = gradient.operands()
        wanted = gradient.run(operands, backend="reference")
        for threads in (1, 3):
            for plan in products(with_threads(gradient, threads)):
                assert_same_bits(plan.execute(*operands), wanted, f"{gradient}, {plan.algorithm}, {threads} threads")
                if gradient.direction == "input_grad":
                    packed = plan.pack(operands[0])
                    assert_same_bits(plan.execute(packed, operands[1]), wanted, f"{gradient}, {plan.algorithm}, packed")
                found += 1
    assert found >= 4


@rotated
def test_every_product_is_right_to_the_bound_and_the_same_in_any_batch(of: Case) -> None:
    arrays = of.arrays()
    for plan in products(of.plan("cpu")):
        y = plan.execute(*arrays)
        assert_correct(y, replace(of, name=f"{of}, {plan.algorithm}"), *arrays)
        alone = replace(replace(of, batch=1).plan("cpu"), algorithm=plan.algorithm)
        x = lay(channels_first(arrays.x[-1:], of.channels_last), of.memory_order, "contiguous")
        x = np.moveaxis(x, 1, -1) if of.channels_last else x
        # Elsewhere in memory, alone, and with weights end to end: one order of every sum.
        found = alone.execute(x, np.ascontiguousarray(arrays.weight), arrays.bias)
        assert_same_bits(found, y[-1:], f"{of}, {plan.algorithm}, alone")
    for gradient in (Gradient(of, direction) for direction in DIRECTIONS):
        operands = gradient.operands()
        for plan in products(gradient.plan("cpu")):
            gradient.assert_correct(plan.execute(*operands), operands, plan.algorithm)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("direction", ["forward", *DIRECTIONS])
@pytest.mark.parametrize(
    ("x", "weight", "keywords"),
    [
        ((2048, 1, 1), (2048, 2048, 1, 1), {}),
        ((1000, 1), (999, 1000, 1), {}),
        ((1024, 2, 1, 1), (512, 1024, 1, 1, 1), {}),
        ((4, 4, 512), (256, 512, 4, 4), {"layout": "NHWC"}),
    ],
    ids=str,
)
def test_weights_over_a_pixel_or_two_are_read_where_they_lie(
    x: tuple[int, ...], weight: tuple[int, ...], keywords: dict[str, Any], direction: str, batch: int
) -> None:
    """To pack them would take longer than to multiply them, and as much memory again."""
    if (direction != "forward" and len(keywords)) or (direction == "weight_grad" and batch == 64):
        pytest.skip("a kernel of several taps, or many pixels, is another matter for a gradient")
    plan = sk.plan_conv((batch, *x), weight, direction=direction, backend="cpu", **keywords)
    assert plan.vram.workspace < 4 * np.prod(weight) / 2
    if direction != "weight_grad":
        one = sk.plan_conv((1, *x), weight, direction=direction, backend="cpu", **keywords)
        assert plan.algorithm == one.algorithm


@pytest.mark.parametrize("direction", ["forward", *DIRECTIONS])
@pytest.mark.parametrize("x", [(1, 64, 512, 512), (4, 16, 65536), (1, 3, 1024, 1024), (2, 1, 60, 60, 60)], ids=str)
def test_one_filter_over_many_pixels_has_pixels_as_lanes(x: tuple[int, ...], direction: str) -> None:
    """A tile whose lanes are filters would use one of them."""
    plan = sk.plan_conv(x, (1, x[1], *(1,) * (len(x) - 2)), direction=direction, backend="cpu")
    assert plan.algorithm == "plane_product"


@pytest.mark.parametrize("direction", ["forward", *DIRECTIONS])
@pytest.mark.parametrize("x", [(1, 64, 56, 56), (1, 256, 14, 14), (8, 128, 28, 28)], ids=str)
def test_layers_of_many_pixels_and_filters_are_left_to_the_tiles(x: tuple[int, ...], direction: str) -> None:
    plan = sk.plan_conv(x, (x[1], x[1], 3, 3), padding=1, direction=direction, backend="cpu")
    assert plan.algorithm in ("broadcast_tile", "run_tile")


def test_no_samples() -> None:
    x, weight = np.ones((0, 70, 1, 1), np.float32), np.ones((9, 70, 1, 1), np.float32)
    grad_output = np.ones((0, 9, 1, 1), np.float32)
    for plan in products(sk.plan_conv(x.shape, weight.shape, backend="cpu")):
        assert plan.execute(x, weight).shape == grad_output.shape
    for plan in products(sk.plan_conv(x.shape, weight.shape, direction="weight_grad", backend="cpu")):
        assert not plan.execute(x, grad_output).any()


def test_what_has_stride_0_does_not_lie_end_to_end() -> None:
    assert end_to_end(axes((5, 32), (8, 4)), 4)
    assert end_to_end(axes((1, 999)), 4)
    assert not end_to_end(axes((5, 0)), 4)
    assert not end_to_end(axes((5, 64), (8, 4)), 4)
    x = np.broadcast_to(np.float32(2), (1, 40, 1, 1))
    weight = np.broadcast_to(np.arange(40, dtype=np.float32)[None, :, None, None], (3, 40, 1, 1))
    for plan in products(sk.plan_conv(x.shape, weight.shape, backend="cpu")):
        assert plan.execute(x, weight).ravel().tolist() == [1560] * 3


@pytest.mark.parametrize("special", [np.inf, np.nan])
def test_what_is_not_finite_beyond_a_row_is_not_read(special: float) -> None:
    """The last elements of a row are no whole vector: what follows them belongs to another filter or pixel."""
    of = case("one pixel", (1, 1), 1, channels=21, filters=19, batch=3)
    x, weight, _ = of.arrays()
    for plan in products(of.plan("cpu")):
        clean = plan.execute(x, weight)
        for planted, kept in ((np.s_[1], np.s_[::2]), (np.s_[:, 3], None)):
            bad_x, bad_weight = x.copy(), weight.copy()
            bad_x[planted] = special if kept is not None else bad_x[planted]
            bad_weight[7] = special if kept is None else bad_weight[7]
            y = plan.execute(bad_x, bad_weight)
            others = (kept,) if kept is not None else np.s_[:, np.arange(19) != 7]
            assert_same_bits(y[others], clean[others], plan.algorithm)
            assert not np.isfinite(np.delete(y, np.s_[::2], 0) if kept is not None else y[:, 7]).any()


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from tests import test_cpu_products
test_cpu_products.run_all({number})
"""


def run_all(number: int) -> None:
    """Run every gradient between fences, its workspace too, which begins as NaN; what is tried last is printed."""
    for of in ROTATED[number::4]:
        for gradient in (Gradient(of, direction) for direction in DIRECTIONS):
            operands = gradient.operands()
            for plan in products(gradient.plan("cpu")):
                print(f"{gradient}, {plan.algorithm}", flush=True)
                wanted = plan.execute(*operands)
                with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
                    patch.setattr(vram, "allocate", partial(allocate_guarded, stack, True))
                    first, second, out = (
                        stack.enter_context(guarded(array, at_end=True)) for array in (*operands, wanted)
                    )
                    out[...] = np.nan
                    plan.execute(first, second, out=out)
                    assert_same_bits(np.array(out), wanted, gradient)
                    del first, second, out


def run_program(number: int, **environment: str) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parents[1]), number=number)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    assert done.returncode == 0, f"ended with {done.returncode} at: {last}\n{done.stderr}"


@pytest.mark.skipif(platform.system() != "Linux", reason="fences between pages are made with Linux's mprotect")
@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_no_byte_beyond_the_operands_of_a_product_is_touched(number: int) -> None:
    run_program(number)


WIDTHS = """
import numpy as np
import pytest
import sys
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", {tests!r}, "-k", "bits_of_the_definition"]))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("bits", ["128", "256"])
def test_every_vector_width_multiplies_the_same(bits: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WIDTHS.format(tests=__file__)],
        env={**os.environ, "STRIDEKIT_VECTOR_BITS": bits},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
