"""Operations that leave every pixel where it is: activations, normalisations, sums, products, and softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from stridekit.errors import ShapeError
from stridekit.networks.operations.base import Operation, Resolved, Shape, check_channels
from stridekit.problems.activations import ACTIVATIONS

FUNCTIONS = tuple(ACTIVATIONS)


@dataclass(frozen=True)
class Activation(Operation):
    """A function of each element.

    ``hard_sigmoid`` is ``relu6(x + 3) / 6`` and ``hard_swish`` x times that. Source: A. Howard et al., "Searching for
    MobileNetV3", ICCV 2019, section 5.2.
    """

    kind: ClassVar[str] = "activation"

    function: str
    slope: float = 0.01
    """Below zero, of ``leaky_relu``."""
    limit: float = 20.0
    """Largest result of ``clipped_relu``: ``min(max(x, 0), limit)``, as in Deep Speech."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's shape."""
        if self.function not in FUNCTIONS:
            raise ShapeError(f"function is {self.function!r}; wanted one of {', '.join(FUNCTIONS)}")
        if not self.limit > 0:
            raise ShapeError(f"limit is {self.limit}; wanted more than 0")
        return Resolved(self, inputs, inputs[0])


@dataclass(frozen=True)
class _PerChannel(Operation):
    trains: ClassVar[tuple[str, ...]] = ("weight", "bias")

    channels: int | None = None
    """That the parameters are for; None is any number."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's shape; each parameter is ``(C,)``."""
        check_channels(self.channels, inputs[0])
        return Resolved(
            replace(self, channels=inputs[0][0]), inputs, inputs[0], dict.fromkeys(self.trains, inputs[0][:1])
        )

    def draw(self, name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return what leaves normalised features as they are."""
        return np.full(shape, 1.0 if name in ("weight", "running_var") else 0.0)


@dataclass(frozen=True)
class BatchNorm(_PerChannel):
    """Normalisation of each channel by its mean and variance over batch and pixels: kept ones where nothing is trained.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015.
    """

    kind: ClassVar[str] = "batch_norm"

    epsilon: float = 1e-5
    momentum: float = 0.1
    """Share of a new batch in the kept mean and variance."""
    trained: bool = True
    """If not, all four are kept as they are: a frozen normalisation, as detectors have over a pretrained backbone."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's shape; what is frozen is kept beside ``running_mean (C,)`` and ``running_var (C,)``."""
        found = super().resolved(inputs)
        kept = dict.fromkeys(("running_mean", "running_var"), inputs[0][:1])
        if self.trained:
            return replace(found, buffers=kept)
        return replace(found, parameters={}, buffers={**found.parameters, **kept})


@dataclass(frozen=True)
class LayerNorm(_PerChannel):
    """Normalisation of each pixel over its channels.

    Source: J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016; over channels as in ConvNeXt.
    """

    kind: ClassVar[str] = "layer_norm"

    epsilon: float = 1e-6


@dataclass(frozen=True)
class Scale(_PerChannel):
    """A trained factor for each channel (LayerScale; H. Touvron et al., ICCV 2021)."""

    kind: ClassVar[str] = "scale"
    trains: ClassVar[tuple[str, ...]] = ("weight",)

    initial: float = 1e-6

    def draw(self, name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return `initial` for each channel."""
        return np.full(shape, self.initial)


@dataclass(frozen=True)
class Add(Operation):
    """The sum of inputs of one shape."""

    kind: ClassVar[str] = "add"
    arity: ClassVar[tuple[int, int | None]] = (2, None)

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the inputs' shape."""
        if len(set(inputs)) > 1:
            raise ShapeError(f"the inputs are {' and '.join(map(str, inputs))}; wanted one shape")
        return Resolved(self, inputs, inputs[0])


@dataclass(frozen=True)
class Multiply(Operation):
    """The product of two inputs of one shape, or of one and a gate: a second one ``(C, 1, ...)``, for all pixels alike.

    So squeeze-and-excitation scales channels (J. Hu, L. Shen and G. Sun, CVPR 2018). The receptive field holds those of
    both inputs, as a sum's does. A gate that has seen every pixel, as after a global pooling, leaves it without bounds:
    None, as a concatenation with such a branch. A gate that has seen a window keeps that where it is while the pixels
    move.
    """

    kind: ClassVar[str] = "multiply"
    arity: ClassVar[tuple[int, int | None]] = (2, 2)

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the first input's shape."""
        first, second = inputs
        gate = (first[0], *(1 for _ in first[1:]))
        if second not in (first, gate):
            raise ShapeError(f"the inputs are {first} and {second}; wanted one shape, or a second one of {gate}")
        return Resolved(self, inputs, first)

    def spreads(self, position: int, inputs: tuple[Shape, ...]) -> bool:
        """Spread a gate."""
        return position == 1 and inputs[0] != inputs[1]


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Operation):
    """Probabilities over the channels; trained, the mean over pixels and samples of the target's negative log."""

    kind: ClassVar[str] = "softmax_cross_entropy"

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's shape."""
        return Resolved(self, inputs, inputs[0])
