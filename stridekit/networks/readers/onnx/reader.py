"""From the nodes of an ONNX graph, in order, to a draft of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stridekit.errors import NetworkError, StridekitError
from stridekit.networks.readers import Draft
from stridekit.networks.readers.onnx import constants
from stridekit.networks.readers.onnx.loading import array_of, first_line, input_shape, load_model
from stridekit.networks.readers.onnx.node import Node, place_of
from stridekit.networks.readers.onnx.vocabulary import OPERATORS
from stridekit.networks.readers.tracing import Constant, Tracer, Value

if TYPE_CHECKING:
    from stridekit.networks.layers import InputSize

_DOMAINS = ("", "ai.onnx")


def read_onnx(model: Any, input_size: InputSize = None) -> Draft:
    """Return the draft of an ONNX model, with its weights.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
    input_size : int, spatial sizes, or ``(C, *spatial)``, optional
        Of the first input, where the model leaves its sizes open.

    Raises
    ------
    NetworkError
        Naming the node and the operator, for one that is not known.
    MissingExtraError
        If onnx is not installed: ``pip install '.[onnx]'`` in the clone.
    """
    found, name = load_model(model)
    try:
        return _traced(found, name, input_size)
    except NetworkError:
        raise
    # A model passes the checker and still may be wrong in more ways than can be foreseen: none may end in a traceback
    # that names Python's lines and not the model's.
    except Exception as error:
        raise NetworkError(f"{name}: cannot be read: {type(error).__name__}: {first_line(error)}") from error


def _traced(model: Any, name: str, input_size: InputSize) -> Draft:
    graph = model.graph
    if graph.sparse_initializer:
        raise NetworkError("sparse initializers are not known")
    opset = next((each.version for each in model.opset_import if each.domain in _DOMAINS), 1)
    values: dict[str, Value] = {}
    for tensor in graph.initializer:
        values[tensor.name] = Constant(array_of(tensor), tensor.name, tensor.name)
    brought = sum(value.array.nbytes for value in values.values() if isinstance(value, Constant))
    given = [value for value in graph.input if value.name not in values]
    if not given:
        raise NetworkError("the model has no input")
    shapes = [input_shape(value, None if number else input_size) for number, value in enumerate(given)]
    if len({batch for batch, _ in shapes}) > 1:
        raise NetworkError(f"the inputs have batches {[batch for batch, _ in shapes]}; wanted one")
    tracer = Tracer(shapes[0][0], ties=False, brought=brought)
    for value, (_, size) in zip(given, shapes, strict=True):
        values[value.name] = tracer.input(value.name, size)
    for number, proto in enumerate(graph.node):
        _follow(proto, number, opset, tracer, values)
    outputs = [value.name for value in graph.output]
    return tracer.draft(name, [_output(each, values) for each in outputs], outputs)


def _follow(proto: Any, number: int, opset: int, tracer: Tracer, values: dict[str, Value]) -> None:
    """Put what a node gives among the values."""
    place = place_of(proto, number)
    tracer.at(place)
    if proto.domain not in _DOMAINS or (proto.op_type not in OPERATORS and proto.op_type not in constants.FOLDS):
        operator = proto.op_type if proto.domain in _DOMAINS else f"{proto.domain}.{proto.op_type}"
        # The place names the operator already, and an unknown one is worth a sentence.
        raise NetworkError(
            f"{place.text.split(' (')[0]}: operator {operator} is not known; known are {', '.join(sorted(OPERATORS))}"
        )
    node = Node(proto, [_input(name, values) for name in proto.input], opset, tracer)
    try:
        found: Value = constants.fold(node)
        if found is None and proto.op_type in OPERATORS:
            found = OPERATORS[proto.op_type](node)
        elif found is None:
            raise NetworkError("is known for constants alone")
        node.finish()
    except StridekitError as error:
        raise NetworkError(f"{place.text}: {error}") from None
    except Exception as error:
        raise NetworkError(f"{place.text}: cannot be read: {type(error).__name__}: {first_line(error)}") from error
    several = found if isinstance(found, tuple) else (found,)
    values.update({output: value for output, value in zip(proto.output, several, strict=False) if output})


def _input(name: str, values: dict[str, Value]) -> Value:
    if not name:
        return None
    if name not in values:
        raise NetworkError(f"reads {name!r}, which no node before it gives")
    return values[name]


def _output(name: str, values: dict[str, Value]) -> Value:
    if name not in values:
        raise NetworkError(f"the output {name!r} is given by no node")
    return values[name]
