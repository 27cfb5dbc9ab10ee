"""The memory of networks: predicted is measured, nothing alive overlaps, and nothing is allocated beside the plan."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from conftest import EMULATED

import stridekit as sk
from stridekit.backends import load_backend, profile_called
from stridekit.memory.arrays import numpy_dtype
from stridekit.memory.dtypes import DTYPES
from stridekit.networks import Network
from stridekit.networks.execution import Program
from stridekit.networks.execution import arena as arena_module
from stridekit.networks.execution.kernels import Context
from stridekit.networks.execution.optimizers import OPTIMIZERS, Optimizer
from stridekit.networks.execution.steps import Step, Value
from tests.kit.network_cases import chain, drawn, every_operation, layer, random_network
from tests.kit.thinning import every

HOSTS = pytest.mark.parametrize("backend", ["reference", "cpu"])
SIZE = (15, 12)


def given(network: Network, batch: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    shape = network.features[network.inputs[0].name].shape
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(numpy_dtype(dtype))


def program(network: Network, batch: int, backend: str, *, training: bool, dtype: str = "float32") -> Program:
    if backend == "H200":
        return Program(network, batch, Context("cuda", profile_called("H200")[1], "cupy", dtype, training))
    return Program(network, batch, Context(backend, load_backend(backend).device(), "numpy", dtype, training))


# What is predicted.


def check(network: Network, batch: int, dtype: str, backend: str) -> None:
    x, target = given(network, batch, dtype), np.arange(batch) % 3
    with sk.vram.track() as usage:
        y = network.run(x, backend=backend)
    predicted = network.vram(batch, dtype=dtype, backend=backend)
    assert usage.peak == predicted.allocated == predicted.arena + predicted.output
    assert usage.current == predicted.output >= y.nbytes
    for name in OPTIMIZERS:
        predicted = network.vram(batch, dtype=dtype, training=True, optimizer=name, backend=backend)
        for first in (True, False):
            with sk.vram.track() as usage:
                network.train_step(x, target, name, backend=backend)
            assert usage.peak == predicted.allocated - (0 if first else predicted.optimizer), (name, first)
            assert usage.current == (predicted.optimizer if first else 0)
        assert predicted.optimizer == predicted.allocated - predicted.arena
        assert predicted.peak == predicted.allocated + predicted.parameters + predicted.input
        parts = [predicted.activations, predicted.gradients, predicted.parameter_gradients, predicted.saved]
        assert sum(parts) + predicted.workspace <= predicted.arena


@pytest.mark.parametrize("dtype", DTYPES)
@HOSTS
@pytest.mark.rotated("backend")
def test_what_is_predicted_is_what_is_allocated_to_the_byte(backend: str, dtype: str) -> None:
    for batch in (1, 4):
        check(drawn(every_operation(SIZE), dtype), batch, dtype, backend)


@pytest.mark.parametrize("backend", [EMULATED], indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_predicted_is_what_a_card_deals_out(backend: str, dtype: str) -> None:
    network = drawn(every_operation((6, 5)), dtype)
    check(network, 2, dtype, backend)
    predicted = network.vram(2, dtype=dtype, training=True, optimizer="adam", backend=backend)
    for part in (predicted.arena, predicted.optimizer, predicted.parameters, predicted.input):
        assert part % 512 == 0


@HOSTS
def test_no_samples_take_no_memory(backend: str) -> None:
    network = drawn(every_operation(SIZE), "float32")
    with sk.vram.track() as usage:
        network.run(given(network, 0), backend=backend)
    assert usage.peak == network.vram(0, backend=backend).allocated == 0


def test_what_an_optimizer_keeps_is_what_its_slots_say() -> None:
    network = drawn(every_operation(SIZE), "float16")
    elements = sum(int(np.prod(shape)) for shape in network.parameter_shapes.values())
    for name, slots in (("sgd", 0), ("momentum", 1), ("adam", 2)):
        predicted = network.vram(2, dtype="float16", training=True, optimizer=name, backend="reference")
        assert predicted.optimizer == slots * elements * 4


@HOSTS
@pytest.mark.parametrize("training", [False, True], ids=["run", "train"])
def test_a_budget_of_what_is_predicted_is_enough_and_a_byte_less_is_not(backend: str, training: bool) -> None:
    network = drawn(every_operation(SIZE), "float32")
    x, target = given(network, 2), np.array([0, 3])
    before = {name: value.copy() for name, value in network.parameters.items()}
    enough = network.vram(2, training=training, optimizer="adam", backend=backend).allocated

    def go() -> Any:
        if training:
            return network.train_step(x, target, "adam", backend=backend)
        return network.run(x, backend=backend)

    with sk.vram.budget(enough - 1) as usage:
        with pytest.raises(sk.VramBudgetError, match=f"{enough} are needed"):
            go()
        assert usage.peak == 0
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, before[name])
    with sk.vram.budget(enough) as usage:
        result = go()
    assert usage.peak == enough
    unbounded = drawn(every_operation(SIZE), "float32")
    if training:
        assert result == unbounded.train_step(x, target, "adam", backend=backend)
    else:
        np.testing.assert_array_equal(result, unbounded.run(x, backend=backend))
    # A plan that was made within a budget is the one that is made without.
    assert network.vram(2, training=training, optimizer="adam", backend=backend).allocated == enough


def test_a_card_that_is_not_here_is_predicted_by_its_name() -> None:
    network = sk.networks.load("resnet18")
    run, train = network.vram(4, device="H200"), network.vram(4, device="H200", training=True, optimizer="adam")
    assert run.allocated < train.allocated
    assert train.optimizer >= 2 * 4 * 11_689_512
    assert train.parameters >= 4 * 11_689_512
    assert network.vram(8, device="H200").arena > run.arena
    with pytest.raises(sk.StridekitError, match="H200"):
        network.vram(device="H2000")
    with pytest.raises(sk.BackendUnavailableError, match="cuda"):
        network.vram(device="H200", backend="cpu")


# Where it lies.


def lives(steps: Sequence[Step], kept: str) -> dict[str, tuple[int, int]]:
    """Return by value the steps between which it must not be touched by others."""
    found: dict[str, tuple[int, int]] = {}
    for at, step in enumerate(steps):
        for name in (*step.reads, *step.writes):
            found[name] = (found.get(name, (at, at))[0], len(steps) - 1 if name == kept else at)
    return found


def check_arena(made: Program) -> float:
    """Raise if two values that are alive at once overlap; return how much of the arena never holds anything."""
    steps, values, arena = made.schedule.steps, made.schedule.values, made.arena
    inside = {name: value for name, value in values.items() if value.role != "output"}
    assert set(arena.offsets) == set(inside)
    written: set[str] = set()
    for at, step in enumerate(steps):
        assert set(step.reads) <= written, (at, step.name)
        written |= set(step.writes)
    alive = lives(steps, made.schedule.loss)
    spans: list[tuple[int, int, int, int, str]] = []
    for name, value in inside.items():
        first, last = alive[name]
        offset = arena.offsets[name]
        assert offset % 64 == 0
        assert offset + value.nbytes <= arena.nbytes
        spans.append((first, last, offset, offset + value.nbytes, name))
    for at, step in enumerate(steps):
        if step.workspace:
            start = arena.workspaces[at]
            assert start % 64 == 0
            assert start + step.workspace <= arena.nbytes
            spans.append((at, at, start, start + step.workspace, ""))
    spans.sort()
    live = [0] * len(steps)
    for number, (first, last, start, end, name) in enumerate(spans):
        for other_first, other_last, other_start, other_end, other in spans[number + 1 :]:
            if other_first > last:
                break
            if other_start >= end or start >= other_end:
                continue
            # Only where one is written over the other, element by element, as the last that happens to it.
            replaced, by = (name, other) if last == other_first else (other, name)
            at = alive[by][0] if by else -1
            assert replaced
            assert by
            assert alive[replaced][1] == at, (replaced, by)
            assert replaced in steps[at].in_place.get(by, ()), (replaced, by)
            assert start == other_start
            assert other_last >= other_first
        for at in range(first, last + 1):
            live[at] += end - start
    # Of two in one place both are counted at the step between: no bound then, but for all other steps.
    shared = {alive[name][0] for name, root in arena.shares.items() if root != name}
    least = max((each for at, each in enumerate(live) if at not in shared), default=0)
    assert arena.nbytes >= least
    assert arena.nbytes >= max(arena.live)
    return arena.nbytes / max(arena.live) - 1


@pytest.mark.parametrize("looks", [0, arena_module._MOST_LOOKS], ids=["in time", "in the best order"])
@pytest.mark.parametrize("training", [False, True], ids=["run", "train"])
def test_nothing_that_is_alive_overlaps_in_random_graphs(
    training: bool, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena_module, "_MOST_LOOKS", looks)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rank = 1 + seed % 3
        network = random_network(rng, rank, tuple(int(size) for size in rng.integers(4, 9, rank)))
        for backend in ("reference", "cpu", "H200"):
            check_arena(program(network, 2, backend, training=training))


@pytest.mark.parametrize("name", every(5, sk.networks.names()))
def test_nothing_that_is_alive_overlaps_in_the_networks_that_ship(name: str) -> None:
    network = sk.networks.load(name)
    made = program(network, 2, "H200", training=False)
    # The largest sum of what is alive at once is the least that any layout takes.
    assert check_arena(made) < 0.12
    if len(network.outputs) == 1 and not name.startswith("resnet101"):
        assert check_arena(program(network, 2, "H200", training=True)) < 0.12


@pytest.mark.parametrize("looks", [0, arena_module._MOST_LOOKS], ids=["in time", "in the best order"])
def test_values_of_random_lives_never_meet(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "_MOST_LOOKS", looks)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        count, length = int(rng.integers(1, 25)), int(rng.integers(2, 15))
        values = [Value(f"v{n}", (int(rng.integers(0, 2000)),), np.dtype(np.uint8), "saved") for n in range(count)]
        spans = [sorted(int(each) for each in rng.integers(0, length, 2)) for _ in values]
        steps = []
        for at in range(length):
            writes = tuple(v.name for v, span in zip(values, spans, strict=True) if span[0] == at)
            reads = tuple(v.name for v, span in zip(values, spans, strict=True) if span[1] == at)
            steps.append(Step(f"s{at}", reads, writes, int(rng.integers(0, 3)) * 500, None))
        arena = arena_module.plan_arena(steps, values, 64)
        owner = [np.full(arena.nbytes, -1) for _ in steps]
        for number, (value, (first, last)) in enumerate(zip(values, spans, strict=True)):
            for at in range(first, last + 1):
                part = owner[at][arena.offsets[value.name] :][: value.nbytes]
                assert (part == -1).all()
                part[...] = number
        for at, step in enumerate(steps):
            assert (owner[at][arena.workspaces[at] :][: step.workspace] == -1).all()


# What is allocated beside it.


def beside(call: Any, counted: int) -> int:
    """Return the most bytes that Python and NumPy held at once during `call`, less what was counted."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before - counted
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pixels", [False, True], ids=["classes", "pixels"])
@pytest.mark.rotated("dtype")
def test_the_engine_allocates_nothing_large_beside_its_arena(pixels: bool, dtype: str) -> None:
    network = drawn(every_operation((96, 88), pixels=pixels), dtype)
    x = given(network, 4, dtype)
    target = np.zeros((4, 96, 88) if pixels else 4, np.int64)
    run, train = (network.vram(4, dtype=dtype, training=training, backend="cpu") for training in (False, True))
    assert run.arena > 2**20
    for call, predicted in (
        (lambda: network.run(x, backend="cpu"), run),
        (lambda: network.train_step(x, target, backend="cpu"), train),
    ):
        assert beside(call, predicted.allocated) < max(0.03 * predicted.arena, 2**18), predicted


