"""The GPU gate, as far as it can be tried without a GPU: what it says, counts, compares and writes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import cuda_contenders, cuda_peers, gpu_cases, gpu_gate, gpu_memory, gpu_probe, gpu_start, peers
from bench.cuda_timing import Times
from bench.gpu_gate import Outcome, Ran, counted, judged
from bench.layers import suite
from bench.racing import Timing
from bench.records import geometric_mean, result_path, text_table, write_json
from stridekit.backends.cuda import compiling
from stridekit.backends.cuda.catalog import families
from stridekit.backends.cuda.device import profile
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.emulator.primitives import primitives

REASON = "there is no NVIDIA driver here; pip install '.[cuda13]'"


# Without CUDA.


@pytest.mark.parametrize("script", [gpu_gate, gpu_probe, gpu_cases, gpu_memory, gpu_start, cuda_peers])
def test_without_cuda_every_script_says_what_is_missing_and_fails(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "unavailable", lambda _: REASON)
    assert script.main([]) == 2
    assert REASON in capsys.readouterr().err


def test_the_gate_without_cuda_names_the_one_command_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_gate, "unavailable", lambda _: REASON)
    assert gpu_gate.main(["--out", str(tmp_path)]) == 2
    assert f"python -m bench.gpu_gate --out {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_race_on_cuda_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(cuda_peers, "main", lambda arguments: given.append(arguments) or 7)
    monkeypatch.setattr(sys, "argv", ["peers", "--device", "cuda", "--layers", "vgg*", "--quick"])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert (ended.value.code, given) == (7, [["--layers", "vgg*", "--quick"]])


def test_the_quick_layers_are_layers_of_the_suite() -> None:
    assert {*cuda_peers.QUICK, *gpu_memory.LAYERS} <= {layer.name for layer in suite()}


# The stages.


@pytest.fixture
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimpleNamespace(device=lambda: profile("H200"), versions=lambda: {"driver": "CUDA 13.2"})
    monkeypatch.setattr(gpu_gate, "unavailable", lambda _: "")
    monkeypatch.setattr(gpu_gate, "load_backend", lambda _: backend)


@pytest.mark.usefixtures("on_a_card")
def test_every_stage_runs_whatever_became_of_the_others_and_all_is_written_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, seen = tmp_path / "gpu_gate_nvidia_h200.json", []

    def runner(outcome: Outcome | Exception) -> Any:
        def run(_: argparse.Namespace) -> Outcome:
            seen.append(list(json.loads(path.read_text())["stages"]) if path.exists() else [])
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return run

    runners = dict.fromkeys(gpu_gate.STAGES, runner(Outcome("passed", "well")))
    runners |= {"probe": runner(RuntimeError("no g++")), "sanitizer": runner(Outcome("not found", "pip install it"))}
    monkeypatch.setattr(gpu_gate, "RUNNERS", runners)
    assert gpu_gate.main(["--out", str(tmp_path)]) == 1
    stages = list(gpu_gate.STAGES)
    assert seen == [stages[:done] for done in range(len(stages))]
    written = json.loads(path.read_text())
    assert written["stages"]["probe"]["verdict"] == "failed"
    assert written["stages"]["probe"]["note"] == "RuntimeError: no g++"
    table = capsys.readouterr().out.rpartition("stage ")[2]
    assert [line.split()[0] for line in table.splitlines()[2 : 2 + len(stages)]] == stages
    others = [stage for stage in stages if stage != "probe"]
    assert gpu_gate.main(["--out", str(tmp_path), "--stages", *others]) == 0


def test_every_stage_has_a_runner_and_all_together_take_less_than_eight_minutes() -> None:
    assert set(gpu_gate.RUNNERS) == set(gpu_gate.STAGES)
    assert sum(seconds for seconds, _ in gpu_gate.STAGES.values()) < 8 * 60


@pytest.mark.thorough
def test_a_command_is_ended_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time\nwhile True: open({str(alive)!r}, 'w').close(); time.sleep(0.02)"
    program = f"import subprocess, sys\nprint('begun')\nsubprocess.run([sys.executable, '-c', {child!r}])"
    begin = time.monotonic()
    ran = gpu_gate.run([sys.executable, "-c", program], 2.0)
    assert (ran.status, ran.output) == (None, "begun\n")
    assert time.monotonic() - begin < 30
    alive.unlink()
    time.sleep(0.3)
    assert not alive.exists()


def test_a_script_passes_by_its_status_and_tells_by_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_gate, "ROOT", tmp_path)
    head = "import json, pathlib, sys, time\npath = pathlib.Path(sys.argv[2])\n"
    (tmp_path / "good.py").write_text(head + "path.write_text(json.dumps({'note': 'all'}))")
    (tmp_path / "bad.py").write_text(head + "path.write_text(json.dumps({'note': 'half'})); sys.exit(1)")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no card')")
    (tmp_path / "slow.py").write_text(head + "path.write_text(json.dumps({'note': 'so far'})); time.sleep(60)")
    found = {name: gpu_gate.script("probe", [name], 3.0) for name in ("good", "bad", "broken", "slow")}
    assert {name: (each.verdict, each.note) for name, each in found.items()} == {
        "good": ("passed", "all"),
        "bad": ("failed", "half"),
        "broken": ("failed", "RuntimeError: no card"),
        "slow": ("failed", "ended after 3 s: so far"),
    }


TESTS = """
import pytest
def test_passes(): pass
@pytest.mark.parametrize("x", ["a b", "c [d]"])
def test_passes_too(x): pass
def test_fails(): assert False
def test_skips(): pytest.skip("a reason")
def test_errs(nothing): pass
"""


@pytest.mark.thorough
def test_outcomes_are_counted_in_what_pytest_prints(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name")
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    whole = gpu_gate.run([*command, str(tmp_path / "test_some.py")], 60, quiet=True)
    assert counted(whole.output) == {"passed": 3, "failed": 1, "skipped": 1, "error": 1}
    unread = gpu_gate.run([*command, str(tmp_path / "test_broken.py")], 60, quiet=True)
    assert counted(unread.output) == {"passed": 0, "failed": 0, "skipped": 0, "error": 1}


@pytest.mark.parametrize(
    ("status", "output", "verdict"),
    [
        (0, "a.py::a PASSED [ 50%]\na.py::b SKIPPED (why) [100%]", "passed"),
        (0, "a.py::a SKIPPED (no card) [100%]", "failed"),
        (1, "a.py::a PASSED [ 50%]\na.py::b FAILED [100%]", "failed"),
        (None, "a.py::a PASSED [ 50%]", "failed"),
        (5, "no tests ran", "failed"),
    ],
)
def test_tests_pass_only_if_some_pass_and_none_fails(
    status: int | None, output: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_gate, "run", lambda *_, **__: Ran(status, output))
    assert gpu_gate.tests(argparse.Namespace()).verdict == verdict


def test_the_files_with_tests_for_a_gpu_are_found() -> None:
    assert Path(__file__).with_name("test_gpu.py") in gpu_gate.gpu_test_files()


@pytest.mark.parametrize(
    ("ran", "clean"),
    [
        (Ran(0, "========= COMPUTE-SANITIZER\nall cases are right\n========= ERROR SUMMARY: 0 errors\n"), True),
        (Ran(0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"), True),
        (Ran(9, "========= ERROR SUMMARY: 3 errors\n"), False),
        (Ran(0, "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n"), False),
        (Ran(1, "2 cases are wrong\n========= ERROR SUMMARY: 0 errors\n"), False),
        (Ran(0, "========= ERROR: cannot attach\n"), False),
        (Ran(None, "========= COMPUTE-SANITIZER\n"), False),
    ],
)
def test_a_sanitizer_is_clean_only_if_it_says_so_of_a_whole_run(ran: Ran, clean: bool) -> None:
    assert judged(ran)[1] is clean


def test_a_sanitizer_that_is_not_there_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_gate, "find_sanitizer", lambda: None)
    assert gpu_gate.sanitizer(argparse.Namespace()).verdict == "not found"


# The probe, and the small cases.


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_emulator_answers_for_every_primitive() -> None:
    expected = gpu_probe.emulated()
    assert {p.entry: (p.shape, p.dtype) for p in primitives()} == {e: (a.shape, a.dtype) for e, a in expected.items()}


@pytest.mark.nvrtc
@pytest.mark.skipif(bool(compiling.unavailable()), reason=compiling.unavailable())
def test_primitives_compile_as_kernels_do() -> None:
    cubin = gpu_probe.compile_primitives("90a")
    assert all(primitive.entry.encode() in cubin for primitive in primitives())
    assert compiling.source_of("direct.cu") != compiling.source_of("device.cuh")


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.thorough
def test_small_cases_launch_a_kernel_of_every_family_and_are_right() -> None:
    with use_emulator() as runtime:
        for case in gpu_cases.small_cases():
            gpu_cases.check(case)
    launched = set(runtime.launched)
    missed = [family[0].entry for family in families() if not launched & {kernel.entry for kernel in family}]
    assert not missed


@pytest.mark.emulator
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_wrong_result_of_a_small_case_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_cases.run

    def wrong(case: gpu_cases.SmallCase) -> np.ndarray:
        y = np.array(right(case))
        y.flat[3] += 1
        return y

    monkeypatch.setattr(gpu_cases, "run", wrong)
    with use_emulator(), pytest.raises(AssertionError, match=r"1 of .* outputs differ"):
        gpu_cases.check(next(gpu_cases.small_cases()))


# Numbers.

LIMITS = {"copy_bytes_per_s": 4e12, "matrix_product_flops_per_s": {"float16": 8e14, "float32": 5e13}}


def times(**seconds: float) -> dict[str, Times]:
    return {name: Times(Timing(s, s, s), 1e-5, name != "packed_last") for name, s in seconds.items()}


MADE_UP = times(
    given_first=40e-6, given_last=30e-6, packed_first=25e-6, packed_last=20e-6, cudnn_first=50e-6, cudnn_last=10e-6,
    cudnn_bias_first=60e-6, cudnn_bias_last=16e-6, to_last=1e-6, to_first=1e-6,
)  # fmt: skip


def test_ratios_are_those_of_the_best_orders_and_the_floor_is_the_higher_limit() -> None:
    row = cuda_peers.compared(MADE_UP, flops=4_000_000_000, nbytes=8_000_000, dtype="float16", limits=LIMITS)
    assert row["floor_s"] == pytest.approx(5e-6)
    assert row["given_over_cudnn"] == pytest.approx(10 / 30)
    assert row["packed_over_cudnn"] == pytest.approx(0.5)
    assert row["packed_over_cudnn_bias"] == pytest.approx(0.8)
    assert row["fraction_of_floor"] == pytest.approx(0.25)
    assert row["cudnn_fraction_of_floor"] == pytest.approx(0.5)
    assert row["waited"] == ["packed_last"]
    moving = cuda_peers.compared(MADE_UP, flops=4_000_000_000, nbytes=80_000_000, dtype="float16", limits=LIMITS)
    assert moving["floor_s"] == pytest.approx(20e-6)
    slow = cuda_peers.compared(MADE_UP, flops=4_000_000_000, nbytes=8_000_000, dtype="float32", limits=LIMITS)
    assert slow["floor_s"] == pytest.approx(80e-6)


def test_rows_are_summed_up_by_dtype_and_batch_without_the_wrong_ones() -> None:
    def row(dtype: str, batch: int, ratio: float) -> dict[str, Any]:
        ratios = dict.fromkeys((*cuda_peers.RATIOS, "fraction_of_floor", "cudnn_fraction_of_floor"), ratio)
        return {"layer": "vgg_3x3", "batch": batch, "dtype": dtype, **ratios}

    wrong = {"layer": "text", "batch": 1, "dtype": "float16", "wrong": "packed_last is off"}
    rows = [row("float32", 32, 1.0), row("float16", 1, 0.25), wrong, row("float16", 1, 1.0)]
    result = cuda_peers.summed_up({"rows": rows, "left_out": [("vgg_3x3", 32, "tf32", "no time left")]})
    assert [(mean["dtype"], mean["batch"], mean["layers"]) for mean in result["means"]] == [
        ("float16", 1, 2),
        ("float32", 32, 1),
    ]
    assert result["means"][0]["packed_over_cudnn"] == pytest.approx(0.5)
    assert result["note"].startswith("3 rows timed, 1 wrong, 1 left out; 0.63 of cuDNN")
    assert len(cuda_peers.table(result).splitlines()) == 4
    assert cuda_peers.summed_up({"rows": [], "left_out": []})["note"].endswith("no ratio")


def test_a_layer_that_memory_does_not_hold_is_left_out_and_one_that_fails_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_peers, "release", lambda: None)

    def measured(error: Exception) -> dict[str, Any]:
        def fail(*_: object) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(cuda_peers, "_row", fail)
        return cuda_peers.measured(suite()[0], 1, "float16", 1.0, LIMITS)

    assert measured(MemoryError("9 bytes")) == {"left_out": "out of memory: 9 bytes"}
    assert measured(RuntimeError("CUDA out of memory. Tried to")) == {
        "left_out": "out of memory: CUDA out of memory. Tried to"
    }
    assert measured(RuntimeError("misaligned address"))["wrong"] == "RuntimeError: misaligned address"


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["convnext_down", "text", "resnext_groups"])
def test_cudnns_calls_agree_and_a_wrong_result_is_named(name: str) -> None:
    torch = pytest.importorskip("torch", reason="the peer is PyTorch; pip install torch")
    layer = next(layer for layer in suite() if layer.name == name)
    given = cuda_contenders.operands(layer, 2, "float32", "cpu", l2_bytes=1)
    for first, last in zip(given.inputs["first"], given.inputs["last"], strict=True):
        assert torch.equal(first, last)
        assert last.stride(1) == 1
    calls = cuda_contenders.cudnn(layer, given)
    assert set(calls) == {"cudnn_first", "cudnn_last", "cudnn_bias_first", "cudnn_bias_last"}
    assert tuple(calls["cudnn_first"](0).shape) == layer.plan(batch=2).output_shape
    assert not cuda_contenders.wrong_result(layer, "float32", given, calls)
    swapped = {"packed_last": calls["cudnn_first"]}
    assert "packed_last is off by" in cuda_contenders.wrong_result(layer, "float32", given, swapped)
    nan = {"packed_first": lambda number: calls["cudnn_bias_first"](number) * float("nan")}
    assert "packed_first is off by nan" in cuda_contenders.wrong_result(layer, "float32", given, nan)
    for copy in cuda_contenders.transposes(given).values():
        assert torch.equal(copy(0), given.inputs["first"][0])


def test_a_pool_is_counted_from_the_beginning_of_the_count() -> None:
    use = gpu_memory.PoolUse()
    use.gave(1, 512)
    use.gave(2, 1024)
    use.took_back(1)
    use.took_back(99)
    use.gave(1, 2048)
    assert (use.current, use.peak) == (3072, 3072)
    use.took_back(2)
    use.took_back(1)
    assert (use.current, use.peak) == (0, 3072)


# What is written and printed.


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("NVIDIA H200", "gpu_gate_nvidia_h200.json"),
        ("NVIDIA A100-SXM4-80GB", "gpu_gate_nvidia_a100_sxm4_80gb.json"),
        ("NVIDIA GeForce RTX 4090 (D)", "gpu_gate_nvidia_geforce_rtx_4090_d.json"),
        ("../../etc", "gpu_gate_etc.json"),
    ],
)
def test_a_result_is_named_after_its_card(card: str, name: str) -> None:
    assert result_path(Path("results"), "gpu_gate", card) == Path("results") / name


def test_a_result_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    for content in ({"a": 1}, {"a": [2.5, None]}):
        write_json(path, content)
        assert json.loads(path.read_text()) == content
        assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_table_is_aligned() -> None:
    assert text_table(("layer", "ms"), [("text", 1.5), ("vgg_3x3", "10.0")]).splitlines() == [
        "layer      ms",
        "-------  ----",
        "text      1.5",
        "vgg_3x3  10.0",
    ]


def test_the_mean_of_ratios_is_geometric() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([]) is None
