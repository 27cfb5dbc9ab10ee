"""What has run can be copied and pickled: results travel, what only this process can use does not."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.planning.plan import Plan

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
COPIES: list[Any] = [
    pytest.param(copy.copy, id="copy"),
    pytest.param(copy.deepcopy, id="deepcopy"),
    *(
        pytest.param(lambda each, protocol=protocol: pickle.loads(pickle.dumps(each, protocol)), id=f"pickle{protocol}")
        for protocol in PROTOCOLS
    ),
]
copied = pytest.mark.parametrize("copied", COPIES)
IMAGES = np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)
CLASSES = np.array([0, 1, 0, 1])
SMALL = """
name = "small"
layers = [
  {name = "image", op = "input", size = [3, 8, 8]},
  {name = "conv", op = "conv", out_channels = 4, kernel_size = 3, stride = 2, padding = "same"},
  {op = "batch_norm"},
  {op = "relu"},
  {op = "global_avg_pool"},
  {op = "flatten"},
  {name = "fc", op = "linear", out_features = 2},
]
"""


@copied
def test_a_network_that_has_run_and_trained_is_copied(copied: Callable[[Any], Any]) -> None:
    network = sk.networks.Network.parse(SMALL)
    network.train_step(IMAGES, CLASSES, "adam")
    network.run(IMAGES)
    network.summary(), network.vram(batch=3, training=True), repr(network)
    other = copied(network)
    assert not other.programs, "programs travel with a network"
    assert network.programs
    assert other.parameters.keys() == network.parameters.keys()
    assert np.array_equal(other.run(IMAGES), network.run(IMAGES))
    assert other.optimizers["adam"].steps == 1


@pytest.mark.parametrize("copied", COPIES[1:])
def test_a_copy_trains_on_its_own_with_the_state_of_its_optimizer(copied: Callable[[Any], Any]) -> None:
    network = sk.networks.Network.parse(SMALL)
    network.train_step(IMAGES, CLASSES, "adam")
    other = copied(network)
    before = network.run(IMAGES)
    loss = other.train_step(IMAGES, CLASSES, "adam")
    assert np.array_equal(network.run(IMAGES), before)
    assert network.train_step(IMAGES, CLASSES, "adam") == loss
    assert np.array_equal(network.run(IMAGES), other.run(IMAGES))


RICH = ("efficientnet_b0", "yolov8n")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in RICH else [pytest.mark.thorough]) for name in sk.networks.names()],
)
def test_every_network_that_ships_is_pickled(name: str) -> None:
    network = sk.networks.load(name)
    network.vram()
    other = pickle.loads(pickle.dumps(network))
    assert repr(other) == repr(network)
    assert other.summary() == network.summary()


def plan() -> Plan:
    return sk.plan_conv((2, 3, 9, 8), (4, 3, 3, 3), stride=2, padding=1, activation="relu")


def used(plan: Plan) -> np.ndarray:
    x, w = np.ones(plan.problem.input_shape, np.float32), np.ones(plan.problem.weight_shape, np.float32)
    return plan.execute(x, plan.pack(w))


@copied
def test_a_plan_that_has_run_is_copied(copied: Callable[[Any], Any]) -> None:
    mine = plan()
    right = used(mine)
    other = copied(mine)
    assert other == mine
    assert hash(other.problem) == hash(mine.problem)
    assert np.array_equal(used(other), right)
    assert other._algorithm is mine._algorithm


def test_a_plan_from_another_process_is_equal_to_one_from_here() -> None:
    """Hashes of strings differ from one process to the next: one that travelled would find nothing in a dictionary."""
    program = (
        "import pickle, sys, stridekit as sk\n"
        "plan = sk.plan_conv((2, 3, 9, 8), (4, 3, 3, 3), stride=2, padding=1, activation='relu')\n"
        "hash(plan.problem), plan.vram, plan.geometry.output_size\n"
        "sys.stdout.buffer.write(pickle.dumps(plan))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "1"}
    )
    other = pickle.loads(done.stdout)
    assert other == plan()
    assert {plan().problem: 1}[other.problem] == 1


def geometry() -> object:
    found = sk.conv_geometry((224, 224), kernel_size=7, stride=2, padding=3)
    found.output_size, found.dropped, found.axes[0].unread
    return found


def summary() -> object:
    found = sk.networks.load("textcnn").summary()
    str(found), found.last_spatial
    return found


def comparison() -> object:
    picture = np.random.default_rng(0).random((24, 24))
    return sk.compare_strides(picture, strides=(1, 2), kernel_size=3, filters=4, backend="reference", repeats=1)


def usage() -> object:
    with sk.vram.track() as usage:
        used(plan())
    return usage


def packed() -> object:
    return plan().pack(np.ones((4, 3, 3, 3), np.float32)).packing


@pytest.mark.parametrize("of", [geometry, summary, usage, packed, lambda: plan().vram, lambda: plan().device])
@copied
def test_what_a_call_returns_is_copied(of: Callable[[], object], copied: Callable[[Any], Any]) -> None:
    found = of()
    assert copied(found) == found
    assert repr(copied(found)) == repr(found)


@copied
def test_a_comparison_is_copied(copied: Callable[[Any], Any]) -> None:
    found = comparison()
    other = copied(found)
    assert [row.stride for row in other.rows] == [row.stride for row in found.rows]
    assert str(other) == str(found)


@copied
def test_packed_weights_are_copied(copied: Callable[[Any], Any]) -> None:
    mine = plan()
    x, w = np.ones(mine.problem.input_shape, np.float32), np.ones(mine.problem.weight_shape, np.float32)
    other = copied(mine.pack(w))
    assert np.array_equal(mine.execute(x, other), mine.execute(x, w))
