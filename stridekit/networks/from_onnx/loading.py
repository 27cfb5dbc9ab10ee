"""Getting at an ONNX model: a file, its bytes, or a loaded one, checked; its inputs, and its weights as arrays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from stridekit.arguments import as_int, as_path, is_int, items_of, printable, shown
from stridekit.errors import NetworkError
from stridekit.extras import extra

if TYPE_CHECKING:
    from stridekit.networks.layers import InputSize

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_CHECKABLE = 2**31 - 2**20
"""Bytes: a larger model cannot be serialised, which checking one in memory does."""


def load_model(model: Any) -> tuple[Any, str]:
    """Return the model, checked, its functions written out, and a name for it."""
    onnx = extra("onnx", "onnx", "Network.from_onnx")
    path = as_path("model", model, error=NetworkError) if isinstance(model, str | os.PathLike) else None
    what = "model" if path is None else printable(str(path))
    if path is not None and not path.is_file():
        raise NetworkError(f"{what}: no such file")
    # Whatever onnx and protobuf raise for what is no model: they name no common class.
    try:
        if path is not None:
            found = onnx.load(str(path))
        elif isinstance(model, bytes | bytearray | memoryview):
            found = onnx.load_model_from_string(bytes(model))
        elif isinstance(model, onnx.ModelProto):
            found = model
        else:
            raise NetworkError(f"model is a {type(model).__name__}; wanted a path, bytes or an onnx.ModelProto")
        for tensor in found.graph.initializer:
            _check_here(tensor)
        size = sum(len(tensor.raw_data) for tensor in found.graph.initializer)
        if size < _CHECKABLE:
            onnx.checker.check_model(found)
        if found.functions:
            from onnx import inliner

            found = inliner.inline_local_functions(found)
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(f"{what}: cannot be read as ONNX: {first_line(error)}") from None
    return found, (printable(path.stem) if path is not None else found.graph.name) or "model"


def array_of(tensor: Any) -> np.ndarray:
    """Return a TensorProto's numbers."""
    from onnx import numpy_helper

    _check_here(tensor)
    return np.asarray(numpy_helper.to_array(tensor))


def _check_here(tensor: Any) -> None:
    if tensor.data_location == tensor.EXTERNAL:
        raise NetworkError(
            f"initializer {tensor.name!r} lies in another file; give the model's path, or what onnx.load returns"
        )


def weight_of(array: np.ndarray, name: str) -> np.ndarray:
    """Return a weight's array if a network takes its dtype."""
    if array.dtype.name not in _DTYPES:
        raise NetworkError(f"{name} is {array.dtype.name}; wanted one of {', '.join(_DTYPES)}")
    return array


def input_shape(value: Any, input_size: InputSize) -> tuple[int, tuple[int, ...]]:
    """Return the batch and the shape of one sample of a graph's input; a batch that is left open is 1."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise NetworkError(f"input {value.name!r} has no shape; wanted (N, C, *spatial)")
    dims = value.type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]
    if not 2 <= len(sizes) <= 5:
        raise NetworkError(f"input {value.name!r} has {len(sizes)} axes; wanted (N, C, *spatial)")
    batch, channels, *spatial = sizes
    wanted = _wanted(input_size, channels, len(spatial))
    found = []
    for number, (size, asked) in enumerate(zip((channels, *spatial), wanted, strict=True)):
        if size is None and asked is None:
            axis = "channels" if number == 0 else f"size of spatial axis {number - 1}"
            raise NetworkError(
                f"input {value.name!r} leaves the {axis} open ({dims[1 + number].dim_param or '?'}); "
                "give from_onnx an input_size, such as (3, 224, 224)"
            )
        if size is not None and asked not in (None, size):
            raise NetworkError(
                f"input_size is {input_size}; the model fixes input {value.name!r} at "
                f"{tuple(size or '?' for size in (channels, *spatial))}, and resized() changes that afterwards"
            )
        found.append(size if asked is None else asked)
    return batch or 1, tuple(size for size in found if size is not None)


def _wanted(input_size: InputSize, channels: int | None, rank: int) -> tuple[int | None, ...]:
    if input_size is None:
        return (None,) * (rank + 1)
    items = (input_size,) * rank if is_int(input_size) else items_of(input_size) or ()
    given = tuple(as_int("input_size", size) for size in items)
    if len(given) not in (rank, rank + 1) or min(given, default=1) < 1:
        raise NetworkError(
            f"input_size is {shown(input_size)}; wanted {rank} spatial sizes of at least 1, the channels before or not"
        )
    return given if len(given) == rank + 1 else (channels, *given)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
