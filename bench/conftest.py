"""Where the benchmarks run: ``pytest bench --device cuda``."""

from __future__ import annotations

import pytest

from stridekit.backends import unavailable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where the benchmarks run (default: cpu)")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The backend that is timed."""
    name: str = request.config.getoption("--device")
    reason = unavailable(name)
    if reason:
        pytest.skip(f"{name}: {reason}")
    return name
