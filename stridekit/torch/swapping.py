"""A model's convolutions handed to stridekit, and handed back: in place, each module staying the object it is."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from stridekit.errors import DtypeError, ShapeError
from stridekit.torch import modules
from stridekit.torch.functions import DTYPES

Model = TypeVar("Model", bound=Any)

_OURS = {
    nn.Conv1d: modules.Conv1d,
    nn.Conv2d: modules.Conv2d,
    nn.Conv3d: modules.Conv3d,
    nn.ConvTranspose1d: modules.ConvTranspose1d,
    nn.ConvTranspose2d: modules.ConvTranspose2d,
    nn.ConvTranspose3d: modules.ConvTranspose3d,
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def convert(model: Model) -> Model:
    """Have stridekit compute every convolution of a model.

    Modules are given another class, and so remain the same objects: parameters, buffers, hooks, names and the training
    flag stay, and whoever holds one (an optimizer, two places in the model) holds it still. Left alone are subclasses
    of PyTorch's modules, which may compute something else (parametrised ones too), and weights that are no floats.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        `model`.

    Examples
    --------
    >>> import torch, stridekit.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU())
    >>> stridekit.torch.converted(stridekit.torch.convert(model))
    ['0']
    >>> stridekit.torch.converted(stridekit.torch.revert(model))
    []
    """
    for module in _modules(model):
        if type(module) in _OURS and module.weight.dtype in DTYPES:
            module.__class__ = _OURS[type(module)]
    return model


def revert(model: Model) -> Model:
    """Undo `convert`: hand stridekit's modules back to PyTorch, in place.

    Raises
    ------
    ShapeError
        For a module that PyTorch cannot compute, ``"same"`` with a stride; nothing is changed then.
    """
    ours = [module for module in _modules(model) if type(module) in _THEIRS]
    for module in ours:
        if module.padding == "same" and max(module.stride) > 1:
            raise ShapeError(f"{module} has padding 'same' and a stride, which PyTorch does not take; set its padding")
    for module in ours:
        module.__class__ = _THEIRS[type(module)]
    return model


def converted(model: Any) -> list[str]:
    """Name the modules of a model that stridekit computes; one used twice is named once."""
    _modules(model)
    return [name for name, module in model.named_modules() if type(module) in _THEIRS]


def _modules(model: Any) -> list[Any]:
    if not isinstance(model, nn.Module):
        raise DtypeError(f"model is a {type(model).__qualname__}; wanted a torch.nn.Module")
    return list(model.modules())
