"""Nothing small is endless: plans and descriptions are arithmetic; what would take the machine is refused by name."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import stridekit as sk
from stridekit.memory.limits import available_bytes, check_memory
from stridekit.networks import Layer, Network
from stridekit.networks.operations import (
    Activation,
    AdaptiveAvgPool,
    AvgPool,
    BlurPool,
    Conv,
    ConvTranspose,
    GlobalAvgPool,
    Input,
    MaxPool,
    Upsample,
)
from stridekit.planning.pieces import Pieces
from stridekit.problems.pool_problem import pool_problem
from stridekit.report.axes import describe_axis, draw_axis

PROGRAM = Path(__file__).with_name("kit") / "endless.py"
MOST_SECONDS, MOST_KIB = 1.0, 700 * 1024
"""Of processor time of one case, and of memory of all of them in one process."""

# What must come of each case of endless.py.
WANTED = {
    "toml nested 5000 deep": "NetworkError: network:1: brackets lie more than 16 deep",
    "toml tables nested 5000 deep": "NetworkError: network:1: brackets lie more than 16 deep",
    "toml brackets in strings": "answers",
    "toml integer of 5000 digits": "NetworkError: network:1: a number has 5000 characters; at most 40",
    "toml hexadecimal of 100000 digits": "NetworkError: network:1: a number has 100002 characters",
    "toml exponent of 5000 digits": "NetworkError: network:1: a number has 5002 characters",
    "toml key of 20000 parts": "NetworkError: network:1: a key has more than 16 parts",
    "toml header of 20000 quoted parts": "NetworkError: network:1: a key has more than 16 parts",
    "toml string without an end": "NetworkError: network:1: not TOML",
    "toml blocks that make 10**30 layers": r"NetworkError: network:\d+: op: there are more than 10000 layers",
    "toml block of 10**4 layers": r"NetworkError: network:\d+: op: there are more than 10000 layers",
    "toml values that double": r"NetworkError: network:\d+: x: holds more than 64 numbers",
    "toml names that grow": r"NetworkError: network:\d+: name: is 'relu1'.* at most 1000",
    "toml sizes that grow": r"NetworkError: network:\d+: op: layer 'b01.0.upsample1' .* more numbers than",
    "toml fields that grow": "NetworkError: layer 'b01.12.conv1': what its pixels depend on",
    "toml linear of 10**18 weights": "VramBudgetError: the parameters of the network would take",
    "toml pipe": r"NetworkError: .*pipe\.toml: cannot be read \(is a pipe, not a file\)",
    "toml socket": r"NetworkError: .*socket\.toml: cannot be read",
    "toml folder": r"NetworkError: .*folder\.toml: cannot be read \(Is a directory\)",
    "toml of 4 TiB": r"NetworkError: .*vast\.toml: cannot be read \(has 4398046511104 bytes; at most 4194304",
    "toml empty": r"NetworkError: .*empty\.toml:1: layers",
    "toml device": "NetworkError: /dev/zero: cannot be read .*a device",
    "picture pipe": r"ImageError: .*pipe\.png: .*\(is a pipe, not a file\)",
    "picture socket": r"ImageError: .*socket\.png",
    "picture folder": r"ImageError: .*folder\.png: is a folder",
    "picture of 4 TiB": r"ImageError: .*vast\.png: not a picture",
    "picture empty": r"ImageError: .*empty\.png: not a picture",
    "picture device": "ImageError: /dev/zero: .*a device",
    "weights pipe": r"ArgumentError: --weights .*pipe\.npy: cannot be read \(is a pipe, not a file\)",
    "weights device": "ArgumentError: --weights /dev/zero: .*a device",
    "weights folder": "ArgumentError: --weights .*directory",
    "weights whose header promises 10**18": "ArgumentError: .*damaged .npy file .*4000000000000000000 bytes; 2 follow",
    "weights of 4 TiB": "VramBudgetError: --weights .* would take 4398046511104 bytes",
    "weights empty": "ArgumentError: --weights .*not a .npy file",
    "shape 10**9 kernel 10**9": r"(?s)answers: 1000000000 -> 1\n.*skipped:   0 pixels",
    "shape with everything vast": r"(?s)answers: 999999999999999999 -> 112709695255558\n.*neighbouring windows share",
    "compare 10**8 filters": "SystemExit: stridekit: a comparison of 100000000 filters.* would take",
    "compare 10**6 filters": "SystemExit: stridekit: a comparison of 1000000 filters.* would take",
    "compare kernel 10**5": "SystemExit: stridekit: a comparison of 32 filters.* would take",
    "compare kernel 10**18": "SystemExit: stridekit: weight .*largest size",
    "compare 10**9 repeats": "SystemExit: stridekit: repeats is 1000000000",
    "compare 2000 strides": "SystemExit: stridekit: strides holds 2000 different ones",
    "network batch 10**12": "(?s)answers: .*peak",
    "network batch 10**18": "SystemExit: stridekit: .*999999999999999999",
    "network of 10**18 pixels": "SystemExit: stridekit: layer 'words'",
    "network of 10**9 x 10**9": "SystemExit: stridekit: layer 'conv1'",
    "network measured": "SystemExit: stridekit: the input would take",
    "network fits": r"(?s)answers: .*Largest batch within 99999999GiB: \d+",
    "linear measured": "SystemExit: stridekit: the parameters of the network would take",
}
MODELS = {
    "onnx Concat(c, c) forty times": r"NetworkError: node 'k17' \(Concat\): makes a constant \(16777216,\) of less",
    "onnx Concat of 2000 of 2000": r"NetworkError: node 'k1' \(Concat\): makes a constant \(256000000,\) of less",
    "onnx Gather repeats": r"NetworkError: node 'k' \(Gather\): makes a constant \(8000, 8000\) of less",
    "onnx outer sum": r"NetworkError: node 'k' \(Add\): makes a constant \(100000, 100000\) of less",
    "onnx Expand": r"NetworkError: node 'z' \(Expand\): makes a constant",
    "onnx a hundred fillings": r"NetworkError: node 'z16' \(ConstantOfShape\): .* a model may make 67108928",
    "onnx filling of 2**60": r"NetworkError: node 'z' \(ConstantOfShape\): makes a constant \(1152921504606846976,\)",
    "onnx product over nothing": r"NetworkError: node 'k' \(ReduceProd\): makes a constant \(1099511627776,\)",
    "onnx smallest of 3000": r"NetworkError: node 'k' \(Min\): makes a constant",
    "onnx bias of a matrix without numbers": r"NetworkError: node 'y' \(Gemm\): makes a constant \(1099511627776,\)",
    "onnx 26 functions that call the next twice": "NetworkError: function 'F16' uses itself, or functions",
    "onnx functions that call the next ten times": "NetworkError: the functions .* make 100000000 nodes",
    "onnx functions that call each other": "NetworkError: .*(C|c)ycle|NetworkError: function 'F.' uses itself",
    "onnx functions that hold a tensor": r"NetworkError: the functions .* take \d+ bytes",
    "onnx product with itself 60 times": "NetworkError: output .* is a function of each element, by Exp",
    "onnx 1500 steps of a function": "NetworkError: output .* is a function of each element, by Exp",
    "onnx reads what comes later": "NetworkError: ",
    "onnx pipe": r"NetworkError: .*pipe\.onnx: .*is a pipe, not a file",
    "onnx socket": r"NetworkError: .*socket\.onnx",
    "onnx folder": r"NetworkError: .*folder\.onnx",
    "onnx of 4 TiB": r"NetworkError: .*vast\.onnx: .*has 4398046511104 bytes; at most 2147483648",
    "onnx empty": r"NetworkError: .*empty\.onnx",
    "onnx device": "NetworkError: /dev/zero: .*a device",
    "onnx weights in a pipe": r"NetworkError: .*outside\.onnx: .*w\.bin: is a pipe, not a file",
    "onnx weights in 4 TiB": r"VramBudgetError: .*outside\.onnx, with its weights .* would take 2199023255552",
    "onnx weights beyond the file": r"NetworkError: initializer 'w' lies beyond the 0 bytes of w\.bin",
}
with_models = pytest.mark.skipif(find_spec("onnx") is None, reason="models are read by onnx; pip install '.[onnx]'")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of every case, in a process whose memory and time are limited."""
    folder = tmp_path_factory.mktemp("endless")
    arguments = [sys.executable, str(PROGRAM), str(folder), "onnx" if find_spec("onnx") else "without"]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=150, check=False)
        printed, said = done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        printed, said = (
            text.decode() if isinstance(text, bytes) else text or "" for text in (error.stdout, error.stderr)
        )
    lines = [json.loads(line) for line in printed.splitlines()]
    return {**{line["name"]: line for line in lines}, "said": {"outcome": said}}


