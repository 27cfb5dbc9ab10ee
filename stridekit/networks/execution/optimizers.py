"""Optimizers: how a step moves the parameters, and what they keep from one step to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from stridekit import vram
from stridekit.arguments import shown
from stridekit.errors import ShapeError
from stridekit.memory.arrays import Array
from stridekit.memory.spaces import Memory
from stridekit.networks.execution.kernels import Context
from stridekit.networks.execution.steps import brought
from stridekit.networks.operations import Shape


@dataclass
class Optimizer:
    """An optimizer and its state: up to two arrays for each parameter, allocated at its first step.

    The state is float32, and float64 for float64: squares of gradients are below what float16 holds.

    Attributes
    ----------
    learning_rate : float
    weight_decay : float
        Times the parameter, added to its gradient.
    steps : int
        Done so far.
    state : dict of list of array
        By the parameter's name.
    """

    slots: ClassVar[int] = 0
    """Arrays of the parameter's size that are kept for it."""

    learning_rate: float = 0.01
    weight_decay: float = 0.0
    steps: int = field(default=0, init=False)
    state: dict[str, list[Array]] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """Short name, as `optimizer_called` takes it."""
        return type(self).__name__.lower()

    def check(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> None:
        """Refuse a parameter of another shape or type than the one that the state is of."""
        for array in self.state.get(name, ()):
            if tuple(array.shape) != shape or array.dtype != dtype:
                raise ShapeError(
                    f"optimizer has a state {tuple(array.shape)} {array.dtype} for {name}, which is {shape}, for which "
                    f"{dtype} is wanted; use an optimizer for one network of one type"
                )

    def prepare(self, context: Context, name: str, shape: Shape, memory: Memory) -> None:
        """Allocate the state of a parameter that has none; bring it to where the parameter is."""
        kept = self.state.get(name)
        if kept is None:
            kept = [vram.allocate(shape, context.accumulator, memory) for _ in range(self.slots)]
            for array in kept:
                array[...] = 0
        self.state[name] = [brought(array, memory) for array in kept]

    def update(self, context: Context, name: str, parameter: Array, gradient: Array, workspace: Array) -> None:
        """Move a parameter, block by block, in the accumulator's type."""
        xp, block = context.xp, min(context.block, parameter.size)
        work = workspace.view(context.accumulator)
        flat = [array.reshape(-1) for array in (parameter, gradient, *self.state.get(name, ()))]
        for start in range(0, parameter.size, block):
            p, g, *kept = (array[start : start + block] for array in flat)
            first, second = work[: p.size], work[block : block + p.size]
            first[...] = g
            if self.weight_decay:
                xp.multiply(p, self.weight_decay, out=second, dtype=second.dtype)
                xp.add(first, second, out=first)
            self.move(xp, p, first, second, kept)

    def move(self, xp: Any, p: Array, g: Array, work: Array, kept: list[Array]) -> None:
        """Move the parameters `p` by their gradients `g`, which may be overwritten."""
        raise NotImplementedError


@dataclass
class SGD(Optimizer):
    """Plain descent: ``p -= learning_rate * g``."""

    def move(self, xp: Any, p: Array, g: Array, work: Array, kept: list[Array]) -> None:
        xp.multiply(g, self.learning_rate, out=g)
        xp.subtract(p, g, out=g)
        p[...] = g


@dataclass
class Momentum(Optimizer):
    """Descent with momentum, as PyTorch's SGD: ``v = momentum * v + g``, ``p -= learning_rate * v``."""

    slots: ClassVar[int] = 1

    momentum: float = 0.9

    def move(self, xp: Any, p: Array, g: Array, work: Array, kept: list[Array]) -> None:
        (velocity,) = kept
        xp.multiply(velocity, self.momentum, out=velocity)
        xp.add(velocity, g, out=velocity)
        xp.multiply(velocity, self.learning_rate, out=work)
        xp.subtract(p, work, out=work)
        p[...] = work


@dataclass
class Adam(Optimizer):
    """Adam; source: D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1."""

    slots: ClassVar[int] = 2

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def move(self, xp: Any, p: Array, g: Array, work: Array, kept: list[Array]) -> None:
        mean, square = kept
        first, second = self.betas
        # mean += (1 - b1) (g - mean); square = b2 square + (1 - b2) g g.
        xp.subtract(g, mean, out=work)
        xp.multiply(work, 1 - first, out=work)
        xp.add(mean, work, out=mean)
        xp.multiply(g, g, out=g)
        xp.multiply(g, 1 - second, out=g)
        xp.multiply(square, second, out=square)
        xp.add(square, g, out=square)
        xp.sqrt(square, out=work)
        xp.divide(work, math.sqrt(1 - second ** (self.steps + 1)), out=work)
        xp.add(work, self.epsilon, out=work)
        xp.divide(mean, work, out=work)
        xp.multiply(work, self.learning_rate / (1 - first ** (self.steps + 1)), out=work)
        xp.subtract(p, work, out=work)
        p[...] = work


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam}


def optimizer_called(optimizer: Optimizer | str) -> Optimizer:
    """Return an optimizer, given as one or by its name.

    Raises
    ------
    ShapeError
        Naming those there are.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise ShapeError(f"optimizer is {shown(optimizer)}; wanted one of {', '.join(OPTIMIZERS)}, or an Optimizer")
    return OPTIMIZERS[optimizer]()


def update_workspace(context: Context, elements: int) -> int:
    """Return the bytes that moving a parameter of so many elements takes: two blocks in the accumulator's type."""
    return 2 * min(context.block, elements) * context.accumulator.itemsize
