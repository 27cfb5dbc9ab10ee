"""Fixtures: backends that can run here, random numbers whose seed is printed where a test fails."""

from __future__ import annotations

import gc
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
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
from tests.kit import warming
from tests.kit.randoms import SEED
from tests.kit.thinning import mark_what_is_left_out, why_skipped

# No tests: its modules are tests.emulator's, and would be imported here under another name.
collect_ignore = ["emulator"]
BACKENDS = ("reference", "cpu", "cuda")
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


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures be composed and empty files be written: laying a figure out takes a second of its own."""
    figure = pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b""))


CHOSEN = {
    "thorough": "more of what the others hold at its sharpest; choose them with -m thorough",
    "soak": "long random runs; choose them with -m soak",
    "sanitizer": "minutes under a sanitizer; choose them with -m sanitizer",
}
"""Markers whose tests run only where ``-m`` names them."""
SHORT = 200.0
"""Seconds above which the short run names its slowest files: with what pip takes, it is to end within four minutes."""
_left_out: pytest.StashKey[Counter[str]] = pytest.StashKey()
_seconds: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out], config.stash[_seconds] = Counter(), Counter()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what must be chosen; an item that the command line names to its last bracket is."""
    mark_what_is_left_out(items)
    unasked = [marker for marker in CHOSEN if marker not in config.option.markexpr]
    named = tuple(arg for arg in config.args if arg.endswith("]"))
    skipping: set[tuple[Path, str]] = set()
    kept, left_out = [], []
    for item in items:
        why = next((CHOSEN[marker] for marker in unasked if item.get_closest_marker(marker)), "")
        if not why and (reason := why_skipped(item)):
            # One says it for all of its file.
            why = "skipping for the reason of another in their file" if (item.path, reason) in skipping else ""
            skipping.add((item.path, reason))
        if not why or (named and item.nodeid.endswith(named)):
            kept.append(item)
        else:
            left_out.append(item)
            config.stash[_left_out][why] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(kept, key=warming.needed)


def pytest_collection_finish(session: pytest.Session) -> None:
    # What was collected stays: the collector need not walk through it again in every test.
    gc.collect()
    gc.freeze()
    if not session.config.option.collectonly:
        warming.start(session.items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    warming.wait(warming.needed(item))


def pytest_sessionfinish() -> None:
    warming.stop()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for why, count in config.stash[_left_out].items():
        terminalreporter.write_line(f"{count} tests left out: {why}")
    seconds = config.stash[_seconds]
    if seconds.total() > SHORT and not config.option.markexpr:
        slowest = ", ".join(f"{file} {taken:.0f} s" for file, taken in seconds.most_common(10))
        terminalreporter.write_line(f"{seconds.total():.0f} s, more than the {SHORT:.0f} s of a short run: {slowest}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    item.config.stash[_seconds][report.location[0]] += report.duration
    seed = item.stash.get(_seeds, None)
    if report.failed and seed is not None:
        report.sections.append(("seed", f"numpy.random.default_rng({seed}); STRIDEKIT_TEST_SEED={SEED}"))
    return report
