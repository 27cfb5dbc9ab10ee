"""The command line: reads arguments, calls the library, prints."""

from __future__ import annotations

from stridekit.cli import network as network
from stridekit.cli.commands import app, run

__all__ = ["app", "run"]
