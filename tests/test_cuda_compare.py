"""The comparison of strides on the cuda backend, as a function and from the command line, through the emulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stridekit as sk
from stridekit.cli.commands import run
from stridekit.compare.comparison import ALTERNATIVES
from tests.emulator import use_emulator
from tests.emulator.building import why_not

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.mark.usefixtures("undrawn")
def test_the_command_line_compares_strides_on_cuda(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 48), np.uint8)).save(picture)
    options = ["--backend", "cuda", "--strides", "1,2,2x1", "--filters", "4", "--repeats", "1"]
    with use_emulator() as runtime:
        status = run(["compare", str(picture), *options, "--output", str(tmp_path / "out")])
    assert status == 0
    said = capsys.readouterr().out
    assert said.startswith("Device: cuda: emulated H200, compute capability 9.0")
    assert "asked for by argument" in said.splitlines()[0]
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["output_size"] for row in written["rows"]] == [[60, 48], [30, 24], [30, 48]]
    assert any("conv_forward" in entry for entry in runtime.launched)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_numbers_of_a_comparison_are_those_of_the_reference(dtype: str) -> None:
    image = np.random.default_rng(1).random((40, 33))
    arguments = {"strides": (1, 2, 4), "filters": 4, "dtype": dtype, "repeats": 1}
    with use_emulator():
        ours = sk.compare_strides(image, backend="cuda", **arguments)
    wanted = sk.compare_strides(image, backend="reference", **arguments)
    for mine, theirs in zip(ours.rows, wanted.rows, strict=True):
        assert mine.output_size == theirs.output_size
        np.testing.assert_allclose(mine.aliased_energy, theirs.aliased_energy, rtol=1e-3, atol=1e-6)
        assert mine.predicted_peak_bytes % 512 == 0


def test_ways_to_shrink_are_compared_on_cuda() -> None:
    image = np.random.default_rng(2).random((18, 15))
    arguments = {"strides": (2,), "filters": 2, "kernel_size": 3, "repeats": 1, "alternatives": ALTERNATIVES}
    with use_emulator() as runtime:
        ours = sk.compare_strides(image, backend="cuda", backward=True, **arguments)
    wanted = sk.compare_strides(image, backend="reference", **arguments)
    for mine, theirs in zip(ours.alternatives, wanted.alternatives, strict=True):
        assert (mine.alternative, mine.output_size) == (theirs.alternative, theirs.output_size)
        np.testing.assert_allclose(mine.aliased_energy, theirs.aliased_energy, rtol=1e-3, atol=1e-6)
        assert mine.forward.peak_bytes == mine.forward.predicted_peak_bytes
        assert mine.training.peak_bytes == mine.training.predicted_peak_bytes
    assert any("max_pool_input_grad" in entry for entry in runtime.launched)
