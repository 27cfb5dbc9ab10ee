"""The plan: a decision how to run a problem, made once and executed many times. Only `Plan.execute` touches arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit import vram
from stridekit.arguments import as_flag, as_int
from stridekit.backends import Algorithm, Device, Operands, algorithms_of, memory_of
from stridekit.concurrency import Remembering, apart, cached_property
from stridekit.errors import BackendUnavailableError, DtypeError, LayoutError, ShapeError, VramBudgetError
from stridekit.memory.arrays import (
    Array,
    address,
    channels_first_view,
    channels_last_layout,
    check_out,
    check_shape,
    dtype_name,
    layout_shape,
    layout_view,
    library_of,
    memory_order,
    numpy_dtype,
    one_library_error,
    overlaps,
    plain,
    writeable,
)
from stridekit.memory.spaces import HOST, Memory
from stridekit.memory.workspace import ALIGNMENT
from stridekit.planning.pieces import Schedule, whole_units
from stridekit.planning.pieces import schedule as tiled
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import ConvGeometry

_UINT8 = np.dtype(np.uint8)
_OPERANDS = {
    "forward": ("x", "weight"),
    "input_grad": ("weight", "grad_output"),
    "weight_grad": ("input", "grad_output"),
}
"""By direction, in the order of its function."""


@dataclass(frozen=True)
class Candidate:
    """One algorithm as the dispatcher saw it: its modelled time in seconds, or why it was excluded."""

    algorithm: str
    cost: float
    excluded: str


@dataclass(frozen=True)
class PackedWeight:
    """Weights in an algorithm's own order, made by `Plan.pack`; good for every plan of the same `packing`."""

    buffer: Array
    algorithm: str
    packing: tuple[object, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.buffer.nbytes)


