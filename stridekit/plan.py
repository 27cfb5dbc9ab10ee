"""The plan: a decision how to run a problem, made once and executed many times. Only `Plan.execute` touches arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stridekit import vram
from stridekit.arrays import (
    Array,
    channels_first_view,
    channels_last_layout,
    check_shape,
    dtype_name,
    layout_shape,
    layout_view,
    library_of,
    may_share_elements,
    memory_order,
    numpy_dtype,
    overlaps,
    plain,
)
from stridekit.backends import Algorithm, Device, Operands, algorithms_of
from stridekit.errors import BackendUnavailableError, DtypeError, LayoutError, ShapeError
from stridekit.geometry import ConvGeometry
from stridekit.problem import ConvProblem
from stridekit.tiling import Schedule
from stridekit.tiling import schedule as tiled

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

    buffer: np.ndarray
    algorithm: str
    packing: tuple[object, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.buffer.nbytes)


@dataclass(frozen=True)
class Plan:
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
        return layout_shape(self.problem.output_shape, self._channels_last)

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
        if self.problem.batch == 0:
            return 0
        return self._algorithm.workspace(self.problem, self.device, packed=packed)

    def schedule(self, *, packed: bool = False, out_given: bool = False) -> Schedule:
        """Decide how `execute` runs within what is left of the budget: whole, or in tiles.

        Raises
        ------
        VramBudgetError
            With the smallest budget that works, if none does.
        """
        limit = vram.remaining()
        if limit is None or self.problem.batch == 0:
            return Schedule(self.device, (), 0, self.workspace_bytes(packed=packed))
        output = 0 if out_given else self.problem.output_bytes
        return tiled(self.problem, self._algorithm, self.device, packed=packed, output_bytes=output, limit=limit)

    def pack(self, weight: Array) -> PackedWeight:
        """Put weights into the algorithm's own order, once, for many calls of `execute`.

        The result is a copy: changing `weight` afterwards does not change it.

        Parameters
        ----------
        weight : array, shape (K, C / groups, \\*kernel)
        """
        self._check_operand("weight", weight, self.problem.weight_shape)
        buffer = vram.allocate((self.packed_bytes,), _UINT8)
        self._algorithm.pack(self.problem, self.device, plain(weight), buffer)
        return PackedWeight(buffer, self.algorithm, self._algorithm.packing(self.problem, self.device))

    def execute(
        self, x: Array, weight: Array | PackedWeight, bias: Array | None = None, *, out: Array | None = None
    ) -> Array:
        """Run the plan.

        Parameters
        ----------
        x : array
            Of the plan's input shape, dtype and memory order.
        weight : array or PackedWeight
            As given, shape ``(K, C / groups, *kernel)``, or from `pack`.
        bias : array, shape (K,), optional
            Exactly if the plan was made with ``bias=True``.
        out : array, optional
            Of the result's shape and dtype; must not overlap an operand.

        Returns
        -------
        array
            `out`, or a new array in the input's memory order.

        Raises
        ------
        ShapeError, DtypeError, LayoutError
            For arrays other than the plan was made for.
        VramBudgetError
            If not even small tiles fit into `stridekit.vram.budget`; nothing has been allocated then.
        """
        problem = self.problem
        self._check_operand("x", x, self._input_shape)
        source = channels_first_view(plain(x), self._channels_last)
        self._check_memory_order(source)
        operands = self._operands(source, weight, bias)
        schedule = self.schedule(packed=operands.packed_weight is not None, out_given=out is not None)
        if out is None:
            target = self._allocate_output()
        else:
            self._check_out(out, operands)
            target = channels_first_view(plain(out), self._channels_last)
        if problem.batch:
            self._run(schedule, operands, vram.allocate((schedule.workspace_bytes,), _UINT8), target)
        return layout_view(target, self._channels_last) if out is None else out

    def _run(self, schedule: Schedule, operands: Operands, workspace: Array, target: Array) -> None:
        algorithm, device = self._algorithm, schedule.device
        if len(schedule.tiles) < 2:
            algorithm.run(self.problem, device, operands, workspace, target)
            return
        packed = operands.packed_weight
        if packed is None:
            packed = workspace[: algorithm.packed_bytes(self.problem, device)]
            algorithm.pack(self.problem, device, operands.weight, packed)
        scratch = workspace[schedule.packed_bytes :]
        for tile in schedule.tiles:
            part = Operands(operands.input[tile.input], None, packed, operands.bias)
            nbytes = algorithm.workspace(tile.problem, device, packed=True)
            algorithm.run(tile.problem, device, part, scratch[:nbytes], target[tile.output])

    @cached_property
    def _input_shape(self) -> tuple[int, ...]:
        return layout_shape(self.problem.input_shape, self._channels_last)

    @cached_property
    def _channels_last(self) -> bool:
        return channels_last_layout(self.layout, self.problem.rank)

    @cached_property
    def _algorithm(self) -> Algorithm:
        return algorithms_of(self.backend)[self.algorithm]

    def _operands(self, source: Array, weight: Array | PackedWeight, bias: Array | None) -> Operands:
        problem = self.problem
        if problem.bias != (bias is not None):
            wanted, came = ("a bias", "none") if problem.bias else ("no bias", "one")
            raise ShapeError(
                f"the plan was made for {wanted}, bias is {came}; say bias={not problem.bias} to plan_conv"
            )
        if bias is not None:
            self._check_operand("bias", bias, (problem.out_channels,))
            bias = plain(bias)
        if not isinstance(weight, PackedWeight):
            self._check_operand("weight", weight, problem.weight_shape)
            return Operands(source, plain(weight), None, bias)
        packing = self._algorithm.packing(problem, self.device)
        if (weight.algorithm, weight.packing) != (self.algorithm, packing):
            raise LayoutError(
                f"weight was packed for {weight.algorithm} {weight.packing}; this plan wants {self.algorithm} "
                f"{packing}: pack it with this plan's pack()"
            )
        return Operands(source, None, weight.buffer, bias)

    def _check_operand(self, name: str, array: Array, shape: tuple[int, ...]) -> None:
        if library_of(name, array) != "numpy":
            raise BackendUnavailableError(
                f"{name} is a CuPy array, the plan runs on {self.device.name}; use NumPy arrays"
            )
        dtype = dtype_name(name, array)
        if dtype != self.problem.dtype:
            raise DtypeError(
                f"{name} is {dtype}, wanted {self.problem.dtype}; cast it: {name}.astype({self.problem.dtype!r})"
            )
        check_shape(name, array, shape)

    def _check_memory_order(self, source: Array) -> None:
        order = memory_order(source)
        if order not in (None, self.problem.memory_order):
            raise LayoutError(
                f"x lies {order} in memory, the plan was made for {self.problem.memory_order}; make the plan with "
                f"memory_order={order!r}"
            )

    def _check_out(self, out: Array, operands: Operands) -> None:
        self._check_operand("out", out, self.output_shape)
        if not out.flags.writeable:
            raise LayoutError("out is read-only; give an array that can be written")
        packed = operands.packed_weight
        named = {"x": operands.input, "weight": operands.weight if packed is None else packed, "bias": operands.bias}
        for name, operand in named.items():
            if operand is not None and overlaps(out, operand):
                raise LayoutError(f"out overlaps {name} in memory; give out memory of its own")
        if may_share_elements(out):
            raise LayoutError(f"out has elements that share memory (strides {out.strides}); give an array of its own")

    def _allocate_output(self) -> Array:
        problem = self.problem
        last = problem.memory_order == "channels_last"
        stored = vram.allocate(layout_shape(problem.output_shape, last), numpy_dtype(problem.dtype))
        return channels_first_view(stored, last)