@pytest.mark.parametrize("name", [*WANTED, *(pytest.param(name, marks=with_models) for name in MODELS)])
def test_a_small_input_that_asks_for_the_endless_is_answered_or_refused_at_once(
    outcomes: dict[str, dict[str, Any]], name: str
) -> None:
    assert name in outcomes, f"no answer before the time was out; {outcomes['said']['outcome'][-2000:]}"
    found = outcomes[name]
    assert re.match({**WANTED, **MODELS}[name], found["outcome"]), found["outcome"]
    assert found["seconds"] < MOST_SECONDS


def test_all_of_them_together_take_little_memory(outcomes: dict[str, dict[str, Any]]) -> None:
    assert set(outcomes) - {"memory", "said"} >= set(WANTED)
    assert outcomes["memory"]["kib"] < MOST_KIB


# Plans.


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time until an answer, or a refusal by name."""
    # What the collector walks through belongs to all that ran before.
    gc.disable()
    try:
        start = time.thread_time()
        with contextlib.suppress(sk.StridekitError):
            call()
        return time.thread_time() - start
    finally:
        gc.enable()


def described(plan: sk.Plan) -> None:
    """Ask all that a plan says, also of tiles within a budget."""
    assert plan.why
    assert plan.vram.peak >= plan.vram.allocated
    assert plan.packed_bytes >= 0
    assert plan.flops >= 0
    assert repr(plan)
    with sk.vram.budget("1 GiB"):
        assert plan.vram.allocated <= 2**30


DEVICES, DIRECTIONS = [None, "H200"], ["forward", "input_grad"]
AT_ONCE = 0.4
"""Seconds of processor time: a hundred times what an answer takes, and nothing of what a walk would."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("input_shape", "weight_shape", "options"),
    [
        ((1, 1, 10**9), (1, 1, 3), {"stride": 10**6, "direction": "input_grad"}),
        ((1, 1, 10**9), (1, 1, 10**6), {"stride": 10**6, "direction": "input_grad"}),
        ((1, 1, 10**9), (1, 1, 10**6 - 1), {"stride": 10**6, "direction": "input_grad"}),
        ((1, 1, 10**6), (1, 1, 3), {"stride": 10**6, "direction": "input_grad", "padding_mode": "reflect"}),
        ((1, 1, 10**7), (1, 1, 2000), {"stride": 1000, "dilation": 999, "direction": "input_grad"}),
        ((1, 1, 10**6, 10**6), (1, 1, 10**5, 10**5), {"stride": 10**5, "direction": "input_grad"}),
        ((1, 1, 2**40), (1, 1, 2**31), {"direction": "input_grad"}),
        ((1, 1, 2**40), (1, 1, 2**31), {"direction": "weight_grad"}),
        ((1, 1, 2**40), (1, 1, 2**31), {}),
        ((1, 10**6, 1000), (10**6, 1, 9), {"stride": 9, "groups": 10**6, "direction": "weight_grad"}),
        ((1, 2 * 10**6, 1000), (10**6, 2, 9), {"stride": 9, "groups": 10**6, "direction": "weight_grad"}),
        ((1, 10**6, 1000), (10**6, 1, 9), {"stride": 9, "groups": 10**6}),
        ((2**40, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((2**40, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3, "direction": "input_grad"}),
        ((2**40, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3, "direction": "weight_grad"}),
        ((1, 1, 2**36), (1, 1, 10**7), {"padding": "same"}),
    ],
)  # fmt: skip
def test_a_plan_is_made_at_once_whatever_the_numbers(
    input_shape: tuple[int, ...], weight_shape: tuple[int, ...], options: dict[str, Any], device: str | None
) -> None:
    sk.plan_conv((1, 1, 9), (1, 1, 3), device=device)
    assert seconds(lambda: described(sk.plan_conv(input_shape, weight_shape, device=device, **options))) < AT_ONCE


def test_a_long_stride_has_as_many_dense_problems_as_taps_and_no_more(backend: str) -> None:
    plan = sk.plan_conv((1, 1, 10**9), (1, 1, 3), stride=10**6, direction="input_grad", backend=backend)
    if backend != "reference":
        assert "3 dense problems" in plan.why
    assert plan.vram.workspace < 2**24 or backend == "reference"


def test_an_input_gradient_at_a_long_stride_visits_the_phases_that_are_read(backend: str) -> None:
    stride, bias = 10**5, np.array([7.0])
    x, weight = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[10.0, 20.0, 30.0]]])
    found = sk.conv_transpose1d(x, weight, bias, stride=stride, output_padding=5, backend=backend)
    wanted = np.full((1, 1, 2 * stride + 3 + 5), 7.0)
    for number, value in enumerate(x[0, 0]):
        wanted[0, 0, number * stride : number * stride + 3] += value * weight[0, 0]
    np.testing.assert_array_equal(found, wanted)
    gradient = sk.conv_input_grad((1, 1, 4), weight[:, :, :2], np.ones((1, 1, 1)), stride=2**40, backend=backend)
    assert gradient.tolist() == [[[10.0, 20.0, 0.0, 0.0]]]