@dataclass(frozen=True)
class Plan(Remembering):
    """A decision, made once and executed many times.

    Attributes
    ----------
    problem : ConvProblem
        What is computed.
    device : Device
        Where.
    backend, algorithm : str
        By what.
    why : str
        The reasons for both, in words.
    candidates : tuple of Candidate
        Every algorithm of the backend, with its modelled cost or the reason for its exclusion.
    layout : str or None
        The axis order of the arrays that `execute` takes and returns.
    """

    problem: ConvProblem
    device: Device
    backend: str
    algorithm: str
    why: str
    candidates: tuple[Candidate, ...]
    layout: str | None

    @property
    def geometry(self) -> ConvGeometry:
        """Sizes, padding, dropped pixels."""
        return self.problem.geometry

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the plan's layout."""
        return self._shown(self.problem.result_shape)

    @property
    def flops(self) -> int:
        """Floating-point operations, 2 for each multiply-add."""
        return self.problem.flops

    @property
    def bytes(self) -> int:
        """Bytes that any algorithm must move: operands read once, output written once."""
        return self.problem.moved_bytes

    @property
    def vram(self) -> vram.VramUsage:
        """Predicted memory with weights as given and no ``out=``; `stridekit.vram.estimate` has the other cases."""
        return vram.estimate(self)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the weights after `pack`."""
        return self._algorithm.packed_bytes(self.problem, self.device)

    def workspace_bytes(self, *, packed: bool = False) -> int:
        """Bytes of workspace that `execute` allocates, with weights as given or from `pack`."""
        packed = as_flag("packed", packed)
        if self.problem.batch == 0:
            return 0
        return whole_units(self._algorithm.workspace(self.problem, self.device, packed=packed), self.device)

    def schedule(self, *, packed: bool = False, out_given: bool = False, limit: int | None = None) -> Schedule:
        """Decide how `execute` runs within what is left of the budget: whole, or in tiles.

        Parameters
        ----------
        packed, out_given : bool
            Whether the weight comes from `pack`, and whether ``out=`` is given.
        limit : int, optional
            Bytes, where there is less than the budget allows.

        Raises
        ------
        VramBudgetError
            With the smallest budget that works, if none does.
        """
        packed, out_given = as_flag("packed", packed), as_flag("out_given", out_given)
        limit = None if limit is None else as_int("limit", limit, 0)
        bounds = [bound for bound in (vram.remaining(), limit) if bound is not None]
        if not bounds:
            return self._whole[packed]
        output = 0 if out_given else whole_units(self.problem.result_bytes, self.device)
        return tiled(self.problem, self._algorithm, self.device, packed=packed, output_bytes=output, limit=min(bounds))

    @cached_property
    def _whole(self) -> dict[bool, Schedule]:
        """The schedules without a limit, for weights as given and packed."""
        return {each: Schedule(self.device, None, 0, self.workspace_bytes(packed=each)) for each in (False, True)}

    def pack(self, weight: Array) -> PackedWeight:
        """Put weights into the algorithm's own order, once, for many calls of `execute`.

        The result is a copy: changing `weight` afterwards does not change it.

        Parameters
        ----------
        weight : array, shape (K, C / groups, \\*kernel)

        Raises
        ------
        ShapeError
            By a plan for the weight's gradient, which reads none.
        """
        if self.problem.direction == "weight_grad":
            raise ShapeError("a plan for the weight's gradient reads no weight; there is nothing to pack")
        with self._memory.entered():
            self._check_operand("weight", weight, self.problem.weight_shape)
            given = plain(weight)
            if not self._memory.resident(given):
                given = self._upload(given)
            buffer = vram.allocate((self.packed_bytes,), _UINT8, self._memory)
            self._algorithm.pack(self.problem, self.device, given, buffer)
        return PackedWeight(buffer, self.algorithm, self._algorithm.packing(self.problem, self.device))

    def execute(
        self,
        first: Array | PackedWeight,
        second: Array | PackedWeight,
        bias: Array | None = None,
        *,
        out: Array | None = None,
        workspace: Array | None = None,
    ) -> Array:
        """Run the plan.

        Parameters
        ----------
        first, second : array or PackedWeight
            The operands of the plan's direction: ``x, weight`` forward, ``weight, grad_output`` for the input's
            gradient, ``input, grad_output`` for the weight's. Arrays over pixels have the plan's shapes, dtype and
            memory order; a weight comes as given, shape ``(K, C / groups, *kernel)``, or from `pack`.
        bias : array, shape (K,), optional
            Exactly if the plan was made with ``bias=True``; shape (C,) for the input's gradient.
        out : array, optional
            Of the result's shape and dtype; must not overlap an operand.
        workspace : uint8 array, optional
            At least ``workspace_bytes()`` long, or ``workspace_bytes(packed=True)``, where the plan runs, on a
            cache line: memory of the caller's instead of the plan's own, whatever the budget.

        Returns
        -------
        array
            `out`, or a new array: over pixels in the memory order of the operand over pixels.

        Raises
        ------
        ShapeError, DtypeError, LayoutError
            For arrays other than the plan was made for, or a workspace that overlaps them.
        VramBudgetError
            If not even small tiles fit into `stridekit.vram.budget`; nothing has been allocated then.
        """
        memory = self._memory
        with memory.entered():
            named = dict(zip(_OPERANDS[self.problem.direction], (first, second), strict=True))
            self._check_one_library({**named, "bias": bias, "out": out})
            operands = self._operands(named, bias)
            if out is not None:
                self._check_out(out, named | {"bias": bias})
            if workspace is not None:
                self._check_workspace(workspace, {**named, "bias": bias, "out": out})
            if memory is not HOST and not all(memory.resident(array) for array in _arrays(operands, out)):
                return self._execute_from_host(operands, out)
            target = None if out is None else channels_first_view(plain(out), self._shows_last)
            if workspace is None:
                result = self._execute(operands, target)
            else:
                whole = self._whole[operands.packed_weight is not None]
                target = self._allocate_output() if target is None else target
                result = self._run_in(workspace, whole, operands, target)
        return layout_view(result, self._shows_last) if out is None else out

    def _execute(self, operands: Operands, target: Array | None) -> Array:
        """Run on arrays that live where the plan runs; where memory runs out, again in less, with the same bits."""
        try:
            return self._attempt(operands, target, None)
        except VramBudgetError:
            raise
        except MemoryError as error:
            # Its frames hold what was allocated before it ran out.
            failure = error.with_traceback(None)
        free = self._memory.free_bytes()
        if free is None:
            raise failure
        for limit in (free, free // 2, free // 4):
            try:
                return self._attempt(operands, target, limit)
            except VramBudgetError as error:
                raise VramBudgetError(f"{self.device.name} has {free} bytes free: {error}") from None
            except MemoryError as error:
                # What is free may lie in pieces: a quarter of it may still be had at once.
                failure = error.with_traceback(None)
        raise VramBudgetError(f"{self.device.name} has {free} bytes free, in pieces too small: {failure}")

    def _attempt(self, operands: Operands, target: Array | None, limit: int | None) -> Array:
        packed = operands.packed_weight is not None
        schedule = self.schedule(packed=packed, out_given=target is not None, limit=limit)
        if target is None:
            target = self._allocate_output()
        workspace = vram.allocate((schedule.workspace_bytes,), _UINT8, self._memory) if self.problem.batch else None
        return self._run_in(workspace, schedule, operands, target)

    def _run_in(self, workspace: Array, schedule: Schedule, operands: Operands, target: Array) -> Array:
        """Run in `workspace`, which no sample needs none of."""
        if self.problem.batch:
            apart(self._run, schedule, operands, workspace[: schedule.workspace_bytes], target)
        elif self.problem.direction == "weight_grad":
            # The sum over no samples.
            target[...] = 0
        return target

    def _execute_from_host(self, operands: Operands, out: Array | None) -> Array:
        """Copy NumPy operands to the device, run there, and copy the result back."""
        lies_last = self.problem.memory_order == "channels_last"
        pixels = (None if array is None else self._upload(array, lies_last) for array in _over_pixels(operands))
        others = (None if array is None else self._upload(array) for array in (operands.weight, operands.bias))
        (source, grad_output), (weight, bias) = pixels, others
        on_device = Operands(source, weight, operands.packed_weight, bias, grad_output)
        last = self._result_lies_last
        stored = layout_view(self._execute(on_device, None), last)
        result = layout_view(channels_first_view(self._memory.download(stored), last), self._shows_last)
        if out is None:
            return result
        out[...] = result
        return out

    def _upload(self, array: np.ndarray, last: bool = False) -> Array:
        """Copy an operand to the device, with its channels outermost or innermost."""
        stored = np.ascontiguousarray(layout_view(array, last))
        target = vram.allocate(stored.shape, stored.dtype, self._memory)
        self._memory.upload(target, stored)
        return channels_first_view(target, last)

    def _run(self, schedule: Schedule, operands: Operands, workspace: Array, target: Array) -> None:
        algorithm, device = self._algorithm, schedule.device
        if schedule.tiles is None:
            algorithm.run(self.problem, device, operands, workspace, target)
            return
        packed = operands.packed_weight
        if packed is None:
            packed = workspace[: algorithm.packed_bytes(self.problem, device)]
            algorithm.pack(self.problem, device, operands.weight, packed)
        scratch = workspace[schedule.packed_bytes :]
        for tile in schedule.tiles:
            source, grad_output = (None if array is None else array[tile.input] for array in _over_pixels(operands))
            part = Operands(source, None, packed, operands.bias, grad_output)
            nbytes = algorithm.workspace(tile.problem, device, packed=True)
            algorithm.run(tile.problem, device, part, scratch[:nbytes], target[tile.output])

    def _shown(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that an array of the result's kind has outside: weights have one in every layout."""
        return layout_shape(shape, self._shows_last)

    @cached_property
    def _shows_last(self) -> bool:
        """Whether the result has its channels last in the plan's layout."""
        return self._channels_last and self.problem.direction != "weight_grad"

    @cached_property
    def _result_lies_last(self) -> bool:
        """Whether the result lies in memory with its channels innermost."""
        return self.problem.memory_order == "channels_last" and self.problem.direction != "weight_grad"

    @cached_property
    def _channels_last(self) -> bool:
        return channels_last_layout(self.layout, self.problem.rank)

    @cached_property
    def _algorithm(self) -> Algorithm:
        return algorithms_of(self.backend, self.problem.direction)[self.algorithm]

    def _operands(self, named: dict[str, Any], bias: Array | None) -> Operands:
        problem = self.problem
        pixels: dict[str, Array] = {}
        for name, array in named.items():
            if name != "weight":
                shape = problem.output_shape if name == "grad_output" else problem.input_shape
                self._check_operand(name, array, layout_shape(shape, self._channels_last))
                view = channels_first_view(plain(array), self._channels_last)
                if not pixels:
                    self._check_memory_order(name, view)
                pixels["grad_output" if name == "grad_output" else "input"] = view
        source, grad_output = pixels.get("input"), pixels.get("grad_output")
        if problem.bias != (bias is not None):
            wanted, came = ("a bias", "none") if problem.bias else ("no bias", "one")
            raise ShapeError(
                f"the plan was made for {wanted}, bias is {came}; say bias={not problem.bias} to plan_conv"
            )
        if bias is not None:
            self._check_operand("bias", bias, (problem.bias_channels,))
            bias = plain(bias)
        if "weight" not in named:
            return Operands(source, None, None, None, grad_output)
        weight = named["weight"]
        if not isinstance(weight, PackedWeight):
            self._check_operand("weight", weight, problem.weight_shape)
            return Operands(source, plain(weight), None, bias, grad_output)
        refused = self._memory.refuses(weight.buffer) if self._memory.resident(weight.buffer) else ""
        if refused:
            raise LayoutError(f"packed weight {refused}")
        packing = self._algorithm.packing(problem, self.device)
        if (weight.algorithm, weight.packing) != (self.algorithm, packing):
            raise LayoutError(
                f"weight was packed for {weight.algorithm} {weight.packing}; this plan wants {self.algorithm} "
                f"{packing}: pack it with this plan's pack()"
            )
        return Operands(source, None, weight.buffer, bias, grad_output)

    @property
    def _memory(self) -> Memory:
        return memory_of(self.backend, self.device)

    def _check_one_library(self, named: dict[str, Any]) -> None:
        """Raise unless all arrays given are of one library; packed weights are of the plan's own memory anyway."""
        given = {name: array for name, array in named.items() if not isinstance(array, PackedWeight | None)}
        if len(set(map(type, given.values()))) > 1:
            libraries = {name: library_of(name, array) for name, array in given.items()}
            if len(set(libraries.values())) > 1:
                raise one_library_error(libraries)

    def _check_operand(self, name: str, array: Array, shape: tuple[int, ...]) -> None:
        # NumPy's arrays go everywhere.
        if type(array) is not np.ndarray and library_of(name, array) != "numpy":
            if self._memory.library == "numpy":
                raise BackendUnavailableError(
                    f"{name} is a CuPy array, the plan runs on {self.device.name}; use NumPy arrays"
                )
            refused = self._memory.refuses(array)
            if refused:
                raise LayoutError(f"{name} {refused}")
        dtype = dtype_name(name, array)
        if dtype != self.problem.dtype:
            raise DtypeError(
                f"{name} is {dtype}, wanted {self.problem.dtype}; cast it: {name}.astype({self.problem.dtype!r})"
            )
        check_shape(name, array, shape)

    def _check_memory_order(self, name: str, source: Array) -> None:
        order = memory_order(source)
        if order not in (None, self.problem.memory_order):
            raise LayoutError(
                f"{name} lies {order} in memory, the plan was made for {self.problem.memory_order}; make the plan with "
                f"memory_order={order!r}"
            )

    def _check_out(self, out: Array, operands: dict[str, Any]) -> None:
        self._check_operand("out", out, self.output_shape)
        stored = {name: given.buffer if isinstance(given, PackedWeight) else given for name, given in operands.items()}
        check_out(out, stored)

    def _check_workspace(self, workspace: Array, operands: dict[str, Any]) -> None:
        needed = self.workspace_bytes(packed=any(isinstance(each, PackedWeight) for each in operands.values()))
        library = library_of("workspace", workspace)
        if workspace.dtype != _UINT8:
            raise DtypeError(f"workspace is {workspace.dtype}; wanted uint8")
        if workspace.ndim != 1 or workspace.size < needed:
            raise ShapeError(f"workspace is {tuple(workspace.shape)}; wanted one axis of at least {needed} bytes")
        if not needed:
            return
        if library != self._memory.library or not self._memory.resident(workspace):
            raise BackendUnavailableError(f"workspace is not in the memory of {self.device.name}, where the plan runs")
        if not workspace.flags.c_contiguous or not writeable(workspace) or address(workspace) % ALIGNMENT:
            raise LayoutError(
                f"workspace must be contiguous and writeable, from a multiple of {ALIGNMENT} bytes on; "
                f"it has strides {workspace.strides} and begins {address(workspace) % ALIGNMENT} bytes after one"
            )
        for name, given in operands.items():
            array = given.buffer if isinstance(given, PackedWeight) else given
            if array is not None and overlaps(workspace, array):
                raise LayoutError(f"workspace overlaps {name} in memory; give a workspace of its own")

    def _allocate_output(self) -> Array:
        problem, last = self.problem, self._result_lies_last
        stored = vram.allocate(layout_shape(problem.result_shape, last), numpy_dtype(problem.dtype), self._memory)
        return channels_first_view(stored, last)


def _arrays(operands: Operands, out: Array | None) -> list[Array]:
    given = (*_over_pixels(operands), operands.weight, operands.bias, out)
    return [array for array in given if array is not None]


def _over_pixels(operands: Operands) -> tuple[Array, Array]:
    return operands.input, operands.grad_output
