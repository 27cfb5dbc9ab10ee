"""A backend's table of algorithms for every direction, out of those that run forward."""

from __future__ import annotations

from stridekit.backends import Algorithm
from stridekit.backends.gradients.input_gradient import InputGradient, Moves
from stridekit.backends.gradients.patches import PatchGradient
from stridekit.backends.gradients.weight_gradient import WeightGradient


def directions(forward: tuple[Algorithm, ...], moves: Moves) -> dict[str, tuple[Algorithm, ...]]:
    """Return the algorithms by direction; a gradient's are called after the forward algorithm that they run."""
    return {
        "forward": forward,
        "input_grad": (
            *(InputGradient(algorithm, moves) for algorithm in forward),
            *(PatchGradient(algorithm, moves) for algorithm in forward),
        ),
        "weight_grad": tuple(WeightGradient(algorithm) for algorithm in forward),
    }