def test_patches_of_many_taps_are_moved_row_by_row(backend: str) -> None:
    rng = np.random.default_rng(0)
    taps = 20_000
    weight, grad = (
        rng.integers(-9, 9, (2, 3, taps)).astype(np.float32),
        rng.integers(-9, 9, (1, 2, 3)).astype(np.float32),
    )
    start = time.thread_time()
    found = sk.conv_input_grad((1, 3, 3 * taps), weight, grad, stride=taps, backend=backend)
    assert time.thread_time() - start < 5 or backend == "cuda", "the emulator's launches take their time"
    np.testing.assert_array_equal(found, np.einsum("nkq,kct->ncqt", grad, weight).reshape(found.shape))


@pytest.mark.parametrize(("kernel", "dilation", "largest"), [(2**40, 1, 6), (2**39, 2, 5)])
def test_a_pooling_window_reads_the_input_and_not_its_padding(
    backend: str, kernel: int, dilation: int, largest: int
) -> None:
    x = np.arange(1.0, 7).reshape(1, 1, 6)
    options: dict[str, Any] = {"stride": 2**38, "padding": 2**39, "dilation": dilation, "backend": backend}
    assert sk.max_pool1d(x, kernel, **options)[0, 0, 0] == largest
    read = x[0, 0, ::dilation]
    assert sk.avg_pool1d(x, kernel, count_include_pad=False, **options)[0, 0, 0] == read.mean()
    np.testing.assert_allclose(sk.avg_pool1d(x, kernel, **options)[0, 0, 0], read.sum() / kernel)
    gradient = sk.max_pool_grad(x, np.ones((1, 1, 1)), kernel, **options)
    assert gradient[0, 0].tolist() == [float(value == largest) for value in x[0, 0]]


