"""Finding the line of a key in a network file: Python's TOML reader keeps none.

A scan by patterns, good enough to point a reader at the place: it takes a file that has been read as TOML already.
"""

from __future__ import annotations

import re

_SECTION = re.compile(r"^\s*\[{1,2}\s*([^\]\s]+)\s*\]{1,2}")
_OP = re.compile(r"(?<![\w.-])op\s*=")


def line_of(text: str, block: str | None, index: int | None, key: str | None) -> int:
    """Return the line, counted from 1.

    Parameters
    ----------
    text : str
        The file.
    block : str, optional
        Name of the block that the layer or key is in; None is the network itself.
    index : int, optional
        Which of its layers; None is the table itself.
    key : str, optional
        Where the line of the layer would not do.
    """
    lines = [_bare(line) for line in text.splitlines()]
    within = [number for number, section in enumerate(_sections(lines)) if section == block]
    if index is not None:
        starts = [number for number in within for _ in _OP.findall(lines[number])]
        if index >= len(starts):
            return within[0] + 1 if within else 1
        start = _first_of_layer(lines, starts[index])
        later = [number for number in starts[index + 1 :] if number > starts[index]]
        end = _first_of_layer(lines, later[0]) if later else len(lines)
        within = [number for number in within if start <= number < max(end, start + 1)]
    wanted = re.compile(rf"(?<![\w.-]){re.escape(key)}\s*=|\[\s*[\w.]*\b{re.escape(key)}\s*\]" if key else r"\S")
    for number in within:
        if wanted.search(lines[number]):
            return number + 1
    return within[0] + 1 if within else 1


def _sections(lines: list[str]) -> list[str | None]:
    """Return for each line the block that it is in."""
    found: list[str | None] = []
    block: str | None = None
    for line in lines:
        header = _SECTION.match(line)
        if header and "=" not in line:
            parts = header[1].replace('"', "").split(".")
            block = parts[1] if parts[0] == "blocks" and len(parts) > 1 else None
        found.append(block)
    return found


def _first_of_layer(lines: list[str], number: int) -> int:
    """Return the line on which the layer begins whose ``op`` is on `number`: that of its header, where it has one."""
    for before in range(number, -1, -1):
        if "{" in lines[before]:
            return number
        if _SECTION.match(lines[before]):
            return before
    return number


def _bare(line: str) -> str:
    """Return a line with what stands in strings and comments made blank."""
    emptied = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', lambda found: '"' + "_" * (len(found[0]) - 2) + '"', line)
    return emptied.split("#", 1)[0]
