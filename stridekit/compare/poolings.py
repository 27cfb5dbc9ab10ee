"""The poolings that shrink a response by a stride: what they compute, and what they will take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from stridekit import vram
from stridekit.backends import Device
from stridekit.concurrency import cached_property
from stridekit.memory.arrays import Array
from stridekit.ops.blur_pool import blur_pool2d, blur_pool_grad
from stridekit.ops.pool import avg_pool2d, max_pool2d
from stridekit.ops.pool_gradients import avg_pool_grad, max_pool_grad
from stridekit.planning.dispatch import choose_plan, plan_conv
from stridekit.planning.plan import Plan
from stridekit.problems.pool_problem import pool_problem

Memory: TypeAlias = tuple[int, int]
"""Bytes that stay, and bytes more while it runs."""

_LARGEST_BLUR = 63


def blur_window(step: int) -> int:
    """Return the taps of the binomial that about halves what lies on the limit of a stride.

    F taps pass ``cos(pi * f) ** (F - 1)`` at frequency f. On the limit of stride 2, f = 1 / 4, that is a half for the 3
    taps of R. Zhang, "Making Convolutional Networks Shift-Invariant Again" (2019), and 0.5 to 0.6 for these at larger
    strides. Up to 63 taps, which is enough for stride 11.

    Examples
    --------
    >>> [blur_window(step) for step in (1, 2, 3, 4, 8, 10, 20)]
    [1, 3, 5, 9, 33, 51, 63]
    """
    return min(2 * (step * step // 4) + 1, _LARGEST_BLUR)


@dataclass(frozen=True)
class ResponsePooling:
    """One pooling of a layer's response, by one stride.

    Windows of a maximum or an average are as large as the stride and lie side by side, the last with what is left over.
    A blur has one number of taps for both axes, for the larger step and no more than its mirrored edge can fill.

    Attributes
    ----------
    name : {"max_pool", "avg_pool", "blur_pool"}
    stride : (rows, columns)
    input_shape : tuple of int
        ``(N, K, P, Q)`` of the response.
    dtype, backend, device : str, str, Device
        Of the layer.
    """

    name: str
    stride: tuple[int, ...]
    input_shape: tuple[int, ...]
    dtype: str
    backend: str
    device: Device

    @cached_property
    def window(self) -> tuple[int, ...]:
        """Pixels of a window."""
        if self.name != "blur_pool":
            return self.stride
        return (min(blur_window(max(self.stride)), 2 * min(self.input_shape[2:]) - 1),) * 2

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """``(N, K, P, Q)``: what lies on every stride-th position."""
        sizes = zip(self.input_shape[2:], self.stride, strict=True)
        return (*self.input_shape[:2], *(-(-size // step) for size, step in sizes))

    @property
    def flops(self) -> int:
        """Operations of either direction: 1 for each pixel of a window, 2 where it has a weight."""
        return (1 + (self.name == "blur_pool")) * math.prod(self.window) * math.prod(self.output_shape)

    def forward(self, response: Array, out: Array | None = None) -> Array:
        """Pool."""
        where: dict[str, Any] = {"backend": self.backend, "out": out}
        if self.name == "blur_pool":
            return blur_pool2d(response, stride=self.stride, filter_size=self.window[0], **where)
        if self.name == "max_pool":
            pooled: Array = max_pool2d(response, self.window, ceil_mode=True, **where)
            return pooled
        return avg_pool2d(response, self.window, ceil_mode=True, count_include_pad=False, **where)

    def densely(self, response: Array) -> Array:
        """Pool at stride 1; every stride-th value is one of `forward`."""
        if self.name == "blur_pool":
            return blur_pool2d(response, stride=1, filter_size=self.window[0], backend=self.backend)
        beyond = tuple((0, step - 1) for step in self.stride)
        options: dict[str, Any] = {"stride": 1, "padding": beyond, "backend": self.backend}
        if self.name == "max_pool":
            pooled: Array = max_pool2d(response, self.window, **options)
            return pooled
        return avg_pool2d(response, self.window, count_include_pad=False, **options)

    def gradient(self, response: Array, grad_output: Array, out: Array | None = None) -> Array:
        """Return the gradient of the response."""
        where: dict[str, Any] = {"backend": self.backend, "out": out}
        if self.name == "blur_pool":
            blur: dict[str, Any] = {"stride": self.stride, "filter_size": self.window[0]}
            return blur_pool_grad(self.input_shape, grad_output, **blur, **where)
        if self.name == "max_pool":
            return max_pool_grad(response, grad_output, self.window, ceil_mode=True, **where)
        exact: dict[str, Any] = {"ceil_mode": True, "count_include_pad": False}
        return avg_pool_grad(self.input_shape, grad_output, self.window, **exact, **where)

    @property
    def forward_memory(self) -> Memory:
        """What `forward` will allocate."""
        return memory_of(self._plan("forward"))

    @property
    def gradient_memory(self) -> Memory:
        """What `gradient` will allocate; that of a maximum finds it again, by indices of 8 bytes."""
        return memory_of(self._plan("input_grad"))

    def _plan(self, direction: str) -> Plan:
        if self.name == "blur_pool":
            return self._blur(direction)
        problem = pool_problem(
            self.name.removesuffix("_pool"),
            direction,
            self.input_shape,
            dtype=self.dtype,
            memory_order="channels_first",
            kernel_size=self.window,
            ceil_mode=True,
            count_include_pad=False,
        )
        return choose_plan(problem, None, self.backend, "as the layer", self.device)

    def _blur(self, direction: str) -> Plan:
        channels, half = self.input_shape[1], self.window[0] // 2
        return plan_conv(
            self.input_shape,
            (channels, 1, *self.window),
            dtype=self.dtype,
            stride=self.stride,
            padding=half,
            groups=channels,
            padding_mode="reflect",
            direction=direction,
            backend=self.backend,
            device=self.device,
        )


def memory_of(plan: Plan, *, packed: bool = False) -> Memory:
    """Return what a plan will allocate."""
    usage = vram.estimate(plan, packed=packed)
    return usage.output, usage.workspace
