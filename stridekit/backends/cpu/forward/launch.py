"""What the kernels are told: one or several problems as rows of integers, all but the addresses made beforehand.

Problems that are run together share scratch and threads, and are begun by one call: a phase of an input gradient can
be a few microseconds of work, less than it takes Python to begin it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stridekit.backends.cpu.forward.blocking import SMALL_FLOPS, Blocking
from stridekit.backends.cpu.forward.jobs import Call, Packing, Weight
from stridekit.backends.cpu.forward.partition import TASK_VECTORS
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import (
    WORD_BYTES,
    WORKSPACE,
    Rows,
    Strided,
    bases,
    row,
    rows,
)
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.activations import FUSED
from stridekit.problems.conv_problem import ConvProblem

Cut = Callable[[ConvProblem, CpuDevice], Blocking]
Counted = tuple[tuple[ConvProblem, int], ...]
"""Problems, and how many there are of each."""
_COUNTERS = 3
"""Words of each problem that begin as 0: tasks drawn of packing, of convolving, whether a weight is not finite."""


class Part(NamedTuple):
    """A forward problem, and where it finds its arrays within those of a call."""

    problem: ConvProblem
    x: Strided
    out: Strided
    weight: Weight
    residual: Strided = Strided()


@dataclass(frozen=True, eq=False)
class Job:
    """All of a call that does not change from one to the next.

    Attributes
    ----------
    layout : WorkspaceLayout
        Its regions are ``"counters"``, ``"bias"``, ``"scratch"`` and, for weights as given, ``"weights"``.
    packing, convolving : Rows
        For the kernels of those names; `packing` has no rows for packed weights.
    turned : bool
        Whether `packing` is a `Turning`, rather than a count of `Packing`.
    calls : tuple of Call
        One for each problem.
    packers, workers : int
        Threads that are worth it.
    blocking : int
        Address of one `Blocking`: all lay a bias alike.
    kept : tuple
        The arrays that rows name by address.
    """

    layout: WorkspaceLayout
    packing: Rows
    convolving: Rows
    turned: bool
    calls: tuple[Call, ...]
    packers: int
    workers: int
    blocking: int
    kept: tuple[np.ndarray, ...]


class PlacedPart(NamedTuple):
    """A blocking, and the same as the kernels read it: at `address`, in `array`."""

    blocking: Blocking
    array: np.ndarray
    address: int


@lru_cache(maxsize=4096)
def placed(cut: Cut, problem: ConvProblem, device: CpuDevice) -> PlacedPart:
    """Cut a problem, and write down how."""
    b = cut(problem, device)
    array = row(b)
    return PlacedPart(b, array, int(array.ctypes.data))


@lru_cache(maxsize=4096)
def layout_of(cut: Cut, problems: Counted, device: CpuDevice, packed: bool) -> tuple[WorkspaceLayout, int]:
    """Return the workspace of problems run together, each so many times, and how many threads are worth it."""
    counts = [count for _, count in problems]
    blockings = [placed(cut, problem, device).blocking for problem, _ in problems]
    threads = device.threads if sum(problem.flops * count for problem, count in problems) >= SMALL_FLOPS else 1
    workers = max(1, min(threads, sum(b.tasks * count for b, count in zip(blockings, counts, strict=True))))
    regions = [
        ("counters", _COUNTERS * WORD_BYTES * sum(counts)),
        ("bias", max((b.bias_elements * b.itemsize for b in blockings), default=0)),
        ("scratch", workers * scratch_step(blockings)),
    ]
    if not packed:
        each = (align(weights_bytes(b)) * count for b, count in zip(blockings, counts, strict=True))
        regions.append(("weights", sum(each)))
    return WorkspaceLayout(tuple(regions)), workers


def scratch_step(blockings: list[Blocking]) -> int:
    """Return the bytes of a thread's scratch, which serves one problem after the other."""
    return max((align(b.scratch) for b in blockings), default=0)


def weights_bytes(b: Blocking) -> int:
    """Return the bytes of weights in tile order."""
    return b.packed_elements * b.itemsize


