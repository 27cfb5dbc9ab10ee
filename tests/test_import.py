"""``import stridekit``: light, complete and of the version that is installed."""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import subprocess
import sys

import pytest

import stridekit as sk

HEAVY = {
    "numba",
    "llvmlite",
    "cupy",
    "torch",
    "scipy",
    "matplotlib",
    "typer",
    "rich",
    "PIL",
    "ml_dtypes",
    "dask",
}


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


@pytest.mark.parametrize(
    "program",
    [
        "import stridekit",
        "import stridekit; stridekit.conv_geometry(7, kernel_size=3)",
        "import stridekit; stridekit.ShapeError; stridekit.__version__; dir(stridekit)",
        "import numpy, stridekit; stridekit.conv1d(numpy.ones((1, 1, 4)), numpy.ones((1, 1, 2)), backend='reference')",
        "import stridekit; stridekit.plan_conv((1, 1, 4), (1, 1, 2), backend='reference').vram",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    loaded = json.loads(run(f"{program}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"))
    assert not {name.split(".")[0] for name in loaded} & HEAVY


def test_import_takes_hardly_longer_than_numpys() -> None:
    """Turn by turn, and only processor time, so that a busy machine weighs on both alike."""
    timed = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
    attempts = []
    for _ in range(3):
        ours, numpys = [], []
        for _ in range(5):
            ours.append(float(run(timed.format("numpy, stridekit"))))
            numpys.append(float(run(timed.format("numpy"))))
        attempts.append(statistics.median(ours) / statistics.median(numpys))
        if attempts[-1] <= 1.5:
            return
    pytest.fail(f"an import takes {attempts} times numpy's; wanted at most 1.5")


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sk, name) is not None
    assert name in dir(sk)


def test_a_star_import_brings_exactly_the_public_names() -> None:
    loaded = json.loads(
        run("names = {}; exec('from stridekit import *', names); import json; print(json.dumps(sorted(names)))")
    )
    assert set(loaded) - {"__builtins__"} == set(sk.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"stridekit.*conv4d"):
        sk.conv4d  # noqa: B018


def test_no_public_function_is_hidden_by_a_module_of_its_name() -> None:
    """A lazily imported module would replace a function of the same name."""
    program = "import stridekit as sk\nfor n in sk.__all__: getattr(sk, n)\nimport types\n"
    program += "print([n for n in sk.__all__ if isinstance(getattr(sk, n), types.ModuleType)])"
    assert run(program).strip() == "['networks', 'vram']"


def test_version_is_that_of_the_installed_distribution() -> None:
    assert sk.__version__ == importlib.metadata.version("stridekit")
