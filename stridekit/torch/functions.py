"""Convolutions of tensors under PyTorch's calling convention: checked, cast as autocast asks, given a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stridekit.arguments import as_int, one_of, per_axis
from stridekit.errors import BackendUnavailableError, DtypeError, LayoutError, ShapeError
from stridekit.memory import dtypes
from stridekit.ops.ranks import of_rank
from stridekit.problems.padding import PADDING_MODES, Padding, resolve_padding
from stridekit.torch import operators

DTYPES = tuple(getattr(torch, name) for name in dtypes.DTYPES)
_DEVICES = ("cpu", "cuda", "meta")


def conv(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Correlate {things} with filters, as `torch.nn.functional` does; differentiable any number of times.

    Parameters
    ----------
    input : Tensor, shape (N, C, *spatial) or (C, *spatial)
        float16, bfloat16, float32 or float64, on the CPU or a CUDA device; its memory is read where it lies.
    weight : Tensor, shape (K, C / groups, *kernel)
    bias : Tensor, shape (K,), optional
    stride, dilation : int, or one per axis
    padding : int, one int or one (before, after) pair per axis, or a name
        As for `stridekit.conv2d`: ``"same"`` takes every stride.
    groups : int
    padding_mode : {"zeros", "reflect", "replicate", "circular"}

    Returns
    -------
    Tensor, shape (N, K, *output) or (K, *output)
        Channels-last in memory where the input is. Under `torch.autocast` of autocast's dtype.

    Raises
    ------
    ShapeError, DtypeError, LayoutError, BackendUnavailableError

    Examples
    --------
    >>> import torch, stridekit.torch
    >>> x = torch.ones(1, 3, 7, 7, requires_grad=True)
    >>> y = stridekit.torch.conv2d(x, torch.ones(8, 3, 3, 3), stride=3)
    >>> y.sum().backward()
    >>> y.shape, x.grad[0, 0, 6].tolist()
    (torch.Size([1, 8, 2, 2]), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    batched, input, weight, bias = _operands(rank, f"conv{rank}d", input, weight, bias)
    strides, dilations = _per_axis("stride", stride, rank), _per_axis("dilation", dilation, rank)
    pairs = resolve_padding(_one_for_all(padding, rank), input.shape[2:], weight.shape[2:], strides, dilations)
    groups, padding_mode = as_int("groups", groups, 1), one_of("padding_mode", padding_mode, PADDING_MODES)
    flat = [amount for pair in pairs for amount in pair]
    result = operators.conv(input, weight, bias, strides, flat, dilations, groups, padding_mode)
    return result if batched else result.squeeze(0)


def conv_transpose(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Spread {things} by filters, as `torch.nn.functional` does; `groups` stands before `dilation`.

    Parameters
    ----------
    input : Tensor, shape (N, C, *spatial) or (C, *spatial)
    weight : Tensor, shape (C, K / groups, *kernel)
    bias : Tensor, shape (K,), optional
    stride, dilation : int, or one per axis
    padding : int, or one per axis
        Pixels taken off each side of the result.
    output_padding : int, or one per axis
        Pixels added after it; less than the larger of stride and dilation.
    groups : int

    Returns
    -------
    Tensor, shape (N, K, *output) or (K, *output)

    Examples
    --------
    >>> import torch, stridekit.torch
    >>> stridekit.torch.conv_transpose2d(torch.ones(8, 7, 7), torch.ones(8, 3, 4, 4), stride=2, padding=1).shape
    torch.Size([3, 14, 14])
    """
    batched, input, weight, bias = _operands(rank, f"conv_transpose{rank}d", input, weight, bias)
    strides, dilations = _per_axis("stride", stride, rank), _per_axis("dilation", dilation, rank)
    amounts = _per_axis("padding", padding, rank, minimum=0)
    added = _per_axis("output_padding", output_padding, rank, minimum=0)
    groups = as_int("groups", groups, 1)
    flat = [amount for amount in amounts for _ in range(2)]
    result = operators.conv_transpose(input, weight, bias, strides, flat, added, dilations, groups)
    return result if batched else result.squeeze(0)


conv1d, conv2d, conv3d = (of_rank(conv, rank) for rank in (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = (of_rank(conv_transpose, rank) for rank in (1, 2, 3))


def _operands(
    rank: int, function: str, input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[bool, Tensor, Tensor, Tensor | None]:
    named = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise DtypeError(
                f"{name} is a {type(tensor).__qualname__}; wanted a Tensor (arrays go to stridekit.{function})"
            )
        if tensor.device.type not in _DEVICES:
            raise BackendUnavailableError(
                f"{name} is on {tensor.device}; stridekit runs on cpu and cuda: {name}.to('cpu')"
            )
        if tensor.layout is not torch.strided:
            raise LayoutError(f"{name} is {tensor.layout}; wanted a dense tensor: {name}.to_dense()")
        if tensor.device != input.device:
            raise BackendUnavailableError(f"input is on {input.device} and {name} on {tensor.device}; move one of them")
    if weight.ndim != rank + 2 or input.ndim not in (rank + 1, rank + 2):
        raise ShapeError(
            f"input has {input.ndim} axes {tuple(input.shape)} and weight {weight.ndim} {tuple(weight.shape)}; "
            f"{function} wants {rank + 2} each, input's first being the batch, or {rank + 1} of one sample"
        )
    input, weight = _autocast(input), _autocast(weight)
    bias = None if bias is None else _autocast(bias)
    if input.dtype not in DTYPES:
        raise DtypeError(
            f"input is {input.dtype}; wanted one of {', '.join(map(str, DTYPES))}: input.to(torch.float32)"
        )
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise DtypeError(f"input is {input.dtype} and {name} {other.dtype}; cast one: {name}.to(input.dtype)")
    if input.ndim == rank + 1:
        return False, input.unsqueeze(0), weight, bias
    return True, input, weight, bias


def _autocast(tensor: Tensor) -> Tensor:
    """Cast as autocast casts the operands of PyTorch's own convolutions: all but float64."""
    device = tensor.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensor
    if not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def _per_axis(name: str, value: Any, rank: int, *, minimum: int = 1) -> tuple[int, ...]:
    return per_axis(name, _one_for_all(value, rank), rank, minimum=minimum)


def _one_for_all(value: Any, rank: int) -> Any:
    """Take PyTorch's other form of one value for all axes: a sequence of one."""
    return value[0] if rank > 1 and isinstance(value, list | tuple) and len(value) == 1 else value
