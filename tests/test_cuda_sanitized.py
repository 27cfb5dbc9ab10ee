"""Every kernel under AddressSanitizer and ThreadSanitizer, on other samples each day."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.emulator import sanitizing
from tests.emulator.sampling import ROOT, command

SECONDS = float(os.environ.get("STRIDEKIT_SANITIZER_SECONDS", "200"))
"""For each sanitizer. A visit to every family of kernels takes a quarter of it where nothing is compiled yet."""

pytestmark = [pytest.mark.emulator, pytest.mark.sanitizer]


@pytest.mark.parametrize(
    "flavour",
    [
        pytest.param(flavour, marks=pytest.mark.skipif(bool(reason), reason=reason))
        for flavour in ("address", "thread")
        for reason in [sanitizing.why_not(flavour)]
    ],
)
def test_a_sanitizer_has_nothing_to_say_of_any_kernel(flavour: str) -> None:
    own, environment = command(flavour, f"--seconds={SECONDS}")
    done = subprocess.run(
        own, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS + 900
    )
    *_, before_last, last = ["", "", *done.stdout.splitlines()]
    assert done.returncode == 0, f"{before_last}\n{last}\n{done.stderr}"
    assert done.stderr == ""
    assert last.endswith("families not visited: []"), done.stdout
