"""Operations that move pixels and channels without computing: inputs, concatenation, slices, resizing, flattening."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from stridekit.arguments import as_int, as_shape, per_axis
from stridekit.errors import ShapeError
from stridekit.networks.operations.base import Operation, Reach, Resolved, Shape, Sizes, check_spatial, volume

RESIZING = ("nearest", "linear")


@dataclass(frozen=True)
class Input(Operation):
    """What the network is given."""

    kind: ClassVar[str] = "input"
    arity: ClassVar[tuple[int, int | None]] = (0, 0)

    size: Shape
    """``(C, *spatial)`` of one sample, where nothing else is asked for."""
    samples: int = 1
    """Of this input for each sample of the batch, such as the regions that a detector looks at in an image."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the size."""
        size = as_shape("size", self.size)
        if not 1 <= len(size) <= 4 or min(size) < 1:
            raise ShapeError(f"size is {self.size}; wanted channels and up to 3 spatial axes, each at least 1")
        if as_int("samples", self.samples) < 1:
            raise ShapeError(f"samples is {self.samples}; wanted at least 1")
        return Resolved(self, inputs, size)


@dataclass(frozen=True)
class Concat(Operation):
    """The channels of all inputs, one after the other."""

    kind: ClassVar[str] = "concat"
    arity: ClassVar[tuple[int, int | None]] = (1, None)

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the inputs' spatial size, with their channels together."""
        if len({shape[1:] for shape in inputs}) > 1:
            raise ShapeError(f"the inputs are {' and '.join(map(str, inputs))}; wanted one spatial size")
        return Resolved(self, inputs, (sum(shape[0] for shape in inputs), *inputs[0][1:]))


@dataclass(frozen=True)
class Slice(Operation):
    """Some of the channels."""

    kind: ClassVar[str] = "slice"

    start: int
    stop: int

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's shape with the channels taken."""
        if not 0 <= as_int("start", self.start) < as_int("stop", self.stop) <= inputs[0][0]:
            raise ShapeError(f"start {self.start} to stop {self.stop} do not lie within the {inputs[0][0]} channels")
        return Resolved(self, inputs, (self.stop - self.start, *inputs[0][1:]))


@dataclass(frozen=True)
class Upsample(Operation):
    """Resizing: by a `factor`, or to the spatial size of a second input."""

    kind: ClassVar[str] = "upsample"
    arity: ClassVar[tuple[int, int | None]] = (1, 2)
    reads: ClassVar[int | None] = 1

    factor: Sizes | None = None
    mode: str = "nearest"
    """``"nearest"`` or ``"linear"``."""
    align_corners: bool = False
    """Whether ``"linear"`` maps corner pixels onto corner pixels."""

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return the input's channels and the new size."""
        check_spatial(inputs[0])
        if self.mode not in RESIZING:
            raise ShapeError(f"mode is {self.mode!r}; wanted one of {', '.join(RESIZING)}")
        rank = len(inputs[0]) - 1
        if (self.factor is None) == (len(inputs) == 1):
            raise ShapeError("factor and a second input exclude each other; give one of them")
        if self.factor is None:
            if len(inputs[1]) != rank + 1:
                raise ShapeError(f"the second input is {inputs[1]}; wanted one of {rank} spatial axes, for its size")
            sizes = inputs[1][1:]
        else:
            factors = per_axis("factor", self.factor, rank)
            sizes = tuple(size * factor for size, factor in zip(inputs[0][1:], factors, strict=True))
        return Resolved(self, inputs, (inputs[0][0], *sizes))

    def reach(self, at: Resolved) -> tuple[Reach, ...] | None:
        """Return what a resized pixel is taken from, over all phases."""
        return tuple(
            _resized_reach(size, wanted, self.mode, self.align_corners)
            for size, wanted in zip(at.inputs[0][1:], at.output[1:], strict=True)
        )


@dataclass(frozen=True)
class Flatten(Operation):
    """All features of a sample in a row, channels outermost."""

    kind: ClassVar[str] = "flatten"

    def resolved(self, inputs: tuple[Shape, ...]) -> Resolved:
        """Return ``(features,)``."""
        return Resolved(self, inputs, (volume(inputs[0]),))

    def reach(self, at: Resolved) -> tuple[Reach, ...] | None:
        """Return None: there are no pixels any more."""
        return None


def resizing_map(size: int, wanted: int, mode: str, align_corners: bool) -> tuple[Fraction, Fraction]:
    """Return (step, offset): pixel j of a resized axis lies at ``offset + j * step`` of the input's.

    Pixels' centres lie at whole numbers; ``"nearest"`` takes the floor, as PyTorch's and ONNX's asymmetric floor do.
    """
    if mode == "nearest":
        return Fraction(size, wanted), Fraction(0)
    if align_corners:
        return Fraction(size - 1, max(wanted - 1, 1)), Fraction(0)
    step = Fraction(size, wanted)
    return step, (step - 1) / 2


def _resized_reach(size: int, wanted: int, mode: str, align_corners: bool) -> Reach:
    """Return the span over all phases, none of it in vain: each end is reached by the pixels of some phase."""
    step, offset = resizing_map(size, wanted, mode, align_corners)
    # Positions lie between pixels by `least` and multiples of 1 / parts more, up to `most`.
    parts = step.denominator
    least = Fraction(offset * parts % 1, parts)
    most = least + 1 - Fraction(1, parts)
    if mode == "nearest":
        return Reach(offset - most, offset - least, step)
    # A position on a pixel takes nothing of the next one.
    return Reach(offset - most, offset + (1 - least if least else most), step)
