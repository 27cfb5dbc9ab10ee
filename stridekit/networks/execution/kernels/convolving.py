"""Layers with weights, on the engine: each is a plan forward, and two more for the gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array, channels_first_view
from stridekit.networks.execution.kernels.base import FLOAT64, Backward, Forward, LayerKernel, carve, carved_bytes
from stridekit.networks.operations import BlurPool, Conv, ConvTranspose, Linear, Shape
from stridekit.ops.blur_pool import binomial_weight
from stridekit.planning.dispatch import choose_plan
from stridekit.planning.plan import Plan
from stridekit.problems.conv_problem import ConvProblem, conv_problem, transposed_problem
from stridekit.problems.geometry import ConvGeometry


class Weighted(LayerKernel):
    """What convolutions of all kinds share: plans, and the bias' gradient."""

    saves_inputs: ClassVar[bool] = True

    @cached_property
    def problem(self) -> ConvProblem:
        """What the output is of."""
        raise NotImplementedError

    def gradient(self, direction: str) -> ConvProblem:
        """State the gradient of the input or of the weight."""
        return replace(self.problem, bias=False, direction=direction)

    @cached_property
    def plan(self) -> Plan:
        """How the output is computed."""
        return self._plan(self.problem)

    @cached_property
    def input_plan(self) -> Plan:
        """How the input's gradient is computed."""
        return self._plan(self.gradient("input_grad"))

    @cached_property
    def weight_plan(self) -> Plan:
        """How the weight's gradient is computed."""
        return self._plan(self.gradient("weight_grad"))

    @property
    def forward_workspace(self) -> int:
        return self.plan.workspace_bytes()

    @property
    def backward_workspace(self) -> int:
        """The largest of both plans', and of the sums for the bias."""
        needed = [self.weight_plan.workspace_bytes()]
        if self.wanted[0]:
            needed.append(self.input_plan.workspace_bytes())
        if self.operation.bias:
            needed.append(carved_bytes(((self.channels,), FLOAT64)) + self.sums_bytes)
        return max(needed)

    def forward(self, pass_: Forward) -> None:
        bias = pass_.parameters["bias"] if self.operation.bias else None
        self.convolve(pass_.inputs[0], pass_.parameters["weight"], bias, pass_.output, pass_.workspace)

    def convolve(self, x: Array, weight: Array, bias: Array | None, out: Array, workspace: Array) -> None:
        self.plan.execute(_first(x), weight, bias, out=_first(out), workspace=workspace)

    def backward(self, pass_: Backward) -> None:
        """Compute the gradients of weight, bias and input."""
        x, weight, gradient = pass_.inputs[0], pass_.parameters["weight"], pass_.grad_output
        if "weight" in pass_.grad_parameters:
            self.weight_gradient(x, gradient, pass_.grad_parameters["weight"], pass_.workspace)
        if "bias" in pass_.grad_parameters:
            total, rest = carve(pass_.workspace, ((self.channels,), FLOAT64))
            total[...] = 0
            for (rows,) in self.blocks(rest, 0, gradient):
                self.add_sums(rows, total, rest)
            pass_.grad_parameters["bias"][...] = total
        if pass_.grad_inputs[0] is not None:
            self.input_gradient(weight, gradient, pass_.grad_inputs[0], pass_.workspace)

    def weight_gradient(self, x: Array, gradient: Array, out: Array, workspace: Array) -> None:
        """Run the plan for the weight."""
        self.weight_plan.execute(_first(x), _first(gradient), out=out, workspace=workspace)

    def input_gradient(self, weight: Array, gradient: Array, out: Array, workspace: Array) -> None:
        """Run the plan for the input."""
        self.input_plan.execute(weight, _first(gradient), out=_first(out), workspace=workspace)

    def _plan(self, problem: ConvProblem) -> Plan:
        context = self.context
        return choose_plan(problem, None, context.backend, "as the network", context.device)


class ConvKernel(Weighted):
    """A convolution."""

    runs = (Conv,)

    @cached_property
    def problem(self) -> ConvProblem:
        operation = self.operation
        return conv_problem(
            self.inputs[0],
            self.resolved.parameters["weight"],
            dtype=self.context.dtype,
            memory_order="channels_last",
            stride=operation.stride,
            padding=operation.padding,
            dilation=operation.dilation,
            groups=operation.groups,
            padding_mode=operation.padding_mode,
            bias=operation.bias,
        )


