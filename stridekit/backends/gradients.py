"""Gradients out of forward algorithms: each is a few dense forward problems on views; no backend needs a second tile.

The input's gradient is one forward problem for each phase of the stride (`stridekit.phases`), written to every
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

from stridekit.arrays import Array, itemsize, layout_shape, numpy_dtype
from stridekit.backends import Algorithm, Operands
from stridekit.geometry import AxisGeometry, ConvGeometry
from stridekit.phases import MOST_CLASSES, AxisPhase, count_classes, covered, phase_classes, phases, read_taps
from stridekit.problem import ConvProblem
from stridekit.workspace import WorkspaceLayout, align

_UNIT = AxisGeometry(size=1, kernel=1, stride=1, dilation=1, pad_before=0, pad_after=0)


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
    wide = "float32" if itemsize(problem.dtype) < 4 else problem.dtype
    return replace(problem, geometry=ConvGeometry(axes), padding_mode="zeros", dtype=wide)


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
        parts = {name: workspace[layout.offsets[name] :][:nbytes] for name, nbytes in layout.regions}
        dense = padded_problem(problem)
        weight, packed, grad_output = operands.weight, operands.packed_weight, operands.grad_output
        target = out
        if _staged(problem):
            if packed is not None:
                weight, packed = packed.view(grad_output.dtype).reshape(problem.weight_shape), None
            target = over_pixels(parts["padded"], dense, dense.input_shape)
        if "wide_weight" in parts:
            wide = numpy_dtype(dense.dtype)
            weight = self._converted(device, weight, parts["wide_weight"].view(wide).reshape(weight.shape))
            room = over_pixels(parts["wide_grad_output"], dense, dense.output_shape)
            grad_output = self._converted(device, grad_output, room)
        self._correlate(dense, device, Operands(None, weight, packed, operands.bias, grad_output), parts, target)
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


class WeightGradient:
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

    def packing(self, problem: ConvProblem, device: Any) -> tuple[object, ...]:
        """Return what no packed weights have: there are none to pack."""
        return ("none",)

    def packed_bytes(self, problem: ConvProblem, device: Any) -> int:
        """Return 0."""
        return 0

    def pack(self, problem: ConvProblem, device: Any, weight: Array, packed: Array) -> None:
        """Do nothing."""

    def workspace(self, problem: ConvProblem, device: Any, *, packed: bool) -> int:
        """Return the bytes of one group's workspace."""
        return self._forward.workspace(group_problem(problem), device, packed=False)

    def run(self, problem: ConvProblem, device: Any, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`."""
        part, problems = group_problem(problem), _problems(problem)
        channels, filters = problem.in_channels // problems, problem.out_channels // problems
        for group in range(problems):
            reads, writes = (slice(group * each, (group + 1) * each) for each in (channels, filters))
            x, grad_output, result = operands.input[:, reads], operands.grad_output[:, writes], out[writes]
            x, grad_output, result = _group_views(part, x, grad_output, result)
            self._forward.run(part, device, Operands(x, grad_output, None, None), workspace, result)


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


def _staged(problem: ConvProblem) -> bool:
    """Say whether the gradient of the padded input is computed first, to be folded."""
    return problem.padding_mode != "zeros"


def _slices(spatial: tuple[slice, ...]) -> tuple[slice, ...]:
    return (slice(None), slice(None), *spatial)


def over_pixels(room: Array, problem: ConvProblem, shape: tuple[int, ...]) -> Array:
    """View flat bytes as ``(N, C, *spatial)`` in the problem's type and memory order."""
    last = problem.memory_order == "channels_last"
    stored = room.view(numpy_dtype(problem.dtype)).reshape(layout_shape(shape, last))
    return stored.transpose(0, stored.ndim - 1, *range(1, stored.ndim - 1)) if last else stored


def _turned(problem: ConvProblem, weight: Array) -> Array:
    """Return the weights as ``(C, K / groups, *kernel)``: a view, but for groups of several channels."""
    channels, filters, kernel = problem.group_in_channels, problem.group_out_channels, problem.geometry.kernel_size
    if problem.groups == 1:
        return weight.swapaxes(0, 1)
    split = weight.reshape(problem.groups, filters, channels, *kernel).swapaxes(1, 2)
    return split[:, 0] if channels == 1 else split.reshape(problem.in_channels, filters, *kernel)
