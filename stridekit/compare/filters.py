"""A bank of real filters as weight arrays: Gaussian, Sobel and Gabor, the same for everyone who asks.

It stands in for trained first-layer weights, which look much like it, so that what a stride loses can be measured
without a trained network. It knows nothing of pictures or convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit.arguments import as_int, per_axis
from stridekit.memory.arrays import dtype_name, numpy_dtype
from stridekit.memory.limits import check_memory

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma. Source: ITU-R BT.601-7, section 2.5.1."""

FINEST_WAVELENGTH = 3.0
"""Pixels. A wave of 2 px sits on the pixel grid's own limit, where its phase decides whether it is seen at all."""

_VANISHED = 1e-6


@dataclass(frozen=True)
class FilterBank:
    """Filters as the weights of a convolution, and what each of them is.

    Attributes
    ----------
    weight : array, shape (filters, in_channels, rows, columns)
    labels : tuple of str
        One for each filter, in words: ``"Gabor 45°, 3.0 px"``.
    """

    weight: np.ndarray
    labels: tuple[str, ...]


def filter_bank(
    filters: int = 32,
    kernel_size: int | Sequence[int] = 7,
    *,
    in_channels: int = 3,
    dtype: Any = "float32",
) -> FilterBank:
    """Build a bank of filters: a Gaussian, Sobel x and y, then Gabors over scales and orientations.

    The Gabors' wavelengths are 3 px and its multiples by the square root of 2, up to the kernel's larger side; their
    orientations divide the half turn evenly, as many as `filters` needs. No two filters of a kernel of 3 x 3 or more
    are equal. A kernel too small for a filter (one tap has no direction) gets the nearest that it can hold, and its
    label says so.

    Each filter is scaled so that a picture with values in [0, 1] gives responses in [-1, 1]: the Gaussian sums to 1,
    the others to 0 with absolute values that sum to 2. So float16 does not overflow.

    Parameters
    ----------
    filters : int
        Number of filters, at least 1.
    kernel_size : int or (rows, columns)
        Taps, at least 1.
    in_channels : int
        3: each filter acts on the luma of red, green and blue (Rec. 601: 0.299, 0.587, 0.114). Otherwise: on the mean
        of the channels.
    dtype : str or dtype
        float16, bfloat16, float32 or float64.

    Returns
    -------
    FilterBank
        ``weight`` of shape ``(filters, in_channels, rows, columns)``, and ``labels``.

    Raises
    ------
    ShapeError, DtypeError
        For a size below 1, or a dtype that no convolution takes.

    Notes
    -----
    Sources: J. G. Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation" (1985),
    for the Gabor function; N. Petkov and P. Kruizinga, "Computational models of visual neurons" (1997), for an
    envelope of 0.56 wavelengths (a bandwidth of one octave) and an aspect ratio of 0.5. I. Sobel and G. Feldman
    (1968) for 3 x 3; larger sizes smooth and differentiate with binomials, as OpenCV's ``getDerivKernels`` does.

    Examples
    --------
    >>> bank = filter_bank(32, 7)
    >>> bank.weight.shape, bank.labels[:4]
    ((32, 3, 7, 7), ('Gaussian, sigma 1.4 px', 'Sobel x', 'Sobel y', 'Gabor 0°, 3.0 px'))
    """
    count, channels = as_int("filters", filters, 1), as_int("in_channels", in_channels, 1)
    rows, columns = per_axis("kernel_size", kernel_size, 2)
    target = numpy_dtype(dtype_name("dtype", dtype))
    # Each filter by itself, all of them in a stack, and those of every channel before they are cast.
    check_memory(f"a bank of {count} filters", count * rows * columns * 8 * (2 + 2 * channels))
    planes = [_gaussian(rows, columns), *_sobels(rows, columns)][:count]
    planes += _gabors(rows, columns, count - len(planes))
    mix = np.array(LUMA) if channels == 3 else np.full(channels, 1 / channels)
    weight = np.stack([plane for _, plane in planes])[:, None] * mix[:, None, None]
    return FilterBank(weight.astype(target), tuple(label for label, _ in planes))


def _gaussian(rows: int, columns: int) -> tuple[str, np.ndarray]:
    # OpenCV's getGaussianKernel: the width that a kernel of this many taps can still hold.
    sigmas = [0.3 * ((taps - 1) / 2 - 1) + 0.8 for taps in (rows, columns)]
    y, x = _coordinates(rows, columns)
    plane = np.exp(-0.5 * ((y / sigmas[0]) ** 2 + (x / sigmas[1]) ** 2))
    label = "luma, 1 tap" if rows == columns == 1 else f"Gaussian, sigma {max(sigmas):.1f} px"
    return label, plane / plane.sum()


def _sobels(rows: int, columns: int) -> list[tuple[str, np.ndarray]]:
    found = []
    if columns > 1:
        found.append(("Sobel x", np.outer(_binomial(rows), _derivative(columns))))
    if rows > 1:
        found.append(("Sobel y", np.outer(_derivative(rows), _binomial(columns))))
    return [(label, _balanced(plane)) for label, plane in found]


def _gabors(rows: int, columns: int, count: int) -> list[tuple[str, np.ndarray]]:
    longest = max(rows, columns, FINEST_WAVELENGTH)
    scales = 1 + math.floor(2 * math.log2(longest / FINEST_WAVELENGTH) + 1e-9)
    orientations = -(-count // scales)
    # Scale runs fastest, so a count that does not fill the grid thins its last orientation only.
    return [
        _gabor(rows, columns, math.pi * (i // scales) / orientations, FINEST_WAVELENGTH * 2 ** (i % scales / 2))
        for i in range(count)
    ]


def _gabor(rows: int, columns: int, angle: float, wavelength: float) -> tuple[str, np.ndarray]:
    y, x = _coordinates(rows, columns)
    across = x * math.cos(angle) + y * math.sin(angle)
    along = y * math.cos(angle) - x * math.sin(angle)
    sigma = 0.56 * wavelength
    envelope = np.exp(-0.5 * (across**2 + (0.5 * along) ** 2) / sigma**2)
    cycles = 2 * math.pi * across / wavelength
    degrees = f"{math.degrees(angle):.3g}°, {wavelength:.1f} px"
    for label, wave in ((f"Gabor {degrees}", np.cos(cycles)), (f"odd Gabor {degrees}", np.sin(cycles))):
        # A truncated cosine has a mean; without it the filter would also answer to plain brightness.
        plane = envelope * (wave - (envelope * wave).sum() / envelope.sum())
        if np.abs(plane).sum() > _VANISHED:
            return label, _balanced(plane)
    label = "luma, 1 tap" if rows == columns == 1 else f"Gaussian {degrees}"
    return label, envelope / envelope.sum()


def _balanced(plane: np.ndarray) -> np.ndarray:
    balanced: np.ndarray = 2 * plane / np.abs(plane).sum()
    return balanced


def _coordinates(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(rows) - (rows - 1) / 2)[:, None], (np.arange(columns) - (columns - 1) / 2)[None, :]


def _binomial(taps: int) -> np.ndarray:
    # From logarithms: the coefficients of a kernel of 1030 taps and more are beyond float64.
    order = taps - 1
    logs = [math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1) for k in range(taps)]
    coefficients: np.ndarray = np.exp(np.array(logs) - order * math.log(2))
    return coefficients


def _derivative(taps: int) -> np.ndarray:
    derivative: np.ndarray = np.convolve(_binomial(taps - 1), (-1.0, 1.0))
    return derivative
