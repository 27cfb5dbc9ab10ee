"""Exporting a module to a graph of ATen functions, and following the graph to a draft of a network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from stridekit.arguments import as_int, items_of, shown
from stridekit.errors import NetworkError, StridekitError
from stridekit.extras import extra
from stridekit.networks.readers import Draft
from stridekit.networks.readers.torch.call import ExportedCall, Held, place_of
from stridekit.networks.readers.torch.vocabulary import FUNCTIONS
from stridekit.networks.readers.tracing import Tracer


def read_torch(module: Any, input_size: Sequence[int]) -> Draft:
    """Return the draft of a ``torch.nn.Module``, with copies of its weights as NumPy arrays.

    The module is exported in evaluation mode, for a batch of one, in the dtype of its parameters, and left in the mode
    that it was in.

    Parameters
    ----------
    module : torch.nn.Module
    input_size : sequence of int
        ``(C, *spatial)`` of one sample.

    Raises
    ------
    NetworkError
        Naming the node, the function and the module, for one that is not known.
    MissingExtraError
        If PyTorch is not installed: ``pip install '.[torch]'`` in the clone.
    """
    torch = extra("torch", "torch", "Network.from_torch", "PyTorch")
    if not isinstance(module, torch.nn.Module):
        raise NetworkError(f"module is a {type(module).__name__}; wanted a torch.nn.Module")
    items = items_of(input_size) or ()
    sizes = tuple(as_int("input_size", size) for size in items)
    if not 1 <= len(sizes) <= 4 or min(sizes) < 1:
        raise NetworkError(f"input_size is {shown(input_size)}; wanted (C, *spatial), each at least 1")
    program = _exported(torch, module, sizes)
    specs = program.graph_signature.input_specs
    given = [spec.arg.name for spec in specs if spec.kind.name == "USER_INPUT"]
    values: dict[str, Any] = _constants(program, module)
    tracer = Tracer(1, ties=True)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in given:
            values[node.name] = tracer.input(node.name, sizes)
        elif node.op == "call_function":
            values[node.name] = _followed(torch, node, module, tracer, values)
        elif node.op != "placeholder" and node.op != "output":
            raise NetworkError(f"node {node.name!r}: {node.op} is not known")
    return tracer.draft(type(module).__name__, _outputs(program, values))


def _exported(torch: Any, module: Any, sizes: tuple[int, ...]) -> Any:
    """Return the exported program, functional: a tensor changed in place would not show in the graph."""
    first = next((each for each in module.parameters() if each.is_floating_point()), None)
    options = {"dtype": torch.float32} if first is None else {"dtype": first.dtype, "device": first.device}
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        # What PyTorch says of its own export concerns its own developers.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros((1, *sizes), **options)
            return torch.export.export(module, (example,), strict=False).run_decompositions({})
    except Exception as error:  # whatever the module's own code raises
        what = str(error).strip().split("\n", 1)[0]
        raise NetworkError(
            f"{type(module).__name__} does not export at {sizes}: {type(error).__name__}: {what}"
        ) from error
    finally:
        for each, training in modes.items():
            each.training = training


def _constants(program: Any, module: Any) -> dict[str, Any]:
    """Return parameters, buffers and constants by their placeholders, with one key for what is tied."""
    owned = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    names: dict[int, str] = {}
    for name, tensor in owned.items():
        names.setdefault(id(tensor), name)
    found: dict[str, Any] = {}
    for spec in program.graph_signature.input_specs:
        if spec.target is not None:
            tensor = owned.get(spec.target, program.constants.get(spec.target))
            found[spec.arg.name] = Held(tensor, names.get(id(tensor), spec.target), id(tensor))
    return found


def _followed(torch: Any, node: Any, module: Any, tracer: Tracer, values: dict[str, Any]) -> Any:
    """Return what a node gives."""
    function = str(node.target) if hasattr(node.target, "_schema") else node.target.__name__
    place = place_of(node, function, module)
    tracer.at(place)
    try:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda each: values[each.name])
        call = ExportedCall(node.target, args, kwargs, tracer)
        if call.folds:
            return call.folded()
        name = function.removeprefix("aten.").split(".")[0]
        if name not in FUNCTIONS:
            raise NetworkError(f"function {function} is not known; known are {', '.join(FUNCTIONS)}")
        return FUNCTIONS[name](call)
    except StridekitError as error:
        raise NetworkError(f"{place.text}: {error}") from None
    # An argument of a kind that was not foreseen: the node says more than a traceback would.
    except Exception as error:
        raise NetworkError(f"{place.text}: cannot be read: {type(error).__name__}: {error}") from error


def _outputs(program: Any, values: dict[str, Any]) -> list[Any]:
    found = []
    for spec in program.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            raise NetworkError(
                f"the module changes {spec.target or spec.arg.name} in evaluation mode; that is not known"
            )
        if hasattr(spec.arg, "name"):
            found.append(values[spec.arg.name])
    return [value for value in found if not isinstance(value, Held)] or found