def test_more_outputs_than_can_be_listed_are_a_range() -> None:
    axis = sk.conv_geometry(2**40, kernel_size=2**39).axes[0]
    assert axis.reading(2**39) == range(1, 2**39 + 1)
    with pytest.raises(sk.ShapeError, match=f"read by more outputs than the {2**20}"):
        axis.outputs_reading(2**39)


small = st.integers(1, 6)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_kinds_of_tiles_are_those_of_all_tiles(data: st.DataObject) -> None:
    shape, kernel = (data.draw(small), 1, data.draw(st.integers(1, 20))), data.draw(small)
    padding, direction = (
        data.draw(st.tuples(st.integers(0, 7), st.integers(0, 7))),
        data.draw(st.sampled_from(DIRECTIONS)),
    )
    steps = {"stride": data.draw(small), "dilation": data.draw(st.integers(1, 3)), "padding": (padding,)}
    try:
        problem = sk.plan_conv(shape, (1, 1, kernel), direction=direction, backend="reference", **steps).problem
    except sk.ShapeError:
        return
    rows = data.draw(st.integers(1, problem.geometry.axes[0].output_size))
    tiles = Pieces(problem, data.draw(st.integers(1, problem.batch)), rows)
    every = {tile.problem for tile in tiles}
    in_padding = any(problem.geometry.axes[0].size < 1 for problem in every)
    assert set(tiles.kinds()) == (set() if in_padding else every)


# A hunt.

integers = st.one_of(st.integers(1, 2**62), st.integers(1, 2**40), st.integers(1, 2**20), st.integers(1, 9))
steps = st.one_of(st.just(1), integers)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    each = st.tuples(*[integers] * rank)
    groups = draw(st.one_of(st.just(1), integers))
    padding = st.one_of(st.sampled_from(["same", "valid", 0]), st.tuples(*[st.tuples(integers, integers)] * rank))
    return {
        "size": draw(each),
        "kernel": draw(each),
        "stride": draw(st.tuples(*[steps] * rank)),
        "dilation": draw(st.tuples(*[steps] * rank)),
        "padding": draw(padding),
        "batch": draw(st.one_of(st.sampled_from([0, 1]), integers)),
        "groups": groups,
        "channels": groups * draw(st.integers(1, 9)),
        "filters": groups * draw(st.integers(1, 9)),
    }


