"""What an array is: which library made it, its dtype, and in which order its axes lie in memory."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np

from stridekit.arguments import shown
from stridekit.errors import BackendUnavailableError, DtypeError, LayoutError, ShapeError
from stridekit.memory.dtypes import DTYPES

Array: TypeAlias = Any
"""A NumPy or a CuPy array. CuPy is never imported to find out."""

MEMORY_ORDERS = ("channels_first", "channels_last")
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def library_of(name: str, array: Array) -> str:
    """Return ``"numpy"`` or ``"cupy"`` for the argument called `name`.

    Raises
    ------
    DtypeError
        For anything else; masked arrays are refused, since their mask would be lost.
    """
    if type(array) is np.ndarray:
        return "numpy"
    if isinstance(array, np.ma.MaskedArray):
        raise DtypeError(f"{name} is a masked array, whose mask a convolution would lose; use {name}.filled(value)")
    if isinstance(array, np.ndarray):
        return "numpy"
    if type(array).__module__.split(".")[0] == "cupy":
        return "cupy"
    kind = type(array)
    came = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = "" if array is None else f", such as numpy.asarray({name}, 'float32')"
    raise DtypeError(f"{name} is a {came}; wanted a NumPy array{hint}")


def shape_of(name: str, array: Array) -> tuple[int, ...]:
    """Return the shape of the array called `name`; what is no array is refused."""
    library_of(name, array)
    return tuple(array.shape)


def one_library_error(libraries: dict[str, str]) -> BackendUnavailableError:
    """Return the error for arguments of several libraries, by their names."""
    found = ", ".join(f"{name} is {library}'s" for name, library in libraries.items())
    return BackendUnavailableError(f"{found}; nothing is copied between them silently: use one library")


_OPTIONAL = ("bias", "residual", "out")


def one_library(arrays: dict[str, Array]) -> str:
    """Return the library that all arrays are of, by their names; those that are optional may be None."""
    libraries = {
        name: library_of(name, array) for name, array in arrays.items() if array is not None or name not in _OPTIONAL
    }
    if len(set(libraries.values())) > 1:
        raise one_library_error(libraries)
    return next(iter(libraries.values()))


def one_dtype(arrays: dict[str, Array]) -> str:
    """Return the dtype that two arrays have."""
    (first, one), (second, other) = arrays.items()
    dtype = dtype_name(first, one)
    if dtype_name(second, other) != dtype:
        raise DtypeError(f"{first} is {dtype} and {second} {other.dtype}; cast one: {second}.astype({first}.dtype)")
    return dtype


def plain(array: Array) -> Array:
    """View a NumPy subclass (a memory map, say) as a plain array: its memory, none of its behaviour."""
    return array.view(np.ndarray) if isinstance(array, np.ndarray) and type(array) is not np.ndarray else array


def dtype_name(name: str, array_or_dtype: Any) -> str:
    """Return the name of a supported dtype.

    Raises
    ------
    DtypeError
        Naming the cast that would help.
    """
    try:
        # numpy.float32, the class, has an attribute `dtype` that is none.
        of_array = not isinstance(array_or_dtype, type) and isinstance(getattr(array_or_dtype, "dtype", None), np.dtype)
        dtype = array_or_dtype.dtype if of_array else array_or_dtype
        if isinstance(dtype, str) and dtype in DTYPES:
            return str(dtype)
        if dtype is None:
            raise TypeError
        dtype = np.dtype(dtype)
    except Exception:
        raise DtypeError(f"{name} is {shown(array_or_dtype)}; wanted one of {', '.join(DTYPES)}") from None
    known = _supported_name(dtype)
    if known:
        return known
    if dtype.name in DTYPES:
        raise DtypeError(f"{name} has byte-swapped {dtype.name}; cast it: {name}.astype({dtype.name!r})")
    cure = f": {name}.astype('float32')" if of_array else ""
    raise DtypeError(f"{name} {'has dtype' if of_array else 'is'} {dtype}; wanted one of {', '.join(DTYPES)}{cure}")


@cache
def _supported_name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name) if dtype.name in DTYPES and dtype.isnative else ""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype called `name`, of an index too; bfloat16 comes from ml_dtypes."""
    return DTYPES[name].numpy if name in DTYPES else np.dtype(name)


def itemsize(name: str) -> int:
    """Bytes of one element, of an index too."""
    return DTYPES[name].nbytes if name in DTYPES else np.dtype(name).itemsize


def channels_last_layout(layout: str | None, rank: int) -> bool:
    """Say whether `layout` puts the channels last; None means channels first.

    Raises
    ------
    LayoutError
        For a layout that is not one of this rank's two.
    """
    if layout is None:
        return False
    first, last = LAYOUTS[rank]
    if not isinstance(layout, str) or layout not in (first, last):
        raise LayoutError(f"layout is {shown(layout)}; wanted {first!r} or {last!r} for {rank} spatial axes")
    return layout == last


