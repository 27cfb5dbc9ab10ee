"""Networks: layers in sequence, and what a stride does to those after it: receptive field, cost, memory."""

from __future__ import annotations

from pathlib import Path

from stridekit.arguments import as_path, printable
from stridekit.errors import NetworkError
from stridekit.networks.layers import Feature, Layer
from stridekit.networks.network import Network

__all__ = ["Feature", "Layer", "Network", "NetworkError", "load", "names"]

_PRESETS = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """Return the names of the networks that ship, which `load` takes."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def load(name: str | Path) -> Network:
    """Load a network that ships by its name, or a ``.toml`` or ``.onnx`` file.

    Parameters
    ----------
    name : str or path
        Such as ``"resnet50"``, ``"mine.toml"`` or ``"mine.onnx"``.

    Raises
    ------
    NetworkError
        Naming what there is, or the file, line and key that is wrong.

    Examples
    --------
    >>> load("resnet50").summary().parameters
    25557032
    """
    path = as_path("name", name, error=NetworkError)
    if path.suffix == ".onnx":
        return Network.from_onnx(path)
    if path.suffix == ".toml":
        return Network.from_toml(path)
    if str(path) not in names():
        ship = ", ".join(names())
        raise NetworkError(
            f"there is no network '{printable(str(path))}'; wanted a .toml or .onnx file, or one of {ship}"
        )
    return Network.from_toml(_PRESETS / f"{path}.toml")
