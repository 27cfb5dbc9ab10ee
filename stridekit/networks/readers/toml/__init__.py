"""Network files: one line a layer."""

from __future__ import annotations

from stridekit.networks.readers.toml.reader import parse_toml, read_toml

__all__ = ["parse_toml", "read_toml"]
