"""What can be missing, too old, too large or in the wrong place for CUDA: one clear error each, nothing half done."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends import unavailable
from stridekit.backends.cuda import compiling, cupy_runtime
from stridekit.backends.cuda.catalog import all_kernels
from stridekit.backends.cuda.cupy_runtime import CUPY, CupyMemory
from stridekit.backends.cuda.device import PROFILES, profile
from stridekit.backends.cuda.launching import launch
from stridekit.backends.cuda.sources import kernels_dir, source_of
from tests.emulator import use_emulator
from tests.emulator.building import why_not
from tests.kit.oracle import assert_same_bits


def emulated(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that launches kernels."""
    skipping = pytest.mark.skipif(bool(why_not()), reason=why_not())
    marked: Callable[..., None] = pytest.mark.emulator(skipping(test))
    return marked


def fake_cupy(count: int | Exception = 1, *, driver: int = 13010, major: int = 9, minor: int = 0) -> Any:
    """Return as much of CuPy as is asked before the first array."""

    def device_count() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    runtime = SimpleNamespace(
        getDeviceCount=device_count,
        getDevice=lambda: 0,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: 13020,
        getDeviceProperties=lambda _: {"name": b"NVIDIA Old", "major": major, "minor": minor},
    )
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), __version__="14.0")


