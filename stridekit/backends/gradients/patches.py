"""The input's gradient where windows tile the input, kernel and stride being equal: one matrix product for all phases.

Every phase reads the same outputs through one tap of its own, so the taps can stand beside the channels as filters of
one 1x1 problem; what it gives is then moved to where the pixels lie. Where channels are few, as in the stem of a vision
transformer, the phases one by one would leave most lanes of a tile empty.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from stridekit.backends import Algorithm, Operands
from stridekit.backends.gradients.input_gradient import Moves
from stridekit.memory.arrays import Array, numpy_dtype, over_pixels
from stridekit.memory.workspace import WorkspaceLayout
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import ConvGeometry
from stridekit.problems.phases import phase_classes

_MOVING = 1.25
"""How much longer it takes because the result is moved once more, to order of magnitude."""


class PatchGradient:
    """The input's gradient of a convolution over patches, by one forward algorithm."""

    def __init__(self, forward: Algorithm, moves: Moves) -> None:
        self.name = f"{forward.name}_of_patches"
        self._forward, self._moves = forward, moves

    def supports(self, problem: ConvProblem, device: Any) -> str:
        """Return ``""`` for patches of zero padding and one group, else why not."""
        merged = merged_problem(problem)
        if merged is None:
            return "the windows do not tile the input in step, in one group"
        return self._forward.supports(merged, device)

    def cost(self, problem: ConvProblem, device: Any) -> float:
        """Return the modelled seconds of the one problem, and of moving its result."""
        return self._forward.cost(_merged(problem), device) * _MOVING

    def detail(self, problem: ConvProblem, device: Any) -> str:
        """Say what the forward algorithm decided."""
        detail = self._forward.detail(_merged(problem), device)
        return f"{problem.taps} phases as one" + (f"; {detail}" if detail else "")

    def packing(self, problem: ConvProblem, device: Any) -> tuple[object, ...]:
        """Return the packing of the one problem."""
        return self._forward.packing(_merged(problem), device)

    def packed_bytes(self, problem: ConvProblem, device: Any) -> int:
        """Return the bytes of its weights in the forward algorithm's order."""
        return self._forward.packed_bytes(_merged(problem), device)

    def pack(self, problem: ConvProblem, device: Any, weight: Array, packed: Array) -> None:
        """Write the taps and channels as filters in the forward algorithm's order."""
        self._forward.pack(_merged(problem), device, _as_filters(weight), packed)

    def workspace(self, problem: ConvProblem, device: Any, *, packed: bool) -> int:
        """Return the bytes of the problem's own workspace, of its result, and of weights and bias in its order."""
        return self._layout(problem, device, packed).nbytes

    def run(self, problem: ConvProblem, device: Any, operands: Operands, workspace: Array, out: Array) -> None:
        """Compute `problem` into `out`."""
        merged, packed = _merged(problem), operands.packed_weight
        layout = self._layout(problem, device, packed is not None)
        parts = layout.cut(workspace)
        weight = None
        if packed is None:
            weight = parts["weight"].view(operands.weight.dtype).reshape(problem.weight_shape)
            self._moves.convert(device, operands.weight, weight)
            weight = _as_filters(weight)
        bias = None
        if operands.bias is not None:
            bias = parts["bias"].view(operands.bias.dtype)
            of_taps = bias.reshape(1, problem.in_channels, problem.taps)
            self._moves.convert(device, np.broadcast_to(operands.bias[None, :, None], of_taps.shape), of_taps)
        staged = over_pixels(parts["staged"].view(numpy_dtype(merged.dtype)), merged.output_shape, merged.memory_order)
        reads = (slice(None), slice(None), *(phase_classes(axis)[0].first.outputs for axis in problem.geometry.axes))
        grad_output = operands.grad_output[reads]
        self._forward.run(merged, device, Operands(grad_output, weight, packed, bias), parts["merged"], staged)
        self._spread(problem, device, staged, out)

    def _spread(self, problem: ConvProblem, device: Any, staged: Array, out: Array) -> None:
        """Move a result ``(N, C * taps, *tiles)`` to the pixels of the tiles."""
        kernel, tiles = problem.geometry.kernel_size, staged.shape[2:]
        split = staged.reshape(*out.shape[:2], *kernel, *tiles)
        # Five axes can be moved at once: those of up to two spatial ones with the last one's taps beside them.
        together = problem.rank < 3
        for place in itertools.product(*map(range, kernel[:-1] if together else kernel)):
            pixels = out[(slice(None), slice(None), *map(slice, place, itertools.repeat(None), kernel))]
            if together:
                pixels = pixels.reshape(*pixels.shape[:-1], tiles[-1], kernel[-1])
                pixels = pixels.transpose(0, 1, pixels.ndim - 1, *range(2, pixels.ndim - 1))
            self._moves.convert(device, split[(slice(None), slice(None), *place)], pixels)

    def _layout(self, problem: ConvProblem, device: Any, packed: bool) -> WorkspaceLayout:
        merged = _merged(problem)
        regions = [
            ("merged", self._forward.workspace(merged, device, packed=packed)),
            ("staged", merged.result_bytes),
            ("bias", merged.bias_bytes),
        ]
        if not packed:
            regions.append(("weight", problem.weight_bytes))
        return WorkspaceLayout(tuple(regions))


@lru_cache(maxsize=4096)
def merged_problem(problem: ConvProblem) -> ConvProblem | None:
    """Return the 1x1 problem whose filters are channels and taps, or None where the phases differ."""
    if problem.groups != 1 or problem.padding_mode != "zeros":
        return None
    axes = []
    for axis in problem.geometry.axes:
        tiled = axis.kernel == axis.stride <= axis.size and 1 in (axis.kernel, axis.dilation)
        classes = phase_classes(axis) if tiled else ()
        # The tap of each phase is its own number, so that taps in order are pixels in order.
        if len(classes) != 1 or classes[0].count != axis.stride or axis.pad_before % axis.stride:
            return None
        axes.append(classes[0].axis)
    return replace(
        problem,
        direction="forward",
        in_channels=problem.out_channels,
        out_channels=problem.in_channels * problem.taps,
        geometry=ConvGeometry(tuple(axes)),
    )


def _merged(problem: ConvProblem) -> ConvProblem:
    merged = merged_problem(problem)
    if merged is None:
        raise ValueError(f"no patches: {problem}")
    return merged


def _as_filters(weight: Array) -> Array:
    """Return weights ``(K, C, *kernel)`` as ``(C * taps, K, 1, ...)``: a view where they lie end to end."""
    filters, channels, *kernel = weight.shape
    turned = weight.reshape(filters, channels * math.prod(kernel)).swapaxes(0, 1)
    return turned.reshape(*turned.shape, *(1,) * len(kernel))
