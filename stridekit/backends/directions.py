"""A backend's table of algorithms for every direction, out of those that run forward."""

from __future__ import annotations

from stridekit.backends import Algorithm
from stridekit.backends.gradients import InputGradient, Moves, WeightGradient
from stridekit.backends.patches import PatchGradient


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
