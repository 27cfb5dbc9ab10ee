"""Fixtures: backends that can run here, random numbers whose seed is printed where a test fails."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import hypothesis
import pytest

# The oracle's many small matrix products take three times as long where BLAS spreads them over threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import stridekit as sk
from stridekit.backends import unavailable
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.emulator.machine import SCHEDULES

# No tests: its modules are tests.emulator's, and would be imported here under another name.
collect_ignore = ["emulator"]
BACKENDS = ("reference", "cpu", "cuda")
SEED = int(os.environ.get("STRIDEKIT_TEST_SEED", "0"))
_seeds: pytest.StashKey[int] = pytest.StashKey()

# Examples follow from the test alone, so that a run today and a run tomorrow ask the same questions; the soak
# run, with another STRIDEKIT_TEST_SEED each time, asks new ones.
hypothesis.settings.register_profile(
    "stridekit", deadline=None, max_examples=60, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("stridekit")


EMULATED = pytest.param(
    "cuda",
    marks=[pytest.mark.emulator, pytest.mark.skipif(bool(why_not()), reason=f"cuda, emulated: {why_not()}")],
    id="cuda-emulated",
)


def runnable(names: tuple[str, ...] = BACKENDS) -> list[Any]:
    """Return pytest parameters, one a backend; one that cannot run here skips with its own reason."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(unavailable(name)), reason=f"{name}: {unavailable(name)}"))
        for name in names
    ]


@pytest.fixture(params=[*runnable(("reference", "cpu")), EMULATED])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn; cuda on the emulator, each test under the next of its schedules."""
    if request.param != "cuda":
        yield str(request.param)
        return
    schedule = SCHEDULES[zlib.crc32(request.node.nodeid.encode()) % len(SCHEDULES)]
    with use_emulator(schedule=schedule):
        yield "cuda"


@pytest.fixture(params=[*runnable(("cpu",)), EMULATED])
def compiled_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that reads inputs where they lie: the reference would first copy them."""
    with use_emulator() if request.param == "cuda" else nullcontext():
        yield str(request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test's own."""
    seed = zlib.crc32(f"{SEED} {request.node.nodeid}".encode())
    request.node.stash[_seeds] = seed
    return np.random.default_rng(seed)


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back afterwards."""
    before = sk.get_num_threads()
    yield
    sk.set_num_threads(before)


CHOSEN = {
    "soak": "a long random run; choose it with -m soak",
    "sanitizer": "minutes under a sanitizer; choose them with -m sanitizer",
    "thorough": "more of what a quicker test holds at its sharpest; choose them with -m thorough",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, reason in CHOSEN.items():
        if marker in config.option.markexpr:
            continue
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    seed = item.stash.get(_seeds, None)
    if report.failed and seed is not None:
        report.sections.append(("seed", f"numpy.random.default_rng({seed}); STRIDEKIT_TEST_SEED={SEED}"))
    return report