@lru_cache(maxsize=1024)
def job_of(cut: Cut, parts: tuple[Part, ...], device: CpuDevice, packed: bool) -> Job:
    """Prepare problems to be run together; `weight` of a part is that of its packed weights if `packed`."""
    layout, workers = layout_of(cut, tuple(Counter(part.problem for part in parts).items()), device, packed)
    every = [placed(cut, part.problem, device) for part in parts]
    activation, slope = activation_of(parts[0].problem)
    packing: list[Packing] = []
    calls: list[Call] = []
    counter, stored = WORKSPACE + layout.offsets["counters"], WORKSPACE + layout.offsets.get("weights", 0)
    step = scratch_step([found.blocking for found in every])
    for part, found in zip(parts, every, strict=True):
        nbytes = align(weights_bytes(found.blocking))
        own = part.weight.start, part.weight.start + nbytes
        weights, unbounded = own if packed else (stored, counter + 2 * WORD_BYTES)
        if not packed:
            packing.append(packing_of(found, part.weight, weights, unbounded, counter))
        calls.append(
            Call(
                blocking=found.address,
                weights=weights,
                unbounded=unbounded,
                bias=WORKSPACE + layout.offsets["bias"],
                activation=activation,
                slope=int(slope.ctypes.data),
                in_place=_in_place(found.blocking, part.x),
                scratch=WORKSPACE + layout.offsets["scratch"],
                scratch_step=step,
                counter=counter + WORD_BYTES,
                adds=part.problem.residual,
                x=part.x,
                out=part.out,
                residual=part.residual,
            )
        )
        counter += _COUNTERS * WORD_BYTES
        stored += nbytes
    return Job(
        layout=layout,
        packing=rows(len(packing), *packing),
        convolving=rows(len(calls), *calls),
        turned=False,
        calls=tuple(calls),
        packers=packers(every, device),
        workers=workers,
        blocking=every[0].address,
        kept=(slope, *(found.array for found in every)),
    )


def packers(every: list[PlacedPart], device: CpuDevice) -> int:
    """Return how many threads are worth packing weights."""
    nbytes = sum(weights_bytes(found.blocking) for found in every)
    tasks = max(-(-found.blocking.groups * found.blocking.vectors // TASK_VECTORS) for found in every)
    return min(device.threads, tasks) if nbytes >= _SMALL_BYTES else 1


_SMALL_BYTES = 128 * 1024
"""Below this a second thread costs more than it saves: some 20 microseconds of packing."""


def packing_of(found: PlacedPart, weight: Weight, packed: int, unbounded: int, counter: int) -> Packing:
    """Return the job of packing one problem's weights, given the addresses."""
    b = found.blocking
    return Packing(
        blocking=found.address,
        packed=packed,
        unbounded=unbounded,
        counter=counter,
        flat=weight.end_to_end((b.channels, b.d.kernel, b.h.kernel, b.w.kernel), b.itemsize),
        weight=weight,
    )


def _in_place(b: Blocking, x: Strided) -> bool:
    """Say whether a block that touches no padding may be read where it lies."""
    # Where a pixel is a single channel, nobody asks how far the next one lies; a pair of groups reads two.
    one_channel = b.pixel_channels == 1 and not b.lanewise
    return b.copies and b.multiplier == 1 and (x.c == b.itemsize or one_channel)


def activation_of(problem: ConvProblem) -> tuple[int, np.ndarray]:
    """Return an activation's number in `epilogue`, and its parameter in the type of the sums."""
    number, slope = -1, 0.0
    if problem.activation is not None:
        number, slope = FUSED.index(problem.activation.name), problem.activation.slope
    return number, np.array(slope, DTYPES[problem.dtype].accumulator.numpy)


def execute(
    job: Job,
    dtype: str,
    workspace: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    packed: np.ndarray | None,
    bias: np.ndarray | None,
    out: np.ndarray,
    residual: np.ndarray | None = None,
) -> None:
    """Run a job: pack the weights, unless they come packed, then convolve."""
    from stridekit.backends.cpu.forward.loop_nest import convolve
    from stridekit.backends.cpu.forward.pack_weights import pack_bias, pack_weights
    from stridekit.backends.cpu.input_gradient.pack_weights import turn_weights
    from stridekit.backends.cpu.runtime.thread_pool import run

    first, nbytes = job.layout.offsets["counters"], job.layout.regions[0][1]
    workspace[first : first + nbytes] = 0
    arrays = workspace, x, weight, packed, bias, out, residual, job
    read = weight if packed is None else packed
    begin = bases(workspace, x, out, read, bias, residual)
    given = (0, 0) if bias is None else (bias.ctypes.data, bias.strides[0])
    pack_bias(dtype)(job.blocking, *given, int(begin[WORKSPACE.base]) + job.layout.offsets["bias"])
    if packed is None:
        pack = turn_weights if job.turned else pack_weights
        run(pack(dtype), job.packing.at(begin), job.packers, *arrays)
    run(convolve(dtype), job.convolving.at(begin), job.workers, *arrays)
