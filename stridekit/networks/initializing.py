"""Drawing the parameters of a network that came without: by He's rule, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stridekit.memory.limits import check_memory
from stridekit.networks.layers import Layer
from stridekit.networks.operations import ConvTranspose, Scale


def draw(layers: Sequence[Layer], seed: int, dtype: np.dtype[Any]) -> dict[str, np.ndarray]:
    """Return all parameters and buffers of layers, by ``"layer.name"``.

    Weights of products are normal with variance ``2 / fan_in``; source: K. He, X. Zhang, S. Ren and J. Sun, "Delving
    Deep into Rectifiers", ICCV 2015, equation 10.
    """
    owned = [layer.operation for layer in layers if layer.shares is None]
    shapes = [
        s for operation in owned for s in (*operation.parameter_shapes().values(), *operation.buffer_shapes().values())
    ]
    # One of them is twice there while it is scaled and cast.
    numbers = sum(map(math.prod, shapes)) + 2 * max(map(math.prod, shapes), default=0)
    check_memory("the parameters of the network", numbers * max(dtype.itemsize, 4))
    rng = np.random.default_rng(seed)
    drawn: dict[str, np.ndarray] = {}
    for layer in layers:
        if layer.shares is not None:
            continue
        operation = layer.operation
        for name, shape in {**operation.parameter_shapes(), **operation.buffer_shapes()}.items():
            if name == "weight" and len(shape) > 1:
                # Of a transposed convolution the second axis is the filters of a group, and the first is summed over.
                fan_in = (
                    shape[0] * math.prod(shape[2:]) if isinstance(operation, ConvTranspose) else math.prod(shape[1:])
                )
                value = rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))
            elif isinstance(operation, Scale):
                value = np.full(shape, operation.initial)
            else:
                value = np.full(shape, 1.0 if name in ("weight", "running_var") else 0.0)
            drawn[f"{layer.name}.{name}"] = value.astype(dtype)
    return drawn
