"""The examples run from the command line, and write what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments):
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)


@pytest.mark.oracle
def test_training_by_strides_and_poolings_agrees_with_pytorch(tmp_path):
    pytest.importorskip("torch", reason="pip install '.[examples]'")
    pytest.importorskip("sklearn", reason="pip install '.[examples]'")
    output = tmp_path / "new" / "results.json"
    quick = ["--quick", "--epochs", "1", "--samples", "90", "--pooled", "2"]
    done = run(EXAMPLES / "train_strides.py", *quick, "--output", output)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text(), parse_constant=pytest.fail)
    ways = [("conv", factor) for factor in (1, 2, 3, 5, 10)]
    ways += [(by, 2) for by in ("max_pool", "avg_pool", "blur_pool")]
    found = [(row["task"], row["by"], row["factor"]) for row in results["rows"]]
    assert found == [(task, *way) for task in ("digits", "gratings") for way in ways]
    for row in results["rows"]:
        ours, theirs = row["stridekit"], row["pytorch"]
        assert ours["last_losses"] == pytest.approx(theirs["last_losses"], rel=1e-3)
        assert 0 <= ours["accuracy"] <= 1
        assert min(ours["epoch_s"], ours["kept_bytes"], ours["workspace_bytes"]) > 0
        assert theirs["workspace_bytes"] is None
    table = output.with_suffix(".md").read_text()
    assert table.count("| blur_pool 2 |") == 2
    assert "blur_pool 2" in done.stdout


def test_choosing_a_stride_prints_every_way_to_shrink():
    done = run(EXAMPLES / "choose_a_stride.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Take stride" in done.stdout
    for name in ("conv 2", "max_pool 2", "avg_pool 3", "blur_pool 3"):
        assert f"\n{name} " in done.stdout


@pytest.mark.oracle
@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--samples", "1"], ["--nonsense"]])
def test_what_cannot_be_trained_is_refused(tmp_path, arguments):
    pytest.importorskip("torch", reason="pip install '.[examples]'")
    done = run(EXAMPLES / "train_strides.py", *arguments, "--output", tmp_path / "results.json")
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
def test_the_recorded_table_is_that_of_the_recorded_results():
    pytest.importorskip("torch", reason="pip install '.[examples]'")
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from train_strides import RESULTS, markdown; "
        "assert RESULTS.with_suffix('.md').read_text() == markdown(json.loads(RESULTS.read_text()))"
    )
    done = run("-c", code, EXAMPLES)
    assert done.returncode == 0, done.stderr
