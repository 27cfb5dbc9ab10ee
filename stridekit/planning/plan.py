"""The plan: a decision how to run a problem, made once and executed many times. Only `Plan.execute` touches arrays."""

from __future__ import annotations

from collections.abc import Sequence
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
    same_place,
    writeable,
)
from stridekit.memory.spaces import HOST, Memory
from stridekit.memory.workspace import ALIGNMENT
from stridekit.planning.pieces import Schedule
from stridekit.planning.pieces import schedule as tiled
from stridekit.problems.geometry import ConvGeometry
from stridekit.problems.operands import Operand
from stridekit.vram import VramUsage

_UINT8 = np.dtype(np.uint8)


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
    problem : ConvProblem or PoolProblem
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

    problem: Any
    device: Device
    backend: str
    algorithm: str
    why: str
    candidates: tuple[Candidate, ...]
    layout: str | None

    @property
    def geometry(self) -> ConvGeometry:
        """Sizes, padding, dropped pixels."""
        found: ConvGeometry = self.problem.geometry
        return found

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the plan's layout."""
        return layout_shape(self.problem.results[0].shape, self._shows_last)

    @property
    def flops(self) -> int:
        """Floating-point operations, 2 for each multiply-add."""
        return int(self.problem.flops)

    @property
    def bytes(self) -> int:
        """Bytes that any algorithm must move: operands read once, output written once."""
        return int(self.problem.moved_bytes)

    @property
    def vram(self) -> VramUsage:
        """Predicted memory with weights as given and no ``out=``; `stridekit.vram.estimate` has the other cases."""
        return self.memory()

    def memory(self, *, packed: bool = False, out_given: bool = False) -> VramUsage:
        """Predict the memory of `execute`, before anything is allocated; `stridekit.vram.estimate` says how."""
        packed, out_given = as_flag("packed", packed), as_flag("out_given", out_given)
        read = {each.name: self.device.rounded(each.nbytes) for each in self.problem.operands}
        weight, bias = read.pop("weight", 0), read.pop("bias", 0)
        if packed:
            weight = self.device.rounded(self.packed_bytes)
        pixels, output = sum(read.values()), self._new_bytes(False)
        workspace = self.schedule(packed=packed, out_given=out_given).workspace_bytes
        return VramUsage(
            input=pixels,
            weight=weight,
            bias=bias,
            output=output,
            workspace=workspace,
            allocated=workspace + self._new_bytes(out_given),
            peak=pixels + weight + bias + output + workspace,
        )

    def _new_bytes(self, out_given: bool) -> int:
        """Return the bytes of the results that get memory of their own."""
        return sum(self.device.rounded(each.nbytes) for each in self.problem.results[out_given:])

    @property
    def packed_bytes(self) -> int:
        """Bytes of the weights after `pack`."""
        return self._algorithm.packed_bytes(self.problem, self.device)

    def workspace_bytes(self, *, packed: bool = False) -> int:
        """Bytes of workspace that `execute` allocates, with weights as given or from `pack`."""
        packed = as_flag("packed", packed)
        if self.problem.batch == 0:
            return 0
        return self.device.rounded(self._algorithm.workspace(self.problem, self.device, packed=packed))

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
        output = self._new_bytes(out_given)
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
            By a plan that reads none: for the weight's gradient, or for a pooling.
        """
        wanted = next((each for each in self.problem.operands if each.name == "weight"), None)
        if wanted is None:
            what = "the weight's gradient" if self.problem.direction == "weight_grad" else "a pooling"
            raise ShapeError(f"a plan for {what} reads no weight; there is nothing to pack")
        with self._memory.entered():
            self._check_operand(wanted, weight)
            given = plain(weight)
            if not self._memory.resident(given):
                given = self._upload(given)
            buffer = vram.allocate((self.packed_bytes,), _UINT8, self._memory)
            self._algorithm.pack(self.problem, self.device, given, buffer)
        return PackedWeight(buffer, self.algorithm, self._algorithm.packing(self.problem, self.device))

    def execute(
        self,
        first: Array | PackedWeight,
        second: Array | PackedWeight | None = None,
        bias: Array | None = None,
        *,
        residual: Array | None = None,
        out: Array | None = None,
        workspace: Array | None = None,
    ) -> Any:
        """Run the plan.

        Parameters
        ----------
        first, second : array or PackedWeight
            What the problem reads, in the order of its function: ``x, weight`` forward, ``weight, grad_output`` for the
            input's gradient, ``x, grad_output`` for the weight's; ``x`` for a pooling. Arrays over pixels have the
            plan's shapes, dtype and memory order; a weight comes as given, shape ``(K, C / groups, *kernel)``, or from
            `pack`.
        bias : array, shape (K,), optional
            Exactly if the plan was made with ``bias=True``; shape (C,) for the input's gradient.
        residual : array, of the result's shape, optional
            Exactly if the plan was made with ``residual=True``.
        out : array, optional
            Of the result's shape and dtype; must not overlap an operand, but may be `residual` itself.
        workspace : uint8 array, optional
            At least ``workspace_bytes()`` long, or ``workspace_bytes(packed=True)``, where the plan runs, on a
            cache line: memory of the caller's instead of the plan's own, whatever the budget.

        Returns
        -------
        array
            `out`, or a new array: over pixels in the memory order of the operand over pixels. With indices, if the
            problem wants them.

        Raises
        ------
        ShapeError, DtypeError, LayoutError
            For arrays other than the plan was made for, or a workspace that overlaps them.
        VramBudgetError
            If not even small tiles fit into `stridekit.vram.budget`; nothing has been allocated then.
        """
        memory = self._memory
        with memory.entered():
            given = self._named(first, second, {"bias": bias, "residual": residual})
            self._check_one_library({**given, "out": out})
            operands = self._checked(given)
            if out is not None:
                self._check_out(out, given)
            if workspace is not None:
                self._check_workspace(workspace, {**given, "out": out})
            if memory is not HOST:
                present = [array for array in (*operands.values(), out) if array is not None]
                if not all(map(memory.resident, present)):
                    return self._execute_from_host(operands, out)
            target = None if out is None else channels_first_view(plain(out), self._shows_last)
            if workspace is None:
                results = self._execute(operands, target)
            else:
                results = self._allocate_results(target)
                self._run_in(workspace, self._whole["packed_weight" in operands], operands, results)
        shown = [layout_view(each, self._shows_last) for each in results]
        return self._returned(shown if out is None else [out, *shown[1:]])

    def _named(self, first: Any, second: Any, added: dict[str, Array | None]) -> dict[str, Any]:
        """Return what was given by the names of the operands; None for what could be added to the result and is not."""
        read = self._reads
        for name, array in added.items():
            if (name in read) != (array is not None):
                wanted, came = (f"a {name}", "none") if name in read else (f"no {name}", "one")
                raise ShapeError(
                    f"the plan was made for {wanted}, {name} is {came}; say {name}={name not in read} to plan_conv"
                )
        names = [name for name in read if name not in added]
        given = (first,) if second is None and len(names) == 1 else (first, second)
        if len(given) != len(names):
            raise TypeError(f"execute takes {' and '.join(names)}; {len(given)} arrays came")
        return {**dict(zip(names, given, strict=True)), **added}

    @cached_property
    def _reads(self) -> tuple[str, ...]:
        """The names of the operands, in order."""
        return tuple(each.name for each in self.problem.operands)

    @staticmethod
    def _returned(results: Sequence[Array]) -> Any:
        return results[0] if len(results) == 1 else tuple(results)

    def _execute(self, operands: dict[str, Array], target: Array | None) -> list[Array]:
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

    def _attempt(self, operands: dict[str, Array], target: Array | None, limit: int | None) -> list[Array]:
        schedule = self.schedule(packed="packed_weight" in operands, out_given=target is not None, limit=limit)
        results = self._allocate_results(target)
        workspace = vram.allocate((schedule.workspace_bytes,), _UINT8, self._memory) if self.problem.batch else None
        self._run_in(workspace, schedule, operands, results)
        return results

    def _run_in(self, workspace: Array, schedule: Schedule, operands: dict[str, Array], results: list[Array]) -> None:
        """Run in `workspace`. An empty batch needs none."""
        if self.problem.batch:
            apart(self._run, schedule, operands, workspace[: schedule.workspace_bytes], results)
        elif self.problem.direction == "weight_grad":
            # The sum over no samples.
            results[0][...] = 0

    def _run(self, schedule: Schedule, operands: dict[str, Array], workspace: Array, results: list[Array]) -> None:
        algorithm, device, problem = self._algorithm, schedule.device, self.problem
        target, named = results[0], operands
        if len(results) > 1:
            # An array that is written beside the result has its name among the operands.
            named = {**operands, **{each.name: array for each, array in zip(problem.results, results, strict=True)}}
            del named["out"]
        if schedule.tiles is None:
            algorithm.run(problem, device, Operands(**named), workspace, target)
            return
        if "weight" in named:
            packed = workspace[: algorithm.packed_bytes(problem, device)]
            algorithm.pack(problem, device, named["weight"], packed)
            named = {**named, "weight": None, "packed_weight": packed}
        scratch = workspace[schedule.packed_bytes :]
        over = {each.name: each.over for each in (*problem.operands, *problem.results) if each.over}
        for tile in schedule.tiles:
            part = {name: array[tile.slices[over[name]]] if name in over else array for name, array in named.items()}
            nbytes = algorithm.workspace(tile.problem, device, packed=True)
            whole = target[tile.slices[over["out"]]]
            algorithm.run(tile.problem, device, Operands(**part), scratch[:nbytes], whole)

    def _execute_from_host(self, operands: dict[str, Array], out: Array | None) -> Any:
        """Copy NumPy operands to the device, run there, and copy the results back."""
        lies_last = self.problem.memory_order == "channels_last"
        over = {each.name: each.over for each in self.problem.operands}
        on_device = {
            # Packed weights are the plan's own.
            name: array if name == "packed_weight" else self._upload(array, lies_last and bool(over[name]))
            for name, array in operands.items()
        }
        last = self._result_lies_last
        stored = [self._memory.download(layout_view(each, last)) for each in self._execute(on_device, None)]
        results = [layout_view(channels_first_view(each, last), self._shows_last) for each in stored]
        if out is not None:
            out[...] = results[0]
            results[0] = out
        return self._returned(results)

    def _upload(self, array: np.ndarray, last: bool = False) -> Array:
        """Copy an operand to the device, with its channels outermost or innermost."""
        stored = np.ascontiguousarray(layout_view(array, last))
        target = vram.allocate(stored.shape, stored.dtype, self._memory)
        self._memory.upload(target, stored)
        return channels_first_view(target, last)

    @cached_property
    def _shows_last(self) -> bool:
        """Whether the result has its channels last in the plan's layout."""
        return self._channels_last and bool(self.problem.results[0].over)

    @cached_property
    def _result_lies_last(self) -> bool:
        """Whether the result lies in memory with its channels innermost."""
        return self.problem.memory_order == "channels_last" and bool(self.problem.results[0].over)

    @cached_property
    def _channels_last(self) -> bool:
        return channels_last_layout(self.layout, self.problem.rank)

    @cached_property
    def _algorithm(self) -> Algorithm:
        return algorithms_of(self.backend, self.problem.table)[self.algorithm]

    def _checked(self, given: dict[str, Any]) -> dict[str, Array]:
        """Return what is read, by its name in `Operands`: arrays over pixels with channels first."""
        read: dict[str, Array] = {}
        for each in self._pixels_first:
            array = given[each.name]
            if isinstance(array, PackedWeight) and each.name == "weight":
                self._check_packed(array)
                read["packed_weight"] = array.buffer
                continue
            self._check_operand(each, array)
            view = channels_first_view(plain(array), self._channels_last and bool(each.over))
            if not read:
                self._check_memory_order(each.name, view)
            read[each.name] = view
        return read

    @cached_property
    def _pixels_first(self) -> list[Operand]:
        """The operands, those over pixels first: by the first of them the memory order is known."""
        return sorted(self.problem.operands, key=lambda each: not each.over)

    def _check_packed(self, weight: PackedWeight) -> None:
        refused = self._memory.refuses(weight.buffer) if self._memory.resident(weight.buffer) else ""
        if refused:
            raise LayoutError(f"packed weight {refused}")
        packing = self._algorithm.packing(self.problem, self.device)
        if (weight.algorithm, weight.packing) != (self.algorithm, packing):
            raise LayoutError(
                f"weight was packed for {weight.algorithm} {weight.packing}; this plan wants {self.algorithm} "
                f"{packing}: pack it with this plan's pack()"
            )

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

    def _check_operand(self, operand: Operand, array: Array) -> None:
        name = operand.name
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
        if dtype != operand.dtype:
            raise DtypeError(f"{name} is {dtype}, wanted {operand.dtype}; cast it: {name}.astype({operand.dtype!r})")
        check_shape(name, array, layout_shape(operand.shape, self._channels_last and bool(operand.over)))

    def _check_memory_order(self, name: str, source: Array) -> None:
        order = memory_order(source)
        if order not in (None, self.problem.memory_order):
            raise LayoutError(
                f"{name} lies {order} in memory, the plan was made for {self.problem.memory_order}; make the plan with "
                f"memory_order={order!r}"
            )

    def _check_out(self, out: Array, operands: dict[str, Any]) -> None:
        self._check_operand(self.problem.results[0], out)
        stored = {name: given.buffer if isinstance(given, PackedWeight) else given for name, given in operands.items()}
        if same_place(out, stored["residual"]):
            # Each element is read before it is written, and by none but its own result.
            stored["residual"] = None
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

    def _allocate_results(self, target: Array | None) -> list[Array]:
        """Return the results' arrays, with channels first: `target`, if given, and new ones."""
        last, found = self._result_lies_last, [] if target is None else [target]
        for each in self.problem.results[len(found) :]:
            stored = vram.allocate(layout_shape(each.shape, last), numpy_dtype(each.dtype), self._memory)
            found.append(channels_first_view(stored, last))
        return found
