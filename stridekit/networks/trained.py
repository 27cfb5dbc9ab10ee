"""What a network has at every size alike: its parameters, the states of its optimizers, and its programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stridekit.arguments import shown
from stridekit.errors import NetworkError
from stridekit.memory.arrays import shape_of
from stridekit.memory.limits import check_memory
from stridekit.networks.operations import Resolved, Shape


@dataclass
class Trained:
    """One object, which networks of one architecture at different sizes share.

    Attributes
    ----------
    parameters : dict of array
        And buffers, by ``"layer.name"``.
    optimizers : dict of Optimizer
        By name.
    programs : dict of Program
        Memory plans and steps of this process, which are made again in another.
    """

    parameters: dict[str, Any]
    optimizers: dict[str, Any] = field(default_factory=dict)
    programs: dict[Any, Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "programs": {}}

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Refuse parameters that there are not, or that have other shapes."""
        for name, value in self.parameters.items():
            if name not in shapes:
                raise NetworkError(f"parameters holds {shown(name)}, and there is no such parameter")
            shape = shape_of(f"the parameter {name!r}", value)
            if shape != shapes[name]:
                raise NetworkError(f"parameter {name!r} is {shape}; the layer wants {shapes[name]}")


def draw(owners: Mapping[str, Resolved], seed: int, dtype: np.dtype[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return all parameters and buffers of layers, by ``"layer.name"``, the same for the same seed."""
    numbers = [math.prod(shape) for each in owners.values() for shape in each.kept.values()]
    # One of them is twice there while it is scaled and cast.
    check_memory("the parameters of the network", (sum(numbers) + 2 * max(numbers, default=0)) * max(dtype.itemsize, 4))
    rng = np.random.default_rng(seed)
    return {
        f"{layer}.{name}": each.operation.draw(name, shape, rng).astype(dtype)
        for layer, each in owners.items()
        for name, shape in each.kept.items()
    }
