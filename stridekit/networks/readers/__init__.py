"""Networks as other people write them, read into drafts: TOML files, ONNX models, PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stridekit.errors import NetworkError
from stridekit.networks.layers import Layer


@dataclass(frozen=True)
class Draft:
    """What a reader has read: what `stridekit.networks.Network` is made of, before anybody knows whether it fits.

    Attributes
    ----------
    name, source : str
    layers : sequence of Layer
    outputs, output_names : sequence of str, optional
    parameters : mapping of array
        By ``"layer.name"``.
    placed : callable
        Takes what is wrong with the network, and returns it as wrong at a place in what was read.
    """

    name: str
    layers: Sequence[Layer]
    outputs: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    placed: Callable[[NetworkError], NetworkError] = lambda error: error
