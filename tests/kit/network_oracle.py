"""A network as PyTorch runs it, layer by layer: the oracle for outputs and, by autograd, for gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stridekit.networks import Layer, Network
from stridekit.networks.operations import Input

torch: Any = pytest.importorskip("torch", reason="the oracle is PyTorch; pip install torch")
functional = torch.nn.functional


class TorchNetwork:
    """The same layers and parameters in PyTorch, of the same dtype."""

    def __init__(self, network: Network):
        self.network = network
        trained = network.parameter_shapes
        self.parameters = {
            name: torch.tensor(np.asarray(value), requires_grad=name in trained)
            for name, value in network.parameters.items()
        }

    def __call__(self, given: dict[str, np.ndarray], *, training: bool) -> dict[str, torch.Tensor]:
        values: dict[str, torch.Tensor] = {}
        for layer in self.network.layers:
            if isinstance(layer.operation, Input):
                values[layer.name] = torch.tensor(given[layer.name])
            else:
                values[layer.name] = self._apply(layer, [values[name] for name in layer.inputs], training)
        return {name: values[name] for name in self.network.outputs}

    def _apply(self, layer: Layer, inputs: list[torch.Tensor], training: bool) -> torch.Tensor:
        operation: Any = layer.operation
        x = inputs[0]
        rank = x.ndim - 2

        def own(name: str) -> torch.Tensor | None:
            return self.parameters.get(f"{layer.owner}.{name}")

        kind, at = operation.kind, operation.resolved(tuple(tuple(each.shape[1:]) for each in inputs))
        if kind == "conv":
            geometry = at.geometry
            x = padded(x, geometry.padding, operation.padding_mode)
            convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
            return convolve(x, own("weight"), own("bias"), geometry.stride, 0, geometry.dilation, operation.groups)
        if kind == "conv_transpose":
            geometry = at.spread
            spread = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
            whole = spread(x, own("weight"), None, geometry.stride, 0, 0, operation.groups, geometry.dilation)
            for axis, (size, (before, _)) in enumerate(zip(geometry.input_size, geometry.padding, strict=True)):
                short = max(0, before + size - whole.shape[2 + axis])
                pads = [0, 0] * (rank - 1 - axis) + [0, short]
                whole = functional.pad(whole, pads).narrow(2 + axis, before, size)
            bias = own("bias")
            return whole if bias is None else whole + bias.reshape(-1, *(1,) * rank)
        if kind == "linear":
            return functional.linear(x, own("weight"), own("bias"))
        if kind in ("max_pool", "avg_pool"):
            names = {"max": "max_pool", "avg": "avg_pool"}
            pool = getattr(functional, f"{names[operation.operation]}{rank}d")
            options = {"ceil_mode": operation.ceil_mode}
            if kind == "max_pool":
                options["dilation"] = operation.dilation
            else:
                options["count_include_pad"] = operation.count_include_pad
            return pool(x, operation.kernel_size, operation.stride, operation.padding, **options)
        if kind == "blur_pool":
            geometry = at.geometry
            line = torch.tensor((np.poly1d([0.5, 0.5]) ** (operation.filter_size - 1)).coeffs, dtype=x.dtype)
            taps = line
            for _ in range(rank - 1):
                taps = torch.tensordot(taps, line, 0)
            weight = taps.expand(x.shape[1], 1, *taps.shape)
            convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
            x = padded(x, geometry.padding, operation.padding_mode)
            return convolve(x, weight, None, geometry.stride, groups=x.shape[1])
        if kind == "global_avg_pool":
            return x.mean(tuple(range(2, x.ndim)), keepdim=True)
        if kind == "global_max_pool":
            # As a pooling: of several that are the largest, the first has the gradient.
            return getattr(functional, f"max_pool{rank}d")(x, tuple(x.shape[2:]))
        if kind == "adaptive_avg_pool":
            return getattr(functional, f"adaptive_avg_pool{rank}d")(x, operation.output_size)
        if kind == "activation":
            if operation.function == "clipped_relu":
                return functional.hardtanh(x, 0.0, operation.limit)
            if operation.function == "leaky_relu":
                return functional.leaky_relu(x, operation.slope)
            if operation.function in ("hard_swish", "hard_sigmoid"):
                # PyTorch's own have a sixth of float32 in float64, too.
                gate = functional.relu6(x + 3) / 6
                return x * gate if operation.function == "hard_swish" else gate
            return getattr(torch if operation.function in ("sigmoid", "tanh") else functional, operation.function)(x)
        if kind == "batch_norm":
            return functional.batch_norm(
                x, own("running_mean"), own("running_var"), own("weight"), own("bias"), training and operation.trained,
                operation.momentum, operation.epsilon,
            )  # fmt: skip
        if kind == "layer_norm":
            moved = x.movedim(1, -1)
            return functional.layer_norm(
                moved, moved.shape[-1:], own("weight"), own("bias"), operation.epsilon
            ).movedim(-1, 1)
        if kind == "scale":
            return x * own("weight").reshape(-1, *(1,) * rank)
        if kind == "add":
            return sum(inputs[1:], x)
        if kind == "multiply":
            return x * inputs[1]
        if kind == "concat":
            return torch.cat(inputs, 1)
        if kind == "slice":
            return x[:, operation.start : operation.stop]
        if kind == "upsample":
            size = at.output[1:]
            if operation.mode == "nearest":
                return functional.interpolate(x, size)
            mode = ("linear", "bilinear", "trilinear")[rank - 1]
            return functional.interpolate(x, size, mode=mode, align_corners=operation.align_corners)
        if kind == "flatten":
            return x.flatten(1)
        if kind == "softmax_cross_entropy":
            return x.softmax(1)
        raise AssertionError(f"the oracle does not know {kind}")


def padded(x: torch.Tensor, pairs: tuple[tuple[int, int], ...], mode: str) -> torch.Tensor:
    """Pad by (before, after) pairs, in PyTorch's order of axes."""
    flat = [amount for pair in reversed(pairs) for amount in pair]
    if not any(flat):
        return x
    return functional.pad(x, flat, "constant" if mode == "zeros" else mode)
