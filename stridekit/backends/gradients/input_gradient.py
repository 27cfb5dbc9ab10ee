"""Gradients out of forward algorithms: each is a few dense forward problems on views; no backend needs a second tile.

The input's gradient is one forward problem for each phase of the stride (`stridekit.problems.phases`), written to every
stride-th pixel of the result. The weight's gradient is one forward problem for each group, in which the output's
gradient is the kernel, its pixels are the taps, stride and dilation change places, and the samples are the channels
that are summed. Only what is not a correlation is asked of the backend: `Moves`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from stridekit.backends import Algorithm, Operands
from stridekit.memory.arrays import Array, numpy_dtype, over_pixels
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import AxisGeometry, ConvGeometry
from stridekit.problems.phases import MOST_CLASSES, AxisPhase, count_classes, covered, phase_classes, phases, read_taps


class Moves(Protocol):
    """What a backend does for gradients beside correlating: nothing here multiplies."""

    def fill(self, problem: ConvProblem, device: Any, bias: Array, target: Array) -> None:
        """Write ``activation(bias)``, or zeros, to pixels ``(N, C, *spatial)``."""

    def convert(self, device: Any, source: Array, target: Array) -> None:
        """Copy an array ``(A, B, *spatial)`` of any strides to another of the same or a wider type."""

    def fold(self, problem: ConvProblem, device: Any, padded: Array, target: Array) -> None:
        """Add the gradient of a padded input up into that of the input: the adjoint of padding.

        `padded` has the shape and type of `padded_problem`'s result, `target` the shape and type of `problem`'s.
        """


@dataclass(frozen=True)
class PhasePart:
    """One phase of an input gradient, as it runs.

    Attributes
    ----------
    problem : ConvProblem
        From the output's gradient to these pixels.
    axes : tuple of AxisPhase
        Which pixels, outputs and taps.
    """

    problem: ConvProblem
    axes: tuple[AxisPhase, ...]

    @property
    def pixels(self) -> tuple[slice, ...]:
        """Where the result lies, as slices of ``(N, C, *spatial)``."""
        return _slices(tuple(axis.pixels for axis in self.axes))

    @property
    def outputs(self) -> tuple[slice, ...]:
        """What is read of the output's gradient, as slices of ``(N, K, *spatial)``."""
        return _slices(tuple(axis.outputs for axis in self.axes))

    @property
    def taps(self) -> tuple[slice, ...]:
        """What is read of the weights, as slices of ``(C, K / groups, *kernel)``."""
        return _slices(tuple(axis.taps for axis in self.axes))


@lru_cache(maxsize=4096)
def padded_problem(problem: ConvProblem) -> ConvProblem:
    """Return the problem on its padded input, in the type of its sums: itself where the padding holds zeros."""
    if problem.padding_mode == "zeros":
        return problem
    axes = tuple(
        replace(axis, size=axis.padded_size, pad_before=0, pad_after=0) if axis.pad_before or axis.pad_after else axis
        for axis in problem.geometry.axes
    )
    return replace(problem, geometry=ConvGeometry(axes), padding_mode="zeros", dtype=DTYPES[problem.dtype].sums)


@lru_cache(maxsize=4096)
def dense_problems(problem: ConvProblem) -> tuple[tuple[ConvProblem, int], ...]:
    """Return the forward problems of an input gradient, each with the number of phases that it is the problem of."""
    dense = padded_problem(problem)
    found: dict[ConvProblem, int] = {}
    for classes in itertools.product(*map(phase_classes, dense.geometry.axes)):
        part = _of_phase(dense, tuple(each.axis for each in classes))
        found[part] = found.get(part, 0) + math.prod(each.count for each in classes)
    return tuple(found.items())


def phase_parts(problem: ConvProblem) -> Iterator[PhasePart]:
    """Yield the phases, one by one, of an input gradient whose padding holds zeros; for what runs, not what plans."""
    for axes in phases(problem.geometry.axes):
        yield PhasePart(_of_phase(problem, tuple(phase.axis for phase in axes)), axes)


@lru_cache(maxsize=4096)
def _of_phase(problem: ConvProblem, axes: tuple[AxisGeometry, ...]) -> ConvProblem:
    return replace(
        problem,
        direction="forward",
        in_channels=problem.out_channels,
        out_channels=problem.in_channels,
        geometry=ConvGeometry(axes),
    )


@lru_cache(maxsize=4096)
def every_pixel_read(problem: ConvProblem) -> bool:
    """Say whether the phases of an input gradient whose padding holds zeros cover all pixels."""
    return all(map(covered, problem.geometry.axes))