INSUFFICIENT = RuntimeError("cudaErrorInsufficientDriver")
FAULTS: dict[str, tuple[Any, str]] = {
    "no driver": (fake_cupy(INSUFFICIENT, driver=0), "there is no NVIDIA driver here; install one.*--gpus all"),
    "driver too old": (
        fake_cupy(INSUFFICIENT, driver=12080),
        r"the driver is too old: it knows CUDA 12\.8 and .* wants 13\.2; update it, or pip install '\.\[cuda12\]'",
    ),
    "driver much too old": (
        fake_cupy(INSUFFICIENT, driver=12040),
        r"the driver is too old: it knows CUDA 12\.4 and .* wants 13\.2; update it \(asked",
    ),
    "broken": (fake_cupy(RuntimeError("cudaErrorUnknown")), "CUDA does not start .*cudaErrorUnknown"),
    "no device": (fake_cupy(0), "CUDA sees no device.*CUDA_VISIBLE_DEVICES"),
    "device too old": (fake_cupy(major=7, minor=5), r"NVIDIA Old has compute capability 7\.5.*need 8\.0"),
}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find what another has probed."""
    monkeypatch.setattr(cupy_runtime, "_verdict", [])


def fail_to_import() -> Any:
    raise ImportError("No module named 'cupy'")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_named_with_its_cure(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, message = FAULTS[fault]
    monkeypatch.setattr(cupy_runtime, "_cupy", lambda: cupy)
    x, weight = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(sk.BackendUnavailableError, match=f"'cuda' cannot run here: {message}"):
        sk.conv2d(x, weight, backend="cuda")


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_runtime, "_cupy", fail_to_import)
    assert "No module named 'cupy'" in unavailable("cuda")
    assert "pip install '.[cuda13]'" in unavailable("cuda")


def test_without_nvrtc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_nvrtc() -> Any:
        raise ImportError("libnvrtc.so.13 is not there")

    monkeypatch.setattr(compiling, "_nvrtc", no_nvrtc)
    monkeypatch.setattr(cupy_runtime, "_cupy", fake_cupy)
    for cached in (compiling.unavailable, compiling.version):
        cached.cache_clear()
    try:
        assert "NVRTC cannot be loaded (libnvrtc.so.13 is not there)" in unavailable("cuda")
        assert "pip install '.[cuda13]'" in unavailable("cuda")
    finally:
        for cached in (compiling.unavailable, compiling.version):
            cached.cache_clear()


def test_a_failure_is_asked_again_and_a_success_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "unavailable", lambda: "")
    monkeypatch.setattr(cupy_runtime, "_cupy", lambda: fake_cupy(0))
    assert unavailable("cuda")
    monkeypatch.setattr(cupy_runtime, "_cupy", fake_cupy)
    assert not unavailable("cuda")
    monkeypatch.setattr(cupy_runtime, "_cupy", lambda: fake_cupy(0))
    assert not unavailable("cuda")


def test_code_that_the_driver_cannot_load_says_which_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> Any:
        raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU")

    cupy = fake_cupy(driver=12040)
    cupy.RawModule = refuse
    monkeypatch.setattr(cupy_runtime, "_cupy", lambda: cupy)
    monkeypatch.setattr(compiling, "cubin_path", lambda *_: "kernel.cubin")
    monkeypatch.setattr(compiling, "version", lambda: (13, 2))
    with pytest.raises(sk.BackendUnavailableError, match=r"driver \(CUDA 12\.4\) cannot load .*NVRTC 13\.2.*install"):
        cupy_runtime._function.__wrapped__(all_kernels()[0], "90a", 0)


def test_a_profile_plans_and_does_not_run() -> None:
    for name in PROFILES:
        plan = sk.plan_conv((8, 64, 56, 56), (64, 64, 3, 3), dtype="float16", stride=2, padding=1, device=name)
        assert (plan.backend, plan.device.name) == ("cuda", name)
        assert plan.vram.output == 8 * 64 * 28 * 28 * 2
        assert plan.vram.peak % 512 == 0
    with pytest.raises(sk.BackendUnavailableError, match="profile 'H200', which predicts"):
        CUPY.memory(profile("H200"))
    with pytest.raises(sk.BackendUnavailableError, match="profiles are A100"):
        sk.plan_conv((1, 3, 8, 8), (4, 3, 3, 3), device="H900")
    with pytest.raises(sk.BackendUnavailableError, match="backend is 'cpu'"):
        sk.plan_conv((1, 3, 8, 8), (4, 3, 3, 3), device="H200", backend="cpu")


def test_a_grid_beyond_the_limit_is_refused_before_it_is_launched() -> None:
    with pytest.raises(sk.ShapeError, match=r"grid of \(1, 65536, 1\) blocks; CUDA takes \(2147483647, 65535, 65535\)"):
        launch(profile("H200"), all_kernels()[0], (1, 65536, 1), np.zeros(1))


def test_more_groups_than_a_grid_holds_are_left_to_the_direct_kernel() -> None:
    plan = sk.plan_conv((1, 70000, 4, 4), (70000, 1, 3, 3), groups=70000, dtype="float16", device="H200")
    assert plan.algorithm == "direct"
    assert "70000 groups are more than the 65535 of a grid" in plan.why


def test_sizes_beyond_31_bits_are_left_to_the_direct_kernel() -> None:
    plan = sk.plan_conv((1, 64, 2**31 + 9), (64, 64, 3), dtype="float16", device="H200")
    assert plan.algorithm == "direct"
    assert "does not fit into the 31 bits" in plan.why


class Foreign:
    """An array of CuPy's, as far as arguments are checked."""

    __module__ = "cupy"

    def __init__(self, array: np.ndarray, ordinal: int = 0, offset: int = 0):
        self.shape, self.dtype, self.ndim, self.itemsize = array.shape, array.dtype, array.ndim, array.itemsize
        self.strides, self.size, self.flags = array.strides, array.size, SimpleNamespace()
        self.data = SimpleNamespace(ptr=4096 + offset)
        self.device = SimpleNamespace(id=ordinal)


def test_numpy_and_cupy_do_not_mix() -> None:
    x, weight = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(sk.BackendUnavailableError, match="x is numpy's, weight is cupy's; nothing is copied"):
        sk.conv2d(x, Foreign(weight))
    with pytest.raises(sk.BackendUnavailableError, match="out is cupy's"):
        sk.conv2d(x, weight, out=Foreign(x))
    with pytest.raises(sk.BackendUnavailableError, match="x is cupy's, weight is numpy's"):
        sk.plan_conv(x.shape, weight.shape, backend="reference").execute(Foreign(x), weight)
    with pytest.raises(sk.BackendUnavailableError, match="backend is 'cpu' and the arrays are CuPy's"):
        sk.conv2d(Foreign(x), Foreign(weight), backend="cpu")


