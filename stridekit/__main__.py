"""The ``stridekit`` command, and ``python -m stridekit``: says how to get the extra it needs, else runs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("typer", "rich", "matplotlib", "PIL")


def main() -> int:
    """Run the command line; return its exit status."""
    missing = [name for name in NEEDED if not _there(name)]
    why = ""
    if not missing:
        try:
            from stridekit.cli import run
        except ImportError as error:
            missing, why = [error.name or "its libraries"], f" ({' '.join(str(error).split())})"
    if missing:
        names = ", ".join(missing)
        print(f"stridekit: the command line needs {names}{why}: pip install '.[cli]' in the clone", file=sys.stderr)
        return 2
    return run(sys.argv[1:])


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # What hides a module may say so by either.
        return False


if __name__ == "__main__":
    sys.exit(main())
