"""Convolution and its gradients as PyTorch operators, each differentiable in terms of the others.

A convolution is linear in its input and in its weight, so three operators close the circle: the derivatives of each
are the other two, whatever the order. All operate on batches, with stride, padding and dilation one to an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import stridekit as sk
from stridekit.errors import ShapeError
from stridekit.torch.tensors import array_of, current_stream, empty_as

Ints = Sequence[int]

_CONVOLVE = {3: sk.conv1d, 4: sk.conv2d, 5: sk.conv3d}
_SPREAD = {3: sk.conv_transpose1d, 4: sk.conv_transpose2d, 5: sk.conv_transpose3d}
_OPTIONS = "int[] stride, SymInt[] padding, int[] dilation, SymInt groups, str padding_mode"


def _operator(
    name: str, schema: str, run: Callable[..., Tensor], empty: Callable[..., Tensor], setup: Any, backward: Any
) -> Callable[..., Tensor]:
    """Register an operator, and return what calls it.

    Where PyTorch traces (compile, export, fake and meta tensors), the operator must show in the trace. Elsewhere an
    `autograd.Function` of the same parts does, or the computation alone: the operator's dispatch costs 50 to 100 µs.
    """

    def checked(*arguments: Any) -> Tensor:
        result = empty(*arguments)
        if min(result.shape[2:]) < 1:
            raise ShapeError(f"{name} would give {tuple(result.shape)}: an axis is too short for its kernel")
        return result

    def computed(*arguments: Any) -> Tensor:
        # PyTorch allocates the result: it then lies in PyTorch's own pool, and is known to its streams.
        result = empty(*arguments)
        with current_stream(result):
            run(array_of(result), *(array_of(a) if isinstance(a, Tensor) else a for a in arguments))
        return result

    operator = torch.library.custom_op(
        f"stridekit::{name}", computed, mutates_args=(), device_types=("cpu", "cuda"), schema=f"({schema}) -> Tensor"
    )
    operator.register_fake(checked)
    operator.register_autograd(backward, setup_context=setup)

    parts = {"forward": computed, "setup_context": setup, "backward": backward}
    function: Any = type(name, (torch.autograd.Function,), {part: staticmethod(do) for part, do in parts.items()})

    def call(*arguments: Any) -> Tensor:
        given = [argument for argument in arguments if isinstance(argument, Tensor)]
        if _traced(given):
            return operator(*arguments)
        recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        # Within torch.func, what is to be recorded does not show in the tensors.
        recorded = recorded or torch._C._are_functorch_transforms_active()
        return (function.apply if recorded else computed)(*arguments)

    return call


def _traced(given: Sequence[Tensor]) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(type(t) not in (Tensor, torch.nn.Parameter) or t.device.type == "meta" for t in given)
    )


def _pairs(padding: Ints) -> tuple[tuple[int, int], ...]:
    return tuple(zip(padding[::2], padding[1::2], strict=True))


def _named(stride: Ints, padding: Ints, dilation: Ints, groups: int, padding_mode: str) -> dict[str, Any]:
    return {
        "stride": tuple(stride),
        "padding": _pairs(padding),
        "dilation": tuple(dilation),
        "groups": groups,
        "padding_mode": padding_mode,
    }


# The convolution.


def _conv_empty(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints, dilation: Ints, *_: Any
) -> Tensor:
    axes = zip(input.shape[2:], weight.shape[2:], stride, _pairs(padding), dilation, strict=True)
    sizes = [(w + sum(pair) - d * (f - 1) - 1) // s + 1 for w, f, s, pair, d in axes]
    # An array cannot be of negative size; stridekit says what is wrong with one of none.
    return empty_as(input, (input.shape[0], weight.shape[0], *(max(size, 0) for size in sizes)))


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, *ctx.options = inputs
    ctx.shapes = input.shape, weight.shape
    # What only the derivative of a frozen operand would read is let go.
    ctx.save_for_backward(
        input if ctx.needs_input_grad[1] else None,
        weight if ctx.needs_input_grad[0] else None,
    )


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (input, weight), (input_shape, weight_shape) = ctx.saved_tensors, ctx.shapes
    wanted = ctx.needs_input_grad
    return (
        input_grad(input_shape, weight, grad, *ctx.options) if wanted[0] else None,
        weight_grad(input, weight_shape, grad, *ctx.options) if wanted[1] else None,
        _bias_grad(grad) if wanted[2] else None,
        *(None,) * 5,
    )


def _bias_grad(grad: Tensor) -> Tensor:
    return grad.sum((0, *range(2, grad.ndim)))


conv = _operator(
    "conv",
    f"Tensor input, Tensor weight, Tensor? bias, {_OPTIONS}",
    lambda out, x, weight, bias, *options: _CONVOLVE[x.ndim](x, weight, bias, out=out, layout=None, **_named(*options)),
    _conv_empty,
    _conv_setup,
    _conv_backward,
)


# Its gradient by the input: linear in weight and in grad_output.


def _input_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, weight, grad_output, *ctx.options = inputs
    ctx.weight_shape = weight.shape
    ctx.save_for_backward(
        weight if ctx.needs_input_grad[2] else None,
        grad_output if ctx.needs_input_grad[1] else None,
    )


def _input_grad_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, grad_output = ctx.saved_tensors
    return (
        None,
        weight_grad(grad, ctx.weight_shape, grad_output, *ctx.options) if ctx.needs_input_grad[1] else None,
        conv(grad, weight, None, *ctx.options) if ctx.needs_input_grad[2] else None,
        *(None,) * 5,
    )


input_grad = _operator(
    "conv_input_grad",
    f"SymInt[] input_shape, Tensor weight, Tensor grad_output, {_OPTIONS}",
    lambda out, *operands_options: sk.conv_input_grad(*operands_options[:3], out=out, **_named(*operands_options[3:])),
    lambda input_shape, weight, grad_output, *_: empty_as(grad_output, input_shape),
    _input_grad_setup,
    _input_grad_backward,
)


# Its gradient by the weight: linear in input and in grad_output.


def _weight_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, _, grad_output, *ctx.options = inputs
    ctx.input_shape = input.shape
    ctx.save_for_backward(
        input if ctx.needs_input_grad[2] else None,
        grad_output if ctx.needs_input_grad[0] else None,
    )


def _weight_grad_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    input, grad_output = ctx.saved_tensors
    return (
        input_grad(ctx.input_shape, grad, grad_output, *ctx.options) if ctx.needs_input_grad[0] else None,
        None,
        conv(input, grad, None, *ctx.options) if ctx.needs_input_grad[2] else None,
        *(None,) * 5,
    )


weight_grad = _operator(
    "conv_weight_grad",
    f"Tensor input, SymInt[] weight_shape, Tensor grad_output, {_OPTIONS}",
    lambda out, *operands_options: sk.conv_weight_grad(*operands_options[:3], out=out, **_named(*operands_options[3:])),
    lambda input, weight_shape, *_: input.new_empty(tuple(weight_shape)),
    _weight_grad_setup,
    _weight_grad_backward,
)


# The transposed convolution: the first of the gradients, with a bias and pixels added after it.


def _transposed_empty(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints, added: Ints, dilation: Ints,
    groups: int,
) -> Tensor:  # fmt: skip
    axes = zip(input.shape[2:], weight.shape[2:], stride, _pairs(padding), added, dilation, strict=True)
    sizes = [(w - 1) * s - sum(pair) + d * (f - 1) + extra + 1 for w, f, s, pair, extra, d in axes]
    return empty_as(input, (input.shape[0], weight.shape[1] * groups, *(max(size, 0) for size in sizes)))


def _transposed_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _conv_setup(ctx, inputs, output)


def _transposed_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (input, weight), (_, weight_shape) = ctx.saved_tensors, ctx.shapes
    stride, padding, added, dilation, groups = ctx.options
    # Pixels added after the result are so much less padding; what lies beyond all padding no window has written.
    after = [high - extra for high, extra in zip(padding[1::2], added, strict=True)]
    windows = grad
    for axis, amount in enumerate(after, 2):
        if amount < 0:
            windows = windows.narrow(axis, 0, grad.shape[axis] + amount)
    pairs = [each for low, high in zip(padding[::2], after, strict=True) for each in (low, max(high, 0))]
    options = (stride, pairs, dilation, groups, "zeros")
    return (
        conv(windows, weight, None, *options) if ctx.needs_input_grad[0] else None,
        weight_grad(windows, weight_shape, input, *options) if ctx.needs_input_grad[1] else None,
        _bias_grad(grad) if ctx.needs_input_grad[2] else None,
        *(None,) * 5,
    )


def _spread(
    out: Any, x: Any, weight: Any, bias: Any, stride: Ints, padding: Ints, added: Ints, dilation: Ints, groups: int
) -> None:
    _SPREAD[x.ndim](
        x, weight, bias, stride=tuple(stride), padding=_pairs(padding), output_padding=tuple(added),
        dilation=tuple(dilation), groups=groups, layout=None, out=out,
    )  # fmt: skip


conv_transpose = _operator(
    "conv_transpose",
    "Tensor input, Tensor weight, Tensor? bias, int[] stride, SymInt[] padding, SymInt[] output_padding, "
    "int[] dilation, SymInt groups",
    _spread,
    _transposed_empty,
    _transposed_setup,
    _transposed_backward,
)