def channels_first_shape(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Reorder a shape ``(N, *spatial, C)`` to ``(N, C, *spatial)``, or leave it."""
    return (shape[0], shape[-1], *shape[1:-1]) if channels_last else shape


def layout_shape(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Undo `channels_first_shape`."""
    return (shape[0], *shape[2:], shape[1]) if channels_last else shape


def channels_first_view(array: Array, channels_last: bool) -> Array:
    """View an array of any layout as ``(N, C, *spatial)``; nothing is copied."""
    if not channels_last:
        return array
    rank = array.ndim
    return array.transpose(0, rank - 1, *range(1, rank - 1))


def layout_view(array: Array, channels_last: bool) -> Array:
    """View an ``(N, C, *spatial)`` array in its public layout; nothing is copied."""
    if not channels_last:
        return array
    return array.transpose(0, *range(2, array.ndim), 1)


def over_pixels(flat: Array, shape: tuple[int, ...], order: str) -> Array:
    """View a flat array as ``(N, C, *spatial)``, with its channels outermost or innermost."""
    last = order == "channels_last"
    return channels_first_view(flat.reshape(layout_shape(shape, last)), last)


def memory_order(array: Array) -> str | None:
    """Return how an ``(N, C, *spatial)`` array lies: the channels outside the pixels, or inside.

    None where it is both, having one channel or one pixel, or nothing at all.
    """
    channels = array.shape[1]
    steps = [abs(step) for step, size in zip(array.strides[2:], array.shape[2:], strict=True) if size > 1]
    if channels == 1 or not steps or 0 in array.shape:
        return None
    return "channels_last" if abs(array.strides[1]) < min(steps) else "channels_first"


def memory_order_of(array: Array, channels_last: bool) -> str:
    """Return how an array of any layout lies in memory; where both orders fit, as the layout says."""
    return memory_order(channels_first_view(plain(array), channels_last)) or MEMORY_ORDERS[channels_last]


def check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise `ShapeError` unless `array` has exactly `shape`."""
    if tuple(array.shape) != shape:
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; wanted {shape}")


def check_axes(function: str, rank: int, x: Array, weight: Array | None = None) -> None:
    """Raise `ShapeError` unless x, and the weight of a convolution, have `rank` spatial axes and two more."""
    if x.ndim == rank + 2 and (weight is None or weight.ndim == rank + 2):
        return
    hint = "; add a batch axis: x[None]" if x.ndim == rank + 1 else ""
    other = "" if weight is None else f" and weight {weight.ndim} {tuple(weight.shape)}"
    each = "" if weight is None else " each"
    raise ShapeError(f"x has {x.ndim} axes {tuple(x.shape)}{other}; {function}{rank}d wants {rank + 2}{each}{hint}")


def address(array: Array) -> int:
    """Return where an array's first element lies, in its own memory."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def writeable(array: Array) -> bool:
    """Say whether an array can be written; CuPy's always can."""
    return bool(array.flags.writeable) if isinstance(array, np.ndarray) else True


def may_share_elements(array: Array) -> bool:
    """Say whether elements of one array can lie in the same memory: True unless its axes nest.

    Ordered by their steps, each axis must step over all that lies inside it; views and transposes of arrays do.
    """
    if array.size == 0:
        return False
    axes = sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True) if size > 1)
    extent = array.itemsize
    for step, size in axes:
        if step < extent:
            return True
        extent += step * (size - 1)
    return False


def check_out(out: Array, operands: dict[str, Array]) -> None:
    """Raise `LayoutError` unless `out` can be written without touching an operand or an element twice."""
    if not writeable(out):
        raise LayoutError("out is read-only; give an array that can be written")
    for name, operand in operands.items():
        if operand is not None and overlaps(out, operand):
            raise LayoutError(f"out overlaps {name} in memory; give out memory of its own")
    if may_share_elements(out):
        raise LayoutError(f"out has elements that share memory (strides {out.strides}); give an array of its own")


def same_place(array: Array, other: Array) -> bool:
    """Say whether two arrays are the same elements in the same order."""
    return other is not None and (address(array), array.strides, array.shape) == (
        address(other),
        other.strides,
        other.shape,
    )


def overlaps(a: Array, b: Array) -> bool:
    """Say whether two arrays of one memory share any of it; True where that is too costly to tell."""
    a, b = _on_paper(a), _on_paper(b)
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=10_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _on_paper(array: Array) -> np.ndarray:
    """Return a NumPy array at the same addresses, whatever memory they are of: to reason about, never to be read."""
    if isinstance(array, np.ndarray):
        return array
    described = {"data": (address(array), True), "shape": array.shape, "strides": array.strides, "version": 3}
    holder = type("Described", (), {"__array_interface__": {**described, "typestr": f"|V{array.itemsize}"}})
    return np.asarray(holder())
