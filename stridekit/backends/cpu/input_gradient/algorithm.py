"""The input's gradient with all phases of the stride as one set of tasks, begun by one call."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from stridekit.backends import Operands
from stridekit.backends.cpu.forward.algorithm import TileAlgorithm
from stridekit.backends.cpu.forward.blocking import Blocking, accumulator_itemsize
from stridekit.backends.cpu.forward.jobs import Weight
from stridekit.backends.cpu.forward.launch import Job, Part, execute
from stridekit.backends.cpu.input_gradient.cost_model import phases_seconds
from stridekit.backends.cpu.input_gradient.jobs import TurnedTap, Turning
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import OUT, WEIGHT, WORKSPACE, Rows, Strided, X, rows, strides_of
from stridekit.backends.gradients.input_gradient import (
    InputGradient,
    Moves,
    PhasePart,
    dense_problems,
    padded_problem,
    phase_parts,
)
from stridekit.memory.workspace import align
from stridekit.problems.conv_problem import ConvProblem


class JointInputGradient(InputGradient):
    """The input's gradient by one tile; weights are read where they lie, with filters and channels exchanged."""

    def __init__(self, forward: TileAlgorithm, moves: Moves) -> None:
        super().__init__(forward, moves)
        self._tile = forward

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled seconds of all phases, and of what each of them takes beside its products."""
        return phases_seconds(self._tile, padded_problem(problem), device)

    def regions(self, dense: ConvProblem, device: Any, packed: bool) -> tuple[tuple[str, int], ...]:
        """Return the name and bytes of what the phases need together."""
        return (("phases", self._tile.workspace_together(dense_problems(dense), device, packed=packed)),)

    def _correlate(
        self, dense: ConvProblem, device: Any, operands: Operands, regions: dict[str, Any], target: Any
    ) -> None:
        weight, packed, grad_output = operands.weight, operands.packed_weight, operands.grad_output
        strides = None if packed is not None else weight.strides
        job = _joint(self._tile, dense, device, strides_of(grad_output), strides, strides_of(target))
        self._fill_gaps(dense, device, operands.bias, target)
        if job is not None:
            execute(job, dense.dtype, regions["phases"], grad_output, weight, packed, operands.bias, target)


@lru_cache(maxsize=1024)
def _joint(
    tile: TileAlgorithm,
    dense: ConvProblem,
    device: CpuDevice,
    x: tuple[int, ...],
    weight: tuple[int, ...] | None,
    out: tuple[int, ...],
) -> Job | None:
    """Prepare all phases, given the strides of their arrays, None for packed weights; None where there is no phase."""
    parts: list[Part] = []
    numbers: list[list[int]] = []
    packed, unused = 0, (0,) * (3 - dense.rank)
    for phase in phase_parts(dense):
        if weight is None:
            taps = Weight(WEIGHT + packed)
            packed += align(tile.packed_bytes(phase.problem, device))
        else:
            # What are filters here are the channels of the weights as given, and the other way round.
            k, c, *kernel = weight
            sizes = dense.geometry.kernel_size
            place, steps = _sliced(phase.taps[2:], tuple(kernel), sizes)
            group = dense.group_out_channels * k
            # A group's only filter is at any distance from the next: at that of the groups, all filters are.
            lanes = group if dense.group_in_channels == 1 else c
            taps = Weight(WEIGHT + place, group, lanes, k, *unused, *steps)
        axes = dense.geometry
        read, x_steps = _sliced(phase.outputs[2:], x[5 - dense.rank :], axes.output_size)
        written, out_steps = _sliced(phase.pixels[2:], out[5 - dense.rank :], axes.input_size)
        source, target = (
            Strided(X + read, *x[:2], *unused, *x_steps),
            Strided(OUT + written, *out[:2], *unused, *out_steps),
        )
        parts.append(Part(phase.problem, source, target, taps))
        numbers.append(_taps(phase, dense.geometry.kernel_size))
    if not parts:
        return None
    # The longest first, so that threads end together.
    order = sorted(range(len(parts)), key=lambda number: -parts[number].problem.flops)
    parts, numbers = [parts[number] for number in order], [numbers[number] for number in order]
    job = tile.job(tuple(parts), device, weight is None)
    blockings = [tile.blocking(part.problem, device) for part in parts]
    if weight is not None and _end_to_end(dense, weight) and blockings[0].subgroups == 1:
        turning = _turning(dense, job, blockings, numbers, parts[0].weight, weight[0])
        job = replace(job, packing=turning, turned=True)
    return job


def _taps(phase: PhasePart, kernel: tuple[int, ...]) -> list[int]:
    """Return the number of each of a phase's taps among those of the kernel."""
    numbers = [0]
    for part, size in zip(phase.taps[2:], kernel, strict=True):
        numbers = [number * size + tap for number in numbers for tap in range(*part.indices(size))]
    return numbers


def _end_to_end(dense: ConvProblem, weight: tuple[int, ...]) -> bool:
    """Say whether the taps of all channels of a filter lie end to end, and may be read as vectors of sums."""
    itemsize = accumulator_itemsize(dense)
    expected = itemsize
    for size, stride in zip(reversed(dense.weight_shape[1:]), reversed(weight[1:]), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    # Further apart than this, groups would not be evenly spaced for a lanewise tile.
    apart = weight[0] == expected if dense.groups > 1 else weight[0] >= expected
    return dense.itemsize == itemsize and dense.taps > 1 and apart


def _turning(
    dense: ConvProblem,
    job: Job,
    blockings: list[Blocking],
    numbers: list[list[int]],
    weight: Weight,
    filter_stride: int,
) -> Rows:
    """Return the job of packing all phases at once."""
    b, itemsize = blockings[0], accumulator_itemsize(dense)
    end = (dense.out_channels - 1) * filter_stride + dense.group_in_channels * dense.taps * itemsize
    turning = Turning(
        groups=b.groups,
        filters=b.filters,
        channels=b.channels,
        taps=dense.taps,
        vectors=b.vectors,
        tile_vectors=b.tile_vectors,
        lanes=b.lanes,
        itemsize=itemsize,
        counter=WORKSPACE + job.layout.offsets["counters"],
        weight=WEIGHT,
        end=WEIGHT + end,
        g=weight.g,
        k=weight.k,
        c=weight.c,
    )
    taps = [TurnedTap(0, 0, 0, 0, 0)] * dense.taps
    for phase, blocking, call in zip(numbers, blockings, job.calls, strict=True):
        for number, tap in enumerate(phase):
            taps[tap] = TurnedTap(call.weights, call.unbounded, len(phase), number, blocking.channel_block)
    return rows(turning, *taps)


def _sliced(slices: tuple[slice, ...], strides: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the bytes to the first element of a slice of an array, and its strides."""
    ranges = [range(*part.indices(size)) for part, size in zip(slices, sizes, strict=True)]
    first = sum(numbers.start * stride for numbers, stride in zip(ranges, strides, strict=True))
    return first, tuple(numbers.step * stride for numbers, stride in zip(ranges, strides, strict=True))