class InputGradient:
    """The input's gradient, phase by phase, by one forward algorithm."""

    def __init__(self, forward: Algorithm, moves: Moves) -> None:
        self.name = forward.name
        self._forward, self._moves = forward, moves

    def supports(self, problem: ConvProblem, device: Any) -> str:
        """Return ``""``, or why the forward algorithm cannot compute one of the phases."""
        classes = count_classes(padded_problem(problem).geometry.axes)
        if classes > MOST_CLASSES:
            return f"stride and dilation make {classes} different dense problems of the phases; at most {MOST_CLASSES}"
        reasons = (self._forward.supports(part, device) for part, _ in dense_problems(problem))
        return next((reason for reason in reasons if reason), "")

    def cost(self, problem: ConvProblem, device: Any) -> float:
        """Return the modelled seconds of all phases."""
        return sum(self._forward.cost(part, device) * count for part, count in dense_problems(problem))

    def detail(self, problem: ConvProblem, device: Any) -> str:
        """Say how many phases there are, and what the forward algorithm decided for the first."""
        dense = dense_problems(problem)
        first = self._forward.detail(dense[0][0], device) if dense else ""
        number = sum(count for _, count in dense)
        return f"{number} dense problems, one for each phase of the stride" + (f"; {first}" if first else "")

    def packing(self, problem: ConvProblem, device: Any) -> tuple[object, ...]:
        """Return the packing of every phase; kernels of other strides or padding have other phases."""
        if _staged(problem):
            return ("as given", problem.weight_shape, problem.dtype)
        axes = problem.geometry.axes
        return (
            *((axis.stride, axis.dilation, axis.pad_before % axis.stride, read_taps(axis)) for axis in axes),
            frozenset(self._forward.packing(part, device) for part, _ in dense_problems(problem)),
        )

    def packed_bytes(self, problem: ConvProblem, device: Any) -> int:
        """Return the bytes of every phase's weights in the forward algorithm's order."""
        if _staged(problem):
            return problem.weight_bytes
        return sum(align(self._forward.packed_bytes(part, device)) * count for part, count in dense_problems(problem))

    def pack(self, problem: ConvProblem, device: Any, weight: Array, packed: Array) -> None:
        """Write the weights of every phase in the forward algorithm's order."""
        if _staged(problem):
            stored = packed.view(weight.dtype).reshape(weight.shape)
            self._moves.convert(device, weight, stored)
            return
        turned, first = _turned(problem, weight), 0
        for part in phase_parts(problem):
            nbytes = self._forward.packed_bytes(part.problem, device)
            self._forward.pack(part.problem, device, turned[part.taps], packed[first : first + nbytes])
            first += align(nbytes)

    def workspace(self, problem: ConvProblem, device: Any, *, packed: bool) -> int:
        """Return the bytes of workspace of the phases, and of what is staged beside it."""
        return self._layout(problem, device, packed).nbytes

    def run(self, problem: ConvProblem, device: Any, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`."""
        layout = self._layout(problem, device, operands.packed_weight is not None)
        parts = layout.cut(workspace)
        dense = padded_problem(problem)
        weight, packed, grad_output = operands.weight, operands.packed_weight, operands.grad_output
        target = out
        if _staged(problem):
            if packed is not None:
                weight, packed = packed.view(grad_output.dtype).reshape(problem.weight_shape), None
            target = over_pixels(parts["padded"].view(numpy_dtype(dense.dtype)), dense.input_shape, dense.memory_order)
        if "wide_weight" in parts:
            wide = numpy_dtype(dense.dtype)
            weight = self._converted(device, weight, parts["wide_weight"].view(wide).reshape(weight.shape))
            room = over_pixels(parts["wide_grad_output"].view(wide), dense.output_shape, dense.memory_order)
            grad_output = self._converted(device, grad_output, room)
        read = Operands(weight=weight, packed_weight=packed, bias=operands.bias, grad_output=grad_output)
        self._correlate(dense, device, read, parts, target)
        if _staged(problem):
            self._moves.fold(problem, device, target, out)

    def _layout(self, problem: ConvProblem, device: Any, packed: bool) -> WorkspaceLayout:
        return _layout(self, problem, device, packed)

    def regions(self, dense: ConvProblem, device: Any, packed: bool) -> tuple[tuple[str, int], ...]:
        """Return the names and bytes of what the phases of a problem whose padding holds zeros need."""
        parts = dense_problems(dense)
        phase = max((self._forward.workspace(part, device, packed=packed) for part, _ in parts), default=0)
        if dense.groups > 1 and dense.group_in_channels > 1 and not packed:
            return (("phase", phase), ("turned", math.prod(dense.weight_shape) * dense.itemsize))
        return (("phase", phase),)

    def _correlate(
        self, dense: ConvProblem, device: Any, operands: Operands, regions: dict[str, Array], target: Array
    ) -> None:
        """Compute every phase of a problem whose padding holds zeros."""
        weight, packed = operands.weight, operands.packed_weight
        turned = None
        if "turned" in regions:
            turned = self._regrouped(dense, device, weight, regions["turned"].view(weight.dtype))
        elif packed is None:
            turned = _turned(dense, weight)
        self._fill_gaps(dense, device, operands.bias, target)
        for step in _steps(self._forward, dense, device, packed is not None):
            chosen = None if packed is None else packed[step.packed]
            part = None if turned is None else turned[step.taps]
            given = Operands(operands.grad_output[step.outputs], part, chosen, operands.bias)
            self._forward.run(step.problem, device, given, regions["phase"][: step.workspace], target[step.pixels])

    def _fill_gaps(self, dense: ConvProblem, device: Any, bias: Array, target: Array) -> None:
        """Fill all pixels in one go, to be written over, where there are some that no window reads."""
        if not every_pixel_read(dense):
            self._moves.fill(dense, device, bias, target)

    def _converted(self, device: Any, source: Array, target: Array) -> Array:
        self._moves.convert(device, source, target)
        return target

    def _regrouped(self, problem: ConvProblem, device: Any, weight: Array, room: Array) -> Array:
        """Copy the weights with filters and channels of each group exchanged, which no view can do."""
        channels, filters = problem.group_in_channels, problem.group_out_channels
        turned = room.reshape(problem.in_channels, filters, *problem.geometry.kernel_size)
        for group in range(problem.groups):
            block = weight[group * filters : (group + 1) * filters]
            self._moves.convert(device, block.swapaxes(0, 1), turned[group * channels : (group + 1) * channels])
        return turned


@lru_cache(maxsize=4096)
def _layout(gradient: InputGradient, problem: ConvProblem, device: Any, packed: bool) -> WorkspaceLayout:
    dense = padded_problem(problem)
    regions = [*gradient.regions(dense, device, packed and not _staged(problem))]
    if _staged(problem):
        regions.append(("padded", math.prod(dense.input_shape) * dense.itemsize))
    if dense.dtype != problem.dtype:
        regions.append(("wide_weight", math.prod(problem.weight_shape) * dense.itemsize))
        regions.append(("wide_grad_output", math.prod(problem.output_shape) * dense.itemsize))
    return WorkspaceLayout(tuple(regions))


class _Step(NamedTuple):
    """A phase as it runs: its problem, what it writes and reads, where its packed weights lie, bytes of workspace."""

    problem: ConvProblem
    pixels: tuple[slice, ...]
    outputs: tuple[slice, ...]
    taps: tuple[slice, ...]
    packed: slice
    workspace: int


@lru_cache(maxsize=1024)
def _steps(forward: Algorithm, dense: ConvProblem, device: Any, packed: bool) -> tuple[_Step, ...]:
    steps, first = [], 0
    for part in phase_parts(dense):
        stored = forward.packed_bytes(part.problem, device)
        workspace = forward.workspace(part.problem, device, packed=packed)
        place = slice(first, first + stored)
        steps.append(_Step(part.problem, part.pixels, part.outputs, part.taps, place, workspace))
        first += align(stored)
    return tuple(steps)


def _staged(problem: ConvProblem) -> bool:
    """Say whether the gradient of the padded input is computed first, to be folded."""
    return problem.padding_mode != "zeros"


def _slices(spatial: tuple[slice, ...]) -> tuple[slice, ...]:
    return (slice(None), slice(None), *spatial)


def _turned(problem: ConvProblem, weight: Array) -> Array:
    """Return the weights as ``(C, K / groups, *kernel)``: a view, but for groups of several channels."""
    channels, filters, kernel = problem.group_in_channels, problem.group_out_channels, problem.geometry.kernel_size
    if problem.groups == 1:
        return weight.swapaxes(0, 1)
    split = weight.reshape(problem.groups, filters, channels, *kernel).swapaxes(1, 2)
    return split[:, 0] if channels == 1 else split.reshape(problem.in_channels, filters, *kernel)
