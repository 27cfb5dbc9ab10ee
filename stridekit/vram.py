"""Memory: what a plan will need, what a block of code did need, in bytes, on whichever device the plan runs.

`allocated` is what stridekit allocates itself: the output, unless ``out=`` is given, and the workspace. `peak`
is that plus the operands. On a GPU each part is counted in the whole units of CuPy's pool, 512 bytes; NumPy operands
of ``backend="cuda"`` are copied there by stridekit, so that all of `peak` is allocated by it. This room knows plans
only by their numbers.
"""

from __future__ import annotations

import math
import operator
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stridekit.arguments import is_int, shown
from stridekit.concurrency import Scope, lock, opened, still_open
from stridekit.errors import DtypeError, ShapeError, VramBudgetError
from stridekit.memory.arrays import Array
from stridekit.memory.spaces import HOST, Memory

__all__ = ["TrackedUsage", "VramUsage", "budget", "estimate", "track"]


@dataclass(frozen=True)
class VramUsage:
    """Bytes that one execution needs.

    Attributes
    ----------
    input, weight, bias, output, workspace : int
        Each part, in bytes. `input` is all that is read over pixels; `weight` as the call gets it: as given, or packed.
    allocated : int
        What stridekit allocates: output (0 with ``out=``) and workspace.
    peak : int
        All of it at once: operands, output and workspace.
    """

    input: int
    weight: int
    bias: int
    output: int
    workspace: int
    allocated: int
    peak: int


@runtime_checkable
class _Plan(Protocol):
    """What predicts its own memory: `stridekit.planning.plan.Plan`."""

    def memory(self, *, packed: bool, out_given: bool) -> VramUsage:
        """Predict."""


