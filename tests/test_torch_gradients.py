"""Thousands of random gradients and transposed convolutions against PyTorch's in float64, within the bound."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.emulator.machine import SCHEDULES, Schedule
from tests.kit.gradients import DIRECTIONS, Gradient, Operands, three_times
from tests.kit.oracle import Truth, assert_within, channels_first
from tests.kit.randoms import SEED, random_case
from tests.kit.transposed import NAMED, Transposed, random_transposed

torch = pytest.importorskip("torch", reason="the oracle is PyTorch; pip install torch")
pytestmark = [
    pytest.mark.oracle,
    # torch's own C extensions speak of themselves on import and first use; none of that is ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CHUNKS, PROBLEMS_PER_CHUNK = 60, 50
TORCH_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
CONVOLUTIONS = {1: "conv1d", 2: "conv2d", 3: "conv3d"}


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def random_gradient(rng: np.random.Generator) -> Gradient:
    """Draw a case and one of its gradients; over no samples there is nothing to compare."""
    while True:
        of = random_case(rng)
        if of.batch:
            return Gradient(of, DIRECTIONS[rng.integers(2)])


def torch_truth(of: Gradient, operands: Operands) -> Truth:
    """PyTorch's own padding and convolution, differentiated by PyTorch, three times."""
    case = of.case
    convolve = getattr(torch.nn.functional, CONVOLUTIONS[case.rank])
    amounts = [amount for pair in reversed(case.pairs) for amount in pair]

    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(x, amounts, mode=TORCH_MODES[case.padding_mode])
        return convolve(padded, weight, stride=case.stride, dilation=case.dilation, groups=case.groups)

    def differentiated(first: np.ndarray, grad: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(first)
        to_input = of.direction == "input_grad"
        shape = (case.batch, case.channels, *case.sizes) if to_input else case.weight_shape
        wanted = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        y = forward(wanted, given) if to_input else forward(given, wanted)
        return torch.autograd.grad(y, wanted, torch.from_numpy(grad))[0].numpy()  # type: ignore[no-any-return]

    views = (np.ascontiguousarray(array) for array in channels_first_operands(of, operands))
    return with_whole_counts(three_times(differentiated, *views))


def channels_first_operands(of: Gradient, operands: Operands) -> Operands:
    first, grad = operands
    if of.direction == "weight_grad":
        first = channels_first(first, of.case.channels_last)
    return first, channels_first(grad, of.case.channels_last)


def with_whole_counts(of: Truth) -> Truth:
    """A sum over zeros and ones is a whole number, but the algorithm that computes it need not keep to them."""
    return replace(of, count=np.rint(of.count))


def transposed_truth(of: Transposed) -> Truth:
    """PyTorch's transposed convolution; its padding is the same before and after."""
    x, weight, bias = of.arrays()
    name = f"conv_transpose{of.rank}d"
    pairs = of.pairs

    def spread(w: np.ndarray, x: np.ndarray) -> np.ndarray:
        y = getattr(torch.nn.functional, name)(
            torch.from_numpy(x), torch.from_numpy(w), stride=of.stride, padding=tuple(p for p, _ in pairs),
            output_padding=of.extra, dilation=of.dilation, groups=of.groups,
        )  # fmt: skip
        return y.numpy()  # type: ignore[no-any-return]

    views = (np.ascontiguousarray(array) for array in (weight, channels_first(x, of.channels_last)))
    found = with_whole_counts(three_times(spread, *views))
    if bias is None:
        return found
    b = bias.astype(np.float64).reshape(-1, *(1,) * of.rank)
    return Truth(found.linear + b, found.magnitude + np.abs(b), found.count + (b != 0))


def compare(of: Gradient) -> None:
    operands = of.operands()
    exact = torch_truth(of, operands)
    for backend in ("cpu", "reference"):
        y = of.run(operands, backend=backend)
        assert y.dtype == of.case.numpy_dtype
        assert_within(channels_first(y, of.channels_last), exact, of.case.dtype, label=(backend, repr(of)))


def compare_emulated(of: Gradient, schedule: Schedule) -> None:
    """Compare every algorithm of the cuda backend, on the emulator."""
    operands = of.operands()
    exact = torch_truth(of, operands)
    with use_emulator(schedule=schedule):
        plan = of.plan("cuda")
        for candidate in plan.candidates:
            if not candidate.excluded:
                y = replace(plan, algorithm=candidate.algorithm).execute(*operands)
                label = (candidate.algorithm, schedule, repr(of))
                assert_within(channels_first(y, of.channels_last), exact, of.case.dtype, label=label)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_gradients_agree_with_autograd(chunk: int) -> None:
    rng = np.random.default_rng([SEED, 2**21 + chunk])
    for _ in range(PROBLEMS_PER_CHUNK):
        compare(random_gradient(rng))


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("chunk", range(CHUNKS // 10))
def test_random_gradients_agree_with_autograd_on_the_emulated_cuda(chunk: int) -> None:
    rng = np.random.default_rng([SEED, 2**22 + chunk])
    for number in range(PROBLEMS_PER_CHUNK):
        compare_emulated(random_gradient(rng), SCHEDULES[number % len(SCHEDULES)])


def random_symmetric(rng: np.random.Generator) -> Transposed:
    """Draw what PyTorch can compute too."""
    while True:
        of = random_transposed(rng)
        if of.padding not in NAMED and all(before == after for before, after in of.pairs):
            return of


def compare_transposed(of: Transposed, backends: tuple[str, ...]) -> None:
    exact = transposed_truth(of)
    for backend in backends:
        of.assert_correct(of.run(of.arrays(), backend=backend), exact, backend)


@pytest.mark.parametrize("chunk", range(10))
def test_random_transposed_convolutions_agree_with_torchs(chunk: int) -> None:
    rng = np.random.default_rng([SEED, 2**23 + chunk])
    for _ in range(PROBLEMS_PER_CHUNK):
        compare_transposed(random_symmetric(rng), ("cpu", "reference"))


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_random_transposed_convolutions_agree_with_torchs_on_the_emulated_cuda(schedule: Schedule) -> None:
    rng = np.random.default_rng([SEED, 2**24 + SCHEDULES.index(schedule)])
    for _ in range(PROBLEMS_PER_CHUNK // len(SCHEDULES) + 1):
        with use_emulator(schedule=schedule):
            compare_transposed(random_symmetric(rng), ("cuda",))


@pytest.mark.soak
def test_random_gradients_agree_with_autograd_for_as_long_as_asked() -> None:
    """New problems each day; STRIDEKIT_SOAK_SECONDS is how long, 600 by default."""
    seed = [SEED, 1, date.today().toordinal()]
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    end = time.monotonic() + float(os.environ.get("STRIDEKIT_SOAK_SECONDS", "600"))
    while time.monotonic() < end:
        of = random_gradient(rng)
        compare(of)
        compare_transposed(random_symmetric(rng), ("cpu", "reference"))
        if not why_not():
            compare_emulated(of, SCHEDULES[int(rng.integers(len(SCHEDULES)))])
