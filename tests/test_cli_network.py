"""The command `network`: what it prints and writes, that a run confirms it, and that a mistake is one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import stridekit as sk
from stridekit.cli import app, run

SMALL = """
name = "small"
source = "a test"
layers = [
  {name = "image", op = "input", size = [3, 20, 20]},
  {name = "stem", op = "conv", out_channels = 4, kernel_size = 3, stride = 3},
  {op = "relu"},
  {op = "flatten"},
  {name = "classes", op = "linear", out_features = 5},
]
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STRIDEKIT_BACKEND", raising=False)
    (tmp_path / "small.toml").write_text(SMALL)
    return "small.toml"


def invoke(*arguments):
    return CliRunner().invoke(app, ["network", *arguments])


def test_without_a_name_the_networks_that_ship_are_listed():
    result = invoke()
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(sk.networks.names())


def test_a_network_is_named_with_its_device_its_layers_its_totals_and_its_memory(small):
    result = invoke(small, "--batch", "2", "--backend", "reference")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Device: reference: ")
    assert lines[1:3] == ["Network: small (a test)", "Input: image 2x3x20x20, float32"]
    (stem,) = [line.split() for line in lines if line.strip().startswith("stem ") and "4x6x6" in line]
    # output, stride, effective stride, field, its start, dropped, remainder, overlap, phase
    assert stem[1:] == ["4x6x6", "3", "3", "3", "0", "2", "2", "0", "1"]
    assert not any(line.strip().startswith("relu1") for line in lines)
    usage = sk.networks.load(small).vram(2, backend="reference")
    assert f"{usage.allocated:,} bytes" in result.stdout
    assert f"{usage.peak:,} bytes" in result.stdout
    assert "Parameters: 837; multiply-adds: 9.22 k" in result.stdout  # 4*27+4+5*144+5; 2*(36*4*27+5*144)
    assert "…" not in result.stdout


def test_all_lists_every_layer(small):
    assert sum(line.strip().startswith("relu1") for line in invoke(small, "--all").stdout.splitlines()) == 2


@pytest.mark.parametrize("train", [False, True])
def test_what_is_measured_is_what_was_predicted(small, train):
    result = invoke(small, "--measure", "--json", "r.json", *(["--train", "--optimizer", "adam"] if train else []))
    assert result.exit_code == 0, result.stderr
    assert "bytes allocated (as predicted)" in result.stdout
    found = json.loads(Path("r.json").read_text())
    assert found["measured_allocated"] == found["vram"]["allocated"] > 0
    assert found["seconds"] > 0
    assert found["training"] is train


def test_the_json_holds_every_layer_and_the_totals(small):
    assert invoke(small, "--json", "r.json", "--device", "H200", "--train", "--dtype", "float16").exit_code == 0
    found = json.loads(Path("r.json").read_text())
    assert [layer["name"] for layer in found["layers"]] == ["image", "stem", "relu1", "flatten1", "classes"]
    assert (found["parameters"], found["dtype"], found["optimizer"]) == (837, "float16", "momentum")
    assert found["vram"]["optimizer"] == sum(-(-n * 4 // 512) * 512 for n in (108, 4, 720, 5))
    assert found["device"].startswith("cuda: NVIDIA H200")


def test_the_largest_batch_fits_and_one_more_does_not(small):
    result = invoke(small, "--train", "--fit", "1 MiB", "--backend", "reference", "--json", "r.json")
    assert result.exit_code == 0, result.stderr
    largest = json.loads(Path("r.json").read_text())["largest_batch"]
    assert f"Largest batch within 1 MiB: {largest}\n" in result.stdout
    network = sk.networks.load(small)
    assert network.vram(largest, training=True, optimizer="momentum", backend="reference").peak <= 2**20
    assert network.vram(largest + 1, training=True, optimizer="momentum", backend="reference").peak > 2**20
    assert network.largest_batch(100, backend="reference") == 0


def test_a_limit_below_one_sample_says_what_one_needs(small):
    result = invoke(small, "--fit", "10 B", "--backend", "reference", "--batch", "3")
    needed = sk.networks.load(small).vram(1, backend="reference").peak
    assert result.exit_code == 0, result.stderr
    assert f"Largest batch within 10 B: 0; even one sample needs {needed:,} bytes\n" in result.stdout


def test_names_of_layers_and_files_are_shown_as_text(small):
    Path("n\udcff.toml").write_text(SMALL.replace('name = "small"\n', "").replace('"stem"', '"st\\n\\u001b[31mem"'))
    result = invoke("n\udcff.toml", "--json", "r.json")
    assert result.exit_code == 0, result.stderr
    assert "Network: n\\xff (a test)" in result.stdout.splitlines()
    assert sum(line.strip().startswith("st\\n\\x1b[31mem") for line in result.stdout.splitlines()) == 2
    assert "\x1b" not in result.stdout
    assert json.loads(Path("r.json").read_text())["network"] == "n\\xff"


def test_another_input_size_is_taken_where_the_layers_fit_it():
    result = invoke("resnet18", "--input", "97x113", "--backend", "reference")
    assert result.exit_code == 0, result.stderr
    assert "1x3x97x113" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet",), "there is no network 'resnet'"),
        (("resnet",), "resnet50"),
        (("nothing.toml",), "nothing.toml: no such file"),
        (("small.toml", "--input", "0"), "--input holds '0'"),
        (("small.toml", "--input", "big"), "--input holds 'big'"),
        (("small.toml", "--input", "32"), "layer 'classes' (linear)"),
        (("small.toml", "--batch", "-1"), "batch is -1"),
        (("small.toml", "--dtype", "int8"), "int8"),
        (("small.toml", "--dtype", "a\0b"), "dtype is 'a\\x00b'"),
        (("small.toml", "--device", "H300"), "H200"),
        (("small.toml", "--device", "H200", "--measure"), "give one of them"),
        (("small.toml", "--train", "--optimizer", "lion"), "wanted one of sgd, momentum, adam"),
        (("small.toml", "--fit", "much"), "--fit is 'much'"),
        (("small.toml", "--fit", "10"), "--fit is '10'; wanted an amount with its unit, such as 24GiB"),
        (("small.toml", "--fit", "1.5 "), "--fit is '1.5 '"),
        (("small.toml", "--fit", ""), "--fit is ''"),
        (("small.toml", "--batch", "0"), "--batch is 0; wanted at least 1"),
        (("small.toml", "--optimizer", "adam"), "--optimizer adam is of a training step: give --train, too"),
        (("--train",), "--train is of a network"),
        (("--fit", "1GiB"), "--fit is of a network"),
        (("--batch", "1"), "--batch is of a network"),
        (("n\udcff.toml",), "n\\xff.toml: no such file"),
        (("n\udcff",), "there is no network 'n\\xff'"),
        (("x" * 5000 + ".toml",), "name is "),
        (("small.toml", "--device", "H200", "--backend", "cpu"), "device is 'H200', of backend 'cuda'"),
        (("yolov8n", "--train"), "training needs one output"),
        (("small.toml", "--json", "nowhere/r.json"), "there is no folder nowhere"),
        (("broken.toml",), "broken.toml:3: strid"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(small, capsys, arguments, message):
    with open("broken.toml", "w") as file:
        file.write(
            'layers = [\n {op = "input", size = [3, 8, 8]},\n {op = "max_pool", kernel_size = 2, strid = 2},\n]\n'
        )
    assert run(["network", *arguments]) == 2
    printed = capsys.readouterr()
    assert "\0" not in printed.out
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("stridekit: ")
    assert message in printed.err
