"""Pictures as arrays ``(1, C, H, W)`` with values in [0, 1]: from a file, from the sample photo, or a test chart.

It needs Pillow for files, and imports it on first use. It knows nothing of filters or strides.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stridekit.arguments import as_path, per_axis, printable
from stridekit.errors import ImageError, MissingExtraError, StridekitError
from stridekit.extras import extra
from stridekit.memory.arrays import dtype_name, numpy_dtype
from stridekit.memory.files import open_regular
from stridekit.memory.limits import check_memory

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLE_NAME = "grace_hopper.jpg"

_GREY_MODES = ("1", "L", "LA", "La")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_WIDENED = {"L;2": 85, "L;4": 17}
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def load_image(path: str | os.PathLike[str], *, dtype: Any = "float32") -> np.ndarray:
    """Load any picture that Pillow reads.

    The rotation that a camera notes in EXIF is applied. Grey pictures (1, 8 or 16 bits, or float in [0, 1]) become
    one channel, all others three: palettes and other colour spaces are converted to RGB, and transparency is laid
    over white. Of several frames the first is taken.

    Parameters
    ----------
    path : str or path
    dtype : str or dtype
        float16, bfloat16, float32 or float64.

    Returns
    -------
    array, shape (1, C, H, W)
        C is 1 or 3; values in [0, 1]; contiguous.

    Raises
    ------
    ImageError
        Naming the file: missing, not a picture, damaged, or with values of unknown range.

    Examples
    --------
    >>> load_image("holiday.jpg")
    Traceback (most recent call last):
    ...
    stridekit.errors.ImageError: holiday.jpg: no such file
    """
    target = numpy_dtype(dtype_name("dtype", dtype))
    path = as_path("path", path, error=ImageError)
    name = printable(str(path))
    _need("PIL", "Pillow", name)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of odd metadata. The first is what this tool is for, the second is
            # no concern of the pixels. What it thinks an attack, it still raises.
            warnings.simplefilter("ignore")
            # Through an open file: by name Pillow maps an uncompressed TIFF into memory, and turns its rows wrongly.
            with open_regular(path) as file, Image.open(file) as picture:
                # As read, in three colours and an alpha, and as float64 while it is scaled.
                check_memory(f"{name}, {picture.width} x {picture.height} pixels,", 32 * picture.width * picture.height)
                grey = picture.mode in _GREY_MODES or _rawmode(picture) == "LA;16B"
                clear = _clear_value(picture)
                pixels = _pixels(ImageOps.exif_transpose(picture), clear, grey, name)
    except StridekitError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, not a picture") from None
    except PermissionError:
        raise ImageError(f"{name}: no permission to read it") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture that Pillow can read") from None
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError ... on damaged files.
        raise ImageError(
            f"{name}: cannot be read as a picture ({getattr(error, 'strerror', None) or error})"
        ) from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(target))


def sample_photo(*, dtype: Any = "float32") -> np.ndarray:
    """Load a portrait of Grace Hopper, 512 x 600 pixels (public domain), from matplotlib's sample data.

    Returns
    -------
    array, shape (1, 3, 600, 512)

    Raises
    ------
    ImageError
        If matplotlib or Pillow is not installed.
    """
    _need("matplotlib", "matplotlib", "the sample photo")
    from matplotlib.cbook import get_sample_data

    return load_image(get_sample_data(SAMPLE_NAME, asfileobj=False), dtype=dtype)


def zone_plate(size: int | Sequence[int] = 512, *, dtype: Any = "float32") -> np.ndarray:
    """Draw a chart that holds every frequency once: rings that get finer from the centre to the edge.

    At the pixel (y, x) from the centre the wave has x / W cycles per pixel across and y / H down: 0 in the middle, the
    grid's limit of 1/2 at the edges. Where a stride aliases, rings appear that are not there.

    Parameters
    ----------
    size : int or (rows, columns)
        Pixels.
    dtype : str or dtype
        float16, bfloat16, float32 or float64.

    Returns
    -------
    array, shape (1, 1, H, W)
        ``(1 + cos(pi * (y ** 2 / H + x ** 2 / W))) / 2``

    Examples
    --------
    >>> zone_plate(64).shape
    (1, 1, 64, 64)
    """
    rows, columns = per_axis("size", size, 2)
    check_memory(f"a zone plate of {rows} x {columns} pixels", 32 * rows * columns)
    y = np.arange(rows) - (rows - 1) / 2
    x = np.arange(columns) - (columns - 1) / 2
    plane = 0.5 + 0.5 * np.cos(np.pi * (y[:, None] ** 2 / rows + x[None, :] ** 2 / columns))
    return plane[None, None].astype(numpy_dtype(dtype_name("dtype", dtype)))


def _rawmode(picture: Image) -> str:
    """Return how a PNG file holds its pixels, such as ``"L;2"`` or ``"RGB;16B"``; what else there is needs none."""
    tiles = getattr(picture, "tile", None)
    return str(tiles[0][3]) if tiles and picture.format == "PNG" else ""


def _clear_value(picture: Image) -> Any:
    """Return the value that means transparent, or those of a palette, as the loaded pixels have it; else None.

    Pillow reads pixels of 2 and 4 bits, and RGB of 16, as 8 bits, but leaves this value as the file has it.
    """
    value, rawmode = picture.info.get("transparency"), _rawmode(picture)
    if rawmode in _WIDENED and isinstance(value, int):
        return value * _WIDENED[rawmode]
    if rawmode == "RGB;16B" and value is not None:
        return tuple(part >> 8 for part in value)
    return value


def _pixels(picture: Image, clear: Any, grey: bool, name: str) -> np.ndarray:
    """Read out ``(H, W, C)`` in [0, 1]: what is `clear`, the transparent value if there is one, as white."""
    if picture.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(picture, np.float64)
        whitened = values if clear is None else np.where(values == clear, 65535, values)
        return _scaled(whitened / 65535, name, "integer values beyond 16 bits")
    if picture.mode == "F":
        return _scaled(np.asarray(picture, np.float64), name, "float values outside 0 to 1")
    if picture.mode in _ALPHA_MODES or clear is not None:
        picture = _over_white(picture, clear)
    picture = picture.convert("L" if grey else "RGB")
    pixels = np.asarray(picture, np.float32) / 255
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _scaled(plane: np.ndarray, name: str, trouble: str) -> np.ndarray:
    # NaN fails both comparisons, and is refused with the rest.
    if not (plane.min() >= 0 and plane.max() <= 1):
        raise ImageError(f"{name}: {trouble}; scale them first, or load it as an array and pass that")
    return plane[:, :, None]


def _over_white(picture: Image, clear: Any) -> Image:
    from PIL import Image

    if clear is not None:
        picture.info["transparency"] = clear
    layered = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), layered)


def _need(module: str, distribution: str, what: str) -> None:
    try:
        extra(module, "cli", what, distribution)
    except MissingExtraError as error:
        raise ImageError(str(error)) from None