def hunted(w: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return all that may be asked of a window of these numbers."""
    shape = (w["batch"], w["channels"], *w["size"])
    geometry = {"stride": w["stride"], "padding": w["padding"], "dilation": w["dilation"]}

    def sizes() -> None:
        found = sk.conv_geometry(w["size"], kernel_size=w["kernel"], **geometry)
        assert all(0 <= unread <= size for unread, size in zip(found.unread, w["size"], strict=True))
        assert found.dropped <= found.unread
        for axis in found.axes:
            assert describe_axis(axis)
            assert len(draw_axis(axis)) < 20
        found.input_window((0,) * len(w["size"]))
        found.outputs_reading((0,) * len(w["size"]))

    def planned(direction: str, device: str | None, mode: str) -> None:
        weight = (w["filters"], w["channels"] // w["groups"], *w["kernel"])
        options: dict[str, Any] = {**geometry, "groups": w["groups"], "direction": direction, "padding_mode": mode}
        described(sk.plan_conv(shape, weight, device=device, **options))

    def pooled(ceil_mode: bool) -> None:
        options: dict[str, Any] = {**geometry, "ceil_mode": ceil_mode, "memory_order": "channels_first"}
        assert repr(pool_problem("max", "forward", shape, dtype="float32", kernel_size=w["kernel"], **options))

    def networked(operation: Any) -> None:
        layers = [
            Layer("input", Input((w["channels"], *w["size"]))),
            Layer("a", operation, ("input",)),
            Layer("b", Activation("relu"), ("a",)),
        ]
        network = Network("n", layers)
        network.summary(batch=w["batch"])
        network.vram(w["batch"], device="H200", training=True)

    several = (w["kernel"], w["stride"], w["padding"], w["dilation"])
    operations = [
        Conv(w["filters"], *several, w["groups"]),
        ConvTranspose(w["filters"], *several[:3], 0, w["dilation"], w["groups"]),
        MaxPool(*several),
        AvgPool(*several),
        BlurPool(w["stride"]),
        Upsample(w["stride"], "linear"),
        AdaptiveAvgPool(w["stride"]),
        GlobalAvgPool(),
    ]
    plans = [
        (direction, device, mode)
        for direction in ("forward", "input_grad", "weight_grad")
        for device in DEVICES
        for mode in ("zeros", "replicate")
    ]
    return {
        "geometry": sizes,
        **{f"plan {' '.join(map(str, each))}": lambda each=each: planned(*each) for each in plans},
        **{f"pool {ceil}": lambda ceil=ceil: pooled(ceil) for ceil in (False, True)},
        **{type(each).__name__: lambda each=each: networked(each) for each in operations},
    }


def hunt(w: dict[str, Any]) -> None:
    for name, call in hunted(w).items():
        took = seconds(call)
        assert took < AT_ONCE, f"{name}: {took:.2f} s for {w}"


quiet = {
    "deadline": None,
    # To explain a failure, lines are traced, which takes eight times as long.
    "phases": [phase for phase in Phase if phase is not Phase.explain],
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


@settings(max_examples=40, **quiet)
@given(w=windows())
def test_enormous_integers_are_answered_or_refused_at_once(w: dict[str, Any]) -> None:
    hunt(w)


@pytest.mark.thorough
@settings(max_examples=5000, **quiet)
@given(w=windows())
def test_many_enormous_integers_are_answered_or_refused_at_once(w: dict[str, Any]) -> None:
    hunt(w)


# Memory.


def test_what_memory_has_no_room_for_is_refused_before_it_is_built(backend: str) -> None:
    left = available_bytes()
    if left is None:
        pytest.skip("this system does not say what memory it has left")
    with pytest.raises(
        sk.VramBudgetError, match=rf"^a castle would take {2 * left} bytes, and this machine has \d+ left"
    ):
        check_memory("a castle", 2 * left)
    check_memory("a hut", 1000)
    pixels = 2 * left // 4
    # A view of one number: all that a call is given may be a few bytes.
    x = np.broadcast_to(np.float32(1), (1, 1, pixels))
    if backend != "cuda":
        with sk.vram.track() as usage, pytest.raises(MemoryError):
            sk.conv1d(x, np.ones((1, 1, 1), np.float32), backend=backend)
        assert usage.current == 0
        with pytest.raises(MemoryError):
            sk.max_pool1d(x, 1, backend=backend)
