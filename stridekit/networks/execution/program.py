"""The program: a network at one size and batch, planned whole, and run in one block of memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stridekit import vram
from stridekit.backends import memory_of
from stridekit.concurrency import apart, cached_property
from stridekit.errors import DtypeError, ShapeError, VramBudgetError
from stridekit.memory.arrays import Array, channels_first_view, layout_view
from stridekit.memory.spaces import Memory
from stridekit.memory.workspace import ALIGNMENT
from stridekit.networks.execution.arena import Arena, plan_arena
from stridekit.networks.execution.kernels import Context
from stridekit.networks.execution.optimizers import Optimizer
from stridekit.networks.execution.scheduling import StepSchedule, schedule
from stridekit.networks.execution.steps import brought

if TYPE_CHECKING:
    from stridekit.networks.network import Network

_UINT8: np.dtype[Any] = np.dtype(np.uint8)


@dataclass(frozen=True)
class NetworkVram:
    """Bytes that a run or a training step of a network needs.

    Attributes
    ----------
    parameters : int
        Parameters and buffers, which the network has.
    input : int
        What is given.
    output : int
        What is returned; in training only the loss is.
    optimizer : int
        What the optimizer keeps from step to step.
    arena : int
        The one block in which all else lies.
    allocated : int
        What stridekit allocates: output, optimizer and arena.
    peak : int
        All of it at once: `allocated`, parameters and input.
    at : str
        The step with the most in the arena, of which the next five are.
    activations, gradients, parameter_gradients, saved, workspace : int
        What is alive there: layers' results and their gradients, the parameters' gradients, statistics, workspace.
    """

    parameters: int
    input: int
    output: int
    optimizer: int
    arena: int
    allocated: int
    peak: int
    at: str
    activations: int
    gradients: int
    parameter_gradients: int
    saved: int
    workspace: int


class Program:
    """A network at one size and batch, on one device."""

    def __init__(self, network: Network, batch: int, context: Context):
        self.network, self.batch, self.context = network, batch, context

    @cached_property
    def schedule(self) -> StepSchedule:
        """The steps, and the values that they touch."""
        return schedule(self.network, self.batch, self.context)

    @cached_property
    def arena(self) -> Arena:
        """Where everything lies."""
        values = [value for value in self.schedule.values.values() if value.role != "output"]
        unit = max(ALIGNMENT, self.context.device.granularity)
        return plan_arena(self.schedule.steps if self.batch else (), values, unit, kept=(self.schedule.loss,))

    @cached_property
    def updated(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters that a step of training moves."""
        shapes = self.network.parameter_shapes
        return {step.updates: shapes[step.updates] for step in self.schedule.steps if step.updates}

    def vram(self, slots: int) -> NetworkVram:
        """Predict the memory, for an optimizer that keeps `slots` arrays for each parameter."""
        element, found = self.context.element, self.schedule
        arena = self.context.device.rounded(self.arena.nbytes)

        output = self._rounded((found.values[name].shape for name in found.outputs), element)
        optimizer = slots * self._rounded(self.updated.values(), self.context.accumulator)
        allocated = arena + output + optimizer
        parameters = self._rounded(
            (*self.network.parameter_shapes.values(), *self.network.buffer_shapes.values()), element
        )
        given = self._rounded((found.values[layer.name].shape for layer in self.network.inputs), element)
        live = self.arena.live
        at = max(range(len(live)), key=live.__getitem__, default=0)
        return NetworkVram(
            parameters=parameters,
            input=given,
            output=output,
            optimizer=optimizer,
            arena=arena,
            allocated=allocated,
            peak=allocated + parameters + given,
            at=found.steps[at].name,
            **self._alive(at),
        )

    def _rounded(self, shapes: Iterable[tuple[int, ...]], dtype: np.dtype[Any]) -> int:
        """Return what arrays of these shapes take in whole units of the memory."""
        return sum(self.context.device.rounded(math.prod(shape) * dtype.itemsize) for shape in shapes)

    def _alive(self, at: int) -> dict[str, int]:
        """Return what lies in the arena at a step, by role."""
        roles = {"activation": 0, "gradient": 0, "parameter gradient": 0, "saved": 0}
        counted = set()
        for name, (first, last) in self.arena.lives.items():
            root = self.arena.shares[name]
            if first <= at <= last and root not in counted:
                counted.add(root)
                value = self.schedule.values[name]
                roles[value.role] += value.nbytes
        return {
            "activations": roles["activation"],
            "gradients": roles["gradient"],
            "parameter_gradients": roles["parameter gradient"],
            "saved": roles["saved"],
            "workspace": self.schedule.steps[at].workspace,
        }

    # Running.

    def run(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Run on inputs ``(N, C, *spatial)`` by layer; return the outputs by layer, channels first."""
        memory = self._memory
        with memory.entered():
            parameters = self._parameters(memory)
            self._check_budget(0)
            arena, views = self._views(memory)
            apart(self._execute, memory, arena, {**views, **parameters}, given, None)
            on_host = memory.library != "numpy" and all(isinstance(array, np.ndarray) for array in given.values())
            found = {}
            for name in self.schedule.outputs:
                array = memory.download(views[name]) if on_host else views[name]
                found[name] = channels_first_view(array, True)
            return found

    def train(self, given: Mapping[str, Array], target: Array, optimizer: Optimizer) -> float:
        """Do one step of training; return the loss before it."""
        if not self.batch:
            raise ShapeError("a training step needs at least one sample")
        memory, found = self._memory, self.schedule
        with memory.entered():
            classes = self._classes(target, memory)
            parameters = self._parameters(memory)
            missing = [shape for name, shape in self.updated.items() if name not in optimizer.state]
            for name, shape in self.updated.items():
                optimizer.check(name, shape, self.context.accumulator)
            self._check_budget(optimizer.slots * self._rounded(missing, self.context.accumulator))
            arena, views = self._views(memory)
            for name, shape in self.updated.items():
                optimizer.prepare(self.context, name, shape, memory)
            apart(self._execute, memory, arena, {**views, **parameters, found.target: classes}, given, optimizer)
            optimizer.steps += 1
            return float(views[found.loss][0])

    def _execute(
        self,
        memory: Memory,
        arena: Array,
        views: Mapping[str, Array],
        given: Mapping[str, Array],
        optimizer: Optimizer | None,
    ) -> None:
        if not self.batch:
            return
        # What overflows does so as on every other device, without a word.
        with np.errstate(all="ignore"):
            for step, offset in zip(self.schedule.steps, self.arena.workspaces, strict=True):
                workspace = arena[offset : offset + step.workspace]
                if step.feeds is not None:
                    self._feed(memory, given[step.feeds], views[step.feeds])
                elif step.updates is not None:
                    assert optimizer is not None
                    (gradient,) = step.reads
                    parameter = views[self.schedule.parameters[step.updates]]
                    optimizer.update(self.context, step.updates, parameter, views[gradient], workspace)
                else:
                    assert step.run is not None
                    step.run(views, workspace)

    def _feed(self, memory: Memory, x: Array, target: Array) -> None:
        """Copy an input in, channels innermost."""
        source = layout_view(x, True)
        if memory.library == "numpy" or not isinstance(x, np.ndarray):
            target[...] = source
        else:
            memory.upload(target, np.ascontiguousarray(source))

    def _check_budget(self, state: int) -> None:
        """Refuse what does not fit, before anything is allocated; `state` bytes are the optimizer's."""
        left = vram.remaining()
        if left is None:
            return
        needed = self.vram(0).allocated + state
        if needed > left:
            raise VramBudgetError(
                f"{self.network.name} at batch {self.batch}: {left} bytes are left of the budget and {needed} are "
                "needed; try a smaller batch"
            )

    def _views(self, memory: Memory) -> tuple[Array, dict[str, Array]]:
        """Allocate; return the arena, and every value as an array."""
        views = {
            name: vram.allocate(self.schedule.values[name].shape, self.context.element, memory)
            for name in self.schedule.outputs
        }
        arena = vram.allocate((self.arena.nbytes,), _UINT8, memory)
        for name, offset in self.arena.offsets.items():
            value = self.schedule.values[name]
            views[name] = arena[offset : offset + value.nbytes].view(value.dtype).reshape(value.shape)
        return arena, views

    def _parameters(self, memory: Memory) -> dict[str, Array]:
        """Return the parameters where the program runs, by the values' names: they move there, and stay."""
        parameters = self.network.parameters
        for name, array in parameters.items():
            if array.dtype != self.context.element:
                raise DtypeError(
                    f"parameter {name} is {array.dtype}, the input {self.context.dtype}; cast one: "
                    f"network.astype({self.context.dtype!r})"
                )
        parameters.update({name: brought(array, memory) for name, array in parameters.items()})
        return {name: parameters[own] for own, name in self.schedule.parameters.items()}

    def _classes(self, target: Array, memory: Memory) -> Array:
        wanted = self.schedule.classes
        if np.dtype(target.dtype).kind not in "iu":
            raise DtypeError(f"target is {target.dtype}; wanted integers, the classes from 0 on")
        if tuple(target.shape) != wanted:
            raise ShapeError(f"target is {tuple(target.shape)}; wanted {wanted}")
        count = self.schedule.class_count
        least, most = int(target.min()), int(target.max())
        if least < 0 or most >= count:
            raise ShapeError(f"target holds classes {least} to {most}; wanted 0 to {count - 1}")
        if memory.library == "numpy" and not isinstance(target, np.ndarray):
            target = target.get()
        return self.context.xp.asarray(target)

    @property
    def _memory(self) -> Memory:
        return memory_of(self.context.backend, self.context.device)