class _Charge(weakref.ref[Any]):
    """An array that counts as long as it lives; equal to itself alone."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


_SIZES = 64
"""Different sizes of arrays beyond which those are forgotten of which none is left."""


class TrackedUsage(Scope):
    """Bytes that stridekit allocated inside a `track` block.

    Attributes
    ----------
    current : int
        Allocated in the block and alive now; an output counts until its last view is gone.
    peak : int
        The most that was alive at once.
    limit : int or None
        The most that may be, of a `budget` block.
    """

    def __init__(self, current: int = 0, peak: int = 0, *, limit: int | None = None) -> None:
        self.peak, self.limit = peak, limit
        self._before = current
        # By their size. A sum could be wrong for ever after an interrupt; sets say what is alive, and an array leaves
        # its own without a line of Python: what is raised in a finalizer is lost, and the rest of it not done.
        self._alive: dict[int, set[_Charge]] = {}

    @property
    def current(self) -> int:
        """Bytes allocated in the block and alive now."""
        return self._before + sum(nbytes * len(self._alive.get(nbytes, ())) for nbytes in list(self._alive))

    def charge(self, owner: object, nbytes: int) -> None:
        """Count `nbytes` for as long as `owner` lives."""
        while True:
            alive = self._alive.setdefault(nbytes, set())
            alive.add(_Charge(owner, alive.discard))
            # A finalizer that allocates as well may have forgotten the set while it was empty.
            if self._alive.get(nbytes) is alive:
                break
        self.peak = max(self.peak, self.current)
        if len(self._alive) > _SIZES:
            for size in list(self._alive):
                if not self._alive[size]:
                    del self._alive[size]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TrackedUsage):
            return NotImplemented
        return (self.current, self.peak) == (other.current, other.peak)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TrackedUsage(current={self.current}, peak={self.peak})"

    def __reduce__(self) -> tuple[type[TrackedUsage], tuple[int, int]]:
        # A copy has the numbers; the arrays are alive here.
        return TrackedUsage, (self.current, self.peak)


_scopes: ContextVar[tuple[TrackedUsage, ...]] = ContextVar("stridekit_tracked", default=())

_charging = lock()
"""Held from what is left of a budget until it is taken."""

_UNITS = {
    "b": 1,
    **{f"{prefix}b": 1000 ** (power + 1) for power, prefix in enumerate("kmgt")},
    **{f"{prefix}ib": 1024 ** (power + 1) for power, prefix in enumerate("kmgt")},
}


def estimate(plan: _Plan, *, packed: bool = False, out_given: bool = False) -> VramUsage:
    """Predict the memory of ``plan.execute``, before anything is allocated.

    Parameters
    ----------
    plan : Plan
        From `stridekit.plan_conv`.
    packed : bool
        Whether the weight will come from ``plan.pack``: then no workspace is spent on packing it.
    out_given : bool
        Whether ``out=`` will be given.

    Returns
    -------
    VramUsage
        In bytes; `allocated` is exactly what `track` measures. Inside a `budget` block it is that of the tiles.

    Examples
    --------
    >>> import stridekit as sk
    >>> plan = sk.plan_conv((1, 3, 32, 32), (8, 3, 3, 3), dtype="float32", padding=1, backend="reference")
    >>> sk.vram.estimate(plan).output
    32768
    """
    if not isinstance(plan, _Plan):
        raise DtypeError(f"plan is {shown(plan)}; wanted a Plan, such as stridekit.plan_conv returns")
    return plan.memory(packed=packed, out_given=out_given)


@contextmanager
def track() -> Iterator[TrackedUsage]:
    """Measure what stridekit allocates inside the ``with`` block.

    Yields
    ------
    TrackedUsage
        Read ``peak`` (bytes) inside the block or after it. Blocks nest; each thread has its own.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x, w = np.ones((1, 3, 32, 32), "float32"), np.ones((8, 3, 3, 3), "float32")
    >>> with sk.vram.track() as usage:
    ...     y = sk.conv2d(x, w, padding=1)
    >>> usage.peak >= y.nbytes
    True
    """
    with opened(_scopes, TrackedUsage()) as usage:
        yield usage


@contextmanager
def budget(limit: int | str) -> Iterator[TrackedUsage]:
    """Keep what stridekit allocates inside the ``with`` block within `limit`.

    A call that would need more runs on one thread (on a GPU: without a copy of its input), then in tiles over samples
    and output rows: slower, the same bits. What does not fit even so is refused before anything is allocated.

    Parameters
    ----------
    limit : int or str
        Bytes, or such as ``"2 GiB"`` or ``"500 MB"``: outputs that are alive, workspaces and packed weights.

    Yields
    ------
    TrackedUsage
        As `track`.

    Raises
    ------
    ShapeError
        If `limit` is not a number of bytes.
    VramBudgetError
        From calls inside the block; it states the smallest budget that works.

    Examples
    --------
    >>> import numpy as np, stridekit as sk
    >>> x, w = np.ones((1, 3, 64, 64), "float32"), np.ones((8, 3, 3, 3), "float32")
    >>> with sk.vram.budget("1 MiB") as usage:
    ...     y = sk.conv2d(x, w, padding=1)
    >>> usage.peak <= 2**20
    True
    """
    nbytes = parse_bytes("the limit of the budget", limit)
    with opened(_scopes, TrackedUsage(limit=nbytes)) as usage:
        yield usage


def remaining() -> int | None:
    """Return the bytes that the budgets around leave, or None without one."""
    scopes = still_open(_scopes)
    return min((usage.limit - usage.current for usage in scopes if usage.limit is not None), default=None)


def parse_bytes(name: str, limit: int | str) -> int:
    """Read an amount of memory: bytes, or such as ``"2 GiB"``."""
    number: float | None = None
    unit = "b"
    if isinstance(limit, str):
        found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-zA-Z]*)\s*", limit)
        if found:
            number, unit = float(found[1]), found[2].lower() or "b"
    elif is_int(limit) and not isinstance(limit, bool):
        number = operator.index(limit)
    if number is None or unit not in _UNITS or not 0 <= number * _UNITS[unit] < 2**62:
        raise ShapeError(f"{name} is {shown(limit)}; wanted bytes as an int, or such as '2 GiB' or '500 MB'")
    return int(number * _UNITS[unit])


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], memory: Memory = HOST) -> Array:
    """Allocate an array in `memory`, on a cache line, and tell every `track` block around.

    The only allocation that execution makes. Whole units of the memory are counted: those that its pool takes.
    """
    exact = math.prod(shape) * dtype.itemsize
    nbytes = memory.rounded(exact)
    if nbytes == 0:
        return memory.empty(0)[1].view(dtype).reshape(shape)
    scopes = still_open(_scopes)
    if not scopes:
        return memory.empty(nbytes)[1][:exact].view(dtype).reshape(shape)
    with _charging:
        left = remaining()
        if left is not None and nbytes > left:
            raise VramBudgetError(f"{left} bytes are left of the budget and {nbytes} are needed")
        owner, flat = memory.empty(nbytes)
        for usage in scopes:
            usage.charge(owner, nbytes)
    return flat[:exact].view(dtype).reshape(shape)
