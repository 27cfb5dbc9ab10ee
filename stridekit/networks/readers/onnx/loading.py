"""Getting at an ONNX model: a file, its bytes, or a loaded one, checked; its inputs, and its weights as arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stridekit.arguments import as_int, as_path, is_int, items_of, printable, shown
from stridekit.errors import NetworkError, StridekitError
from stridekit.extras import extra
from stridekit.memory.dtypes import DTYPES
from stridekit.memory.files import open_regular
from stridekit.memory.limits import DEEPEST_BLOCKS, MADE_BYTES, MADE_SHARE, MOST_LAYERS, MOST_MODEL_BYTES, check_memory

if TYPE_CHECKING:
    from stridekit.networks.layers import InputSize

_CHECKABLE = 2**31 - 2**20
"""Bytes: a larger model cannot be serialised, which checking one in memory does."""


def load_model(model: Any) -> tuple[Any, str]:
    """Return the model, checked, its functions written out, and a name for it."""
    onnx = extra("onnx", "onnx", "Network.from_onnx")
    path = as_path("model", model, error=NetworkError) if isinstance(model, str | os.PathLike) else None
    what = "model" if path is None else printable(str(path))
    # Whatever onnx and protobuf raise for what is no model: they name no common class.
    try:
        if path is not None:
            found = _read(onnx, path)
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
            check_functions(found)
            from onnx import inliner

            found = inliner.inline_local_functions(found)
    except StridekitError:
        raise
    except OSError as error:
        other = str(error.filename or path) != str(path)
        if isinstance(error, FileNotFoundError) and not other:
            raise NetworkError(f"{what}: no such file") from None
        where = f"{printable(str(error.filename))}: " if other else ""
        raise NetworkError(f"{what}: cannot be read as ONNX: {where}{error.strerror or error}") from None
    except Exception as error:
        raise NetworkError(f"{what}: cannot be read as ONNX: {first_line(error)}") from None
    return found, (printable(path.stem) if path is not None else found.graph.name) or "model"


def _read(onnx: Any, path: Path) -> Any:
    """Return the model in a file, with the tensors of its graph that lie in other files."""
    from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

    with open_regular(path, most=MOST_MODEL_BYTES) as file:
        model = onnx.load(file, load_external_data=False)
    outside = [each for each in model.graph.initializer if each.data_location == each.EXTERNAL]
    outside += [
        each.t for node in model.graph.node for each in node.attribute if each.t.data_location == each.t.EXTERNAL
    ]
    total = 0
    for tensor in outside:
        info = ExternalDataInfo(tensor)
        with open_regular(path.parent / info.location) as file:
            held = os.fstat(file.fileno()).st_size
        total += held - int(info.offset or 0) if info.length is None else int(info.length)
        if int(info.offset or 0) + int(info.length or 0) > held:
            raise NetworkError(f"initializer {tensor.name!r} lies beyond the {held} bytes of {info.location}")
    check_memory(f"{path}, with its weights in other files,", total)
    for tensor in outside:
        load_external_data_for_tensor(tensor, str(path.parent))
    return model


def check_functions(model: Any) -> None:
    """Refuse functions that, written out, are too many nodes or bytes: 26 that call each other twice are 2**26.

    Counted from the functions that call none up, each once.
    """
    functions = {(each.domain, each.name): each for each in model.functions}
    known: dict[tuple[str, str], tuple[int, int]] = {}

    def sizes(nodes: Any, depth: int) -> tuple[int, int]:
        count = nbytes = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in functions and called not in known:
                if depth >= DEEPEST_BLOCKS:
                    raise NetworkError(
                        f"function {node.op_type!r} uses itself, or functions use each other more than "
                        f"{DEEPEST_BLOCKS} deep"
                    )
                known[called] = sizes(functions[called].node, depth + 1)
            inner = [known.get(called, (1, node.ByteSize()))]
            for attribute in node.attribute:
                graphs = ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
                inner += [sizes(graph.node, depth) for graph in graphs]
            count += sum(each for each, _ in inner)
            nbytes += sum(each for _, each in inner)
        return count, nbytes

    count, nbytes = sizes(model.graph.node, 0)
    written = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    if count > MOST_LAYERS + len(written):
        raise NetworkError(
            f"the functions of the model, written out, make {count} nodes of the {len(written)} that it has; at most "
            f"{MOST_LAYERS} more are made"
        )
    brought = sum(len(each.raw_data) for each in model.graph.initializer) + sum(node.ByteSize() for node in written)
    most = MADE_BYTES + MADE_SHARE * brought
    if nbytes > most:
        raise NetworkError(f"the functions of the model, written out, take {nbytes} bytes; at most {most} are made")


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
    if array.dtype.name not in DTYPES:
        raise NetworkError(f"{name} is {array.dtype.name}; wanted one of {', '.join(DTYPES)}")
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
