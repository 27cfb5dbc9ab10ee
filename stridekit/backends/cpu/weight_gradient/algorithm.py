"""The weight's gradient by a tile of its own: lanes are filters, and output pixels are summed chain by chain."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stridekit.backends import NothingToPack, Operands
from stridekit.backends.cpu.forward.algorithm import VECTORS_PER_SECOND, grouped_strides, no_half, turned_elements
from stridekit.backends.cpu.forward.jobs import Weight
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import (
    OUT,
    WEIGHT,
    WORD_BYTES,
    WORKSPACE,
    Rows,
    Strided,
    X,
    bases,
    row,
    rows,
    strides_of,
)
from stridekit.backends.cpu.weight_gradient.blocking import reduction
from stridekit.backends.cpu.weight_gradient.jobs import Accumulation
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.conv_problem import ConvProblem

_BLOCK, _STORING, _LAYING = 3, 30, 6
"""What it takes to read and write a vector of sums for each block, to store it, and to lay a vector of what is read,
in vectors of products."""


class RunTile(NothingToPack):
    """Filters are lanes, channels and taps are pixels, rows of output pixels are summed in runs: every problem."""

    name = "run_tile"

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""``, or why not."""
        return no_half(problem, device)

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled time: every multiply-add of every tile, spare lanes included, and what is stored."""
        r = reduction(problem, device)
        each = problem.output_pixels * r.batch + _BLOCK * r.summed + _STORING
        laid = _LAYING * r.batch * turned_elements(problem) / r.lanes
        units = r.groups * r.vectors * r.channels * problem.taps * each + laid
        return units / (VECTORS_PER_SECOND * device.threads)

    def detail(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Say how wide the tile is, and into how many sums the one over pixels is cut."""
        r = reduction(problem, device)
        return f"{r.tile_vectors} vectors of {r.lanes} filters, {r.chains} sums added up"

    def workspace(self, problem: ConvProblem, device: CpuDevice, *, packed: bool) -> int:
        """Return the bytes of the chains' sums, of task counters and of each thread's scratch."""
        return _layout(problem, device).nbytes

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        from stridekit.backends.cpu.runtime.thread_pool import run
        from stridekit.backends.cpu.weight_gradient.loop_nest import accumulate, add_chains

        x, grad_output = operands.x, operands.grad_output
        strides = strides_of(x), strides_of(grad_output), grouped_strides(problem, out.strides)
        job, r = _prepare(problem, device, *strides), reduction(problem, device)
        workspace[job.counters :][: 2 * WORD_BYTES] = 0
        begin, arrays = bases(workspace, x, out, grad_output), (workspace, operands, out, job)
        run(accumulate(problem.dtype), job.summing.at(begin), r.workers, *arrays)
        if r.chains > 1:
            run(add_chains(problem.dtype), job.adding.at(begin), min(r.workers, r.finish_tasks), *arrays)


class _Job(NamedTuple):
    """All of a call that does not change from one to the next: where the counters lie, and both kernels' jobs."""

    counters: int
    summing: Rows
    adding: Rows
    kept: np.ndarray


def _layout(problem: ConvProblem, device: CpuDevice) -> WorkspaceLayout:
    r = reduction(problem, device)
    scratch = r.workers * align(r.scratch)
    return WorkspaceLayout((("counters", 2 * WORD_BYTES), ("scratch", scratch), ("partials", r.partial_bytes)))


@lru_cache(maxsize=1024)
def _prepare(
    problem: ConvProblem, device: CpuDevice, x: tuple[int, ...], gradient: tuple[int, ...], out: tuple[int, ...]
) -> _Job:
    """Prepare a problem, given the strides of its arrays."""
    r, offsets = reduction(problem, device), _layout(problem, device).offsets
    kept = row(r)
    call = Accumulation(
        reduction=int(kept.ctypes.data),
        scratch=WORKSPACE + offsets["scratch"],
        scratch_step=align(r.scratch),
        partials=WORKSPACE + offsets["partials"],
        counter=WORKSPACE + offsets["counters"],
        x=Strided(X, *x),
        gradient=Strided(WEIGHT, *gradient),
        out=Weight(OUT, *out),
    )
    adding = call._replace(counter=call.counter + WORD_BYTES)
    return _Job(offsets["counters"], rows(call), rows(adding), kept)