class LinearKernel(Weighted):
    """A matrix product: a convolution of one tap over one pixel, so that no sum follows the number of samples."""

    runs = (Linear,)

    @cached_property
    def problem(self) -> ConvProblem:
        return conv_problem(
            (*self.inputs[0], 1),
            (self.channels, self.inputs[0][1], 1),
            dtype=self.context.dtype,
            memory_order="channels_last",
            bias=self.operation.bias,
        )

    def convolve(self, x: Array, weight: Array, bias: Array | None, out: Array, workspace: Array) -> None:
        self.plan.execute(x[..., None], weight[..., None], bias, out=out[..., None], workspace=workspace)

    def weight_gradient(self, x: Array, gradient: Array, out: Array, workspace: Array) -> None:
        """Run the plan for the weight."""
        self.weight_plan.execute(x[..., None], gradient[..., None], out=out[..., None], workspace=workspace)

    def input_gradient(self, weight: Array, gradient: Array, out: Array, workspace: Array) -> None:
        """Run the plan for the input."""
        self.input_plan.execute(weight[..., None], gradient[..., None], out=out[..., None], workspace=workspace)


class ConvTransposeKernel(Weighted):
    """A transposed convolution: the input's gradient of a convolution, whose own gradients are that convolution's."""

    runs = (ConvTranspose,)

    @cached_property
    def problem(self) -> ConvProblem:
        """The input's gradient of a convolution."""
        operation = self.operation
        return transposed_problem(
            self.inputs[0],
            self.resolved.parameters["weight"],
            self.resolved.spread,
            dtype=self.context.dtype,
            memory_order="channels_last",
            groups=operation.groups,
            bias=operation.bias,
        )

    def gradient(self, direction: str) -> ConvProblem:
        """State it: the gradient of an input's gradient is the convolution.

        Pixels that `output_padding` adds may lie beyond all windows: to the gradients they give nothing.
        """
        axes = tuple(
            replace(axis, size=size, pad_after=axis.padded_size - axis.pad_before - size)
            for axis, size in zip(self.resolved.spread.axes, self._reached, strict=True)
        )
        direction = "forward" if direction == "input_grad" else "weight_grad"
        return replace(self.problem, bias=False, direction=direction, geometry=ConvGeometry(axes))

    @property
    def _reached(self) -> tuple[int, ...]:
        """Pixels of the output, along each axis, that some window reaches."""
        return tuple(max(1, axis.size + min(axis.pad_after, 0)) for axis in self.resolved.spread.axes)

    def _read(self, gradient: Array) -> Array:
        """View what of the output's gradient the windows reach."""
        return _first(gradient)[(..., *(slice(size) for size in self._reached))]

    def convolve(self, x: Array, weight: Array, bias: Array | None, out: Array, workspace: Array) -> None:
        self.plan.execute(weight, _first(x), bias, out=_first(out), workspace=workspace)

    def weight_gradient(self, x: Array, gradient: Array, out: Array, workspace: Array) -> None:
        """Run the plan for the weight: the output's gradient is what the convolution reads."""
        self.weight_plan.execute(self._read(gradient), _first(x), out=out, workspace=workspace)

    def input_gradient(self, weight: Array, gradient: Array, out: Array, workspace: Array) -> None:
        self.input_plan.execute(self._read(gradient), weight, out=_first(out), workspace=workspace)


class BlurPoolKernel(Weighted):
    """A blur-pooling: a depthwise convolution whose weights are fixed, and lie in the workspace."""

    runs = (BlurPool,)
    saves_inputs: ClassVar[bool] = False

    @cached_property
    def problem(self) -> ConvProblem:
        geometry = self.resolved.geometry
        return conv_problem(
            self.inputs[0],
            self._weight_shape,
            dtype=self.context.dtype,
            memory_order="channels_last",
            stride=geometry.stride,
            padding=geometry.padding,
            groups=self.channels,
            padding_mode=self.operation.padding_mode,
        )

    @property
    def _weight_shape(self) -> Shape:
        return (self.channels, 1, *((self.operation.filter_size,) * (len(self.output) - 2)))

    @property
    def _region(self) -> tuple[Shape, np.dtype[Any]]:
        return self._weight_shape, self.context.element

    @property
    def forward_workspace(self) -> int:
        """The plan's and the weights'."""
        return carved_bytes(self._region) + self.plan.workspace_bytes()

    @property
    def backward_workspace(self) -> int:
        """The plan's and the weights'."""
        return carved_bytes(self._region) + self.input_plan.workspace_bytes()

    def forward(self, pass_: Forward) -> None:
        weight, rest = self._weight(pass_.workspace)
        self.convolve(pass_.inputs[0], weight, None, pass_.output, rest)

    def backward(self, pass_: Backward) -> None:
        """Spread the gradient by the blur."""
        if pass_.grad_inputs[0] is not None:
            weight, rest = self._weight(pass_.workspace)
            self.input_gradient(weight, pass_.grad_output, pass_.grad_inputs[0], rest)

    def _weight(self, workspace: Array) -> tuple[Array, ...]:
        weight, rest = carve(workspace, self._region)
        weight[...] = self.xp.asarray(binomial_weight(self.operation.filter_size, len(self.output) - 2))
        return weight, rest


def _first(array: Array) -> Array:
    return channels_first_view(array, True)
