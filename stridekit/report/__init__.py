"""A comparison on paper: tables for the terminal, pictures and JSON in a folder. It only shows what others measured."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stridekit.compare.units import format_stride

if TYPE_CHECKING:
    from stridekit.compare.comparison import StrideComparison

JSON_NAME = "comparison.json"
_ALTERNATIVES_PICTURE = "alternatives.png"
_STRIDE_PICTURE = "feature-maps-stride-{}.png"


def write_report(comparison: StrideComparison, directory: Path) -> tuple[Path, ...]:
    """Write a comparison's JSON and pictures into `directory`; see `StrideComparison.save`.

    All files are made in a folder beside the final one's files and renamed into place at the end, so a failure on the
    way leaves nothing half written. Pictures that only an earlier comparison had are removed.
    """
    from stridekit.report.alternatives import draw_alternatives
    from stridekit.report.feature_maps import draw_overview, draw_stride, looks_of
    from stridekit.report.figures import draw_costs

    looks = looks_of(comparison)
    figures = {"costs.png": draw_costs(comparison), "feature-maps.png": draw_overview(comparison, looks)}
    if comparison.alternatives:
        figures[_ALTERNATIVES_PICTURE] = draw_alternatives(comparison)
    for row in comparison.rows:
        figures[_STRIDE_PICTURE.format(format_stride(row.stride))] = draw_stride(comparison, row, looks)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=directory) as aside:
        Path(aside, JSON_NAME).write_text(comparison.to_json(), encoding="utf-8")
        for name, figure in figures.items():
            figure.savefig(Path(aside, name))
        names = (JSON_NAME, *figures)
        for stale in directory.glob(_STRIDE_PICTURE.format("*")):
            stale.unlink()
        (directory / _ALTERNATIVES_PICTURE).unlink(missing_ok=True)
        for name in names:
            os.replace(Path(aside, name), directory / name)
    return tuple(directory / name for name in names)
