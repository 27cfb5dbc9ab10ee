"""What a stride folds back: the share of a response's energy at frequencies that the coarser grid cannot carry.

It works on responses, arrays ``(..., H, W)``, and knows nothing of the convolution that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stridekit.arguments import per_axis
from stridekit.errors import ShapeError

_FLOAT64_EPS = float(np.finfo(np.float64).eps)


def aliased_energy(response: np.ndarray, stride: int | Sequence[int]) -> float:
    """Measure the share of a response's energy that taking every `stride`-th position folds back.

    A grid of step s carries frequencies up to 1 / (2 s) cycles per pixel. What the response at stride 1 holds beyond
    that on either axis is not lost: it comes back at a lower frequency, where nothing can tell it from what was there.

    Parameters
    ----------
    response : array, shape (..., H, W)
        A convolution's output at stride 1; real, finite.
    stride : int or (rows, columns)

    Returns
    -------
    float
        From 0 to 1: the energy beyond the limits, summed over channels, over all energy, summed over channels. Each
        channel's mean is removed first. 0 for a flat response. Exactly 0 at stride 1.

    Raises
    ------
    ShapeError
        For a response of fewer than two axes or with values that are not finite, or a stride below 1.

    Notes
    -----
    The spectrum is the discrete Fourier transform, so energies are those of Parseval's theorem and the response counts
    as periodic: the step between opposite edges is part of it. A frequency exactly on the limit is counted as
    carried: it folds onto itself, so no false frequency comes of it.

    Examples
    --------
    A wave of 8 px survives stride 4, which is its limit, and no longer stride 5:

    >>> import numpy as np
    >>> wave = np.cos(2 * np.pi * np.arange(64) / 8) * np.ones((64, 1))
    >>> [round(aliased_energy(wave, stride), 9) for stride in (4, 5, (5, 1), (1, 5))]
    [0.0, 1.0, 0.0, 1.0]
    """
    total, beyond = spectral_energy(response, [per_axis("stride", stride, 2)])
    whole = float(total.sum())
    return float(beyond.sum()) / whole if whole else 0.0


def spectral_energy(
    response: np.ndarray,
    strides: Sequence[tuple[int, ...]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure each channel's energy, and how much of it lies beyond the limits of each stride.

    One channel is transformed at a time, in float64: that takes about 32 bytes for each of its pixels, however many
    channels there are.

    Parameters
    ----------
    response : array, shape (..., H, W)
    strides : sequence of (rows, columns)
    progress : callable, optional
        Called with (channels done, channels in all).

    Returns
    -------
    total : array, shape (channels,)
    beyond : array, shape (strides, channels)
        In units of the squared largest response.

    Raises
    ------
    ShapeError
        As `aliased_energy`.
    """
    if response.ndim < 2 or 0 in response.shape:
        raise ShapeError(f"response has shape {response.shape}; wanted (..., H, W) without empty axes")
    channels = response.reshape(-1, *response.shape[-2:])
    scale = _largest(channels)
    total = np.zeros(len(channels))
    beyond = np.zeros((len(strides), len(channels)))
    spectrometer = _Spectrometer(*response.shape[-2:])
    for number, channel in enumerate(channels):
        if scale:
            power = spectrometer.power(channel, scale)
            total[number] = power.sum()
            beyond[:, number] = [_beyond(power, channel.shape[1], stride) for stride in strides]
        if progress is not None:
            progress(number + 1, len(channels))
    return total, beyond


def _largest(channels: np.ndarray) -> float:
    largest = max(float(np.abs(channel).max()) for channel in channels)
    if not np.isfinite(largest):
        raise ShapeError("response holds NaN or infinity; only finite values have a spectrum")
    return largest


class _Spectrometer:
    """Turns channels of one shape into energies at each frequency, in memory that is allocated once.

    For large pictures, fresh memory for each channel costs as much time as the transform.
    """

    def __init__(self, height: int, width: int) -> None:
        bins = (height, width // 2 + 1)
        self._centred = np.empty((height, width))
        self._spectrum = np.empty(bins, np.complex128)
        self._power = np.empty(bins)

    def power(self, channel: np.ndarray, scale: float) -> np.ndarray:
        """Energy at each frequency, shape (H, W // 2 + 1): both signs of a horizontal frequency in one bin."""
        centred, spectrum, power = self._centred, self._spectrum, self._power
        np.divide(channel, scale, out=centred, dtype=np.float64)
        mean = centred.mean()
        centred -= mean
        # A flat channel leaves the rounding of its mean, whose spectrum would look like any other's.
        if max(centred.max(), -centred.min()) <= 4 * _FLOAT64_EPS * abs(mean):
            centred[:] = 0
        np.fft.rfft2(centred, out=spectrum)
        np.square(spectrum.real, out=power)
        np.square(spectrum.imag, out=spectrum.imag)
        power += spectrum.imag
        power[0, 0] = 0
        # rfft2 leaves out the negative horizontal frequencies; 0 and, for even widths, W / 2 have no twin.
        power[:, 1 : (centred.shape[1] + 1) // 2] *= 2
        return power


def _beyond(power: np.ndarray, width: int, stride: tuple[int, ...]) -> float:
    """Energy outside ``|f_y| <= 1 / (2 s_y), |f_x| <= 1 / (2 s_x)``; summed there, so stride 1 gives exactly 0."""
    height = len(power)
    # Frequency k / n is carried if 2 * s * |k| <= n: in integers, so rounding never decides about the limit itself.
    rows, columns = height // (2 * stride[0]), width // (2 * stride[1])
    # Row k holds frequency k up to the middle, then k - height.
    negative = max(rows + 1, height - rows)
    parts = (power[rows + 1 : negative], power[: rows + 1, columns + 1 :], power[negative:, columns + 1 :])
    return sum(float(part.sum()) for part in parts)
