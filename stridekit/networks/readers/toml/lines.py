"""Finding the line of a key in a network file, since Python's TOML reader keeps none; and what that reader cannot take.

A scan by patterns, good enough to point a reader at the place.
"""

from __future__ import annotations

import re

from stridekit.memory.limits import DEEPEST_TOML, LONGEST_NUMBER

_SECTION = re.compile(r"^\s*\[{1,2}\s*([^\]\s]+)\s*\]{1,2}")
_LIST = re.compile(r"(?<![\w.-])layers\s*=\s*\[")
_TABLE = re.compile(r"^\s*\[\[[^\]]*\blayers\s*\]\]")
_TOKEN = re.compile(
    r'''(?P<part>(?!"""|\'\'\')(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\w+-]+))'''
    r"""|(?P<dot>\.)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<blank>[ \t]+|#[^\n]*)"""
    r'''|(?P<long>"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5})|(?P<quote>["'])|(?P<other>[^\w"'.\[\]{}#+-])''',
    re.DOTALL,
)


def too_much(text: str) -> tuple[int, str]:
    """Return where and why a text nests deeper, or has longer keys and numbers, than its reader can take, or ``""``.

    Python's takes a line for each bracket within brackets out of its stack, time with the square of a key's parts, and
    no number of more than 4300 digits.
    """
    depth, parts = 0, 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        depth += (kind == "open") - (kind == "close")
        parts = parts + 1 if kind == "dot" else parts if kind in ("part", "blank") else 0
        trouble = ""
        if depth > DEEPEST_TOML:
            trouble = f"brackets lie more than {DEEPEST_TOML} deep"
        elif parts >= DEEPEST_TOML:
            trouble = f"a key has more than {DEEPEST_TOML} parts"
        elif kind == "part" and len(token[0]) > LONGEST_NUMBER and token[0][0] in "+-0123456789":
            trouble = f"a number has {len(token[0])} characters; at most {LONGEST_NUMBER} are read"
        if trouble:
            return text.count("\n", 0, token.start()) + 1, trouble
        if kind == "quote":
            # A string without an end: its reader says so.
            break
    return 0, ""


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
        found = _layers(lines, within)
        if index >= len(found):
            return within[0] + 1 if within else 1
        within = list(found[index])
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


def _layers(lines: list[str], within: list[int]) -> list[range]:
    """Return for each layer of a section its lines: from brace to brace, or from ``[[layers]]`` to the next header."""
    found: list[range] = []
    depth, start, listed = 0, 0, False
    for position, number in enumerate(within):
        if _TABLE.match(lines[number]):
            later = (other for other in within[position + 1 :] if _SECTION.match(lines[other]))
            found.append(range(number, next(later, within[-1] + 1)))
            continue
        opened = None if listed else _LIST.search(lines[number])
        listed = listed or opened is not None
        for character in lines[number][opened.end() if opened else 0 :] if listed else "":
            if character in "{[":
                start = number if depth == 0 else start
                depth += 1
            elif character in "}]":
                depth -= 1
                if depth < 0:
                    return found
                if depth == 0:
                    found.append(range(start, number + 1))
    return found


def _bare(line: str) -> str:
    """Return a line with what stands in strings and comments made blank."""
    emptied = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', lambda found: '"' + "_" * (len(found[0]) - 2) + '"', line)
    return emptied.split("#", 1)[0]