def test_arrays_of_another_device_or_off_their_elements_are_refused() -> None:
    memory, x = CupyMemory(0), np.ones((2, 3, 4, 4), np.float32)
    assert not memory.refuses(Foreign(x))
    assert "lies on cuda:1, the plan runs on cuda:0; copy it there" in memory.refuses(Foreign(x, ordinal=1))
    assert "whole elements" in memory.refuses(Foreign(x, offset=2))


@pytest.mark.parametrize("name", ["device.cuh", "implicit_gemm.cu"])
def test_sources_carry_their_headers_once(name: str) -> None:
    text = source_of(name)
    assert text.count("DEVICE float float_from_half(u16 half)") == 1
    assert "#pragma once" not in text
    assert (kernels_dir() / name).is_file()


@emulated
def test_no_memory_at_all_becomes_a_budget_error_that_says_what_was_free() -> None:
    x, weight = np.ones((4, 64, 24, 24), np.float16), np.ones((64, 64, 3, 3), np.float16)
    with use_emulator(capacity=1024):
        plan = sk.plan_conv(x.shape, weight.shape, dtype="float16", padding=1, backend="cuda")
        with pytest.raises(sk.VramBudgetError, match=r"emulator has 1024 bytes free: .*smallest that works"):
            plan.execute(x, weight)


@emulated
def test_what_a_failed_attempt_had_allocated_is_free_for_the_next(rng: np.random.Generator) -> None:
    """The workspace fails behind an output that fits: the second attempt must find all of the memory again."""
    x = rng.standard_normal((4, 64, 24, 24)).astype(np.float16)
    weight = rng.standard_normal((64, 64, 3, 3)).astype(np.float16)
    with use_emulator():
        plan = sk.plan_conv(x.shape, weight.shape, dtype="float16", padding=1, backend="cuda")
        wanted = plan.execute(x, weight)
    with use_emulator(capacity=plan.vram.allocated - 512):
        assert_same_bits(plan.execute(x, weight), wanted)


@emulated
def test_less_memory_than_planned_is_tried_again_in_less(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 64, 24, 24)).astype(np.float16)
    weight = rng.standard_normal((64, 64, 3, 3)).astype(np.float16)
    with use_emulator():
        plan = sk.plan_conv(x.shape, weight.shape, dtype="float16", padding=1, backend="cuda")
        wanted, needed = plan.execute(x, weight), plan.vram
    assert plan.algorithm == "implicit_gemm"
    out = np.empty_like(wanted)
    with use_emulator(capacity=needed.workspace - 512):
        plan.execute(x, weight, out=out)
    assert_same_bits(out, wanted)


@emulated
def test_arrays_of_the_host_go_to_the_device_and_back(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 10, 24)).astype(np.float32)
    weight, bias = rng.standard_normal((5, 24, 3, 3)).astype(np.float32), np.ones(5, np.float32)
    arguments: dict[str, Any] = {"layout": "NHWC", "stride": 2, "padding": "same", "backend": "cuda"}
    with use_emulator():
        wanted = sk.conv2d(x, weight, bias, **arguments)
    with use_emulator(resident=False), sk.vram.track() as usage:
        y = sk.conv2d(x, weight, bias, **arguments)
        assert_same_bits(y, wanted)
        out = np.empty((2, 5, 5, 10), np.float32)[..., ::2]
        assert sk.conv2d(x, weight, bias, out=out, **arguments) is out
        assert_same_bits(np.array(out), wanted)
        plan = sk.plan_conv(x.shape, weight.shape, layout="NHWC", stride=2, padding="same", bias=True, backend="cuda")
        assert_same_bits(plan.execute(x, plan.pack(weight), bias), wanted)
    assert usage.peak >= plan.vram.peak
    assert usage.current == 0
