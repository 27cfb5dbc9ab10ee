"""What may be compared: pictures, weights, strides and dtypes, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from stridekit.arguments import as_path, as_real, items_of, per_axis, shown
from stridekit.compare.comparison import ALTERNATIVES
from stridekit.compare.filters import FilterBank, filter_bank
from stridekit.compare.measuring import Stride
from stridekit.errors import BackendUnavailableError, DtypeError, ImageError, ShapeError
from stridekit.memory.arrays import Array, dtype_name, library_of, numpy_dtype, plain
from stridekit.memory.dtypes import DTYPES

_COLOURS = (1, 3, 4)
"""Channels of grey, of colours, and of colours with transparency."""


def checked_strides(strides: Sequence[int | Sequence[int]]) -> tuple[Stride, ...]:
    """Return each stride once, for both axes."""
    items = items_of(strides)
    if items is None:
        raise ShapeError(f"strides is {shown(strides)}; wanted a sequence, such as (1, 2, 4)")
    if not items:
        raise ShapeError("strides is empty; wanted at least one, such as (1, 2, 4)")
    return tuple(dict.fromkeys(per_axis("strides", item, 2) for item in items))


def checked_alternatives(alternatives: Sequence[str]) -> tuple[str, ...]:
    """Return each alternative once."""
    known, names = ", ".join(ALTERNATIVES), items_of(alternatives)
    if names is None:
        raise ShapeError(f"alternatives is {shown(alternatives)}; wanted a sequence of {known}")
    for name in names:
        if not isinstance(name, str) or name not in ALTERNATIVES:
            raise ShapeError(f"alternatives holds {shown(name)}; wanted some of {known}")
    return tuple(dict.fromkeys(map(str, names)))


def checked_share(name: str, value: float) -> float:
    """Return a number from 0 to 1."""
    share = as_real(value)
    if not 0 <= share <= 1:
        raise ShapeError(f"{name} is {shown(value)}; wanted a share from 0 to 1")
    return share


def checked_dtype(dtype: Any) -> str:
    """Return the name of a dtype that convolution takes."""
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise DtypeError(f"dtype is {shown(dtype)}; wanted one of {', '.join(DTYPES)}")
    return dtype_name("dtype", dtype)


def checked_pixels(image: str | os.PathLike[str] | Array, dtype: str, *, weighted: bool) -> np.ndarray:
    """Return a picture, of a file or an array, as finite `dtype` of shape (N, C, H, W).

    An array that may have its channels last is refused, unless weights say how many channels there are (`weighted`).
    """
    if isinstance(image, str | os.PathLike):
        from stridekit.compare.images import load_image

        return load_image(as_path("image", image, error=ImageError), dtype=dtype)
    if library_of("image", image) != "numpy":
        raise BackendUnavailableError("image is a CuPy array, which is not copied silently; use cupy.asnumpy(image)")
    dtype_name("image", image)
    if image.ndim not in (2, 4):
        hint = "; add a batch axis: image[None], or image.transpose(2, 0, 1)[None] if its channels come last"
        wanted = "(H, W) or (N, C, H, W)" + (hint if image.ndim == 3 else "")
        raise ShapeError(f"image has shape {image.shape}; wanted {wanted}")
    if image.ndim == 4 and image.shape[3] in _COLOURS and image.shape[1] > max(_COLOURS) and not weighted:
        _, channels, rows, columns = image.shape
        raise ShapeError(
            f"image has shape {image.shape}: {channels} channels of {rows} x {columns} pixels, or its channels come "
            f"last? Then give image.transpose(0, 3, 1, 2), else the weight, which says how many channels there are"
        )
    if 0 in image.shape:
        raise ShapeError(f"image has shape {image.shape}; wanted at least one sample, channel and pixel")
    pixels = _cast(image, dtype)
    if not np.isfinite(pixels).all():
        raise ImageError(f"image holds NaN or infinity (as {dtype}); only finite values have a spectrum")
    return pixels[None, None] if pixels.ndim == 2 else pixels


def _cast(array: Array, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # What overflows is refused by the caller, in words.
        return np.ascontiguousarray(plain(array), numpy_dtype(dtype))


def checked_bank(
    weight: Array | None, filters: int, kernel_size: int | Sequence[int], channels: int, dtype: str
) -> FilterBank:
    """Return the given weights as filters, finite and of `dtype`, or else the filter bank."""
    if weight is None:
        return filter_bank(filters, kernel_size, in_channels=channels, dtype=dtype)
    if library_of("weight", weight) != "numpy":
        raise BackendUnavailableError("weight is a CuPy array, which is not copied silently; use cupy.asnumpy(weight)")
    dtype_name("weight", weight)
    if weight.ndim != 4 or 0 in weight.shape or weight.shape[1] != channels:
        raise ShapeError(
            f"weight has shape {weight.shape}; wanted (filters, channels, rows, columns) with {channels} channel"
            f"{'' if channels == 1 else 's'} as the image has"
        )
    cast = _cast(weight, dtype)
    if not np.isfinite(cast).all():
        raise ShapeError(f"weight holds NaN or infinity (as {dtype}); wanted finite values")
    return FilterBank(cast, tuple(f"filter {number}" for number in range(len(cast))))
