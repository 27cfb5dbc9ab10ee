"""Thousands of random problems of every rank against PyTorch in float64, within the bound."""

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
from tests.kit.cases import Arrays, Case
from tests.kit.oracle import Truth, assert_within, channels_first
from tests.kit.randoms import SEED, random_case

torch = pytest.importorskip("torch", reason="the oracle is PyTorch; pip install torch")
pytestmark = [
    pytest.mark.oracle,
    # torch's own C extensions speak of themselves on import and first use; none of that is ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CHUNKS, PROBLEMS_PER_CHUNK = 60, 50
TORCH_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def torch_truth(case: Case, arrays: Arrays) -> Truth:
    """PyTorch's own padding and convolution, three times: the values, their magnitudes, the non-zero products."""
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[case.rank - 1]
    x = torch.from_numpy(np.ascontiguousarray(channels_first(arrays.x, case.channels_last)).astype(np.float64))
    weight = torch.from_numpy(arrays.weight.astype(np.float64))
    # torch counts axes from the last.
    amounts = [amount for pair in reversed(case.pairs) for amount in pair]
    padded = torch.nn.functional.pad(x, amounts, mode=TORCH_MODES[case.padding_mode]) if case.batch else x

    def run(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        if not case.batch:
            return np.zeros((0, case.filters, *case.output_sizes))
        y = convolve(a, b, stride=case.stride, dilation=case.dilation, groups=case.groups)
        return y.numpy()  # type: ignore[no-any-return]

    linear, magnitude = run(padded, weight), run(padded.abs(), weight.abs())
    # A convolution of zeros and ones is a whole number, but the algorithm that computes it need not keep to them.
    count = np.rint(run((padded != 0).double(), (weight != 0).double()))
    if arrays.bias is not None:
        bias = arrays.bias.astype(np.float64).reshape(-1, *(1,) * case.rank)
        linear, magnitude, count = linear + bias, magnitude + np.abs(bias), count + (bias != 0)
    return Truth(linear, magnitude, count)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def compare(case: Case) -> None:
    arrays = case.arrays()
    exact = torch_truth(case, arrays)
    for backend in ("cpu", "reference"):
        y = case.run(arrays, backend=backend)
        assert y.dtype == case.numpy_dtype
        assert_within(channels_first(y, case.channels_last), exact, case.dtype, case.activation, (backend, repr(case)))


def compare_emulated(case: Case, schedule: Schedule) -> None:
    """Compare every algorithm of the cuda backend, on the emulator."""
    arrays = case.arrays()
    exact = torch_truth(case, arrays)
    with use_emulator(schedule=schedule):
        plan = case.plan("cuda")
        for candidate in plan.candidates:
            if not candidate.excluded:
                y = replace(plan, algorithm=candidate.algorithm).execute(*arrays)
                label = (candidate.algorithm, schedule, repr(case))
                assert_within(channels_first(y, case.channels_last), exact, case.dtype, case.activation, label)


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("chunk", range(CHUNKS // 6))
def test_random_problems_agree_with_torch_on_the_emulated_cuda(chunk: int) -> None:
    rng = np.random.default_rng([SEED, 2**20 + chunk])
    for number in range(PROBLEMS_PER_CHUNK):
        compare_emulated(random_case(rng), SCHEDULES[number % len(SCHEDULES)])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems_agree_with_torch(chunk: int) -> None:
    rng = np.random.default_rng([SEED, chunk])
    for _ in range(PROBLEMS_PER_CHUNK):
        compare(random_case(rng))


@pytest.mark.parametrize("activation", ["relu", "relu6", "silu", "gelu", ("leaky_relu", 0.3)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_activations_agree_with_torchs(activation: object, dtype: str) -> None:
    functional = torch.nn.functional
    case = random_case(
        np.random.default_rng(7), dtype=dtype, activation=activation, batch=2, bias=True, groups=1, channels=9
    )
    arrays = case.arrays()
    linear = torch.from_numpy(torch_truth(case, arrays).linear)
    wanted = (
        functional.leaky_relu(linear, activation[1])
        if isinstance(activation, tuple)
        else getattr(functional, str(activation))(linear)
    ).numpy()
    for backend in ("cpu", "reference"):
        y = channels_first(case.run(arrays, backend=backend), case.channels_last).astype(np.float64)
        unit = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-20, "float64": 2**-48}[dtype]
        np.testing.assert_allclose(y, wanted, rtol=2 * unit, atol=2**-48 if dtype == "float64" else 1e-4)


@pytest.mark.soak
def test_random_problems_agree_with_torch_for_as_long_as_asked() -> None:
    """New problems each day; STRIDEKIT_SOAK_SECONDS is how long, 600 by default."""
    seed = [SEED, date.today().toordinal()]
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    end = time.monotonic() + float(os.environ.get("STRIDEKIT_SOAK_SECONDS", "600"))
    while time.monotonic() < end:
        case = random_case(rng)
        compare(case)
        if not why_not():
            compare_emulated(case, SCHEDULES[int(rng.integers(len(SCHEDULES)))])
