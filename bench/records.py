"""What the GPU benchmarks write and print: JSON named after the card, tables of plain text.

No library beside the standard one: this runs on machines that have little more than a GPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def result_path(folder: Path, kind: str, card: str) -> Path:
    """Name a result after its card: ``gpu_gate_nvidia_h200.json``."""
    name = re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_")
    return folder / f"{kind}_{name}.json"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write so that whoever reads at any time, or after a crash, finds a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(path)


def text_table(heading: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """Align columns: the first `left` to the left, numbers after them to the right."""
    lines = [[str(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]

    def aligned(line: list[str]) -> str:
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([aligned(lines[0]), "  ".join("-" * width for width in widths), *map(aligned, lines[1:])])


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the mean that ratios have; None of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None
