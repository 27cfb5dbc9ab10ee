"""The pooling's plan: where a `PoolProblem` runs; allocates, moves arrays there and back, and keeps to the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, TypeAlias

import numpy as np

from stridekit import vram
from stridekit.backends import Device, load_backend, memory_of
from stridekit.concurrency import apart, loaded
from stridekit.errors import DtypeError, LayoutError, VramBudgetError
from stridekit.memory.arrays import (
    MEMORY_ORDERS,
    Array,
    channels_first_shape,
    channels_first_view,
    channels_last_layout,
    check_out,
    check_shape,
    dtype_name,
    layout_shape,
    layout_view,
    memory_order,
    numpy_dtype,
    one_library,
    plain,
)
from stridekit.memory.spaces import HOST, Memory
from stridekit.memory.workspace import align
from stridekit.planning.dispatch import choose_backend
from stridekit.problems.padding import Padding
from stridekit.problems.pool_problem import PoolProblem, pool_problem

Sizes: TypeAlias = int | tuple[int, ...]

_INT64 = np.dtype(np.int64)
_POOLING = {
    "reference": "stridekit.backends.reference.pool",
    "cpu": "stridekit.backends.cpu.pool.algorithm",
    "cuda": "stridekit.backends.cuda.pooling",
}


class Pooling(Protocol):
    """What a backend's pooling module offers."""

    def pool(
        self, problem: PoolProblem, device: Any, source: Array, indices: Array | None, target: Array | None
    ) -> None:
        """Compute `problem` from `source` into `target`, views ``(N, C, *spatial)`` in any memory order.

        `indices` (int64, of the output's shape) are written by a max pooling, where given, and read by its gradient.
        A max pooling without a target writes only those.
        """


