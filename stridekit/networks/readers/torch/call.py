"""One call of an exported graph: its arguments by the names of its schema, constants as arrays, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stridekit.errors import NetworkError
from stridekit.memory.dtypes import DTYPES
from stridekit.networks.readers.tracing import Constant, Place, Tensor, Tracer, Value
from stridekit.networks.readers.tracing.values import Padded, Unfinished

_SAME_NUMBERS = frozenset(
    (
        *("t", "permute", "transpose", "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "expand"),
        *("alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "to", "_to_copy"),
    )
)
"""Functions that give a parameter's own numbers, in another order or shape."""


@dataclass(frozen=True)
class Held:
    """A parameter, a buffer or a constant: as a tensor, so that PyTorch can compute with it."""

    tensor: Any
    name: str = ""
    key: Hashable = None

    def constant(self) -> Constant:
        """Return it as an array."""
        return Constant(array_of(self.tensor), self.name, self.key)


class ExportedCall:
    """A call.

    Parameters
    ----------
    target : callable
        With a schema, if it is one of ATen's.
    args : sequence
    kwargs : dict
    tracer : Tracer
    """

    def __init__(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any], tracer: Tracer):
        self.target, self.args, self.kwargs, self.tracer = target, tuple(args), dict(kwargs), tracer
        schema = getattr(target, "_schema", None)
        self.name = target.__name__ if schema is None else schema.name.removeprefix("aten::")
        self._bound: dict[str, Any] = {}
        for number, argument in enumerate(() if schema is None else schema.arguments):
            given = argument.default_value if argument.has_default_value() else None
            given = self.args[number] if number < len(self.args) else self.kwargs.get(argument.name, given)
            self._bound[argument.name] = given

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    def __getitem__(self, name: str) -> Any:
        return _valued(self._bound[name])

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that not every variant has."""
        return _valued(self._bound.get(name, default))

    @property
    def first(self) -> Value:
        """The first argument, whatever it is called."""
        found: Value = _valued(self.args[0]) if self.args else None
        return found

    def sizes(self, name: str) -> Any:
        """Return sizes of each axis, or one of all where one is given."""
        found = self[name]
        if isinstance(found, str | int):
            return found
        return found[0] if len(found) == 1 else tuple(found)

    # What does not depend on the network's input.

    @property
    def folds(self) -> bool:
        """Whether all that is read is constant."""
        return not any(isinstance(value, Tensor | Padded | Unfinished) for value in _leaves((self.args, self.kwargs)))

    def folded(self) -> Any:
        """Return what PyTorch computes of constants."""
        import torch

        try:
            with torch.no_grad():
                found = self.target(*_tensors(self.args), **_tensors(self.kwargs))
        except Exception as error:  # whatever PyTorch raises, for instance for a constant without data
            raise NetworkError(f"cannot be computed: {type(error).__name__}: {error}") from None
        source = next((value for value in _leaves(self.args) if isinstance(value, Held)), None)
        keeps = source is not None and self.name in _SAME_NUMBERS
        return _held(found, source if keeps else None)


def place_of(node: Any, function: str, module: Any) -> Place:
    """Return where a node stands: in which module, and whether that is one that has no others in it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = re.sub(r"@\d+", "", str(stack[-1][0])) if stack else ""
    where = f", in module {path!r}" if path else ""
    try:
        whole = bool(path) and not any(True for _ in module.get_submodule(path).children())
    except AttributeError:
        whole = False
    return Place(f"node {node.name!r} ({function}{where})", path, whole)


def array_of(tensor: Any) -> np.ndarray:
    """Return a copy of a tensor, from whichever device."""
    try:
        own = tensor.detach().resolve_neg().resolve_conj().cpu().contiguous()
        dtype = DTYPES.get(str(own.dtype).removeprefix("torch."))
        if dtype is not None and not dtype.in_numpy:
            import torch

            return np.array(own.view(torch.int16).numpy()).view(dtype.numpy)
        return np.array(own.numpy())
    except Exception as error:  # a tensor on the meta device, of a dtype that NumPy lacks, or of none of the above
        raise NetworkError(f"a constant is no array: {type(error).__name__}: {error}") from None


def _valued(argument: Any) -> Any:
    if isinstance(argument, Held):
        return argument.constant()
    return [_valued(each) for each in argument] if isinstance(argument, list) else argument


def _leaves(argument: Any) -> list[Any]:
    if isinstance(argument, dict):
        argument = list(argument.values())
    if isinstance(argument, list | tuple):
        return [leaf for each in argument for leaf in _leaves(each)]
    return [argument]


def _tensors(argument: Any) -> Any:
    if isinstance(argument, Held):
        return argument.tensor
    if isinstance(argument, dict):
        return {name: _tensors(each) for name, each in argument.items()}
    return type(argument)(map(_tensors, argument)) if type(argument) in (list, tuple) else argument


def _held(found: Any, source: Held | None) -> Any:
    if isinstance(found, list | tuple):
        return tuple(_held(each, source) for each in found)
    if not hasattr(found, "detach"):
        return found
    return Held(found) if source is None else Held(found, source.name, source.key)
