"""Libraries that need not be installed: imported when they are wanted, and where they are missing, how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from stridekit.errors import MissingExtraError


def extra(module: str, of: str, what: str, called: str | None = None) -> Any:
    """Import a library of an extra.

    Parameters
    ----------
    module, of : str
        What is imported, and the extra of this package that brings it.
    what : str
        What needs it.
    called : str, optional
        What people call the library; by default as its module.

    Raises
    ------
    MissingExtraError
        Saying how to install it, or why it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module
        why = "" if missing else f", which cannot be imported ({' '.join(str(error).split())})"
        message = f"{what} needs {called or module}{why}: pip install '.[{of}]' in the clone"
        raise MissingExtraError(message, name=module) from None
