"""A comparison in a folder: its JSON and its pictures."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stridekit.arguments import printable
from stridekit.drawing.units import format_stride
from stridekit.extras import extra

if TYPE_CHECKING:
    from stridekit.compare.comparison import StrideComparison

JSON_NAME = "comparison.json"
_COSTS, _OVERVIEW, _ALTERNATIVES = "costs.png", "feature-maps.png", "alternatives.png"
_STRIDE_PICTURE = "feature-maps-stride-{}.png"


def file_names(strides: Sequence[Sequence[int]], *, alternatives: bool) -> tuple[str, ...]:
    """Return the names of the files of a comparison of these strides, the JSON first."""
    each = (_STRIDE_PICTURE.format(format_stride(tuple(stride))) for stride in strides)
    return (JSON_NAME, _COSTS, _OVERVIEW, *((_ALTERNATIVES,) if alternatives else ()), *each)


def written_before(directory: Path) -> frozenset[str]:
    """Return the names of the files that an earlier comparison wrote into `directory`, as its JSON tells."""
    try:
        content = json.loads((directory / JSON_NAME).read_text(encoding="utf-8"))
        if not isinstance(content["versions"]["stridekit"], str):
            return frozenset()
        strides = [[int(step) for step in row["stride"]] for row in content["rows"]]
        return frozenset(file_names(strides, alternatives=bool(content["alternatives"])))
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return frozenset()


def check_free(directory: Path, names: Sequence[str]) -> frozenset[str]:
    """Refuse to replace what no comparison wrote; return `written_before`.

    Raises
    ------
    FileExistsError
        Naming the file.
    """
    ours = written_before(directory)
    for name in names:
        if name not in ours and os.path.lexists(directory / name):
            raise FileExistsError(
                f"{printable(str(directory / name))} is there, and no {JSON_NAME} beside it says that a comparison "
                f"wrote it; move it, or give another folder"
            )
    return ours


def write_report(comparison: StrideComparison, directory: Path) -> tuple[Path, ...]:
    """Write a comparison's JSON and pictures into `directory`; see `StrideComparison.save`.

    All files are made in a folder beside the final one's files and renamed into place at the end, so a failure on the
    way leaves nothing half written. Pictures that only an earlier comparison had are removed.
    """
    extra("matplotlib", "cli", "StrideComparison.save")
    names = file_names([row.stride for row in comparison.rows], alternatives=bool(comparison.alternatives))
    earlier = check_free(directory, names)
    from stridekit.compare.pictures.alternatives import draw_alternatives
    from stridekit.compare.pictures.costs import draw_costs
    from stridekit.compare.pictures.feature_maps import draw_overview, draw_stride, looks_of

    looks = looks_of(comparison)
    figures = {_COSTS: draw_costs(comparison), _OVERVIEW: draw_overview(comparison, looks)}
    if comparison.alternatives:
        figures[_ALTERNATIVES] = draw_alternatives(comparison)
    for row in comparison.rows:
        figures[_STRIDE_PICTURE.format(format_stride(row.stride))] = draw_stride(comparison, row, looks)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=directory) as aside:
        Path(aside, JSON_NAME).write_text(comparison.to_json(), encoding="utf-8")
        with warnings.catch_warnings():
            # Of letters in a file's name that the font lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            for name, figure in figures.items():
                figure.savefig(Path(aside, name))
        for stale in earlier.difference(names):
            (directory / stale).unlink(missing_ok=True)
        for name in names:
            os.replace(Path(aside, name), directory / name)
    return tuple(directory / name for name in names)
