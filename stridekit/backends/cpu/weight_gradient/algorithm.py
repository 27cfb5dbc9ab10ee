"""The weight's gradient by a tile of its own: lanes are filters, and output pixels are summed chain by chain."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stridekit.backends import NothingToPack, Operands
from stridekit.backends.cpu.forward.algorithm import VECTORS_PER_SECOND, no_half, turned_elements
from stridekit.backends.cpu.forward.launch import strides_of
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.weight_gradient.blocking import Reduction, reduction
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.conv_problem import ConvProblem

_WORD_BYTES = 8
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
        return _prepare(problem, device).layout.nbytes

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        from stridekit.backends.cpu.runtime.thread_pool import run
        from stridekit.backends.cpu.weight_gradient.loop_nest import Accumulation, accumulate, add_chains

        job = _prepare(problem, device)
        r, offsets, base = job.reduction, job.layout.offsets, workspace.ctypes.data
        x, grad_output = operands.x, operands.grad_output
        counters = base + offsets["counters"]
        workspace[offsets["counters"] :][: 2 * _WORD_BYTES] = 0
        call = Accumulation(
            job.address,
            base + offsets["scratch"],
            align(r.scratch),
            base + offsets["partials"],
            counters,
            x.ctypes.data,
            *strides_of(x),
            grad_output.ctypes.data,
            *strides_of(grad_output),
            out.ctypes.data,
            *strides_of(out),
        )
        arrays = workspace, operands, out, job
        run(accumulate(problem.dtype), np.array(call, np.int64), r.workers, *arrays)
        if r.chains > 1:
            ending = np.array(call._replace(counter=counters + _WORD_BYTES), np.int64)
            run(add_chains(problem.dtype), ending, min(r.workers, r.finish_tasks), *arrays)


class _Job(NamedTuple):
    """All of a problem that does not change from call to call; `words` lie at `address`."""

    reduction: Reduction
    layout: WorkspaceLayout
    words: np.ndarray
    address: int


@lru_cache(maxsize=4096)
def _prepare(problem: ConvProblem, device: CpuDevice) -> _Job:
    r = reduction(problem, device)
    layout = WorkspaceLayout(
        (
            ("counters", 2 * _WORD_BYTES),
            ("scratch", r.workers * align(r.scratch)),
            ("partials", r.partial_bytes),
        )
    )
    words = np.array(r.words if max(r.words) < 2**63 else (), np.int64)
    return _Job(r, layout, words, int(words.ctypes.data))
