"""One choice trained twice, by PyTorch and through stridekit: from the same weights, on the same batches, in turns."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from networks import Choice, network
from tasks import Task
from torch import Tensor, nn
from torch.nn import functional

import stridekit as sk
import stridekit.torch

ENGINES = ("stridekit", "pytorch")
BATCH = 64
LEARNING_RATE = 3e-3
LARGEST_SHIFT = 5


@dataclass
class Outcome:
    """What came of one training.

    Attributes
    ----------
    accuracy : float
        Share of the test pictures whose class was found.
    consistency : float
        Share of them whose answer, right or wrong, stays the same where the picture is shifted by 1 to 5 pixels.
    epoch_s : float
        Median seconds of an epoch.
    losses : list of float
        Mean of each epoch.
    kept_bytes : int
        What one step keeps for its backward pass, counted by PyTorch's hooks for both engines alike.
    workspace_bytes : int or None
        The most that stridekit allocated itself at once in that step, by `stridekit.vram.track`: PyTorch allocates the
        results. None for PyTorch, whose workspaces nothing counts.
    """

    accuracy: float = 0.0
    consistency: float = 0.0
    epoch_s: float = 0.0
    losses: list[float] = field(default_factory=list)
    kept_bytes: int = 0
    workspace_bytes: int | None = None


def train(
    task: Task, choice: Choice, *, epochs: int, seed: int, done: Callable[[], None] = lambda: None
) -> dict[str, Outcome]:
    """Train one choice by both engines; `done` is called after each epoch of either."""
    torch.manual_seed(seed)
    given = network(choice, task.classes)
    models = {"stridekit": stridekit.torch.convert(copy.deepcopy(given)), "pytorch": given}
    outcomes = {engine: _rehearsed(engine, models[engine], task) for engine in ENGINES}
    optimizers = {
        engine: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
        for engine, model in models.items()
    }
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for epoch in range(epochs):
        for engine in ENGINES if epoch % 2 else reversed(ENGINES):
            for group in optimizers[engine].param_groups:
                group["lr"] = LEARNING_RATE * (1 - epoch / epochs)
            start = time.perf_counter()
            losses = [_step(models[engine], optimizers[engine], *batch) for batch in _batches(task, (seed, epoch))]
            seconds[engine].append(time.perf_counter() - start)
            outcomes[engine].losses.append(statistics.mean(losses))
            done()
    for engine, outcome in outcomes.items():
        outcome.epoch_s = statistics.median(seconds[engine])
        outcome.accuracy, outcome.consistency = _tested(models[engine], task)
    return outcomes


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, pictures: Tensor, classes: Tensor) -> float:
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(pictures), classes)
    loss.backward()
    optimizer.step()
    return loss.item()


def _batches(task: Task, seed: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    pictures, classes = (torch.from_numpy(array) for array in task.train)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(pictures)))
    for part in order.split(BATCH):
        yield pictures[part], classes[part]


def _rehearsed(engine: str, model: nn.Module, task: Task) -> Outcome:
    """Do a step on a copy: it compiles what must be compiled, and shows what memory a step takes."""
    model = copy.deepcopy(model)
    pictures, classes = next(_batches(task, (0, 0)))
    for _ in range(2):
        with sk.vram.track() as usage, _kept_for_backward(model) as kept:
            functional.cross_entropy(model(pictures), classes).backward()
    return Outcome(kept_bytes=sum(kept.values()), workspace_bytes=usage.peak if engine == "stridekit" else None)


@contextmanager
def _kept_for_backward(model: nn.Module) -> Iterator[dict[int, int]]:
    """Count the memory of all tensors that are saved, each once, without the model's own."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


@torch.no_grad()
def _tested(model: nn.Module, task: Task) -> tuple[float, float]:
    model.eval()
    pictures, classes = (torch.from_numpy(array) for array in task.test)
    shifts = np.random.default_rng(0).integers(1, LARGEST_SHIFT + 1, (len(pictures), 2))
    moved = torch.stack([p.roll(tuple(by), (1, 2)) for p, by in zip(pictures, shifts.tolist(), strict=True)])
    still, shifted = (model(each).argmax(1) for each in (pictures, moved))
    model.train()
    return (still == classes).float().mean().item(), (still == shifted).float().mean().item()
