"""The command line: reads arguments, calls the library, prints."""

from __future__ import annotations

from stridekit.cli import network_command as _network_command  # noqa: F401  (its command registers itself)
from stridekit.cli.commands import app, run

__all__ = ["app", "run"]
