"""The command line: reads arguments, calls the library, prints."""

from __future__ import annotations

from stridekit.cli import networks as _networks  # noqa: F401  (its command registers itself)
from stridekit.cli.commands import app, run

__all__ = ["app", "run"]
