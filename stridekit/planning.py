"""The dispatcher: a problem and a device in, a plan out.

Choosing is a pure function: the algorithms that can compute the problem are listed, the others are excluded with
their reason, the cost of each is modelled and the least is taken. Only `Plan.execute` touches arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from stridekit import vram
from stridekit.activation import ActivationArgument
from stridekit.arguments import as_int
from stridekit.arrays import (
    MEMORY_ORDERS,
    Array,
    channels_first_shape,
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
from stridekit.backends import BACKEND_NAMES, Algorithm, Device, Operands, backend_for, load_backend
from stridekit.errors import BackendUnavailableError, DtypeError, LayoutError, ShapeError
from stridekit.geometry import ConvGeometry
from stridekit.padding import Padding
from stridekit.problem import ConvProblem, conv_problem
from stridekit.tiling import Schedule
from stridekit.tiling import schedule as tiled

_UINT8 = np.dtype(np.uint8)
_scope: ContextVar[str | None] = ContextVar("stridekit_backend", default=None)


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
        return _algorithms(self.backend)[self.algorithm]

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


def plan_conv(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    dtype: Any = "float32",
    stride: int | tuple[int, ...] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str | None = None,
    memory_order: str | None = None,
    bias: bool = False,
    activation: ActivationArgument = None,
    precision: str = "ieee",
    direction: str = "forward",
    device: Device | None = None,
    backend: str = "auto",
) -> Plan:
    """Decide how to run a convolution, before there is any array.

    Parameters
    ----------
    input_shape : tuple of int
        ``(N, C, *spatial)``, or ``(N, *spatial, C)`` with a channels-last `layout`.
    weight_shape : tuple of int
        ``(K, C / groups, *kernel)`` in every layout.
    dtype : str or dtype
        float16, bfloat16, float32 or float64.
    layout : str, optional
        As for `stridekit.conv2d`; None is channels first.
    memory_order : {"channels_first", "channels_last"}, optional
        How the input will lie in memory; by default as `layout` says.
    bias : bool
        Whether a bias will be added.
    direction : {"forward"}
        What is computed.
    device : Device, optional
        Default: the backend's own.
    backend : {"auto", "cuda", "cpu", "reference"}

    Returns
    -------
    Plan
        Its ``backend``, ``algorithm``, ``why``, ``flops``, ``bytes`` and ``vram`` are known; ``execute`` runs it.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> plan = plan_conv((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3, backend="reference")
    >>> plan.output_shape, plan.flops
    ((1, 64, 112, 112), 236027904)
    """
    if direction != "forward":
        raise ShapeError(f"direction is {direction!r}; this version plans 'forward' only")
    rank = len(weight_shape) - 2
    if rank not in (1, 2, 3) or len(input_shape) != rank + 2:
        raise ShapeError(
            f"input_shape has {len(input_shape)} axes and weight_shape {len(weight_shape)}; wanted 3, 4 or 5 each: "
            f"batch and channels, filters and channels, then 1 to 3 spatial axes"
        )
    input_shape = tuple(as_int("input_shape", size) for size in input_shape)
    weight_shape = tuple(as_int("weight_shape", size) for size in weight_shape)
    if min(input_shape[0], *weight_shape) < 0:
        raise ShapeError(f"input_shape {input_shape} and weight_shape {weight_shape} hold a negative size")
    last = channels_last_layout(layout, rank)
    problem = conv_problem(
        channels_first_shape(input_shape, last),
        weight_shape,
        dtype=dtype_name("dtype", dtype),
        memory_order=MEMORY_ORDERS[last] if memory_order is None else memory_order,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        bias=bias,
        activation=activation,
        precision=precision,
    )
    name, reason = choose_backend(backend, "numpy")
    return choose_plan(problem, layout, name, reason, load_backend(name).device() if device is None else device)


def choose_backend(argument: str, library: str) -> tuple[str, str]:
    """Choose a backend and say why: an explicit argument, then `use_backend`, then STRIDEKIT_BACKEND, then auto."""
    asked = asked_backend(argument)
    if asked is None:
        return backend_for(library)
    if library == "cupy" and asked[0] != "cuda":
        raise BackendUnavailableError(
            f"backend is {asked[0]!r} and the arrays are CuPy's; nothing is copied silently: cupy.asnumpy(array)"
        )
    return asked


def asked_backend(argument: str) -> tuple[str, str] | None:
    """Return the backend that was asked for and by what, or None if the choice is left to stridekit.

    Raises
    ------
    BackendUnavailableError
        If there is none of that name, or it cannot run here.
    """
    sources = [
        (argument, "argument"),
        (_scope.get(), "use_backend"),
        (os.environ.get("STRIDEKIT_BACKEND"), "STRIDEKIT_BACKEND"),
    ]
    for name, source in sources:
        if name and name != "auto":
            try:
                load_backend(name)
            except BackendUnavailableError as error:
                raise BackendUnavailableError(f"{error} (asked for by {source})") from None
            return name, f"asked for by {source}"
        if name == "auto" and source == "use_backend":
            break
    return None


@lru_cache(maxsize=4096)
def choose_plan(problem: ConvProblem, layout: str | None, backend: str, reason: str, device: Device) -> Plan:
    """Take the cheapest algorithm of `backend` that supports `problem` on `device`: a pure function."""
    candidates = []
    for algorithm in _algorithms(backend).values():
        excluded = algorithm.supports(problem, device)
        cost = float("inf") if excluded else algorithm.cost(problem, device)
        candidates.append(Candidate(algorithm.name, cost, excluded))
    legal = [candidate for candidate in candidates if not candidate.excluded]
    if not legal:
        reasons = "; ".join(f"{c.algorithm}: {c.excluded}" for c in candidates)
        raise BackendUnavailableError(f"backend {backend!r} has no algorithm for this problem ({reasons})")
    best = min(legal, key=lambda candidate: candidate.cost)
    why = [f"{backend}: {reason}", f"{best.algorithm}: modelled at {_seconds(best.cost)}"]
    why.extend(
        f"not {other.algorithm}: {other.excluded or 'modelled at ' + _seconds(other.cost)}"
        for other in candidates
        if other is not best
    )
    return Plan(problem, device, backend, best.algorithm, "; ".join(why), tuple(candidates), layout)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every call inside the ``with`` block that names no backend on backend `name`.

    Raises
    ------
    BackendUnavailableError
        At once, if it cannot run here.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> with sk.use_backend("reference"):
    ...     y = sk.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2)), stride=2)
    >>> y.tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    if name != "auto":
        load_backend(name)
    token = _scope.set(name)
    try:
        yield
    finally:
        _scope.reset(token)


def _seconds(cost: float) -> str:
    return f"{cost * 1e3:.3g} ms"


@lru_cache(maxsize=len(BACKEND_NAMES))
def _algorithms(backend: str) -> dict[str, Algorithm]:
    return {algorithm.name: algorithm for algorithm in load_backend(backend).ALGORITHMS}
