"""The weights' gradient out of forward algorithms: one dense problem on views for each group."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from stridekit.backends import Algorithm, NothingToPack, Operands
from stridekit.memory.arrays import Array
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import AxisGeometry, ConvGeometry

_UNIT = AxisGeometry(size=1, kernel=1, stride=1, dilation=1, pad_before=0, pad_after=0)


@lru_cache(maxsize=4096)
def group_problem(problem: ConvProblem) -> ConvProblem:
    """Return the forward problem of one group of a weight gradient, or that of all groups of a depthwise one.

    It goes from the input to the weights' gradient, with the output's gradient as the kernel.
    """
    axes = tuple(_exchanged(axis) for axis in problem.geometry.axes)
    channels, filters = problem.group_in_channels, problem.group_out_channels
    # A sum over no samples is planned as if over one; there is nothing to run.
    batch = max(problem.batch, 1)
    common = replace(problem, direction="forward", groups=1, in_channels=batch, out_channels=filters)
    if problem.rank == 3:
        # No axis is left over: the channels are the samples.
        return replace(common, batch=channels, geometry=ConvGeometry(axes), memory_order="channels_first")
    if problem.groups > 1 and channels == 1:
        samples = replace(_UNIT, size=batch, kernel=batch)
        return replace(problem, direction="forward", batch=1, geometry=ConvGeometry((samples, *axes)))
    # Channels as the outermost axis of pixels: a tile then takes pixels of several, however small the kernel.
    outer = replace(_UNIT, size=channels)
    return replace(common, batch=1, geometry=ConvGeometry((outer, *axes)), memory_order="channels_first")


def _group_views(part: ConvProblem, x: Array, grad_output: Array, result: Array) -> tuple[Array, Array, Array]:
    """View input ``(N, C, *spatial)``, output's gradient and weights' gradient of a group as its problem wants them."""
    if part.groups > 1:
        return x.swapaxes(0, 1)[None], grad_output.swapaxes(0, 1)[:, None], result[None]
    if part.rank == x.ndim - 1:
        return x[None], grad_output.swapaxes(0, 1)[:, :, None], result[None]
    return x.swapaxes(0, 1), grad_output.swapaxes(0, 1), result.swapaxes(0, 1)


class WeightGradient(NothingToPack):
    """The weight's gradient, group by group, by one forward algorithm; samples are summed in a fixed order."""

    def __init__(self, forward: Algorithm) -> None:
        self.name = forward.name
        self._forward = forward

    def supports(self, problem: ConvProblem, device: Any) -> str:
        """Return ``""``, or why the forward algorithm cannot compute it."""
        return self._forward.supports(group_problem(problem), device)

    def cost(self, problem: ConvProblem, device: Any) -> float:
        """Return the modelled seconds of all groups."""
        return _problems(problem) * self._forward.cost(group_problem(problem), device)

    def detail(self, problem: ConvProblem, device: Any) -> str:
        """Say how many problems there are, and what the forward algorithm decided."""
        detail, problems = self._forward.detail(group_problem(problem), device), _problems(problem)
        return (f"{problems} problems, one for each group; " if problems > 1 else "") + detail

    def workspace(self, problem: ConvProblem, device: Any, *, packed: bool) -> int:
        """Return the bytes of one group's workspace."""
        return self._forward.workspace(group_problem(problem), device, packed=False)

    def run(self, problem: ConvProblem, device: Any, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`."""
        part, problems = group_problem(problem), _problems(problem)
        channels, filters = problem.in_channels // problems, problem.out_channels // problems
        for group in range(problems):
            reads, writes = (slice(group * each, (group + 1) * each) for each in (channels, filters))
            x, grad_output, result = operands.x[:, reads], operands.grad_output[:, writes], out[writes]
            x, grad_output, result = _group_views(part, x, grad_output, result)
            self._forward.run(part, device, Operands(x=x, weight=grad_output), workspace, result)


def _problems(problem: ConvProblem) -> int:
    """Return how many problems of the kind of `group_problem` a weight gradient is."""
    return problem.groups // group_problem(problem).groups


def _exchanged(axis: AxisGeometry) -> AxisGeometry:
    """Return the axis on which the outputs are the taps; what no window reached is left out behind the padding."""
    reached = axis.stride * (axis.output_size - 1) + axis.kernel_extent
    return AxisGeometry(
        size=axis.size,
        kernel=axis.output_size,
        stride=axis.dilation,
        dilation=axis.stride,
        pad_before=axis.pad_before,
        pad_after=reached - axis.size - axis.pad_before,
    )
