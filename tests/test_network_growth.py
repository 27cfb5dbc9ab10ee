"""Describing and planning a network takes time in proportion to its layers, however they are joined."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from stridekit.networks import Layer, Network
from stridekit.networks.execution import arena
from stridekit.networks.execution.steps import Step, Value
from stridekit.networks.operations import convolving
from stridekit.problems.geometry import ConvGeometry, conv_geometry
from tests.kit.network_cases import chain, layer
from tests.kit.thinning import every

PIXEL = {"out_channels": 4, "kernel_size": 1}


def straight(count: int) -> list[Layer]:
    return [layer(f"conv{i}", "conv", **PIXEL) for i in range(count)]


def residual(count: int) -> list[Layer]:
    layers = [layer("sum0", "conv", **PIXEL)]
    for i in range(count // 3):
        layers += [
            layer(f"conv{i}", "conv", **PIXEL),
            layer(f"relu{i}", "relu"),
            layer(f"sum{i + 1}", "add", (f"relu{i}", f"sum{i}")),
        ]
    return layers


def dense(count: int) -> list[Layer]:
    """Blocks of eight in which each reads all before it."""
    layers = [layer("pass0", "conv", **PIXEL)]
    for block in range(count // 17):
        names = [f"pass{block}"]
        for i in range(8):
            layers.append(layer(f"all{block}.{i}", "concat", (*names, names[0])))
            layers.append(layer(f"conv{block}.{i}", "conv", **PIXEL))
            names.append(f"conv{block}.{i}")
        layers.append(layer(f"pass{block + 1}", "conv", **PIXEL))
    return layers


def fan(count: int) -> list[Layer]:
    branches = [layer(f"branch{i}", "relu", "stem") for i in range(count)]
    joined = [layer("join", "add", tuple(branch.name for branch in branches)), layer("last", "conv", **PIXEL)]
    return [layer("stem", "conv", **PIXEL), *branches, *joined]


def hourglass(count: int) -> list[Layer]:
    """Each of the second half reads one of the first, the last written first."""
    layers = [layer(f"down{i}", "conv", **PIXEL) for i in range(count // 3)]
    for i in reversed(range(count // 3)):
        layers += [layer(f"both{i}", "concat", (layers[-1].name, f"down{i}")), layer(f"up{i}", "conv", **PIXEL)]
    return layers


SHAPES: dict[str, Callable[[int], list[Layer]]] = {
    "straight": straight,
    "residual": residual,
    "dense": dense,
    "fan": fan,
    "hourglass": hourglass,
}


def network(shape: str, count: int) -> Network:
    return Network(shape, chain(layer("x", "input", size=(4, 4, 4)), *SHAPES[shape](count)))


def described_and_planned(shape: str, count: int) -> None:
    made = network(shape, count)
    made.summary().to_dict()
    for training in (False, True):
        made.vram(2, training=training, backend="reference")


def lines_run(call: Callable[[], Any]) -> int:
    """Count the lines of Python that a call runs, those of comprehensions once for each element."""
    count = 0

    def within(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    before = sys.gettrace()
    sys.settrace(within)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("shape", every(3, SHAPES))
def test_twice_the_layers_take_twice_the_lines(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The search among orders ends at a number of its own, which is not of the layers.
    monkeypatch.setattr(arena, "_MOST_LOOKS", 0)
    described_and_planned(shape, 40)
    few, many = (lines_run(lambda: described_and_planned(shape, count)) for count in (102, 204))  # noqa: B023
    assert many < 2.3 * few


def test_a_layers_geometry_is_derived_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[Any] = []

    def counted(size: Any, **window: Any) -> ConvGeometry:
        sizes.append(tuple(size))
        return conv_geometry(size, **window)

    monkeypatch.setattr(convolving, "conv_geometry", counted)
    made = network("straight", 5)
    made.summary(), made.resized(6).summary(), made.summary()
    assert sizes == [(4, 4)] * 5 + [(6, 6)] * 5


@pytest.mark.parametrize(
    "shape",
    [name if name == "straight" else pytest.param(name, marks=pytest.mark.thorough) for name in SHAPES],
)
def test_three_thousand_layers_are_planned_within_seconds(shape: str) -> None:
    start = time.process_time()
    described_and_planned(shape, 3000)
    # One to two at rest; the processor's time counts, but others on the machine slow it down too.
    assert time.process_time() - start < 8


def test_where_too_many_values_are_alive_at_once_no_orders_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_placed", lambda *_: pytest.fail("every two values alive at once were looked at"))
    sizes = np.random.default_rng(0).integers(1, 99999, 2500)
    values = [Value(f"v{n}", (int(size),), np.dtype(np.uint8), "saved") for n, size in enumerate(sizes)]
    names = [value.name for value in values]
    steps = [Step(name, (), (name,), 5000, None) for name in names]
    steps += [Step(name, (name,), (), 9000, None) for name in reversed(names)]
    made = arena.plan_arena(steps, values, 64)
    assert max(made.live) <= made.nbytes < 1.01 * max(made.live)
