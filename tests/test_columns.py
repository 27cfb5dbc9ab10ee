"""Input gradients as columns: right to the bound, the same bits in any cut, chosen where phases would be a cliff."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from bench.cliffs import Times, drawn, kinds, timed
from stridekit.arguments import per_axis
from stridekit.backends import algorithms_of, load_backend
from stridekit.backends.cpu import CpuDevice
from stridekit.backends.cpu.columns.blocking import cut_of, product_problem
from stridekit.backends.cpu.forward.blocking import accumulator_itemsize
from stridekit.backends.cpu.products.algorithm import DenseGradient
from stridekit.backends.gradients.input_gradient import dense_problems, padded_problem
from stridekit.ops.conv_transpose import transposed_geometry
from stridekit.planning.dispatch import choose_plan
from stridekit.planning.plan import Plan
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.conv_problem import transposed_problem as stated
from stridekit.problems.geometry import AxisGeometry
from tests.kit.cases import DTYPES, Case, case
from tests.kit.curated import depthwise
from tests.kit.gradients import Gradient
from tests.kit.laying import MEMORY_ORDERS, lay
from tests.kit.oracle import assert_same_bits, assert_within, channels_first
from tests.kit.transposed import Transposed

GRADIENTS = [
    case("kernel as large as the image", (13, 14), (13, 14), channels=1, filters=5, batch=3),
    case("a text network", (11, 37), (3, 37), channels=1, filters=19, batch=3),
    case("one output along one axis", (40, 3), (5, 3), channels=3, filters=7, stride=(3, 1)),
    case("long 1-D kernel", (90,), 81, channels=2, filters=3, batch=2),
    case("long steps", (103,), 20, stride=9, padding=4, channels=1, filters=17),
    case("dilated over most of the image", (19, 20), 3, dilation=8, channels=5, filters=4),
    case("dilated, strided", (30, 31), (3, 2), stride=(2, 3), dilation=(5, 7), padding=3, channels=4, filters=5),
    case("padding beyond the kernel", (7, 8), 3, padding=9, dilation=9, channels=3, filters=2),
    case("steps beyond the kernel", (23, 29), 2, stride=(7, 9), channels=3, filters=5),
    case("one pixel in many", (40, 41), 1, stride=13, channels=2, filters=3),
    case("groups", (9, 10), (8, 9), groups=3, channels=15, filters=12, batch=2),
    case("groups of one channel", (12, 11), 7, stride=2, padding=3, groups=5, channels=5, filters=10),
    case("depthwise", (18, 17), 15, padding=2, **depthwise(33)),
    case("odd channels", (8, 7), (6, 5), channels=37, filters=23),
    case("one channel, one filter", (25, 6), (21, 5), channels=1, filters=1, batch=2),
    case("one pixel", (1, 1), 1, channels=33, filters=9, batch=3),
    case("volume", (7, 8, 9), (6, 7, 8), channels=2, filters=5, batch=2),
    case("volume of outputs", (9, 10, 11), (4, 3, 5), stride=(2, 3, 2), channels=3, filters=4, batch=2),
    case("circular", (9, 8), (9, 10), padding=((2, 1), (1, 2)), channels=3, filters=4, padding_mode="circular"),
    case("reflect, strided", (20, 9), (17, 9), stride=2, padding=1, channels=2, filters=5, padding_mode="reflect"),
]
every_case = pytest.mark.parametrize("of", GRADIENTS, ids=str)


def two_turns(of: Case) -> tuple[int, int]:
    """Return two dtypes and orders of memory for a case, others for the next case."""
    number = GRADIENTS.index(of)
    return number % 8, (number + 4 + number // 8) % 8


def turned(of: Case, turn: int) -> Case:
    """Return a case in one of the dtypes and one of the orders of memory, by turns."""
    return replace(of, dtype=DTYPES[turn % 4], channels_last=bool(turn // 4 % 2))


def by_columns(plan: Plan, **changes: int) -> Plan:
    """Return the plan with columns, whatever was chosen, on a processor changed so."""
    return replace(plan, algorithm="columns", device=replace(plan.device, **changes))


def cpu(**changes: int) -> CpuDevice:
    return replace(load_backend("cpu").device(), **changes)


@every_case
def test_columns_are_right_to_the_bound(of: Case) -> None:
    assert_right(of, two_turns(of))


@pytest.mark.thorough
@every_case
def test_columns_are_right_to_the_bound_in_every_dtype_and_order(of: Case) -> None:
    assert_right(of, range(8))


def assert_right(of: Case, turns: Iterable[int]) -> None:
    """Compare values with the truth, memory with the estimate, and packed weights with those as given."""
    for turn in turns:
        gradient = Gradient(turned(of, turn), "input_grad")
        operands = gradient.operands()
        plan = by_columns(gradient.plan("cpu"))
        with sk.vram.track() as usage:
            y = plan.execute(*operands)
        assert usage.peak == plan.vram.allocated
        gradient.assert_correct(y, operands)
        gradient.assert_lies(y)
        assert_same_bits(plan.execute(plan.pack(operands[0]), operands[1]), y, gradient)


@every_case
@pytest.mark.parametrize("cache", [1 << 8, 1 << 11])
def test_columns_cut_into_chunks_have_the_bits_of_the_whole(of: Case, cache: int) -> None:
    """Of integers, since the size of a cache may say where the sum of a long product is cut."""
    for turn in two_turns(of):
        gradient = Gradient(turned(replace(of, batch=3, data="integers"), turn), "input_grad")
        operands = gradient.operands()
        exact = by_columns(gradient.plan("cpu")).execute(*operands)
        cut = by_columns(gradient.plan("cpu"), l2_bytes=cache)
        with sk.vram.track() as usage:
            assert_same_bits(cut.execute(*operands), exact, gradient)
        assert usage.peak == cut.vram.allocated


LARGE = [
    case("many samples", (30, 31), (29, 31), channels=9, filters=20, batch=9),
    case("long and strided", (20000,), 300, stride=70, channels=2, filters=40, batch=2),
    case("volume, channels-last", (12, 13, 14), (11, 5, 9), channels=12, filters=21, channels_last=True),
    case("groups, bfloat16", (40, 41), (31, 35), groups=4, channels=16, filters=32, dtype="bfloat16", batch=2),
]


@pytest.mark.parametrize("of", LARGE, ids=str)
def test_any_number_of_threads_gives_columns_the_same_bits(of: Case) -> None:
    gradient = Gradient(of, "input_grad")
    operands = gradient.operands()
    first = by_columns(gradient.plan("cpu"), threads=1).execute(*operands)
    gradient.assert_correct(first, operands)
    for threads in (2, 3, 8):
        assert_same_bits(by_columns(gradient.plan("cpu"), threads=threads).execute(*operands), first, of)


@every_case
def test_a_sample_has_the_same_columns_alone_and_in_any_batch(of: Case) -> None:
    gradient = Gradient(turned(replace(of, batch=3), len(of.name)), "input_grad")
    weight, grad = gradient.operands()
    whole = by_columns(gradient.plan("cpu")).execute(weight, grad)
    for n in range(3):
        alone = by_columns(gradient.but(batch=1).plan("cpu")).execute(weight, grad[n : n + 1])
        assert_same_bits(alone, whole[n : n + 1], of)
    many = by_columns(gradient.but(batch=51).plan("cpu")).execute(weight, np.concatenate([grad] * 17))
    assert_same_bits(many, np.concatenate([whole] * 17), of)


@pytest.mark.parametrize("way", ["sliced", "every_other", "reversed", "misaligned", "transposed"])
@pytest.mark.parametrize("of", [GRADIENTS[2], GRADIENTS[10], GRADIENTS[17]], ids=str)
def test_columns_have_the_same_bits_however_the_operands_lie(of: Case, way: str) -> None:
    for turn in two_turns(of):
        gradient = Gradient(turned(of, turn), "input_grad")
        weight, grad = gradient.operands()
        plan = by_columns(gradient.plan("cpu"))
        wanted = plan.execute(weight, grad)
        axes = tuple(reversed(range(weight.ndim)))
        given = np.ascontiguousarray(weight.transpose(axes)).transpose(axes)
        out = np.full_like(wanted, np.nan)
        if way != "transposed":
            order = MEMORY_ORDERS[gradient.channels_last]
            given = lay(weight, "channels_first", way)
            grad = lay(channels_first(grad, gradient.channels_last), order, way)
            out = lay(channels_first(out, gradient.channels_last), order, way)
            if gradient.channels_last:
                grad, out = (np.moveaxis(array, 1, -1) for array in (grad, out))
        assert_same_bits(plan.execute(given, grad, out=out), wanted, gradient)


TRANSPOSED = [
    Transposed("windows apart", (3, 4), (2, 2), stride=(9, 7), output_padding=(5, 6), bias=True, activation="gelu"),
    Transposed("taps apart", (4,), (3,), stride=(1,), dilation=(50,), output_padding=49, bias=True, activation="silu"),
    Transposed("one tap, far apart", (5, 4), (1, 1), stride=(8, 16), bias=True, activation=("leaky_relu", 0.1)),
    Transposed("from one pixel", (1, 1), (9, 8), channels=7, filters=5, bias=True, activation="relu"),
    Transposed("long windows", (9,), (40,), stride=(11,), dilation=(1,), padding=3, channels=21, filters=1, bias=True),
    Transposed("groups, volume", (2, 3, 2), (3, 2, 4), stride=(4, 3, 5), dilation=(1, 2, 1), groups=2, filters=6,
               bias=True, activation="relu6"),
]  # fmt: skip


def transposed_problem(of: Transposed) -> ConvProblem:
    """Return the problem that the public function states."""
    geometry = transposed_geometry(
        of.sizes,
        of.kernel,
        stride=of.stride,
        padding=of.padding,
        output_padding=of.output_padding,
        dilation=of.dilation,
    )
    return stated(
        (of.batch, of.channels, *of.sizes),
        of.weight_shape,
        geometry,
        dtype=of.dtype,
        memory_order=MEMORY_ORDERS[of.channels_last],
        groups=of.groups,
        bias=of.bias,
        activation=of.activation,
    )


@pytest.mark.parametrize("of", TRANSPOSED, ids=str)
def test_bias_and_activation_are_applied_once_and_to_pixels_that_no_window_reads(of: Transposed) -> None:
    for turn in (0, 2, 5, 7):
        this = replace(of, dtype=DTYPES[turn % 4], channels_last=bool(turn // 4))
        arrays = this.arrays()
        wanted = this.truth(arrays)
        x = channels_first(arrays.x, this.channels_last)
        for cache in (1 << 20, 1 << 8):
            device = cpu(l2_bytes=cache)
            algorithm = algorithms_of("cpu", "input_grad")["columns"]
            problem = transposed_problem(this)
            plan = Plan(problem, device, "cpu", algorithm.name, "", (), None)
            y = plan.execute(arrays.weight, x, arrays.bias)
            assert_within(y, wanted, this.dtype, this.activation, f"{this}, {cache}")


def true_products(problem: ConvProblem) -> int:
    """Return the multiply-adds of one sample: those of taps that read a pixel, not padding."""

    def met(axis: AxisGeometry) -> int:
        taps = np.arange(axis.kernel)[:, None] * axis.dilation - axis.pad_before
        pixels = taps + np.arange(axis.output_size)[None] * axis.stride
        return int(np.count_nonzero((pixels >= 0) & (pixels < axis.size)))

    return math.prod(map(met, problem.geometry.axes)) * problem.out_channels * problem.group_in_channels


def products_made(plan: Plan) -> float:
    """Return the multiply-adds of one sample that the plan's algorithm makes, zeros and empty lanes among them."""
    algorithm: Any = algorithms_of("cpu", "input_grad")[plan.algorithm]
    dense = padded_problem(replace(plan.problem, batch=1))
    if plan.algorithm == "columns":
        parts = [(product_problem(dense, cut_of(dense, plan.device).chunk), 1.0)]
        whole = dense.output_pixels / parts[0][0].output_pixels
        parts = [(parts[0][0], whole)]
    else:
        parts = [(part, float(count)) for part, count in dense_problems(dense)]
    total = 0.0
    if isinstance(algorithm, DenseGradient):
        lanes = plan.device.lanes(accumulator_itemsize(dense))
        for part, count in parts:
            sizes = algorithm._forward.sizes(part)
            total += count * sizes.groups * sizes.rows * -(-sizes.columns // lanes) * lanes * sizes.depth
        return total
    for part, count in parts:
        b = algorithm._tile.blocking(part, plan.device)
        total += count * b.groups * b.vectors * b.lanes * part.output_pixels * part.taps * b.channels
    return total


def hostile(count: int) -> Iterator[tuple[ConvProblem, Plan]]:
    """Yield the plans of random shapes, and of those known, that are an input's gradient."""
    cases = [each for kind in ("small_output", "transposed") for each in kinds()[kind]]
    cases += [each for each in drawn(count, seed=3) if each.operation in ("input_grad", "conv_transpose")]
    for of in cases:
        order = MEMORY_ORDERS[of.last]
        known = {name: tuple(v) if isinstance(v, list) else v for name, v in of.arguments.items()}
        if of.operation == "input_grad":
            plan = sk.plan_conv(
                of.input, of.window, dtype=of.dtype, memory_order=order, direction="input_grad", backend="cpu", **known
            )
        else:
            steps = [per_axis(n, known.get(n, d), of.rank) for n, d in (("stride", 1), ("dilation", 1))]
            this = Transposed(
                str(of), of.input[2:], of.window[2:], *(steps[0], 0, known.get("output_padding", 0), steps[1]),
                known.get("groups", 1), of.input[0], of.input[1], of.window[1] * known.get("groups", 1),
            )  # fmt: skip
            problem = transposed_problem(replace(this, dtype=of.dtype, channels_last=of.last))
            plan = choose_plan(problem, None, "cpu", "", cpu())
        yield plan.problem, plan


OF_A_CALL = 4_000_000
"""Multiply-adds in the time that it takes to begin a call."""


def test_products_are_bounded_by_the_true_ones_and_by_what_is_moved() -> None:
    """Sixteen lanes for one filter, and a tile of zeros around a pixel: no more than that is made for nothing."""
    for problem, plan in hostile(400):
        sample = replace(problem, batch=1)
        lanes = cpu().lanes(4)
        moved = sample.moved_bytes / sample.itemsize
        made, wanted = products_made(plan), true_products(sample)
        assert made <= 4 * lanes * (wanted + moved) + OF_A_CALL, f"{plan.why}: {made:.3g} products of {wanted:.3g}"


def test_what_is_chosen_depends_on_one_sample_alone() -> None:
    for problem, plan in hostile(60):
        for batch in (1, 7):
            for threads in (1, 2, 16):
                other = choose_plan(replace(problem, batch=batch), None, "cpu", "", cpu(threads=threads))
                assert other.algorithm == plan.algorithm, plan.why


def test_the_workspace_of_columns_stops_growing_with_the_batch() -> None:
    for problem, plan in hostile(60):
        if plan.algorithm == "columns" and problem.padding_mode == "zeros":
            few, many = (
                replace(plan, problem=replace(problem, batch=batch)).workspace_bytes(packed=True)
                for batch in (10**6, 10**7)
            )
            assert many <= few + few // 8, plan.why


def race(of: Any, threads: int, tries: int = 6) -> Times:
    """Return the times of the best try: a neighbour on the machine can only make one slower."""
    best = timed(of, threads, turns=2)
    while best.share > 1 and tries > 1:
        best, tries = min(best, timed(of, threads, turns=3), key=lambda times: times.share), tries - 1
    return best


KNOWN = [pytest.param(kind, n, id=f"{each}") for kind in ("small_output", "transposed")
         for n, each in enumerate(kinds()[kind])]  # fmt: skip
WORST = [KNOWN[0], KNOWN[1], KNOWN[23]]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("kind", "number"), WORST)
def test_the_worst_shapes_are_no_cliff_beside_pytorch(kind: str, number: int) -> None:
    pytest.importorskip("torch", reason="the race is with PyTorch; pip install torch")
    times = race(kinds()[kind][number], 1)
    assert times.share <= 1, times


@pytest.mark.thorough
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads_used", [1, 2])
@pytest.mark.parametrize(("kind", "number"), KNOWN)
def test_no_shape_that_is_known_is_a_cliff_beside_pytorch(kind: str, number: int, threads_used: int) -> None:
    pytest.importorskip("torch", reason="the race is with PyTorch; pip install torch")
    times = race(kinds()[kind][number], threads_used)
    assert times.share <= 1, times