ALONE: dict[str, dict[str, Any]] = {
    "conv": {"out_channels": 8, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "conv_transpose": {"out_channels": 8, "kernel_size": 2, "stride": 2},
    "max_pool": {"kernel_size": 2},
    "avg_pool": {"kernel_size": 2},
    "blur_pool": {},
    "batch_norm": {},
    "layer_norm": {},
    "scale": {},
    "upsample": {"factor": 2, "mode": "linear"},
    "slice": {"start": 1, "stop": 7},
    "softmax_cross_entropy": {},
    **{function: {} for function in ("relu", "leaky_relu", "silu", "gelu", "hard_swish", "hard_sigmoid")},
}
SHARPEST = ("conv", "batch_norm", "gelu")
"""One that has a plan of its own, one that sums, one that borrows a plan."""


@pytest.mark.parametrize(
    "kind", [kind if kind in SHARPEST else pytest.param(kind, marks=pytest.mark.thorough) for kind in ALONE]
)
def test_an_operation_alone_allocates_nothing_large(kind: str) -> None:
    """In the network of all operations a small layer could hide a copy of its own."""
    network = Network(kind, chain(
        layer("x", "input", size=(8, 64, 64)), layer("first", "scale"), layer("y", kind, **ALONE[kind]),
    ))  # fmt: skip
    drawn(network, "float32")
    x = given(network, 4)
    shape = network.features["y"].shape
    target = np.zeros((4, *shape[1:]), np.int64)
    for call, training in ((lambda: network.run(x), False), (lambda: network.train_step(x, target), True)):
        allocated = network.vram(4, training=training).allocated
        assert beside(call, allocated) < 2**17, training
    # The same as a copy of the input would take.
    assert x.nbytes > 2**18


@pytest.mark.parametrize("gated", [False, True], ids=["product", "gate"])
def test_a_product_alone_allocates_nothing_large(gated: bool) -> None:
    network = drawn(Network("product", chain(
        layer("x", "input", size=(8, 64, 64)), layer("first", "scale"), layer("mean", "global_avg_pool"),
        layer("other", "scale", "mean" if gated else "first"),
        layer("y", "multiply", ("first", "other")),
    )), "float32")  # fmt: skip
    network = Network("product", network.layers, outputs=["y"], parameters=network.parameters)
    x, target = given(network, 4), np.zeros((4, 64, 64), np.int64)
    for call, training in ((lambda: network.run(x), False), (lambda: network.train_step(x, target), True)):
        allocated = network.vram(4, training=training).allocated
        assert beside(call, allocated) < 2**17, training


def test_a_product_takes_the_memory_of_what_it_multiplies() -> None:
    for second in ("gate", "mean"):
        network = Network("gated", chain(
            layer("x", "input", size=(8, 64, 64)), layer("first", "conv", out_channels=8, kernel_size=1),
            layer("mean", "global_avg_pool"), layer("gate", "conv", "first", out_channels=8, kernel_size=1),
            layer("y", "multiply", ("first", second)),
            layer("last", "conv", out_channels=8, kernel_size=1),
        ))  # fmt: skip
        made = program(network, 1, "reference", training=False)
        assert made.arena.shares["y"] == made.arena.shares["first"]


def test_an_optimizer_shared_by_two_networks_is_refused(rng: np.random.Generator) -> None:
    one, other = drawn(every_operation(SIZE), "float32"), drawn(every_operation(SIZE, classes=5), "float32")
    optimizer: Optimizer = OPTIMIZERS["adam"]()
    one.train_step(given(one, 2), np.array([0, 1]), optimizer)
    before = {name: value.copy() for name, value in other.parameters.items()}
    with pytest.raises(sk.ShapeError, match=r"logits\.weight.*optimizer for one network"):
        other.train_step(given(other, 2), np.array([0, 1]), optimizer)
    for name, value in other.parameters.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_card_is_predicted_for_where_no_cupy_is_installed() -> None:
    program = (
        "import sys\n"
        "sys.modules['cupy'] = None\n"
        "import stridekit as sk\n"
        "for training in (False, True):\n"
        "    print(sk.networks.load('resnet18').vram(2, training=training, device='H200').allocated > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.returncode) == ("True\nTrue\n", 0), done.stderr
