"""One network, many threads: whatever it remembers, each gets its own right result."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import stridekit as sk
from stridekit.networks import execution


@pytest.fixture
def restless() -> Iterator[None]:
    """Have the interpreter switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*works: Callable[[], object]) -> None:
    """Run all at once; raise what one of them raises."""
    ready, errors = threading.Barrier(len(works)), []

    def run(work: Callable[[], object]) -> None:
        try:
            ready.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Wavering(dict):
    """Programs of which another thread takes all away, whenever this one has just found some."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        self.clear()
        return found

    def __iter__(self) -> Iterator[object]:
        keys = list(super().__iter__())
        self.clear()
        return iter(keys)


def test_a_program_that_another_thread_evicts_is_made_again() -> None:
    network = sk.networks.load("textcnn")
    network._trained.programs = Wavering()
    batches = [*range(1, 13), 12, 12, 1]
    for batch in batches:
        assert network.vram(batch=batch, backend="cpu") == sk.networks.load("textcnn").vram(batch=batch, backend="cpu")


@pytest.mark.usefixtures("restless")
def test_threads_that_ask_one_network_of_many_sizes_get_each_its_own() -> None:
    network = sk.networks.load("textcnn")
    right = {batch: sk.networks.load("textcnn").vram(batch=batch, backend="cpu").arena for batch in range(1, 13)}

    def ask(first: int) -> None:
        for turn in range(60):
            batch = 1 + (first + turn * (1 + first)) % 12
            assert network.vram(batch=batch, backend="cpu").arena == right[batch]

    together(*(lambda first=first: ask(first) for first in range(4)))
    assert len(network.programs) <= execution._KEPT + 4


@pytest.mark.usefixtures("restless")
def test_threads_that_run_one_network_at_once_get_each_their_own_result() -> None:
    network, rng = sk.networks.load("textcnn"), np.random.default_rng(0)
    inputs = [rng.standard_normal((batch, 300, 20), np.float32) for batch in (1, 1, 2, 2)]
    right = [network.run(x, backend="cpu").copy() for x in inputs]

    def run(number: int) -> None:
        for _ in range(20):
            assert np.array_equal(network.run(inputs[number], backend="cpu"), right[number])

    together(*(lambda number=number: run(number) for number in range(4)))


@pytest.mark.usefixtures("restless")
def test_threads_that_are_the_first_to_run_a_network_draw_the_same_parameters() -> None:
    x = np.random.default_rng(0).standard_normal((1, 300, 20), np.float32)
    right = sk.networks.load("textcnn").run(x, backend="cpu")
    for _ in range(5):
        network, found = sk.networks.load("textcnn"), []
        together(*(lambda: found.append(network.run(x, backend="cpu")),) * 4)  # noqa: B023
        assert len(found) == 4
        assert all(np.array_equal(each, right) for each in found)


@pytest.mark.usefixtures("restless")
def test_threads_that_plan_and_count_at_once_get_each_their_own() -> None:
    """Everything on the way that is remembered in the process, or by a plan that threads share."""

    def ask(first: int) -> None:
        for turn in range(40):
            size = 5 + (first + turn) % 50
            plan = sk.plan_conv((1, 3, size, size), (4, 3, 3, 3), padding=1, backend="reference")
            assert plan.output_shape == (1, 4, size, size)
            with sk.vram.track() as usage:
                y = plan.execute(np.ones((1, 3, size, size), np.float32), np.ones((4, 3, 3, 3), np.float32))
                assert (usage.peak, usage.current) == (plan.vram.allocated, y.nbytes)

    together(*(lambda first=first: ask(first) for first in range(4)))
