"""The ``stridekit`` command, and ``python -m stridekit``: says how to get the extra it needs, else runs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("typer", "rich", "matplotlib", "PIL")


def main() -> int:
    """Run the command line; return its exit status."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        print(f"stridekit: the command line needs {names}: pip install '.[cli]' in the clone", file=sys.stderr)
        return 2
    from stridekit.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