@dataclass(frozen=True)
class PoolPlan:
    """A pooling and where it runs.

    Attributes
    ----------
    problem : PoolProblem
    backend : str
    device : Device
    layout : str or None
        Axis order of the arrays that are given and returned.
    """

    problem: PoolProblem
    backend: str
    device: Device
    layout: str | None

    def forward(self, x: Array, *, out: Array | None, return_indices: bool) -> tuple[Array, Array | None]:
        """Pool `x`; return the output and, where wanted, its indices."""
        shape = self.problem.output_shape
        with self._memory.entered():
            here = self._checked({"x": x}, out)
            self._fits(self._moved(here, out) + return_indices * self._nbytes(shape, _INT64))
            source, target = self._taken(x, here), self._target(out, here)
            indices = self._allocated(shape, _INT64) if return_indices else None
            self._pool(self.problem, source, indices, target)
            return self._returned(target, here, out), None if indices is None else self._returned(indices, here)

    def input_grad(self, grad_output: Array, x: Array | None, *, out: Array | None) -> Array:
        """Return the input's gradient; for "max" from `x` too, whose indices are computed again."""
        named = {"grad_output": grad_output} if x is None else {"x": x, "grad_output": grad_output}
        with self._memory.entered():
            here = self._checked(named, out)
            moved = self._moved(here, out) + (0 if here or x is None else self._nbytes(self.problem.input_shape))
            samples = self._samples_at_once(moved) if x is not None else 0
            self._fits(moved + self._indices_bytes(samples))
            gradient, target = self._taken(grad_output, here), self._target(out, here)
            if x is None:
                self._pool(self.problem, gradient, None, target)
            else:
                self._max_grad(self._taken(x, here), gradient, target, samples)
            return self._returned(target, here, out)

    def _max_grad(self, x: Array, gradient: Array, target: Array, samples: int) -> None:
        """Compute some samples at a time: the indices of one maximum take more memory than the gradient."""
        indices = self._allocated((samples, *self.problem.output_shape[1:]), _INT64)
        for start in range(0, self.problem.batch, max(samples, 1)):
            part = slice(start, min(start + samples, self.problem.batch))
            problem = replace(self.problem, batch=part.stop - start)
            own = indices[: problem.batch]
            self._pool(replace(problem, direction="forward"), x[part], own, None)
            self._pool(problem, gradient[part], own, target[part])

    def _samples_at_once(self, moved: int) -> int:
        """Return how many samples' indices the budget has room for, at least one."""
        left, batch = vram.remaining(), self.problem.batch
        if left is None or self._indices_bytes(batch) <= left - moved or batch == 0:
            return batch
        unit = self.device.granularity
        return min(batch, max(1, (left - moved) // unit * unit // self._indices_bytes(1, exact=True)))

    def _indices_bytes(self, samples: int, *, exact: bool = False) -> int:
        nbytes = samples * math.prod(self.problem.output_shape[1:]) * _INT64.itemsize
        return nbytes if exact else align(nbytes, self.device.granularity)

    def _pool(self, problem: PoolProblem, source: Array, indices: Array | None, target: Array | None) -> None:
        if problem.batch:
            apart(pooling_of(self.backend).pool, problem, self.device, source, indices, target)

    @property
    def _memory(self) -> Memory:
        return memory_of(self.backend, self.device)

    @property
    def _channels_last(self) -> bool:
        return channels_last_layout(self.layout, self.problem.rank)

    @property
    def _lies_last(self) -> bool:
        return self.problem.memory_order == "channels_last"

    # Memory.

    def _nbytes(self, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> int:
        itemsize = self.problem.itemsize if dtype is None else dtype.itemsize
        return align(math.prod(shape) * itemsize, self.device.granularity)

    def _moved(self, here: bool, out: Array | None) -> int:
        """Return the bytes that the result takes, if it gets memory of its own, and what is read, if it is copied."""
        own = 0 if here and out is not None else self._nbytes(self.problem.result_shape)
        return own + (0 if here else self._nbytes(self.problem.source_shape))

    def _fits(self, needed: int) -> None:
        """Raise `VramBudgetError`, before anything is allocated, unless the budget has room."""
        left = vram.remaining()
        if left is not None and needed > left:
            raise VramBudgetError(f"{left} bytes are left of the budget and {needed} are needed; give so many")

    def _allocated(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        stored = vram.allocate(layout_shape(shape, self._lies_last), dtype, self._memory)
        return channels_first_view(stored, self._lies_last)

    def _taken(self, array: Array, here: bool) -> Array:
        """View an operand as ``(N, C, *spatial)`` where the plan runs, there by a copy if need be."""
        view = channels_first_view(plain(array), self._channels_last)
        if here:
            return view
        stored = np.ascontiguousarray(layout_view(view, self._lies_last))
        copy = vram.allocate(stored.shape, stored.dtype, self._memory)
        self._memory.upload(copy, stored)
        return channels_first_view(copy, self._lies_last)

    def _target(self, out: Array | None, here: bool) -> Array:
        if out is not None and here:
            return channels_first_view(plain(out), self._channels_last)
        return self._allocated(self.problem.result_shape, numpy_dtype(self.problem.dtype))

    def _returned(self, result: Array, here: bool, out: Array | None = None) -> Array:
        """Return a result in the caller's layout, from the device if it was copied there."""
        if here:
            return layout_view(result, self._channels_last) if out is None else out
        stored = self._memory.download(layout_view(result, self._lies_last))
        found = layout_view(channels_first_view(stored, self._lies_last), self._channels_last)
        if out is None:
            return found
        out[...] = found
        return out

    # Checks.

    def _checked(self, named: dict[str, Array], out: Array | None) -> bool:
        """Check what is read and written; say whether all of it lies where the plan runs."""
        problem = self.problem
        shapes = {"x": problem.input_shape, "grad_output": problem.output_shape, "out": problem.result_shape}
        given = dict(named) if out is None else {**named, "out": out}
        for name, array in given.items():
            dtype = dtype_name(name, array)
            if dtype != problem.dtype:
                raise DtypeError(
                    f"{name} is {dtype}, wanted {problem.dtype}; cast it: {name}.astype({problem.dtype!r})"
                )
            check_shape(name, array, layout_shape(shapes[name], self._channels_last))
            refused = "" if isinstance(array, np.ndarray) else self._memory.refuses(array)
            if refused:
                raise LayoutError(f"{name} {refused}")
        if out is not None:
            check_out(out, named)
        return self._memory is HOST or all(self._memory.resident(plain(array)) for array in given.values())


def plan_pool(
    operation: str,
    direction: str,
    arrays: dict[str, Array],
    input_shape: tuple[int, ...],
    layout: str | None,
    backend: str,
    *,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Padding,
    dilation: Sizes,
    ceil_mode: bool,
    count_include_pad: bool = True,
) -> PoolPlan:
    """Check a pooling's arguments and choose where it runs.

    Parameters
    ----------
    arrays : dict of array
        By the arguments' names; the first says dtype and memory order. `out` may be None.
    input_shape : tuple of int
        In `layout`.
    """
    library = one_library(arrays)
    name, first = next(iter(arrays.items()))
    last = channels_last_layout(layout, len(input_shape) - 2)
    problem = pool_problem(
        operation,
        direction,
        channels_first_shape(tuple(input_shape), last),
        dtype=dtype_name(name, first),
        memory_order=memory_order(channels_first_view(plain(first), last)) or MEMORY_ORDERS[last],
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )
    chosen, _ = choose_backend(backend, library)
    return PoolPlan(problem, chosen, load_backend(chosen).device(first), layout)


@cache
def pooling_of(backend: str) -> Pooling:
    """Return the pooling module of the backend called `backend`."""
    return loaded(_POOLING[backend])  # type: ignore[no-any-return]
